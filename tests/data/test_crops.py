"""Image files of every kind as RGB, and crops of them against the plain way: resize the whole image, then crop."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms
from torchvision.datasets.folder import default_loader
from torchvision.transforms import functional

from repro.data.crops import center_crop, open_rgb, random_crop, resized
from repro.errors import ImageError

SAMPLES = Path(__file__).parents[2].parent / "shared" / "data" / "imagenet-sample" / "val"
HALF = 1 << 31


def noise(width: int, height: int, channels: int = 3) -> np.ndarray:
    """Pixels that change everywhere, so that a shift by one pixel is seen."""
    return np.random.default_rng(width * 7919 + height).integers(0, 256, (height, width, channels), dtype=np.uint8)


def is_the_same(first: np.ndarray, second: np.ndarray, by_two: float = 0.005) -> bool:
    """Whether two crops differ by rounding alone: by 1 gray level, and `by_two` of all values by 2 (photos: fewer)."""
    assert first.shape == second.shape
    difference = np.abs(first.astype(int) - second.astype(int))
    return bool(difference.max() <= 2 and (difference > 1).mean() <= by_two)


def saved(folder: Path, image: Image.Image, name: str, **options) -> Path:
    image.save(folder / name, **options)
    return folder / name


SIZES = [(500, 375), (375, 500), (225, 301), (97, 64), (1999, 1401), (33, 500), (256, 256), (640, 481)]


@pytest.mark.parametrize(("size", "shorter_side"), list(zip(SIZES, (224, 256, 333, 480) * 2, strict=True)))
def test_a_crop_is_that_of_the_whole_resized_image(size, shorter_side):
    picture = Image.fromarray(noise(*size))
    whole = np.asarray(transforms.Resize(shorter_side)(picture))
    height, width = whole.shape[:2]
    assert np.array_equal(resized(picture, shorter_side), whole)
    center = transforms.CenterCrop(224)(transforms.Resize(256)(picture))
    assert is_the_same(center_crop(picture, 256, 224), np.asarray(center))
    for top_bits, left_bits in [(0, 0), (HALF, HALF // 3), (2**32 - 1, 2**32 - 1)]:
        top, left = (top_bits * (height - 223)) >> 32, (left_bits * (width - 223)) >> 32
        expected = whole[top : top + 224, left : left + 224]
        assert is_the_same(random_crop(picture, shorter_side, top_bits, left_bits, False, 224), expected)
        assert is_the_same(random_crop(picture, shorter_side, top_bits, left_bits, True, 224), expected[:, ::-1])


def test_crops_of_photos_are_those_of_the_plain_way():
    if not SAMPLES.is_dir():
        pytest.skip("the sample images are not here")
    for number, path in enumerate(sorted(SAMPLES.glob("*/*"))[::16]):
        picture = open_rgb(path)
        image = Image.open(path).convert("RGB")
        side, bits = 256 + 20 * (number % 12), (number * 357_913_941) % 2**32
        whole = np.asarray(functional.resize(image, side))
        top, left = (bits * (whole.shape[0] - 223)) >> 32, (bits * (whole.shape[1] - 223)) >> 32
        assert is_the_same(random_crop(picture, side, bits, bits, False, 224),
                           whole[top : top + 224, left : left + 224], 2e-5)
        expected = functional.center_crop(functional.resize(image, 256), 224)
        assert is_the_same(center_crop(picture, 256, 224), np.asarray(expected), 2e-5)


def png16(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits each of red, green and blue, which Pillow does not write. pixels: (H, W, 3)."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)),
              (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(data)) + kind + data
                                           + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)


def pixels_of(path: Path) -> np.ndarray:
    picture = open_rgb(path)
    assert center_crop(picture, 256, 224).shape == (224, 224, 3)
    pixels = np.asarray(picture)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*picture.size[::-1], 3)
    return pixels


def test_gray_levels_and_cmyk_become_red_green_and_blue(tmp_path):
    gray = noise(40, 30, 1)[:, :, 0]
    found = pixels_of(saved(tmp_path, Image.fromarray(gray), "gray.png"))
    assert (found == gray[:, :, None]).all()
    assert set(np.unique(pixels_of(saved(tmp_path, Image.new("1", (9, 9), 1), "bits.png")))) == {255}
    path = saved(tmp_path, Image.new("CMYK", (30, 30), (0, 255, 255, 0)), "red.jpg", quality=100)
    assert (np.abs(pixels_of(path).astype(int) - [255, 0, 0]) < 16).all()


@pytest.mark.fault(59)
def test_of_16_bits_the_upper_8_count_in_gray_and_in_color(tmp_path):
    deep = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    path = saved(tmp_path, Image.fromarray(deep), "deep.png")
    assert (pixels_of(path) == (deep >> 8)[:, :, None]).all()
    assert np.asarray(default_loader(str(path))).mean() > 250 > 128 > pixels_of(path).mean(), "ImageFolder clips them"
    (tmp_path / "color.png").write_bytes(png16(np.stack([deep, deep[::-1], deep.T], axis=2)))
    assert (pixels_of(tmp_path / "color.png") == np.stack([deep, deep[::-1], deep.T], axis=2) >> 8).all()


def test_alpha_is_dropped_and_a_palette_looked_up(tmp_path):
    color = noise(20, 20)
    veiled = np.concatenate([color, np.zeros((20, 20, 1), np.uint8)], axis=2)
    assert np.array_equal(pixels_of(saved(tmp_path, Image.fromarray(veiled), "alpha.png")), color)
    palette = Image.new("P", (10, 10), 1)
    palette.putpalette([255, 0, 0, 10, 200, 30])
    assert (pixels_of(saved(tmp_path, palette, "one.png", transparency=1)) == [10, 200, 30]).all()


@pytest.mark.fault(59)
def test_a_rotation_noted_in_exif_is_not_applied_as_in_imagefolder(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, Image.fromarray(noise(60, 40)), "turned.jpg", exif=exif)
    picture, theirs = open_rgb(path), np.asarray(default_loader(str(path)))
    assert picture.size == (60, 40)
    assert (center_crop(picture, 40, 40) == theirs[:, 10:50]).all(), "evaluation"
    assert (random_crop(picture, 40, 0, 2**31, False, 40) == theirs[:, 10:50]).all(), "training"


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(noise(200, 150)).save(stream, kind)
    return stream.getvalue()


def bomb() -> bytes:
    """The beginning of a PNG of 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IDAT"


