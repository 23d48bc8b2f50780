"""Checkpoints that are whole or not there, and what to do with what lies in a run's folder.

A checkpoint is `checkpoint-<iteration>.pt` and, written after it, `checkpoint-<iteration>.json` with what else a resume
needs and one hash over both. One without its JSON was cut off while it was written and does not count. The last two
are kept.
"""

import hashlib
import io
import json
import logging
from pathlib import Path
from typing import Any

import torch

from repro import files, weights
from repro.config import ADDED_LATER, ANY, REMOVED, difference, paper_hashes, settings
from repro.errors import ConfigError, DataError, StorageError
from repro.files import read_json, write_atomic, write_json
from repro.paths import display_path
from repro.runs import Run, read_run
from repro.schema import Resume, RunConfig
from repro.training.distributed import Plan, World
from repro.training.step import TrainStep

logger = logging.getLogger(__name__)
SCHEMA = 2  # 1 had the hash of the .pt alone


def save(folder: Path, iteration: int, state: dict[str, Any], meta: dict[str, Any]) -> None:
    """Write the state, plain data only, and its JSON, and keep the last two; StorageError if that fails."""
    path, payload = folder / f"checkpoint-{iteration:08d}.pt", serialize(state)
    facts = {"schema": SCHEMA, "iteration": iteration, "bytes": len(payload)} | meta
    try:
        write_atomic(path, payload)
        write_json(path.with_suffix(".json"), facts | {"sha256": digest(payload, facts)})
    except StorageError:
        if not path.with_suffix(".json").is_file():
            remove(path)  # it would only take room that is needed
        raise
    for old in list_checkpoints(folder)[2:]:
        remove(old)


def serialize(value: Any) -> bytes:
    """The bytes of a .pt file."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def digest(payload: bytes, facts: dict[str, Any]) -> str:
    """SHA-256 of all that a resume trusts: a checkpoint's bytes and the facts of its JSON, its own hash aside."""
    own = json.dumps({key: value for key, value in facts.items() if key != "sha256"}, sort_keys=True).encode()
    return hashlib.sha256(payload + own if facts["schema"] > 1 else payload).hexdigest()


def list_checkpoints(folder: Path) -> list[Path]:
    """The .pt paths of the checkpoints that have their JSON, newest first."""
    return sorted((path.with_suffix(".pt") for path in folder.glob("checkpoint-*.json")), reverse=True)


def remove(path: Path) -> None:
    """Delete a checkpoint and its JSON, the JSON first: what is left of an interrupted removal does not count."""
    path.with_suffix(".json").unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def remove_all(folder: Path) -> None:
    """Delete every checkpoint of a run, also one that was cut off and what write_atomic was in the middle of."""
    for path in [*list_checkpoints(folder), *folder.glob("checkpoint-*.pt"), *folder.glob(".*.part")]:
        remove(path)


def load_newest(folder: Path, device: torch.device) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """State and meta of the newest whole checkpoint, None for none; StorageError if there are some and all are bad."""
    found = list_checkpoints(folder)
    for path in found:
        try:
            return load(path, device)
        except StorageError as error:
            logger.warning(f"{display_path(path)}: {error}; not used")
    if found:
        raise StorageError(f"{display_path(folder)}: no usable checkpoint is left; resume=never starts this run over")
    return None


def load(path: Path, device: torch.device) -> tuple[dict[str, Any], dict[str, Any]]:
    """One checkpoint; StorageError unless its hash agrees and it holds plain data only."""
    meta: dict[str, Any] = {}
    try:
        meta = read_json(path.with_suffix(".json"))
        if meta["schema"] > SCHEMA:
            raise StorageError(f"of schema {meta['schema']}; this version of repro reads up to {SCHEMA}")
        payload = path.read_bytes()
        if digest(payload, meta) != meta["sha256"]:
            raise StorageError(f"damaged ({len(payload)} of {meta['bytes']} bytes, not of its sha256)")
        return torch.load(io.BytesIO(payload), map_location=device, weights_only=True), meta
    except StorageError:
        raise
    except Exception as error:  # torch's unpickler raises IndexError, AttributeError and others on what it can't read
        raise StorageError(f"unreadable ({type(error).__name__}); torch {meta.get('versions', {}).get('torch')} wrote "
                           f"it, this is {torch.__version__}") from error


