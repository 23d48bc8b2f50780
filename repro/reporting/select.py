"""Which runs, and which tests of them, stand in a table or figure, and why others do not. Errors in percent."""

import functools
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from repro.config import (
    PAPER_PRECISIONS,
    compose,
    config_hash,
    deviations,
    paper_hashes,
    scale_lengths,
    with_precision,
)
from repro.files import read_object
from repro.paper import PROTOCOL_LABELS, Preset, ensemble, reproduced_rows, suite
from repro.paths import escape
from repro.reporting.statistics import Summary
from repro.runs import Record, Run, scan
from repro.schema import VALIDATION_IMAGES, Precision, RunConfig

YOURS, REFERENCE = "yours", "reference"
# Cells of experiments without a run that counts.
INCOMPLETE, STALE, NOT_RUN, NOT_EVALUATED = "incomplete", "stale", "not run", "not evaluated"
OTHER, DUPLICATE = "other configuration", "duplicate"
TABLES = {"table2": "ten_crop", "table3": "ten_crop", "table4": "multi_scale"}  # what their captions name
ERRORS = {"top1_error": "top1_errors", "top5_error": "top5_errors"}  # columns of the paper's tables: counts in a record
ENSEMBLE, ENSEMBLE_FILE = "table5", "ensembles/table5.json"
SCHEMA = 1  # of evaluations/PROTOCOL.json
EXACT = {precision.name for precision in PAPER_PRECISIONS}  # in which a test may be
# Variants of tables and figures: short_figure6 is Figure 6 of the short runs of a suite.
SHORT, SYNTHETIC = VARIANTS = ("short", "synthetic")
LAYERS = ("figure7", "gradients")  # drawn by layer, of the networks of Figure 7
NOT_CIFAR = "Synthetic images, not CIFAR-10"


class RunSet(NamedTuple):
    """All runs of one origin, and the folder that has them below runs/."""

    origin: str
    runs: tuple[Run, ...]
    root: Path


@dataclass(frozen=True)
class RunSelection:
    """The runs of one experiment from one origin that count, one for each seed; and others with a status and why.

    `tests` has the records of the runs' tests, by name of the run, where these are what a table shows.
    """

    origin: str
    experiment: str
    runs: tuple[Run, ...]
    excluded: tuple[tuple[Run, str, str], ...]
    tests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """'finished', or why there is no number."""
        found = {"finished"} if self.runs else {status for _, status, _ in self.excluded}
        return next((one for one in ("finished", NOT_EVALUATED, INCOMPLETE, STALE) if one in found), NOT_RUN)

    @property
    def results(self) -> list[Mapping[str, Any]]:
        """What a test of each run found, or else the last row of its history."""
        return [self.tests.get(run.name) or record(run).result or {} for run in self.runs]

    def summary(self, key: str = "top1_error") -> Summary:
        """An error of the seeds; top1_error and top5_error are those of the split that is tested on."""
        key = f"{self.runs[0].tested_on}_{key}" if key in ERRORS else key
        return Summary(tuple(float(result[key]) for result in self.results))

    def cell(self, key: str = "top1_error") -> str:
        """The summary for a table, or why there is none."""
        return str(self.summary(key)) if self.runs else self.status

    def as_json(self) -> dict[str, Any]:
        """The status, each seed's run and errors, and the summary."""
        seeds = [{"seed": run.seed, "run": run.name, "identity": run.identity,
                  **{key: value for key, value in result.items() if "error" in key or key == "iteration"},
                  "extra_best_on_test": content.best_on_test,
                  "extra_averaged_batch_norm": content.recomputed_batch_norm, "device": device(run),
                  "precision": precision(run), "train_seconds": content.train_seconds,
                  "evaluation_seconds": content.evaluation_seconds}
                 for run, result in zip(self.runs, self.results, strict=True) if (content := run.record)]
        return {"status": self.status, "seeds": seeds, **(self.summary().as_json() if self.runs else {})}


def pools(results: Path | None, reference: Path) -> list[RunSet]:
    """The user's runs, if a folder is given, and then the committed ones."""
    roots = ([] if results is None else [(YOURS, results)]) + [(REFERENCE, reference)]
    return [RunSet(origin, tuple(scan(root / "runs")), root) for origin, root in roots]


# ---- what a record says


def record(run: Run) -> Record:
    """The record of a run that has one."""
    assert run.record is not None
    return run.record


def precision(run: Run) -> str:
    """fp32, tf32, bf16 or fp16."""
    return record(run).config.machine.precision.name


def device(run: Run) -> str:
    """The recorded device, such as 'NVIDIA H200'."""
    return record(run).environment.device or "unknown device"


