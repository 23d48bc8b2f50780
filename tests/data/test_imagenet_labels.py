"""ImageNet's flat val/: labels from the development kit, Kaggle's table or a list, and MATLAB's file format."""

import base64
import io
import struct
import tarfile
import zlib
from pathlib import Path

import pytest

from repro.data.imagenet_files import Expected, find
from repro.data.imagenet_labels import KIT, LISTS, META, SOLUTION, TRUTH
from repro.data.matlab import read_structures
from repro.errors import DataError

WNIDS = ["n00000010", "n00000020", "n00000030"]
IDS = {"n00000020": 1, "n00000030": 2, "n00000010": 3}  # not in the order of the names, as in the real kit
LABELS = ["n00000030", "n00000010", "n00000020", "n00000010"]  # of the validation images 1 to 4
EXPECTED = Expected(3, 3, 4)
# The compressed body that scipy 1.17's savemat wrote of a struct array with the fields ILSVRC2012_ID (1.0, 2.0, 3.0),
# WNID (n02119789, n02100735, n00001740), words, num_children (0, 0, 2) and children (empty, empty, [1.0, 2.0]).
SCIPY = base64.b64decode(
    "DwAAABgBAAB4nONjYGCIYGFgYAPSHEDMxAABrFA+MxAzQjE7EBdX5hWnlhQD5VkY+KDibkDs6RMcFuRsZGBoFO/pwhDuByTgoDy/KKUYzssrzY1P"
    "zsjMSSlKzWNgQLAgAGSmBQPCPWxo7mFEwiDACRWHgA/2IP0OSPpZsOjnRNIvAOXnGRgZGlqaW1giucODgDkSaOaA+NmZJQpp+RU6CmGlOQWpxQq5"
    "iclF+SWZxSDzDJDM4yTgLyYoC10ftvBgQAsPysORwYGScDQwMDc2RXIHIXP40MwB8V3z0nMyizMUgImtJLUIMxwGd/hxUBB+QGBobmKAwx3YzGFD"
    "MwfET80rySypJC/cmBgw4w2b/5nQ/C8A9/8HeyjDAQDivjUX")
FILE_HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"


# ---- a writer of MATLAB's format, from its description

def element(kind: int, data: bytes, small: bool = False) -> bytes:
    if small and 0 < len(data) <= 4:
        return struct.pack("<HH", kind, len(data)) + data.ljust(4, b"\0")
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(matrix_class: int, *parts: bytes, length: int = 1) -> bytes:
    return element(14, element(6, struct.pack("<II", matrix_class, 0)) + element(5, struct.pack("<ii", length, 1))
                   + element(1, b"") + b"".join(parts))


def meta(ids: dict[str, int], compressed: bool) -> bytes:
    """A meta.mat with `synsets`: ILSVRC2012_ID and WNID."""
    names = b"".join(name.ljust(32, b"\0") for name in (b"ILSVRC2012_ID", b"WNID"))
    values = b"".join(matrix(9, element(2, bytes([number]), small=True))
                      + matrix(4, element(4, wnid.encode("utf-16-le"))) for wnid, number in ids.items())
    array = matrix(2, element(5, struct.pack("<i", 32), small=True), element(1, names), values, length=len(ids))
    packed = zlib.compress(array)
    return FILE_HEADER + (struct.pack("<II", 15, len(packed)) + packed if compressed else array)


@pytest.mark.parametrize("compressed", [False, True])
def test_structures_are_read_from_a_matlab_file(compressed):
    assert read_structures(meta(IDS, compressed)) == [
        {"ILSVRC2012_ID": float(number), "WNID": wnid} for wnid, number in IDS.items()]


def test_a_file_of_scipy_is_read():
    rows = read_structures(FILE_HEADER + SCIPY)
    assert [row["WNID"] for row in rows] == ["n02119789", "n02100735", "n00001740"]
    assert [row["ILSVRC2012_ID"] for row in rows] == [1, 2, 3]
    assert [row["words"] for row in rows] == ["kit fox, Vulpes macrotis", "English setter", "entity"]
    assert [row["children"] for row in rows] == [None, None, 1]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_matlab_file_that_is_cut_anywhere_is_a_value_error_never_another_table(compressed):
    whole = meta(IDS, compressed)
    for length in range(0, len(whole), 3):
        with pytest.raises((ValueError, IndexError)):
            read_structures(whole[:length])


# ---- labels

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


