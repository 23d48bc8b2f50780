"""The commands: the table that the command line is built from, and what each does; heavy imports are inside."""

import argparse
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from repro import paths
from repro.checks import FAIL
from repro.errors import ComparisonError, ConfigError
from repro.streams import show_messages

logger = logging.getLogger(__name__)
Handler = Callable[[argparse.Namespace], int | None]  # gives the exit code
Argument = tuple[tuple[str, ...], dict[str, Any]]  # as argparse's add_argument takes it
OWN_KEYS = {"eval": ("weights", "protocol", "what"), "suite": ("preset", "seeds")}  # beside those of a configuration


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ConfigErrors (exit 2)."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}\n{self.format_usage().strip()}")


COMMANDS: dict[str, Parser] = {}  # by name, one of two words is an action of the first; with defaults group and handler


def command(name: str, group: str, text: str, *arguments: Argument) -> Callable[[Handler], Handler]:
    """Enter the function below into the table; its options also hold `command`, what a person typed."""
    parser = COMMANDS[name] = Parser(prog=f"repro {name}", description=text, allow_abbrev=False)
    for names, settings in arguments:
        parser.add_argument(*names, **settings)

    def enter(handler: Handler) -> Handler:
        parser.set_defaults(group=group, handler=handler)
        return handler
    return enter


def argument(*names: str, **settings: Any) -> Argument:
    return names, settings


def flag(name: str, text: str) -> Argument:
    return argument(name, action="store_true", help=text)


JSON = flag("--json", "print JSON")
REFERENCE = flag("--reference", "from the committed runs only, beside them")
OVERRIDES = argument("words", nargs="*", metavar="key=value", help="overrides, as of `repro run`")


def show_result(options: argparse.Namespace, values: Any, text: str) -> None:
    """Print a result in the form that was asked for."""
    print(json.dumps(values, indent=2) if options.json else text)


def split_words(name: str, words: list[str]) -> tuple[dict[str, str], list[str]]:
    """The settings among the words that are the command's own, and the other words."""
    own = [word for word in words if "=" in word and word.partition("=")[0] in OWN_KEYS[name]]
    return dict(word.split("=", 1) for word in own), [word for word in words if word not in own]


def runs_of(reference: bool = False, results: Path | None = None) -> list[Any]:
    """The user's runs, unless only the committed ones are asked for, and the committed ones, each as a RunSet."""
    from repro.reporting.select import pools
    return pools(None if reference else results or paths.results_dir(), paths.reference_dir())


def output_folder(kind: str, reference: bool) -> Path:
    """Beside the committed runs for what comes from them alone, in a checkout; else in the user's results."""
    return (paths.reference_dir() if reference and paths.in_tree() else paths.results_dir()) / kind


def data_root(words: Sequence[str]) -> Path:
    """The folder of the data sets by data.root=, $REPRO_DATA or as it is by default."""
    from repro.config import compose
    return paths.data_dir(compose(["experiment=cifar_resnet20", *words]).data.root)


RUN_USAGE = """\
usage: repro run experiment=NAME [key=value ...]        one run (again: goes on where it stopped)
       repro run -m experiment=A,B seed=0,1 [...]       a sweep, as Hydra does it
       repro run experiment=NAME --cfg job              the composed configuration, nothing runs

Keys are described in repro/schema.py; the most used ones: seed=0, scale=0.01 (shortens every length alike),
max_seconds=600, resume=never, data.root=FOLDER, data.split=45k, model.shortcut_option=B, model.depth=32,
machine.device=cpu, machine.precision=fp32, --config-dir DIR for configuration files of your own.
REPRO_DATA, REPRO_RESULTS and REPRO_DEVICE stand in for data.root, results and machine.device.
"""


