"""Seconds of an update on this machine, on random images, and the memory format in which it is faster."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from repro.data.cifar10 import DeviceData
from repro.devices import place, set_up, synchronize
from repro.models import build_model
from repro.schema import Architecture, Engine, RunConfig
from repro.training.execution import Execution
from repro.training.schedule import Schedule
from repro.training.step import TrainStep, batch_norm_group

IMAGES, CPU_IMAGES = 50_000, 2_560  # of CIFAR-10; on a GPU each captured block of fewer would make a new order
FORMATS = {False: "contiguous", True: "channels_last"}
_formats: dict[object, dict[str, float]] = {}  # what `with_memory_format` measured in this process


def with_memory_format(config: RunConfig, devices: int = 1) -> tuple[RunConfig, dict[str, float] | None]:
    """The configuration with the faster memory format where machine.channels_last is still None, after `resolve`.

    Also the milliseconds per update in each format, None where nothing was measured. `devices` share a mini-batch.
    Captured updates where the run captures or compiles. Once in a process for each kind of network: Choice: what holds
    for one depth on CIFAR-10 is taken for all, since their layers have the same shapes.
    """
    if config.machine.channels_last is not None:
        return config, None
    model, size = config.model, config.train.mini_batch_size // devices
    depth = model.depth if model.architecture is Architecture.imagenet else None
    key = (config.machine.device, config.machine.precision, config.machine.deterministic, config.engine is Engine.eager,
           model.architecture, depth, size, config.data.crop_size)
    if key not in _formats:
        own = replace(config, engine=config.engine if config.engine is Engine.eager else Engine.graph,
                      train=replace(config.train, mini_batch_size=size,
                                    batch_norm_group=min(size, config.train.batch_norm_group)))
        _formats[key] = {name: 1000 * update_seconds(prepare(with_channels_last(own, last)))
                         for last, name in FORMATS.items()}
    times = _formats[key]
    return with_channels_last(config, times["channels_last"] < times["contiguous"]), times


def with_channels_last(config: RunConfig, channels_last: bool) -> RunConfig:
    """The configuration in this memory format."""
    return replace(config, machine=replace(config.machine, channels_last=channels_last))


def prepare(config: RunConfig) -> Execution:
    """A resolved configuration's network on its device, ready to train on random images."""
    device = set_up(config)
    model = place(build_model(config.model, config.seed, batch_norm_group(config)), config, device)
    return Execution(TrainStep(model.train(), random_data(device, config), config, Schedule.of(config)), config)


def update_seconds(execution: Execution, updates: int = 3) -> float:
    """Seconds of an update, the best of some."""
    block = execution.block
    return best_seconds(lambda: execution.advance(block), updates, execution.step.device) / block


def best_seconds(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Seconds of the fastest call, after one that is not counted: other work on the machine only ever adds."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def random_data(device: torch.device, config: RunConfig) -> DeviceData:
    """Random images and labels of the size that the network gets: CIFAR-10's, or one mini-batch of ImageNet's crops."""
    generator = torch.Generator(device).manual_seed(0)
    size, count = 32, max(IMAGES if device.type == "cuda" else CPU_IMAGES, config.train.mini_batch_size)
    if config.data.crop_size is not None:
        size, count = config.data.crop_size, config.train.mini_batch_size
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator, device=device)
    labels = torch.randint(0, 10, (count,), generator=generator, device=device)
    mean = images[:256].float().mean(0)
    return DeviceData(images, labels, images[:256], labels[:256], mean, "random", "random", "")
