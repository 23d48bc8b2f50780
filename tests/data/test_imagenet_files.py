"""ImageNet's folders: what is listed in which order, labels of a flat val/, and how each fault of a set is answered."""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from repro.data.imagenet_files import LISTS, OFFICIAL, SOLUTION, find
from repro.errors import DataError, StorageError
from tests.outcome import says

WNIDS = ("n00000010", "n00000020", "n00000030")
SMALL = (3, 6, 3)


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


def fault(root: Path, *words: str, wiring_test: bool = False, expected: tuple[int, int, int] = SMALL) -> str:
    """Assert that `find` raises DataError with these words; returns the message, which is one line."""
    with pytest.raises(DataError) as caught:
        find(root, wiring_test, expected=expected)
    message = str(caught.value)
    assert not [word for word in words if word not in message], message
    assert "\n" not in message
    return message


# ---- what is found

def test_images_are_sorted_by_class_and_name_and_labeled_by_the_place_of_the_wnid(root):
    found = find(root, expected=SMALL)
    assert found.wnids == WNIDS
    assert found.train.names.tolist() == [f"{w}/{w}_{k}.JPEG".encode() for w in WNIDS for k in (1, 2)]
    assert found.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.val.labels.tolist() == [0, 1, 2]
    assert found.train.labels.dtype == np.int64
    assert found.train.path(3) == root / "train" / WNIDS[1] / f"{WNIDS[1]}_2.JPEG"
    assert (len(found.train), len(found.val), found.one_folder) == (6, 3, False)


@pytest.mark.fault(77)
def test_val_alone_is_enough_where_nothing_is_taken_from_the_training_images(root):
    whole = find(root, expected=SMALL)
    shutil.rmtree(root / "train")
    found = find(root, expected=SMALL, val_alone=True)
    assert found.wnids == WNIDS
    assert (found.val.names.tolist(), found.val.labels.tolist()) == (whole.val.names.tolist(), [0, 1, 2])
    assert (len(found.train), found.one_folder) == (0, False)
    fault(root, "train/ missing")
    (root / "val" / WNIDS[0] / f"ILSVRC2012_val_{WNIDS[0]}.JPEG").unlink()
    with pytest.raises(DataError, match=f"1 bad .*{WNIDS[0]}"):
        find(root, expected=SMALL, val_alone=True)


def test_the_fingerprint_follows_names_sizes_and_labels_but_not_the_place(root, tmp_path):
    first = find(root, expected=SMALL).fingerprint
    assert first.startswith("2371d498e3a55c26"), "it is in the records of runs"
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


def test_links_are_followed_odd_names_found_hidden_files_and_others_passed_over(root, tmp_path):
    odd = os.path.join(os.fsencode(root), b"train", WNIDS[2].encode(), b"\xff\xfe \n.png")  # no text
    os.rename(root / "train" / WNIDS[2] / f"{WNIDS[2]}_2.JPEG", odd)
    plain = find(root, expected=SMALL)
    assert os.fsencode(plain.train.path(5)) == odd
    (tmp_path / "links" / "train").mkdir(parents=True)
    (tmp_path / "links" / "val").symlink_to(root / "val")
    for wnid in WNIDS:
        (tmp_path / "links" / "train" / wnid).symlink_to(root / "train" / wnid)
    image = root / "train" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG"
    image.rename(root / "kept.JPEG")
    image.symlink_to(root / "kept.JPEG")
    for folder in (root / "train", root / "train" / WNIDS[0], root / "val" / WNIDS[1]):
        fill(folder, [".DS_Store", f"._{WNIDS[0]}_1.JPEG", "notes.txt"])
    (root / "train" / ".cache").mkdir()
    assert find(tmp_path / "links", expected=SMALL).fingerprint == plain.fingerprint


def test_the_order_and_the_labels_are_those_of_imagefolder(root):
    fill(root / "train" / WNIDS[0], ["b.jpg", "A.png", "_.JPEG"])
    fill(root / "train" / WNIDS[1] / "deeper", ["c.jpg"])
    samples = ImageFolder(root / "train").samples
    found = find(root, wiring_test=True).train
    assert [(str(found.path(k)), int(found.labels[k])) for k in range(len(found))] == samples


# ---- wiring tests

@pytest.mark.parametrize("only", ["train", "val", ""])
def test_a_wiring_test_may_have_one_folder_for_both_sets(root, tmp_path, only):
    (tmp_path / "one").mkdir()
    folder = (root / "train").rename(tmp_path / "one" / (only or "any"))
    found = find(folder if not only else tmp_path / "one", wiring_test=True)
    assert (found.one_folder, found.train.root, found.val.root) == (True, folder, folder)
    assert (len(found.val), found.wnids) == (6, WNIDS)


