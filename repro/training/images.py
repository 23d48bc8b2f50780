"""ImageNet for the processes of a run: one of them lists the files, all of them make the mean image."""

import logging

import torch

from repro.data import imagenet_statistics
from repro.data.imagenet import (
    MEAN_SHORTER_SIDE,
    MEAN_SIZE,
    CenterCrop,
    ImageNetData,
    needs_statistics,
    on_device,
    workers_of_each,
)
from repro.data.imagenet_files import ImageNetFiles, find
from repro.data.imagenet_statistics import ImageStatistics, statistics_folder
from repro.errors import ConfigError, Stopped
from repro.paths import data_dir, display_path, results_dir
from repro.schema import RunConfig
from repro.stopping import StopRequest
from repro.training.distributed import World

logger = logging.getLogger(__name__)


def load_images(config: RunConfig, device: torch.device, world: World, stop: StopRequest) -> ImageNetData:
    """The images of a resolved configuration's run; makes the mean image first where it is not there yet.

    DataError (3) for a folder that is not the data set or a file that can't be read; Stopped (75, 130) by `stop`.
    """
    files = world.from_main(lambda: find(data_dir(config.data.root), config.data.wiring_test))
    if len(files.wnids) > config.model.num_classes:
        raise ConfigError(f"model.num_classes={config.model.num_classes}: {display_path(files.train.root)} has "
                          f"{len(files.wnids)} classes")
    statistics = statistics_of(config, files, world, stop) if needs_statistics(config.data) else None
    return on_device(config, files, statistics, device)


def statistics_of(config: RunConfig, files: ImageNetFiles, world: World, stop: StopRequest) -> ImageStatistics:
    """The mean image and color statistics of the training images: from the cache, else by one pass over them."""
    folder = statistics_folder(results_dir(config.results))
    key = files.fingerprint, MEAN_SHORTER_SIDE, MEAN_SIZE
    found = world.from_main(lambda: imagenet_statistics.cached(folder, *key))
    if found is not None:
        return found
    logger.info(f"making the mean image of {len(files.train):,} training images (once), in {display_path(folder)}")
    read = CenterCrop(files.train, MEAN_SHORTER_SIDE, MEAN_SIZE)
    sums = imagenet_statistics.compute(files.train, range(world.rank, len(files.train), world.size), read,
                                       MEAN_SIZE, world.is_main, lambda: stop.reason is not None,
                                       config.machine.workers or workers_of_each())
    if any(world.all_gather_object(stop.reason is not None)):
        raise Stopped(f"stopped by {stop.reason or 'another process'} while the mean image was made; the same command "
                      "begins it again", stop.exit_code)
    first, *others = world.all_gather_object(sums)
    for other in others:
        first.merge(other)
    statistics = first.finish(files.fingerprint)
    if world.is_main:
        imagenet_statistics.store(folder, statistics, MEAN_SHORTER_SIDE, MEAN_SIZE)
    return statistics
