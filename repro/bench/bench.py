"""Measure all contenders in turn, each time in a fresh process, and hold what they did against the device's floors."""

import functools
import json
import logging
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from repro.bench import baseline
from repro.bench.plan import OURS, RATES, Job, Settings, config_of, depths_for, jobs_of
from repro.bench.roofline import Traffic, traffic_of
from repro.devices import resolve
from repro.errors import ReproError
from repro.files import utc_now
from repro.paths import own_module
from repro.provenance import code_version, machine, package_versions
from repro.schema import Device, Family, Precision, RunConfig

logger = logging.getLogger(__name__)
Run = Callable[[Job], dict[str, Any]]  # measures one job
PROGRAM = tuple(own_module("repro.bench.baseline"))
NO_TIME = "no time was left"
TIMEOUT = 1800.0  # Choice: seconds of one process; compiling 110 layers takes minutes on a few cores
LEARNED = 0.99  # Choice: the shared batch's loss must fall below this part of what it was
# Choice: how far losses of the shared batch may lie apart, relative; rounding alone, by precision.
SAME_LOSS = {Precision.fp32: 1e-3, Precision.tf32: 1e-2, Precision.bf16: 3e-2, Precision.fp16: 1e-2}


@dataclass
class Series:
    """All rounds of one contender on one network; after a failure no more are tried."""

    job: Job
    rounds: list[dict[str, Any]] = field(default_factory=list)
    failed: str | None = None
    seconds: float = 0.0  # the longest round

    def values(self, key: str) -> list[float]:
        """One number of each round."""
        return [one[key] for one in self.rounds]

    def result(self, run: Run) -> dict[str, Any]:
        """Measure the job once more, and remember how long that took."""
        began = time.monotonic()
        result = run(self.job)
        self.seconds = max(self.seconds, time.monotonic() - began)
        return result


@dataclass(frozen=True)
class Net:
    """One network, what an update of it needs at least, and who trains it."""

    config: RunConfig
    traffic: Traffic
    series: list[Series]

    @classmethod
    def of(cls, settings: Settings, depth: int, device: Device) -> "Net":
        """The network of this depth as the settings ask for it."""
        config = resolve(config_of(depth, settings.overrides))
        return cls(config, traffic_of(config.model), [Series(job) for job in jobs_of(settings, depth, device)])

    @property
    def name(self) -> str:
        """'ResNet-20' or 'plain-20'."""
        model = self.config.model
        return f"{'plain' if model.family is Family.plain else 'ResNet'}-{model.depth}"


def bench(settings: Settings, run: Run | None = None) -> dict[str, Any]:
    """Measure what the settings ask for and return the record, plain values for JSON.

    Rounds x (device, then each network x each contender), each in a fresh process, one after the other; a quick bench
    measures the device once, in this process. A contender that fails is in the record with its reason. Nothing begins
    that would not end within `max_seconds`. Raises ReproError if the device can't be measured, ConfigError.
    """
    ends = math.inf if settings.max_seconds is None else time.monotonic() + settings.max_seconds
    in_time = functools.partial(fresh_process, ends=ends)
    rate_run = run if run is not None else measure_here if settings.quick else in_time
    run = run if run is not None else in_time
    start = {"started": utc_now(), "load_average_before": round(os.getloadavg()[0], 2), "code": code_version()}
    config = resolve(config_of(20, settings.overrides))
    device = config.machine.device
    nets = [Net.of(settings, depth, device) for depth in depths_for(settings, device)]
    rates = Series(Job(RATES, 20, settings.overrides, 0, 0, 0))
    for number in range(1, settings.rounds + 1):
        head = f"{'quick, ' if settings.quick else ''}round {number} of {settings.rounds}"
        if number == 1 or not (settings.quick or is_late(rates, ends)):
            logger.info(f"{head}: {measure_rates(rates, rate_run)}")
        for net in nets:
            for one in net.series:
                if is_late(one, ends):
                    one.failed = one.failed or (None if one.rounds else NO_TIME)
                elif one.failed is None:
                    logger.info(f"{head}: {net.name} {one.job.contender}: {measure(one, net, run)}")
    return record_of(settings, config, rates, nets) | start


def is_late(series: Series, ends: float) -> bool:
    """Whether another round, as long as the longest until now, would not end in time."""
    return time.monotonic() + series.seconds >= ends


def measure_rates(rates: Series, run: Run) -> str:
    """One more round of the device itself, and what to say of it. ReproError if there is no result."""
    result = rates.result(run)
    if "failed" in result:
        raise ReproError(f"this device can't be measured: {result['failed']}")
    rates.rounds.append(result)
    return (f"{result['device']}: copy {result['copy_bytes_per_second'] / 1e9:.1f} GB/s, "
            f"matrices {result['matrix_operations_per_second'] / 1e12:.3f} TFLOP/s")


def measure(series: Series, net: Net, run: Run) -> str:
    """One more round of a contender, and what to say of it."""
    result = series.result(run)
    if result.get("failed") == NO_TIME and series.rounds:
        return NO_TIME
    expected = next((other.rounds[0]["shared_loss"] for other in net.series if other.rounds), None)
    series.failed = failure_reason(result, net.traffic.parameters, expected, net.config.machine.precision)
    if series.failed is not None:
        return f"failed: {series.failed}"
    series.rounds.append(result)
    return f"{result['ms_per_step']:.2f} ms/step, {result['images_per_second']:.0f} images/s ({result['kind']})"