@command("run", "train", "train one experiment, or sweep over several with -m", OVERRIDES)
def run(options: argparse.Namespace) -> int:
    if not options.words or {"-h", "--help"} & set(options.words):
        print(RUN_USAGE, end="")
        return 0 if options.words else 2
    # Read when torch is imported: what it logs where one of several processes is lost is C++ frames.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    from repro.config import compose, sweep, with_config_dir
    def train(config: Any) -> None:
        from repro.training import train as training
        from repro.training.distributed import plan
        with show_messages():  # also in the processes of a launcher
            training.run(plan(config, options.command))

    words = with_config_dir(options.words)
    if any(word.startswith("-") for word in words):
        sweep(words, train)
    else:
        train(compose(words))
    return 0


@command("suite", "train", "run all experiments of a suite, then its tables and figures",
         argument("name", help="e.g. cifar_plain_vs_res"),
         argument("words", nargs="*", metavar="key=value",
                  help="preset=auto|paper|short, seeds=K, and any override of `repro run`"))
def run_suite(options: argparse.Namespace) -> None:
    from repro.config import check_override_keys
    from repro.paper import suite
    suite(options.name)  # a wrong name or key does not wait for torch
    own, overrides = split_words("suite", options.words)
    check_override_keys(overrides)
    if not own.setdefault("seeds", "0").isdecimal():
        raise ConfigError(f"seeds={own['seeds']}: allowed is how many; 0 is as many as the suite says")
    from repro.training.suite import run_suite as run_all
    preset, results, failures = run_all(options.name, own.get("preset", "auto"), int(own["seeds"]), overrides,
                                        options.command)
    found = runs_of(results=results)
    for name in preset.tables:
        make_table(name, found, results / "tables")
    for name in preset.figures:
        make_figure(name, found, results / "figures")
    if failures:
        raise failures[0]


@command("suite pending", "train", "advance the full-length runs that results/reference lacks, cheapest first",
         argument("--max-seconds", type=float, metavar="S", help="be done in this time, everything saved"),
         flag("--dry-run", "only say what is lacking"),
         argument("--runs", type=lambda text: text.split(","), default=[], metavar="A,B,...",
                  help="these and in this order: EXPERIMENT, its lacking seeds, or EXPERIMENT/seedK"),
         OVERRIDES)
def advance_pending(options: argparse.Namespace) -> None:
    """`repro suite pending`: 0 when nothing is left to do, 75 when time or a signal ended it."""
    if options.max_seconds is not None and not options.max_seconds > 0:
        raise ConfigError(f"--max-seconds {options.max_seconds:g}: allowed is above 0")
    from repro.config import compose
    from repro.training.suite import run_pending
    results = paths.results_dir(compose(["experiment=cifar_resnet20", *options.words]).results)
    failures = run_pending(results, options.runs, options.words, options.max_seconds, options.dry_run, options.command)
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
    from repro.runs import find_run, read_run, run_folder, scan
    from repro.schema import IMAGENET
    own, overrides = split_words("eval", options.words)
    names = [word for word in overrides if "=" not in word]
    overrides = [word for word in overrides if word not in names]
    responses = pick(own.get("what", "errors"), {"errors": False, "responses": True}, "what")
    check_override_keys(overrides)
    run = find_run(names[0], paths.results_dir()) if names else None
    # after the words are looked at: these load torch
    from repro.devices import resolve
    from repro.evaluation.evaluate import evaluate
    from repro.training.train import add_responses
    from repro.weights import compose_for
    if not (names or responses or "weights" in own):
        run = read_run(run_folder(resolve(compose(overrides))))
    if responses:
        lacking = [one for one in scan(paths.results_dir() / "runs") if one.finished and one.tested_on == "test"
                   and (one.folder / "weights.pt").is_file() and not (one.folder / "responses.csv").is_file()]
        if not (run or lacking):
            logger.info("no finished run lacks responses.csv")
        for one in [run] if run else lacking:
            add_responses(one, overrides)
        return
    path = run.folder / "weights.pt" if run else paths.user_path(own["weights"])
    if run and not (run.finished and path.is_file()):
        raise ConfigError(f"no finished run with weights in {paths.display_path(run.folder)} "
                          f"({run.problem or run.status}): train it with `repro run`, or give weights=FILE")
    config = compose_for(overrides, path)
    known = PROTOCOLS if config.data.name == IMAGENET else ("single_view",)
    protocol = pick(own.get("protocol", known[0]), {name: name for name in known},
                    f"protocol with data.name={config.data.name}")
    text, values = evaluate(config, protocol, path)
    show_result(options, values, text)


