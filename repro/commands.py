"""The commands: the table that the command line is built from, and what each does; heavy imports are inside."""

import argparse
import json
import logging
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from repro import paths
from repro.errors import ComparisonError, ConfigError, DataError, Stopped
from repro.streams import keep_on_without_output
from repro.wording import escape

if TYPE_CHECKING:
    from repro.reporting.select import RunSet
    from repro.reporting.table import Table
    from repro.schema import RunConfig

logger = logging.getLogger(__name__)

OWN_KEYS = ("weights", "protocol")  # of `repro eval`, beside those of a run's configuration
ROOT, WIRING_TEST = "data.root", "data.wiring_test"  # of `repro data`
RESERVE, RESERVE_SECONDS = 0.1, 20.0  # of --max-seconds, at most so many: for the last test and the last checkpoint

Handler = Callable[[argparse.Namespace], int | None]  # gives the exit code
Argument = tuple[tuple[str, ...], dict[str, Any]]


class Command(NamedTuple):
    """A row of the table."""
    group: str  # under which `repro --help` lists it
    text: str  # what it does, in one line
    arguments: tuple[Argument, ...]
    handler: Handler


COMMANDS: dict[str, Command] = {}  # by name; a name of two words is an action of the first


def command(name: str, group: str, text: str, *arguments: Argument) -> Callable[[Handler], Handler]:
    """Enter the function below into the table."""
    def enter(handler: Handler) -> Handler:
        COMMANDS[name] = Command(group, text, arguments, handler)
        return handler
    return enter


def argument(*names: str, **options: Any) -> Argument:
    """An argument of a command, as argparse's add_argument takes it."""
    return names, options


def flag(name: str, text: str) -> Argument:
    """An argument that is there or not."""
    return argument(name, action="store_true", help=text)


JSON = flag("--json", "print JSON")


def program() -> str:
    """How this program is called from here: by its name if it is on the PATH, else by its path."""
    import shutil

    called = Path(sys.argv[0])
    return str(called) if called.name == "repro" and not shutil.which("repro") else "repro"


def check_versions() -> None:
    """ConfigError naming the pair that is needed if Python, torch or torchvision is too old or they do not fit."""
    from repro.versions import version_problems

    problems = [problem for problem in version_problems() if problem.check in ("python", "torch", "torchvision")]
    if problems:
        raise ConfigError("\n".join(f"{problem.text}; {problem.next_step}" for problem in problems))


def runs_of(reference: bool = False, results: Path | None = None) -> list["RunSet"]:
    """The user's runs, unless only the committed ones are asked for, and the committed ones."""
    from repro.reporting.select import pools

    return pools(None if reference else results or paths.results_dir(), paths.reference_dir())


def output_folder(kind: str, reference: bool) -> Path:
    """Beside the committed runs for what comes from them alone, in a checkout; else in the user's results."""
    return (paths.reference_dir() if reference and paths.in_tree() else paths.results_dir()) / kind


def settings_of(arguments: list[str], known: Sequence[str] = (ROOT, WIRING_TEST)) -> dict[str, str]:
    """Values by key; what has no = is the folder. ConfigError for an unknown key."""
    found = {}
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator:
            key, value = ROOT, key
        if key not in known:
            from repro.config import suggest

            raise ConfigError(f"unknown key {key!r}{suggest(key, known)}")
        found[key] = value.strip("'\"")
    return found


@command("run", "train", "train one experiment, or sweep over several (repro run --help)",
         argument("overrides", nargs="*", metavar="key=value"),
         argument("--cfg", choices=("job", "hydra", "all")), argument("--config-dir", metavar="DIR"),
         flag("--multirun", "a sweep"), flag("--resolve", "with --cfg"), flag("--info", "of Hydra"),
         flag("--package", "of --cfg"), flag("--hydra-help", "of Hydra"))
def run(options: argparse.Namespace) -> None:
    """`repro run`, whose words go to Hydra and never to argparse (see `repro.cli.run`); here for the completion."""


@command("suite", "train", "run all experiments of a suite, then its tables and figures",
         argument("name", help="e.g. cifar_plain_vs_res"),
         argument("overrides", nargs="*", metavar="key=value",
                  help="preset=auto|paper|short, seeds=K, and any override of `repro run`"))