def failure_reason(result: dict[str, Any], parameters: int, expected: float | None, precision: Precision) -> str | None:
    """Why a result does not count; None if it does.

    It must be of the same network (parameters, and the loss on the shared batch before training where another contender
    has told it), and it must have trained: the loss on that batch is lower afterwards.
    """
    if "failed" in result:
        return str(result["failed"])
    before, after = result["shared_loss"], result["last_loss"]
    if result["parameters"] != parameters:
        return f"another network: {result['parameters']} parameters, not {parameters}"
    if not (math.isfinite(before) and math.isfinite(after)):
        return f"the loss is not finite: {before:g} before, {after:g} after the updates"
    if expected is not None and abs(before - expected) > SAME_LOSS[precision] * expected:
        return f"another loss on the shared batch: {before:.5g}, not {expected:.5g}"
    if after > LEARNED * before:
        return f"it did not train: loss {before:.5g} before, {after:.5g} after the updates"
    return None


def record_of(settings: Settings, config: RunConfig, rates: Series, nets: list[Net]) -> dict[str, Any]:
    """The whole record: what was measured, what was computed from it, and with what."""
    measured = {key: spread(rates.values(key)) for key in ("copy_bytes_per_second", "matrix_operations_per_second")}
    return {"bench": "training", "quick": settings.quick, "rounds": settings.rounds,
            "device": rates.rounds[0]["device"], "precision": config.machine.precision.name,
            "mini_batch_size": config.train.mini_batch_size, "overrides": list(settings.overrides),
            "measured": measured, "nets": [net_record(net, measured) for net in nets],
            "versions": package_versions(), "machine": machine() | {"threads": rates.rounds[0]["threads"]},
            "utc": utc_now()}


def net_record(net: Net, measured: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One network: its floors, computed, and its contenders."""
    traffic, batch = net.traffic, net.config.train.mini_batch_size
    copy, matrix = (measured[key]["median"] for key in ("copy_bytes_per_second", "matrix_operations_per_second"))
    floors = {"byte_ms": 1000 * traffic.byte_seconds(batch, net.config.machine.precision, copy),
              "compute_ms": 1000 * traffic.compute_seconds(batch, matrix)}
    floor = max(floors.values())
    ours = next((one for one in net.series if is_ours(one.job) and one.failed is None), None)
    return {"net": net.name, "depth": net.config.model.depth, "parameters": traffic.parameters,
            "computed": {**floors, "floor_ms": floor, "multiply_adds_per_image": traffic.multiply_adds,
                         "map_elements_per_image": traffic.elements},
            "contenders": [contender_record(one, ours, floor) for one in net.series]}


def is_ours(job: Job) -> bool:
    """Whether the job is one of our engine's, whichever way it executes the step."""
    return job.contender.partition(":")[0] == OURS


def contender_record(series: Series, ours: Series | None, floor: float) -> dict[str, Any]:
    """One contender: medians and spread of its rounds, and ratios of medians; or why there are none."""
    job = series.job
    head = {"contender": job.contender, "images": job.images, "steps": job.steps}
    if series.failed:
        return head | {"status": "failed", "reason": series.failed, "rounds_before": series.rounds}
    times = spread(series.values("ms_per_step"))
    ratio = times["median"] / median(ours.values("ms_per_step")) if ours else None
    return head | {"status": "measured", "ms_per_step": times,
                   "images_per_second": spread(series.values("images_per_second")),
                   "time_over_ours": ratio, "ours": ours.job.contender if ours else None,
                   "time_over_floor": times["median"] / floor,
                   **{key: series.rounds[0][key] for key in ("kind", "said", "warmup")},
                   **{key: series.values(key) for key in ("setup_seconds", "shared_loss", "last_loss")}}


def spread(values: list[float]) -> dict[str, Any]:
    """Median, smallest and largest of some numbers, and all of them in the order in which they were measured."""
    return {"median": median(values), "min": min(values), "max": max(values), "values": values}


def measure_here(job: Job) -> dict[str, Any]:
    """Measure a job in this process, which has torch loaded already."""
    return baseline.measure(job)


def fresh_process(job: Job, ends: float = math.inf) -> dict[str, Any]:
    """Measure a job in a process of its own with our environment; {"failed": reason} if that ends without a result.

    `ends`: the time, by the clock of time.monotonic, at which it is cut.
    """
    left = ends - time.monotonic()
    result = run_program([*PROGRAM, job.text()], min(TIMEOUT, max(0.0, left)))
    return {"failed": NO_TIME} if "failed" in result and time.monotonic() >= ends else result


def run_program(command: list[str], seconds: float = TIMEOUT) -> dict[str, Any]:
    """The result that a program prints, or {"failed": reason}.

    The process and its workers are killed when it takes too long and when we are interrupted.
    """
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True)
    try:
        out, err = process.communicate(timeout=seconds)
    except BaseException as error:  # Ctrl-C among them
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            return {"failed": f"no result after {seconds:g} s"}
        raise
    return result_of(process.returncode, out, err)


def result_of(code: int, out: str, err: str) -> dict[str, Any]:
    """The last line that a process printed, or why there is none."""
    lines = out.strip().splitlines()
    if code == 0 and lines:
        with suppress(ValueError):
            result = json.loads(lines[-1])
            if isinstance(result, dict):
                return result
    said = err.strip().splitlines()
    how = f"killed by signal {-code}" if code < 0 else f"ended with {code}"
    return {"failed": f"its process {how}" + (f": {said[-1].strip()}" if said else "")}
