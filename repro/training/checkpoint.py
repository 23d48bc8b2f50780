"""Checkpoints that are whole or not there: hashed, written atomically, the last two kept, loaded as plain data only.

A checkpoint is `checkpoint-<iteration>.pt` and, written after it, `checkpoint-<iteration>.json` with its hash. One
without its JSON was cut off while it was written and does not count.
"""

import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import torch

from repro.errors import StorageError
from repro.places import shown
from repro.runs import write_atomic, write_json

KEPT = 2


def save(folder: Path, iteration: int, state: dict[str, Any], meta: dict[str, Any]) -> None:
    """Write the state (tensors, numbers, strings, lists and dicts only) and its JSON; StorageError if that fails."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    path = folder / f"checkpoint-{iteration:08d}.pt"
    write_atomic(path, payload)
    write_json(path.with_suffix(".json"), {"iteration": iteration, "bytes": len(payload),
                                           "sha256": hashlib.sha256(payload).hexdigest(), **meta})
    for old in list_checkpoints(folder)[KEPT:]:
        remove(old)


def list_checkpoints(folder: Path) -> list[Path]:
    """The .pt files that have a JSON beside them, newest first."""
    return sorted((p for p in folder.glob("checkpoint-*.pt") if p.with_suffix(".json").is_file()), reverse=True)


def remove(path: Path) -> None:
    """Delete a checkpoint and its JSON, the JSON first: what is left of an interrupted removal does not count."""
    path.with_suffix(".json").unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def remove_all(folder: Path) -> None:
    """Delete every checkpoint of a run, also one that was cut off."""
    for path in folder.glob("checkpoint-*.pt"):
        remove(path)


def load_newest(folder: Path, device: torch.device) -> tuple[dict[str, Any], dict[str, Any], list[str]] | None:
    """State, meta and notes of the newest whole checkpoint, None where the run has none yet.

    Falls back to the one before with a note. StorageError if there are checkpoints and none can be used.
    """
    notes: list[str] = []
    candidates = list_checkpoints(folder)
    for path in candidates:
        try:
            state, meta = load(path, device)
        except StorageError as error:
            notes.append(str(error))
            continue
        return state, meta, notes
    if candidates:
        raise StorageError("\n".join([*notes, "no usable checkpoint is left; resume=never starts this run over"]))
    return None


def load(path: Path, device: torch.device) -> tuple[dict[str, Any], dict[str, Any]]:
    """One checkpoint: its hash is checked before it is read, only plain data is admitted; StorageError otherwise."""
    try:
        meta = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        payload = path.read_bytes()
        found = hashlib.sha256(payload).hexdigest()
        if found != meta["sha256"]:
            raise StorageError(f"{shown(path)}: damaged ({len(payload)} of {meta['bytes']} bytes, "
                               f"sha256 {found[:12]} instead of {meta['sha256'][:12]}); not used")
        return torch.load(io.BytesIO(payload), map_location=device, weights_only=True), meta
    except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise StorageError(f"{shown(path)}: unreadable checkpoint ({type(error).__name__}); not used") from error


def write_weights(path: Path, model: torch.nn.Module) -> None:
    """Write a network's plain state_dict, on the CPU and contiguous."""
    buffer = io.BytesIO()
    torch.save({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, buffer)
    write_atomic(path, buffer.getvalue())
