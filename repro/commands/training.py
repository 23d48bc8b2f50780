"""Commands that train or measure: suite, cost, responses."""

import argparse
from pathlib import Path

from repro.commands.common import Add, check_versions, program, results_of, runs_of
from repro.commands.tables import make_figure, make_table
from repro.errors import ConfigError
from repro.streams import keep_on_without_output


def register(add: Add) -> None:
    """Add these commands."""
    suite = add("suite", "run all experiments of a suite, then its tables and figures", run_suite)
    suite.add_argument("name", help="e.g. cifar_plain_vs_res")
    suite.add_argument("overrides", nargs="*", metavar="key=value",
                       help="preset=auto|paper|short, seeds=K, and any override of `repro run`")
    cost = add("cost", "measure a few steps and say what a suite would cost on this machine", show_cost)
    cost.add_argument("name", help="a suite")
    cost.add_argument("overrides", nargs="*", metavar="key=value")
    cost.add_argument("--json", action="store_true", help="print JSON")
    responses = add("responses", "measure the layer responses of finished runs that lack them, and draw Figure 7",
                    show_responses)
    responses.add_argument("runs", nargs="*", metavar="RUN | key=value",
                           help="EXPERIMENT/seedK or a run's folder (none: all of CIFAR-10 that lack them); "
                                "data.root=, machine.device=")


def run_suite(options: argparse.Namespace) -> int:
    """`repro suite`."""
    settings = {"preset": "auto", "seeds": "0"}
    overrides = []
    for override in options.overrides:
        key, _, value = override.partition("=")
        if key in settings:
            settings[key] = value
        else:
            overrides.append(override)
    if not settings["seeds"].isdigit() or ("seeds=0" in options.overrides):
        raise ConfigError(f"seeds={settings['seeds']}: allowed is 1 or more")
    from repro.config import check_override_keys, compose
    from repro.paper import suite as read_suite

    check_override_keys(overrides)
    first = compose([f"experiment={read_suite(options.name).experiments[0]}", *overrides])
    check_versions()
    from repro.training.suite import run_suite as run_all

    keep_on_without_output()

    preset, failures = run_all(options.name, settings["preset"], int(settings["seeds"]) or None, overrides,
                               [program(), "suite", options.name, *options.overrides])
    results = results_of(first.results)
    print()
    found = runs_of(results=results)
    for name in preset.tables or ():
        make_table(name, found, results / "tables")
    for name in preset.figures or ():
        make_figure(name, found, results / "figures")
    if read_suite(options.name).claims:
        from repro.reporting.claims import claims_text, evaluate

        print(f"\nclaims of the paper (repro claims {options.name}):\n{claims_text(evaluate(found, options.name))}")
    if failures:
        raise failures[0]
    return 0


def show_cost(options: argparse.Namespace) -> int:
    """`repro cost`."""
    import json

    from repro.paper import suite as read_suite

    suite = read_suite(options.name)
    check_versions()
    from repro.training.suite import measure_cost

    costs = measure_cost(suite, options.overrides)
    if options.json:
        print(json.dumps(costs, indent=2))
    return 0


def show_responses(options: argparse.Namespace) -> int:
    """`repro responses`."""
    from repro.reporting import figures
    from repro.runs import find_run, scan
    from repro.schema import IMAGENET

    results = results_of()
    overrides = [word for word in options.runs if "=" in word and not Path(word).exists()]
    named = [find_run(word, results) for word in options.runs if word not in overrides]
    wanted = named or [run for run in scan(results / "runs") if run.finished and not run.responses()
                       and run.record is not None and run.record.config.data.name != IMAGENET
                       and (run.folder / "weights.pt").is_file()]
    if wanted:
        check_versions()
        from repro.training.measurements import add_responses

        for run in wanted:
            add_responses(run, overrides)
    for name in figures.names():
        if name.endswith("figure7"):
            make_figure(name, runs_of(results=results), results / "figures")
    return 0
