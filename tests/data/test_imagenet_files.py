"""ImageNet's folders: what is listed in which order, and what each fault of a set is answered with."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.datasets import ImageFolder

from repro.data import imagenet_files
from repro.data.imagenet_files import OFFICIAL, Expected, find
from repro.errors import DataError, StorageError
from tests.conftest import SHARED

WNIDS = ("n00000010", "n00000020", "n00000030")
SMALL = Expected(3, 6, 3)


def fill(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode())


@pytest.fixture
def root(tmp_path) -> Path:
    """A set of 3 classes with 2 training images and 1 validation image each; no file is a real image."""
    for wnid in reversed(WNIDS):
        fill(tmp_path / "set" / "train" / wnid, [f"{wnid}_2.JPEG", f"{wnid}_1.JPEG"])
        fill(tmp_path / "set" / "val" / wnid, [f"ILSVRC2012_val_{wnid}.JPEG"])
    return tmp_path / "set"


def fault(root: Path, *words: str, wiring_test: bool = False, expected: Expected = SMALL) -> str:
    """Assert that `find` raises DataError with these words; returns the message, which is one line."""
    with pytest.raises(DataError) as caught:
        find(root, wiring_test, expected=expected)
    message = str(caught.value)
    assert not [word for word in words if word not in message], message
    assert "\n" not in message
    assert "data.root=FOLDER" in message
    return message


# ---- what is found

@pytest.mark.fault(77)
def test_val_alone_is_enough_where_nothing_is_taken_from_the_training_images(root):
    whole = find(root, expected=SMALL)
    shutil.rmtree(root / "train")
    found = find(root, expected=SMALL, val_alone=True)
    assert found.wnids == WNIDS
    assert (found.val.names.tolist(), found.val.labels.tolist()) == (whole.val.names.tolist(), [0, 1, 2])
    assert (len(found.train), found.one_folder) == (0, False)
    assert found.fingerprint != whole.fingerprint
    fault(root, "train/ missing")
    (root / "val" / WNIDS[0] / f"ILSVRC2012_val_{WNIDS[0]}.JPEG").unlink()
    with pytest.raises(DataError, match=r"1 bad: .*\(no images\)"):
        find(root, expected=SMALL, val_alone=True)


def test_images_are_sorted_by_class_and_name_and_labeled_by_the_place_of_the_wnid(root):
    found = find(root, expected=SMALL)
    assert found.wnids == WNIDS
    assert found.train.names.tolist() == [f"{w}/{w}_{k}.JPEG".encode() for w in WNIDS for k in (1, 2)]
    assert found.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.val.labels.tolist() == [0, 1, 2]
    assert found.train.labels.dtype == np.int64
    assert found.train.path(3) == root / "train" / WNIDS[1] / f"{WNIDS[1]}_2.JPEG"
    assert (len(found.train), len(found.val), found.one_folder) == (6, 3, False)
    assert pickle.loads(pickle.dumps(found.train)).path(3) == found.train.path(3)


def test_the_protocol_demands_the_published_numbers(root):
    fault(root, "3 classes in", "expected 1,000", "6 good images in", "expected 1,281,167", "3 good images",
          "expected 50,000", "data.wiring_test=true", expected=OFFICIAL)


def test_the_fingerprint_follows_names_sizes_and_labels_but_not_the_place(root, tmp_path):
    first = find(root, expected=SMALL).fingerprint
    moved = root.rename(tmp_path / "elsewhere")
    assert find(moved, expected=SMALL).fingerprint == first
    image = moved / "train" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG"
    image.write_bytes(image.read_bytes() + b"!")
    longer = find(moved, expected=SMALL).fingerprint
    image.rename(image.with_name("renamed.JPEG"))
    renamed = find(moved, expected=SMALL).fingerprint
    for part in ("train", "val"):
        (moved / part / WNIDS[2]).rename(moved / part / "n00000001")
    relabeled = find(moved, expected=SMALL).fingerprint
    assert len({first, longer, renamed, relabeled}) == 4
    assert len(first) == 64


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12),
                unique=True, min_size=1, max_size=8))
def test_any_name_is_found_again(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("names") / "a"
    fill(folder, [f"x{name}.png" for name in names])
    images = find(folder.parent, wiring_test=True).train
    assert {images.path(i) for i in range(len(images))} == {folder / f"x{name}.png" for name in names}
    assert images.names.tolist() == sorted(images.names.tolist())


def test_a_name_that_is_no_text_is_found_too(tmp_path):
    (tmp_path / "set" / "a").mkdir(parents=True)
    path = os.path.join(os.fsencode(tmp_path), b"set", b"a", b"\xff\xfe.png")
    with open(path, "wb") as file:
        file.write(b"x")
    assert os.fsencode(find(tmp_path / "set", wiring_test=True).train.path(0)) == path


def test_links_are_followed(root, tmp_path):
    plain = find(root, expected=SMALL)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "val").symlink_to(root / "val")
    for wnid in WNIDS:
        (tmp_path / "links" / "train").mkdir(exist_ok=True)
        (tmp_path / "links" / "train" / wnid).symlink_to(root / "train" / wnid)
    image = root / "train" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG"
    image.rename(root / "kept.JPEG")
    image.symlink_to(root / "kept.JPEG")
    assert find(tmp_path / "links", expected=SMALL).fingerprint == plain.fingerprint


def test_hidden_files_and_others_than_images_are_passed_over(root):
    plain = find(root, expected=SMALL)
    for folder in (root / "train", root / "train" / WNIDS[0], root / "val" / WNIDS[1]):
        fill(folder, [".DS_Store", f"._{WNIDS[0]}_1.JPEG", "notes.txt"])
    (root / "train" / ".cache").mkdir()
    assert find(root, expected=SMALL).fingerprint == plain.fingerprint


def test_no_file_is_opened(root, as_user):
    for path in root.rglob("*.JPEG"):
        path.chmod(0)
    assert len(find(root, expected=SMALL).train) == 6


def test_the_order_and_the_labels_are_those_of_imagefolder(root):
    fill(root / "train" / WNIDS[0], ["b.jpg", "A.png", "_.JPEG"])
    samples = ImageFolder(root / "train").samples
    found = find(root, wiring_test=True).train
    assert [(str(found.path(k)), int(found.labels[k])) for k in range(len(found))] == samples


def test_a_long_scan_says_how_far_it_is(root, monkeypatch, caplog):
    monkeypatch.setattr(imagenet_files, "SAY_SECONDS", 0)
    find(root, expected=SMALL)
    assert len(caplog.messages) == 6
    assert "train: 4 images in 2 of 3 folders" in caplog.messages[1]
    monkeypatch.setattr(imagenet_files, "SAY_SECONDS", 60)
    caplog.clear()
    find(root, expected=SMALL)
    assert caplog.messages == []


# ---- wiring tests

@pytest.mark.parametrize("only", ["train", "val", ""])
def test_a_wiring_test_may_have_one_folder_for_both_sets(root, tmp_path, only):
    folder = root / "train"
    if only:
        (tmp_path / "one").mkdir()
        folder = folder.rename(tmp_path / "one" / only)
    found = find(tmp_path / "one" if only else folder, wiring_test=True)
    assert found.one_folder
    assert found.train.root == found.val.root == folder
    assert len(found.val) == 6
    assert found.wnids == WNIDS


def test_a_wiring_test_takes_any_number_and_names_of_classes_and_two_sets_where_there_are_two(root):
    fill(root / "train" / "cats", ["a.png"])
    found = find(root, wiring_test=True)
    assert not found.one_folder
    assert found.wnids == ("cats", *WNIDS)
    assert found.val.labels.tolist() == [1, 2, 3]


def test_a_wiring_test_still_wants_whole_images(root):
    (root / "train" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG").write_bytes(b"")
    message = fault(root, "1 bad", f"{WNIDS[0]}_1.JPEG (empty file)", wiring_test=True)
    assert "data.wiring_test" not in message


def test_the_sample_images_are_found():
    folder = SHARED / "data" / "imagenet-sample"
    if not folder.is_dir():
        pytest.skip("the sample images are not beside the checkout")
    found = find(folder, wiring_test=True)
    assert (len(found.train), len(found.wnids), found.one_folder) == (200, 200, True)


# ---- faults

def test_no_folder_says_where_what_and_how(tmp_path):
    message = fault(tmp_path / "nowhere", str(tmp_path / "nowhere"), "no such folder", "ILSVRC2012_img_train.tar",
                    "image-net.org", "train/<wnid>/", "REPRO_DATA")
    assert message.startswith("ImageNet is not in")
    fault(tmp_path / "nowhere", "no such folder", wiring_test=True)


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_missing_set_is_named(root, tmp_path, missing):
    (root / missing).rename(tmp_path / "away")
    assert f"{missing}/ missing; get" in fault(root)


def test_a_root_with_the_classes_themselves_is_pointed_to_the_folder_above(root):
    fault(root / "train", "train/ and val/ missing", "name the folder above")


def test_archives_and_kaggles_folders_get_a_hint(tmp_path):
    fill(tmp_path / "a", ["ILSVRC2012_img_val.tar"])
    fault(tmp_path / "a", "(ILSVRC2012_img_val.tar must be unpacked)")
    (tmp_path / "b" / "ILSVRC" / "Data" / "CLS-LOC").mkdir(parents=True)
    fault(tmp_path / "b", "b/ILSVRC/Data/CLS-LOC", "LOC_val_solution.csv")


def test_a_set_without_folders_is_named(root, tmp_path):
    (root / "train").rename(tmp_path / "away")
    (root / "train").mkdir()
    with pytest.raises(DataError, match="train holds no folders of classes"):
        find(root, expected=SMALL)


@pytest.mark.fault(16)
def test_999_classes_are_not_1000(tmp_path):
    for number in range(999):
        for part in ("train", "val"):
            fill(tmp_path / part / f"n{number:08d}", ["a.JPEG"])
    message = fault(tmp_path, "999 classes in", "train, expected 1,000", "val, expected 1,000",
                    expected=Expected(1000, 999, 999))
    assert "good images" not in message
    for part in ("train", "val"):
        fill(tmp_path / part / "n00000999", ["a.JPEG"])
    assert len(find(tmp_path, expected=Expected(1000, 1000, 1000)).wnids) == 1000


def test_classes_in_one_set_only_are_named(root):
    (root / "val" / WNIDS[1]).rename(root / "val" / "n00000099")
    fault(root, "class n00000099 only in", f"class {WNIDS[1]} only in")
    fault(root, "class n00000099 only in", wiring_test=True)


def test_a_lacking_image_is_counted(root):
    (root / "train" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG").unlink()
    assert "train, expected 6" in fault(root, "5 good images in")


def test_a_folder_that_is_no_class_is_named(root):
    for part in ("train", "val"):
        (root / part / WNIDS[2]).rename(root / part / "zebra")
    fault(root, "class zebra in", "not a wnid such as n01440764")


BAD = {
    "empty": ("n00000010/n00000010_1.JPEG (empty file)", lambda folder: (folder / "n00000010_1.JPEG").write_bytes(b"")),
    "dangling": ("n00000010/a.JPEG (a link to nothing)", lambda folder: (folder / "a.JPEG").symlink_to("nothing")),
    "circle": ("n00000010/a.JPEG (a link to nothing)", lambda folder: (folder / "a.JPEG").symlink_to("a.JPEG")),
    "pipe": ("n00000010/a.JPEG (no file)", lambda folder: os.mkfifo(folder / "a.JPEG")),
    "no images": ("train/n00000040 (no images)", lambda folder: (folder.parent / "n00000040").mkdir()),
}


@pytest.mark.fault(16)
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_named_with_its_reason(root, kind):
    words, spoil = BAD[kind]
    spoil(root / "train" / WNIDS[0])
    fault(root, "1 bad: ", words)
    fault(root, "1 bad: ", words, wiring_test=True)


@pytest.mark.fault(16)
def test_the_first_bad_files_are_named_and_all_are_counted(root):
    folder = root / "train" / WNIDS[1]
    for number in reversed(range(25)):
        (folder / f"empty{number:02d}.JPEG").touch()
    (root / "train" / WNIDS[0] / "empty99.JPEG").touch()
    message = fault(root, "26 bad: ", "and 16 more")
    places = [message.index(f"empty{number}.JPEG") for number in ("99", "00", "01", "08")]
    assert places == sorted(places)
    assert "empty09" not in message


@pytest.mark.fault(16)
@pytest.mark.parametrize("closed", ["", "train", f"train/{WNIDS[0]}"])
def test_a_folder_that_cant_be_read_is_a_storage_error(open_folder, as_user, closed):
    for part in ("train", "val"):
        for wnid in WNIDS:
            fill(open_folder / "set" / part / wnid, ["a.JPEG"])
    folder = open_folder / "set" / closed
    folder.chmod(0)
    with as_user(), pytest.raises(StorageError, match=f"can't read .*{closed}.*Permission denied") as caught:
        find(open_folder / "set", expected=Expected(3, 3, 3))
    assert caught.value.exit_code == 5
    folder.chmod(0o755)
    with as_user():
        assert len(find(open_folder / "set", expected=Expected(3, 3, 3)).train) == 3
