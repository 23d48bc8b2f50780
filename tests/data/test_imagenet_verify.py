"""`repro data verify imagenet`: every image is opened; bad ones are named, kinds are counted."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repro.data.imagenet_files import Expected
from repro.data.imagenet_verify import verify
from repro.errors import DataError
from tests.conftest import SHARED
from tests.outcome import says


def picture(mode: str = "RGB", kind: str = "JPEG", size: int = 224) -> bytes:
    """An image file of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(out, kind)
    return out.getvalue()


@pytest.fixture
def root(tmp_path) -> Path:
    """train/ of 2 classes and val/ of the same; a name does not tell what kind of image it is, as in ImageNet."""
    for name, data in {"train/a/1.JPEG": picture(), "train/a/2.JPEG": picture("L"), "train/b/1.JPEG": picture("CMYK"),
                       "train/b/2.JPEG": picture("RGB", "PNG"), "val/a/1.JPEG": picture("RGBA", "PNG"),
                       "val/b/1.JPEG": picture("L", "JPEG", 223)}.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(data)
    return tmp_path / "set"


def test_a_whole_set_is_counted_by_kind(direct, root):
    (root / "val" / ".DS_Store").touch()
    outcome = direct("data", "verify", "imagenet", f"data.root={root}", "data.wiring_test=true")
    assert outcome.code == 0
    for words in ("set: 4 images in set/train and 2 images in set/val, 2 classes, fingerprint ",
                  "2 grayscale, 1 CMYK, 1 of other colors than RGB, 2 not JPEG, 1 with a shorter side under 224",
                  "all 6 images can be read"):
        assert words in outcome.out
    assert outcome.err == ""


@pytest.mark.fault(16)
def test_damaged_images_are_named_and_counted(direct, root):
    cut = root / "train" / "b" / "1.JPEG"
    cut.write_bytes(cut.read_bytes()[:-2000])
    (root / "val" / "a" / "1.JPEG").write_bytes(b"<!DOCTYPE html>")
    outcome = direct("data", "verify", "imagenet", f"data.root={root}", "data.wiring_test=true")
    says(outcome, 3, "2 of 6 images can't be read", "set/train/b/1.JPEG: ", "set/val/a/1.JPEG: ", "archives")
    assert "all 6 images" not in outcome.out
    assert "2 grayscale, 0 CMYK" in outcome.out


@pytest.mark.fault(16)
def test_the_first_of_many_damaged_images_are_named(root):
    for number in range(200):
        (root / "train" / "a" / f"x{number:03d}.JPEG").write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        verify(root, True)
    message = str(caught.value)
    assert "200 of 206 images can't be read" in message
    assert "and 190 more" in message
    assert "x009.JPEG" in message
    assert "x010.JPEG" not in message
    assert "\n" not in message


def test_what_find_refuses_is_refused_before_anything_is_opened(direct, root):
    says(direct("data", "verify", "imagenet", f"data.root={root}"), 3, "2 classes in", "expected 1,000", "1,281,167")
    (root / "train" / "a" / "1.JPEG").write_bytes(b"")
    outcome = direct("data", "verify", "imagenet", str(root), "data.wiring_test=true")
    says(outcome, 3, "1 bad: ", "train/a/1.JPEG (empty file)")
    assert outcome.out == ""
    says(direct("data", "verify", "imagenet", "data.root=nowhere"), 3, "no such folder", "ILSVRC2012_img_train.tar")


def test_the_protocol_is_the_default(root, caplog):
    for part in ("train", "val"):
        for letter, wnid in (("a", "n00000001"), ("b", "n00000002")):
            (root / part / letter).rename(root / part / wnid)
    verify(root, False, Expected(2, 4, 2))
    assert "wiring" not in caplog.text


def test_repro_data_path_tells_the_folder(direct, tmp_path):
    assert direct("data", "path", "imagenet", f"data.root={tmp_path}").out == f"{tmp_path}\n"


def test_the_sample_images_can_all_be_read(direct):
    folder = SHARED / "data" / "imagenet-sample"
    if not folder.is_dir():
        pytest.skip("the sample images are not beside the checkout")
    outcome = direct("data", "verify", "imagenet", f"data.root={folder}", "data.wiring_test=true")
    assert outcome.code == 0
    assert "one folder for both sets, a wiring test" in outcome.out
    assert "all 200 images can be read" in outcome.out
