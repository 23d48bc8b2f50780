"""The commands: the table that the command line is built from, and what each does; heavy imports are inside."""

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from repro import paths
from repro.checks import FAIL, check_versions
from repro.errors import ComparisonError, ConfigError
from repro.streams import show_messages

if TYPE_CHECKING:
    from repro.reporting.select import RunSet
    from repro.runs import Run
    from repro.schema import RunConfig

logger = logging.getLogger(__name__)

OWN_KEYS: dict[str, dict[str, Sequence[str]]] = {  # beside those of a run's configuration, with their values
    "eval": {"weights": (), "protocol": ("center", "ten_crop", "multi_scale"), "what": ("errors", "responses")},
    "suite": {"preset": ("auto", "paper", "short"), "seeds": ()}}
ROOT, WIRING_TEST = "data.root", "data.wiring_test"  # of `repro data`

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


def whole_numbers(text: str) -> list[int]:
    """The numbers of a list such as 20,56."""
    return [int(word) for word in text.split(",")]


def program() -> str:
    """How this program is called from here: by its name if it is on the PATH, else by its path."""
    import shutil

    called = Path(sys.argv[0])
    return str(called) if called.name == "repro" and not shutil.which("repro") else "repro"


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


RUN_USAGE = """\
usage: repro run experiment=NAME [key=value ...]        one run (again: goes on where it stopped)
       repro run -m experiment=A,B seed=0,1 [...]       a sweep, as Hydra does it
       repro run experiment=NAME --cfg job              the composed configuration, nothing runs

Keys are described in repro/schema.py; the most used ones: seed=0, scale=0.01 (shortens every length alike),
max_seconds=600, resume=never, data.root=FOLDER, data.split=45k, model.shortcut_option=B, model.depth=32,
machine.device=cpu, machine.precision=fp32, --config-dir DIR for configuration files of your own.
REPRO_DATA, REPRO_RESULTS and REPRO_DEVICE stand in for data.root, results and machine.device.
"""


@command("run", "train", "train one experiment, or sweep over several with -m",
         argument("words", nargs="*", metavar="key=value"), argument("--cfg", choices=("job", "hydra", "all")),
         argument("--config-dir"), argument("--multirun"), argument("--resolve"), argument("--info"),
         argument("--package"))  # for the completion: these words are Hydra's and never reach argparse
def run(options: argparse.Namespace) -> int:
    """`repro run`: through the compose API, or through hydra.main where one of Hydra's flags asks for it."""
    if not options.words or {"-h", "--help"} & set(options.words):
        print(RUN_USAGE, end="")
        return 0 if options.words else 2
    # Read when torch is imported: what it logs where one of several processes is lost is C++ frames.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    from repro.config import compose, sweep, with_config_dir

    def train(config: "RunConfig") -> None:
        check_versions()
        from repro.training import launch
        from repro.training.plan import plan

        with show_messages():  # also in the processes of a launcher
            launch.run(plan(config, [program(), "run", *options.words]))

    words = with_config_dir(options.words)
    if any(word.startswith("-") for word in words):
        sweep(words, train)
    else:
        train(compose(words))
    return 0


@command("suite", "train", "run all experiments of a suite, then its tables and figures",
         argument("name", help="e.g. cifar_plain_vs_res"),
         argument("overrides", nargs="*", metavar="key=value",
                  help="preset=auto|paper|short, seeds=K, and any override of `repro run`"))
def run_suite(options: argparse.Namespace) -> None:
    own = dict(word.split("=", 1) for word in options.overrides if word.partition("=")[0] in OWN_KEYS["suite"])
    overrides = [word for word in options.overrides if word.partition("=")[0] not in own]
    seeds = own.get("seeds", "")
    if "seeds" in own and not (seeds.isdigit() and int(seeds) > 0):
        raise ConfigError(f"seeds={seeds}: allowed is 1 or more")
    from repro.config import check_override_keys, compose
    from repro.paper import suite as read_suite

    check_override_keys(overrides)
    suite = read_suite(options.name)
    results = paths.results_dir(compose([f"experiment={suite.experiments[0]}", *overrides]).results)
    check_versions()
    from repro.training.suite import run_suite as run_all

    preset, failures = run_all(options.name, own.get("preset", "auto"), int(seeds) if seeds else None, overrides,
                               [program(), "suite", options.name, *options.overrides])
    print()
    found = runs_of(results=results)
    for name in preset.tables:
        make_table(name, found, results / "tables")
    for name in preset.figures:
        make_figure(name, found, results / "figures")
    if suite.claims:
        from repro.reporting.claims import claims_text, evaluate

        print(f"\nclaims of the paper (repro claims {options.name}):\n{claims_text(evaluate(found, options.name))}")
    if failures:
        raise failures[0]


