"""Which runs, and which tests of them, stand in a table or figure, and why others do not. Errors in percent."""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from repro.config import (
    PAPER_PRECISIONS,
    compose,
    config_hash,
    deviations,
    paper_config,
    paper_hashes,
    scale_lengths,
    with_precision,
)
from repro.files import read_object
from repro.paper import PROTOCOL_LABELS, Preset, ensemble, reproduced_rows, suite
from repro.record import Record
from repro.reporting.statistics import Summary
from repro.runs import Run, scan
from repro.schema import CIFAR10, IMAGENET, VALIDATION_IMAGES, Precision, RunConfig
from repro.wording import escape

YOURS, REFERENCE = "yours", "reference"
PRECISIONS = (Precision.fp32, Precision.tf32, Precision.bf16, Precision.fp16)
# Cells of experiments without a run that counts.
INCOMPLETE, STALE, NOT_RUN, NOT_EVALUATED = "incomplete", "stale", "not run", "not evaluated"
OTHER, WIRING_TEST, DUPLICATE = "other configuration", "wiring test", "duplicate"
SPLITS = {"full": "trained on all 50,000 training images", "45k": "trained on 45,000 images",
          "synthetic": "trained and tested on synthetic images",
          "imagenet": "trained on all training images of ImageNet"}
TABLES = {"table2": "ten_crop", "table3": "ten_crop", "table4": "multi_scale"}  # what their captions name
ERRORS = {"top1_error": "top1_errors", "top5_error": "top5_errors"}  # columns of the paper's tables: counts in a record
ENSEMBLE = "table5"
SCHEMA = 1  # of evaluations/PROTOCOL.json
EXACT = {precision.name for precision in PAPER_PRECISIONS}  # in which a test may be
# Variants of tables and figures: short_figure6 is Figure 6 of the short runs of a suite.
SHORT, SYNTHETIC = "short", "synthetic"
LAYERS = ("figure7", "gradients")  # drawn by layer, of the networks of Figure 7
SUITES = {SHORT: "cifar_plain_vs_res", SYNTHETIC: "demo"}
LAYER_SUITES = {SHORT: "cifar_responses", SYNTHETIC: "demo"}
NOT_CIFAR = "Synthetic images, not CIFAR-10"


class RunSet(NamedTuple):
    """All runs of one origin, and the folder that has them below runs/."""

    origin: str
    runs: tuple[Run, ...]
    root: Path


class ExcludedRun(NamedTuple):
    """A run that does not count, and why."""

    run: Run
    status: str
    reason: str


@dataclass(frozen=True)
class RunSelection:
    """The runs of one experiment from one origin: those that count, one for each seed, and the others.

    Under a protocol, on ImageNet, a run's number is that of its test: `tests` has the records of those that count.
    """

    origin: str
    experiment: str
    runs: tuple[Run, ...]
    excluded: tuple[ExcludedRun, ...]
    protocol: str = ""
    tests: tuple[tuple[Run, dict[str, Any]], ...] = ()
    lacking: tuple[tuple[Run, str], ...] = ()  # runs that count without a test that does, and why

    @property
    def count(self) -> int:
        """How many seeds give a number."""
        return len(self.tests if self.protocol else self.runs)

    @property
    def status(self) -> str:
        """'finished', or why there is no number."""
        if self.runs:
            return "finished" if self.count else NOT_EVALUATED
        found = {entry.status for entry in self.excluded}
        return next((status for status in (INCOMPLETE, STALE) if status in found), NOT_RUN)

    def summary(self, key: str | None = None) -> Summary:
        """An error of the seeds that count, at the last iteration or of their tests; without `key` the top-1 error."""
        if self.protocol:
            return Summary(tuple(float(content[f"val_{key or 'top1_error'}"]) for _, content in self.tests))
        return Summary(tuple(float(result(run)[key or error_key(run)]) for run in self.runs))

    def cell(self, key: str | None = None) -> str:
        """The summary for a table, or why there is none."""
        return str(self.summary(key)) if self.count else self.status

    def notes(self) -> list[str]:
        """One line for each run without a test that counts, or that does not count."""
        return [*(f"{NOT_EVALUATED} ({self.origin}): {run.name}: {reason}" for run, reason in self.lacking),
                *(f"not counted ({self.origin}): {run.name}: {status}: {reason}"
                  for run, status, reason in self.excluded)]

    def as_json(self) -> dict[str, Any]:
        """The status, the protocol, each seed, and the summary."""
        seeds = [test_as_json(*test) for test in self.tests] if self.protocol else [*map(seed_as_json, self.runs)]
        return {"status": self.status, **({"protocol": self.protocol} if self.protocol else {}), "seeds": seeds,
                **(self.summary().as_json() if self.count else {})}


