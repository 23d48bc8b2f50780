"""Run a suite: the experiments that answer one question, one after the other, then their tests; and what it costs."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from repro import devices, paper
from repro.config import compose, experiments, suggest
from repro.data import cifar10_files, fetch
from repro.data.cifar10 import DeviceData
from repro.devices import describe, place, resolve, restore_settings, set_up, synchronize
from repro.errors import ConfigError, DivergedError, InUseError, OutOfMemoryError, ReproError, Stopped
from repro.evaluation.ensemble import combine
from repro.evaluation.evaluate import evaluate
from repro.files import duration, utc_now
from repro.models import build_model
from repro.paths import data_dir, display_path, reference_dir, results_dir
from repro.reporting import select, status
from repro.runs import read_run
from repro.schema import CIFAR10, IMAGENET, VALIDATION_IMAGES, Device, RunConfig
from repro.stopping import StopRequest
from repro.training.distributed import Plan, plan, rank_from_environment
from repro.training.step import Execution, TrainStep, batch_norm_group
from repro.training.train import run

logger = logging.getLogger(__name__)


def run_suite(name: str, preset_name: str, seeds: int | None, overrides: list[str],
              command: list[str]) -> tuple[paper.Preset, Path, list[ReproError]]:
    """Run every experiment of a suite under a preset; finished runs are skipped, interrupted ones go on.

    preset `auto` is `paper` on CUDA, else `short`. Returns the preset, which names the tables and figures that it
    feeds, the folder of its results, and the errors of `run_each`. `max_seconds` in the overrides bounds the whole
    suite, its tests included.
    """
    suite = paper.suite(name)
    logger.info(f"suite {suite.name}: {suite.question}")
    preset = suite.preset(choose_preset(suite, preset_name, overrides))
    words = [*preset.overrides, *overrides]
    if preset.overrides and not any(word.startswith(("machine=", "machine.precision=")) for word in overrides):
        # Not bf16, however fast: at its initial values the gradient of plain-56 in bf16 has a cosine of 0.04 with that
        # in float64 (fp32: 0.99), so that a short run would show the arithmetic and not the network.
        words.append("machine.precision=fp32")
    configs = [compose([f"experiment={experiment}", *words]) for experiment in preset.experiments]
    plans = [plan(replace(config, seed=seed), command)
             for config in configs for seed in range(seeds or suite.seeds_of(config.name))]
    make_data(plans[0].config)
    with StopRequest(plans[0].config.max_seconds) as stop:
        failures = run_each(plans, stop)
        evaluate_finished(suite, plans, overrides, stop)
    return preset, results_dir(configs[0].results), failures


def choose_preset(suite: paper.Suite, asked: str, overrides: list[str]) -> str:
    """The preset to run. ConfigError for `auto` without a GPU where the suite has no short version."""
    if asked == "auto":
        asked = suite.default_preset
    if asked != "auto":
        return asked
    if resolve(compose([f"experiment={suite.experiments[0]}", *overrides])).machine.device is Device.cuda:
        return "paper"
    measure = f"`repro show {suite.name} --measure` says what preset=paper would take"
    if "short" not in suite.presets:
        raise ConfigError(f"suite {suite.name} needs a CUDA device and there is none here; {measure}")
    short = suite.presets["short"]
    logger.info(f"no CUDA device here: running the short version ({measure}).\n"
                f"  it shows {short.shows};\n  it cannot show {short.cannot_show}.")
    return "short"


def make_data(config: RunConfig) -> None:
    """Fetch CIFAR-10 if it is needed and not there yet; ImageNet, which nobody may pass on, each run looks for."""
    root = data_dir(config.data.root)
    if config.data.name == CIFAR10 and not os.path.isdir(cifar10_files.folder_in(root)):
        logger.info(f"CIFAR-10 is not in {display_path(root)} yet; fetching it (once)")
        fetch.fetch(root)


def run_each(plans: Sequence[Plan], stop: StopRequest) -> list[ReproError]:
    """Run one after the other, each on all of its devices, in the time that is left.

    A run that diverges, finds no memory or is in progress elsewhere leaves the others alone; these errors are returned,
    but for runs that have been finished elsewhere meanwhile.
    """
    if plans and plans[0].devices > 1 and rank_from_environment() is not None:
        raise ConfigError("a suite starts the processes of its runs itself (machine=ddp devices=N); under torchrun or "
                          "srun start its runs with `repro run`")
    failures = list[tuple[Plan, ReproError]]()
    for one in plans:
        if stop.reason is not None:
            raise Stopped(f"stopped by {stop.reason} before {one.title}\n{one.advice}", stop.exit_code)
        try:
            run(replace(one, config=replace(one.config, max_seconds=stop.seconds_left())))
        except (DivergedError, OutOfMemoryError, InUseError) as error:
            logger.warning(f"{error}\ngoing on with the rest")
            failures.append((one, type(error)(str(error))))  # without the frames, which keep the network alive
    return [error for one, error in failures if not read_run(one.folder).finished]


def evaluate_finished(suite: paper.Suite, plans: Sequence[Plan], overrides: list[str], stop: StopRequest) -> None:
    """Test every finished run by the suite's protocols, then make its ensembles where all members are there."""
    finished = [one for one in plans if read_run(one.folder).finished]
    for protocol, one in product(suite.protocols, finished):
        if stop.reason is not None:
            raise Stopped(f"stopped by {stop.reason} before the {protocol} test of {one.title}\n{one.advice}",
                          stop.exit_code)
        logger.info(evaluate(one.config, protocol, one.folder / "weights.pt", stop)[0])
    there = {(one.config.name, one.config.seed) for one in finished}
    for name in suite.ensembles:
        lacks = [f"{one.experiment} seed {one.seed}" for one in paper.ensemble(name).members
                 if (one.experiment, one.seed) not in there]
        logger.info(f"ensemble {name} not made: lacks {', '.join(lacks)}" if lacks else combine(name, overrides)[0])