@command("ensemble", "evaluate", "average the kept class probabilities of several networks",
         argument("name", help="e.g. table5"), OVERRIDES, JSON)
def combine_networks(options: argparse.Namespace) -> None:
    from repro.evaluation.evaluate import combine
    text, values = combine(options.name, options.words)
    show_result(options, values, text)


@command("weights import", "evaluate", "map a public checkpoint onto our network, for `repro eval`",
         argument("file", metavar="FILE", help="the checkpoint; only its tensors are read, nothing is executed"),
         argument("--from", dest="layout", required=True, choices=("akamaster", "torchvision"),
                  help="akamaster/pytorch_resnet_cifar10, or torchvision's resnet18 to 152"),
         argument("--output", metavar="OUT", help="a file to write (default: in results/imported)"))
def import_weights(options: argparse.Namespace) -> None:
    from repro import weights
    file = paths.user_path(options.file)
    output = paths.results_dir() / "imported" / f"{file.stem}-{options.layout}.pt"
    if options.output and (output := paths.user_path(options.output)).exists():
        raise ConfigError(f"{options.output} is there already; give another --output")
    facts = weights.import_weights(file, options.layout, output)
    shown = paths.display_path(output)
    print(f"{facts.note}\nwritten: {shown}\ntest it with: repro eval weights={shown}")


@command("weights export", "evaluate", "write the weights of a finished run as a plain file, with a model card",
         argument("run", metavar="RUN", help="its folder, or EXPERIMENT/seedK"))
def export_weights(options: argparse.Namespace) -> None:
    from repro import weights
    from repro.runs import find_run
    results = paths.results_dir()
    path = weights.export_weights(find_run(options.run, results), results / "exported")
    print(f"written: {paths.display_path(path)}, with a card beside it")


@command("status", "results", "what there is, what runs now, what results/reference lacks, and the time left", JSON)
def show_status(options: argparse.Namespace) -> None:
    from repro.reporting.status import status, status_text
    found = status(*runs_of())
    show_result(options, found, status_text(found))


@command("table", "results", "print and write a table", argument("name", help="a table's name, or all"), REFERENCE,
         flag("--check", "compare the committed tables with their runs"),
         flag("--strict", "exit 4 if a result is worse than published or a row lacks runs"),
         JSON)
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
    form = "json" if options.json else "md"
    problems = [problem for name in names for problem in make_table(name, found, folder, form)]
    if problems and options.strict:
        raise ComparisonError("\n".join(problems))


def make_table(name: str, found: list[Any], folder: Path, form: str = "md") -> list[str]:
    """Print one table, write its files, and return what --strict objects to, a line each."""
    from repro.reporting.table import write
    from repro.reporting.tables import build
    table = build(name, found)
    print(table.forms[form])
    written = write(table, folder)
    if form == "md":
        print(f"written: {', '.join(map(paths.display_path, written))}\n")
    return table.problems


@command("figure", "results", "draw a figure as SVG and PNG", argument("name", help="a figure's name, or all"),
         REFERENCE)
def make_figures(options: argparse.Namespace) -> None:
    from repro.reporting import figures
    found = runs_of(options.reference)
    for name in figures.names() if options.name == "all" else [options.name]:
        make_figure(name, found, output_folder("figures", options.reference))


