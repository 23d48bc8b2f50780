"""`repro eval`: the error of a network on CIFAR-10, or on ImageNet by one of the paper's three protocols.

Of ImageNet evaluations/PROTOCOL.json is the record, PROTOCOL.npy holds the probabilities (N, K) float16 and
PROTOCOL.labels.npy the classes (N,) int64: `repro ensemble` reads them, and they are never committed.
"""

import copy
import hashlib
from contextlib import closing, nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from repro.config import PAPER_PRECISIONS, difference, flat, to_dict
from repro.data.cifar10 import load_arrays, on_device
from repro.data.crops import open_rgb
from repro.data.imagenet_files import ImageSet, find
from repro.data.loader import progress, read_ahead
from repro.devices import code_version, describe, package_versions, place, resolve, restore_settings, set_up
from repro.errors import ConfigError, Stopped, StorageError
from repro.evaluation.metrics import error_counts, evaluate_on
from repro.evaluation.protocols import Scorer, read_mean
from repro.files import file_sha256, hold_lock, read_object, utc_now, write_atomic, write_json
from repro.models import build_model
from repro.paper import PROTOCOL_LABELS
from repro.paths import data_dir, display_path, results_dir
from repro.schema import IMAGENET, SYNTHETIC, Normalization, Precision, Resume, RunConfig
from repro.stopping import StopRequest
from repro.weights import load_weights, read_weights, run_of_weights

SCHEMA = 1
WIRING_TEST = "WIRING TEST, says nothing about ImageNet"
EXACT = {precision.name for precision in PAPER_PRECISIONS}
TRAINING_ONLY = ("conv_init", "fc_init", "batch_norm_momentum")  # settings of a network that change only its training
# Two tests that agree in these are the same test.
SAME = ("protocol", "experiment", "weights_sha256", "data_fingerprint", "split", "settings", "model", "precision",
        "images", "wiring_test")


@restore_settings()
def evaluate(config: RunConfig, protocol: str, weights: Path | nn.Module,
             stop: StopRequest | None = None) -> tuple[str, dict[str, Any]]:
    """Test the weights in a file, or a network in memory; the result in words and as plain values.

    `protocol` and `stop`, that of what the test is a part of, are for ImageNet. Raises Stopped (75, 130), ConfigError
    if the record there is one of another test, StorageError if the weights can't be read, DataError if the data can't.
    """
    any_exact, config = config.machine.precision is Precision.auto, resolve(config)
    device = set_up(config)
    path, facts = (weights, read_weights(weights)[1]) if isinstance(weights, Path) else (None, None)
    model = copy.deepcopy(weights) if isinstance(weights, nn.Module) else load_weights(
        build_model(config.model), weights)
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
    """`evaluate` of a network, whose weights are those in the file `path`, on the validation images.

    A finished test of a file is read again unless resume=never; `any_exact`: in fp32 or TF32, whatever the device has.
    """
    run, classes = run_of_weights(path) if path else None, config.model.num_classes
    # A run's own weights are tested on the set that they were trained on; others need its mean only.
    files = find(data_dir(config.data.root), config.data.wiring_test,
                 val_alone=run is None and config.data.normalization is Normalization.per_channel)
    if len(files.wnids) > classes:
        raise ConfigError(f"model.num_classes={classes}: there are images of {len(files.wnids)} classes")
    mean, std = read_mean(config, path, files.fingerprint)
    scorer, digest = Scorer(model, protocol, config, mean, std), path and file_sha256(path)
    about = {
        "schema": SCHEMA, "protocol": protocol, "experiment": config.name, "seed": run and run.seed,
        "identity": run and run.identity, "weights_sha256": digest, "data_fingerprint": files.fingerprint,
        "split": "val", "wiring_test": config.data.wiring_test,
        "model": {key: value for key, value in to_dict(config.model).items() if key not in TRAINING_ONLY},
        "settings": {"shorter_sides": scorer.shorter_sides, "crop_size": scorer.crop_size, "normalisation_sha256":
                     hashlib.sha256(b"".join(map(tensor_bytes, (mean, std)))).hexdigest()},
        "precision": config.machine.precision.name, "versions": package_versions(), **code_version(),
        "device": describe(scorer.device), **source, "images": len(files.val)}
    folder = path.absolute().parent if run and path else results_dir(config.results)
    kept = folder / "evaluations" / ("" if run else f"{config.name}-{str(digest)[:12]}") / f"{protocol}.json"
    with hold_lock(kept.with_suffix(".lock")) if path else nullcontext():
        record = finished_test(kept, about, any_exact) if path and config.resume is not Resume.never else None
        if record is None:
            scores, (top1, top5) = score(scorer, files.val, config, stop)
            record = about | {"top1_errors": top1, "top5_errors": top5, "val_top1_error": 100 * top1 / len(files.val),
                              "val_top5_error": 100 * top5 / len(files.val), "utc": utc_now(), "finished": True}
            if path:
                record = save(kept, record, files.val.labels, scores)
    label = f"{WIRING_TEST}: " if config.data.wiring_test else ""
    return (f"{label}val error top-1 {record['val_top1_error']:.2f} %, top-5 {record['val_top5_error']:.2f} % "
            f"({record['top1_errors']} and {record['top5_errors']} of {record['images']}, {PROTOCOL_LABELS[protocol]}, "
            f"{record['precision']})\n  {f'kept in {display_path(kept)}' if path else 'not kept'}"), record