def pools(results: Path | None, reference: Path) -> list[RunSet]:
    """The user's runs, if a folder is given, and then the committed ones."""
    roots = ([] if results is None else [(YOURS, results)]) + [(REFERENCE, reference)]
    return [RunSet(origin, tuple(scan(root / "runs")), root) for origin, root in roots]


# ---- what a record says


def record(run: Run) -> Record:
    """The record of a run that has one."""
    assert run.record is not None
    return run.record


def result(run: Run) -> Mapping[str, float]:
    """The last row of a run's history; {} without one."""
    return record(run).result or {}


def error_key(run: Run) -> str:
    """The key of a run's top-1 error: test_top1_error, on ImageNet val_top1_error."""
    return f"{run.tested_on}_top1_error"


def precision(run: Run) -> str:
    """fp32, tf32, bf16 or fp16."""
    return record(run).config.machine.precision.name


def device(run: Run) -> str:
    """The recorded device, such as 'NVIDIA H200'."""
    return record(run).environment.device or "unknown device"


def split(run: Run) -> str:
    """A key of SPLITS: what a run was trained on."""
    data = record(run).config.data
    return data.split.name if data.name == CIFAR10 else data.name


def data_set(experiment: str) -> str:
    """What an experiment's data set is called."""
    return "ImageNet" if paper_config(experiment).data.name == IMAGENET else "CIFAR-10"


def net_name(experiment: str) -> str:
    """'ResNet-20' for cifar_resnet20, 'plain-18' for imagenet_plain18, 'ResNet-34 B' for imagenet_optB (Sec. 4.1)."""
    bare = experiment.partition("_")[2]
    if bare.startswith("opt"):
        return f"ResNet-34 {bare.removeprefix('opt')}"
    family = next((name for name in ("ResNet", "VGG") if bare.startswith(name.lower())), "plain")
    return f"{family}-{bare.removeprefix(family.lower())}"


def seed_as_json(run: Run) -> dict[str, Any]:
    """One run: errors at the last iteration, best-on-test as a labeled extra, machine, identity."""
    content, error = record(run), error_key(run)
    return {"seed": run.seed, "run": run.name, "identity": run.identity, "iteration": content.iterations,
            "train_top1_error": result(run)["train_top1_error"], error: result(run)[error],
            "extra_best_on_test": content.best_on_test, "extra_averaged_batch_norm": content.recomputed_batch_norm,
            "device": device(run), "precision": precision(run), "split": split(run),
            "train_seconds": content.train_seconds, "evaluation_seconds": content.evaluation_seconds}


def test_as_json(run: Run, content: Mapping[str, Any]) -> dict[str, Any]:
    """One run with the errors of its test."""
    return {"seed": run.seed, "run": run.name, "identity": run.identity,
            **{column: float(content[f"val_{column}"]) for column in ERRORS},
            **{key: content.get(key) for key in (*ERRORS.values(), "images", "weights_sha256", "precision", "device")},
            "train_precision": precision(run)}


def machine_notes(answers: Iterable[RunSelection], name: Callable[[Run], str] = lambda run: run.name) -> list[str]:
    """One line for each origin, machine, precision and split: which runs were made there."""
    groups: dict[str, list[str]] = {}
    for answer in answers:
        for run in answer.runs:
            where = f"{answer.origin}: {device(run)}, {precision(run)}, {SPLITS[split(run)]}"
            groups.setdefault(where, []).append(name(run))
    return [f"{where}: {', '.join(names)}" for where, names in groups.items()]


# ---- which runs count


def answers_to(row: str, found: Iterable[RunSet]) -> list[RunSelection]:
    """What each origin has for a row such as table6/resnet-20, tested in its table's way; [] without an experiment."""
    experiment, protocol = reproduced_rows().get(row), TABLES.get(row.partition("/")[0])
    if experiment is None:
        return []
    return [evaluated_runs(pool, experiment, protocol) if protocol else paper_runs(pool, experiment) for pool in found]


def open_status(answers: Iterable[RunSelection]) -> str:
    """The status of a row without a run that counts: the first origin that has anything to tell."""
    return next((answer.status for answer in answers if answer.status != NOT_RUN), NOT_RUN)


