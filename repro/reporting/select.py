"""Which runs, and which tests of them, stand in a table or figure, and why others do not. Errors in percent."""

import functools
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from repro import config
from repro.config import EXACT, config_hash, paper_hashes
from repro.files import read_object
from repro.paper import Preset, ensemble, reproduced_rows, suite, suites
from repro.paths import escape
from repro.reporting.table import Summary
from repro.runs import Record, Run, scan
from repro.schema import VALIDATION_IMAGES, Precision, RunConfig

YOURS, REFERENCE = "yours", "reference"
# Cells of experiments without a run that counts.
INCOMPLETE, STALE, NOT_RUN, NOT_EVALUATED = "incomplete", "stale", "not run", "not evaluated"
TABLES = {"table2": "ten_crop", "table3": "ten_crop", "table4": "multi_scale"}  # what their captions name
ERRORS = {"top1_error": "top1_errors", "top5_error": "top5_errors"}  # columns of the paper's tables: counts in a record
ENSEMBLE, ENSEMBLE_FILE = "table5", "ensembles/table5.json"
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
    """The runs of one experiment from one origin that count, one for each seed; and others with a status and why."""
    origin: str
    experiment: str
    runs: tuple[Run, ...]
    results: tuple[Any, ...]  # the last row of each run's history, or what `with_data` read of it
    excluded: tuple[tuple[Run, str, str], ...] = ()

    @property
    def status(self) -> str:
        """'finished', or why there is no number."""
        found = {"finished"} if self.runs else {status for _, status, _ in self.excluded}
        return next((one for one in ("finished", NOT_EVALUATED, INCOMPLETE, STALE) if one in found), NOT_RUN)

    def summary(self, key: str = "top1_error") -> Summary:
        """An error of the seeds; top1_error and top5_error are those of the split that is tested on."""
        key = f"{self.runs[0].tested_on}_{key}" if key in ERRORS else key
        return Summary(tuple(float(result[key]) for result in self.results))

    def cell(self, key: str = "top1_error") -> str:
        return str(self.summary(key)) if self.runs else self.status

    def as_json(self) -> dict[str, Any]:
        seeds = [{"seed": run.seed, "run": run.name, "identity": run.identity, "device": device(run),
                  "precision": precision(run), **{key: value for key, value in result.items() if "error" in key}}
                 for run, result in zip(self.runs, self.results, strict=True)]
        return {"status": self.status, "seeds": seeds, **(self.summary().as_json() if self.runs else {})}


def pools(results: Path | None, reference: Path) -> list[RunSet]:
    """The user's runs, if a folder is given, and then the committed ones."""
    roots = ([] if results is None else [(YOURS, results)]) + [(REFERENCE, reference)]
    return [RunSet(origin, tuple(scan(root / "runs")), root) for origin, root in roots]


def record(run: Run) -> Record:
    assert run.record is not None
    return run.record


def precision(run: Run) -> str:
    return record(run).config.machine.precision.name


def seconds(run: Run) -> float:
    return record(run).train_seconds + record(run).evaluation_seconds


def device(run: Run) -> str:
    environment = record(run).environment
    return f"{environment.devices} x " * ((environment.devices or 1) > 1) + (environment.device or "unknown device")


def net_name(experiment: str) -> str:
    """'ResNet-20' for cifar_resnet20, 'plain-18' for imagenet_plain18, 'ResNet-34 B' for imagenet_optB."""
    return config.paper_config(experiment).description.partition(",")[0]


def run_notes(answers: Sequence[RunSelection]) -> list[str]:
    """Where the runs were made that count, a line for each origin, machine and precision; and why others do not."""
    made: dict[str, list[str]] = {}
    for answer in answers:
        for run in answer.runs:
            made.setdefault(f"{answer.origin}: {device(run)}, {precision(run)}", []).append(run.name)
    return [f"{where}: {', '.join(names)}" for where, names in made.items()] + [
        f"not counted ({answer.origin}): {run.name}: {status}: {reason}"
        for answer in answers for run, status, reason in answer.excluded]


