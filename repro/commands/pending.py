"""The command that advances the paper's full-length runs on whatever machine is at hand: pending."""

import argparse
import shlex
import time
from collections.abc import Iterable
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
    began = time.monotonic()
    if options.max_seconds is not None and options.max_seconds <= 0:
        raise ConfigError(f"--max-seconds {options.max_seconds:g}: allowed is above 0")
    from repro.config import check_override_keys, compose, deviations
    from repro.reporting.status import FINISHED, OPEN, pending

    words = options.overrides
    check_override_keys(words)
    results = results_of(compose(["experiment=cifar_resnet20", *words]).results)
    lacking = pending(*runs_of(results=results))
    print("\n".join(["full-length runs that results/reference lacks, cheapest first:",
                     *(map(str, lacking) if lacking else ["  none"])]), flush=True)
    open_runs = [one for one in lacking if one.state == OPEN]
    todo = (open_runs if options.runs is None else in_order(options.runs.split(","), lacking))[: options.most]
    configs = [compose([f"experiment={one.experiment}", f"seed={one.seed}", *words]) for one in todo]
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
    left = None
    if options.max_seconds is not None:
        reserve = min(RESERVE_SECONDS, RESERVE * options.max_seconds)
        left = max(0.001, options.max_seconds - reserve - (time.monotonic() - began))
    limit = [] if options.max_seconds is None else ["--max-seconds", f"{options.max_seconds:g}"]
    chosen = [] if options.runs is None else ["--runs", options.runs]
    command = [program(), "pending", *limit, *chosen, *options.overrides]
    try:
        with StopRequest(left) as stop:
            failures = run_each([plan(config, command) for config in configs], stop)
    except Stopped as error:
        say_end(map(str, pending(*runs_of(results=results))))
        raise Stopped(f"{str(error).splitlines()[0]}\ngo on with: {shlex.join(command)}", error.exit_code) from error
    lacking = pending(*runs_of(results=results))
    finished = [one.name for one in lacking if one.state == FINISHED]
    say_end([*map(str, lacking), *(f"next: {program()} publish {name}" for name in finished)])
    if failures:
        raise failures[0]
    return 0


def say_end(found: Iterable[str]) -> None:
    """What is lacking when the command ends."""
    print("\n".join(["", "now:", *(list(found) or ["  nothing is lacking"])]), flush=True)


def in_order(names: list[str], lacking: list["Pending"]) -> list["Pending"]:
    """The open runs of these names, in their order; ConfigError for a name that is no experiment's."""
    from repro.config import experiments, suggest
    from repro.reporting.status import OPEN

    found = []
    for name in names:
        if name.partition("/")[0] not in experiments():
            raise ConfigError(f"--runs: {name!r} is no experiment{suggest(name, experiments())}")
        found += [one for one in lacking if name in (one.name, one.experiment) and one.state == OPEN
                  and one not in found]
    return found


def check_data(root: str | None) -> None:
    """Raise DataError where CIFAR-10 is not on this machine."""
    from repro.data import cifar10_files
    from repro.paths import data_dir, display_path

    folder = data_dir(root)
    if cifar10_files.find(folder) is None:
        raise DataError(f"CIFAR-10 is not in {display_path(folder)}; `{program()} data fetch cifar10` needs the "
                        "network, or bring cifar-10-batches-py/ there yourself")