def make_figure(name: str, found: list[Any], folder: Path) -> None:
    """Draw one figure and say where it is."""
    from repro.reporting.figures import draw
    written = ", ".join(map(paths.display_path, draw(name, found, folder)))
    print(f"{name}: {written or 'nothing to draw yet; no finished run of it (repro status)'}")


@command("claims", "results", "check the paper's statements against the runs that are there",
         argument("suite", nargs="?", default=None, help="only the claims of this suite"),
         REFERENCE, flag("--strict", "exit 4 if a claim fails"), JSON)
def show_claims(options: argparse.Namespace) -> None:
    from repro.reporting import claims
    from repro.reporting.table import write
    found = claims.evaluate(runs_of(options.reference), options.suite)
    show_result(options, [asdict(one) for one in found], claims.claims_text(found))
    if options.suite is None:
        write(claims.claims_table(found), output_folder("tables", options.reference))
    failed = [one.id for one in found if one.verdict == claims.FAIL]
    if failed and options.strict:
        raise ComparisonError(f"claims that fail: {', '.join(failed)}")


@command("report", "results", "one HTML page with tables, figures, claims and a card for each run",
         flag("--reference", "from the committed runs only"))
def write_report(options: argparse.Namespace) -> None:
    from repro.files import write_atomic
    from repro.reporting.status import report
    path = paths.results_dir() / "report.html"
    write_atomic(path, report(runs_of(options.reference)))
    print(f"report: {paths.display_path(path)}")


@command("show", "results", "a run's settings, sources, schedule and cost, or what differs from another",
         argument("words", nargs="+", metavar="key=value | RUN | SUITE",
                  help="experiment=NAME and overrides; with --against also EXPERIMENT/seedK or a run's folder; with "
                       "--measure the name of a suite or an experiment, and overrides"),
         argument("--against", metavar="NAME | RUN",
                  help="what differs from akamaster, fb, torchvision, another experiment; of a run, from another run"),
         flag("--measure", "time a few real updates and say what all of it would take here"),
         argument("--config-dir", metavar="DIR", help="a folder with configuration files of your own"), JSON)
def show(options: argparse.Namespace) -> None:
    from repro.config import compose, with_config_dir
    from repro.reporting import status
    from repro.runs import find_run
    words = with_config_dir([*options.words, *(["--config-dir", options.config_dir] if options.config_dir else [])])
    names = [word for word in words if "=" not in word]
    if options.measure:
        from repro.files import write_json
        from repro.training.suite import measure_suite
        name = "".join(names[:1])
        costs = measure_suite(name, [word for word in words if word not in names])
        path = paths.results_dir() / "bench" / f"cost_{name}.json"
        write_json(path, costs)
        show_result(options, costs, f"written: {paths.display_path(path)}")
        return
    if options.against is not None:
        roots = paths.results_dir(), paths.reference_dir()
        differing = (status.compare(find_run(words[0], *roots), find_run(options.against, *roots))
                     if names == words else status.against(compose(words), words, options.against))
        show_result(options, differing, status.differences_text(differing))
        return
    config = compose(words)
    found = status.facts(config, words, runs_of(results=paths.results_dir(config.results)))
    show_result(options, found, status.facts_text(found))


@command("publish", "results", "promote a finished local run into results/reference",
         argument("run", help="its folder, or EXPERIMENT/seedK; ensembles/table5"))