def run_suite(options: argparse.Namespace) -> None:
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
    results = paths.results_dir(first.results)
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


@command("pending", "train", "advance the full-length runs that results/reference lacks, cheapest first",
         argument("--max-seconds", type=float, metavar="S", help="be done in this time, everything saved"),
         flag("--dry-run", "only say what is lacking"),
         argument("--most", type=int, metavar="N", help="at most so many runs, the cheapest"),
         argument("--runs", metavar="A,B,...",
                  help="these and in this order: EXPERIMENT, its lacking seeds, or EXPERIMENT/seedK"),
         argument("overrides", nargs="*", metavar="key=value",
                  help="overrides that change no number, such as engine= or machine.device="))
def show_pending(options: argparse.Namespace) -> None:
    """`repro pending`: 0 when nothing is left to do, 75 when time or a signal ended it."""
    began, words, seconds = time.monotonic(), options.overrides, options.max_seconds
    if seconds is not None and seconds <= 0:
        raise ConfigError(f"--max-seconds {seconds:g}: allowed is above 0")
    from repro.config import check_override_keys, compose, deviations
    from repro.reporting.status import OPEN, lacking, run_text
    from repro.schema import CIFAR10

    check_override_keys(words)
    results = paths.results_dir(compose(["experiment=cifar_resnet20", *words]).results)
    found = [one for one in lacking(*runs_of(results=results)) if one["dataset"] == CIFAR10]
    print("full-length runs that results/reference lacks, cheapest first:", *map(run_text, found), sep="\n", flush=True)
    todo = [one for one in found if one["state"] == OPEN]
    if options.runs is not None:
        todo = in_order(options.runs.split(","), todo)
    configs = [compose([f"experiment={one['experiment']}", f"seed={one['seed']}", *words])
               for one in todo[: options.most]]
    for config in configs:
        if deviations(config):
            raise ConfigError(f"this changes the numbers of {config.name}, and only the paper's runs count: "
                              + "; ".join(deviations(config)))
    if options.dry_run or not configs:
        return
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
    found = [one for one in lacking(*runs_of(results=results)) if one["dataset"] == CIFAR10]
    print("\nnow:", *map(run_text, found), sep="\n", flush=True)
    if failures:
        raise failures[0]


