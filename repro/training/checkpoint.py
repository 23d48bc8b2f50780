"""Checkpoints that are whole or not there, and what to do with what lies in a run's folder.

A checkpoint is `checkpoint-<iteration>.pt` and, written after it, `checkpoint-<iteration>.json` with what else a resume
needs and one hash over both. One without its JSON was cut off and does not count. The last two are kept.
"""

import hashlib
import io
import json
import logging
from itertools import count
from pathlib import Path
from typing import Any

import torch

from repro import files
from repro.config import ADDED_LATER, ANY, REMOVED, difference, paper_hashes, settings
from repro.errors import ConfigError, StorageError
from repro.files import write_atomic, write_json
from repro.paths import display_path, escape
from repro.runs import Run, read_run
from repro.schema import Resume, RunConfig
from repro.training.distributed import Plan
from repro.training.step import TrainStep

logger = logging.getLogger(__name__)
SCHEMA = 2  # 1 had the hash of the .pt alone


def save(folder: Path, iteration: int, state: dict[str, Any], meta: dict[str, Any]) -> None:
    """Write the state, plain data only, and its JSON, and keep the last two; StorageError if that fails."""
    path, buffer = folder / f"checkpoint-{iteration:08d}.pt", io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    facts = {"schema": SCHEMA, "iteration": iteration, "bytes": len(payload)} | meta
    try:
        write_atomic(path, payload)
        write_json(path.with_suffix(".json"), facts | {"sha256": digest(payload, facts)})
    except StorageError:
        if not path.with_suffix(".json").is_file():
            path.unlink(missing_ok=True)  # it would only take room that is needed
        raise
    for old in list_checkpoints(folder)[2:]:
        old.with_suffix(".json").unlink(missing_ok=True)
        old.unlink(missing_ok=True)


def digest(payload: bytes, facts: dict[str, Any]) -> str:
    """SHA-256 of all that a resume trusts: a checkpoint's bytes and the facts of its JSON, its own hash aside."""
    own = json.dumps({key: value for key, value in facts.items() if key != "sha256"}, sort_keys=True).encode()
    return hashlib.sha256(payload + own if facts["schema"] > 1 else payload).hexdigest()


def list_checkpoints(folder: Path) -> list[Path]:
    """The .pt paths of the checkpoints that have their JSON, newest first."""
    return sorted((path.with_suffix(".pt") for path in folder.glob("checkpoint-*.json")), reverse=True)


def remove_all(folder: Path) -> None:
    """Delete every checkpoint of a run, also one that was cut off and what write_atomic was in the middle of."""
    # In this order a JSON goes first: what is left of an interrupted removal does not count.
    for path in [*sorted(folder.glob("checkpoint-*")), *folder.glob(".*.part")]:
        path.unlink(missing_ok=True)


def load_newest(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """State and meta of the newest whole checkpoint, None for none; StorageError if there are some and all are bad."""
    found = list_checkpoints(folder)
    for path in found:
        meta = files.read_object(path.with_suffix(".json"))
        try:
            if meta["schema"] > SCHEMA:
                raise StorageError(f"of schema {meta['schema']}; this version of repro reads up to {SCHEMA}")
            payload = path.read_bytes()
            if digest(payload, meta) != meta["sha256"]:
                raise StorageError(f"damaged ({len(payload)} of {meta['bytes']} bytes, not of its sha256)")
            return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True), meta
        except Exception as error:  # torch's unpickler raises IndexError, AttributeError and others
            versions = meta.get("versions")
            writer = escape(str(versions.get("torch"))) if isinstance(versions, dict) else "of an unknown version"
            wrote = f"torch {writer} wrote it, this is {torch.__version__}"
            problem = error if isinstance(error, StorageError) else f"unreadable ({type(error).__name__}); {wrote}"
            logger.warning(f"{display_path(path)}: {problem}; not used")
    if found:
        raise StorageError(f"{display_path(folder)}: no usable checkpoint is left; resume=never starts this run over")
    return None


def previous_run(plan: Plan) -> Run:
    """The earlier run in a folder; ConfigError if it is another, StorageError where nothing is left to go on from."""
    folder, shown = plan.folder, display_path(plan.folder)
    content = [path for path in folder.iterdir() if not path.name.startswith(files.LOCK)]
    if plan.config.resume is Resume.never and content:
        places = (folder.with_name(f"{folder.name}.old-{number}") for number in count(1))
        aside = next(place for place in places if not place.exists())
        aside.mkdir()
        for path in content:
            path.rename(aside / path.name)
        logger.info(f"resume=never: the earlier run is now in {display_path(aside)}")
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


def restore(step: TrainStep, plan: Plan) -> dict[str, Any]:
    """Put the newest whole checkpoint into the step; {} for none, else its JSON and `rows`, the CSV files of then."""
    found = step.world.from_main(lambda: load_newest(plan.folder))
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


def difference_text(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The keys in which two configurations differ, as 'key: old, now new'; '' for none."""
    return "; ".join(f"{key}: {before}, now {now}" for key, (before, now) in sorted(difference(old, new).items()))