def answers_to(row: str, found: Iterable[RunSet]) -> list[RunSelection]:
    """What each origin has for a row such as table6/resnet-20, tested in its table's way; [] without an experiment."""
    experiment = reproduced_rows().get(row)
    return [paper_runs(pool, experiment, TABLES.get(row.partition("/")[0])) for pool in found if experiment]


def paper_runs(pool: RunSet, experiment: str, protocol: str | None = None) -> RunSelection:
    """The finished runs of an experiment as it stands in conf/, in fp32 or TF32; those with a test under a protocol."""
    answer = select(pool, experiment, paper_hashes(experiment))
    return answer if protocol is None else with_data(answer, lambda run: check_evaluation(
        run, protocol, read_object(run.folder / "evaluations" / f"{protocol}.json")))


def with_data(answer: RunSelection, read: Callable[[Run], Any]) -> RunSelection:
    """The selection with what is read of each run as its result, without runs of which it can't be, and why."""
    found, lacking = [], []
    for run in answer.runs:
        try:
            found.append((run, read(run)))
        except (ValueError, KeyError) as error:
            lacking.append((run, NOT_EVALUATED, str(error)))
    return replace(answer, runs=tuple(run for run, _ in found), results=tuple(data for _, data in found),
                   excluded=(*answer.excluded, *lacking))


def select(pool: RunSet, experiment: str, identities: Collection[str]) -> RunSelection:
    """Sort the runs in an experiment's folders into those that count, one for each seed, and those that don't."""
    runs: list[Run] = []
    excluded: list[tuple[Run, str, str]] = []
    folders = [f"{experiment}@{identity}" for identity in identities]
    folders += [experiment] if paper_hashes(experiment) & set(identities) else []
    there = [run for run in pool.runs if run.folder.parent.name in folders]
    for run in sorted(there, key=lambda one: (one.seed, one.name != f"{experiment}/seed{one.seed}", one.name)):
        problem = exclusion_reason(run, experiment, identities)
        # a copy under another seed has the same history, which no two seeds share
        twin = None if problem else next(
            (one for one in runs if one.seed == run.seed or one.history() == run.history()), None)
        if problem := ("duplicate", f"the same run or seed as {twin.name}") if twin else problem:
            excluded.append((run, *problem))
        else:
            runs.append(run)
    return RunSelection(pool.origin, experiment, tuple(runs), tuple(record(run).result or {} for run in runs),
                        tuple(excluded))


def exclusion_reason(run: Run, experiment: str, identities: Collection[str]) -> tuple[str, str] | None:
    """(status, reason) if a run does not count for these identities; None if it does."""
    if (found := run.record) is None:
        return INCOMPLETE, str(run.problem)
    if run.experiment != experiment or run.identity not in identities or config_hash(found.config) != run.identity:
        return STALE, run.no_evidence or ", ".join(config.deviations(found.config)) or "another experiment or version"
    if not run.finished:
        return INCOMPLETE, run.problem or f"{run.status} at iteration {found.iteration} of {found.iterations}"
    errors = [(found.result or {}).get(f"{split}_top1_error", -1) for split in ("train", run.tested_on)]
    if not all(0 <= error <= 100 for error in errors):
        return INCOMPLETE, "its record has no training and test error in percent"
    return None


def median_run(runs: Sequence[Run]) -> Run:
    """The run whose error is closest to the median of all; the lowest seed on ties."""
    errors = [(record(run).result or {})[f"{run.tested_on}_top1_error"] for run in runs]
    return min(zip(errors, runs, strict=True),
               key=lambda one: (abs(one[0] - statistics.median(errors)), one[1].seed))[1]


