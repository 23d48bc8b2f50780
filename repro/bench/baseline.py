"""`python -m repro.bench.baseline JOB`: one fresh process that measures one contender and prints one line of JSON."""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.bench.baselines import PREFETCH, CompiledLoop, DeviceLoop, LoaderLoop
from repro.bench.plan import COMPILED, EAGER, LOADER, OURS, RATES, Job, config_of, print_result
from repro.bench.roofline import device_rates
from repro.bench.synthetic import random_data
from repro.data.augment import normalize
from repro.data.cifar10 import DeviceData
from repro.data.loader import cores_here
from repro.devices import autocast, describe, place, resolve, set_up, synchronize
from repro.models import build_model
from repro.schema import Engine, RunConfig
from repro.training.execution import Execution
from repro.training.schedule import Schedule
from repro.training.step import TrainStep, batch_norm_group, count_batches_once
from repro.training.timing import with_memory_format


class Baseline(Protocol):
    """What trains a network: `model`, how it is executed, and what was said of that."""

    model: nn.Module
    kind: str
    said: list[str]

    def advance(self, updates: int) -> None:
        """So many updates; on CUDA they may be only queued."""

    def shared_batch(self) -> tuple[Tensor, Tensor]:
        """The first images of the data set, normalized but not augmented: float32 (B, 3, 32, 32), int64 (B,)."""

    def check(self) -> None:
        """RuntimeError if updates were left out."""


class Ours:
    """This project's training step on made images, executed as in a run; `said` is what the engine can't do here."""

    def __init__(self, config: RunConfig, device: torch.device, images: int):
        self.size = config.train.mini_batch_size
        self.model: nn.Module = place(build_model(config.model, config.seed, batch_norm_group(config)), config, device)
        self.step = TrainStep(self.model, random_data(images, device), config, Schedule.of(config))
        self.execution = Execution(self.step, config)
        self.kind, self.said = self.execution.kind, self.execution.problems

    def advance(self, updates: int) -> None:
        """See Contender."""
        self.execution.advance(updates)

    def check(self) -> None:
        """RuntimeError if a loss or gradient was not finite, after which the engine makes no update."""
        if int(self.step.failed_at) >= 0:
            raise RuntimeError(f"loss or gradient not finite at iteration {int(self.step.failed_at)}")

    def shared_batch(self) -> tuple[Tensor, Tensor]:
        """See Contender."""
        data = self.step.data
        assert isinstance(data, DeviceData)
        images = normalize(data.train_images[: self.size], data.mean, None)
        return images.contiguous(memory_format=self.step.memory_format), data.train_labels[: self.size]


BUILD: dict[str, Callable[[RunConfig, torch.device, int], Baseline]] = {
    OURS: Ours, EAGER: DeviceLoop, COMPILED: CompiledLoop, LOADER: LoaderLoop}


def measure(job: Job) -> dict[str, Any]:
    """Set up, check, warm up and time one contender (or the device itself); setup_seconds: until the timed updates.

    RuntimeError if our engine can't do what the contender's name asks for, and what else training raises.
    """
    started = time.perf_counter()
    config = resolve(config_of(job.depth, job.overrides, job.contender))
    kind, _, engine = job.contender.partition(":")
    if kind != RATES:  # the other loops have the faster format for updates that are not captured
        config, _ = with_memory_format(config if kind == OURS else replace(config, engine=Engine.eager))
    device = set_up(config, allocator=kind == OURS)
    if job.contender == RATES:
        return {"device": describe(device), "threads": torch.get_num_threads(), **device_rates(config, device)}
    torch.manual_seed(config.seed)  # order and augmentation of the loops that are not ours
    contender = BUILD[kind](config, device, job.images)
    if engine and engine not in (Engine.auto.name, *contender.kind.split("+")):
        raise RuntimeError("; ".join(contender.said))
    first_loss = shared_loss(contender, config, device)
    warmup = job.warmup
    if kind == LOADER:  # what the workers have made ahead meanwhile must not be timed
        warmup = max(warmup, PREFETCH * cores_here())
    timed_updates(contender, warmup, device)
    setup = time.perf_counter() - started
    seconds = timed_updates(contender, job.steps, device)
    contender.check()
    return {"kind": contender.kind, "said": contender.said,
            "parameters": sum(p.numel() for p in contender.model.parameters()),
            "shared_loss": first_loss, "last_loss": shared_loss(contender, config, device),
            "setup_seconds": setup, "warmup": warmup, "steps": job.steps, "ms_per_step": 1000 * seconds / job.steps,
            "images_per_second": job.steps * config.train.mini_batch_size / seconds}


def timed_updates(contender: Baseline, updates: int, device: torch.device) -> float:
    """Seconds until the device has done so many updates."""
    synchronize(device, all_streams=True)
    began = time.perf_counter()
    contender.advance(updates)
    synchronize(device, all_streams=True)
    return time.perf_counter() - began


def shared_loss(contender: Baseline, config: RunConfig, device: torch.device) -> float:
    """Cross-entropy of the network, in training mode, on the batch that all contenders share.

    Forward and backward, as compiled for training; running statistics and gradients are left as they were (none).
    """
    model = contender.model
    images, labels = contender.shared_batch()
    saved = [buffer.clone() for buffer in model.buffers()]
    norms = contender.step.norms if isinstance(contender, Ours) else []
    with autocast(device, config.machine.precision), count_batches_once(norms):  # as the step does, for compiled blocks
        logits = model(images)
    loss = F.cross_entropy(logits.float(), labels)
    torch.autograd.backward(loss)
    value = float(loss.detach())
    model.zero_grad(set_to_none=True)
    for buffer, old in zip(model.buffers(), saved, strict=True):
        buffer.copy_(old)
    return value


def main(text: str) -> None:
    """Print what was measured, or why nothing was."""
    print_result(lambda: measure(Job.of(text)))


if __name__ == "__main__":
    main(sys.argv[1])