def publish_run(options: argparse.Namespace) -> None:
    """`repro publish`; of an ensemble ConfigError if Table 5 would not count it."""
    from repro.files import read_object
    from repro.paper import pick
    from repro.reporting import figures, tables
    from repro.reporting.select import ENSEMBLE, ENSEMBLE_FILE, ensemble_problem
    from repro.reporting.table import write
    from repro.runs import ENSEMBLES, publish
    problem = None
    if options.run.startswith(ENSEMBLES) and not Path(options.run).exists():
        pick(options.run.removeprefix(ENSEMBLES), {ENSEMBLE: None}, "ensemble that a table has")
        found = read_object(paths.results_dir() / ENSEMBLE_FILE)
        problem = next(filter(None, (ensemble_problem(found, pool) for pool in runs_of())), None)
    publish(options.run, paths.results_dir(), problem)
    runs = runs_of(reference=True)
    for name in tables.committed_names():
        write(tables.build(name, runs), paths.reference_dir() / "tables")
    for name in figures.names():
        figures.draw(name, runs, paths.reference_dir() / "figures")


@command("data", "data", "fetch or verify a data set", argument("action", choices=["fetch", "verify"]),
         argument("name", nargs="?", default="cifar10", choices=["cifar10", "imagenet"]),
         argument("words", nargs="*", metavar="data.root=DIR",
                  help="the folder that holds it; data.wiring_test=true: imagenet may be any folders of classes"))
def manage_data(options: argparse.Namespace) -> None:
    from repro.config import compose
    experiment = "imagenet_optB" if options.name == "imagenet" else "cifar_resnet20"
    data = compose([f"experiment={experiment}", *options.words]).data
    root = paths.data_dir(data.root)
    if options.name == "imagenet":
        from repro.data import imagenet
        if options.action == "fetch":
            raise ConfigError("ImageNet can't be fetched: its images may not be passed on. What to do: "
                              f"{imagenet.BY_HAND}; then `repro data verify imagenet data.root=FOLDER`")
        imagenet.verify(root, data.wiring_test)
        return
    from repro.data import cifar10_files
    if options.action == "fetch":
        cifar10_files.fetch(root)
    else:
        sha256 = cifar10_files.load(root).sha256
        print(f"{cifar10_files.folder_in(root)}: every image and label is as published (SHA-256 {sha256})")


@command("check", "setup", "can runs start here, and does this installation compute what it claims? a minute on a CPU",
         argument("words", nargs="*", metavar="data.root=DIR", help="the folder that holds CIFAR-10"), JSON)
def check(options: argparse.Namespace) -> None:
    root = data_root(options.words)
    from repro.checks.installation import perform
    results = perform(root)
    failed = [one.check for one in results if one.status == FAIL]
    show_result(options, [one._asdict() for one in results], f"{len(results)} checks, {len(failed)} failed")
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
    found = {paths.display_path(folder): check_record(folder, others) for folder in folders}
    show_result(options, {name: [one._asdict() for one in results] for name, results in found.items()},
                "\n".join("\n  ".join([name, *map(str, results)]) for name, results in found.items()))
    if failed := [name for name, results in found.items() if results[-1].status == FAIL]:
        raise ComparisonError(f"records that fail: {', '.join(failed)}")


@command("bench", "setup", "measure training speed against usual loops and against what the device allows",
         argument("words", nargs="*", metavar="[input] key=value",
                  help="overrides of `repro run`, e.g. machine.precision=bf16; or `input data.root=DIR`: how fast "
                       "ImageNet's images are read"),
         argument("--nets", type=lambda text: [int(word) for word in text.split(",")], default=(), metavar="20,56",
                  help="networks of so many layers"),
         flag("--quick", "20 layers against the DataLoader, 2 short rounds; a minute on 2 cores"),
         argument("--max-seconds", type=float, default=float("inf"), metavar="S",
                  help="be done in this time, with fewer rounds"),
         JSON)
def run_bench(options: argparse.Namespace) -> None:
    from repro import bench
    length = {"quick": options.quick, "max_seconds": options.max_seconds}
    record = (bench.bench_input(data_root(options.words[1:]), **length) if options.words[:1] == ["input"] else
              bench.bench(options.words, options.nets, **length))
    path = bench.save(record, paths.results_dir() / "bench")
    show_result(options, record, f"\n{bench.render(record)}")
    logger.info(f"written: {paths.display_path(path)}")