@command("suite pending", "train", "advance the full-length runs that results/reference lacks, cheapest first",
         argument("--max-seconds", type=float, metavar="S", help="be done in this time, everything saved"),
         flag("--dry-run", "only say what is lacking"),
         argument("--runs", metavar="A,B,...",
                  help="these and in this order: EXPERIMENT, its lacking seeds, or EXPERIMENT/seedK"),
         argument("overrides", nargs="*", metavar="key=value",
                  help="overrides that change no number, such as engine= or machine.device="))
def advance_pending(options: argparse.Namespace) -> None:
    """`repro suite pending`: 0 when nothing is left to do, 75 when time or a signal ended it."""
    if options.max_seconds is not None and options.max_seconds <= 0:
        raise ConfigError(f"--max-seconds {options.max_seconds:g}: allowed is above 0")
    from repro.config import compose

    results = paths.results_dir(compose(["experiment=cifar_resnet20", *options.overrides]).results)
    check_versions()
    from repro.training.suite import run_pending

    given = {"--max-seconds": options.max_seconds, "--runs": options.runs}
    words = [word for name, value in given.items() if value is not None for word in (name, f"{value}")]
    failures = run_pending(results, options.runs.split(",") if options.runs is not None else [], options.overrides,
                           options.max_seconds, options.dry_run,
                           [program(), "suite", "pending", *words, *options.overrides])
    if failures:
        raise failures[0]


@command("eval", "evaluate", "evaluate a network: a finished run's weights, or those in a file",
         argument("words", nargs="+", metavar="RUN | key=value",
                  help="EXPERIMENT/seedK or a run's folder, or experiment=NAME and its overrides, or weights=FILE (a "
                       "plain state_dict, or what `repro weights` wrote); protocol=center|ten_crop|multi_scale "
                       "(ImageNet); what=responses (Figure 7; alone: of all runs that lack them)"), JSON)
def evaluate_weights(options: argparse.Namespace) -> None:
    from repro.config import check_override_keys, compose
    from repro.paper import PROTOCOLS, pick
    from repro.runs import Run, find_run, read_run, run_folder
    from repro.schema import IMAGENET

    names = [word for word in options.words if "=" not in word]
    own = dict(word.split("=", 1) for word in options.words if word.partition("=")[0] in OWN_KEYS["eval"])
    overrides = [word for word in options.words if word not in names and word.partition("=")[0] not in OWN_KEYS["eval"]]
    what = pick(own.get("what", "errors"), {name: name for name in ("errors", "responses")}, "what")
    check_override_keys(overrides)

    def named_run() -> Run:
        if names:
            return find_run(names[0], paths.results_dir())
        config = compose(overrides)
        check_versions()
        from repro.devices import resolve

        return read_run(run_folder(resolve(config)))

    if what == "responses":
        every = not names and not any(word.startswith("experiment=") for word in overrides)
        measure_responses(None if every else named_run(), overrides)
        return
    run = None if "weights" in own else named_run()
    path = run.folder / "weights.pt" if run else paths.user_path(own["weights"])
    if run and not (run.finished and path.is_file()):
        raise ConfigError(f"no finished run with weights in {paths.display_path(run.folder)} "
                          f"({run.problem or run.status}): train it with `repro run`, or give weights=FILE")
    check_versions()
    from repro.evaluation.evaluate import evaluate
    from repro.weights import compose_for

    config, note = compose_for(overrides, path) if names or run is None else (compose(overrides), "")
    known = PROTOCOLS if config.data.name == IMAGENET else ("single_view",)
    protocol = pick(own.get("protocol", known[0]), {name: name for name in known},
                    f"protocol with data.name={config.data.name}")
    if note:
        print(note, file=sys.stderr)
    text, values = evaluate(config, protocol, path)
    print(json.dumps(values, indent=2) if options.json else text)


