"""`repro ensemble`: the mean of the class probabilities that finished tests of several networks kept (Table 5)."""

import hashlib
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from repro.config import compose
from repro.devices import code_version, package_versions, resolve
from repro.errors import ConfigError, DataError
from repro.evaluation.evaluate import EXACT, SCHEMA, WIRING_TEST, read_arrays
from repro.evaluation.metrics import error_counts
from repro.files import file_sha256, read_object, utc_now, write_json
from repro.paper import PROTOCOL_LABELS
from repro.paper import ensemble as read_ensemble
from repro.paths import display_path, results_dir
from repro.runs import Run, read_run, run_folder

ROWS = 1000  # images averaged at a time, so that the probabilities of all members need not fit in memory
OF_MEMBERS = ("experiment", "seed", "identity", "weights_sha256", "precision", "val_top1_error", "val_top5_error")
OF_IMAGES = ("data_fingerprint", "images", "labels_sha256", "wiring_test")


def combine(name: str, overrides: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Average an ensemble's members, whose runs have these overrides; the errors in words and as they are recorded.

    DataError naming the commands that make what is missing, or members that were not tested on the same images.
    """
    ensemble = read_ensemble(name)
    if any(word.partition("=")[0].lstrip("+~") in ("experiment", "seed") for word in overrides):
        raise ConfigError(f"ensemble {name} names the experiments and seeds of its members")
    runs, tests, scores, missing = list[Run](), list[dict[str, Any]](), list[np.ndarray](), list[str]()
    for one in ensemble.members:
        words = [f"experiment={one.experiment}", f"seed={one.seed}", *overrides]
        run = read_run(run_folder(resolve(compose(words))))
        path, weights = run.folder / "evaluations" / f"{ensemble.protocol}.json", run.folder / "weights.pt"
        test = read_object(path)
        if not run.finished or not weights.is_file():
            missing.append(f"no finished run with weights: repro run {shlex.join(words)}")
        elif not test.get("finished") or test.get("weights_sha256") != file_sha256(weights):
            missing.append(f"no finished test of these weights: repro eval {shlex.join(words)} "
                           f"protocol={ensemble.protocol} resume=never")
        else:
            probabilities, labels = read_arrays(path, test)
            runs, tests, scores = [*runs, run], [*tests, test], [*scores, probabilities]
            if any(test[key] != tests[0][key] for key in OF_IMAGES):
                raise DataError(f"{display_path(path)} is a test on other images than that of {runs[0].name}; test "
                                "both on the same data.root")
    if missing:
        raise DataError(f"ensemble {name} lacks {len(missing)} of {len(ensemble.members)} members:\n  "
                        + "\n  ".join(missing))
    errors, images = torch.zeros(2, dtype=torch.int64), len(labels)
    for begin in range(0, images, ROWS):
        part = slice(begin, begin + ROWS)
        mean = np.stack([rows[part] for rows in scores]).mean(0, dtype=np.float64)
        errors += error_counts(torch.from_numpy(mean), torch.from_numpy(labels[part]))
    top1, top5 = errors.tolist()
    of_paper = all(run.is_paper_run and test["precision"] in EXACT for run, test in zip(runs, tests, strict=True))
    values = {
        "schema": SCHEMA, "name": name, "protocol": ensemble.protocol, "split": "val", "paper_runs": of_paper,
        **{key: tests[0][key] for key in ("data_fingerprint", "wiring_test", "images")},
        "members": [{key: test[key] for key in OF_MEMBERS} for test in tests], "top1_errors": top1, "top5_errors": top5,
        "val_top1_error": 100 * top1 / images, "val_top5_error": 100 * top5 / images,
        "versions": package_versions(), **code_version(), "utc": utc_now(), "finished": True}
    if not of_paper:  # such ensembles lie apart
        name += "@" + hashlib.sha256(" ".join(run.identity for run in runs).encode()).hexdigest()[:12]
    path = results_dir(compose([f"experiment={runs[0].experiment}", *overrides]).results) / "ensembles" / f"{name}.json"
    write_json(path, values)
    label = f" ({WIRING_TEST})" if values["wiring_test"] else "" if of_paper else " (not the paper's runs)"
    return (f"{name}{label}: val error top-1 {100 * top1 / images:.2f} %, top-5 {100 * top5 / images:.2f} % ({top1} "
            f"and {top5} of {images}, {len(runs)} networks, {PROTOCOL_LABELS[ensemble.protocol]})\n"
            f"  kept in {display_path(path)}"), values
