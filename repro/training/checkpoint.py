"""Checkpoints that are whole or not there: hashed, written atomically, the last two kept, loaded as plain data only.

A checkpoint is `checkpoint-<iteration>.pt`, or `checkpoint-<iteration>.pt.000`, `.001`, ... where parts of a limited
size are asked for, and, written after them, `checkpoint-<iteration>.json` with what else a resume needs and one hash
over both. One without its JSON was cut off while it was written and does not count. Whichever form it has, it is called
by the path of the .pt.
"""

import hashlib
import io
import json
import re
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch.torch_version import TorchVersion

from repro.errors import StorageError
from repro.evaluation.weight_files import labelled
from repro.places import shown
from repro.runs import read_json, write_atomic, write_json
from repro.schema import RunConfig

KEPT = 2
SCHEMA = 2  # of the form described above; 1 had the hash of the .pt alone. One that needs a newer reader says so


def save(folder: Path, iteration: int, state: dict[str, Any], meta: dict[str, Any],
         part_size: int | None = None) -> None:
    """Write the state (tensors, numbers, strings, lists and dicts only) and its JSON; StorageError if that fails.

    With `part_size` (bytes) the state is cut into parts of at most that size.
    """
    write(folder, iteration, serialised(state), meta, part_size)


def serialised(state: dict[str, Any]) -> bytes:
    """The state as it stands now in the bytes of a .pt file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def write(folder: Path, iteration: int, payload: bytes, meta: dict[str, Any], part_size: int | None = None) -> None:
    """Write a serialised state and its JSON, then drop all but the last two checkpoints.

    StorageError if that fails, ValueError for a part size below 1 byte.
    """
    if part_size is not None and part_size < 1:
        raise ValueError(f"part_size={part_size}: allowed is 1 or more")
    path = folder / f"checkpoint-{iteration:08d}.pt"
    facts = {"schema": SCHEMA, "iteration": iteration, "bytes": len(payload)}
    if part_size is not None and path.with_suffix(".json").is_file() and part_files(path):
        # The same iteration once more: parts of another size would not fit the JSON while they are exchanged. By way
        # of the whole file one of the two forms is complete at any moment.
        write_form(path, payload, facts | meta, None)
    try:
        write_form(path, payload, facts | meta, part_size)
    except StorageError:
        if not path.with_suffix(".json").is_file():
            remove(path)  # it would only take room that is needed
        raise
    for old in list_checkpoints(folder)[KEPT:]:
        remove(old)


def write_form(path: Path, payload: bytes, facts: dict[str, Any], part_size: int | None) -> None:
    """Write one file or its parts, then the JSON that makes them count, then drop the other form of it."""
    if part_size is None:
        files = {path: payload}
    else:
        starts = range(0, len(payload), part_size)
        files = {part_file(path, n): payload[start : start + part_size] for n, start in enumerate(starts)}
        facts = facts | {"parts": len(files)}
    for file, content in files.items():
        write_atomic(file, content)
    write_json(path.with_suffix(".json"), facts | {"sha256": digest(payload, facts)})
    for other in {path, *part_files(path)} - files.keys():
        other.unlink(missing_ok=True)


def digest(payload: bytes, facts: dict[str, Any]) -> str:
    """SHA-256 of all that a resume trusts: a checkpoint's bytes and the facts of its JSON, its own hash aside."""
    found = hashlib.sha256(payload)
    if facts["schema"] > 1:
        found.update(json.dumps({key: value for key, value in facts.items() if key != "sha256"},
                                sort_keys=True).encode())
    return found.hexdigest()


def part_file(path: Path, number: int) -> Path:
    """Where a part of the checkpoint `path` lies, counted from 0."""
    return path.with_name(f"{path.name}.{number:03d}")


def part_files(path: Path) -> list[Path]:
    """All parts of the checkpoint `path` that are there, also left over ones."""
    return [part for part in path.parent.glob(f"{path.name}.*") if re.fullmatch(r"\.[0-9]{3,}", part.suffix)]


def list_checkpoints(folder: Path) -> list[Path]:
    """The .pt paths of the checkpoints that have their JSON, in one file or in parts, newest first."""
    return sorted((path.with_suffix(".pt") for path in folder.glob("checkpoint-*.json")), reverse=True)


def remove(path: Path) -> None:
    """Delete a checkpoint and its JSON, the JSON first: what is left of an interrupted removal does not count."""
    path.with_suffix(".json").unlink(missing_ok=True)
    for file in (path, *part_files(path)):
        file.unlink(missing_ok=True)


def remove_all(folder: Path) -> None:
    """Delete every checkpoint of a run, also one that was cut off and what write_atomic was in the middle of."""
    for path in list_checkpoints(folder):
        remove(path)
    for pattern in ("checkpoint-*.pt", "checkpoint-*.pt.[0-9]*", ".*.part"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


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
        meta = read_json(path.with_suffix(".json"))
        if meta["schema"] > SCHEMA:
            raise StorageError(f"{shown(path)}: written by a newer version of repro (checkpoints of schema "
                               f"{meta['schema']}; this version reads up to {SCHEMA}); not used")
        payload = read_payload(path, meta.get("parts"))
        found = digest(payload, meta)
        if found != meta["sha256"]:
            raise StorageError(f"{shown(path)}: damaged ({len(payload)} of {meta['bytes']} bytes, "
                               f"sha256 {found[:12]} instead of {meta['sha256'][:12]}); not used")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{shown(path)}: unreadable checkpoint ({type(error).__name__}); not used") from error
    try:
        return torch.load(io.BytesIO(payload), map_location=device, weights_only=True), meta
    except Exception as error:  # torch's unpickler raises IndexError, AttributeError and others on what it can't read
        raise StorageError(f"{shown(path)}: unreadable checkpoint ({type(error).__name__}{newer_torch(meta)}); "
                           "not used") from error


def newer_torch(meta: dict[str, Any]) -> str:
    """What to add where a checkpoint was written with a newer torch than this one; '' otherwise."""
    written = str((meta.get("versions") or {}).get("torch", ""))
    try:
        newer = TorchVersion(written) > TorchVersion(torch.__version__)
    except ValueError:
        return ""
    return f"; it was written with torch {written}, this is {torch.__version__}" if newer else ""


def read_payload(path: Path, parts: int | None) -> bytes:
    """The bytes of a checkpoint in one file (None) or in so many parts, up to the first part that is missing."""
    if parts is None:
        return path.read_bytes()
    files = (part_file(path, number) for number in range(parts))
    return b"".join(file.read_bytes() for file in takewhile(Path.is_file, files))


def write_weights(path: Path, model: torch.nn.Module, config: RunConfig) -> str:
    """Write a network's plain state_dict, on the CPU and contiguous, with its settings; the SHA-256 of the file."""
    buffer = io.BytesIO()
    torch.save(labelled(model.state_dict(), config), buffer)
    write_atomic(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()
