"""The command line: one subcommand per task, heavy imports inside the command that needs them."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TextIO, cast

from repro import __version__
from repro.errors import ComparisonError, ConfigError, ReproError

DESCRIPTION = """\
Reproduce "Deep Residual Learning for Image Recognition" (arXiv 1512.03385).

  repro suite cifar_plain_vs_res          the central experiment, tables and figures included
  repro run experiment=cifar_resnet20     one run; any key=value of its configuration can follow
  repro list                              experiments, suites, tables and figures, and what is there of them
  repro table table6                      a table: published, reference and yours side by side
"""
RUN_USAGE = """\
usage: repro run experiment=NAME [key=value ...]        one run (again: goes on where it stopped)
       repro run -m experiment=A,B seed=0,1 [...]       a sweep, as Hydra does it
       repro run experiment=NAME --cfg job              the composed configuration, nothing runs

Keys are described in repro/schema.py; the most used ones: seed=0, scale=0.01 (shortens every length alike),
max_seconds=600, resume=never, data.root=FOLDER, data.split=45k, model.shortcut_option=B, model.depth=32,
machine.device=cpu, machine.precision=fp32, --config-dir DIR for configuration files of your own.
REPRO_DATA, REPRO_RESULTS and REPRO_DEVICE stand in for data.root, results and machine.device.
"""
HYDRA_FLAGS = ("-m", "--multirun", "-c", "--cfg", "--info", "-i", "-p", "--package", "--resolve", "--hydra-help",
               "--experimental-rerun")


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ConfigErrors with a suggestion for a misspelt subcommand."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError (exit 2)."""
        raise ConfigError(f"{message}\n{self.format_usage().strip()}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors are one message unless REPRO_DEBUG=1."""
    try:
        code = dispatch(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except ReproError as error:
        return fail(f"repro: {error}", error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        return fail("repro: stopped", 130)
    except Exception as error:
        return fail(f"repro: unexpected error: {type(error).__name__}: {error}\n"
                    "REPRO_DEBUG=1 shows where it happened", 1)


def fail(message: str, code: int) -> int:
    """Print the message (or, with REPRO_DEBUG=1, raise the error that is being handled) and return the code."""
    if os.environ.get("REPRO_DEBUG") == "1":
        raise
    print(message, file=sys.stderr)
    return code


def dispatch(arguments: list[str]) -> int:
    """Find the subcommand and call it."""
    if arguments[:1] == ["run"]:
        return run(arguments[1:])
    parser, commands = build_parser()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
        import difflib

        close = difflib.get_close_matches(arguments[0], commands, 1)
        raise ConfigError(f"no command {arguments[0]!r}" + (f"; did you mean {close[0]}?" if close else "")
                          + f"\nthere are: {', '.join(commands)}")
    if not arguments:
        parser.print_help()
        return 2
    options = parser.parse_args(arguments)
    handler: Callable[[argparse.Namespace], int] = options.handler
    return handler(options)


def build_parser() -> tuple[Parser, list[str]]:
    """The argument parser and the names of its subcommands."""
    parser = Parser(prog="repro", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"repro {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    names = []

    def add(name: str, text: str, handler: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        names.append(name)
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(handler=handler)
        return command

    add("run", "train one experiment, or sweep over several (repro run --help)", lambda options: run([]))
    suite = add("suite", "run all experiments of a suite, then its tables and figures", run_suite)
    suite.add_argument("name", help="e.g. cifar_plain_vs_res")
    suite.add_argument("overrides", nargs="*", metavar="key=value",
                       help="preset=auto|paper|short, seeds=K, and any override of `repro run`")
    cost = add("cost", "measure a few steps and say what a suite would cost on this machine", show_cost)
    cost.add_argument("name", help="a suite")
    cost.add_argument("overrides", nargs="*", metavar="key=value")
    cost.add_argument("--json", action="store_true", help="print JSON")
    listing = add("list", "list experiments, suites, tables and figures", show_list)
    listing.add_argument("--json", action="store_true", help="print JSON")
    for name, text, handler in (("table", "print and write a table", make_tables),
                                ("figure", "draw a figure as SVG and PNG", make_figures)):
        command = add(name, text, handler)
        command.add_argument("name", help=f"a {name}'s name, or all")
        command.add_argument("--reference", action="store_true", help="from the committed runs only, beside them")
        if name == "table":
            command.add_argument("--check", action="store_true", help="compare the committed tables with their runs")
            command.add_argument("--strict", action="store_true", help="exit 4 if a result is worse than published")
            command.add_argument("--json", action="store_true", help="print JSON")
    evaluate = add("eval", "test a network with given weights", evaluate_weights)
    evaluate.add_argument("overrides", nargs="+", metavar="key=value",
                          help="experiment=NAME weights=FILE (a plain state_dict) and any override of `repro run`")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    data = add("data", "fetch or verify a data set, or say where it is", manage_data)
    data.add_argument("action", choices=["fetch", "verify", "path"])
    data.add_argument("name", nargs="?", default="cifar10", choices=["cifar10"])
    data.add_argument("root", nargs="?", default=None, metavar="data.root=DIR")
    publish = add("publish", "promote a finished local run into results/reference", publish_run)
    publish.add_argument("run", help="its folder, or EXPERIMENT/seedK")
    return parser, names


def run(arguments: list[str]) -> int:
    """`repro run`: through the compose API, or through hydra.main where one of Hydra's flags asks for it."""
    if not arguments or "-h" in arguments or "--help" in arguments:
        print(RUN_USAGE, end="")
        return 0 if arguments else 2
    from repro import config as configuration

    if any(argument.split("=")[0] in HYDRA_FLAGS for argument in arguments):
        from repro.hydra_cli import run_hydra

        if "-m" in arguments or "--multirun" in arguments:
            check_versions()
            keep_on_without_reader()
        return run_hydra(arguments, [program(), "run", *arguments])
    overrides = configuration.with_config_dir(arguments)
    composed = configuration.compose(overrides)
    check_versions()
    from repro.training import engine

    keep_on_without_reader()
    engine.run(composed, [program(), "run", *arguments])
    return 0


def program() -> str:
    """How this program is called from here: by its name if it is on the PATH, else by its path."""
    import shutil

    called = Path(sys.argv[0])
    return str(called) if called.name == "repro" and not shutil.which("repro") else "repro"


def keep_on_without_reader() -> None:
    """Let a run go on when nobody reads what it prints any more (`| head`): later lines go nowhere."""
    class Output:
        def __init__(self, stream: TextIO):
            self.stream = stream

        def __getattr__(self, name: str) -> object:
            return getattr(self.stream, name)

        def write(self, text: str) -> int:
            try:
                self.stream.write(text)
                self.stream.flush()
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return len(text)

    sys.stdout = cast(TextIO, Output(sys.stdout))


def check_versions() -> None:
    """ConfigError if torch or torchvision is older than the project supports, or they do not fit each other."""
    from importlib.metadata import version

    for package, least in (("torch", (2, 11)), ("torchvision", (0, 26))):
        found = version(package)
        numbers = tuple(int(part) for part in found.split(".")[:2])
        if numbers < least:
            raise ConfigError(f"{package} {found} is too old: torch >= 2.11 and torchvision >= 0.26 are needed")


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

    keep_on_without_reader()

    preset, failures = run_all(options.name, settings["preset"], int(settings["seeds"]) or None, overrides,
                               [program(), "suite", options.name, *options.overrides])
    results = results_of(first.results)
    print()
    for name in preset.tables or ():
        make_table(name, results, results / "tables", reference=False, as_json=False)
    for name in preset.figures or ():
        make_figure(name, results, results / "figures", reference=False)
    if failures:
        raise failures[0]
    return 0


def results_of(setting: str | None = None) -> Path:
    """The user's results folder."""
    from repro.places import results_dir

    return results_dir(setting)


def show_cost(options: argparse.Namespace) -> int:
    """`repro cost`."""
    import json

    from repro.paper import suite as read_suite

    suite = read_suite(options.name)
    check_versions()
    from repro.training.suite import say_cost

    costs = say_cost(suite, options.overrides, (lambda line: print(line, file=sys.stderr)) if options.json else print)
    if options.json:
        print(json.dumps(costs, indent=2))
    return 0


def show_list(options: argparse.Namespace) -> int:
    """`repro list`."""
    from repro.places import reference_dir
    from repro.reporting.listing import listing, listing_json

    make = listing_json if options.json else listing
    print(make(results_of(), reference_dir()), end="")
    return 0


def output_folder(kind: str, reference: bool) -> Path:
    """Beside the committed runs for what comes from them alone, in a checkout; else in the user's results."""
    from repro.places import in_tree, reference_dir

    return (reference_dir() if reference and in_tree() else results_of()) / kind


def make_tables(options: argparse.Namespace) -> int:
    """`repro table`."""
    from repro.reporting import tables

    names = tables.names() if options.name == "all" else [options.name]
    if options.check:
        return check_tables(names)
    folder = output_folder("tables", options.reference)
    worse = []
    for name in names:
        worse += make_table(name, results_of(), folder, options.reference, options.json)
    if worse and options.strict:
        raise ComparisonError(f"worse than published: {', '.join(worse)}")
    return 0


def make_table(name: str, results: Path, folder: Path, reference: bool, as_json: bool) -> list[str]:
    """Print one table, write its files, and return the rows that are worse than published."""
    from repro.places import reference_dir, shown
    from repro.reporting import tables

    table = tables.build(name, None if reference else results, reference_dir())
    print(table.json() if as_json else table.markdown())
    written = tables.write(table, folder)
    if not as_json:
        print(f"written: {', '.join(shown(path) for path in written)}\n")
    return list(table.worse)


def check_tables(names: Sequence[str]) -> int:
    """Compare the committed tables with what the committed runs give; ComparisonError (4) if one differs."""
    from repro.places import reference_dir
    from repro.reporting import tables

    differing = []
    for name in names:
        table = tables.build(name, None, reference_dir())
        for suffix, text in (("md", table.markdown()), ("csv", table.csv()), ("json", table.json())):
            path = reference_dir() / "tables" / f"{name}.{suffix}"
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                differing.append(path.name)
    if differing:
        raise ComparisonError(f"committed tables do not agree with the committed runs: {', '.join(differing)}\n"
                              "`repro table all --reference` writes them anew")
    print(f"{len(names)} tables agree with the committed runs")
    return 0


def make_figures(options: argparse.Namespace) -> int:
    """`repro figure`."""
    from repro.reporting import figures

    folder = output_folder("figures", options.reference)
    for name in figures.names() if options.name == "all" else [options.name]:
        make_figure(name, results_of(), folder, options.reference)
    return 0


def make_figure(name: str, results: Path, folder: Path, reference: bool) -> None:
    """Draw one figure and say where it is, or why there is nothing to draw."""
    from repro.places import reference_dir, shown
    from repro.reporting import figures

    written = figures.draw(name, None if reference else results, reference_dir(), folder)
    others = "" if name.startswith("short") else f"; for short runs: repro figure short_{name}"
    print(f"{name}: {', '.join(shown(path) for path in written)}" if written
          else f"{name}: nothing to draw yet; no finished run of it (repro list){others}")


def evaluate_weights(options: argparse.Namespace) -> int:
    """`repro eval`."""
    weights = [o.partition("=")[2] for o in options.overrides if o.startswith("weights=")]
    if not weights:
        raise ConfigError("repro eval needs weights=FILE, a plain state_dict such as a run's weights.pt")
    from repro.config import compose

    config = compose([o for o in options.overrides if not o.startswith("weights=")])
    check_versions()
    from repro.evaluation.weights import evaluate_file

    text, values = evaluate_file(config, Path(weights[-1]).expanduser())
    if options.json:
        import json

        text = json.dumps(values, indent=2)
    print(text)
    return 0


def manage_data(options: argparse.Namespace) -> int:
    """`repro data`."""
    from repro.data import cifar10_files
    from repro.places import data_dir

    key, separator, value = (options.root or "").partition("=")
    if not separator:
        key, value = "data.root", key
    if key != "data.root":
        raise ConfigError(f"unknown key {key!r}; did you mean data.root?")
    root = data_dir(value.strip("'\"") or None)
    if options.action == "fetch":
        from repro.data.fetch import fetch

        fetch(root)
    elif options.action == "verify":
        print("\n".join(cifar10_files.verify(root)))
    else:
        print(root)
    return 0


def publish_run(options: argparse.Namespace) -> int:
    """`repro publish`."""
    from repro.places import reference_dir
    from repro.publishing import publish

    publish(options.run, results_of())
    from repro.reporting import figures, tables

    for name in tables.names():
        tables.write(tables.build(name, None, reference_dir()), reference_dir() / "tables")
    for name in figures.names():
        figures.draw(name, None, reference_dir(), reference_dir() / "figures")
    print("the reference tables and figures are up to date with it")
    return 0