def truth(labels: list[str] = LABELS) -> bytes:
    return "".join(f"{IDS[wnid]}\n" for wnid in labels).encode()


def archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{KIT}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


KAGGLE = "ImageId,PredictionString\n" + "".join(
    f"ILSVRC2012_val_{number:08d},{LABELS[number - 1]} 85 1 499 272 \n" for number in (3, 1, 4, 2))
FORMS = {
    "kit": {f"{KIT}/data/{TRUTH}": truth(), f"{KIT}/data/{META}": meta(IDS, True)},
    "kit's files": {TRUTH: truth(), META: meta(IDS, False)},
    "kit's archive": {f"{KIT}.tar.gz": archive({"readme.txt": b"", f"data/{META}": meta(IDS, True),
                                                f"data/{TRUTH}": truth()})},
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


def test_without_labels_all_accepted_forms_are_named(root):
    with pytest.raises(DataError) as caught:
        find(root, expected=EXPECTED)
    assert all(word in str(caught.value) for word in (KIT, TRUTH, META, SOLUTION, LISTS[0], str(root)))


@pytest.mark.parametrize(("labels", "words"), [
    (LABELS[:3], "has labels of 3 images, .* holds 4 of such a name; make both complete"),
    ([*LABELS, "n00000020"], r"has labels of 5 images, .* holds 4 .*there is no 00000005"),
])
def test_labels_of_another_number_than_images_are_refused(root, labels, words):
    put(root, {TRUTH: truth(labels), META: meta(IDS, True)})
    for wiring_test in (False, True):
        with pytest.raises(DataError, match=words):
            find(root, wiring_test, expected=EXPECTED)


def test_images_of_other_numbers_are_refused(root):
    put(root, FORMS["list"])
    (root / "val" / "ILSVRC2012_val_00000003.JPEG").rename(root / "val" / "ILSVRC2012_val_00000007.JPEG")
    with pytest.raises(DataError, match=r"holds 4 of such a name \(there is no 00000003\)"):
        find(root, expected=EXPECTED)
    (root / "val" / "ILSVRC2012_val_00000007.JPEG").rename(root / "val" / "cat.JPEG")
    with pytest.raises(DataError, match=r"holds 3 of .*1 bad: .*cat.JPEG \(not named as ImageNet's validation images"):
        find(root, expected=EXPECTED)


def test_a_file_of_another_name_beside_all_images_is_named(root):
    put(root, FORMS["list"] | {"val/cat.JPEG": b"x"})
    with pytest.raises(DataError, match=r"1 bad: .*cat.JPEG \(not named as ImageNet's validation images"):
        find(root, expected=EXPECTED)


def test_a_class_of_the_labels_that_has_no_training_images_is_named(root):
    put(root, {LISTS[0]: "\n".join([*LABELS[:3], "n00000099"]).encode()})
    with pytest.raises(DataError, match="class n00000099 only in"):
        find(root, expected=EXPECTED)


DAMAGED = {
    "a class that is not in the table": {TRUTH: b"1\n2\n3\n9\n", META: meta(IDS, True)},
    "letters": {TRUTH: b"1\n2\nx\n3\n", META: meta(IDS, True)},
    "a table that is cut": {TRUTH: truth(), META: meta(IDS, True)[:-20]},
    "no table": {TRUTH: truth(), META: b"<!DOCTYPE html>" * 20},
    "kaggle, an image twice": {SOLUTION: (KAGGLE + KAGGLE.splitlines()[1]).encode()},
    "kaggle, other columns": {SOLUTION: b"a,b\n1,2\n"},
    "kaggle, a short row": {SOLUTION: KAGGLE.encode()[:-35]},
    "no wnids": {LISTS[0]: b"cat\ndog\ncat\ndog\n"},
    "no text": {LISTS[0]: b"\xff\xfe"},
    "archive that is cut": {f"{KIT}.tar.gz": FORMS["kit's archive"][f"{KIT}.tar.gz"][:-100]},
    "archive of something else": {f"{KIT}.tar.gz": archive({"readme.txt": b"hello"})},
    "no archive": {f"{KIT}.tar.gz": b"<!DOCTYPE html>"},
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_labels_that_cant_be_read_are_a_data_error_that_names_the_file(root, damage):
    put(root, DAMAGED[damage])
    with pytest.raises(DataError) as caught:
        find(root, expected=EXPECTED)
    assert next(iter(DAMAGED[damage])).split("/")[-1] in str(caught.value)
    assert "\n" not in str(caught.value)
