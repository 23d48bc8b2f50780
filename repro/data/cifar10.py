"""CIFAR-10 on the training device: splits, the per-pixel mean, the order of the images and their augmentation.

Images are (N, 3, H, W); mean and std are in pixels 0..255 and broadcast against one image.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.data import cifar10_files, synthetic
from repro.data.cifar10_files import Cifar10Arrays
from repro.data.random import AUGMENT_STREAM, permutation, uniform_bits
from repro.errors import ConfigError
from repro.paths import data_dir
from repro.schema import HELD_OUT, IMAGENET, SYNTHETIC, DataConfig, Normalization


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

    `full`: evaluated on the test set; `45k`: on the last 5,000 training images, which the mean image has not seen.
    """
    images, labels = torch.from_numpy(arrays.train_images), torch.from_numpy(arrays.train_labels)
    eval_images, eval_labels = torch.from_numpy(arrays.test_images), torch.from_numpy(arrays.test_labels)
    evaluated_on, std = "test", None
    if config.split.name == "45k":
        images, eval_images = images.tensor_split([-HELD_OUT])
        labels, eval_labels = labels.tensor_split([-HELD_OUT])
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

    Two passes lie on the device, `order` (2 N,) int64, from position `start` () int64 on; a captured step reads both.
    """

    def __init__(self, images: int, seed: int, device: torch.device):
        self.images, self.seed = images, seed
        self.order = torch.zeros(2 * images, dtype=torch.int64, device=device)
        self.start = torch.zeros((), dtype=torch.int64, device=device)
        self.epoch = -1

    def prepare(self, position: int) -> None:
        """Make `order` hold the pass of this position and the next one."""
        epoch = position // self.images
        if epoch != self.epoch:
            # On CUDA the order is made there, so that the host never waits for it.
            device = self.order.device if self.order.is_cuda else torch.device("cpu")
            orders = [permutation(self.images, self.seed, each, device) for each in (epoch, epoch + 1)]
            self.order.copy_(torch.cat(orders))
            self.start.fill_(epoch * self.images)
            self.epoch = epoch


# ---- pad 4, random crop, random flip (Sec. 4.2), batched on the device

def augment_batch(images: Tensor, mean: Tensor, index: Tensor, position: Tensor, seed: int,
                  padding: int, flip: bool, std: Tensor | None = None, black: bool = False) -> Tensor:
    """The training images `index`, normalized, padded, cropped and flipped, each by its own draw.

    images: (N, 3, H, W) uint8; index: (B,) int64; position: (B,) int64, the place of each image in the run, which with
    the seed fixes its draw. Returns (B, 3, H, W) float32. Choice: the mean is subtracted before the padding, so the
    border is the mean color. `black`: padded with pixels of 0 and normalized last, as torchvision's pipelines do.
    """
    batch = images[index]
    if not black:
        batch = normalize(batch, mean, std)
    batch = crop_and_flip(F.pad(batch, (padding,) * 4), *draw(position, seed, padding, flip), batch.shape[-2:])
    return normalize(batch, mean, std) if black else batch


def normalize(images: Tensor, mean: Tensor, std: Tensor | None = None) -> Tensor:
    """uint8 pixels (N, 3, H, W) -> float32: the mean subtracted, and divided by std where there is one."""
    centered = images.float() - mean
    return centered if std is None else centered / std


def draw(position: Tensor, seed: int, padding: int, flip: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets down and right in 0..2*padding and whether to flip, for each position: int64, int64, bool, (B,)."""
    offsets = 2 * padding + 1
    outcomes = offsets * offsets * (2 if flip else 1)
    outcome = (uniform_bits(position, seed, AUGMENT_STREAM) * outcomes) >> 32
    return outcome % offsets, outcome // offsets % offsets, outcome // (offsets * offsets) == 1


def crop_and_flip(padded: Tensor, down: Tensor, right: Tensor, mirrored: Tensor, size: tuple[int, ...]) -> Tensor:
    """One gather: (B, C, H+2p, W+2p) -> (B, C, H, W), each image from its own offset, then mirrored where asked."""
    height, width = size
    rows = down[:, None] + torch.arange(height, device=padded.device)
    columns = torch.arange(width, device=padded.device).expand(len(down), width)
    columns = right[:, None] + torch.where(mirrored[:, None], width - 1 - columns, columns)
    batch = torch.arange(len(down), device=padded.device)
    channels = torch.arange(padded.shape[1], device=padded.device)
    return padded[batch[:, None, None, None], channels[None, :, None, None], rows[:, None, :, None],
                  columns[:, None, None, :]]