def net_name(experiment: str) -> str:
    """'ResNet-20' for cifar_resnet20, 'plain-18' for imagenet_plain18, 'ResNet-34 B' for imagenet_optB (Sec. 4.1)."""
    name = experiment.partition("_")[2].replace("opt", "ResNet-34 ")
    return name.replace("resnet", "ResNet-").replace("plain", "plain-")


def machine_notes(answers: Iterable[RunSelection]) -> list[str]:
    """One line for each origin, machine and precision: which runs were made there."""
    groups: dict[str, list[str]] = {}
    for answer in answers:
        for run in answer.runs:
            groups.setdefault(f"{answer.origin}: {device(run)}, {precision(run)}", []).append(run.name)
    return [f"{where}: {', '.join(names)}" for where, names in groups.items()]


def run_notes(rows: Iterable[Sequence[RunSelection]]) -> list[str]:
    """Of a table's rows: where the runs were made that count, and why others do not."""
    answers = [answer for row in rows for answer in row]
    return machine_notes(answers) + [f"not counted ({answer.origin}): {run.name}: {status}: {reason}"
                                     for answer in answers for run, status, reason in answer.excluded]


# ---- which runs count


def answers_to(row: str, found: Iterable[RunSet]) -> list[RunSelection]:
    """What each origin has for a row such as table6/resnet-20, tested in its table's way; [] without an experiment."""
    experiment, protocol = reproduced_rows().get(row), TABLES.get(row.partition("/")[0])
    if experiment is None:
        return []
    return [paper_runs(pool, experiment, protocol) for pool in found]


def open_status(answers: Iterable[RunSelection]) -> str:
    """The status of a row without a run that counts: the first origin that has anything to tell."""
    return next((answer.status for answer in answers if answer.status != NOT_RUN), NOT_RUN)


def paper_runs(pool: RunSet, experiment: str, protocol: str | None = None) -> RunSelection:
    """The finished runs of an experiment as it stands in conf/, in fp32 or TF32; those with a test under a protocol."""
    answer = select(pool, experiment, paper_hashes(experiment))
    if protocol is None:
        return answer
    tests = {run.name: read_evaluation(run, protocol) for run in answer.runs}
    problems = {run.name: evaluation_problem(run, protocol, tests[run.name]) for run in answer.runs}
    lacking = [(run, NOT_EVALUATED, problem) for run in answer.runs if (problem := problems[run.name])]
    return replace(answer, runs=tuple(run for run in answer.runs if not problems[run.name]),
                   excluded=(*answer.excluded, *lacking), tests=tests)


def select(pool: RunSet, experiment: str, identities: Collection[str]) -> RunSelection:
    """Sort the runs in an experiment's folders into those that count, one for each seed, and those that don't."""
    runs: list[Run] = []
    excluded: list[tuple[Run, str, str]] = []
    there = [run for run in pool.runs if run.folder.parent.name.split("@")[0] == experiment]
    for run in sorted(there, key=lambda one: (one.seed, one.name != f"{experiment}/seed{one.seed}", one.name)):
        problem = exclusion_reason(run, experiment, identities)
        # a copy under another seed has the same history, which no two seeds share
        twin = None if problem else next(
            (one for one in runs if one.seed == run.seed or one.history() == run.history()), None)
        if problem := (DUPLICATE, f"the same run or seed as {twin.name}") if twin else problem:
            excluded.append((run, *problem))
        else:
            runs.append(run)
    return RunSelection(pool.origin, experiment, tuple(runs), tuple(excluded))


def exclusion_reason(run: Run, experiment: str, identities: Collection[str]) -> tuple[str, str] | None:
    """(status, reason) if a run does not count for these identities; None if it does."""
    own = run.folder.parent.name in (experiment, *(f"{experiment}@{identity}" for identity in identities))
    if (found := run.record) is None:
        return (INCOMPLETE if own else OTHER), str(run.problem)
    if run.identity not in identities or run.experiment != experiment:
        if run.no_evidence:
            return OTHER, f"{run.no_evidence}, no evidence"
        return (STALE if own else OTHER), ", ".join(deviations(found.config)) or "another experiment or version"
    if config_hash(found.config) != run.identity:
        return STALE, "its recorded configuration and identity differ"
    if not run.finished:
        return INCOMPLETE, run.problem or f"{run.status} at iteration {found.iteration} of {found.iterations}"
    errors = [(found.result or {}).get(f"{split}_top1_error", -1) for split in ("train", run.tested_on)]
    if not all(0 <= error <= 100 for error in errors):
        return INCOMPLETE, "its record has no training and test error in percent"
    return None


def median_run(answer: RunSelection) -> Run:
    """The run whose error is closest to the median of all seeds; the lowest seed on ties."""
    errors = answer.summary().values
    middle = statistics.median(errors)
    return min(zip(errors, answer.runs, strict=True), key=lambda one: (abs(one[0] - middle), one[1].seed))[1]


