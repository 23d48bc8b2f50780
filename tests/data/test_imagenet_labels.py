"""ImageNet's flat val/: labels from Kaggle's table or a list."""

from pathlib import Path

import pytest

from repro.data.imagenet_files import Expected, find
from repro.data.imagenet_labels import LISTS, SOLUTION
from repro.errors import DataError

WNIDS = ["n00000010", "n00000020", "n00000030"]
LABELS = ["n00000030", "n00000010", "n00000020", "n00000010"]  # of the validation images 1 to 4
EXPECTED = Expected(3, 3, 4)


@pytest.fixture
def root(tmp_path) -> Path:
    """A set with one training image of each class and 4 flat validation images; its labels are to be added."""
    for wnid in WNIDS:
        (tmp_path / "train" / wnid).mkdir(parents=True)
        (tmp_path / "train" / wnid / "a.JPEG").write_bytes(b"x")
    (tmp_path / "val").mkdir()
    for number in (4, 2, 1, 3):
        (tmp_path / "val" / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(b"x" * number)
    return tmp_path


KAGGLE = "ImageId,PredictionString\n" + "".join(
    f"ILSVRC2012_val_{number:08d},{LABELS[number - 1]} 85 1 499 272 \n" for number in (3, 1, 4, 2))
FORMS = {
    "kaggle": {SOLUTION: KAGGLE.encode()},
    "kaggle, with a byte order mark": {SOLUTION: b"\xef\xbb\xbf" + KAGGLE.encode()},
    "list": {LISTS[0]: "\n".join(LABELS).encode()},
    "the other list": {LISTS[1]: ("\r\n".join(LABELS) + "\r\n").encode()},
}


def put(root: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


@pytest.mark.fault(60)
@pytest.mark.parametrize("form", FORMS)
def test_flat_validation_images_get_their_labels_from_any_published_form(root, form):
    put(root, FORMS[form])
    found = find(root, expected=EXPECTED)
    assert found.val.labels.tolist() == [0, 0, 1, 2]
    assert [name[-13:] for name in found.val.names.tolist()] == [b"00000002.JPEG", b"00000004.JPEG", b"00000003.JPEG",
                                                                 b"00000001.JPEG"]
    assert found.val.path(0) == root / "val" / "ILSVRC2012_val_00000002.JPEG"
    other = root / "val" / "ILSVRC2012_val_00000001.JPEG"
    other.write_bytes(b"longer")
    assert find(root, expected=EXPECTED).fingerprint != found.fingerprint


def test_a_bad_file_of_a_flat_set_and_only_it_is_named(root):
    put(root, FORMS["list"] | {"val/cat.JPEG": b"x", "val/ILSVRC2012_val_00000003.JPEG": b""})
    with pytest.raises(DataError, match=r": 3 good images in .*; 1 bad: .*00000003.JPEG \(empty file\)\."):
        find(root, expected=EXPECTED)


def test_without_labels_all_accepted_forms_are_named(root):
    with pytest.raises(DataError) as caught:
        find(root, expected=EXPECTED)
    assert all(word in str(caught.value) for word in (SOLUTION, LISTS[0], str(root)))


@pytest.mark.parametrize(("labels", "words"), [
    (LABELS[:3], "has labels of 3 images, .* holds 4 of such a name; make both complete"),
    ([*LABELS, "n00000020"], r"has labels of 5 images, .* holds 4 .*there is no 00000005"),
])
def test_labels_of_another_number_than_images_are_refused(root, labels, words):
    put(root, {LISTS[0]: "\n".join(labels).encode()})
    for wiring_test in (False, True):
        with pytest.raises(DataError, match=words):
            find(root, wiring_test, expected=EXPECTED)


def test_images_of_other_numbers_are_refused(root):
    put(root, FORMS["list"])
    (root / "val" / "ILSVRC2012_val_00000003.JPEG").rename(root / "val" / "ILSVRC2012_val_00000007.JPEG")
    with pytest.raises(DataError, match=r"holds 4 of such a name \(there is no 00000003\)"):
        find(root, expected=EXPECTED)


def test_a_class_of_the_labels_that_has_no_training_images_is_named(root):
    put(root, {LISTS[0]: "\n".join([*LABELS[:3], "n00000099"]).encode()})
    with pytest.raises(DataError, match="class n00000099 only in"):
        find(root, expected=EXPECTED)


DAMAGED = {
    "kaggle, an image twice": {SOLUTION: (KAGGLE + KAGGLE.splitlines()[1]).encode()},
    "kaggle, other columns": {SOLUTION: b"a,b\n1,2\n"},
    "kaggle, a short row": {SOLUTION: KAGGLE.encode()[:-35]},
    "no wnids": {LISTS[0]: b"cat\ndog\ncat\ndog\n"},
    "no text": {LISTS[0]: b"\xff\xfe"},
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_labels_that_cant_be_read_are_a_data_error_that_names_the_file(root, damage):
    put(root, DAMAGED[damage])
    with pytest.raises(DataError) as caught:
        find(root, expected=EXPECTED)
    assert next(iter(DAMAGED[damage])).split("/")[-1] in str(caught.value)
    assert "\n" not in str(caught.value)