def paper_runs(pool: RunSet, experiment: str) -> RunSelection:
    """The runs of an experiment that followed the paper: as it stands in conf/, in fp32 or TF32, to the end."""
    return select(pool, experiment, paper_hashes(experiment))


def select(pool: RunSet, experiment: str, identities: Collection[str]) -> RunSelection:
    """Sort the runs in an experiment's folders into those that count, one for each seed, and those that don't."""
    good: list[Run] = []
    excluded: list[ExcludedRun] = []
    for run in pool.runs:
        if run.folder.parent.name.split("@")[0] == experiment:
            if problem := exclusion_reason(run, experiment, identities):
                excluded.append(ExcludedRun(run, *problem))
            else:
                good.append(run)
    unique: list[Run] = []
    for run in sorted(good, key=lambda one: (one.seed, one.name != f"{experiment}/seed{one.seed}", one.name)):
        # a copy under another seed has the same history, which no two seeds share
        twin = next((one for one in unique if one.seed == run.seed or one.history() == run.history()), None)
        if twin is None:
            unique.append(run)
        else:
            excluded.append(ExcludedRun(run, DUPLICATE, f"the same run or seed as {twin.name}"))
    return RunSelection(pool.origin, experiment, tuple(unique), tuple(excluded))


def exclusion_reason(run: Run, experiment: str, identities: Collection[str]) -> tuple[str, str] | None:
    """(status, reason) if a run does not count for these identities; None if it does."""
    own = run.folder.parent.name in (experiment, *(f"{experiment}@{identity}" for identity in identities))
    if (found := run.record) is None:
        return (INCOMPLETE if own else OTHER), str(run.problem)
    if found.experiment != experiment:
        return OTHER, f"its record is of experiment {found.experiment}"
    if run.wiring_test:
        return WIRING_TEST, "it says nothing about ImageNet"
    if run.identity not in identities:
        if run.synthetic:
            return SYNTHETIC, f"synthetic images say nothing about {data_set(experiment)}"
        changed = sorted(deviations(with_precision(found.config, PAPER_PRECISIONS[0])))
        changed += [] if precision(run) in EXACT else [f"machine.precision: {precision(run)}"]
        return (STALE if own else OTHER), ", ".join(changed) or "its identity is not the experiment's of now"
    if config_hash(found.config) != run.identity:
        return STALE, "its recorded configuration and identity differ"
    if not run.finished:
        return INCOMPLETE, run.problem or f"{run.status} at iteration {found.iteration} of {found.iterations}"
    if not all(0 <= result(run).get(key, -1) <= 100 for key in ("train_top1_error", error_key(run))):
        return INCOMPLETE, f"its record has no training and {run.tested_on} error in percent"
    return None


