"""The mean image and the colors of the training images, exact, from one pass that is kept. Pixels are 0..255.

The mean image is that of the center crops of all training images (authors' README: shorter side 256, 224x224); the
covariance of red, green and blue is taken over all pixels of the same crops (AlexNet's color augmentation, Sec. 3.4).
All sums are of integers: neither the order of the images nor the number of threads and processes matters.
"""

import io
import logging
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repro.data.loader import in_parts, progress
from repro.files import write_atomic
from repro.paths import display_path

logger = logging.getLogger(__name__)
MEAN_SHORTER_SIDE, MEAN_SIZE = 256, 224  # pixels
BESIDE = "mean.npz"  # what a run keeps beside its weights


@dataclass(frozen=True)
class ImageStatistics:
    """Mean image (3, H, W) and the covariance (3, 3) of red, green and blue, in squares of 0..255."""

    mean: NDArray[np.float32]
    covariance: NDArray[np.float64]

    def mean_of_crops(self, size: int | None) -> NDArray[np.float32]:
        """What crops of this size subtract: the mean image if it is of their size, else (3, 1, 1), each channel's mean.

        Choice: no paper says how a mean image is to be resized.
        """
        if size == self.mean.shape[-1]:
            return self.mean
        return np.asarray(self.mean.mean((1, 2), dtype=np.float64, keepdims=True), np.float32)

    def principal(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """l (3,), falling, and p (3, 3), columns: AlexNet adds p @ (a l), a normal with std 0.1, to pixels of 0..255.

        AlexNet (Sec. 4.1 there) calls l the eigenvalues of the covariance of the pixel values, but not their unit.
        Choice: pixels of 0..1, as fb.resnet.torch and those that copy its 0.2175, 0.0188, 0.0045 have it (55, 5 and 1
        gray levels). In the code of AlexNet's author (cuda-convnet2, `color_stdevs`) they are standard deviations, the
        square roots: twice the noise along the first component.
        """
        values, vectors = np.linalg.eigh(self.covariance / 255**2)
        values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
        # Choice: the largest part of each p is positive, so that one seed gives one noise on every machine.
        largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
        return 255 * values, vectors * np.sign(largest)


class Sums:
    """Exact running sums over crops uint8 (size, size, 3)."""

    def __init__(self, size: int):
        self.images = 0
        self.pixels = np.zeros((size, size, 3), np.int64)
        self.products = np.zeros((3, 3), np.int64)  # channel by channel

    def add(self, crop: NDArray[np.uint8]) -> None:
        """One more image."""
        self.images += 1
        self.pixels += crop
        planes = np.ascontiguousarray(crop.reshape(-1, 3).T).astype(np.int64)
        self.products += np.einsum("in,jn->ij", planes, planes)

    def merge(self, other: "Sums") -> None:
        """The images of another part of the set."""
        self.images += other.images
        self.pixels += other.pixels
        self.products += other.products

    def finish(self) -> ImageStatistics:
        """Mean and covariance (divided by the number of pixels), rounded once."""
        count = self.images * self.pixels.shape[0] * self.pixels.shape[1]
        totals = self.pixels.sum((0, 1)).astype(object)  # Python's integers: their products need more than 64 bits
        covariance = (count * self.products.astype(object) - np.outer(totals, totals)) / count**2
        mean = (self.pixels / self.images).transpose(2, 0, 1).astype(np.float32)
        return ImageStatistics(np.ascontiguousarray(mean), covariance.astype(np.float64))


def compute(crop: Callable[[int], NDArray[np.uint8]], numbers: Sequence[int], size: int, show: bool,
            stop: Callable[[], bool], workers: int | None = None) -> Sums:
    """The sums over the images of these numbers, whose crops (size, size, 3) `crop` reads; raises what it raises.

    show: the progress. Returns early, with the sums of a part only, once `stop()` is true.
    """
    def sum_part(part: Sequence[int]) -> Sums:
        sums = Sums(size)
        for number in part:
            sums.add(crop(number))
        return sums

    total = Sums(size)
    with progress("mean image", len(numbers), show=show) as advance:
        for sums in in_parts(sum_part, numbers, workers):
            total.merge(sums)
            advance(sums.images)
            if stop():
                break
    return total


def cache_path(results: Path, fingerprint: str) -> Path:
    """Where the statistics of the set with this fingerprint lie."""
    return results / "data" / f"mean-{fingerprint[:16]}-{MEAN_SHORTER_SIDE}-{MEAN_SIZE}.npz"


def write(path: Path, statistics: ImageStatistics, crop_size: int | None = MEAN_SIZE) -> None:
    """Keep the covariance, and the mean that crops of this size subtract."""
    content = io.BytesIO()
    np.savez(content, mean=statistics.mean_of_crops(crop_size), covariance=statistics.covariance)
    write_atomic(path, content.getvalue())


def read(path: Path) -> ImageStatistics | None:
    """What `write` kept; None if there is nothing or, with a note, if it is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return ImageStatistics(arrays["mean"], arrays["covariance"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        logger.warning(f"{display_path(path)} is damaged ({error}); it is not used")
        return None