def measure_responses(run: "Run | None", overrides: list[str]) -> None:
    """Write responses.csv of a finished run, or of all of CIFAR-10 that lack it, and draw Figure 7."""
    from repro.reporting import figures
    from repro.runs import scan
    from repro.schema import IMAGENET

    wanted = [run] if run else [
        one for one in scan(paths.results_dir() / "runs") if one.finished and not one.responses() and one.record
        and one.record.config.data.name != IMAGENET and (one.folder / "weights.pt").is_file()]
    if wanted:
        check_versions()
        from repro.training.measurements import add_responses

        for one in wanted:
            add_responses(one, overrides)
    for name in figures.names():
        if name.endswith("figure7"):
            make_figure(name, runs_of(), paths.results_dir() / "figures")


@command("ensemble", "evaluate", "average the kept class probabilities of several networks",
         argument("name", help="e.g. table5"),
         argument("overrides", nargs="*", metavar="key=value", help="any override of the members' runs"), JSON)
def combine_networks(options: argparse.Namespace) -> None:
    from repro.config import check_override_keys
    from repro.paper import ensemble

    ensemble(options.name)
    check_override_keys(options.overrides)
    check_versions()
    from repro.evaluation.ensemble import combine

    text, values = combine(options.name, options.overrides)
    print(json.dumps(values, indent=2) if options.json else text)


@command("weights import", "evaluate", "map a public checkpoint onto our network, for `repro eval`",
         argument("file", metavar="FILE", help="the checkpoint; only its tensors are read, nothing is executed"),
         argument("--from", dest="layout", required=True, choices=("akamaster", "torchvision"),
                  help="akamaster/pytorch_resnet_cifar10, or torchvision's resnet18 to 152, vgg16, vgg19"),
         argument("--output", metavar="OUT", help="a file to write (default: in results/imported)"), JSON)
def import_weights(options: argparse.Namespace) -> None:
    check_versions()
    from repro import weights

    file = paths.user_path(options.file)
    if options.output and paths.user_path(options.output).exists():
        raise ConfigError(f"{options.output} is there already; give another --output")
    output = (paths.user_path(options.output) if options.output else
              paths.results_dir() / "imported" / f"{file.stem}-{options.layout}.pt")
    facts = weights.import_weights(file, options.layout, output)
    shown = paths.display_path(output)
    print(json.dumps({"output": str(output), **msgspec.structs.asdict(facts)}, indent=2) if options.json else
          f"{facts.note}\nwritten: {shown}\ntest it with: repro eval weights={shown}")


@command("weights export", "evaluate", "write the weights of a finished run as a plain file, with a model card",
         argument("run", metavar="RUN", help="its folder, or EXPERIMENT/seedK"),
         argument("--output", metavar="DIR", help="the folder to write to (default: results/exported)"))
def export_weights(options: argparse.Namespace) -> None:
    from repro.runs import find_run

    run = find_run(options.run, paths.results_dir())
    check_versions()
    from repro import weights

    folder = paths.user_path(options.output) if options.output else paths.results_dir() / "exported"
    path = weights.export_weights(run, folder)
    print(f"written: {paths.display_path(path)}, with a card beside it")


@command("status", "results", "what there is, what runs now, what results/reference lacks, and the time left", JSON)
def show_status(options: argparse.Namespace) -> None:
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
    return table.problems


@command("figure", "results", "draw a figure as SVG and PNG",
         argument("name", help="a figure's name, or all"),
         flag("--reference", "from the committed runs only, beside them"))
def make_figures(options: argparse.Namespace) -> None:
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


@command("claims", "results", "check the paper's statements against the runs that are there",
         argument("suite", nargs="?", default=None, help="only the claims of this suite"),
         flag("--reference", "from the committed runs only, beside them"),
         flag("--strict", "exit 4 if a claim fails"), JSON)
def show_claims(options: argparse.Namespace) -> None:
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
    from repro.files import write_atomic
    from repro.reporting.report import report

    path = paths.user_path(options.output) if options.output else paths.results_dir() / "report.html"
    write_atomic(path, report(runs_of(options.reference)))
    print(f"report: {paths.display_path(path.absolute())}")


