"""The images of a run and its mini-batches: a data set that lies on the device, or files that are read ahead."""

import logging
from collections import deque
from collections.abc import Generator, Iterator
from itertools import count
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from repro.data.cifar10 import DeviceData, TrainingOrder, augment_batch, load_arrays, on_device
from repro.data.loader import read_ahead
from repro.errors import ConfigError, Stopped
from repro.paths import data_dir, display_path, results_dir
from repro.schema import IMAGENET, Normalization, PaddingValue, RunConfig
from repro.stopping import StopRequest
from repro.training.distributed import World

logger = logging.getLogger(__name__)
Data: TypeAlias = Any  # DeviceData or ImageNetData: a run of CIFAR-10 loads nothing of ImageNet


def load_data(config: RunConfig, device: torch.device, world: World, stop: StopRequest) -> Data:
    """The images of a resolved configuration's run; makes the mean image of ImageNet first where there is none."""
    if config.data.name != IMAGENET:
        return on_device(load_arrays(config.data), config.data, device)
    from repro.data import imagenet

    files = world.from_main(lambda: imagenet.find(data_dir(config.data.root), config.data.wiring_test))
    if len(files.wnids) > config.model.num_classes:
        raise ConfigError(f"model.num_classes={config.model.num_classes}: {display_path(files.train.root)} has "
                          f"{len(files.wnids)} classes")
    needed = config.data.normalization is Normalization.per_pixel_mean or config.data.color_noise_std > 0
    statistics = statistics_of(config, files, world, stop) if needed else None
    return imagenet.on_device(config, files, statistics, device)


def statistics_of(config: RunConfig, files: Any, world: World, stop: StopRequest) -> Any:
    """The ImageStatistics of the training images, ImageNetFiles: from the cache, else by one pass over them."""
    from repro.data import imagenet

    path = imagenet.statistics_path(results_dir(config.results), files.fingerprint)
    found = world.from_main(lambda: imagenet.read_statistics(path))
    if found is not None:
        return found
    logger.info(f"making the mean image of {len(files.train):,} training images (once), in {display_path(path)}")
    own = range(world.rank, len(files.train), world.size)
    crops = imagenet.center_crops(files.train, imagenet.MEAN_SHORTER_SIDE, imagenet.MEAN_SIZE)
    sums = imagenet.sum_crops(crops, own, imagenet.MEAN_SIZE, world.is_main, lambda: stop.reason is not None,
                              imagenet.workers_of(config))
    if any(world.all_gather_object(stop.reason is not None)):
        raise Stopped(f"stopped by {stop.reason or 'another process'} while the mean image was made; the same command "
                      "begins it again", stop.exit_code)
    first, *others = world.all_gather_object(sums)
    for other in others:
        first.merge(other)
    statistics = first.finish()
    if world.is_main:
        imagenet.write_statistics(path, statistics)
    return statistics


def input_of(data: Data, config: RunConfig, share: slice) -> "DeviceInput | StreamInput":
    """The input of a resolved configuration's run; `share` is this process's part of every mini-batch."""
    images = len(data.train_images) if isinstance(data, DeviceData) else len(data.files.train)
    if config.train.mini_batch_size > images:
        raise ConfigError(f"train.mini_batch_size={config.train.mini_batch_size}: there are {images} training images")
    return DeviceInput(data, config) if isinstance(data, DeviceData) else StreamInput(data, config, share)


class DeviceInput:
    """Images that lie on the device; a position in a run is iteration x mini-batch + place in the mini-batch."""

    def __init__(self, data: DeviceData, config: RunConfig):
        self.data, self.config = data, config
        self.order = TrainingOrder(len(data.train_images), config.seed, data.train_images.device)

    def prepare(self, position: int) -> None:
        """Prepare the mini-batch that begins at this position."""
        self.order.prepare(position)

    def batch(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """The images at these positions (B,) int64, which are prepared: float32 (B, 3, H, W) and int64 (B,)."""
        config = self.config.data
        index = self.order.order[(position - self.order.start).clamp(min=0)]
        images = augment_batch(self.data.train_images, self.data.mean, index, position, self.config.seed,
                               config.padding, config.flip, self.data.std, config.padding_value is PaddingValue.black)
        return images, self.data.train_labels[index]

    def close(self) -> None:
        """Nothing is read ahead."""


class StreamInput:
    """Images that are read from files and cropped ahead of the updates; color and mean are done on the device."""

    def __init__(self, data: Data, config: RunConfig, share: slice):
        self.data, self.config, self.share = data, config, share
        self.order = TrainingOrder(len(data.files.train), config.seed, torch.device("cpu"))
        size, own = data.crop_size, share.stop - share.start
        # Of one mini-batch, replaced in place: (B, H, W, 3) and (B,).
        self.pixels = torch.zeros((own, size, size, 3), dtype=torch.uint8, device=data.mean.device)
        self.labels = torch.zeros(own, dtype=torch.int64, device=data.mean.device)
        self.crops: Generator[list[np.ndarray], None, None] | None = None
        self.requested: deque[Tensor] = deque()  # labels of the mini-batches that are being read
        self.at = self.next = -1  # positions that `pixels` holds, and of what comes out of `crops` next

    def prepare(self, position: int) -> None:
        """As of `DeviceInput`; waits for files that are not read yet. DataError if one can't be."""
        if position == self.at:
            return
        if self.crops is None or position != self.next:
            self.close()
            self.requested = deque()
            requests = self.requests(position, self.requested)
            self.crops = read_ahead(self.data.training_crop, requests, self.data.workers)
        pixels = torch.from_numpy(np.stack(next(self.crops)))
        labels = self.requested.popleft()
        if self.pixels.device.type == "cuda":
            pixels, labels = pixels.pin_memory(), labels.pin_memory()
        self.pixels.copy_(pixels, non_blocking=True)
        self.labels.copy_(labels, non_blocking=True)
        self.at, self.next = position, position + self.config.train.mini_batch_size

    def requests(self, position: int, labels: deque[Tensor]) -> Iterator[list[tuple[int, ...]]]:
        """What is to be read for each mini-batch from this position on, without end; its labels go to `labels`."""
        batch = self.config.train.mini_batch_size
        for begin in count(position, batch):
            self.order.prepare(begin)
            positions = begin + torch.arange(batch)[self.share]
            index = self.order.order[positions - self.order.start]
            labels.append(torch.from_numpy(self.data.files.train.labels)[index])
            yield self.data.training_requests(index, positions, self.config.seed)

    def batch(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """As of `DeviceInput`."""
        return self.data.training_images(self.pixels, position, self.config.seed), self.labels

    def close(self) -> None:
        """Stop reading ahead."""
        if self.crops is not None:
            self.crops.close()
            self.crops = None
