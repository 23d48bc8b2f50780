"""`repro eval`: the error of a network on CIFAR-10, or on ImageNet by one of the paper's protocols; `repro ensemble`.

Of ImageNet evaluations/PROTOCOL.json is the record, PROTOCOL.npy holds the probabilities (N, K) float16 and
PROTOCOL.labels.npy the classes (N,) int64: an ensemble (Table 5) averages them, and they are never committed.
"""

import copy
import hashlib
import shlex
from collections.abc import Sequence
from contextlib import closing, nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from repro import files, paper
from repro.config import EXACT, compose, difference, flat, override_keys, to_dict
from repro.data.cifar10 import load_arrays, on_device
from repro.data.crops import open_rgb
from repro.data.imagenet import ImageSet, find
from repro.data.loader import parts_of, progress, read_ahead
from repro.devices import code_version, describe, package_versions, place, resolve, restore_settings, set_up
from repro.errors import ConfigError, DataError, Stopped, StorageError
from repro.evaluation.metrics import error_counts, evaluate_on
from repro.evaluation.protocols import Scorer, read_mean
from repro.models import build_model
from repro.paths import data_dir, display_path, results_dir
from repro.runs import Run, read_run, run_folder
from repro.schema import IMAGENET, SYNTHETIC, Normalization, Precision, Resume, RunConfig
from repro.stopping import StopRequest
from repro.weights import put_weights, read_weights, run_of_weights

SCHEMA = 1
WIRING_TEST = "WIRING TEST, says nothing about ImageNet"
TRAINING_ONLY = ("conv_init", "fc_init", "batch_norm_momentum")  # settings of a network that change only its training
# Two tests that agree in these are the same test.
SAME = ("protocol", "experiment", "weights_sha256", "data_fingerprint", "split", "settings", "model", "precision",
        "images", "wiring_test")
OF_MEMBERS = ("experiment", "seed", "identity", "weights_sha256", "precision", "val_top1_error", "val_top5_error")
OF_IMAGES = ("data_fingerprint", "images", "labels_sha256", "wiring_test")


@restore_settings()
def evaluate(config: RunConfig, protocol: str, weights: Path | nn.Module,
             stop: StopRequest | None = None) -> tuple[str, dict[str, Any]]:
    """Test the weights in a file, or a network in memory; the result in words and as plain values.

    `protocol` and `stop`, that of what the test is a part of, are for ImageNet.
    """
    any_exact, config = config.machine.precision is Precision.auto, resolve(config)
    device = set_up(config)
    path, facts = None, None
    if isinstance(weights, Path):
        path, (state, facts) = weights, read_weights(weights)
        model = put_weights(build_model(config.model), state, path)
    else:
        model = copy.deepcopy(weights)
    model = place(model, config, device)
    source = {"source": facts.source} if facts and facts.source else {}
    if config.data.name == IMAGENET:
        text, values = evaluate_imagenet(config, protocol, model, path, source, any_exact, stop)
    else:
        data = on_device(load_arrays(config.data), config.data, device)
        found, on, precision = evaluate_on(model, data, config), data.evaluated_on, config.machine.precision.name
        values = {"experiment": config.name, "weights": path and str(path), "protocol": "single view",
                  "split": data.split, "evaluated_on": on, "images": found.images, "errors": found.errors,
                  f"{on}_top1_error": found.top1_error, f"{on}_loss": found.loss, "precision": precision,
                  "device": describe(device), **source}
        text = (f"{on} error {found.top1_error:.2f} % ({found.errors} of {found.images}, single view, "
                f"split {data.split}, {precision})")
    synthetic = " on synthetic images" if config.data.name == SYNTHETIC else ""
    trained = facts.note if facts else "nothing says how its weights were trained"
    return f"{config.name}{synthetic}: {text}\n  {trained}", values


