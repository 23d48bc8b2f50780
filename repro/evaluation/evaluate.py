"""`repro eval` on ImageNet: the error of a network by one of the paper's three protocols, and its probabilities.

PROTOCOL.json is the record of a finished test; PROTOCOL.npy holds the probabilities (N, K) float16, PROTOCOL.labels.npy
the classes (N,) int64: `repro ensemble` reads them, and they are never committed.
"""

import hashlib
import json
import logging
from contextlib import closing, nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.config import PAPER_PRECISIONS, difference, flat, settings, to_dict
from repro.data.crops import open_rgb
from repro.data.imagenet_files import ImageSet, find
from repro.data.loader import progress, read_ahead
from repro.devices import describe, place, resolve, restore_settings, set_up
from repro.errors import ConfigError, Stopped, StorageError
from repro.evaluation.metrics import error_counts
from repro.evaluation.protocols import LABELS, Scorer, normalizer_of, views_of
from repro.evaluation.weight_files import Carried, read_weights, run_of_weights
from repro.evaluation.weights import carried_facts, evaluations_of_file, load_weights, training_note
from repro.files import file_sha256, hold_lock, read_json, utc_now, write_atomic, write_json
from repro.models import build_model
from repro.models.resnet import VGG_CROP
from repro.paths import data_dir, display_path, results_dir
from repro.provenance import code_version, package_versions
from repro.runs import Run
from repro.schema import Family, Normalization, Precision, Resume, RunConfig
from repro.stopping import StopRequest

logger = logging.getLogger(__name__)
SCHEMA = 1
WIRING_TEST = "WIRING TEST, says nothing about ImageNet"
EXACT = {precision.name for precision in PAPER_PRECISIONS}
# Settings of a network that change only its training.
TRAINING_ONLY = ("conv_init", "fc_init", "batch_norm_momentum")
# What beside the network must be the same in the record beside the weights and in the command.
OF_WEIGHTS = ("data.normalization", "data.channel_mean", "data.channel_std", "data.crop_size",
              "data.test_shorter_side", "data.wiring_test")
# Two tests that agree in these are the same test.
SAME = ("protocol", "experiment", "weights_sha256", "data_fingerprint", "split", "settings", "model", "precision",
        "images", "classes", "wiring_test")


@restore_settings()
def evaluate(config: RunConfig, protocol: str, weights: Path,
             stop: StopRequest | None = None) -> tuple[str, dict[str, Any]]:
    """Test the weights in a file on the validation images; the result in words and its record.

    A finished test is read, unless resume=never. `stop`: that of what the test is a part of.
    Raises Stopped (75, 130), ConfigError if the weights are those of another run or the record is one of another test,
    StorageError if the weights can't be read, DataError if the data or the mean image can't.
    """
    asked, config = config.machine.precision, resolve(config)
    device = set_up(config)
    if config.model.family is Family.vgg and config.data.crop_size != VGG_CROP:
        raise ConfigError(f"data.crop_size={config.data.crop_size}: VGG takes {VGG_CROP}")
    carried = read_weights(weights)[1]
    run = None if carried and carried.label else run_of_weights(weights)
    check_agrees(config, run)
    views, digest, classes = views_of(protocol, config.data), file_sha256(weights), config.model.num_classes
    # A run's own weights are tested on the set that they were trained on; others need its mean only.
    files = find(data_dir(config.data.root), config.data.wiring_test,
                 val_alone=run is None and config.data.normalization is Normalization.per_channel)
    if len(files.wnids) > classes:
        raise ConfigError(f"model.num_classes={classes}: there are images of {len(files.wnids)} classes")
    normalizer = normalizer_of(config, weights, files.fingerprint)
    about = {
        "schema": SCHEMA, "protocol": protocol, "definition": views.definition, "experiment": config.name,
        "seed": run.seed if run else None, "identity": run.identity if run else None,
        "deviations": run.record.deviations if run and run.record else None,  # None: nobody knows
        "weights_sha256": digest, "data_fingerprint": files.fingerprint, "split": "val",
        "wiring_test": config.data.wiring_test, "one_folder": files.one_folder, "model": network(config),
        "settings": {"shorter_sides": list(views.shorter_sides), "crop_size": views.crop_size,
                     "normalisation_sha256": normalizer.sha256},
        "precision": config.machine.precision.name, "versions": package_versions(), **code_version(),
        "device": describe(device), **carried_facts(carried), "images": len(files.val), "classes": classes}
    path = evaluations_folder(config, run, weights, digest, carried) / f"{protocol}.json"
    with hold_lock(path.with_suffix(".lock")) as note:
        if note:
            logger.warning(note)
        record = None if config.resume is Resume.never else finished_test(path, about, asked is Precision.auto)
        if record is None:
            model = place(load_weights(build_model(config.model), weights), config, device)
            scorer = Scorer(model, views, normalizer, config.machine)
            record = save(path, about, files.val.labels, *score(scorer, files.val, config, stop))
    return format_result(record, path, weights), record


