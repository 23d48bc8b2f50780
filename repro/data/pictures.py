"""Image files as 8-bit RGB, and crops of them as if the whole image had been resized first. Never imports torch.

Only the part of an image that a crop shows is resized. Pillow's filter takes its weights from the position of a pixel
in the whole resized image and looks beyond the part at its edges, so a crop differs from the same crop of the whole
resized image by rounding alone: by 1 grey level of 255, and where both of Pillow's passes round otherwise, by 2, which
in photos is rarer than 1 value in 50,000 (tests/data/test_pictures.py). Choice: no reduced decoding of JPEGs
(`Image.draft`), which is faster for large files but another filter.
"""

import functools
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from repro.errors import ConfigError, DataError, ImageError
from repro.places import shown
from repro.schema import Decoder

MOST_PIXELS = 178_956_970  # of a decoded or resized image; Pillow refuses larger files as decompression bombs
BITS = 32  # of a random draw
TRIES = 10  # torchvision's RandomResizedCrop: tries before it takes the centre
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # Szegedy et al. 2015: part of the area, width / height
BILINEAR, MIRROR = Image.Resampling.BILINEAR, Image.Transpose.FLIP_LEFT_RIGHT


@dataclass(frozen=True)
class Picture:
    """One decoded image: Pillow's in mode RGB, or pixels uint8 (H, W, 3); `path` is for messages."""

    path: Path
    pixels: Image.Image | np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        if isinstance(self.pixels, np.ndarray):
            return self.pixels.shape[1], self.pixels.shape[0]
        return self.pixels.size

    def part(self, left: int, top: int, right: int, bottom: int) -> tuple[Image.Image, int, int]:
        """An image that holds this part of the picture, and how far right and down it begins there."""
        if isinstance(self.pixels, np.ndarray):
            return Image.fromarray(np.ascontiguousarray(self.pixels[top:bottom, left:right])), left, top
        return self.pixels, 0, 0


def open_rgb(path: Path, decoder: Decoder = Decoder.pillow) -> Picture:
    """Decode a file of any kind that Pillow reads; the first picture if it holds several.

    Grey levels become equal red, green and blue; CMYK and palettes are converted by Pillow; of 16-bit samples the upper
    8 bits count. Choice: as torchvision's ImageFolder does, alpha is dropped, and a rotation noted in EXIF and colour
    profiles are not applied. Whatever the decoder, the pixels are the same: TorchCodec decodes grey and colour JPEGs,
    Pillow the rest. Raises DataError naming the file if it is missing, truncated, damaged, no image, or larger than
    Pillow accepts; ConfigError if TorchCodec is asked for and not here.
    """
    fast = decoder_here(decoder) is Decoder.torchcodec
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            if fast and image.format == "JPEG" and image.mode in ("L", "RGB"):
                pixels = decoded_jpeg(data)
                if pixels is not None and pixels.shape[1::-1] == image.size:
                    return Picture(path, pixels)
            return Picture(path, as_rgb(image))
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{shown(path)}: {'the file is empty' if not data else 'this is no image'}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{shown(path)}: more than {MOST_PIXELS:,} pixels, which Pillow refuses") from error
    except OSError as error:
        raise ImageError(f"{shown(path)}: {error.strerror or f'the image is damaged: {error}'}") from error
    except Exception as error:  # what Pillow raises for damaged files depends on their kind: SyntaxError, ValueError...
        raise ImageError(f"{shown(path)}: the image is damaged: {error}") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """Pillow's image decoded and in mode RGB. ValueError for 32-bit samples, whose range nothing tells."""
    image.load()
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "I" and image.format == "PNG":  # 16-bit grey in Pillow before 12
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"samples of mode {image.mode}, whose range is not known")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")  # as convert("RGB"), without its warning
    return image.convert("RGB")


def decoded_jpeg(data: bytes) -> np.ndarray | None:
    """TorchCodec's decoding of a grey or colour JPEG: uint8 (H, W, 3); None if it can't."""
    from torchcodec.decoders import decode_jpeg

    try:
        return np.asarray(decode_jpeg(data, mode="RGB").permute(1, 2, 0))
    except RuntimeError:
        return None


@functools.cache
def decoder_here(decoder: Decoder) -> Decoder:
    """Pillow or TorchCodec: what a setting means here. ConfigError if TorchCodec is asked for and can't be used."""
    if decoder is Decoder.pillow:
        return decoder
    tiny = io.BytesIO()
    Image.new("RGB", (8, 8)).save(tiny, "JPEG")
    try:
        if decoded_jpeg(tiny.getvalue()) is not None:
            return Decoder.torchcodec
        reason = "it can't decode a JPEG"
    except Exception as error:  # its libraries may fail to load in any way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if decoder is Decoder.torchcodec:
        raise ConfigError(f"machine.decoder=torchcodec: it can't be used here: {reason}; install the package "
                          "torchcodec (extra `decoder`), or machine.decoder=pillow")
    return Decoder.pillow


