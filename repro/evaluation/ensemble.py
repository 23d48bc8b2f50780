"""`repro ensemble`: the mean of the class probabilities that finished tests of several networks kept (Table 5)."""

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repro.config import compose
from repro.devices import resolve
from repro.errors import ConfigError, DataError, StorageError
from repro.evaluation.evaluate import WIRING_TEST
from repro.evaluation.predictions import count_errors
from repro.evaluation.saved_probabilities import EXACT, SCHEMA, json_path, read_arrays, read_record
from repro.evaluation.views import LABELS
from repro.paper import Ensemble, published_table
from repro.paper import ensemble as read_ensemble
from repro.paths import display_path, results_dir
from repro.provenance import code_version, package_versions
from repro.runs import Run, file_sha256, read_run, run_folder, utc_now, write_json

ROWS = 1000  # images averaged at a time, so that the probabilities of all members need not fit in memory


@dataclass(frozen=True)
class EvaluatedMember:
    """A member: its run, its finished test, where that lies, and the command that makes it."""

    run: Run
    record: dict[str, Any]
    path: Path
    command: str


def combine(name: str, overrides: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Average an ensemble's members and count the errors: the result in words and as it is recorded.

    `overrides` are those of the members' runs. DataError naming the commands that make what is missing, or members that
    were not tested on the same images; StorageError if kept probabilities were changed; ConfigError for overrides of
    what the ensemble itself names.
    """
    ensemble = read_ensemble(name)
    named = [word for word in overrides if word.partition("=")[0].lstrip("+~") in ("experiment", "seed")]
    if named:
        raise ConfigError(f"{' '.join(named)}: ensemble {name} names the experiments and seeds of its members")
    members = find_members(ensemble, overrides)
    check_same_images(members)
    top1, top5, images = count(members)
    values = describe(ensemble, members) | {
        "images": images, "top1_errors": top1, "top5_errors": top5, "val_top1_error": 100 * top1 / images,
        "val_top5_error": 100 * top5 / images, "versions": package_versions(), **code_version(), "utc": utc_now(),
        "finished": True}
    path = results_dir(compose([f"experiment={ensemble.members[0].experiment}", *overrides]).results) / "ensembles"
    path /= name if values["paper_runs"] else f"{name}@{short_hash(members)}"
    write_json(json_path(path), values)
    return format_result(ensemble, values, path), values


def find_members(ensemble: Ensemble, overrides: Sequence[str]) -> list[EvaluatedMember]:
    """The finished tests of all members; DataError with a line and a command for each that lacks one."""
    found, missing = [], []
    for member in ensemble.members:
        words = [f"experiment={member.experiment}", f"seed={member.seed}", *overrides]
        run = read_run(run_folder(resolve(compose(words))))
        path = run.folder / "evaluations" / ensemble.protocol
        lacks = f"{member.experiment} seed {member.seed}: "
        command = f"repro eval {shlex.join(words)} protocol={ensemble.protocol}"
        if not run.finished or not (run.folder / "weights.pt").is_file():
            missing.append(f"{lacks}no finished run with weights; repro run {shlex.join(words)}")
            continue
        try:
            record = read_record(path)
        except FileNotFoundError:
            record = {}
        if not record.get("finished"):
            missing.append(f"{lacks}no finished {ensemble.protocol} test; {command}")
        elif other := of_another_run(record, run):
            missing.append(f"{lacks}its {ensemble.protocol} test is of another {other}; {command} resume=never")
        else:
            found.append(EvaluatedMember(run, record, path, command))
    if missing:
        raise DataError(f"ensemble {ensemble.name} lacks {len(missing)} of {len(ensemble.members)} members:\n  "
                        + "\n  ".join(missing))
    return found


def of_another_run(record: dict[str, Any], run: Run) -> str:
    """In what a test does not belong to a run: 'seed', 'identity' or 'weights_sha256'; '' if it does."""
    weights = (run.record or {}).get("weights_sha256") or file_sha256(run.folder / "weights.pt")
    own = {"seed": run.seed, "identity": run.identity, "weights_sha256": weights}
    return next((key for key, value in own.items() if record.get(key) != value), "")


def check_same_images(members: Sequence[EvaluatedMember]) -> None:
    """DataError if the members' tests are not of the same images and classes."""
    first = members[0].record
    for member in members[1:]:
        for key in ("data_fingerprint", "images", "classes", "labels_sha256", "wiring_test"):
            if member.record[key] != first[key]:
                raise DataError(f"{display_path(json_path(member.path))} and "
                                f"{display_path(json_path(members[0].path))} are tests on different images "
                                f"({key} differs); test both on the same data.root")


def count(members: Sequence[EvaluatedMember]) -> tuple[int, int, int]:
    """Top-1 and top-5 errors of the mean probabilities, and the number of images."""
    arrays = [arrays_of(member) for member in members]
    labels = arrays[0][1]
    top1 = top5 = 0
    for begin in range(0, len(labels), ROWS):
        rows = slice(begin, begin + ROWS)
        mean = np.stack([scores[rows] for scores, _ in arrays]).mean(0, dtype=np.float64)
        errors = count_errors(mean, labels[rows])
        top1, top5 = top1 + errors[0], top5 + errors[1]
    return top1, top5, len(labels)


def arrays_of(member: EvaluatedMember) -> tuple[np.ndarray, np.ndarray]:
    """A member's probabilities (N, K), mapped, and classes (N,); StorageError, with what makes them anew."""
    try:
        return read_arrays(member.path, member.record)
    except StorageError as error:
        raise StorageError(f"{error}; test again with: {member.command} resume=never") from error


def describe(ensemble: Ensemble, members: Sequence[EvaluatedMember]) -> dict[str, Any]:
    """What the record of an ensemble says beside its result."""
    first = members[0].record
    kept = ("experiment", "seed", "identity", "weights_sha256", "precision", "val_top1_error", "val_top5_error")
    return {
        "schema": SCHEMA, "name": ensemble.name, "description": ensemble.description,
        "reproduces": ensemble.reproduces, "protocol": ensemble.protocol, "definition": first["definition"],
        "split": "val", "data_fingerprint": first["data_fingerprint"], "wiring_test": first["wiring_test"],
        "paper_runs": all(member.run.is_paper_run and member.record["precision"] in EXACT for member in members),
        "members": [{key: member.record[key] for key in kept} for member in members]}


def short_hash(members: Sequence[EvaluatedMember]) -> str:
    """Twelve hexadecimal digits that distinguish an ensemble of other runs than the paper's."""
    return hashlib.sha256(" ".join(member.run.identity for member in members).encode()).hexdigest()[:12]


def format_result(ensemble: Ensemble, values: dict[str, Any], path: Path) -> str:
    """The result for a person, beside the published number."""
    label = f" ({WIRING_TEST})" if values["wiring_test"] else "" if values["paper_runs"] else " (not the paper's runs)"
    lines = [f"ensemble {ensemble.name}{label}: val error top-1 {values['val_top1_error']:.2f} %, top-5 "
             f"{values['val_top5_error']:.2f} % ({values['top1_errors']} and {values['top5_errors']} of "
             f"{values['images']}, {len(values['members'])} networks, {LABELS[ensemble.protocol]})",
             f"  mean of the members' probabilities; {LABELS[ensemble.protocol]}: {values['definition']}"]
    lines += [f"  {member['experiment']} seed {member['seed']}: top-1 {member['val_top1_error']:.2f} %, top-5 "
              f"{member['val_top5_error']:.2f} %" for member in values["members"]]
    if ensemble.reproduces is not None:
        table, _, row = ensemble.reproduces.partition("/")
        published = published_table(table)
        printed = ", ".join(f"{column.title.removesuffix(' (%)')} {published.row(row).values[column.key]} %"
                            for column in published.columns)
        lines.append(f"  published ({table}): {printed}, on the {published.split}; this is the validation set")
    return "\n".join([*lines, f"  kept in {display_path(json_path(path))}"])