def test_a_wiring_test_takes_any_number_and_names_of_classes_and_two_sets_where_there_are_two(root):
    fill(root / "train" / "cats", ["a.png"])
    found = find(root, wiring_test=True)
    assert not found.one_folder
    assert found.wnids == ("cats", *WNIDS)
    assert found.val.labels.tolist() == [1, 2, 3]


# ---- a flat val/

LABELS = ["n00000030", "n00000010", "n00000020", "n00000010"]  # of the validation images 1 to 4
FLAT = (3, 6, 4)
KAGGLE = "ImageId,PredictionString\n" + "".join(
    f"ILSVRC2012_val_{number:08d},{LABELS[number - 1]} 85 1 499 272 \n" for number in (3, 1, 4, 2))
FORMS = {
    "kaggle": (SOLUTION, KAGGLE.encode()),
    "kaggle, with a byte order mark": (SOLUTION, b"\xef\xbb\xbf" + KAGGLE.encode()),
    "list": (LISTS[0], "\n".join(LABELS).encode()),
    "the other list": (LISTS[1], ("\r\n".join(LABELS) + "\r\n").encode()),
}
DAMAGED = {
    "none": ("readme", b""),
    "kaggle, an image lacks": (SOLUTION, KAGGLE.replace("00000001", "00000009").encode()),
    "kaggle, other columns": (SOLUTION, b"a,b\n1,2\n"),
    "kaggle, a short row": (SOLUTION, KAGGLE.encode()[:-35]),
    "no text": (LISTS[0], b"\xff\xfe"),
}


