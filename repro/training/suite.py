"""Run a suite: the experiments that answer one question, one after the other, then their tests; and what it costs."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from repro.config import compose, with_precision
from repro.data import cifar10_files, fetch
from repro.data.cifar10 import DeviceData
from repro.devices import describe, resolve, restore_settings
from repro.errors import ConfigError, DivergedError, InUseError, OutOfMemoryError, ReproError, Stopped
from repro.evaluation.ensemble import combine
from repro.evaluation.evaluate import evaluate
from repro.files import utc_now
from repro.paper import Preset, Suite
from repro.paper import ensemble as read_ensemble
from repro.paper import suite as read_suite
from repro.paths import data_dir
from repro.provenance import code_version, machine, package_versions
from repro.runs import read_run
from repro.schema import CIFAR10, IMAGENET, VALIDATION_IMAGES, Device, Precision, RunConfig
from repro.stopping import StopRequest
from repro.training.distributed import rank_from_environment
from repro.training.launch import run
from repro.training.plan import Plan, plan
from repro.training.schedule import Schedule
from repro.training.timing import best_seconds, prepare, update_seconds, with_memory_format
from repro.wording import duration

logger = logging.getLogger(__name__)
CIFAR10_TEST = 10_000  # images (Sec. 4.2)
CPU_IMAGES = 8  # of ImageNet in a measured update on a CPU


def run_suite(name: str, preset_name: str, seeds: int | None, overrides: list[str],
              command: list[str]) -> tuple[Preset, list[ReproError]]:
    """Run every experiment of a suite under a preset; finished runs are skipped, interrupted ones go on.

    preset `auto` is `paper` on CUDA, else `short` where the suite has it. Returns the preset, which names the tables
    and figures that it feeds, and the errors of `run_each`. `max_seconds` in the overrides bounds the whole suite, its
    tests included. Raises what `repro.training.launch.run` does.
    """
    suite = read_suite(name)
    preset = suite.preset(choose_preset(suite, preset_name, overrides))
    assert preset.experiments is not None
    precision = short_precision(preset, overrides) if preset.overrides else None  # not for the paper's schedule
    plans = [plan(config_of(experiment, seed, preset, overrides, precision), command)
             for experiment in preset.experiments for seed in range(seeds or suite.seeds_of(experiment))]
    make_data(plans[0].config)
    with StopRequest(plans[0].config.max_seconds) as stop:
        failures = run_each(plans, stop)
        evaluate_finished(suite, plans, overrides, stop)
    return preset, failures


def run_each(plans: Sequence[Plan], stop: StopRequest) -> list[ReproError]:
    """Run one after the other, each on all of its devices, in the time that is left.

    A run that diverges, finds no memory or is in progress elsewhere leaves the others alone; these errors are returned,
    but for runs that have been finished elsewhere meanwhile. So several processes can do the runs of one suite.
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
            failures.append((one, error))
    return [error for one, error in failures if not read_run(one.folder).finished]


def evaluate_finished(suite: Suite, plans: Sequence[Plan], overrides: list[str], stop: StopRequest) -> None:
    """Test every finished run by the suite's protocols, then make its ensembles where all members are there.

    What is tested already is read, an interrupted test begins again. Raises what `evaluate` does.
    """
    finished = [one for one in plans if read_run(one.folder).finished]
    for protocol, one in product(suite.protocols, finished):
        if stop.reason is not None:
            raise Stopped(f"stopped by {stop.reason} before the {protocol} test of {one.title}\n{one.advice}",
                          stop.exit_code)
        logger.info(evaluate(one.config, protocol, one.folder / "weights.pt", stop)[0])
    there = {(one.config.name, one.config.seed) for one in finished}
    for name in suite.ensembles:
        lacks = [f"{one.experiment} seed {one.seed}" for one in read_ensemble(name).members
                 if (one.experiment, one.seed) not in there]
        logger.info(f"ensemble {name} not made: lacks {', '.join(lacks)}" if lacks else combine(name, overrides)[0])


def choose_preset(suite: Suite, asked: str, overrides: list[str]) -> str:
    """The preset to run. `auto` without a GPU is the short one, said with the paper's cost as measured here.

    ConfigError for `auto` without a GPU where the suite has no short version.
    """
    logger.info(f"suite {suite.name}: {suite.question}")
    if asked == "auto":
        asked = suite.default_preset
    if asked != "auto":
        return asked
    if resolve(compose([f"experiment={suite.experiments[0]}", *overrides])).machine.device is Device.cuda:
        return "paper"
    if "short" not in suite.presets:
        raise ConfigError(f"suite {suite.name} needs a CUDA device and there is none here; preset=paper (PRESET=paper) "
                          f"runs it anyway, `repro cost {suite.name}` measures what that takes")
    if not has_begun(suite.preset("short"), overrides):
        logger.info("no CUDA device here; measuring a few steps to say what the paper's schedule would cost:")
        measure_cost(suite, [override for override in overrides if not override.startswith("scale=")])
        short = suite.presets["short"]
        logger.info("running the short version instead (PRESET=paper or preset=paper runs the full one).\n"
                    f"  it shows {short.shows};\n  it cannot show {short.cannot_show}.")
    return "short"


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


