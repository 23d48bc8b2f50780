"""Image files as 8-bit RGB, and crops of them as if the whole image had been resized first. Never imports torch.

Only the part that a crop shows is resized: it differs from the same crop of the whole resized image by rounding alone,
by 1 gray level of 255, in photos for fewer than 1 value in 50,000 by 2 (tests/data/test_crops.py). Choice: no reduced
decoding of JPEGs (`Image.draft`), which is faster for large files but another filter.
"""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from repro.errors import DataError, ImageError
from repro.paths import display_path

MOST_PIXELS = 178_956_970  # of a decoded or resized image; Pillow refuses larger files as decompression bombs
BITS = 32  # of a random draw
BILINEAR, MIRROR = Image.Resampling.BILINEAR, Image.Transpose.FLIP_LEFT_RIGHT


class Picture(NamedTuple):
    """One decoded image in mode RGB; `path` is for messages."""

    path: Path
    image: Image.Image


def open_rgb(path: Path) -> Picture:
    """Decode a file of any kind that Pillow reads. ImageError (DataError) naming it if it is missing or damaged.

    Of 16-bit samples the upper 8 bits count. Choice: as torchvision's ImageFolder does, alpha is dropped, and a
    rotation noted in EXIF and color profiles are not applied.
    """
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            return Picture(path, as_rgb(image))
    except MemoryError:
        raise
    except Exception as error:  # what Pillow raises for damaged files depends on their kind: SyntaxError, ValueError...
        reason = "this is no image" if isinstance(error, UnidentifiedImageError) else getattr(error, "strerror", None)
        raise ImageError(f"{display_path(path)}: {reason or f'the image is damaged: {error}'}") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """Pillow's image decoded and in mode RGB. ValueError for 32-bit samples, whose range nothing tells."""
    image.load()
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # so in Pillow before 12
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"samples of mode {image.mode}, whose range is not known")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")  # as convert("RGB"), without its warning
    return image.convert("RGB")


def resized_size(image: Image.Image, shorter_side: int) -> tuple[int, int]:
    """Width and height after a resize to this shorter side, as torchvision's Resize computes them."""
    width, height = image.size
    if width <= height:
        return shorter_side, int(shorter_side * height / width)
    return int(shorter_side * width / height), shorter_side


def resized(picture: Picture, shorter_side: int) -> np.ndarray:
    """The whole image with this shorter side: uint8 (H, W, 3), Pillow's bilinear filter with antialiasing.

    DataError if that would have more than 178,956,970 pixels: an image of a huge aspect ratio.
    """
    path, image = picture
    size = resized_size(image, shorter_side)
    if size[0] * size[1] > MOST_PIXELS:
        raise DataError(f"{display_path(path)}: {image.size[0]}x{image.size[1]} pixels would become "
                        f"{size[0]}x{size[1]}, too large to be tested whole")
    return np.array(window(image, size, 0, 0, *size))


def center_crop(picture: Picture, shorter_side: int, size: int) -> np.ndarray:
    """The center (size, size, 3) uint8 of the image resized to this shorter side, which is at least `size`.

    The offset is rounded as by torchvision's CenterCrop: halves to the even number.
    """
    width, height = resized_size(picture.image, shorter_side)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.array(window(picture.image, (width, height), left, top, size, size))


def random_crop(picture: Picture, shorter_side: int, top_bits: int, left_bits: int, flip: bool,
                size: int) -> np.ndarray:
    """A crop (size, size, 3) uint8 of the image resized to this shorter side, at least `size` (Sec. 3.4).

    32 random bits each choose the rows and columns; every offset is as likely as any other to 1 part in 2^32 / offsets.
    """
    width, height = resized_size(picture.image, shorter_side)
    left, top = (left_bits * (width - size + 1)) >> BITS, (top_bits * (height - size + 1)) >> BITS
    crop = window(picture.image, (width, height), left, top, size, size)
    return np.array(crop.transpose(MIRROR) if flip else crop)


def window(image: Image.Image, size: tuple[int, int], left: int, top: int, width: int, height: int) -> Image.Image:
    """The part at (left, top) of this width and height of the image resized to `size` (width, height)."""
    across, down = image.size[0] / size[0], image.size[1] / size[1]
    x0, x1 = left * across, min((left + width) * across, image.size[0])
    y0, y1 = top * down, min((top + height) * down, image.size[1])
    return image.resize((width, height), BILINEAR, (x0, y0, x1, y1))