def evaluate_imagenet(config: RunConfig, protocol: str, model: nn.Module, path: Path | None, source: dict[str, Any],
                      any_exact: bool, stop: StopRequest | None) -> tuple[str, dict[str, Any]]:
    """`evaluate` on the validation images; a finished test of the file `path` is read again unless resume=never.

    `any_exact`: in fp32 or TF32, whatever this device has.
    """
    run, classes = run_of_weights(path) if path else None, config.model.num_classes
    # A run's own weights are tested on the set that they were trained on; others need its mean only.
    images = find(data_dir(config.data.root), config.data.wiring_test,
                  val_alone=run is None and config.data.normalization is Normalization.per_channel)
    if len(images.wnids) > classes:
        raise ConfigError(f"model.num_classes={classes}: there are images of {len(images.wnids)} classes")
    mean, std = read_mean(config, path, images.fingerprint)
    scorer, total = Scorer(model, protocol, config, mean, std), len(images.val)
    digest = path and files.file_sha256(path)
    statistics = b"".join(b"none" if one is None else repr(tuple(one.shape)).encode() + one.numpy().tobytes()
                          for one in (mean, std))
    about = {
        "schema": SCHEMA, "protocol": protocol, "experiment": config.name, "seed": run and run.seed,
        "identity": run and run.identity, "weights_sha256": digest, "data_fingerprint": images.fingerprint,
        "split": "val", "wiring_test": config.data.wiring_test,
        "model": {key: value for key, value in to_dict(config.model).items() if key not in TRAINING_ONLY},
        "settings": {"shorter_sides": scorer.shorter_sides, "crop_size": scorer.crop_size,
                     "normalisation_sha256": hashlib.sha256(statistics).hexdigest()},
        "precision": config.machine.precision.name, "versions": package_versions(), **code_version(),
        "device": describe(scorer.device), **source, "images": total}
    folder = path.absolute().parent if run and path else results_dir(config.results)
    kept = folder / "evaluations" / ("" if run else f"{config.name}-{str(digest)[:12]}") / f"{protocol}.json"
    with files.hold_lock(kept.with_suffix(".lock")) if path else nullcontext():
        record = finished_test(kept, about, any_exact) if path and config.resume is not Resume.never else None
        if record is None:
            scores, (top1, top5) = score(scorer, images.val, config, stop)
            record = about | {"top1_errors": top1, "top5_errors": top5, "val_top1_error": 100 * top1 / total,
                              "val_top5_error": 100 * top5 / total, "utc": files.utc_now(), "finished": True}
            if path:
                record = save(kept, record, images.val.labels, scores)
    label = f"{WIRING_TEST}: " if config.data.wiring_test else ""
    return (f"{label}val error top-1 {record['val_top1_error']:.2f} %, top-5 {record['val_top5_error']:.2f} % "
            f"({record['top1_errors']} and {record['top5_errors']} of {total}, {paper.PROTOCOL_LABELS[protocol]}, "
            f"{record['precision']})\n  {f'kept in {display_path(kept)}' if path else 'not kept'}"), record


def score(scorer: Scorer, images: ImageSet, config: RunConfig,
          outer: StopRequest | None) -> tuple[np.ndarray, list[int]]:
    """The probabilities (N, K) float16 of all images, and their top-1 and top-5 errors, counted before rounding."""
    total, requests = len(images), parts_of(range(len(images)), scorer.images_at_once)
    labels, errors = torch.from_numpy(images.labels), torch.zeros(2, dtype=torch.int64)
    scores = np.empty((total, config.model.num_classes), np.float16)
    name = f"{config.name} {paper.PROTOCOL_LABELS[scorer.protocol]}"
    batches = read_ahead(lambda index: scorer.read(open_rgb(images.path(index))), requests, config.machine.workers)
    asked = StopRequest(config.max_seconds) if outer is None else nullcontext(outer)
    with asked as stop, progress(name, total) as advance, closing(batches):
        for request, views in zip(requests, batches, strict=True):
            part = slice(request[0], request[-1] + 1)
            found = scorer(np.stack(views))
            errors += error_counts(found, labels[part])
            scores[part] = found
            advance(len(request))
            if stop.reason is not None and part.stop < total:
                raise Stopped(f"{name}: stopped by {stop.reason} after {part.stop} of {total} images; the same "
                              "command begins this test again", stop.exit_code)
    return scores, errors.tolist()


