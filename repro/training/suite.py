"""Run a suite: the experiments that answer one question, one after the other, then their tables and figures."""

import logging
import shlex
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from typing import Any

from repro.config import compose, with_precision
from repro.data import cifar10_files, fetch
from repro.devices import resolve
from repro.errors import CaptureError, ConfigError, DivergedError, InUseError, OutOfMemoryError, ReproError, Stopped
from repro.evaluation.ensemble import combine
from repro.evaluation.evaluate import evaluate
from repro.paper import Preset, Suite
from repro.paper import ensemble as read_ensemble
from repro.paper import suite as read_suite
from repro.paths import data_dir
from repro.provenance import code_version, machine, package_versions
from repro.runs import Run, read_run, run_folder, title, utc_now
from repro.schema import CIFAR10, IMAGENET, VALIDATION_IMAGES, Device, Engine, Precision, RunConfig
from repro.stopping import StopRequest, command_to_go_on
from repro.training import cost, engine, lanes, launcher
from repro.training.distributed import rank_from_environment, with_devices
from repro.training.schedule import Schedule
from repro.wording import duration

logger = logging.getLogger(__name__)
CIFAR10_TEST = 10_000  # images (Sec. 4.2)


def run_suite(name: str, preset_name: str, seeds: int | None, overrides: list[str], command: list[str],
              jobs: int | None = None) -> tuple[Preset, list[ReproError]]:
    """Run every experiment of a suite under a preset; finished runs are skipped, interrupted ones go on.

    preset `auto` is `paper` on CUDA, else `short` where the suite has it. `jobs` runs go on at once; None: as many as
    a measurement says. Returns the preset, which names the tables and figures that it feeds, and the errors of runs
    that diverged or found no memory; these don't stop the others. `max_seconds` in the overrides bounds the whole
    suite, its tests included. Raises what else `engine.run` does.
    """
    suite = read_suite(name)
    chosen = choose_preset(suite, preset_name, overrides)
    preset = suite.preset(chosen)
    assert preset.experiments is not None
    precision = short_precision(preset, overrides) if preset.overrides else None  # not for the paper's schedule
    configs = [config_of(experiment, seed, preset, overrides, precision) for experiment in preset.experiments
               for seed in range(seeds or suite.seeds_of(experiment))]
    make_data(configs[0])
    with StopRequest(configs[0].max_seconds) as stop:
        try:
            failures = run_unfinished(configs, stop, command, jobs)
        except CaptureError as error:
            logger.warning(f"{error}\ngoing on without graphs: engine=eager, each run in a fresh process")
            eager = [replace(config, engine=Engine.eager, devices=1) for config in configs]
            failures = one_after_the_other(eager, stop, command, partial(launcher.launch, engine.run))
        evaluate_finished(suite, configs, overrides, stop, command)
    return preset, failures


def evaluate_finished(suite: Suite, configs: list[RunConfig], overrides: list[str], stop: StopRequest,
                  command: list[str]) -> None:
    """Test every finished run by the suite's protocols, then make its ensembles where all members are there.

    What is tested already is read, an interrupted test begins again. Raises what `evaluation.evaluate.evaluate` does.
    """
    finished = [(config, run_folder(config)) for config in configs if read_run(run_folder(config)).finished]
    for protocol, (config, folder) in product(suite.protocols, finished):
        if stop.reason is not None:
            raise Stopped(f"stopped by {stop.reason} before the {protocol} test of {title(config)}\n"
                          f"go on with: {shlex.join(command_to_go_on(command))}", stop.exit_code)
        logger.info(evaluate(config, protocol, folder / "weights.pt", stop)[0])
    there = {(config.name, config.seed) for config, _ in finished}
    for name in suite.ensembles:
        lacks = [f"{one.experiment} seed {one.seed}" for one in read_ensemble(name).members
                 if (one.experiment, one.seed) not in there]
        logger.info(f"ensemble {name} not made: lacks {', '.join(lacks)}" if lacks else combine(name, overrides)[0])


def run_unfinished(configs: list[RunConfig], stop: StopRequest, command: list[str],
                   jobs: int | None) -> list[ReproError]:
    """`lanes.run_all` with the number of jobs that suits what is left to do, the first of it being typical."""
    left = [config for config in configs if not read_run(run_folder(resolve(config))).finished]
    if left and (with_devices(left[0]).devices or 1) > 1:
        return one_after_the_other(left, stop, command)
    if jobs is None and left and left[0].data.name == IMAGENET:
        jobs = 1  # one run fills a GPU, and two would share the cores that decode
    if jobs is None:
        jobs = lanes.best_jobs(left[0], len(left), seconds_left=stop.seconds_left()) if len(left) > 1 else 1
    return lanes.run_all(configs, stop, command, jobs)


