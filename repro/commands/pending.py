"""The command that advances the paper's full-length runs on whatever machine is at hand: pending."""

import argparse
import shlex
import time
from typing import TYPE_CHECKING

from repro.commands.common import Add, check_versions, program, results_of, runs_of
from repro.errors import ConfigError, DataError, Stopped
from repro.streams import keep_on_without_output

if TYPE_CHECKING:
    from repro.reporting.status import Pending

RESERVE = 0.1  # of --max-seconds, at most RESERVE_SECONDS: for the last test and the last checkpoint
RESERVE_SECONDS = 20.0


def register(add: Add) -> None:
    """Add this command."""
    command = add("pending", "advance the full-length runs that results/reference lacks, cheapest first", show_pending)
    command.add_argument("--max-seconds", type=float, metavar="S", help="be done in this time, everything saved")
    command.add_argument("--dry-run", action="store_true", help="only say what is lacking")
    command.add_argument("--most", type=int, metavar="N", help="at most so many runs, the cheapest")
    command.add_argument("--runs", metavar="A,B,...",
                         help="these and in this order: EXPERIMENT, its lacking seeds, or EXPERIMENT/seedK")
    command.add_argument("overrides", nargs="*", metavar="key=value",
                         help="overrides that change no number, such as engine= or machine.device=")


def show_pending(options: argparse.Namespace) -> int:
    """`repro pending`: 0 when nothing is left to do, 75 when time or a signal ended it."""
    began, words, seconds = time.monotonic(), options.overrides, options.max_seconds
    if seconds is not None and seconds <= 0:
        raise ConfigError(f"--max-seconds {seconds:g}: allowed is above 0")
    from repro.config import check_override_keys, compose, deviations
    from repro.reporting.status import FINISHED, OPEN, pending

    check_override_keys(words)
    results = results_of(compose(["experiment=cifar_resnet20", *words]).results)
    lacking = pending(*runs_of(results=results))
    print("\n".join(["full-length runs that results/reference lacks, cheapest first:",
                     *(map(str, lacking) if lacking else ["  none"])]), flush=True)
    todo = [one for one in lacking if one.state == OPEN]
    if options.runs is not None:
        todo = in_order(options.runs.split(","), todo)
    configs = [compose([f"experiment={one.experiment}", f"seed={one.seed}", *words]) for one in todo[: options.most]]
    for config in configs:
        if deviations(config):
            raise ConfigError(f"this changes the numbers of {config.name}, and only the paper's runs count: "
                              + "; ".join(deviations(config)))
    if options.dry_run or not configs:
        return 0
    check_versions()
    check_data(configs[0].data.root)
    from repro.stopping import StopRequest
    from repro.training.plan import plan
    from repro.training.suite import run_each

    keep_on_without_output()
    left, command = None, [program(), "pending"]
    if seconds is not None:
        left = max(0.001, seconds - min(RESERVE_SECONDS, RESERVE * seconds) - (time.monotonic() - began))
        command += ["--max-seconds", f"{seconds:g}"]
    command += ["--runs", options.runs] if options.runs is not None else []
    command += words
    try:
        with StopRequest(left) as stop:
            failures = run_each([plan(config, command) for config in configs], stop)
    except Stopped as error:
        failures = [Stopped(f"{str(error).splitlines()[0]}\ngo on with: {shlex.join(command)}", error.exit_code)]
    lacking = pending(*runs_of(results=results))
    print("\n".join(["", "now:", *(map(str, lacking) if lacking else ["  nothing is lacking"]),
                     *(f"next: {program()} publish {one.name}" for one in lacking if one.state == FINISHED)]),
          flush=True)
    if failures:
        raise failures[0]
    return 0


def in_order(names: list[str], lacking: list["Pending"]) -> list["Pending"]:
    """The runs of these names, in their order; ConfigError for a name that is no experiment's."""
    from repro.config import experiments, suggest

    found = []
    for name in names:
        if name.partition("/")[0] not in experiments():
            raise ConfigError(f"--runs: {name!r} is no experiment{suggest(name, experiments())}")
        found += [one for one in lacking if name in (one.name, one.experiment) and one not in found]
    return found


def check_data(root: str | None) -> None:
    """Raise DataError where CIFAR-10 is not on this machine."""
    from repro.data import cifar10_files
    from repro.paths import data_dir, display_path

    folder = data_dir(root)
    if cifar10_files.find(folder) is None:
        raise DataError(f"CIFAR-10 is not in {display_path(folder)}; `{program()} data fetch cifar10` needs the "
                        "network, or bring cifar-10-batches-py/ there yourself")
