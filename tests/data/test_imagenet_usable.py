"""What is left of ImageNet under data.on_bad=skip: counts against the protocol, both sets, flat val/, fingerprints."""

from pathlib import Path

import pytest

from repro.config import compose
from repro.data.imagenet_files import Expected, find
from repro.data.imagenet_labels import LISTS
from repro.data.imagenet_usable import usable
from repro.errors import DataError
from tests.made_images import make_folder, wnid

WHOLE = Expected(2, 12, 6)


@pytest.fixture
def root(tmp_path) -> Path:
    """train/ and val/ of 2 classes with 6 and 3 images each."""
    make_folder(tmp_path / "set" / "train", 2, 6)
    make_folder(tmp_path / "set" / "val", 2, 3, seed=1)
    return tmp_path / "set"


def left(root: Path, expected: Expected = WHOLE, *words: str):
    said: list[str] = []
    config = compose(["experiment=imagenet_optB", "data.on_bad=skip", f"data.root={root}", *words])
    return usable(config, said.append, expected=expected), said


def spoil(root: Path) -> None:
    """Two bad training images, one bad validation image, and a file that was never one."""
    (root / "train" / wnid(1) / "3.JPEG").write_bytes(b"")
    (root / "train" / wnid(2) / "0.JPEG").write_bytes(b"no image")
    (root / "val" / wnid(2) / "1.JPEG").write_bytes(b"no image")
    (root / "train" / wnid(1) / "notes.txt").write_bytes(b"x")


@pytest.mark.fault(16)
def test_both_sets_lose_their_bad_images_and_keep_order_and_labels(root):
    whole = find(root, expected=WHOLE)
    spoil(root)
    found, said = left(root)
    gone = {f"{wnid(1)}/3.JPEG".encode(), f"{wnid(2)}/0.JPEG".encode()}
    assert found.train.names.tolist() == [name for name in whole.train.names.tolist() if name not in gone]
    assert found.train.labels.tolist() == [0] * 5 + [1] * 5
    assert found.val.labels.tolist() == [0, 0, 0, 1, 1]
    assert (found.left_out["train"], found.left_out["val"]) == (3, 1)
    assert found.left_out["first"] == [
        f"train/{wnid(1)}/3.JPEG (empty file)", f"train/{wnid(1)}/notes.txt (not an image file by its name)",
        f"train/{wnid(2)}/0.JPEG (this is no image)", f"val/{wnid(2)}/1.JPEG (this is no image)"]
    assert "3 beside 10 images" in said[-1]
    assert "1 beside 5 images" in said[-1]
    assert len(left(root)[1]) == 1, "the second time nothing is opened"


@pytest.mark.fault(16)
@pytest.mark.parametrize("expected", [Expected(2, 13, 6), Expected(2, 11, 6), Expected(2, 12, 7), Expected(3, 12, 6)])
def test_as_many_images_may_lack_as_are_left_out_and_no_more(root, expected):
    spoil(root)
    with pytest.raises(DataError, match="expected"):
        left(root, expected)
    with pytest.raises(DataError, match="expected"):
        left(root, expected, "data.wiring_test=false")
    assert left(root, expected, "data.wiring_test=true")[0].left_out["train"] == 3, "the control: no protocol, no count"


@pytest.mark.fault(16)
def test_the_fingerprint_follows_what_is_left_out(root):
    whole = find(root, expected=WHOLE).fingerprint
    assert left(root)[0].fingerprint == whole
    spoil(root)
    first = left(root)[0].fingerprint
    (root / "val" / wnid(1) / "0.JPEG").write_bytes(b"no image")
    assert len({whole, first, left(root)[0].fingerprint}) == 3


@pytest.mark.fault(16)
def test_a_bad_image_of_a_flat_val_is_left_out_with_its_label(root):
    names = [root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 7)]
    for path, name in zip(sorted((root / "val").glob("*/*")), names, strict=True):
        path.rename(name)
    for number in (1, 2):
        (root / "val" / wnid(number)).rmdir()
    (root / LISTS[0]).write_text("".join(f"{wnid(1 + number % 2)}\n" for number in range(6)))
    assert left(root)[0].val.labels.tolist() == [0, 0, 0, 1, 1, 1]
    names[1].write_bytes(b"")
    names[4].write_bytes(b"no image")
    found, _ = left(root)
    assert found.val.labels.tolist() == [0, 0, 1, 1]
    assert [name[-6:] for name in found.val.names.tolist()] == [b"1.JPEG", b"3.JPEG", b"4.JPEG", b"6.JPEG"]
    assert found.left_out["val"] == 2
