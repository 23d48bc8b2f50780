"""Which runs on disk may enter a table or figure, and why the others may not."""

import functools
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.config import (
    PAPER_PRECISIONS,
    compose,
    config_hash,
    difference,
    paper_config,
    paper_hashes,
    settings,
    with_precision,
)
from repro.paper import Preset
from repro.record import Record
from repro.reporting.statistics import Summary
from repro.runs import Run, scan
from repro.schema import IMAGENET, Precision, RunConfig

YOURS, REFERENCE = "yours", "reference"
SHORT_PRECISIONS = (Precision.bf16, Precision.tf32, Precision.fp16, Precision.fp32)  # bf16 first: it wins ties
# Cells of experiments without a run that counts.
INCOMPLETE, STALE, NOT_RUN = "incomplete", "stale", "not run"
OTHER = "other configuration"
SYNTHETIC, WIRING_TEST = "synthetic", "wiring test"


@dataclass(frozen=True)
class RunSet:
    """All runs of one origin."""

    origin: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class ExcludedRun:
    """A run that does not count, and why."""

    run: Run
    status: str
    reason: str


@dataclass(frozen=True)
class RunSelection:
    """The runs of one experiment from one origin: those that count, one for each seed, and the others."""

    origin: str
    experiment: str
    runs: tuple[Run, ...]
    excluded: tuple[ExcludedRun, ...]

    @property
    def status(self) -> str:
        """'finished', or why there is no number: incomplete, stale or not run."""
        if self.runs:
            return "finished"
        found = {entry.status for entry in self.excluded}
        return next((status for status in (INCOMPLETE, STALE) if status in found), NOT_RUN)

    def summary(self, key: str | None = None) -> Summary:
        """An error (percent) at the last iteration of the runs that count; without `key` the tests' top-1 error."""
        return Summary(tuple(float((record(run).result or {})[key or error_key(run)]) for run in self.runs))

    def notes(self) -> list[str]:
        """One line for each excluded run."""
        return [f"not counted ({self.origin}): {run_name(entry.run)}: {entry.status}: {entry.reason}"
                for entry in self.excluded]


def pools(results: Path | None, reference: Path) -> list[RunSet]:
    """The user's runs, if a folder is given, and then the committed ones."""
    found = [] if results is None else [RunSet(YOURS, tuple(scan(results / "runs")))]
    return [*found, RunSet(REFERENCE, tuple(scan(reference / "runs")))]


def record(run: Run) -> Record:
    """The record of a run that has one."""
    assert run.record is not None
    return run.record


def run_name(run: Run) -> str:
    """The run's folder below runs/."""
    return f"{run.folder.parent.name}/{run.folder.name}"


def error_key(run: Run) -> str:
    """The key of a run's top-1 error: test_top1_error, on ImageNet val_top1_error."""
    return f"{run.tested_on}_top1_error"


def data_set(experiment: str) -> str:
    """What an experiment's data set is called."""
    return "ImageNet" if paper_config(experiment).data.name == IMAGENET else "CIFAR-10"


def precision(run: Run) -> str:
    """fp32, tf32, bf16 or fp16, as recorded in the configuration."""
    return record(run).config.machine.precision.name


def paper_runs(pool: RunSet, experiment: str) -> RunSelection:
    """The runs of an experiment that followed the paper: as it stands in conf/, in fp32 or TF32, to the end."""
    return select(pool, experiment, paper_hashes(experiment))


@functools.cache
def with_preset(experiment: str, overrides: tuple[str, ...]) -> RunConfig:
    """An experiment with a preset's overrides."""
    return compose([f"experiment={experiment}", *overrides])


def short_hashes(experiment: str, overrides: tuple[str, ...]) -> dict[str, str]:
    """{identity: precision} of an experiment with a preset's overrides."""
    config = with_preset(experiment, overrides)
    return {config_hash(with_precision(config, choice)): choice.name for choice in SHORT_PRECISIONS}


def short_runs(pool: RunSet, preset: Preset) -> tuple[str | None, list[RunSelection]]:
    """The runs of a preset, all in one precision: the one with most finished runs, bf16 on ties.

    Returns that precision (None without a finished run) and an answer for each of the preset's experiments.
    """
    known = {name: short_hashes(name, preset.overrides) for name in preset.experiments or ()}
    counts = Counter({choice.name: sum(len(select(pool, name, in_precision(ids, choice.name)).runs)
                                       for name, ids in known.items()) for choice in SHORT_PRECISIONS})
    best, finished = counts.most_common(1)[0]  # the first of equals, in the order of SHORT_PRECISIONS
    chosen = best if finished else None
    return chosen, [short_answer(pool, name, ids, chosen) for name, ids in known.items()]


def in_precision(identities: Mapping[str, str], name: str | None) -> set[str]:
    """Those identities that belong to a precision; all for None."""
    return {key for key, value in identities.items() if name in (None, value)}


