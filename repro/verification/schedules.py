"""The recipe as the paper words it, restated here in a few lines, against the schedules of all experiments."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from repro.config import paper_config
from repro.data.cifar10 import DeviceData
from repro.devices import resolve
from repro.models import build_model
from repro.ranges import CIFAR10, IMAGENET
from repro.schema import Device, Family, RunConfig
from repro.training.schedule import Schedule
from repro.training.step import TrainStep
from repro.verification.check import Difference, agreement, same
from repro.verification.identities import pinned_configs

RATES = (0.1, 0.01, 0.001)  # Sec. 3.4, 4.2: "0.1", "divide it by 10", twice
WARM = 0.01  # Sec. 4.2: "we use 0.01 to warm up the training"
WARMED_FROM = 110  # Sec. 4.2: layers (n = 18)
WINDOW, CAP = 100, 2000  # Choice of the project, as in conf/protocol/cifar10.yaml: mini-batches; the paper says neither
UPDATES = 700  # of the made course of the warm-up


@dataclass(frozen=True)
class Recipe:
    """What the paper fixes of a data set's training; lengths in iterations."""

    drops: tuple[int, int]
    end: int
    mini_batch: int

    def rate(self, iteration: int) -> float:
        """The learning rate after the warm-up."""
        first, second = self.drops
        return RATES[0] if iteration < first else RATES[1] if iteration < second else RATES[2]

    def places(self) -> list[int]:
        """Iterations at which a rate could be wrong: beginning, end, and around the drops."""
        return [0, 1, 399, *(drop + step for drop in self.drops for step in (-1, 0, 1)), self.end - 1]


RECIPES = {CIFAR10: Recipe((32_000, 48_000), 64_000, 128),  # Sec. 4.2
           IMAGENET: Recipe((150_000, 300_000), 600_000, 256)}  # Sec. 3.4; the drops: arXiv 1603.05027


def trained() -> Iterator[tuple[str, RunConfig, Recipe]]:
    """Every experiment of the paper that is trained, as it stands in conf/, and its data set's recipe."""
    for name, config in pinned_configs():
        if config.model.family is not Family.vgg:
            yield name, config, RECIPES[config.data.name]


def schedule() -> str:
    """Rates, lengths and constants of every experiment, in the host's schedule and in that of the training step."""
    compared: list[Difference] = []
    schedules: dict[Schedule, Recipe] = {}
    for name, config, recipe in trained():
        found = Schedule.of(config)
        schedules[found] = recipe
        compared += of_host(name, config, found, recipe)
    names = len({one.what.partition(" ")[0] for one in compared})
    for one, recipe in schedules.items():
        compared.append(on_device(one, recipe))
    return f"{same(compared)} rates, lengths and constants of {names} experiments, {len(schedules)} training steps"


def of_host(name: str, config: RunConfig, found: Schedule, recipe: Recipe) -> Iterator[Difference]:
    """`repro.training.schedule` and the constants beside it."""
    for iteration in recipe.places():
        yield Difference(f"{name} learning rate at iteration {iteration}", recipe.rate(iteration),
                         found.rate(iteration))
    warms = config.data.name == CIFAR10 and (config.model.depth or 0) >= WARMED_FROM
    yield Difference(f"{name} learning rate while the training error is above 80 %", WARM if warms else "no warm-up",
                     found.rate(0, warming=True) if found.warmup.name == "error80" else "no warm-up")
    train = config.train
    for what, expected, value in (("iterations", recipe.end, found.iterations), ("momentum", 0.9, train.momentum),
                                  ("mini-batch", recipe.mini_batch, train.mini_batch_size),
                                  ("weight decay", 1e-4, train.weight_decay)):  # Sec. 3.4, 4.2
        yield Difference(f"{name} {what}", expected, value)


def on_device(found: Schedule, recipe: Recipe) -> Difference:
    """The rates that a training step with this schedule reads from its tensors."""
    step = made_step(found)
    step.warming.zero_()
    found_rates = []
    for iteration in recipe.places():
        step.iteration.fill_(iteration)
        found_rates.append(float(step.learning_rate()))
    expected = [recipe.rate(iteration) for iteration in recipe.places()]
    return agreement(f"rates of the training step until iteration {recipe.end}", np.array(expected, np.float32),
                     np.array(found_rates, np.float32))


def made_step(found: Schedule) -> TrainStep:
    """A training step of the smallest network that follows a schedule; its images are blank."""
    config = paper_config("cifar_resnet20")
    config = resolve(replace(config, model=replace(config.model, blocks_per_stage=1, depth=8),
                             machine=replace(config.machine, device=Device.cpu)))
    images = torch.zeros(config.train.mini_batch_size, 3, 32, 32, dtype=torch.uint8)
    labels = torch.zeros(len(images), dtype=torch.int64)
    data = DeviceData(images, labels, images, labels, torch.zeros(3, 32, 32), "full", "test", "made up")
    return TrainStep(build_model(config.model), data, config, found)


def warm_up() -> str:
    """The warm-up of the 110-layer networks: over once the error is below 80 %, and never back."""
    step = made_step(Schedule.of(paper_config("cifar_resnet110")))
    errors = made_errors(step.mini_batch_size)
    found = []
    for count in errors:
        found.append(float(step.learning_rate()))
        step.iteration.add_(1)
        step.update_warmup(torch.tensor(count), torch.tensor(True))
    expected = warmed_rates(errors, step.mini_batch_size)
    ended = expected.index(RATES[0])
    same([agreement("learning rate by iteration", np.array(expected, np.float32), np.array(found, np.float32)),
          Difference("iteration at which the warm-up ended", ended, int(step.warmup_end)),
          Difference("whether 80.0 % ends it", False, step.schedule.warmup_ends(WINDOW, 80.0)),
          Difference("whether 79.9 % ends it", True, step.schedule.warmup_ends(WINDOW, 79.9)),
          Difference("whether 79.9 % ends it too early", False, step.schedule.warmup_ends(WINDOW - 1, 79.9)),
          Difference("whether the cap ends it", True, step.schedule.warmup_ends(CAP, 99.0))])
    return f"{len(errors)} made mini-batches, lr {WARM} until iteration {ended}, then {RATES[0]} for good"


def made_errors(mini_batch: int) -> list[int]:
    """Wrong images of each mini-batch: from 95 % down to 74 %, unsteady, and above 80 % once more at the end."""
    course = [95 - min(21.0, 0.05 * number) + 4 * (number % 3 - 1) for number in range(UPDATES - 100)]
    return [round(mini_batch * percent / 100) for percent in [*course, *[90.0] * 100]]


def warmed_rates(errors: list[int], mini_batch: int) -> list[float]:
    """The rate of each update: 0.01 until the error of the last mini-batches is below 80 %, from there on 0.1."""
    last: deque[int] = deque(maxlen=WINDOW)
    rates, warm = [], True
    for done, count in enumerate(errors):
        rates.append(WARM if warm else RATES[0])
        last.append(count)
        below = len(last) == WINDOW and 100 * sum(last) / (WINDOW * mini_batch) < 80
        warm = warm and not below and done + 1 < CAP
    return rates