def in_order(names: list[str], lacking: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs of these names, in their order; ConfigError for a name that is no experiment's."""
    from repro.config import experiments, suggest

    found = []
    for name in names:
        if name.partition("/")[0] not in experiments():
            raise ConfigError(f"--runs: {name!r} is no experiment{suggest(name, experiments())}")
        found += [one for one in lacking if name in (one["run"], one["experiment"]) and one not in found]
    return found


def check_data(root: str | None) -> None:
    """Raise DataError where CIFAR-10 is not on this machine."""
    from repro.data import cifar10_files

    folder = paths.data_dir(root)
    if cifar10_files.find(folder) is None:
        raise DataError(f"CIFAR-10 is not in {paths.display_path(folder)}; `{program()} data fetch cifar10` needs the "
                        "network, or bring cifar-10-batches-py/ there yourself")


@command("cost", "train", "measure a few steps and say what a suite would cost on this machine",
         argument("name", help="a suite"), argument("overrides", nargs="*", metavar="key=value"), JSON)
def show_cost(options: argparse.Namespace) -> None:
    """`repro cost`."""
    from repro.paper import suite as read_suite

    suite = read_suite(options.name)
    check_versions()
    from repro.training.suite import measure_cost

    costs = measure_cost(suite, options.overrides)
    if options.json:
        print(json.dumps(costs, indent=2))


@command("eval", "evaluate", "evaluate a network: its finished run's weights, or those in a file",
         argument("overrides", nargs="+", metavar="key=value",
                  help="experiment=NAME; weights=FILE (a plain state_dict, or what `repro weights` wrote; without it, "
                       "those of the finished run); protocol=center|ten_crop|multi_scale (ImageNet); any override of "
                       "`repro run`"), JSON)
def evaluate_weights(options: argparse.Namespace) -> None:
    """`repro eval`."""
    from repro.paper import PROTOCOLS, pick
    from repro.schema import IMAGENET

    overrides, own = split_keys(options.overrides)
    config = configuration(overrides, own.get("weights"))
    known = PROTOCOLS if config.data.name == IMAGENET else ("single_view",)
    protocol = pick(own.get("protocol") or known[0], {name: name for name in known},
                    f"protocol with data.name={config.data.name}")
    check_versions()
    from repro.evaluation.weights import evaluate_file, weights_of

    weights = weights_of(config, own.get("weights"))
    if config.data.name == IMAGENET:
        from repro.evaluation.evaluate import evaluate

        text, values = evaluate(config, protocol, weights)
    else:
        text, values = evaluate_file(config, weights)
    print(json.dumps(values, indent=2) if options.json else text)


def configuration(overrides: Sequence[str], weights: str | None) -> "RunConfig":
    """What the overrides say, with the settings that a weights file carries, which are then named in a line."""
    from repro.config import check_override_keys, compose

    if weights is None:
        return compose(overrides)
    check_override_keys(overrides)
    check_versions()
    from repro.evaluation.weight_files import with_carried_settings

    config, note = with_carried_settings(overrides, paths.user_path(weights))
    if note:
        print(note, file=sys.stderr)
    return config


def split_keys(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Overrides of a configuration, and the values of our own keys."""
    own = {key: value for key, _, value in (word.partition("=") for word in words) if key in OWN_KEYS}
    return [word for word in words if word.partition("=")[0] not in OWN_KEYS], own


@command("ensemble", "evaluate", "average the kept class probabilities of several networks",
         argument("name", help="e.g. table5"),
         argument("overrides", nargs="*", metavar="key=value", help="any override of the members' runs"), JSON)
def combine_networks(options: argparse.Namespace) -> None:
    """`repro ensemble`."""
    from repro.config import check_override_keys
    from repro.paper import ensemble

    ensemble(options.name)
    check_override_keys(options.overrides)
    check_versions()
    from repro.evaluation.ensemble import combine

    text, values = combine(options.name, options.overrides)
    print(json.dumps(values, indent=2) if options.json else text)


@command("responses", "evaluate", "measure the layer responses of finished runs that lack them, and draw Figure 7",
         argument("runs", nargs="*", metavar="RUN | key=value",
                  help="EXPERIMENT/seedK or a run's folder (none: all of CIFAR-10 that lack them); data.root=, "
                       "machine.device="))
def show_responses(options: argparse.Namespace) -> None:
    """`repro responses`."""
    from repro.reporting import figures
    from repro.runs import find_run, scan
    from repro.schema import IMAGENET

    results = paths.results_dir()
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


@command("weights import", "evaluate", "map a public checkpoint onto our network, for `repro eval`",
         argument("file", metavar="FILE", help="the checkpoint; only its tensors are read, nothing is executed"),
         argument("--from", dest="form", required=True, choices=("akamaster", "torchvision"),
                  help="akamaster/pytorch_resnet_cifar10, or torchvision's resnet18 to 152, vgg16, vgg19"),
         argument("--output", metavar="OUT", help="the file to write (default: in results/imported)"), JSON)
def import_weights(options: argparse.Namespace) -> None:
    """`repro weights import`."""
    check_versions()
    from repro.weights.importing import import_file

    output = paths.user_path(options.output) if options.output else None
    text, values = import_file(paths.user_path(options.file), options.form, output, paths.results_dir() / "imported")
    print(json.dumps(values, indent=2) if options.json else text)


@command("weights export", "evaluate", "write the weights of a finished run as a plain file, with a model card",
         argument("run", metavar="RUN", help="its folder, or EXPERIMENT/seedK"),
         argument("--output", metavar="DIR", help="the folder to write to (default: results/exported)"),
         argument("--format", dest="form", choices=("auto", "pt", "safetensors"), default="auto",
                  help="auto: safetensors where that package is installed"), JSON)
def export_weights(options: argparse.Namespace) -> None:
    """`repro weights export`."""
    from repro.runs import find_run

    run = find_run(options.run, paths.results_dir())
    check_versions()
    from repro.weights.exporting import export

    folder = paths.user_path(options.output) if options.output else paths.results_dir() / "exported"
    text, values = export(run, folder, options.form)
    print(json.dumps(values, indent=2) if options.json else text)


@command("weights list", "evaluate", "list the weights that are committed, exported, imported, or of runs", JSON)
def list_weights(options: argparse.Namespace) -> None:
    """`repro weights list`."""
    check_versions()
    from repro.weights.listing import as_values, entries, listing

    found = entries(paths.results_dir(), paths.reference_dir())
    print(json.dumps(as_values(found), indent=2) if options.json else listing(found))


@command("status", "results", "what there is, what runs now, what results/reference lacks, and the time left", JSON)
def show_status(options: argparse.Namespace) -> None:
    """`repro status`."""
    from repro.reporting.status import status, status_text

    found = status(*runs_of())
    print(json.dumps(found, indent=2) if options.json else status_text(found))


@command("table", "results", "print and write a table",
         argument("name", help="a table's name, or all"),
         flag("--reference", "from the committed runs only, beside them"),
         flag("--check", "compare the committed tables with their runs"),
         flag("--strict", "exit 4 if a result is worse than published or a row lacks runs"),
         JSON, flag("--latex", "print LaTeX (booktabs)"))
def make_tables(options: argparse.Namespace) -> None:
    """`repro table`."""
    from repro.reporting import tables

    every = tables.committed_names() if options.reference or options.check else tables.names()
    names = every if options.name == "all" else [options.name]
    if options.check:
        if differing := tables.changed_files(names, paths.reference_dir()):
            raise ComparisonError(f"committed tables do not agree with the committed runs: {', '.join(differing)}\n"
                                  "`repro table all --reference` writes them anew")
        print(f"{len(names)} tables agree with the committed runs")
        return
    found, folder = runs_of(options.reference), output_folder("tables", options.reference)
    form = "json" if options.json else "tex" if options.latex else "md"
    problems = [problem for name in names for problem in make_table(name, found, folder, form)]
    if problems and options.strict:
        raise ComparisonError("\n".join(problems))


def make_table(name: str, found: list["RunSet"], folder: Path, form: str = "md") -> list[str]:
    """Print one table, write its files, and return what --strict objects to, a line each."""
    from repro.reporting.table import write
    from repro.reporting.tables import build

    table = build(name, found)
    print(table.forms[form])
    written = write(table, folder)
    if form == "md":
        print(f"written: {', '.join(map(paths.display_path, written))}\n")
    return [f"{name}: {text}: {', '.join(rows)}" for text, rows in
            (("worse than published", table.worse), ("rows that lack runs", table.missing_rows)) if rows]


@command("figure", "results", "draw a figure as SVG and PNG",
         argument("name", help="a figure's name, or all"),
         flag("--reference", "from the committed runs only, beside them"))
def make_figures(options: argparse.Namespace) -> None:
    """`repro figure`."""
    from repro.reporting import figures

    found = runs_of(options.reference)
    for name in figures.names() if options.name == "all" else [options.name]:
        make_figure(name, found, output_folder("figures", options.reference))


def make_figure(name: str, found: list["RunSet"], folder: Path) -> None:
    """Draw one figure and say where it is, or why there is nothing to draw."""
    from repro.reporting.figures import draw, names

    written = draw(name, found, folder)
    others = f"; for short runs: repro figure short_{name}" if f"short_{name}" in names() else ""
    print(f"{name}: {', '.join(map(paths.display_path, written))}" if written
          else f"{name}: nothing to draw yet; no finished run of it (repro status){others}")


@command("complexity", "results", "count layers, parameters and multiply-adds of all networks, beside Table 1",
         flag("--check", "exit 4 if a count is not that of golden_counts.yaml"), JSON)
def show_complexity(options: argparse.Namespace) -> None:
    """`repro complexity`."""
    check_versions()
    from repro.evaluation.analysis import count, networks
    from repro.reporting.table import write
    from repro.reporting.tables import CountedNetwork, complexity_table, count_differences

    counted = [
        CountedNetwork(net.key, net.label, net.dataset, net.depth,
                       net.shortcut_option.name if net.shortcut_option else None,
                       net.stride_in.name if net.stride_in else None, **asdict(count(net)))
        for net in networks()]
    table = complexity_table(counted)
    print(table.json() if options.json else table.markdown())
    written = write(table, output_folder("tables", reference=False))
    if not options.json:
        print(f"written: {', '.join(map(paths.display_path, written))}")
    wrong = count_differences(counted)
    if wrong and options.check:
        raise ComparisonError("counts that are not those of golden_counts.yaml: " + "; ".join(wrong))


@command("claims", "results", "check the paper's statements against the runs that are there",
         argument("suite", nargs="?", default=None, help="only the claims of this suite"),
         flag("--reference", "from the committed runs only, beside them"),
         flag("--strict", "exit 4 if a claim fails"), JSON)
def show_claims(options: argparse.Namespace) -> None:
    """`repro claims`."""
    from repro.reporting.claims import FAIL, claims_table, claims_text, evaluate
    from repro.reporting.table import write

    runs = runs_of(options.reference)
    found = evaluate(runs, options.suite)
    print(json.dumps([asdict(one) for one in found], indent=2) if options.json else claims_text(found))
    if options.suite is None:
        write(claims_table(runs), output_folder("tables", options.reference))
    failed = [one.id for one in found if one.verdict == FAIL]
    if failed and options.strict:
        raise ComparisonError(f"claims that fail: {', '.join(failed)}")


@command("report", "results", "one HTML page with tables, figures, claims and a card for each run",
         flag("--reference", "from the committed runs only"),
         argument("--output", metavar="FILE", default=None, help="where to (results/report.html)"))
def write_report(options: argparse.Namespace) -> None:
    """`repro report`."""
    from repro.files import write_atomic
    from repro.reporting.report import report

    path = paths.user_path(options.output) if options.output else paths.results_dir() / "report.html"
    write_atomic(path, report(runs_of(options.reference)))
    print(f"report: {paths.display_path(path.absolute())}")


@command("show", "results", "show a run's settings, sources, schedule, cost and folder, or what two runs differ in",
         argument("overrides", nargs="+", metavar="key=value | RUN",
                  help="experiment=NAME and overrides; with --against also EXPERIMENT/seedK or a run's folder"),
         argument("--against", metavar="NAME | RUN",
                  help="what differs from akamaster, fb, torchvision, another experiment; of a run, from another run"),
         argument("--config-dir", metavar="DIR", help="a folder with configuration files of your own"), JSON)
def show(options: argparse.Namespace) -> None:
    """`repro show`."""
    from repro.config import compose, with_config_dir
    from repro.reporting import settings
    from repro.runs import find_run

    words = with_config_dir([*options.overrides, *(["--config-dir", options.config_dir] if options.config_dir else [])])
    if options.against is not None and len(words) == 1 and "=" not in words[0]:
        roots = paths.results_dir(), paths.reference_dir()
        found = settings.compare(find_run(words[0], *roots), find_run(options.against, *roots))
    elif options.against is not None:
        found = settings.against(compose(words), words, options.against)
    else:
        config = compose(words)
        found = settings.facts(config, words, runs_of(results=paths.results_dir(config.results)))
    text = settings.facts_text if options.against is None else settings.differences_text
    print(json.dumps(found, indent=2) if options.json else text(found))


@command("publish", "results", "promote a finished local run into results/reference",
         argument("run", help="its folder, or EXPERIMENT/seedK; ensembles/table5"))
def publish_run(options: argparse.Namespace) -> None:
    """`repro publish`; of an ensemble ConfigError if Table 5 would not count it, here or beside what is published."""
    from repro.paper import pick
    from repro.publishing import ENSEMBLES, publish, publish_ensemble
    from repro.reporting.select import ENSEMBLE, ensemble_problem, read_ensemble

    if options.run.startswith(ENSEMBLES) and not Path(options.run).exists():
        pick(options.run.removeprefix(ENSEMBLES), {ENSEMBLE: None}, "ensemble that a table has")
        problems = [ensemble_problem(read_ensemble(paths.results_dir()), pool) for pool in runs_of()]
        publish_ensemble(options.run, paths.results_dir(), next(filter(None, problems), None))
    else:
        publish(options.run, paths.results_dir())
    from repro.reporting import figures, tables
    from repro.reporting.table import write

    found = runs_of(reference=True)
    for name in tables.committed_names():
        write(tables.build(name, found), paths.reference_dir() / "tables")
    for name in figures.names():
        figures.draw(name, found, paths.reference_dir() / "figures")
    print("the reference tables and figures are up to date with it")


@command("data", "data", "fetch or verify a data set, or say where it is",
         argument("action", choices=["fetch", "verify", "path"]),
         argument("name", nargs="?", default="cifar10", choices=["cifar10", "imagenet"]),
         argument("settings", nargs="*", metavar="data.root=DIR",
                  help="the folder that holds it; data.wiring_test=true: imagenet may be any folders of classes"))
def manage_data(options: argparse.Namespace) -> None:
    """`repro data`."""
    settings = settings_of(options.settings)
    root = paths.data_dir(settings.get(ROOT) or None)
    imagenet = options.name == "imagenet"
    if settings.get(WIRING_TEST, "false") not in ("true", "false") or (WIRING_TEST in settings and not imagenet):
        raise ConfigError(f"{WIRING_TEST}={settings[WIRING_TEST]}: allowed is true or false, of imagenet only")
    if options.action == "path":
        print(root)
    elif options.action == "fetch" and imagenet:
        from repro.data.imagenet_files import BY_HAND

        raise ConfigError(f"ImageNet can't be fetched: its images may not be passed on. What to do: {BY_HAND}; then "
                          "`repro data verify imagenet data.root=FOLDER`")
    elif options.action == "fetch":
        from repro.data.fetch import fetch

        fetch(root)
    elif imagenet:
        from repro.data import imagenet_verify

        imagenet_verify.verify(root, settings.get(WIRING_TEST) == "true")
    else:
        from repro.data import cifar10_files

        print("\n".join(cifar10_files.verify(root)))


@command("doctor", "setup", "check versions, devices, disk, data and environment",
         flag("--full", "verify the data set byte for byte, too"), JSON)
def show_doctor(options: argparse.Namespace) -> int:
    """`repro doctor`: 0, or 2 if something keeps runs from working."""
    from repro.checks import FAIL
    from repro.doctor import environment, examine

    found = environment()
    checks = list(examine(options.full))
    problems = sum(check.status == FAIL for check in checks)
    if options.json:
        print(json.dumps({"problems": problems, "checks": [asdict(check) for check in checks], "environment": found},
                         indent=2))
    else:
        cpu = [line for line in (found.pop("cpu_info", None) or "").splitlines() if line.startswith("Model name")]
        lines = [f"{name}: {value}" for name, value in found.items() if value is not None]
        print("\n".join([*lines, *cpu, "", *map(str, checks)]))
        print(f"problems: {problems}" + ("" if problems else "; runs can start"))
    return 2 if problems else 0


@command("verify", "setup", "check that this installation computes what it claims, in under a minute on a CPU",
         argument("settings", nargs="*", metavar="data.root=DIR", help="the folder that holds CIFAR-10"), JSON)
def verify(options: argparse.Namespace) -> None:
    """`repro verify`; ComparisonError (4) if a check fails."""
    root = paths.data_dir(settings_of(options.settings, (ROOT,)).get(ROOT) or None)
    check_versions()
    from repro import verification
    from repro.checks import FAIL, SKIPPED
    from repro.provenance import code_version, package_versions

    results = []
    for name, check in verification.checks(root).items():
        results.append(verification.perform(name, check))
        if not options.json:
            print(results[-1], flush=True)
    failed, skipped = ([one.check for one in results if one.status == status]
                       for status in (FAIL, SKIPPED))
    good, seconds = len(results) - len(failed) - len(skipped), sum(one.seconds or 0 for one in results)
    if options.json:
        print(json.dumps({"ok": good, "failed": len(failed), "skipped": len(skipped), "seconds": round(seconds, 3),
                          **code_version(), "versions": package_versions(), "checks": [asdict(one) for one in results]},
                         indent=2))
    else:
        print(f"{good} of {len(results)} checks ok, {len(failed)} failed, {len(skipped)} skipped, in {seconds:.0f} s")
    if failed:
        raise ComparisonError(f"this installation does not compute what it claims: {', '.join(failed)}")


@command("verify-record", "setup", "check a run's record that somebody else sends, before it is committed",
         argument("folders", nargs="+", metavar="FOLDER",
                  help="a record: config.yaml, run.json, history.csv, timing.csv, and what belongs to them"), JSON)
def verify_records(options: argparse.Namespace) -> None:
    """`repro verify-record`: exit 4 if a check of any record fails; warnings are for a person to judge."""
    from repro.checks import FAIL
    from repro.records.check import check_record
    from repro.runs import scan

    folders = [paths.user_path(name) for name in options.folders]
    committed = [run.folder for run in scan(paths.reference_dir() / "runs")]
    found, failed = [], []
    for folder in folders:
        findings = check_record(folder, [*committed, *(other for other in folders if other != folder)])
        name = printable_name(folder)
        found.append({"folder": name, "findings": [asdict(one) for one in findings]})
        if not options.json:
            print("\n".join([name, *(f"  {one}" for one in findings)]))
        checks = list(dict.fromkeys(one.check for one in findings[:-1] if one.status == FAIL))
        failed += [f"{name}: checks that fail: {', '.join(checks)}"] if checks else []
    if options.json:
        print(json.dumps(found, indent=2))
    if failed:
        raise ComparisonError("\n".join(failed))


def printable_name(folder: Path) -> str:
    """A folder's name in characters that can be printed."""
    return escape(paths.display_path(folder))


@command("bench", "setup", "measure training speed against usual loops and against what the device allows",
         argument("overrides", nargs="*", metavar="[input] key=value",
                  help="nets=20,56 contenders=repro,eager_loop,reduce_overhead,dataloader,repro:ENGINE rounds=5 "
                       "steps=K, and any override of `repro run`, e.g. machine.precision=bf16; or `input`: how fast "
                       "ImageNet images are read, data.root=DIR rounds=5 images=400 workers=N"),
         flag("--quick", "20 layers against the DataLoader, 2 short rounds; under a minute on 2 cores"),
         argument("--max-seconds", type=float, metavar="S", help="be done in this time, with fewer rounds"),
         JSON, flag("--reference", "write into results/reference/bench"))
def run_bench(options: argparse.Namespace) -> None:
    """`repro bench` and `repro bench input`."""
    if options.overrides[:1] == ["input"]:
        bench_input_command(options)
        return
    from repro.bench.plan import settings_of

    settings = settings_of(options.overrides, options.quick, options.max_seconds)
    check_evidence(options, settings.rounds)
    check_versions()
    from repro.bench.bench import bench
    from repro.reporting.bench import bench_table

    record = bench(settings)
    keep(options, record, bench_table(record))


def bench_input_command(options: argparse.Namespace) -> None:
    """`repro bench input`."""
    from repro.bench.input_plan import input_settings

    if options.max_seconds is not None:
        raise ConfigError("--max-seconds: the bench of the input takes rounds= and images= instead")
    settings = input_settings(options.overrides[1:], options.quick)
    check_evidence(options, settings.rounds)
    check_versions()
    from repro.bench.input import bench_input
    from repro.reporting.bench import input_table

    record = bench_input(settings)
    keep(options, record, input_table(record))


def check_evidence(options: argparse.Namespace, rounds: int) -> None:
    """ConfigError if too few rounds are asked for as evidence."""
    from repro.bench.plan import ROUNDS

    if options.reference and (options.quick or rounds < ROUNDS or options.max_seconds is not None):
        raise ConfigError(f"--reference: takes {ROUNDS} rounds or more, no --quick and no --max-seconds")


def keep(options: argparse.Namespace, record: dict[str, Any], table: "Table") -> None:
    """Write the record and its table, and print one of them."""
    from repro.files import write_atomic, write_json

    folder = output_folder("bench", options.reference)
    write_json(folder / f"{table.name}.json", record)
    for suffix, text in (("md", table.markdown()), ("csv", table.csv())):
        write_atomic(folder / f"{table.name}.{suffix}", text)
    print(json.dumps(record, indent=2) if options.json else f"\n{table.markdown()}")
    files = [paths.display_path(folder / f"{table.name}.{suffix}") for suffix in ("json", "md", "csv")]
    logger.info(f"written: {', '.join(files)}")
