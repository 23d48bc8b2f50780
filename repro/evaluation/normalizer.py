"""What is subtracted from the pixels of ImageNet's test images: the mean that the network was trained with."""

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repro.data import imagenet_statistics
from repro.data.augment import normalize
from repro.data.cifar10 import channel_statistics, on_device
from repro.data.imagenet import MEAN_SHORTER_SIDE, MEAN_SIZE
from repro.data.imagenet_files import find
from repro.data.imagenet_statistics import BESIDE, statistics_folder
from repro.data.sources import load_arrays
from repro.devices import set_up
from repro.errors import DataError, StorageError
from repro.paths import data_dir, display_path, results_dir
from repro.schema import IMAGENET, Normalization, RunConfig


@dataclass(frozen=True)
class Normalizer:
    """mean: float32 pixels 0..255, (3, S, S) per pixel of a crop or (3, 1, 1) per channel; std: (3, 1, 1) or None."""

    mean: Tensor
    std: Tensor | None = None

    def crops(self, pixels: Tensor) -> Tensor:
        """uint8 crops (N, 3, S, S) -> float32. The mean image is not mirrored where the crop is."""
        return normalize(pixels, self.mean, self.std)

    def whole(self, pixels: Tensor) -> Tensor:
        """uint8 images (N, 3, H, W) of any size -> float32. Choice: they subtract the mean image's mean per channel."""
        return normalize(pixels, self.mean.mean((1, 2), keepdim=True), self.std)

    def to(self, device: torch.device) -> "Normalizer":
        """The same on a device."""
        return Normalizer(self.mean.to(device), None if self.std is None else self.std.to(device))

    @property
    def sha256(self) -> str:
        """Of all its numbers."""
        digest = hashlib.sha256()
        for values in (self.mean, self.std):
            digest.update(b"none" if values is None else repr(tuple(values.shape)).encode() + values.numpy().tobytes())
        return digest.hexdigest()


def normalizer_of(config: RunConfig, weights: Path, fingerprint: Callable[[], str]) -> Normalizer:
    """The mean that belongs to a weights file: as configured, kept beside it, or of the data set of this fingerprint.

    DataError if there is none; StorageError if the file beside the weights can't be read.
    """
    data = config.data
    if data.normalization is Normalization.per_channel:
        return Normalizer(*channel_statistics(data))
    beside = own_mean(weights)
    beside = beside if beside.is_file() else weights.parent / BESIDE
    if beside.is_file():
        return Normalizer(read_mean(beside, data.crop_size))
    folder = statistics_folder(results_dir(config.results))
    try:
        own = fingerprint()
    except DataError:  # nor is the data set here, which is no reason to ask for it
        own = None
    found = None if own is None else imagenet_statistics.cached(folder, own, MEAN_SHORTER_SIDE, MEAN_SIZE)
    if found is None:
        raise DataError(f"no mean image for {display_path(weights)}: neither {BESIDE} beside it (array 'mean': (3, H, "
                        f"W), pixels 0..255) nor one of this data set in {display_path(folder)}, which the first "
                        "training run computes; weights trained otherwise: data.normalization=per_channel "
                        "data.channel_mean=[...] data.channel_std=[...]")
    return Normalizer(torch.from_numpy(found.mean_of_crops(data.crop_size)))


def mean_of(config: RunConfig, weights: Path) -> Normalizer:
    """What is subtracted from an image of a resolved configuration's data set."""
    if config.data.name == IMAGENET:
        root = data_dir(config.data.root)
        return normalizer_of(config, weights, lambda: find(root, config.data.wiring_test).fingerprint)
    data = on_device(load_arrays(config.data), config.data, device=set_up(config))
    return Normalizer(data.mean.cpu(), None if data.std is None else data.std.cpu())


def own_mean(weights: Path) -> Path:
    """Where the mean of exported weights lies: beside the file, under its name."""
    return weights.with_name(f"{weights.name}.{BESIDE}")


def read_mean(path: Path, crop_size: int | None) -> Tensor:
    """The mean of a run: (3, crop_size, crop_size) or (3, 1, 1) float32. StorageError if it is anything else."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean = np.asarray(arrays["mean"], dtype=np.float32)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StorageError(f"{display_path(path)}: no mean image of a run ({type(error).__name__}: {error}); without "
                           "this file the data set's own is used") from error
    if mean.shape not in ((3, 1, 1), (3, crop_size, crop_size)) or not np.isfinite(mean).all():
        raise StorageError(f"{display_path(path)}: a mean of shape {mean.shape}, not (3, 1, 1) or "
                           f"(3, {crop_size}, {crop_size})")
    return torch.from_numpy(mean)