def write_weights(path: Path, model: torch.nn.Module, config: RunConfig) -> str:
    """Write a network's plain state_dict, on the CPU and contiguous, with its settings; the SHA-256 of the file."""
    payload = weights.serialize(model.state_dict(), weights.facts_of(config))
    write_atomic(path, payload)
    return hashlib.sha256(payload).hexdigest()


def previous_run(plan: Plan) -> Run:
    """The earlier run in a folder; ConfigError if it is another, StorageError where nothing is left to go on from."""
    folder, shown = plan.folder, display_path(plan.folder)
    if plan.config.resume is Resume.never:
        archive_run(folder)
    earlier = read_run(folder)
    record = earlier.record
    if record is not None:
        # Only fp32 and TF32 share a folder: a finished run in either answers a request that left the precision open.
        answers = earlier.finished and plan.any_paper_precision and record.identity in paper_hashes(plan.config.name)
        if record.seed != plan.config.seed or (record.identity != plan.config_hash and not answers):
            text = difference_text(seed_and_settings(record.config), seed_and_settings(plan.config))
            raise ConfigError(f"{shown} holds another run ({text}); resume=never puts it aside")
    if earlier.finished:
        remove_all(folder)
        logger.info(f"{plan.title} is finished: {shown} (resume=never runs it again)")
    elif ((record.iteration if record else earlier.history()) and earlier.status != "diverged"
          and not list_checkpoints(folder)):
        raise StorageError(f"{shown}: {earlier.problem or 'its checkpoints are gone'}; resume=never starts over")
    return earlier


def archive_run(folder: Path) -> None:
    """Move what an earlier run left in a folder into `<folder>.old-<k>` beside it."""
    content = [path for path in folder.iterdir() if not path.name.startswith(files.LOCK)]
    if not content:
        return
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    aside.mkdir()
    for path in content:
        path.rename(aside / path.name)
    logger.info(f"resume=never: the earlier run is now in {display_path(aside)}")


def restore(step: TrainStep, plan: Plan) -> dict[str, Any]:
    """Put the newest whole checkpoint into the step; {} for none, else its JSON and `rows`, the CSV files of then."""
    device = step.device if step.world.size == 1 else torch.device("cpu")
    found = step.world.from_main(lambda: load_newest(plan.folder, device))
    if found is None:
        return {}
    state, meta = found
    recorded = ADDED_LATER | {key: value for key, value in meta["numbers"].items()
                              if key not in REMOVED or REMOVED[key] not in (ANY, value)}
    if text := difference_text(recorded, seed_and_settings(plan.config)):
        raise ConfigError(f"{display_path(plan.folder)}: the checkpoint is of another configuration ({text}); "
                          "resume=never starts over")
    step.load_state(state)
    return meta | {"rows": state["rows"]}


def seed_and_settings(config: RunConfig) -> dict[str, Any]:
    """All that a checkpoint's run must share with the run that goes on from it."""
    return {"seed": config.seed, **settings(config)}


def check_same_data(earlier: Run, sha256: str, done: int, world: World) -> None:
    """DataError where processes have other images, or a run would go on with others than it began with."""
    if len(set(world.all_gather_object(sha256))) > 1:
        raise DataError("the processes do not have the same images")
    if done and earlier.record and earlier.record.data and earlier.record.data.sha256 != sha256:
        raise DataError(f"{display_path(earlier.folder)}: trained on another set of images until iteration {done}; put "
                        "them back, or resume=never starts over")


def difference_text(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The keys in which two configurations differ, as 'key: old, now new'; '' for none."""
    return "; ".join(f"{key}: {before}, now {now}" for key, (before, now) in sorted(difference(old, new).items()))
