"""Run a suite: the experiments that answer one question, one after the other, then their tests; and what it costs."""

import logging
import os
import time
import timeit
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from repro import devices, paper
from repro.config import compose, experiments
from repro.data import cifar10_files
from repro.data.cifar10 import DeviceData
from repro.devices import describe, place, resolve, restore_settings, set_up, synchronize
from repro.errors import ConfigError, DataError, DivergedError, InUseError, OutOfMemoryError, ReproError, Stopped
from repro.evaluation.evaluate import combine, evaluate
from repro.files import duration, utc_now
from repro.models import build_model
from repro.paths import data_dir, reference_dir, results_dir
from repro.reporting import select, status
from repro.runs import read_run
from repro.schema import CIFAR10, IMAGENET, VALIDATION_IMAGES, Device, RunConfig
from repro.stopping import StopRequest
from repro.training.distributed import Plan, plan
from repro.training.step import Execution, TrainStep, batch_norm_group
from repro.training.train import run

logger = logging.getLogger(__name__)


def run_suite(name: str, preset_name: str, seeds: int | None, overrides: list[str],
              command: list[str]) -> tuple[paper.Preset, Path, list[ReproError]]:
    """Run a suite under a preset, auto: its own, else paper on CUDA and short without.

    Returns the preset, the folder of the results, and errors as `run_each`.
    """
    suite = paper.suite(name)
    chosen = suite.default_preset if preset_name == "auto" else preset_name
    if chosen == "auto":
        here = resolve(compose([f"experiment={suite.experiments[0]}", *overrides])).machine.device
        chosen = "paper" if here is Device.cuda else "short"
        if chosen not in ("paper", *suite.presets):
            raise ConfigError(f"suite {name} needs a CUDA device and there is none here; preset=paper runs it anyway")
    preset = suite.preset(chosen)
    logger.info(f"suite {suite.name}, preset={chosen}: {suite.question}")
    if preset.shows:
        logger.info(f"it shows {preset.shows};\n  it cannot show {preset.cannot_show}.")
    configs = [compose([f"experiment={one}", *preset.overrides, *overrides]) for one in preset.experiments]
    plans = [plan(replace(config, seed=seed), command)
             for config in configs for seed in range(seeds or suite.seeds.get(config.name, 1))]
    make_data(plans[0].config)
    with StopRequest(plans[0].config.max_seconds) as stop:
        failures = run_each(plans, stop)
        evaluate_finished(suite, plans, overrides, stop)
    return preset, results_dir(configs[0].results), failures


def make_data(config: RunConfig) -> None:
    """Fetch CIFAR-10 if it is needed and not there yet; ImageNet, which nobody may pass on, each run looks for."""
    root = data_dir(config.data.root)
    if config.data.name == CIFAR10 and not os.path.isdir(cifar10_files.folder_in(root)):
        cifar10_files.fetch(root)


def run_each(plans: Sequence[Plan], stop: StopRequest) -> list[ReproError]:
    """Run one after the other in the time that is left; the errors of those that failed and left the others alone."""
    failures = list[tuple[Plan, ReproError]]()
    for one in plans:
        if stop.reason is not None:
            raise Stopped(f"stopped by {stop.reason} before {one.title}\n{one.advice}", stop.exit_code)
        try:
            run(replace(one, config=replace(one.config, max_seconds=stop.seconds_left())))
        except (DivergedError, OutOfMemoryError, InUseError) as error:
            logger.warning(f"{error}\ngoing on with the rest")
            failures.append((one, type(error)(str(error))))  # without the frames, which keep the network alive
    return [error for one, error in failures if not read_run(one.folder).finished]  # elsewhere meanwhile


def evaluate_finished(suite: paper.Suite, plans: Sequence[Plan], overrides: list[str], stop: StopRequest) -> None:
    """Test every finished run by the suite's protocols, then make its ensembles where all members are there."""
    for protocol, one in product(suite.protocols, [one for one in plans if read_run(one.folder).finished]):
        if stop.reason is not None:
            raise Stopped(f"stopped by {stop.reason} before a test of {one.title}\n{one.advice}", stop.exit_code)
        logger.info(evaluate(one.config, protocol, one.folder / "weights.pt", stop)[0])
    for name in suite.ensembles:
        try:
            logger.info(combine(name, overrides)[0])
        except DataError as error:
            logger.warning(str(error))