def check_evaluation(run: Run, protocol: str, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The content of evaluations/PROTOCOL.json of a finished ImageNet run; ValueError if this test does not count."""
    if not content:
        raise ValueError(f"no {protocol} test that can be read")
    wanted = {"schema": 1, "protocol": protocol, "experiment": run.experiment, "seed": run.seed,
              "identity": run.identity}
    if own := record(run).weights_sha256:  # older records do not have it
        wanted["weights_sha256"] = own
    if content.get("precision") not in EXACT:
        wanted["precision"] = " or ".join(EXACT)
    check_counts(f"its {protocol} test", content, wanted)
    return content


def check_counts(name: str, content: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """ValueError if this is no test, or ensemble, of all of ImageNet's validation set that has what is wanted."""
    due = {**wanted, "wiring_test": False, "finished": True, "split": "val", "images": VALIDATION_IMAGES}
    for key, value in due.items():
        if content.get(key) != value:
            raise ValueError(escape(f"{name} has {key}={content.get(key)}, not {value}"))
    for column, key in ERRORS.items():
        count: Any = content.get(key)
        percent: Any = content.get(f"val_{column}")
        if (type(count) is not int or type(percent) not in (int, float) or not 0 <= percent <= 100
                or not 0 <= count <= VALIDATION_IMAGES
                or abs(percent / 100 * VALIDATION_IMAGES - count) > 0.5):
            raise ValueError(escape(f"{name} says {percent} % for {count} errors in {VALIDATION_IMAGES} images"))


def ensemble_problem(found: Mapping[str, Any], pool: RunSet) -> str | None:
    """Why an ensemble's record does not count beside these runs; None if it does, or if there is none."""
    wanted, runs = ensemble(ENSEMBLE), {run.name: run for run in pool.runs}
    members = [one for one in found.get("members") or () if isinstance(one, dict)]
    if found and [(one.get("experiment"), one.get("seed")) for one in members] != [
            (one.experiment, one.seed) for one in wanted.members]:
        return "it is not of the members of experiments/ensembles/table5.yaml"
    for one in members:
        name, file = f"{one['experiment']}/seed{one['seed']}", f"evaluations/{wanted.protocol}.json"
        if one.get("identity") not in [*paper_hashes(one["experiment"])] or one.get("precision") not in EXACT:
            return f"its {name} is no run, or no test, of the paper's settings"
        if name in runs and read_object(runs[name].folder / file).get("weights_sha256") != one.get("weights_sha256"):
            return f"it is not of the test of {name} ({pool.origin})"  # whose run was trained anew
    try:
        if found:
            check_counts("it", found, {"protocol": wanted.protocol})
    except ValueError as error:
        return str(error)
    return None


def split_name(name: str) -> tuple[str | None, str]:
    """('short', 'figure6') for short_figure6, (None, 'figure6') for figure6."""
    prefix, _, base = name.partition("_")
    return (prefix, base) if prefix in VARIANTS else (None, name)


def preset_of(name: str) -> Preset:
    """The preset of a suite whose runs a variant of a figure or table shows."""
    return next(one.preset(key) for one in map(suite, suites()) for key, preset in one.presets.items()
                if name in (*preset.tables, *preset.figures))


@functools.cache
def with_preset(experiment: str, overrides: tuple[str, ...]) -> RunConfig:
    return config.compose([f"experiment={experiment}", *overrides])


def preset_runs(pool: RunSet, experiment: str, preset: Preset) -> RunSelection:
    """The runs of an experiment under a preset, in whatever precision."""
    own = with_preset(experiment, preset.overrides)
    return select(pool, experiment, {config_hash(config.with_precision(own, one)) for one in Precision
                                     if one is not Precision.auto})


def schedule_text(preset: Preset) -> str:
    """'300 iterations instead of 64,000, drops at 150 and 225'."""
    own = with_preset(preset.experiments[0], preset.overrides)
    full = own.train.iterations
    short, *drops = (config.scale_lengths(length, own.scale) for length in (full, *own.train.lr_drops))
    return f"{short:,} iterations instead of {full:,}, drops at {' and '.join(map(str, drops))}"