def tiff() -> bytes:
    stream = io.BytesIO()
    Image.new("F", (9, 9), 0.5).save(stream, "TIFF")
    return stream.getvalue()


DAMAGED = {
    "half.jpg": lambda: encoded("JPEG")[:4000], "end.jpg": lambda: encoded("JPEG")[:-50],
    "header.jpg": lambda: encoded("JPEG")[:100], "half.png": lambda: encoded("PNG")[:40_000],
    "flipped.png": lambda: encoded("PNG")[:3000] + b"\0\1\2\3" + encoded("PNG")[3004:],
    "text.JPEG": lambda: b"<html>404</html>", "empty.JPEG": lambda: b"", "bomb.png": bomb, "float.tiff": tiff,
    "nowhere.JPEG": None,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named(tmp_path, name):
    if DAMAGED[name] is not None:
        (tmp_path / name).write_bytes(DAMAGED[name]())
    with pytest.raises(ImageError, match=name) as caught:
        open_rgb(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (20_000, 3)])
def test_tiny_and_thin_images_give_crops(tmp_path, size):
    path = saved(tmp_path, Image.new("RGB", size, (10, 200, 30)), "thin.png")
    picture = open_rgb(path)
    for crop in (center_crop(picture, 256, 224), random_crop(picture, 480, 2**32 - 1, HALF, True, 224)):
        assert crop.shape == (224, 224, 3)
        assert (crop == [10, 200, 30]).all()
