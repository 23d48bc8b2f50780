"""Image files as 8-bit RGB, and crops of them as if the whole image had been resized first. Never imports torch.

Only the part that a crop shows is resized: it differs from the same crop of the whole resized image by rounding alone,
by 1 gray level of 255, in photos for fewer than 1 value in 50,000 by 2 (tests/data/test_crops.py). Choice: no reduced
decoding of JPEGs (`Image.draft`), which is faster for large files but another filter.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from repro.errors import ImageError
from repro.paths import display_path

BILINEAR, MIRROR = Image.Resampling.BILINEAR, Image.Transpose.FLIP_LEFT_RIGHT


def open_rgb(path: Path) -> Image.Image:
    """Decode a file of any kind that Pillow reads. ImageError (DataError) naming it if it is missing or damaged."""
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            return as_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # what Pillow raises for damaged files depends on their kind: SyntaxError, ValueError...
        reason = "this is no image" if isinstance(error, UnidentifiedImageError) else getattr(error, "strerror", None)
        raise ImageError(f"{display_path(path)}: {reason or f'the image is damaged: {error}'}") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """Pillow's image decoded and in mode RGB. ValueError for 32-bit samples, whose range nothing tells.

    Of 16-bit samples the upper 8 bits count. Choice: as torchvision's ImageFolder does, alpha is dropped, and a
    rotation noted in EXIF and color profiles are not applied.
    """
    image.load()
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # so in Pillow before 12
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"samples of mode {image.mode}, whose range is not known")
    return image.convert("RGB")


def resized_size(image: Image.Image, shorter_side: int) -> tuple[int, int]:
    """Width and height after a resize to this shorter side, as torchvision's Resize computes them."""
    width, height = image.size
    if width <= height:
        return shorter_side, int(shorter_side * height / width)
    return int(shorter_side * width / height), shorter_side


def resized(image: Image.Image, shorter_side: int) -> np.ndarray:
    """The whole image with this shorter side: uint8 (H, W, 3), Pillow's bilinear filter with antialiasing."""
    return np.array(image.resize(resized_size(image, shorter_side), BILINEAR))


def center_crop(image: Image.Image, shorter_side: int, size: int) -> np.ndarray:
    """The center (size, size, 3) uint8 of the image resized to this shorter side, which is at least `size`."""
    width, height = resized_size(image, shorter_side)
    left, top = round((width - size) / 2), round((height - size) / 2)  # halves to even, as torchvision's CenterCrop
    return np.array(window(image, (width, height), left, top, size))


def random_crop(image: Image.Image, shorter_side: int, top_bits: int, left_bits: int, flip: bool,
                size: int) -> np.ndarray:
    """A crop (size, size, 3) uint8 of the image resized to this shorter side, at least `size` (Sec. 3.4).

    32 random bits each choose the rows and columns; every offset is as likely as any other to 1 part in 2^32 / offsets.
    """
    width, height = resized_size(image, shorter_side)
    left, top = (left_bits * (width - size + 1)) >> 32, (top_bits * (height - size + 1)) >> 32
    crop = window(image, (width, height), left, top, size)
    return np.array(crop.transpose(MIRROR) if flip else crop)


def window(image: Image.Image, whole: tuple[int, int], left: int, top: int, size: int) -> Image.Image:
    """The square at (left, top) of the image resized to `whole` (width, height)."""
    across, down = image.size[0] / whole[0], image.size[1] / whole[1]
    right, bottom = min((left + size) * across, image.size[0]), min((top + size) * down, image.size[1])
    return image.resize((size, size), BILINEAR, (left * across, top * down, right, bottom))