def median_run(answer: RunSelection) -> Run:
    """The run whose final error, of its test, is closest to the median of all seeds; the lowest seed on ties."""
    errors = sorted(answer.summary().values)
    middle = (errors[(len(errors) - 1) // 2] + errors[len(errors) // 2]) / 2
    return min(answer.runs, key=lambda run: (abs(result(run)[error_key(run)] - middle), run.seed))


# ---- tests of finished ImageNet runs, as `repro eval protocol=...` writes them, and ensembles of them


def evaluated_runs(pool: RunSet, experiment: str, protocol: str) -> RunSelection:
    """The paper's runs of an experiment and their tests under a protocol."""
    answer = paper_runs(pool, experiment)
    contents = [(run, read_evaluation(run, protocol)) for run in answer.runs]
    problems = [evaluation_problem(run, protocol, content) for run, content in contents]
    return replace(answer, protocol=protocol,
                   tests=tuple(one for one, problem in zip(contents, problems, strict=True) if problem is None),
                   lacking=tuple((run, why) for run, why in zip(answer.runs, problems, strict=True) if why is not None))


def read_evaluation(run: Run, protocol: str) -> dict[str, Any]:
    """The record of a run's test under a protocol; {} without a readable one."""
    return read_object(run.folder / "evaluations" / f"{protocol}.json")


def evaluation_problem(run: Run, protocol: str, content: Mapping[str, Any]) -> str | None:
    """Why a test of a run does not count; None if it does."""
    way = PROTOCOL_LABELS[protocol]
    if not content:
        return f"no {way} testing that can be read"
    wanted = {"schema": SCHEMA, "protocol": protocol, "experiment": run.experiment, "seed": run.seed,
              "identity": run.identity}
    if own := record(run).weights_sha256:  # older records do not have it
        wanted["weights_sha256"] = own
    problem = count_problem(content, wanted)
    if problem is None and content.get("precision") not in EXACT:
        problem = f"has precision={content.get('precision')}"
    return problem and escape(f"its {way} testing {problem}")


def count_problem(content: Mapping[str, Any], wanted: Mapping[str, Any] | None = None) -> str | None:
    """What is wrong with the images and errors of a test, or of an ensemble's, of all of ImageNet's validation set.

    None if they count. Values that are `wanted` beside are compared first.
    """
    due = {**(wanted or {}), "wiring_test": False, "finished": True, "split": "val", "images": VALIDATION_IMAGES}
    for key, value in due.items():
        if content.get(key) != value:
            return f"has {key}={content.get(key)}, not {value}"
    counts: list[Any] = [content.get(count) for count in ERRORS.values()]
    if not all(type(count) is int for count in counts) or not 0 <= counts[1] <= counts[0] <= VALIDATION_IMAGES:
        return "has no counts of errors that can be"
    for column, count in zip(ERRORS, counts, strict=True):
        percent: Any = content.get(f"val_{column}")
        if type(percent) not in (int, float) or abs(percent / 100 * VALIDATION_IMAGES - count) > 0.5:
            return f"says {percent} % for {count} errors in {VALIDATION_IMAGES} images"
    return None


def read_ensemble(root: Path) -> dict[str, Any]:
    """The record that `repro ensemble table5` wrote below a results folder; {} without a readable one."""
    return read_object(root / "ensembles" / f"{ENSEMBLE}.json")


def ensemble_problem(found: Mapping[str, Any], pool: RunSet) -> str | None:
    """Why an ensemble's record does not count beside these runs; None if it does, or if there is none."""
    if not found:
        return None
    wanted = ensemble(ENSEMBLE)
    listed = [one for one in found.get("members") or () if isinstance(one, dict)]
    members = [(one.get("experiment"), one.get("seed")) for one in listed]
    if members != [(one.experiment, one.seed) for one in wanted.members] or found.get("protocol") != wanted.protocol:
        return "it is not of the members and protocol of experiments/ensembles/table5.yaml"
    runs = {run.name: run for run in pool.runs}
    for one in listed:
        name = f"{one['experiment']}/seed{one['seed']}"
        if one.get("identity") not in paper_hashes(one["experiment"]) or one.get("precision") not in EXACT:
            return f"its {name} is no run, or no test, of the paper's settings"
        if name in runs and read_evaluation(runs[name], wanted.protocol).get("weights_sha256") != one.get(
                "weights_sha256"):
            return f"it is not of the {PROTOCOL_LABELS[wanted.protocol]} testing of {name} ({pool.origin})"
    problem = count_problem(found)
    return problem and escape(f"it {problem}")


# ---- short runs and runs on synthetic images, of a suite's preset


def split_name(name: str) -> tuple[str | None, str]:
    """('short', 'figure6') for short_figure6, (None, 'figure6') for figure6."""
    prefix, _, base = name.partition("_")
    return (prefix, base) if prefix in SUITES else (None, name)


def preset_of(variant: str, base: str) -> Preset:
    """The preset whose runs a variant of a figure or table shows."""
    return suite((LAYER_SUITES if base in LAYERS else SUITES)[variant]).preset(variant)


@functools.cache
def with_preset(experiment: str, overrides: tuple[str, ...]) -> RunConfig:
    """An experiment with a preset's overrides."""
    return compose([f"experiment={experiment}", *overrides])


def preset_runs(pool: RunSet, preset: Preset) -> list[RunSelection]:
    """The runs of each of a preset's experiments, in whatever precision; without runs of other configurations."""
    found = []
    for name in preset.experiments or ():
        config = with_preset(name, preset.overrides)
        answer = select(pool, name, {config_hash(with_precision(config, choice)) for choice in PRECISIONS})
        found.append(replace(answer, excluded=tuple(entry for entry in answer.excluded
                                                    if entry.status in (INCOMPLETE, DUPLICATE))))
    return found


def schedule_text(preset: Preset) -> str:
    """'300 iterations instead of 64,000, drops at 150 and 225'."""
    config = with_preset((preset.experiments or ())[0], preset.overrides)
    full = config.train.iterations
    short, *drops = (scale_lengths(length, config.scale) for length in (full, *config.train.lr_drops))
    return f"{short:,} iterations instead of {full:,}, drops at {' and '.join(map(str, drops))}"