def score(scorer: Scorer, images: ImageSet, config: RunConfig, outer: StopRequest | None) -> tuple[np.ndarray, Tensor]:
    """The probabilities (N, K) float16 of all images, and their top-1 and top-5 errors (2,), counted before rounding.

    Stopped if a signal or max_seconds asks for it.
    """
    total, at_once, machine = len(images), scorer.images_at_once, config.machine
    requests = [range(begin, min(begin + at_once, total)) for begin in range(0, total, at_once)]
    labels, errors = torch.from_numpy(images.labels), torch.zeros(2, dtype=torch.int64)
    scores = np.empty((total, config.model.num_classes), np.float16)
    name = f"{config.name} {LABELS[scorer.views.protocol]}"
    batches = read_ahead(lambda index: scorer.views.read(open_rgb(images.path(index))), requests, machine.loader,
                         machine.workers)
    asked = StopRequest(config.max_seconds) if outer is None else nullcontext(outer)
    with asked as stop, progress(name, total) as advance, closing(batches):
        for request, views in zip(requests, batches, strict=True):
            part, done = slice(request.start, request.stop), request.stop
            found = scorer(views)
            errors += error_counts(found, labels[part])
            scores[part] = found
            top1, top5 = (100 * errors / done).tolist()
            advance(len(request), f"error top-1 {top1:.2f} %, top-5 {top5:.2f} % so far")
            if stop.reason is not None and done < total:
                raise Stopped(f"{name}: stopped by {stop.reason} after {done} of {total} images; the same command "
                              "begins this test again", stop.exit_code)
    return scores, errors


def save(path: Path, about: dict[str, Any], labels: np.ndarray, scores: np.ndarray, errors: Tensor) -> dict[str, Any]:
    """Write probabilities and classes, then the record, which says that they are whole."""
    hashes = {}
    for name, suffix, array in (("probabilities", ".npy", scores), ("labels", ".labels.npy", labels)):
        buffer = BytesIO()
        np.save(buffer, array)
        content = buffer.getvalue()
        write_atomic(path.with_suffix(suffix), content)
        hashes[f"{name}_sha256"] = hashlib.sha256(content).hexdigest()
    top1, top5 = errors.tolist()
    record = about | {
        "top1_errors": top1, "top5_errors": top5, "val_top1_error": 100 * top1 / len(labels),
        "val_top5_error": 100 * top5 / len(labels), **hashes, "utc": utc_now(), "finished": True}
    write_json(path, record)
    return record