def one_after_the_other(configs: list[RunConfig], stop: StopRequest, command: list[str],
                        run: Callable[[RunConfig, list[str]], Run] = engine.run) -> list[ReproError]:
    """Run each configuration on all of its devices; errors as in `lanes.run_all`."""
    if rank_from_environment() is not None:
        raise ConfigError("a suite starts the processes of its runs itself (machine=ddp devices=N); under torchrun or "
                          "srun start its runs with `repro run`")
    failures = list[ReproError]()
    for config in configs:
        if stop.reason is not None:
            raise Stopped(f"stopped by {stop.reason} before {title(config)}", stop.exit_code)
        try:
            run(replace(config, max_seconds=stop.seconds_left()), command)
        except (DivergedError, OutOfMemoryError, InUseError) as error:
            logger.warning(f"{error}\ngoing on with the rest")
            failures.append(error)
    return failures


def choose_preset(suite: Suite, asked: str, overrides: list[str]) -> str:
    """The preset to run. `auto` without a GPU is the short one, said with the paper's cost as measured here.

    ConfigError for an unknown preset, and for `auto` without a GPU where the suite has no short version.
    """
    if asked == "auto":
        asked = suite.default_preset
    if asked != "auto":
        suite.preset(asked)
    logger.info(f"suite {suite.name}: {suite.question}")
    first = resolve(compose([f"experiment={suite.experiments[0]}", *overrides]))
    if asked != "auto" or first.machine.device is Device.cuda:
        return "paper" if asked == "auto" else asked
    if "short" not in suite.presets:
        raise ConfigError(f"suite {suite.name} needs a CUDA device and there is none here; preset=paper (PRESET=paper) "
                          f"runs it anyway, `repro cost {suite.name}` measures what that takes")
    if not has_begun(suite.preset("short"), overrides):
        logger.info("no CUDA device here; measuring a few steps to say what the paper's schedule would cost:")
        measure_cost(suite, [override for override in overrides if not override.startswith("scale=")])
        logger.info(
            f"running the short version instead (PRESET=paper or preset=paper runs the full one).\n"
            f"  it shows {suite.presets['short'].shows};\n  it cannot show {suite.presets['short'].cannot_show}.")
    return "short"


def measure_cost(suite: Suite, overrides: list[str]) -> dict[str, Any]:
    """Measure each network of a suite, say what its full run and all of them would take here, and return the same."""
    total, entries, device, caveat = 0.0, [], "", ""
    for experiment in suite.experiments:
        config = compose([f"experiment={experiment}", *overrides])
        measured, iterations = cost.measure(config), Schedule.of(config).iterations
        imagenet = config.data.name == IMAGENET
        seconds = measured.run_seconds(Schedule.of(config), VALIDATION_IMAGES if imagenet else CIFAR10_TEST)
        caveat = ", without reading and decoding images (repro bench input)" if imagenet else ""
        seeds, device = suite.seeds_of(experiment), measured.device
        total += seconds * seeds
        text = f"{1000 * measured.step_seconds:.0f} ms/step, {duration(seconds)}" + (f" x {seeds}" if seeds > 1 else "")
        entries.append({**asdict(measured), "iterations": iterations, "run_seconds": seconds, "seeds": seeds,
                        "text": text})
        logger.info(f"  {experiment:18} {text} for {iterations} iterations in {measured.precision}")
    logger.info(f"  all of them: {duration(total)} on {device} (computed from a few measured steps each{caveat})")
    return {"suite": suite.name, "device": device, "total_seconds": total, "versions": package_versions(),
            "machine": machine(), "code": code_version(), "utc": utc_now(), "experiments": entries}


def short_precision(preset: Preset, overrides: list[str]) -> Precision | None:
    """The precision of a short run: as asked, else that of runs that are there, else fp32.

    Not bf16, however fast: at its initial values the gradient of plain-56 in bf16 has a cosine of 0.04 with that in
    float64 (fp32: 0.99), so that a short run would show the arithmetic and not the network.
    """
    if any(override.startswith(("machine=", "machine.precision=")) for override in overrides):
        return None
    return has_begun(preset, overrides) or Precision.fp32


def has_begun(preset: Preset, overrides: list[str]) -> Precision | None:
    """The precision, bf16 or fp32, in which runs of the preset are there already; None if there are none."""
    for precision in (Precision.bf16, Precision.fp32):
        folders = [run_folder(config_of(name, 0, preset, overrides, precision)) for name in preset.experiments or ()]
        if any(read_run(folder).record for folder in folders):
            return precision
    return None


def config_of(experiment: str, seed: int, preset: Preset, overrides: list[str],
              precision: Precision | None) -> RunConfig:
    """One run of the suite: the preset's overrides, then the user's."""
    config = compose([f"experiment={experiment}", f"seed={seed}", *preset.overrides, *overrides])
    return resolve(with_precision(config, precision) if precision else config)


def make_data(config: RunConfig) -> None:
    """Fetch CIFAR-10 if it is needed and not there yet; ImageNet, which nobody may pass on, each run looks for."""
    root = data_dir(config.data.root)
    if config.data.name == CIFAR10 and cifar10_files.find(root) is None:
        logger.info(f"CIFAR-10 is not in {root} yet; fetching it (once)")
        fetch.fetch(root)
