"""Tests of finished ImageNet runs: which evaluations/PROTOCOL.json beside a run's record count, and why others don't.

Written by `repro eval protocol=...`, read here and by nothing else in the reports. Errors are in percent. No torch.
"""

import functools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.config import PAPER_PRECISIONS
from repro.paper import PROTOCOL_LABELS
from repro.reporting.selection import RunSelection, RunSet, is_number, paper_runs, precision, record, run_name
from repro.reporting.statistics import Summary
from repro.runs import Run, file_sha256, read_json
from repro.schema import IMAGENET, VALIDATION_IMAGES

TABLES = {"table2": "ten_crop", "table3": "ten_crop", "table4": "multi_scale"}  # what their captions name
ERRORS = {"top1_error": "top1_errors", "top5_error": "top5_errors"}  # columns of the paper's tables: counts in a record
NOT_EVALUATED = "not evaluated"
SCHEMA = 1


@dataclass(frozen=True)
class Evaluation:
    """A run's test that counts; `content` is its record."""

    run: Run
    content: dict[str, Any]

    def error(self, column: str) -> float:
        """The error (percent) of a column of the paper's tables: top1_error or top5_error."""
        return float(self.content[f"val_{column}"])


@dataclass(frozen=True)
class EvaluatedRuns:
    """The runs of one experiment from one origin, as far as they are tested under one protocol."""

    answer: RunSelection
    protocol: str
    found: tuple[Evaluation, ...]
    lacking: tuple[tuple[Run, str], ...]  # runs that count without a test that does, and why

    @property
    def status(self) -> str:
        """finished, not evaluated, or why there is no run."""
        if self.found:
            return "finished"
        return NOT_EVALUATED if self.answer.runs else self.answer.status

    def summary(self, column: str) -> Summary:
        """An error (percent) of the tests that count."""
        return Summary(tuple(one.error(column) for one in self.found))

    def notes(self) -> list[str]:
        """One line for each run without a test that counts, or tested on other images; then runs that do not count."""
        return [*(f"tested on another data set than trained on ({self.answer.origin}): {run_name(one.run)}: {other}"
                  for one in self.found if (other := other_data(one)) is not None),
                *(f"{NOT_EVALUATED} ({self.answer.origin}): {run_name(run)}: {reason}" for run, reason in self.lacking),
                *self.answer.notes()]


def evaluated_runs(pool: RunSet, experiment: str, protocol: str) -> EvaluatedRuns:
    """The paper's runs of an experiment and their tests under a protocol."""
    answer = paper_runs(pool, experiment)
    found: list[Evaluation] = []
    lacking: list[tuple[Run, str]] = []
    for run in answer.runs:
        content = read(run, protocol)
        reason = exclusion_reason(run, protocol, content)
        if reason is None:
            found.append(Evaluation(run, content))
        else:
            lacking.append((run, f"{reason}; `{command(run, protocol)}`"))
    return EvaluatedRuns(answer, protocol, tuple(found), tuple(lacking))


def other_data(one: Evaluation) -> str | None:
    """How the data set of a test differs from that of its run's training; None if it does not, or is not recorded."""
    tested_on, trained_on = one.content.get("data_fingerprint"), getattr(record(one.run).data, "sha256", None)
    if tested_on is None or trained_on is None or tested_on == trained_on:
        return None
    return f"fingerprint of its files {str(tested_on)[:12]}, in training {str(trained_on)[:12]}"


def command(run: Run, protocol: str) -> str:
    """What tests a finished run."""
    seed = f" seed={run.seed}" if run.seed else ""
    return f"repro eval {shlex.quote(f'experiment={run.experiment}')}{seed} protocol={protocol}{data_root(run)}"


def data_root(run: Run) -> str:
    """' data.root=...' of an ImageNet run, to be appended to a command that needs its images; '' where none was given.

    The folder that its record names if that is here, else the word FOLDER.
    """
    data = record(run).config.data
    root = data.root if data.name == IMAGENET else None
    if root is None:
        return ""
    return f" {shlex.quote(f'data.root={root}')}" if Path(root).is_dir() else " data.root=FOLDER"