def best_seconds(work: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Seconds of the fastest call, after one that is not counted: other work on the machine only ever adds."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times[1:])


@restore_settings()
def measure_cost(config: RunConfig) -> dict[str, Any]:
    """What a whole run would take here, computed from a few real updates and one test, on random images."""
    config = resolve(config)
    device, batch = set_up(config), config.train.mini_batch_size
    imagenet = config.data.name == IMAGENET
    size = 8 if imagenet and device.type == "cpu" else batch  # whose time is multiplied up
    part = replace(config, train=replace(config.train, mini_batch_size=size,
                                         batch_norm_group=min(size, config.train.batch_norm_group)))
    # A GPU is through fewer images than CIFAR-10 has so fast that their new orders would count.
    count = size if imagenet else max(size, 50_000 if device.type == "cuda" else 2_560)
    side = config.data.crop_size or 32
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 10, (count,), device=device)
    data = DeviceData(images, labels, images[:256], labels[:256], images[:8].float().mean(0), "random", "random", "")
    model = place(build_model(config.model, config.seed, batch_norm_group(part)), config, device).train()
    execution = Execution(TrainStep(model, data, part))
    schedule = execution.step.schedule

    updates = 20 if device.type == "cuda" else 1
    update = best_seconds(lambda: execution.advance(updates), device) / updates * batch / size
    test = best_seconds(lambda: execution.step.evaluate(model), device) / len(data.eval_images)
    tests = -(-schedule.iterations // schedule.interval) * (VALIDATION_IMAGES if imagenet else 10_000)
    return {"experiment": config.name, "device": describe(device), "precision": config.machine.precision.name,
            "engine": execution.kind, "iterations": schedule.iterations, "step_seconds": update,
            "test_seconds_per_image": test, "run_seconds": update * schedule.iterations + test * tests}


def measure_suite(name: str, overrides: list[str]) -> dict[str, Any]:
    """Measure each network of a suite, or of an experiment, say what all full runs would take here, and return it."""
    costs = list[dict[str, Any]]()
    suite = paper.Suite(name, "", (name,)) if name in experiments() else paper.suite(name)
    for experiment in suite.experiments:
        cost = measure_cost(compose([f"experiment={experiment}", *overrides])) | {"seeds": suite.seeds_of(experiment)}
        cost["text"] = f"{1000 * cost['step_seconds']:.0f} ms/step, {duration(cost['run_seconds'])} x {cost['seeds']}"
        logger.info(f"  {experiment:18} {cost['text']} for {cost['iterations']} iterations in {cost['precision']}")
        costs.append(cost)
    total = sum(cost["run_seconds"] * cost["seeds"] for cost in costs)
    logger.info(f"  all of them: {duration(total)} on {costs[0]['device']} (computed from a few measured steps each, "
                "without reading images from files)")
    return {"suite": name, "device": costs[0]["device"], "total_seconds": total, "versions": devices.package_versions(),
            "machine": devices.machine(), "code": devices.code_version(), "utc": utc_now(), "experiments": costs}


def run_pending(results: Path, names: list[str], overrides: list[str], max_seconds: float | None, dry_run: bool,
                command: list[str]) -> list[ReproError]:
    """Advance the full-length runs of CIFAR-10 that results/reference lacks, cheapest first; errors as of `run_each`.

    names: EXPERIMENT or EXPERIMENT/seedK, these alone and in this order; [] for all.
    """
    began = time.monotonic()

    def say_lacking(head: str) -> list[dict[str, Any]]:
        found = [one for one in status.lacking(*select.pools(results, reference_dir())) if one["dataset"] == CIFAR10]
        logger.info("\n".join([head, *(map(status.run_text, found) if found else ["  none"])]))
        return found

    for name in names:
        if name.partition("/")[0] not in experiments():
            raise ConfigError(f"--runs: {name!r} is no experiment{suggest(name, experiments())}")
    todo = [one for one in say_lacking("full-length runs that results/reference lacks, cheapest first:")
            if one["state"] == status.OPEN]
    if names:
        todo = [one for name in dict.fromkeys(names) for one in todo if name in (one["experiment"], one["run"])]
    plans, configs = list[Plan](), dict[str, RunConfig]()
    for name, seed in ((one["experiment"], one["seed"]) for one in todo):
        if name not in configs:
            configs[name] = compose([f"experiment={name}", *overrides])
        plans.append(plan(replace(configs[name], seed=seed), command))
        if plans[-1].deviations:
            raise ConfigError(f"this changes the numbers of {name}, and only the paper's runs count: "
                              + "; ".join(plans[-1].deviations))
    if dry_run or not plans:
        return []
    make_data(plans[0].config)
    if max_seconds is not None:  # a tenth, at most 20 s, is for the last test and the last checkpoint
        max_seconds = max(1e-3, max_seconds - min(20.0, max_seconds / 10) - (time.monotonic() - began))
    with StopRequest(max_seconds) as stop:
        try:
            return run_each(plans, stop)
        finally:
            say_lacking("now:")