def finished_test(path: Path, about: dict[str, Any], any_exact: bool) -> dict[str, Any] | None:
    """The record of the same test if one is finished, in fp32 or TF32 if `any_exact`; else None.

    ConfigError if a finished test of something else is there: only resume=never replaces it.
    """
    try:
        record = read_record(path)
    except StorageError as error:
        logger.warning(f"{error}; the test begins anew")
        return None
    if record is None or not record.get("finished"):
        return None
    other = difference(*(flat({key: one.get(key) for key in SAME}) for one in (record, about)))
    if any_exact and record.get("precision") in EXACT:
        other.pop("precision", None)
    if other:
        words = "; ".join(f"{key}: {old}, now {new}" for key, (old, new) in other.items())
        raise ConfigError(f"{display_path(path)} holds a finished test: {words}; resume=never replaces it")
    try:
        read_arrays(path, record)
    except StorageError as error:
        logger.warning(f"{error}; the errors of the finished test stand; resume=never tests again")
    return record


def check_agrees(config: RunConfig, run: Run | None) -> None:
    """ConfigError naming the keys in which a command and the run whose weights it tests differ."""
    if run is None or run.record is None:
        return
    there, here = (
        {"name": one.name, **{key: value for key, value in settings(one).items()
                              if key.startswith("model.") or key in OF_WEIGHTS}} for one in (run.record.config, config))
    if other := difference(there, here):
        words = "; ".join(f"{key}={new} here, {old} there" for key, (old, new) in other.items())
        raise ConfigError(f"{display_path(run.folder)}: weights of another configuration: {words}")


def evaluations_folder(config: RunConfig, run: Run | None, weights: Path, digest: str, carried: Carried | None) -> Path:
    """The folder of all tests of these weights in this network: in their run's, else in the user's results.

    Weights of others have a place of their own.
    """
    if carried is not None and carried.of_others:
        return evaluations_of_file(config, weights, digest)
    if run is not None:
        return weights.absolute().parent / "evaluations"
    of_both = hashlib.sha256(json.dumps([digest, network(config)], sort_keys=True).encode()).hexdigest()
    return results_dir(config.results) / "evaluations" / f"{config.name}-{of_both[:12]}"


def network(config: RunConfig) -> dict[str, Any]:
    """What beside its weights decides what a network computes, as plain values."""
    return {key: value for key, value in to_dict(config.model).items() if key not in TRAINING_ONLY}


def format_result(record: dict[str, Any], path: Path, weights: Path) -> str:
    """The result of a finished test for a person."""
    images, seed = record["images"], "" if record["seed"] is None else f" seed {record['seed']}"
    label = f" ({WIRING_TEST})" if record["wiring_test"] else ""
    label += f" ({record['weights_of']})" if record.get("weights_of") else ""
    label += " tested on the training images" if record.get("one_folder") else ""
    return (f"{record['experiment']}{seed}{label}: val error top-1 {record['val_top1_error']:.2f} %, top-5 "
            f"{record['val_top5_error']:.2f} % ({record['top1_errors']} and {record['top5_errors']} of {images}, "
            f"{LABELS[record['protocol']]}, {record['precision']})\n"
            f"  {LABELS[record['protocol']]}: {record['definition']}{training_note(weights)}\n"
            f"  kept in {display_path(path)}, with the probabilities")


def read_record(path: Path) -> dict[str, Any] | None:
    """The record of a test; None if there is none, StorageError if it is no such record."""
    try:
        record = read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StorageError(f"{display_path(path)}: unreadable ({type(error).__name__})") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise StorageError(f"{display_path(path)}: not the record of a test that this version knows")
    return record


def read_arrays(path: Path, record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, K), mapped, and classes (N,) of a finished test; StorageError if they were changed or lost."""
    scores, labels = path.with_suffix(".npy"), path.with_suffix(".labels.npy")
    for file, key in ((scores, "probabilities_sha256"), (labels, "labels_sha256")):
        try:
            changed = file_sha256(file) != record.get(key)
        except OSError as error:
            raise StorageError(f"{display_path(file)}: {error.strerror}") from error
        if changed:
            raise StorageError(f"{display_path(file)} was changed after the test")
    return np.load(scores, mmap_mode="r"), np.load(labels)
