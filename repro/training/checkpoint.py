"""Checkpoints that are whole or not there: hashed, written atomically beside the training, loaded as plain data only.

A checkpoint is `checkpoint-<iteration>.pt` and, written after it, `checkpoint-<iteration>.json` with what else a resume
needs and one hash over both. One without its JSON was cut off while it was written and does not count. The last two
are kept.
"""

import functools
import hashlib
import io
import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from repro import weights
from repro.devices import new_stream
from repro.errors import StorageError
from repro.files import read_json, write_atomic, write_json
from repro.paths import display_path
from repro.schema import RunConfig

KEPT = 2
SCHEMA = 2  # of the form described above; 1 had the hash of the .pt alone. One that needs a newer reader says so


def save(folder: Path, iteration: int, state: dict[str, Any], meta: dict[str, Any]) -> None:
    """Write the state (tensors, numbers, strings, lists and dicts only) and its JSON, and keep the last two.

    StorageError if that fails.
    """
    path, payload = folder / f"checkpoint-{iteration:08d}.pt", serialize(state)
    facts = {"schema": SCHEMA, "iteration": iteration, "bytes": len(payload)} | meta
    try:
        write_atomic(path, payload)
        write_json(path.with_suffix(".json"), facts | {"sha256": digest(payload, facts)})
    except StorageError:
        if not path.with_suffix(".json").is_file():
            remove(path)  # it would only take room that is needed
        raise
    for old in list_checkpoints(folder)[KEPT:]:
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


def load_newest(folder: Path, device: torch.device) -> tuple[dict[str, Any], dict[str, Any], list[str]] | None:
    """State, meta and notes of the newest whole checkpoint, None where the run has none yet.

    Falls back to the one before with a note. StorageError if there are checkpoints and none can be used.
    """
    notes: list[str] = []
    for path in list_checkpoints(folder):
        try:
            return *load(path, device), notes
        except StorageError as error:
            notes.append(f"{display_path(path)}: {error}; not used")
    if notes:
        raise StorageError("\n".join([*notes, "no usable checkpoint is left; resume=never starts this run over"]))
    return None


def load(path: Path, device: torch.device) -> tuple[dict[str, Any], dict[str, Any]]:
    """One checkpoint: its hash is checked before it is read, only plain data is admitted; StorageError otherwise."""
    other = ""
    try:
        meta = read_json(path.with_suffix(".json"))
        if meta["schema"] > SCHEMA:
            raise StorageError(f"written by a newer version of repro (checkpoints of schema {meta['schema']}; this "
                               f"version reads up to {SCHEMA})")
        payload = path.read_bytes()
        found = digest(payload, meta)
        if found != meta["sha256"]:
            raise StorageError(f"damaged ({len(payload)} of {meta['bytes']} bytes, sha256 {found[:12]} instead of "
                               f"{meta['sha256'][:12]})")
        written = meta.get("versions", {}).get("torch")
        if written != torch.__version__:
            other = f"; it was written with torch {written}, this is {torch.__version__}"
        return torch.load(io.BytesIO(payload), map_location=device, weights_only=True), meta
    except StorageError:
        raise
    except Exception as error:  # torch's unpickler raises IndexError, AttributeError and others on what it can't read
        raise StorageError(f"unreadable checkpoint ({type(error).__name__}{other})") from error


def write_weights(path: Path, model: torch.nn.Module, config: RunConfig) -> str:
    """Write a network's plain state_dict, on the CPU and contiguous, with its settings; the SHA-256 of the file."""
    payload = weights.serialize(model.state_dict(), weights.facts_of(config))
    write_atomic(path, payload)
    return hashlib.sha256(payload).hexdigest()


@torch.no_grad()
def snapshot(state: dict[str, Any], device: torch.device) -> Callable[[], Any]:
    """Copy a state as it is now; what is returned brings the copy to the CPU. On CUDA the host does not wait."""
    copy = tree_map_only(Tensor, torch.clone, state)
    if device.type != "cuda":
        return lambda: tree_map_only(Tensor, Tensor.cpu, copy)
    taken = torch.cuda.current_stream(device).record_event()

    def fetch() -> Any:
        stream = fetching_stream(device)  # its own waits for the copy, and for nothing that was queued after it
        stream.wait_event(taken)
        with torch.cuda.stream(stream):
            return tree_map_only(Tensor, Tensor.cpu, copy)
    return fetch


@functools.cache
def fetching_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all snapshots: torch has few, and one of a captured graph must not be met again."""
    return new_stream(device)


class Writer:
    """One thread that does one piece of work at a time; its error is raised where the next call looks."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="repro-writer")
        self.last: Future[None] | None = None

    def busy(self) -> bool:
        """Whether work is still being done; raises the error of work that failed."""
        if self.last is not None and self.last.done():
            self.finish()
        return self.last is not None

    def start(self, work: Callable[[], None]) -> None:
        """Begin this work when what went before is done."""
        self.finish()
        self.last = self.pool.submit(work)

    def finish(self) -> None:
        """Wait until all is done; raises the error of work that failed."""
        last, self.last = self.last, None
        if last is not None:
            last.result()