@command("show", "results", "a run's settings, sources, schedule and cost, or what differs from another",
         argument("words", nargs="+", metavar="key=value | RUN | SUITE",
                  help="experiment=NAME and overrides; with --against also EXPERIMENT/seedK or a run's folder; with "
                       "--measure also a suite"),
         argument("--against", metavar="NAME | RUN",
                  help="what differs from akamaster, fb, torchvision, another experiment; of a run, from another run"),
         flag("--measure", "time a few real updates and say what the whole run, or suite, would take here"),
         argument("--config-dir", metavar="DIR", help="a folder with configuration files of your own"), JSON)
def show(options: argparse.Namespace) -> None:
    from repro.config import compose, with_config_dir
    from repro.reporting import settings
    from repro.runs import find_run

    words = with_config_dir([*options.words, *(["--config-dir", options.config_dir] if options.config_dir else [])])
    names = [word for word in words if "=" not in word]
    if options.measure and names:
        measure_suite(names[0], [word for word in words if word not in names], options.json)
        return
    if options.against is not None and names == words:
        roots = paths.results_dir(), paths.reference_dir()
        found = settings.compare(find_run(words[0], *roots), find_run(options.against, *roots))
    elif options.against is not None:
        found = settings.against(compose(words), words, options.against)
    else:
        config = compose(words)
        found = settings.facts(config, words, runs_of(results=paths.results_dir(config.results)))
        if options.measure:
            check_versions()
            from repro.training.suite import measure_cost

            cost = measure_cost(config)
            found["times"].insert(0, {"seconds": cost["run_seconds"], "device": cost["device"],
                                      "precision": cost["precision"], "source": "computed from updates just measured"})
    text = settings.facts_text if options.against is None else settings.differences_text
    print(json.dumps(found, indent=2) if options.json else text(found))


def measure_suite(name: str, overrides: list[str], as_json: bool) -> None:
    """`repro show SUITE --measure`, also written to results/bench."""
    from repro.paper import suite

    suite(name)
    check_versions()
    from repro.files import write_json
    from repro.training.suite import measure_suite as measure

    costs = measure(name, overrides)
    path = output_folder("bench", reference=False) / f"cost_{name}.json"
    write_json(path, costs)
    print(json.dumps(costs, indent=2) if as_json else f"written: {paths.display_path(path)}")


@command("publish", "results", "promote a finished local run into results/reference",
         argument("run", help="its folder, or EXPERIMENT/seedK; ensembles/table5"))
def publish_run(options: argparse.Namespace) -> None:
    """`repro publish`; of an ensemble ConfigError if Table 5 would not count it, here or beside what is published."""
    from repro.files import read_object
    from repro.paper import pick
    from repro.reporting.select import ENSEMBLE, ENSEMBLE_FILE, ensemble_problem
    from repro.runs import ENSEMBLES, publish, publish_ensemble

    if options.run.startswith(ENSEMBLES) and not Path(options.run).exists():
        pick(options.run.removeprefix(ENSEMBLES), {ENSEMBLE: None}, "ensemble that a table has")
        found = read_object(paths.results_dir() / ENSEMBLE_FILE)
        problems = [ensemble_problem(found, pool) for pool in runs_of()]
        publish_ensemble(options.run, paths.results_dir(), next(filter(None, problems), None))
    else:
        publish(options.run, paths.results_dir())
    from repro.reporting import figures, tables
    from repro.reporting.table import write

    runs = runs_of(reference=True)
    for name in tables.committed_names():
        write(tables.build(name, runs), paths.reference_dir() / "tables")
    for name in figures.names():
        figures.draw(name, runs, paths.reference_dir() / "figures")
    print("the reference tables and figures are up to date with it")


@command("data", "data", "fetch or verify a data set",
         argument("action", choices=["fetch", "verify"]),
         argument("name", nargs="?", default="cifar10", choices=["cifar10", "imagenet"]),
         argument("settings", nargs="*", metavar="data.root=DIR",
                  help="the folder that holds it; data.wiring_test=true: imagenet may be any folders of classes"))
def manage_data(options: argparse.Namespace) -> None:
    settings = settings_of(options.settings)
    root, wiring_test = paths.data_dir(settings.get(ROOT) or None), settings.get(WIRING_TEST, "false")
    if wiring_test not in ("true", "false"):
        raise ConfigError(f"{WIRING_TEST}={wiring_test}: allowed is true or false")
    if options.name == "imagenet":
        from repro.data.imagenet_files import BY_HAND, verify

        if options.action == "fetch":
            raise ConfigError(f"ImageNet can't be fetched: its images may not be passed on. What to do: {BY_HAND}; "
                              "then `repro data verify imagenet data.root=FOLDER`")
        verify(root, wiring_test == "true")
    elif options.action == "fetch":
        from repro.data.fetch import fetch

        fetch(root)
    else:
        from repro.data import cifar10_files

        sha256 = cifar10_files.load(root).sha256
        print(f"{cifar10_files.folder_in(root)}: every image and label agrees with the published SHA-256 "
              f"(content {sha256})")