def short_answer(pool: RunSet, experiment: str, identities: Mapping[str, str], chosen: str | None) -> RunSelection:
    """The preset's runs of one experiment in the chosen precision; runs of other configurations are no part of it."""
    answer = select(pool, experiment, in_precision(identities, chosen))
    excluded = []
    for entry in answer.excluded:
        found = identities.get(hash_of_folder(entry.run))
        if found is not None and found != chosen and chosen is not None:
            excluded.append(ExcludedRun(entry.run, "other precision", f"{found}; the runs shown are {chosen}"))
        elif found is not None:
            excluded.append(entry)
    return RunSelection(answer.origin, experiment, answer.runs, tuple(excluded))


def select(pool: RunSet, experiment: str, identities: Collection[str]) -> RunSelection:
    """Sort the runs in an experiment's folders into those that count and those that don't."""
    good: list[Run] = []
    excluded: list[ExcludedRun] = []
    for run in pool.runs:
        if folder_experiment(run) != experiment:
            continue
        problem = exclusion_reason(run, experiment, identities)
        if problem is None:
            good.append(run)
        else:
            excluded.append(ExcludedRun(run, *problem))
    unique, duplicates = without_duplicates(good)
    return RunSelection(pool.origin, experiment, tuple(unique), (*excluded, *duplicates))


def folder_experiment(run: Run) -> str:
    """The experiment that a run's folder belongs to."""
    return run.folder.parent.name.split("@")[0]


def hash_of_folder(run: Run) -> str:
    """The identity that a run was made with: the recorded one, or that of its folder's name."""
    return run.identity or run.folder.parent.name.partition("@")[2]


def exclusion_reason(run: Run, experiment: str, identities: Collection[str]) -> tuple[str, str] | None:
    """(status, reason) if a run does not count for these identities; None if it does."""
    own = run.folder.parent.name == experiment or hash_of_folder(run) in identities
    if run.record is None:
        return (INCOMPLETE if own else OTHER), run.problem or "no record"
    if run.record.experiment != experiment:
        return OTHER, f"its record is of experiment {run.record.experiment}"
    if run.wiring_test:
        return WIRING_TEST, "it says nothing about ImageNet"
    if run.identity not in identities and run.synthetic:
        return SYNTHETIC, f"synthetic images say nothing about {data_set(experiment)}; see `repro table synthetic_demo`"
    if run.identity not in identities:
        return (STALE if own else OTHER), changed_settings(run, experiment)
    if run.record.config.machine.precision is Precision.auto or config_hash(run.record.config) != run.identity:
        return STALE, "its recorded configuration and identity differ"
    if not run.finished:
        return INCOMPLETE, progress_of(run)
    if run.record.evaluated_on != run.tested_on:
        return OTHER, f"it was evaluated on {run.record.evaluated_on}"
    result, errors = run.record.result, ("train_top1_error", error_key(run))
    if result is None or not all(key in result for key in ("iteration", *errors)):
        return INCOMPLETE, f"its record has no training and {run.tested_on} error"
    if not all(0 <= result[key] <= 100 for key in errors):
        return INCOMPLETE, "its errors are no percentages"
    return None


def is_number(value: Any) -> bool:
    """Whether a recorded value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def progress_of(run: Run) -> str:
    """How far a run came that did not finish."""
    content = record(run)
    return run.problem or f"{run.status} at iteration {content.iteration} of {content.iterations}"


def changed_settings(run: Run, experiment: str) -> str:
    """What a recorded configuration changes of its experiment, key by key."""
    config = record(run).config
    paper = with_precision(paper_config(experiment), config.machine.precision)
    changed = [f"{key}: {old} -> {new}"
               for key, (old, new) in sorted(difference(settings(paper), settings(config)).items())]
    if config.machine.precision not in PAPER_PRECISIONS:
        changed.append(f"machine.precision: {config.machine.precision.name}")
    return ", ".join(changed) or "its identity is not that of the experiment as it stands"


def without_duplicates(runs: list[Run]) -> tuple[list[Run], list[ExcludedRun]]:
    """One run for each seed, in order of seeds; the one in its own folder is preferred.

    A copy under another seed is recognized by its history, which no two seeds share.
    """
    def order(run: Run) -> tuple[int, bool, str]:
        return run.seed, run_name(run) != f"{run.experiment}/seed{run.seed}", run_name(run)

    ordered = sorted(runs, key=order)
    unique: list[Run] = []
    duplicates: list[ExcludedRun] = []
    for run in ordered:
        twin = next((kept for kept in unique if kept.seed == run.seed or kept.history() == run.history()), None)
        if twin is None:
            unique.append(run)
        else:
            duplicates.append(ExcludedRun(run, "duplicate", f"the same run or seed as {run_name(twin)}"))
    return unique, duplicates


def median_run(answer: RunSelection) -> Run:
    """The run whose final error, of its test, is closest to the median of all seeds; the lowest seed on ties."""
    errors = sorted(answer.summary().values)
    middle = (errors[(len(errors) - 1) // 2] + errors[len(errors) // 2]) / 2
    return min(answer.runs, key=lambda run: (abs((record(run).result or {})[error_key(run)] - middle), run.seed))
