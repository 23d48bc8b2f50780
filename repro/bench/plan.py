"""What a bench measures: networks, contenders, rounds and lengths. Never imports torch."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from repro.config import check_override_keys, compose, experiments, suggest
from repro.errors import ConfigError
from repro.schema import Device, Engine, RunConfig

OURS, EAGER, COMPILED, LOADER, RATES = "repro", "eager_loop", "reduce_overhead", "dataloader", "rates"
CONTENDERS = (OURS, EAGER, COMPILED, LOADER)
KEYS = ("nets", "contenders", "rounds", "steps")  # what `repro bench` reads beside the configuration
ROUNDS = 5  # fewer are no evidence
QUICK_ROUNDS = 2
IMAGES, QUICK_IMAGES = 50_000, 2_560  # as many as CIFAR-10 has; few enough to be made at once
# Choice: with this rate networks of every depth learn the made images within the few updates that are timed; the time
# of an update doesn't depend on it.
LEARNING_RATE = "train.lr=0.01"
VERY_DEEP = 110  # Choice: deeper networks only against the eager loop, and with few updates: they take minutes


@dataclass(frozen=True)
class Settings:
    """What was asked for; None: as it suits the device."""

    depths: tuple[int, ...] | None
    contenders: tuple[str, ...] | None
    rounds: int
    steps: int | None
    overrides: tuple[str, ...]
    quick: bool
    max_seconds: float | None = None


@dataclass(frozen=True)
class Job:
    """One fresh process: `contender` trains a network for `warmup` updates and then, timed, for `steps`."""

    contender: str  # one of CONTENDERS, repro:ENGINE, or RATES, which measures the device
    depth: int
    overrides: tuple[str, ...]
    warmup: int
    steps: int
    images: int

    def text(self) -> str:
        """One line of JSON, for the process's command line."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> "Job":
        """The job of such a line."""
        job = cls(**json.loads(text))
        return replace(job, overrides=tuple(job.overrides))


def settings_of(words: Sequence[str], quick: bool, max_seconds: float | None = None) -> Settings:
    """The settings of a command line, key=value each. ConfigError for a wrong one."""
    if max_seconds is not None and max_seconds <= 0:
        raise ConfigError(f"--max-seconds {max_seconds:g}: allowed is above 0")
    given = dict(word.partition("=")[::2] for word in words if word.partition("=")[0] in KEYS)
    overrides = tuple(word for word in words if word.partition("=")[0] not in KEYS)
    check_override_keys(overrides)
    if any(word.startswith(("experiment=", "model.depth=", "model.blocks_per_stage=")) for word in overrides):
        raise ConfigError("nets=DEPTH,... chooses the networks of a bench, e.g. nets=20,56")
    depths = tuple(number("nets", word) for word in given["nets"].split(",")) if "nets" in given else None
    contenders = tuple(given["contenders"].split(",")) if "contenders" in given else None
    for contender in contenders or ():
        check_contender(contender)
    rounds = number("rounds", given["rounds"]) if "rounds" in given else QUICK_ROUNDS if quick else ROUNDS
    steps = number("steps", given["steps"]) if "steps" in given else None
    for depth in depths or ():
        config_of(depth, overrides)
    return Settings(depths, contenders, rounds, steps, overrides, quick, max_seconds)


def number(key: str, text: str) -> int:
    """A whole number from 1; ConfigError otherwise."""
    if not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise ConfigError(f"{key}={text}: allowed are whole numbers from 1 to 999999")
    return int(text)


def check_contender(name: str) -> None:
    """Raise ConfigError for a contender that there isn't."""
    known = [*CONTENDERS, *(f"{OURS}:{engine}" for engine in Engine.__members__)]
    if name not in known:
        raise ConfigError(f"no contender {name!r}{suggest(name, known)}\nthere are: {', '.join(known)}")


def config_of(depth: int, overrides: Sequence[str], contender: str = OURS) -> RunConfig:
    """The configuration that a contender trains: the experiment of this depth, or the one of 20 layers made as deep."""
    name = f"cifar_resnet{depth}"
    net = [f"experiment={name}"] if name in experiments() else ["experiment=cifar_resnet20", f"model.depth={depth}"]
    engine = contender.partition(":")[2]
    return compose([*net, LEARNING_RATE, *overrides, *([f"engine={engine}"] if engine else [])])


def depths_for(settings: Settings, device: Device) -> tuple[int, ...]:
    """The depths asked for, or those that the device trains in reasonable time."""
    usual = (20,) if settings.quick else (20, 56, 110, 1202) if device is Device.cuda else (20, 56)
    return settings.depths or usual


def jobs_of(settings: Settings, depth: int, device: Device) -> list[Job]:
    """One job for each contender of a network, in the order in which they run in every round."""
    usual: tuple[str, ...] = (OURS, EAGER) if depth > VERY_DEEP else CONTENDERS
    if settings.quick:
        usual = (OURS, LOADER)  # Choice: what fits into a minute on 2 cores
    warmup, steps = lengths(settings, depth, device)
    images = QUICK_IMAGES if settings.quick else IMAGES
    return [Job(name, depth, settings.overrides, warmup, settings.steps or steps, images)
            for name in settings.contenders or usual]


def lengths(settings: Settings, depth: int, device: Device) -> tuple[int, int]:
    """Updates to warm up and updates to time. Choice: about a second or more of each on the device."""
    if device is Device.cpu:
        return (1, 2) if settings.quick else (5, 20)
    if depth > VERY_DEEP:
        return 10, 20
    return (50, 100) if settings.quick else (100, 300)


def print_result(measure: Callable[[], Any]) -> None:
    """Print what a contender's process measured as its last line, of JSON, or why nothing was."""
    try:
        result = measure()
    except Exception as error:  # reported by the parent beside what the others measured
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        result = {"failed": f"{type(error).__name__}: {lines[0] if lines else 'no message'}"}
    print("\n" + json.dumps(result), flush=True)
