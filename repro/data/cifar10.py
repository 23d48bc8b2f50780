"""CIFAR-10 on the training device: splits, the per-pixel mean, and the order of the training images."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.data import cifar10_files, synthetic
from repro.data.augment import normalize
from repro.data.cifar10_files import Cifar10Arrays
from repro.data.random import permutation
from repro.errors import ConfigError
from repro.paths import data_dir
from repro.schema import IMAGENET, SYNTHETIC, DataConfig, Normalization

VALIDATION_IMAGES = 5000  # Sec. 4.2: a 45k/5k train/validation split


@dataclass(frozen=True)
class DeviceData:
    """A data set on one device: uint8 images (N, 3, 32, 32), int64 labels (N,), and what normalizes the images.

    mean: float32 in 0..255, (3, 32, 32) per pixel or (3, 1, 1) per channel; std likewise, or None: no division.
    """

    train_images: Tensor
    train_labels: Tensor
    eval_images: Tensor
    eval_labels: Tensor
    mean: Tensor
    split: str
    evaluated_on: str  # test, or val for the split 45k
    sha256: str
    std: Tensor | None = None

    def evaluation_batches(self, batch_size: int, rank: int = 0, size: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Every `size`-th image to evaluate on, from `rank` on, and its label: (B, 3, 32, 32) float32, (B,) int64."""
        images, labels = self.eval_images[rank::size], self.eval_labels[rank::size]
        for batch, target in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
            yield normalize(batch, self.mean, self.std), target


def load_arrays(config: DataConfig) -> Cifar10Arrays:
    """CIFAR-10 from the user's folder, or the synthetic images; DataError (3) if CIFAR-10 is missing or damaged."""
    if config.name == IMAGENET:
        raise ConfigError(f"data.name={IMAGENET}: its images are not loaded into memory, as CIFAR-10's are")
    return synthetic.make() if config.name == SYNTHETIC else cifar10_files.load(data_dir(config.root))


def on_device(arrays: Cifar10Arrays, config: DataConfig, device: torch.device) -> DeviceData:
    """Split the arrays as the configuration says and put them on the device.

    `full`: 50,000 training images, evaluated on the test set. `45k`: the last 5,000 in official order are held out and
    evaluated on; the mean image comes from the 45,000 alone.
    """
    images, labels = torch.from_numpy(arrays.train_images), torch.from_numpy(arrays.train_labels)
    eval_images, eval_labels = torch.from_numpy(arrays.test_images), torch.from_numpy(arrays.test_labels)
    evaluated_on, std = "test", None
    if config.split.name == "45k":
        images, eval_images = images.tensor_split([-VALIDATION_IMAGES])
        labels, eval_labels = labels.tensor_split([-VALIDATION_IMAGES])
        evaluated_on = "val"
    if config.normalization is Normalization.per_pixel_mean:
        mean = per_pixel_mean(images)
    else:
        mean, std = (values.to(device) for values in channel_statistics(config))
    return DeviceData(images.to(device), labels.to(device), eval_images.to(device), eval_labels.to(device),
                      mean.to(device), config.split.name, evaluated_on, arrays.sha256, std)


def channel_statistics(config: DataConfig) -> tuple[Tensor, Tensor]:
    """The configured mean and standard deviation of each channel, (3, 1, 1) float32 in 0..255."""
    mean, std = (255 * torch.tensor(values, dtype=torch.float64).reshape(3, 1, 1)
                 for values in (config.channel_mean, config.channel_std))
    return mean.float(), std.float()


def per_pixel_mean(images: Tensor) -> Tensor:
    """Mean image (3, H, W) float32, pixels 0..255, of uint8 (N, 3, H, W); exact sums in int64 (Sec. 4.2)."""
    return (images.sum(0, dtype=torch.int64).double() / len(images)).float()


class TrainingOrder:
    """Which image stands at each position of a run: one permutation after the other, batches running on across them.

    Two passes lie on the device, `order` (2 N,) int64 and the position where they begin, `start` () int64, both
    updated in place, so that a step that reads them can be captured. On CUDA the order is made there, so that the host
    never waits for it.
    """

    def __init__(self, images: int, seed: int, device: torch.device):
        self.images, self.seed = images, seed
        self.sorts_on = device if device.type == "cuda" else torch.device("cpu")
        self.order = torch.zeros(2 * images, dtype=torch.int64, device=device)
        self.start = torch.zeros((), dtype=torch.int64, device=device)
        self.epoch = -1

    def prepare(self, position: int) -> bool:
        """Make `order` hold the pass of this position and the next one; whether it had to be changed."""
        epoch = position // self.images
        if epoch == self.epoch:
            return False
        for half in (0, 1):
            row = slice(half * self.images, (half + 1) * self.images)
            self.order[row].copy_(permutation(self.images, self.seed, epoch + half, self.sorts_on))
        self.start.fill_(epoch * self.images)
        self.epoch = epoch
        return True