@pytest.fixture
def flat(root) -> Path:
    shutil.rmtree(root / "val")
    (root / "val").mkdir()
    for number in (4, 2, 1, 3):
        (root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(b"x" * number)
    return root


@pytest.mark.fault(60)
@pytest.mark.parametrize("form", FORMS)
def test_flat_validation_images_get_their_labels_from_any_published_form(flat, form):
    name, content = FORMS[form]
    (flat / name).write_bytes(content)
    found = find(flat, expected=FLAT)
    assert found.val.labels.tolist() == [0, 0, 1, 2]
    assert [int(name[15:23]) for name in found.val.names.tolist()] == [2, 4, 3, 1]
    assert found.val.path(0) == flat / "val" / "ILSVRC2012_val_00000002.JPEG"


def test_bad_and_lacking_files_of_a_flat_set_are_named(flat):
    (flat / LISTS[0]).write_text("\n".join([*LABELS, "n00000020"]))
    (flat / "val" / "ILSVRC2012_val_00000003.JPEG").write_bytes(b"")
    fault(flat, "3 good images in 3 classes in", "expected 4 in 3", "2 bad ", "00000003.JPEG",
          "00000005.JPEG", expected=FLAT)
    (flat / LISTS[0]).write_text("\n".join([*LABELS[:3], "n00000099"]))
    fault(flat, "classes in one set only: n00000099", expected=FLAT)


@pytest.mark.parametrize("damage", DAMAGED)
def test_labels_that_cant_be_read_are_a_data_error_that_names_the_file(flat, damage):
    name, content = DAMAGED[damage]
    (flat / name).write_bytes(content)
    fault(flat, SOLUTION if name == "readme" else name, LISTS[0], expected=FLAT)


# ---- faults

@pytest.mark.fault(16)
def test_no_folder_or_set_says_where_what_and_how(root, tmp_path):
    for wiring_test in (False, True):
        fault(tmp_path / "nowhere", f"ImageNet is not in {tmp_path / 'nowhere'}: there is no such folder",
              "ILSVRC2012_img_train.tar", "image-net.org", "train/<wnid>/", "REPRO_DATA", wiring_test=wiring_test)
    fault(root / "train", "train/ and val/ missing")
    (root / "val").rename(tmp_path / "away")
    fault(root, ": val/ missing; get")
    (root / "val").mkdir()
    fault(root, "val holds no folders of classes", LISTS[0])


@pytest.mark.fault(16)
def test_other_numbers_than_the_published_ones_are_named(root):
    fault(root, "6 good images in 3 classes in", "expected 1,281,167 in 1,000", "3 good images in 3 classes in",
          "expected 50,000 in 1,000", "data.wiring_test=true", expected=OFFICIAL)
    (root / "train" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG").unlink()
    assert "val, expected" not in fault(root, "5 good images in 3 classes in", "train, expected 6 in 3")


@pytest.mark.fault(16)
def test_classes_in_one_set_only_are_named(root):
    (root / "val" / WNIDS[1]).rename(root / "val" / "n00000099")
    fault(root, f"classes in one set only: {WNIDS[1]}, n00000099")
    fault(root, "classes in one set only: n00000099.", wiring_test=True)


BAD = {
    "empty": ("n00000010/n00000010_1.JPEG", lambda folder: (folder / "n00000010_1.JPEG").write_bytes(b"")),
    "dangling": ("n00000010/a.JPEG", lambda folder: (folder / "a.JPEG").symlink_to("nothing")),
    "circle": ("n00000010/a.JPEG", lambda folder: (folder / "a.JPEG").symlink_to("a.JPEG")),
    "pipe": ("n00000010/a.JPEG", lambda folder: os.mkfifo(folder / "a.JPEG")),
    "no images": ("train/n00000040", lambda folder: (folder.parent / "n00000040").mkdir()),
}


@pytest.mark.fault(16)
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_named_with_its_reason(root, kind):
    words, spoil = BAD[kind]
    spoil(root / "train" / WNIDS[0])
    fault(root, "1 bad ", words)
    assert "data.wiring_test" not in fault(root, "1 bad ", words, wiring_test=True)


@pytest.mark.fault(16)
def test_the_first_bad_files_are_named_and_all_are_counted(root):
    for number in reversed(range(25)):
        (root / "train" / WNIDS[1] / f"empty{number:02d}.JPEG").touch()
    (root / "train" / WNIDS[0] / "empty99.JPEG").touch()
    message = fault(root, "26 bad ", "and 16 more")
    places = [message.index(f"empty{number}.JPEG") for number in ("99", "00", "01", "08")]
    assert places == sorted(places)
    assert "empty09" not in message


@pytest.mark.fault(16)
@pytest.mark.parametrize("closed", ["", "train", f"train/{WNIDS[0]}"])
def test_a_folder_that_cant_be_read_is_a_storage_error(open_folder, as_user, closed):
    for part in ("train", "val"):
        for wnid in WNIDS:
            fill(open_folder / "set" / part / wnid, ["a.JPEG"])
    (open_folder / "set" / closed).chmod(0)
    with as_user(), pytest.raises(StorageError, match=f"can't read .*{closed}.*Permission denied") as caught:
        find(open_folder / "set", expected=(3, 3, 3))
    assert caught.value.exit_code == 5


# ---- verify: every image is opened

def picture(mode: str = "RGB", kind: str = "JPEG") -> bytes:
    """An image file of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(out, kind)
    return out.getvalue()


@pytest.fixture
def images(tmp_path) -> Path:
    """train/ of 2 classes and val/ of the same; a name does not tell what kind of image it is, as in ImageNet."""
    for name, data in {"train/n00000001/1.JPEG": picture(), "train/n00000001/2.JPEG": picture("L"),
                       "train/n00000002/1.JPEG": picture("CMYK"), "train/n00000002/2.JPEG": picture("RGB", "PNG"),
                       "val/n00000001/1.JPEG": picture("RGBA", "PNG"), "val/n00000002/1.JPEG": picture()}.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(data)
    return tmp_path / "set"


@pytest.mark.fault(16)
def test_verify_opens_every_image_and_counts_and_names_the_damaged_ones(direct, images):
    words = "data", "verify", "imagenet", f"data.root={images}", "data.wiring_test=true"
    says(direct(*words[:-1]), 3, "in 2 classes", "1,281,167 in 1,000")
    outcome = direct(*words)
    assert (outcome.code, outcome.err) == (0, "")
    assert "set: 4 images in set/train and 2 images in set/val, 2 classes, fingerprint " in outcome.out
    assert "all 6 images can be read" in outcome.out
    cut = images / "train" / "n00000002" / "1.JPEG"
    cut.write_bytes(cut.read_bytes()[:-2000])
    (images / "val" / "n00000001" / "1.JPEG").write_bytes(b"<!DOCTYPE html>")
    says(direct(*words), 3, "2 of 6 images can't be read", "set/train/n00000002/1.JPEG: ",
         "set/val/n00000001/1.JPEG: ", "archives")
    for number in range(200):
        (images / "train" / "n00000001" / f"x{number:03d}.JPEG").write_bytes(b"no image")
    says(direct(*words), 3, "202 of 206 images can't be read", "x009.JPEG", "and 192 more")
    (images / "train" / "n00000001" / "1.JPEG").write_bytes(b"")
    outcome = direct(*words)
    says(outcome, 3, "1 bad ", "train/n00000001/1.JPEG")
    assert outcome.out == "", "nothing was opened"