def save(path: Path, record: dict[str, Any], labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Write probabilities and classes, then the record with their hashes, which says that they are whole."""
    for name, suffix, array in (("probabilities", ".npy", scores), ("labels", ".labels.npy", labels)):
        np.save(buffer := BytesIO(), array)
        files.write_atomic(path.with_suffix(suffix), buffer.getvalue())
        record |= {f"{name}_sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}
    files.write_json(path, record)
    return record


def finished_test(path: Path, about: dict[str, Any], any_exact: bool) -> dict[str, Any] | None:
    """The record of the same test if one is finished; ConfigError if it is of something else."""
    record = files.read_object(path)
    if record.get("schema") != SCHEMA or not record.get("finished"):
        return None
    if any_exact and record.get("precision") in EXACT:
        about = about | {"precision": record["precision"]}
    if other := difference(*(flat({key: one.get(key) for key in SAME}) for one in (record, about))):
        words = "; ".join(f"{key}: {old}, now {new}" for key, (old, new) in other.items())
        raise ConfigError(f"{display_path(path)} holds a finished test: {words}; resume=never replaces it")
    return record


# ---- ensembles


def combine(name: str, overrides: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Average an ensemble's members, whose runs have these overrides; the errors in words and as they are recorded."""
    ensemble = paper.ensemble(name)
    if override_keys(overrides) & {"experiment", "seed"}:
        raise ConfigError(f"ensemble {name} names the experiments and seeds of its members")
    runs, tests, scores, missing = list[Run](), list[dict[str, Any]](), list[np.ndarray](), list[str]()
    for one in ensemble.members:
        words = [f"experiment={one.experiment}", f"seed={one.seed}", *overrides]
        run = read_run(run_folder(resolve(compose(words))))
        path, weights = run.folder / "evaluations" / f"{ensemble.protocol}.json", run.folder / "weights.pt"
        test = files.read_object(path)
        if not run.finished or not weights.is_file():
            missing.append(f"no finished run with weights: repro run {shlex.join(words)}")
        elif not test.get("finished") or test.get("weights_sha256") != files.file_sha256(weights):
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
    total, images = np.zeros(scores[0].shape), len(labels)
    for rows in scores:  # exact sums of float16 in float64; they need not fit in memory together
        total += rows
    top1, top5 = error_counts(torch.from_numpy(total), torch.from_numpy(labels)).tolist()  # as of the mean
    of_paper = all(run.is_paper_run and test["precision"] in EXACT for run, test in zip(runs, tests, strict=True))
    values = {
        "schema": SCHEMA, "name": name, "protocol": ensemble.protocol, "split": "val", "paper_runs": of_paper,
        **{key: tests[0][key] for key in ("data_fingerprint", "wiring_test", "images")},
        "members": [{key: test[key] for key in OF_MEMBERS} for test in tests], "top1_errors": top1, "top5_errors": top5,
        "val_top1_error": 100 * top1 / images, "val_top5_error": 100 * top5 / images,
        "versions": package_versions(), **code_version(), "utc": files.utc_now(), "finished": True}
    if not of_paper:  # such ensembles lie apart
        name += "@" + hashlib.sha256(" ".join(run.identity for run in runs).encode()).hexdigest()[:12]
    path = results_dir(compose([f"experiment={runs[0].experiment}", *overrides]).results) / "ensembles" / f"{name}.json"
    files.write_json(path, values)
    label = f" ({WIRING_TEST})" if values["wiring_test"] else "" if of_paper else " (not the paper's runs)"
    return (f"{name}{label}: val error top-1 {100 * top1 / images:.2f} %, top-5 {100 * top5 / images:.2f} % ({top1} "
            f"and {top5} of {images}, {len(runs)} networks, {paper.PROTOCOL_LABELS[ensemble.protocol]})\n"
            f"  kept in {display_path(path)}"), values


def read_arrays(path: Path, record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, K), mapped, and classes (N,) of a finished test; StorageError if they were changed or lost."""
    scores, labels = path.with_suffix(".npy"), path.with_suffix(".labels.npy")
    for file, key in ((scores, "probabilities_sha256"), (labels, "labels_sha256")):
        if not file.is_file() or files.file_sha256(file) != record.get(key):
            raise StorageError(f"{display_path(file)} was changed after the test, or lost; resume=never tests again")
    return np.load(scores, mmap_mode="r"), np.load(labels)