def path_of(run: Run, protocol: str) -> Path:
    """Where a run's test under a protocol is recorded."""
    return run.folder / "evaluations" / f"{protocol}.json"


def read(run: Run, protocol: str) -> dict[str, Any]:
    """The record of a run's test; {} without a readable one."""
    try:
        content = read_json(path_of(run, protocol))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def exclusion_reason(run: Run, protocol: str, content: dict[str, Any]) -> str | None:
    """Why a test of a run does not count; None if it does."""
    way = PROTOCOL_LABELS[protocol]
    if not content:
        there = path_of(run, protocol).is_file()
        return f"its record of {way} testing can't be read" if there else f"no {way} testing"
    same = {"schema": SCHEMA, "protocol": protocol, "experiment": run.experiment, "seed": run.seed,
            "identity": run.identity}
    for key, value in same.items():
        if content.get(key) != value:
            return f"its {way} testing is of {key} {content.get(key)}, not {value}"
    own = record(run).weights_sha256 or weights_sha256(run)  # older records do not have it
    if own is not None and content.get("weights_sha256") != own:
        return f"its {way} testing is of other weights"
    if content.get("precision") not in {precision.name for precision in PAPER_PRECISIONS}:
        return f"its {way} testing was in {content.get('precision')}"
    trouble = count_problem(content)
    return trouble and f"its {way} testing {trouble}"


def count_problem(content: Mapping[str, Any]) -> str | None:
    """What is wrong with the images and errors of a test, or of an ensemble's, of all of ImageNet's validation set."""
    if content.get("wiring_test") is not False:
        return "is a wiring test"
    if content.get("finished") is not True:
        return "is not finished"
    if content.get("split") != "val":
        return f"was on {content.get('split')}"
    images = VALIDATION_IMAGES
    if content.get("images") != images:
        return f"was on {content.get('images')} images, not {images}"
    counts: list[Any] = [content.get(count) for count in ERRORS.values()]
    if not all(type(count) is int for count in counts) or not 0 <= counts[1] <= counts[0] <= images:
        return "has no counts of errors that can be"
    for column, count in zip(ERRORS, counts, strict=True):
        percent = content.get(f"val_{column}")
        if not is_number(percent) or abs(percent - 100 * count / images) > 50 / images:  # half an image
            return f"says {percent} % for {count} errors in {images} images"
    return None


def weights_sha256(run: Run) -> str | None:
    """The SHA-256 of a run's weights; None where they are not (committed runs have none)."""
    try:
        path = run.folder / "weights.pt"
        facts = path.stat()
        return digest(path, facts.st_mtime_ns, facts.st_size)
    except OSError:
        return None


@functools.cache
def digest(path: Path, time: int, size: int) -> str:
    """The SHA-256 of a file of this time and size; read once for several tables."""
    return file_sha256(path)


def evaluations_as_json(entry: EvaluatedRuns) -> dict[str, Any]:
    """The tests of one origin for JSON: their summary, each seed with its errors (percent) and identity."""
    data: dict[str, Any] = {"status": entry.status, "protocol": entry.protocol, "seeds": [
        {"seed": one.run.seed, "run": run_name(one.run), "identity": one.run.identity,
         **{column: one.error(column) for column in ERRORS},
         **{key: one.content.get(key) for key in (*ERRORS.values(), "images", "weights_sha256", "precision", "device")},
         "train_precision": precision(one.run)} for one in entry.found]}
    if entry.found:
        summary = entry.summary("top1_error")
        data |= {"k": summary.k, "best": summary.best, "mean": round(summary.mean, 6),
                 "std": None if summary.std is None else round(summary.std, 6)}
    return data


def definition_notes(entries: Sequence[EvaluatedRuns]) -> list[str]:
    """One line for each way of testing, in the words of the tests that count."""
    found = {f"{PROTOCOL_LABELS[entry.protocol]}: {one.content.get('definition')}": None
             for entry in entries for one in entry.found}
    return list(found)