def tensor_bytes(values: torch.Tensor | None) -> bytes:
    """What stands for a tensor in a hash."""
    return b"none" if values is None else repr(tuple(values.shape)).encode() + values.numpy().tobytes()


def score(scorer: Scorer, images: ImageSet, config: RunConfig,
          outer: StopRequest | None) -> tuple[np.ndarray, list[int]]:
    """The probabilities (N, K) float16 of all images, and their top-1 and top-5 errors, counted before rounding.

    Stopped if a signal or max_seconds asks for it.
    """
    total, at_once, machine = len(images), scorer.images_at_once, config.machine
    requests = [range(begin, min(begin + at_once, total)) for begin in range(0, total, at_once)]
    labels, errors = torch.from_numpy(images.labels), torch.zeros(2, dtype=torch.int64)
    scores = np.empty((total, config.model.num_classes), np.float16)
    name = f"{config.name} {PROTOCOL_LABELS[scorer.protocol]}"
    batches = read_ahead(lambda index: scorer.read(open_rgb(images.path(index))), requests, machine.loader,
                         machine.workers)
    asked = StopRequest(config.max_seconds) if outer is None else nullcontext(outer)
    with asked as stop, progress(name, total) as advance, closing(batches):
        for request, views in zip(requests, batches, strict=True):
            part = slice(request.start, request.stop)
            found = scorer(views)
            errors += error_counts(found, labels[part])
            scores[part] = found
            advance(len(request))
            if stop.reason is not None and request.stop < total:
                raise Stopped(f"{name}: stopped by {stop.reason} after {request.stop} of {total} images; the same "
                              "command begins this test again", stop.exit_code)
    return scores, errors.tolist()


def save(path: Path, record: dict[str, Any], labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Write probabilities and classes, then the record with their hashes, which says that they are whole."""
    hashes = {}
    for name, suffix, array in (("probabilities", ".npy", scores), ("labels", ".labels.npy", labels)):
        buffer = BytesIO()
        np.save(buffer, array)
        write_atomic(path.with_suffix(suffix), buffer.getvalue())
        hashes[f"{name}_sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    write_json(path, record | hashes)
    return record | hashes


def finished_test(path: Path, about: dict[str, Any], any_exact: bool) -> dict[str, Any] | None:
    """The record of the same test if one is finished; ConfigError if it is of something else."""
    record = read_object(path)
    if record.get("schema") != SCHEMA or not record.get("finished"):
        return None
    other = difference(*(flat({key: one.get(key) for key in SAME}) for one in (record, about)))
    if any_exact and record.get("precision") in EXACT:
        other.pop("precision", None)
    if other:
        words = "; ".join(f"{key}: {old}, now {new}" for key, (old, new) in other.items())
        raise ConfigError(f"{display_path(path)} holds a finished test: {words}; resume=never replaces it")
    return record


def read_arrays(path: Path, record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, K), mapped, and classes (N,) of a finished test; StorageError if they were changed or lost."""
    scores, labels = path.with_suffix(".npy"), path.with_suffix(".labels.npy")
    for file, key in ((scores, "probabilities_sha256"), (labels, "labels_sha256")):
        if not file.is_file() or file_sha256(file) != record.get(key):
            raise StorageError(f"{display_path(file)} was changed after the test, or lost; resume=never tests again")
    return np.load(scores, mmap_mode="r"), np.load(labels)