# ---- tests of finished ImageNet runs, as `repro eval protocol=...` writes them, and ensembles of them


def read_evaluation(run: Run, protocol: str) -> dict[str, Any]:
    """The record of a run's test under a protocol; {} without a readable one."""
    return read_object(run.folder / "evaluations" / f"{protocol}.json")


def evaluation_problem(run: Run, protocol: str, content: Mapping[str, Any]) -> str | None:
    """Why a test of a run does not count; None if it does."""
    if not content:
        return f"no {PROTOCOL_LABELS[protocol]} test that can be read"
    wanted = {"schema": SCHEMA, "protocol": protocol, "experiment": run.experiment, "seed": run.seed,
              "identity": run.identity}
    if own := record(run).weights_sha256:  # older records do not have it
        wanted["weights_sha256"] = own
    problem = count_problem(content, wanted)
    if problem is None and content.get("precision") not in EXACT:
        problem = f"has precision={content.get('precision')}"
    return problem and escape(f"its {PROTOCOL_LABELS[protocol]} test {problem}")


def count_problem(content: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """What is wrong with a test, or an ensemble's, of all of ImageNet's validation set, besides what is `wanted`."""
    due = {**wanted, "wiring_test": False, "finished": True, "split": "val", "images": VALIDATION_IMAGES}
    for key, value in due.items():
        if content.get(key) != value:
            return f"has {key}={content.get(key)}, not {value}"
    for column, key in ERRORS.items():
        count: Any = content.get(key)
        percent: Any = content.get(f"val_{column}")
        if (type(count) is not int or type(percent) not in (int, float) or not 0 <= percent <= 100
                or abs(percent / 100 * VALIDATION_IMAGES - count) > 0.5):
            return f"says {percent} % for {count} errors in {VALIDATION_IMAGES} images"
    return None


def ensemble_problem(found: Mapping[str, Any], pool: RunSet) -> str | None:
    """Why an ensemble's record does not count beside these runs; None if it does, or if there is none."""
    if not found:
        return None
    wanted, runs = ensemble(ENSEMBLE), {run.name: run for run in pool.runs}
    listed = [one for one in found.get("members") or () if isinstance(one, dict)]
    members = [(one.get("experiment"), one.get("seed")) for one in listed]
    if members != [(one.experiment, one.seed) for one in wanted.members] or found.get("protocol") != wanted.protocol:
        return "it is not of the members and protocol of experiments/ensembles/table5.yaml"
    for one in listed:
        name = f"{one['experiment']}/seed{one['seed']}"
        if one.get("identity") not in paper_hashes(one["experiment"]) or one.get("precision") not in EXACT:
            return f"its {name} is no run, or no test, of the paper's settings"
        if name in runs and read_evaluation(runs[name], wanted.protocol).get("weights_sha256") != one.get(
                "weights_sha256"):
            return f"it is not of the {PROTOCOL_LABELS[wanted.protocol]} test of {name} ({pool.origin})"
    problem = count_problem(found, {})
    return problem and escape(f"it {problem}")


# ---- short runs and runs on synthetic images, of a suite's preset


def split_name(name: str) -> tuple[str | None, str]:
    """('short', 'figure6') for short_figure6, (None, 'figure6') for figure6."""
    prefix, _, base = name.partition("_")
    return (prefix, base) if prefix in VARIANTS else (None, name)


def preset_of(variant: str, base: str) -> Preset:
    """The preset whose runs a variant of a figure or table shows."""
    short = "cifar_responses" if base in LAYERS else "cifar_plain_vs_res"
    return suite(short if variant == SHORT else "demo").preset(variant)


@functools.cache
def with_preset(experiment: str, overrides: tuple[str, ...]) -> RunConfig:
    """An experiment with a preset's overrides."""
    return compose([f"experiment={experiment}", *overrides])


def preset_runs(pool: RunSet, preset: Preset) -> list[RunSelection]:
    """The runs of each of a preset's experiments, in whatever precision; without runs of other configurations."""
    found = []
    for name in preset.experiments:
        config = with_preset(name, preset.overrides)
        answer = select(pool, name, {config_hash(with_precision(config, one)) for one in Precision
                                     if one is not Precision.auto})
        found.append(replace(answer, excluded=tuple(one for one in answer.excluded
                                                    if one[1] in (INCOMPLETE, DUPLICATE))))
    return found


def schedule_text(preset: Preset) -> str:
    """'300 iterations instead of 64,000, drops at 150 and 225'."""
    config = with_preset(preset.experiments[0], preset.overrides)
    full = config.train.iterations
    short, *drops = (scale_lengths(length, config.scale) for length in (full, *config.train.lr_drops))
    return f"{short:,} iterations instead of {full:,}, drops at {' and '.join(map(str, drops))}"
