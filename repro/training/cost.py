"""What a run costs on this machine, from a few measured steps; no data set needed."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from repro.config import with_precision
from repro.data.cifar10 import DeviceData
from repro.devices import describe, place, resolve, set_up, synchronise
from repro.models import build_model
from repro.schema import Device, Precision, RunConfig
from repro.training.execution import MOST_PER_GRAPH, Execution
from repro.training.schedule import Schedule
from repro.training.step import TrainStep
from repro.training.synced import batch_norm_group

CPU_IMAGES = 8  # of ImageNet in a measured update on a CPU
FASTER = 1.2  # bf16 must gain this much over fp32 to be taken for a short run


@dataclass(frozen=True)
class Cost:
    """Seconds per update and per image tested, measured on `device` in `precision` by `engine`."""

    experiment: str
    device: str
    precision: str
    step_seconds: float
    test_seconds_per_image: float
    measured_steps: int
    engine: str

    def run_seconds(self, schedule: Schedule, test_images: int) -> float:
        """Training and evaluations of a whole run on so many images, computed from the measured step.

        Reading and decoding images, which ImageNet needs, is no part of it.
        """
        evaluations = sum(schedule.evaluates(i) for i in range(1, schedule.iterations + 1))
        return self.step_seconds * schedule.iterations + evaluations * test_images * self.test_seconds_per_image


def measure(config: RunConfig, updates: int = 3) -> Cost:
    """Time a few real updates (after some to warm up) and one test batch, on random images."""
    config = resolve(config)
    part = measured_part(config)
    execution = prepared(part)
    device, block = execution.step.device, execution.block
    times = config.train.mini_batch_size / part.train.mini_batch_size
    step_seconds = times * timed(lambda: execution.advance(block), updates, device) / block
    test_seconds = timed(execution.evaluate, 1, device)
    assert isinstance(execution.step.data, DeviceData)
    images = len(execution.step.data.eval_images)
    return Cost(config.name, describe(device), config.machine.precision.name, step_seconds, test_seconds / images,
                updates * block, execution.kind)


def measured_part(config: RunConfig) -> RunConfig:
    """What is measured of a resolved configuration: a smaller mini-batch where a CPU would take minutes for one.

    The time of an update on a CPU grows with the images in it, so it is multiplied up.
    """
    if config.data.crop_size is None or config.machine.device is not Device.cpu:
        return config
    size = min(CPU_IMAGES, config.train.mini_batch_size)
    return replace(config, train=replace(config.train, mini_batch_size=size, batch_norm_group=size))


def prepared(config: RunConfig) -> Execution:
    """A resolved configuration's network on its device, ready to train on random images."""
    device = set_up(config)
    data = random_data(device, config)
    model = place(build_model(config.model, config.seed, batch_norm_group(config)), config, device)
    return Execution(TrainStep(model.train(), data, config, Schedule.of(config)), config)


def timed(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Seconds of the fastest call, after one that is not counted: other work on the machine only ever adds."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def random_data(device: torch.device, config: RunConfig) -> DeviceData:
    """Random images and labels of the size that the network gets: CIFAR-10's, or ImageNet's crops.

    Of CIFAR-10's enough for the mini-batches of a captured graph and one test batch of 256.
    """
    generator = torch.Generator().manual_seed(0)
    size, most = (32, MOST_PER_GRAPH) if config.data.crop_size is None else (config.data.crop_size, 1)
    count = max(most * config.train.mini_batch_size, 512 if most > 1 else 1)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator).to(device)
    labels = torch.randint(0, 10, (count,), generator=generator).to(device)
    mean = images[:256].float().mean(0)
    return DeviceData(images, labels, images[:256], labels[:256], mean, "random", "random", "")


def fast_precision(config: RunConfig) -> Precision:
    """bf16 where it is measured at least 1.2 times as fast as fp32 on this machine, else fp32."""
    config = replace(config, machine=replace(config.machine, precision=Precision.fp32))
    exact = measure(config, 2).step_seconds
    fast = measure(with_precision(config, Precision.bf16), 2).step_seconds
    return Precision.bf16 if exact / fast >= FASTER else Precision.fp32
