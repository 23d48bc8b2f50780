"""Several runs at once on one device, in one process: each has its own CUDA stream and graphs, and they take turns.

A turn only queues updates, so the device always has work of several runs. On a CPU they take turns just the same, and
gain nothing by it.
"""

import logging
import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TypeVar

import torch

from repro.devices import new_stream, resolve, restore_settings, set_up, synchronize
from repro.errors import CaptureError, DivergedError, InUseError, OutOfMemoryError, ReproError, Stopped
from repro.runs import Run, title
from repro.schema import Device, RunConfig
from repro.stopping import StopRequest
from repro.training import engine
from repro.training.cost import prepare, random_data, with_memory_format
from repro.training.execution import Execution

logger = logging.getLogger(__name__)
Failure = TypeVar("Failure", bound=ReproError)
CANDIDATES = (1, 2, 4, 8)  # runs at once that are tried
NEAR = 0.95  # Choice: of the best rate; the fewest runs that reach it are taken, since they end sooner
SHARE = 0.1  # Choice: of the time that is left, at most this goes into the measurement


class Lane:
    """One run that is under way."""

    def __init__(self, config: RunConfig, stream: torch.cuda.Stream | None, stop: StopRequest, command: list[str],
                 jobs: int):
        self.config, self.stream, self.begun = config, stream, False
        self.steps: Generator[None, None, Run] = engine.run_stepwise(config, stop, command, jobs)

    def advance(self) -> bool:
        """Queue the run's next updates; False at its end. Raises what the run raises."""
        self.begun = True
        with in_stream(self.stream):
            return next(self.steps, self) is not self


def in_stream(stream: torch.cuda.Stream | None) -> AbstractContextManager[object]:
    """Work of this block goes to the stream, or to the current one for None."""
    return nullcontext() if stream is None else torch.cuda.stream(stream)


@restore_settings()
def run_all(configs: Sequence[RunConfig], stop: StopRequest, command: list[str], jobs: int) -> list[ReproError]:
    """Run every configuration, up to `jobs` at a time and only such together whose machine settings agree.

    A run that diverges, finds no memory or is in progress elsewhere leaves the others alone; these errors are
    returned. At any other error the runs that are under way go on to their end, no new one begins, and the error is
    raised then. Raises Stopped (75 or 130) when all have saved their state.
    """
    waiting, lanes = deque(configs), list[Lane]()
    failures, stopped, fatal = list[ReproError](), list[Stopped](), list[Exception]()
    shares = jobs > 1 and bool(configs) and resolve(configs[0]).machine.device is Device.cuda
    streams = [new_stream(torch.device("cuda")) if shares else None for _ in range(jobs)]
    while lanes or (waiting and stop.reason is None and not fatal):
        while waiting and len(lanes) < jobs and stop.reason is None and not fatal and fits(waiting[0], lanes):
            lanes.append(Lane(waiting.popleft(), streams.pop(), stop, command, jobs))
        for lane in list(lanes):
            try:
                if (lane.begun or not fatal) and lane.advance():
                    continue
            except Stopped as error:
                stopped.append(without_frames(error))
            except (DivergedError, OutOfMemoryError, InUseError) as error:
                logger.warning(f"{error}\ngoing on with the rest")
                failures.append(without_frames(error))
            except Exception as error:
                if isinstance(error, CaptureError) and len(lanes) > 1:
                    logger.warning(f"{error}\n{title(lane.config)} is left as it was; no run begins here after those "
                                   "under way")
                fatal.append(error)
            lanes.remove(lane)
            streams.append(lane.stream)
    for other in [*fatal, *stopped][1:]:
        logger.warning(str(other))
    if fatal:
        raise fatal[0]
    if stopped:
        raise stopped[0]
    if waiting:
        raise Stopped(f"stopped by {stop.reason} before {title(waiting[0])}", stop.exit_code)
    return failures


def without_frames(error: Failure) -> Failure:
    """The error without its traceback and cause, whose frames would keep the run's memory on the device."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def fits(config: RunConfig, lanes: list[Lane]) -> bool:
    """Whether a run may share the process with those under way: torch's settings are one for all of them."""
    return all(resolve(config).machine == resolve(lane.config).machine for lane in lanes)


@restore_settings()
def best_jobs(config: RunConfig, most: int, seconds_left: float | None = None) -> int:
    """How many runs like this one to do at once on this device: the fewest that come near the best total rate measured.

    Nothing more is tried after a tenth of `seconds_left`. On a CPU always 1: runs that take turns in one process share
    the same cores.
    """
    config = resolve(config)
    if config.machine.device is not Device.cuda:
        return 1
    config, began = with_memory_format(config)[0], time.monotonic()
    rates: dict[int, float] = {}
    together = RandomRuns(config)
    said = []
    for jobs in CANDIDATES:
        if jobs > most or (seconds_left is not None and time.monotonic() - began > SHARE * seconds_left):
            break
        try:
            rates[jobs] = together.updates_per_second(jobs)
        except torch.OutOfMemoryError:
            said.append(f"{jobs}: no memory")
            break
        said.append(f"{jobs}: {rates[jobs]:.0f}")
    best = min((jobs for jobs, rate in rates.items() if rate >= NEAR * max(rates.values())), default=1)
    logger.info(f"runs at once: {best} (updates/s of {config.name} measured here by number of runs: "
                f"{', '.join(said)})")
    return best


class RandomRuns:
    """Runs of a resolved configuration on the same random images, more and more of them; nothing is written."""

    def __init__(self, config: RunConfig):
        self.config, self.device = config, set_up(config)
        self.data = random_data(self.device, config)
        synchronize(self.device, all_streams=True)  # the runs' own streams would not wait for it
        self.lanes: list[tuple[torch.cuda.Stream | None, Execution]] = []

    def updates_per_second(self, jobs: int, seconds: float = 1.0) -> float:
        """Updates per second of so many runs together; at least as many as were asked for before."""
        while len(self.lanes) < jobs:
            stream = new_stream(self.device) if self.device.type == "cuda" else None
            with in_stream(stream):
                execution = prepare(replace(self.config, seed=len(self.lanes)), self.data)
                execution.advance(execution.block)
                self.lanes.append((stream, execution))
        synchronize(self.device, all_streams=True)
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            for stream, execution in self.lanes:
                with in_stream(stream):
                    execution.advance(execution.block)
                done += execution.block
        synchronize(self.device, all_streams=True)
        return done / (time.perf_counter() - began)
