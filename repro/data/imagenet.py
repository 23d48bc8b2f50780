"""ImageNet as a run sees it: crops of files, read ahead, and the color and mean that are done on the device."""

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.data import crops
from repro.data.augment import normalize
from repro.data.cifar10 import channel_statistics
from repro.data.imagenet_files import ImageNetFiles, ImageSet
from repro.data.imagenet_statistics import ImageStatistics
from repro.data.loader import Read, cores_here, read_ahead
from repro.data.random import normals, training_draws
from repro.schema import DataConfig, MachineConfig, Normalization, RunConfig

Request = tuple[int, ...]
MOST_TESTED_AT_ONCE = 250  # Choice: images of 224x224 that a test puts through the network together


def center_crops(images: ImageSet, shorter_side: int, size: int) -> Read:
    """A function of an image's number that reads its center crop (size, size, 3) uint8; 256 and 224 in the paper."""
    return lambda index: crops.center_crop(crops.open_rgb(images.path(index)), shorter_side, size)


@dataclass(frozen=True)
class ImageNetData:
    """The files of a run and what its images are normalized with, on its device.

    mean: float32 in 0..255, (3, H, W) per pixel or (3, 1, 1) per channel; std likewise, or None: no division.
    components: (3, 3) float32, what a standard normal draw for each principal component adds to red, green and blue,
    in 0..255; None: no color noise. crop_size: pixels of one side of what the network sees.
    """

    files: ImageNetFiles
    config: DataConfig
    machine: MachineConfig
    crop_size: int
    statistics: ImageStatistics | None
    mean: Tensor
    std: Tensor | None
    components: Tensor | None
    sha256: str
    split: str = "full"
    evaluated_on: str = "val"

    def read_ahead(self, read: Read, requests: Iterable[Sequence[Any]]) -> Generator[Any, None, None]:
        """`repro.data.loader.read_ahead` as the machine is configured."""
        return read_ahead(read, requests, self.machine.loader, self.machine.workers or workers_of_each())

    def training_crops(self, requests: Iterable[Sequence[Request]]) -> Generator[Any, None, None]:
        """The crops (B, S, S, 3) uint8 of each of `training_requests`."""
        def read(request: Request) -> np.ndarray:
            index, side, top, left, flip = request
            image = crops.open_rgb(self.files.train.path(index))
            return crops.random_crop(image, side, top, left, bool(flip), self.crop_size)

        return self.read_ahead(read, requests)

    def training_requests(self, index: Tensor, position: Tensor, seed: int) -> list[Request]:
        """What `training_crops` needs for the images `index` (B,) at the positions (B,) of a run."""
        assert self.config.shorter_side is not None
        side, top, left, flip = training_draws(position, seed, *self.config.shorter_side)
        columns = index, side, top, left, flip & self.config.flip
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def training_images(self, pixels: Tensor, position: Tensor, seed: int) -> Tensor:
        """Crops (B, H, W, 3) uint8 at these positions of a run -> (B, 3, H, W) float32, color noise included."""
        pixels = pixels.permute(0, 3, 1, 2)
        if self.components is not None:  # no matrix product: autocast and TF32 would round it
            pixels = pixels + (normals(position, seed)[:, :, None] * self.components).sum(1)[:, :, None, None]
        return normalize(pixels, self.mean, self.std)

    def evaluation_batches(self, batch_size: int, rank: int = 0, size: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """The center crop of every `size`-th validation image from `rank` on: (B, 3, H, W) float32 and (B,) int64."""
        images, labels = self.files.val, torch.from_numpy(self.files.val.labels)
        assert self.config.test_shorter_side is not None
        indices, step = range(rank, len(images), size), min(batch_size, MOST_TESTED_AT_ONCE)
        parts = [indices[begin : begin + step] for begin in range(0, len(indices), step)]
        read = center_crops(images, self.config.test_shorter_side, self.crop_size)
        with closing(self.read_ahead(read, parts)) as batches:
            for part, pixels in zip(parts, batches, strict=True):
                on_device = torch.from_numpy(pixels).to(self.mean.device)
                yield (normalize(on_device.permute(0, 3, 1, 2), self.mean, self.std),
                       labels[list(part)].to(self.mean.device))


def on_device(config: RunConfig, files: ImageNetFiles, statistics: ImageStatistics | None,
              device: torch.device) -> ImageNetData:
    """The data of a resolved configuration's run. `statistics` are needed for the mean image and for color noise."""
    data = config.data
    assert data.crop_size is not None
    if data.normalization is Normalization.per_pixel_mean:
        assert statistics is not None
        mean, std = torch.from_numpy(statistics.mean_of_crops(data.crop_size)), None
    else:
        mean, std = channel_statistics(data)
        std = std.to(device)
    components = None
    if data.color_noise_std > 0:
        assert statistics is not None
        components = torch.from_numpy(color_components(statistics, data.color_noise_std)).to(device)
    return ImageNetData(files, data, config.machine, data.crop_size, statistics, mean.to(device), std, components,
                        files.fingerprint)


def color_components(statistics: ImageStatistics, std: float) -> np.ndarray:
    """(3, 3) float32: row k is what a standard normal draw of the k-th principal component adds, in 0..255.

    AlexNet's color augmentation: [p1 p2 p3] [a1 l1, a2 l2, a3 l3]^T with eigenvectors p, eigenvalues l and draws a.
    """
    values, vectors = statistics.principal()
    return (std * values[:, None] * vectors.T).astype(np.float32)


def needs_statistics(data: DataConfig) -> bool:
    """Whether a pass over the training images is needed before the first update."""
    return data.normalization is Normalization.per_pixel_mean or data.color_noise_std > 0


def workers_of_each() -> int:
    """Workers of each process of a run: those on one machine share its cores, unless srun has dealt them out."""
    together = "1" if "SLURM_CPUS_PER_TASK" in os.environ else os.environ.get("SLURM_NTASKS_PER_NODE", "1")
    return max(1, cores_here() // int(os.environ.get("LOCAL_WORLD_SIZE", together)))