def best_seconds(work: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Seconds of the fastest call, after one that is not counted: other work on the machine only ever adds."""
    def whole() -> None:
        work()
        synchronize(device)

    return min(timeit.repeat(whole, repeat=repeats + 1, number=1)[1:])


@restore_settings()
def measure_cost(config: RunConfig) -> dict[str, Any]:
    """What a whole run would take here, computed from a few real updates and one test, on random images."""
    config = resolve(config)
    device, batch, imagenet = set_up(config), config.train.mini_batch_size, config.data.name == IMAGENET
    side = config.data.crop_size or 32
    size = 8 if imagenet and device.type == "cpu" else batch  # whose time is multiplied up
    part = replace(config, train=replace(config.train, mini_batch_size=size,
                                         batch_norm_group=min(size, config.train.batch_norm_group)))
    images = torch.randint(0, 256, (size if imagenet else 50_000, 3, side, side), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 10, (len(images),), device=device)
    data = DeviceData(images, labels, images[:256], labels[:256], images[:8].float().mean(0), "random", "random", "")
    model = place(build_model(config.model, config.seed, batch_norm_group(part)), config, device).train()
    execution, updates = Execution(TrainStep(model, data, part)), 20 if device.type == "cuda" else 1
    schedule = execution.step.schedule
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
        cost = measure_cost(compose([f"experiment={experiment}", *overrides]))
        cost["seeds"] = suite.seeds.get(experiment, 1)
        cost["text"] = f"{1000 * cost['step_seconds']:.0f} ms/step, {duration(cost['run_seconds'])} x {cost['seeds']}"
        logger.info(f"  {experiment:18} {cost['text']} for {cost['iterations']} iterations in {cost['precision']}")
        costs.append(cost)
    total = sum(cost["run_seconds"] * cost["seeds"] for cost in costs)
    logger.info(f"  all of them: {duration(total)} on {costs[0]['device']}, without reading images from files")
    return {"suite": name, "device": costs[0]["device"], "total_seconds": total, "utc": utc_now(),
            "versions": devices.package_versions(), "machine": devices.machine(), "code": devices.code_version(),
            "experiments": costs}


def run_pending(results: Path, names: list[str], overrides: list[str], max_seconds: float | None, dry_run: bool,
                command: list[str]) -> list[ReproError]:
    """Advance the runs of CIFAR-10 that results/reference lacks, cheapest first, or those that are named, in order.

    names: EXPERIMENT or EXPERIMENT/seedK. Returns the errors of `run_each`.
    """
    began = time.monotonic()
    for name in names:
        paper.pick(name.partition("/")[0], dict.fromkeys(experiments()), "experiment")
    lacking = [one for one in status.lacking(*select.pools(results, reference_dir())) if one["dataset"] == CIFAR10]
    if names:
        lacking = [one for name in dict.fromkeys(names) for one in lacking if name in (one["experiment"], one["run"])]
    logger.info("\n".join(["full-length runs that results/reference lacks, cheapest first:",
                           *(map(status.run_text, lacking) if lacking else ["  none"])]))
    todo = [one for one in lacking if one["state"] == status.OPEN]
    plans = list[Plan]()
    for one in todo:
        config = compose([f"experiment={one['experiment']}", *overrides])
        plans.append(plan(replace(config, seed=one["seed"]), command))
        if plans[-1].deviations:
            raise ConfigError(f"this changes the numbers of {config.name}, and only the paper's runs count: "
                              + "; ".join(plans[-1].deviations))
    if dry_run or not plans:
        return []
    make_data(plans[0].config)
    if max_seconds is not None:  # a tenth, at most 20 s, is for the last test and the last checkpoint
        max_seconds = max(1e-3, max_seconds - min(20.0, max_seconds / 10) - (time.monotonic() - began))
    with StopRequest(max_seconds) as stop:
        return run_each(plans, stop)