@restore_settings()
def measure(config: RunConfig, updates: int = 3) -> Cost:
    """Time a few real updates (after some to warm up) and one test batch, on random images.

    Of ImageNet on a CPU smaller mini-batches, whose time, which grows with the images in them, is multiplied up.
    """
    config, _ = with_memory_format(resolve(config))
    part, size = config, config.train.mini_batch_size
    if config.data.crop_size is not None and config.machine.device is Device.cpu:
        size = min(CPU_IMAGES, size)
        part = replace(config, train=replace(config.train, mini_batch_size=size, batch_norm_group=size))
    execution = prepare(part)
    data, device = execution.step.data, execution.step.device
    assert isinstance(data, DeviceData)
    step_seconds = update_seconds(execution, updates) * config.train.mini_batch_size / size
    test_seconds = best_seconds(execution.evaluate, 1, device)
    return Cost(config.name, describe(device), config.machine.precision.name, step_seconds,
                test_seconds / len(data.eval_images), updates * execution.block, execution.kind)


def measure_cost(suite: Suite, overrides: list[str]) -> dict[str, Any]:
    """Measure each network of a suite, say what its full run and all of them would take here, and return the same."""
    total, entries, device, caveat = 0.0, [], "", ""
    for experiment in suite.experiments:
        config = compose([f"experiment={experiment}", *overrides])
        measured, schedule = measure(config), Schedule.of(config)
        imagenet = config.data.name == IMAGENET
        tests = sum(schedule.evaluates(done) for done in range(1, schedule.iterations + 1))
        images = tests * (VALIDATION_IMAGES if imagenet else CIFAR10_TEST)
        seconds = measured.step_seconds * schedule.iterations + measured.test_seconds_per_image * images
        caveat = ", without reading and decoding images (repro bench input)" if imagenet else ""
        seeds, device = suite.seeds_of(experiment), measured.device
        total += seconds * seeds
        text = f"{1000 * measured.step_seconds:.0f} ms/step, {duration(seconds)}" + (f" x {seeds}" if seeds > 1 else "")
        entries.append({**asdict(measured), "iterations": schedule.iterations, "run_seconds": seconds, "seeds": seeds,
                        "text": text})
        logger.info(f"  {experiment:18} {text} for {schedule.iterations} iterations in {measured.precision}")
    logger.info(f"  all of them: {duration(total)} on {device} (computed from a few measured steps each{caveat})")
    return {"suite": suite.name, "device": device, "total_seconds": total, "versions": package_versions(),
            "machine": machine(), "code": code_version(), "utc": utc_now(), "experiments": entries}


def short_precision(preset: Preset, overrides: list[str]) -> Precision | None:
    """The precision of a short run: None as asked, else that of runs that are there, else fp32.

    Not bf16, however fast: at its initial values the gradient of plain-56 in bf16 has a cosine of 0.04 with that in
    float64 (fp32: 0.99), so that a short run would show the arithmetic and not the network.
    """
    if any(override.startswith(("machine=", "machine.precision=")) for override in overrides):
        return None
    return has_begun(preset, overrides) or Precision.fp32


def has_begun(preset: Preset, overrides: list[str]) -> Precision | None:
    """The precision, bf16 or fp32, in which runs of the preset are there already; None if there are none."""
    for precision, name in product((Precision.bf16, Precision.fp32), preset.experiments or ()):
        if read_run(plan(config_of(name, 0, preset, overrides, precision)).folder).record:
            return precision
    return None


def config_of(experiment: str, seed: int, preset: Preset, overrides: list[str],
              precision: Precision | None) -> RunConfig:
    """One run of the suite: the preset's overrides, then the user's."""
    config = compose([f"experiment={experiment}", f"seed={seed}", *preset.overrides, *overrides])
    return with_precision(config, precision) if precision else config


def make_data(config: RunConfig) -> None:
    """Fetch CIFAR-10 if it is needed and not there yet; ImageNet, which nobody may pass on, each run looks for."""
    root = data_dir(config.data.root)
    if config.data.name == CIFAR10 and cifar10_files.find(root) is None:
        logger.info(f"CIFAR-10 is not in {root} yet; fetching it (once)")
        fetch.fetch(root)
