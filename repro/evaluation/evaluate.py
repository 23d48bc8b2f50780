"""`repro eval` on ImageNet: the error of a network by one of the paper's three protocols, kept and resumable."""

import hashlib
import json
import logging
import shlex
import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from repro.config import flat, to_dict
from repro.data.imagenet_files import ImageNetFiles, find
from repro.data.loader import read_ahead
from repro.data.parts import progress
from repro.devices import describe, place, resolve, restore_settings, set_up
from repro.errors import ConfigError, Stopped, StorageError
from repro.evaluation.normalizer import Normalizer, normalizer_of
from repro.evaluation.predictions import Scorer
from repro.evaluation.saved_probabilities import SavedProbabilities, json_path
from repro.evaluation.views import LABELS, ViewReader, Views, views_of
from repro.evaluation.weight_files import Carried, read_weights, run_of_weights
from repro.evaluation.weights import carried_facts, evaluations_of_file, load_weights, training_note
from repro.models import build_model
from repro.models.vgg import CROP
from repro.paths import data_dir, display_path, results_dir
from repro.provenance import code_version, package_versions
from repro.runs import Run, file_sha256, hold_lock
from repro.schema import Family, Normalization, Precision, Resume, RunConfig
from repro.stopping import StopRequest, command_to_go_on

logger = logging.getLogger(__name__)
WIRING_TEST = "WIRING TEST, says nothing about ImageNet"
# Settings of a network that change only its training.
TRAINING_ONLY = ("conv_init", "fc_init", "batch_norm_momentum")
# What must be the same in the record beside the weights and in the command: what the network is and is shown.
OF_WEIGHTS = ("normalization", "channel_mean", "channel_std", "crop_size", "test_shorter_side", "wiring_test")


@restore_settings()
def evaluate(config: RunConfig, protocol: str, weights: Path, command: list[str],
             stop: StopRequest | None = None) -> tuple[str, dict[str, Any]]:
    """Test the weights in a file on the validation images; the result in words and its record.

    The record and all probabilities stay on disk: a test that was stopped goes on, a finished one is read.
    `stop`: of what the test is a part of, and in the place of the test's own.
    Raises Stopped (75, 130) with the command that goes on, ConfigError if the weights are those of another run,
    StorageError if they can't be read, DataError if the data or the mean image can't.
    """
    asked, config = config.machine.precision, resolve(config)
    device = set_up(config)
    if config.model.family is Family.vgg and config.data.crop_size != CROP:
        raise ConfigError(f"data.crop_size={config.data.crop_size}: VGG takes {CROP}")
    carried = read_weights(weights)[1]
    run = None if carried and carried.label else run_of_weights(weights)
    check_agrees(config, run)
    try:
        digest = file_sha256(weights)
    except OSError as error:
        raise StorageError(f"{display_path(weights)}: {error.strerror}") from error
    views = views_of(protocol, config.data)
    # A run's own weights are tested on the set that they were trained on; others need its mean only.
    files = find(data_dir(config.data.root), config.data.wiring_test,
                 val_alone=run is None and config.data.normalization is Normalization.per_channel)
    check_classes(config, len(files.wnids))
    normalizer = normalizer_of(config, weights, lambda: files.fingerprint)
    about = evaluation_facts(config, views, normalizer, files, run, digest) | {"device": describe(device)}
    about |= carried_facts(carried)
    path = evaluations_folder(config, run, weights, digest, carried) / protocol
    with hold_lock(path.with_name(f"{path.name}.lock")) as note:
        if note:
            logger.warning(note)
        kept = SavedProbabilities(path, about, files.val.labels, config.model.num_classes,
                                  config.resume is Resume.never,
                    asked is Precision.auto)
        if kept.note:
            logger.warning(kept.note)
        if not kept.finished:
            model = place(load_weights(build_model(config.model), weights), config, device)
            reader = ViewReader(files.val, views)
            evaluate_images(kept, Scorer(model, views, normalizer, config.machine), reader, config, command, stop)
    return format_result(kept.record, path, weights), kept.record


def evaluate_images(kept: SavedProbabilities, scorer: Scorer, reader: ViewReader, config: RunConfig, command: list[str],
         outer: StopRequest | None) -> None:
    """Test all images that are left; Stopped, with everything saved, if a signal or max_seconds asks for it."""
    images, machine = len(kept.labels), config.machine
    starts = range(kept.done, images, scorer.images_at_once)
    requests = [range(start, min(start + scorer.images_at_once, images)) for start in starts]
    name = f"{config.name} {LABELS[scorer.views.protocol]}"
    asked = StopRequest(config.max_seconds) if outer is None else nullcontext(outer)
    crops = read_ahead(reader, requests, machine.loader, machine.workers)
    with kept, asked as stop, progress(name, images, kept.done) as advance, closing(crops):
        saved = time.monotonic()
        for loaded in crops:
            before = kept.done
            kept.add(scorer(loaded))
            advance(kept.done - before, "error top-1 {:.2f} %, top-5 {:.2f} % so far".format(
                *(100 * kept.record[key] / kept.done for key in ("top1_errors", "top5_errors"))))
            if stop.reason is not None and kept.done < images:
                raise Stopped(f"{name}: stopped by {stop.reason} after {kept.done} of {images} images, which are "
                              f"kept\ngo on with: {shlex.join(command_to_go_on(command))}", stop.exit_code)
            if time.monotonic() - saved >= machine.checkpoint_seconds:
                kept.save()
                saved = time.monotonic()
        kept.finish()


def check_agrees(config: RunConfig, run: Run | None) -> None:
    """ConfigError naming the keys in which a command and the run whose weights it tests differ."""
    if run is None or run.record is None:
        return
    keys = {"name": config.name, **{key: value for key, value in flat(to_dict(config)).items()
                                    if key.startswith("model.") or key.removeprefix("data.") in OF_WEIGHTS}}
    recorded = flat(run.record["config"]) | {"name": run.experiment}
    differing = [f"{key}={value} here, {recorded[key]} there" for key, value in keys.items()
                 if key in recorded and recorded[key] != value]
    if differing:
        raise ConfigError(f"{display_path(run.folder)}: weights of another configuration: {'; '.join(differing)}")


def check_classes(config: RunConfig, found: int) -> None:
    """ConfigError if the images are of more classes than the network has."""
    if found > config.model.num_classes:
        raise ConfigError(f"model.num_classes={config.model.num_classes}: there are images of {found} classes")


def evaluations_folder(config: RunConfig, run: Run | None, weights: Path, digest: str,
                       carried: Carried | None = None) -> Path:
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


def evaluation_facts(config: RunConfig, views: Views, normalizer: Normalizer, files: ImageNetFiles, run: Run | None,
               digest: str) -> dict[str, Any]:
    """What a record says of a test beside its result."""
    record = run.record if run else None
    return {
        "protocol": views.protocol, "definition": views.definition, "experiment": config.name,
        "seed": run.seed if run else None, "identity": run.identity if run else None,
        "deviations": record.get("deviations") if record else None,  # None: nobody knows
        "weights_sha256": digest, "data_fingerprint": files.fingerprint, "split": "val",
        "wiring_test": config.data.wiring_test, "one_folder": files.one_folder, "model": network(config),
        "settings": {"shorter_sides": list(views.shorter_sides), "crop_size": views.crop_size,
                     "normalisation_sha256": normalizer.sha256},
        "precision": config.machine.precision.name, "versions": package_versions(), **code_version()}


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
            f"  kept in {display_path(json_path(path))}, with the probabilities")