def resized_size(width: int, height: int, shorter_side: int) -> tuple[int, int]:
    """Width and height after a resize to this shorter side, as torchvision's Resize computes them."""
    if width <= height:
        return shorter_side, int(shorter_side * height / width)
    return int(shorter_side * width / height), shorter_side


def resized(picture: Picture, shorter_side: int) -> np.ndarray:
    """The whole image with this shorter side: uint8 (H, W, 3), Pillow's bilinear filter with antialiasing.

    DataError if that would have more than 178,956,970 pixels: an image of a huge aspect ratio.
    """
    size = resized_size(*picture.size, shorter_side)
    if size[0] * size[1] > MOST_PIXELS:
        raise DataError(f"{shown(picture.path)}: {picture.size[0]}x{picture.size[1]} pixels would become "
                        f"{size[0]}x{size[1]}, too large to be tested whole")
    return np.array(window(picture, size, 0, 0, *size))


def center_crop(picture: Picture, shorter_side: int, size: int) -> np.ndarray:
    """The centre (size, size, 3) uint8 of the image resized to this shorter side, which is at least `size`.

    The offset is rounded as by torchvision's CenterCrop: halves to the even number.
    """
    width, height = resized_size(*picture.size, shorter_side)
    return np.array(window(picture, (width, height), round((width - size) / 2), round((height - size) / 2), size, size))


def random_crop(picture: Picture, shorter_side: int, top_bits: int, left_bits: int, flip: bool,
                size: int) -> np.ndarray:
    """A crop (size, size, 3) uint8 of the image resized to this shorter side, at least `size` (Sec. 3.4).

    32 random bits each choose the rows and columns; every offset is as likely as any other to 1 part in 2^32 / offsets.
    """
    width, height = resized_size(*picture.size, shorter_side)
    left, top = (left_bits * (width - size + 1)) >> BITS, (top_bits * (height - size + 1)) >> BITS
    return finished(window(picture, (width, height), left, top, size, size), flip)


def random_resized_crop(picture: Picture, drawn: Sequence[Any], size: int) -> np.ndarray:
    """A random part of the image resized to (size, size, 3) uint8, distributed as torchvision's RandomResizedCrop.

    drawn: 22 integers of 32 random bits (10 for the area of each try, 10 for its ratio, then top and left), and flip.
    """
    bits, flip = drawn
    left, top, width, height = random_part(*picture.size, bits)
    image, across, down = picture.part(left, top, left + width, top + height)
    cut = image.crop((left - across, top - down, left + width - across, top + height - down))
    return finished(cut.resize((size, size), BILINEAR), flip)


def random_part(width: int, height: int, bits: Sequence[int]) -> tuple[int, int, int, int]:
    """Left, top, width and height of the part that random_resized_crop shows; `bits` as there, without flip."""
    unit = [value / 2**BITS for value in bits[: 2 * TRIES]]
    for area, ratio in zip(unit[:TRIES], unit[TRIES:], strict=True):
        pixels = width * height * (AREA[0] + area * (AREA[1] - AREA[0]))
        shape = math.exp(math.log(RATIO[0]) + ratio * (math.log(RATIO[1]) - math.log(RATIO[0])))
        across, down = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if 0 < across <= width and 0 < down <= height:
            top, left = bits[2 * TRIES :]
            return (left * (width - across + 1)) >> BITS, (top * (height - down + 1)) >> BITS, across, down
    across, down = width, height  # the centre, with the nearest ratio that is allowed
    if width < RATIO[0] * height:
        down = round(width / RATIO[0])
    elif width > RATIO[1] * height:
        across = round(height * RATIO[1])
    return (width - across) // 2, (height - down) // 2, across, down


def window(picture: Picture, size: tuple[int, int], left: int, top: int, width: int, height: int) -> Image.Image:
    """The part at (left, top) of this width and height of the picture resized to `size` (width, height)."""
    whole_width, whole_height = picture.size
    across, down = whole_width / size[0], whole_height / size[1]
    x0, x1 = left * across, min((left + width) * across, whole_width)
    y0, y1 = top * down, min((top + height) * down, whole_height)
    reach_x, reach_y = math.ceil(max(across, 1.0)) + 1, math.ceil(max(down, 1.0)) + 1  # how far the filter looks
    image, begin_x, begin_y = picture.part(
        max(math.floor(x0) - reach_x, 0), max(math.floor(y0) - reach_y, 0),
        min(math.ceil(x1) + reach_x, whole_width), min(math.ceil(y1) + reach_y, whole_height))
    return image.resize((width, height), BILINEAR, (x0 - begin_x, y0 - begin_y, x1 - begin_x, y1 - begin_y))


def finished(image: Image.Image, flip: bool) -> np.ndarray:
    """(H, W, 3) uint8, mirrored where asked."""
    return np.array(image.transpose(MIRROR) if flip else image)