@command("check", "setup", "can runs start here, and does this installation compute what it claims? a minute on a CPU",
         argument("settings", nargs="*", metavar="data.root=DIR", help="the folder that holds CIFAR-10"),
         flag("--full", "verify the data set byte for byte, too"), JSON)
def check(options: argparse.Namespace) -> None:
    """`repro check`; ComparisonError (4) if a check fails."""
    root = paths.data_dir(settings_of(options.settings, (ROOT,)).get(ROOT) or None)
    check_versions()
    from repro.checks import installation

    results = []
    for name, one in installation.checks(root, options.full).items():
        results.append(installation.perform(name, one))
        if not options.json:
            print(results[-1], flush=True)
    failed = [one.check for one in results if one.status == FAIL]
    if options.json:
        print(json.dumps({"failed": len(failed), "checks": [asdict(one) for one in results]}, indent=2))
    else:
        print(f"{len(results)} checks, {len(failed)} failed, in {sum(one.seconds or 0 for one in results):.0f} s")
    if failed:
        raise ComparisonError(f"checks that fail: {', '.join(failed)}")


@command("check record", "setup", "check a run's record that somebody else sends, before it is committed",
         argument("folders", nargs="+", metavar="FOLDER", help="config.yaml, run.json, history.csv, timing.csv, ..."),
         JSON)
def check_records(options: argparse.Namespace) -> None:
    """`repro check record`: exit 4 if a check of any record fails; warnings are for a person to judge."""
    from repro.checks.record import check_record
    from repro.runs import scan

    folders = [paths.user_path(name) for name in options.folders]
    others = [*(run.folder for run in scan(paths.reference_dir() / "runs")), *folders]
    found, failed = [], []
    for folder in folders:
        results, name = check_record(folder, others), paths.display_path(folder)
        found.append({"folder": name, "checks": [asdict(one) for one in results]})
        if not options.json:
            print("\n".join([name, *(f"  {one}" for one in results)]))
        if wrong := [one.check for one in results[:-1] if one.status == FAIL]:
            failed.append(f"{name}: checks that fail: {', '.join(wrong)}")
    if options.json:
        print(json.dumps(found, indent=2))
    if failed:
        raise ComparisonError("\n".join(failed))


@command("bench", "setup", "measure training speed against usual loops and against what the device allows",
         argument("overrides", nargs="*", metavar="[input] key=value",
                  help="overrides of `repro run`, e.g. machine.precision=bf16; or `input data.root=DIR`: how fast "
                       "ImageNet's images are read"),
         argument("--nets", type=whole_numbers, default=(), metavar="20,56", help="networks of so many layers"),
         argument("--contenders", type=lambda text: text.split(","), default=(),
                  metavar="repro,eager_loop,reduce_overhead,dataloader", help="who trains them"),
         flag("--quick", "20 layers against the DataLoader, 2 short rounds; a minute on 2 cores"),
         argument("--max-seconds", type=float, metavar="S", help="be done in this time, with fewer rounds"),
         JSON, flag("--reference", "write into results/reference/bench"))
def run_bench(options: argparse.Namespace) -> None:
    """`repro bench` and `repro bench input`."""
    if options.reference and (options.quick or options.max_seconds is not None):
        raise ConfigError("--reference: takes no --quick and no --max-seconds")
    check_versions()
    from repro import bench

    length = {"quick": options.quick, "max_seconds": options.max_seconds or math.inf}
    if options.overrides[:1] == ["input"]:
        root = settings_of(options.overrides[1:], (ROOT,)).get(ROOT)
        record = bench.bench_input(paths.data_dir(root), **length)
    else:
        record = bench.bench(options.overrides, options.nets, options.contenders, **length)
    path = bench.save(record, output_folder("bench", options.reference))
    print(json.dumps(record, indent=2) if options.json else f"\n{bench.render(record)}")
    logger.info(f"written: {paths.display_path(path)}")
