"""`repro ensemble`: the mean of the class probabilities that finished tests of several networks kept (Table 5)."""

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from repro.config import compose
from repro.devices import resolve
from repro.errors import ConfigError, DataError, StorageError
from repro.evaluation.evaluate import EXACT, SCHEMA, WIRING_TEST, read_arrays, read_record
from repro.evaluation.metrics import error_counts
from repro.evaluation.protocols import LABELS
from repro.files import file_sha256, utc_now, write_json
from repro.paper import Ensemble, published_table
from repro.paper import ensemble as read_ensemble
from repro.paths import display_path, results_dir
from repro.provenance import code_version, package_versions
from repro.runs import Run, read_run, run_folder

ROWS = 1000  # images averaged at a time, so that the probabilities of all members need not fit in memory
OF_MEMBERS = ("experiment", "seed", "identity", "weights_sha256", "precision", "val_top1_error", "val_top5_error")


class EvaluatedMember(NamedTuple):
    """A finished run, the record of its finished test, where that lies, and the command that makes it."""

    run: Run
    test: dict[str, Any]
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
    members, missing = list[EvaluatedMember](), []
    for one in ensemble.members:
        try:
            members.append(find_member(one.experiment, one.seed, overrides, ensemble.protocol))
        except DataError as error:
            missing.append(f"\n  {one.experiment} seed {one.seed}: {error}")
    if missing:
        raise DataError(f"ensemble {name} lacks {len(missing)} of {len(ensemble.members)} members:{''.join(missing)}")
    check_same_images(members)
    (top1, top5), images, first = count(members), members[0].test["images"], members[0].test
    values = {
        "schema": SCHEMA, "name": name, "description": ensemble.description, "reproduces": ensemble.reproduces,
        "protocol": ensemble.protocol, "definition": first["definition"], "split": "val",
        "data_fingerprint": first["data_fingerprint"], "wiring_test": first["wiring_test"],
        "paper_runs": all(one.run.is_paper_run and one.test["precision"] in EXACT for one in members),
        "members": [{key: one.test[key] for key in OF_MEMBERS} for one in members],
        "images": images, "top1_errors": top1, "top5_errors": top5, "val_top1_error": 100 * top1 / images,
        "val_top5_error": 100 * top5 / images, "versions": package_versions(), **code_version(), "utc": utc_now(),
        "finished": True}
    runs = hashlib.sha256(" ".join(one.run.identity for one in members).encode()).hexdigest()[:12]
    folder = results_dir(compose([f"experiment={ensemble.members[0].experiment}", *overrides]).results) / "ensembles"
    path = folder / f"{name if values['paper_runs'] else f'{name}@{runs}'}.json"
    write_json(path, values)
    return format_result(ensemble, values, path), values


def find_member(experiment: str, seed: int, overrides: Sequence[str], protocol: str) -> EvaluatedMember:
    """A member's finished run and test; DataError with what it lacks and the command that makes it."""
    words = [f"experiment={experiment}", f"seed={seed}", *overrides]
    run = read_run(run_folder(resolve(compose(words))))
    weights, path = run.folder / "weights.pt", run.folder / "evaluations" / f"{protocol}.json"
    command = f"repro eval {shlex.join(words)} protocol={protocol}"
    if run.record is None or not run.finished or not weights.is_file():
        raise DataError(f"no finished run with weights; repro run {shlex.join(words)}")
    test = read_record(path) or {}
    if not test.get("finished"):
        raise DataError(f"no finished {protocol} test; {command}")
    own = {"seed": run.seed, "identity": run.identity,
           "weights_sha256": run.record.weights_sha256 or file_sha256(weights)}
    for key, value in own.items():
        if test.get(key) != value:
            raise DataError(f"its {protocol} test is of another {key}; {command} resume=never")
    return EvaluatedMember(run, test, path, command)


def check_same_images(members: Sequence[EvaluatedMember]) -> None:
    """DataError if the members' tests are not of the same images and classes."""
    first = members[0]
    for one in members[1:]:
        for key in ("data_fingerprint", "images", "classes", "labels_sha256", "wiring_test"):
            if one.test[key] != first.test[key]:
                raise DataError(f"{display_path(one.path)} and {display_path(first.path)} are tests on different "
                                f"images ({key} differs); test both on the same data.root")


def count(members: Sequence[EvaluatedMember]) -> tuple[int, int]:
    """Top-1 and top-5 errors of the mean probabilities; StorageError, with what makes them anew, if they changed."""
    scores = []
    for one in members:
        try:
            rows, labels = read_arrays(one.path, one.test)
        except StorageError as error:
            raise StorageError(f"{error}; test again with: {one.command} resume=never") from error
        scores.append(rows)
    errors = torch.zeros(2, dtype=torch.int64)
    for begin in range(0, len(labels), ROWS):
        part = slice(begin, begin + ROWS)
        mean = np.stack([rows[part] for rows in scores]).mean(0, dtype=np.float64)
        errors += error_counts(torch.from_numpy(mean), torch.from_numpy(labels[part]))
    top1, top5 = errors.tolist()
    return top1, top5


def format_result(ensemble: Ensemble, values: dict[str, Any], path: Path) -> str:
    """The result for a person, beside the published number."""
    label = f" ({WIRING_TEST})" if values["wiring_test"] else "" if values["paper_runs"] else " (not the paper's runs)"
    lines = [f"ensemble {ensemble.name}{label}: val error top-1 {values['val_top1_error']:.2f} %, top-5 "
             f"{values['val_top5_error']:.2f} % ({values['top1_errors']} and {values['top5_errors']} of "
             f"{values['images']}, {len(values['members'])} networks, {LABELS[ensemble.protocol]})",
             f"  mean of the members' probabilities; {LABELS[ensemble.protocol]}: {values['definition']}"]
    lines += [f"  {one['experiment']} seed {one['seed']}: top-1 {one['val_top1_error']:.2f} %, top-5 "
              f"{one['val_top5_error']:.2f} %" for one in values["members"]]
    if ensemble.reproduces is not None:
        table, _, row = ensemble.reproduces.partition("/")
        published = published_table(table)
        printed = ", ".join(f"{column.title.removesuffix(' (%)')} {published.row(row).values[column.key]} %"
                            for column in published.columns)
        lines.append(f"  published ({table}): {printed}, on the {published.split}; this is the validation set")
    return "\n".join([*lines, f"  kept in {display_path(path)}"])
