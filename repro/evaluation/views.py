"""The paper's three ways of testing on ImageNet: what of an image the network is shown. Never imports torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from repro.data.crops import center_crop, open_rgb, resized
from repro.data.imagenet_files import ImageSet
from repro.errors import ConfigError
from repro.paper import PROTOCOL_LABELS, PROTOCOLS, pick
from repro.schema import IMAGENET, DataConfig

CENTER, TEN_CROP, MULTI_SCALE = PROTOCOLS
SINGLE_VIEW = "single_view"  # of CIFAR-10: the image as it is (Sec. 4.2)
SCALES = (224, 256, 384, 480, 640)  # Sec. 3.4: shorter sides of the multi-scale test, in pixels
TRAINED = 224  # Sec. 3.4: pixels of one side of a training crop, which these scales belong to
# Ten crops in torchvision's order, by number in `six_crops`: those of the image, and (unmirrored) of its mirror image.
TEN_CROPS = ((0, 1, 2, 3, 4), (1, 0, 3, 2, 5))
LABELS = {SINGLE_VIEW: "single view", **PROTOCOL_LABELS}


@dataclass(frozen=True)
class Views:
    """One protocol with its lengths in pixels."""

    protocol: str
    shorter_sides: tuple[int, ...]
    crop_size: int  # of the crops, or (multi_scale) of the crops that the network was trained on

    @property
    def definition(self) -> str:
        """What is done, in a line."""
        sides, size = ", ".join(map(str, self.shorter_sides)), self.crop_size
        if self.protocol == CENTER:
            return f"shorter side {sides}, one {size}x{size} crop from the center, softmax"
        if self.protocol == TEN_CROP:
            return (f"shorter side {sides}, {size}x{size} crops from the four corners and the center of the image and "
                    "of its flip, mean of the 10 softmax scores")
        return (f"whole image with shorter sides {sides}, and its flip, fully convolutional, mean of the softmax "
                "scores over positions, flips and scales")

    @property
    def pictures(self) -> float:
        """How many crops an image stands for in the network's work, for a square image."""
        if self.protocol == MULTI_SCALE:
            return 2 * sum(side * side for side in self.shorter_sides) / self.crop_size**2
        return 10 if self.protocol == TEN_CROP else 1


def protocol_of(name: str | None, data: DataConfig) -> str:
    """The protocol of this name, or the data set's own; ConfigError if the data set has none of this name."""
    known = PROTOCOLS if data.name == IMAGENET else (SINGLE_VIEW,)
    return pick(name or known[0], {protocol: protocol for protocol in known}, f"protocol with data.name={data.name}")


def views_of(protocol: str, data: DataConfig) -> Views:
    """A protocol with the lengths of a configuration.

    Choice: a network that was trained on crops of another size than 224 is tested at scales in the same proportion.
    ConfigError without data.crop_size and data.test_shorter_side.
    """
    size, side = data.crop_size, data.test_shorter_side
    if size is None or side is None:
        raise ConfigError("data.crop_size, data.test_shorter_side: needed for a test on ImageNet")
    sides = tuple(round(scale * size / TRAINED) for scale in SCALES) if protocol == MULTI_SCALE else (side,)
    return Views(protocol, sides, size)


@dataclass(frozen=True)
class ViewReader:
    """Reads what the views of one image are made of, by its number in an image set; nothing is mirrored yet."""

    images: ImageSet
    views: Views

    def __call__(self, index: int) -> np.ndarray:
        """uint8: the center crop (S, S, 3); `six_crops`; or all scales, `packed`. DataError if unreadable."""
        picture = open_rgb(self.images.path(index))
        sides, size = self.views.shorter_sides, self.views.crop_size
        if self.views.protocol == CENTER:
            return center_crop(picture, sides[0], size)
        if self.views.protocol == TEN_CROP:
            return six_crops(resized(picture, sides[0]), size)
        return packed([resized(picture, side) for side in sides])


def six_crops(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) -> (6, size, size, 3): what `TEN_CROPS` are made of.

    Top left, top right, bottom left, bottom right, center, and the center of the mirror image, which is one pixel
    further to the left where an odd number of columns is left over; not mirrored yet.
    """
    bottom, right = image.shape[0] - size, image.shape[1] - size
    middle, center = round(bottom / 2), round(right / 2)  # torchvision's rounding
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (middle, center), (middle, right - center)]
    return np.stack([image[top : top + size, left : left + size] for top, left in corners])


def packed(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 pictures (H, W, 3) of different sizes as one uint8 array (bytes,): their number, sizes and pixels."""
    header = np.array([len(pictures), *(length for picture in pictures for length in picture.shape[:2])], dtype="<i4")
    return np.concatenate([header.view(np.uint8), *(picture.reshape(-1) for picture in pictures)])


def unpacked(data: np.ndarray) -> list[np.ndarray]:
    """The pictures that `packed` put into an array."""
    count = int(data[:4].view("<i4")[0])
    sizes = data[4 : 4 + 8 * count].view("<i4").reshape(count, 2)
    begin, pictures = 4 + 8 * count, []
    for height, width in sizes.tolist():
        end = begin + 3 * height * width
        pictures.append(data[begin:end].reshape(height, width, 3))
        begin = end
    return pictures
