"""Checkpoints give the state back, no damage or interruption passes, and they are written beside the training."""

import errno
import hashlib
import json
import threading
from contextlib import suppress

import pytest
import torch

from repro.errors import StorageError
from repro.training import checkpoint
from repro.training.checkpoint import Writer, snapshot

CPU = torch.device("cpu")


def state_of(iteration):
    """A state that tells which iteration it is of."""
    return {"iteration": iteration, "weight": torch.full((300,), float(iteration)), "names": ["a", "b"]}


def save(folder, *iterations):
    for iteration in iterations:
        checkpoint.save(folder, iteration, state_of(iteration), {"utc": "now"})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def load(folder):
    """The iteration of the newest checkpoint, checked against all of its state, and the notes."""
    state, meta, notes = checkpoint.load_newest(folder, CPU)
    assert meta["iteration"] == state["iteration"]
    assert torch.equal(state["weight"], state_of(state["iteration"])["weight"])
    assert meta["utc"] == "now"
    return state["iteration"], notes


def test_a_checkpoint_is_one_file_and_its_json_and_the_last_two_stay(tmp_path):
    for iteration in (1, 2, 3):
        save(tmp_path, iteration)
        assert load(tmp_path) == (iteration, [])
    assert names(tmp_path) == [f"checkpoint-0000000{iteration}.{end}" for iteration in (2, 3) for end in ("json", "pt")]
    payload = checkpoint.serialize(state_of(3))
    assert (tmp_path / "checkpoint-00000003.pt").read_bytes() == payload
    facts = {"schema": 2, "iteration": 3, "bytes": len(payload), "utc": "now"}
    assert json.loads((tmp_path / "checkpoint-00000003.json").read_text()) == facts | {
        "sha256": hashlib.sha256(payload + json.dumps(facts, sort_keys=True).encode()).hexdigest()}


def test_a_checkpoint_of_schema_1_is_read(tmp_path):
    save(tmp_path, 1)
    path = tmp_path / "checkpoint-00000001.json"
    sha256 = hashlib.sha256(path.with_suffix(".pt").read_bytes()).hexdigest()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 1, "sha256": sha256}))
    assert load(tmp_path) == (1, [])


@pytest.mark.parametrize("stop", range(8))
def test_a_save_that_is_interrupted_at_any_point_loses_no_checkpoint(tmp_path, monkeypatch, stop):
    class Killed(BaseException):
        pass
    save(tmp_path, 1, 2)
    calls = iter(range(100))

    def count(function):
        def call(*arguments, **settings):
            if next(calls) == stop:
                raise Killed
            return function(*arguments, **settings)
        return call
    with monkeypatch.context() as patch, suppress(Killed):
        for name in ("write_atomic", "write_json"):
            patch.setattr(checkpoint, name, count(getattr(checkpoint, name)))
        patch.setattr(checkpoint.Path, "unlink", count(checkpoint.Path.unlink))
        save(tmp_path, 3)
    iteration, notes = load(tmp_path)
    assert iteration == (2 if stop < 2 else 3)
    assert notes == []
    save(tmp_path, 4)
    assert load(tmp_path) == (4, [])


@pytest.mark.fault(26)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "longer", "flipped"])
def test_a_damaged_checkpoint_gives_one_message_and_the_one_before(tmp_path, damage):
    save(tmp_path, 1, 2)
    path = tmp_path / "checkpoint-00000002.pt"
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes({"missing": b"", "empty": b"", "cut": content[:-1], "longer": content + b"x", "flipped":
                      content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]}[damage])
    if damage == "missing":
        path.unlink()
    iteration, notes = load(tmp_path)
    assert (iteration, len(notes)) == (1, 1)
    assert f"checkpoint-00000002.pt: {'unreadable checkpoint' if damage == 'missing' else 'damaged'} (" in notes[0]
    assert notes[0].endswith("; not used")


@pytest.mark.fault(26)
def test_no_usable_checkpoint_is_an_error(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "checkpoint-00000001.pt").unlink()
    with pytest.raises(StorageError, match="no usable checkpoint is left; resume=never"):
        load(tmp_path)


def test_a_full_disk_leaves_the_one_before_and_remove_all_leaves_nothing(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(path, value):
        raise StorageError("can't write") from OSError(errno.ENOSPC, "full")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_json", full)
        with pytest.raises(StorageError):
            save(tmp_path, 2)
    assert not list(tmp_path.glob("*00000002*")), "what was written of it would only take room"
    assert load(tmp_path) == (1, [])
    (tmp_path / ".checkpoint-00000002.pt.0a1b.part").write_bytes(b"what a killed process was writing")
    (tmp_path / "checkpoint-00000003.pt").write_bytes(b"one that was cut off before its JSON")
    assert load(tmp_path) == (1, [])
    (tmp_path / "run.json").write_text("{}")
    checkpoint.remove_all(tmp_path)
    assert names(tmp_path) == ["run.json"]


# ---- written beside the training

def test_a_snapshot_is_of_the_moment_when_it_was_taken():
    state = {"a": torch.zeros(3), "list": [torch.ones(2)], "n": 7}
    fetch = snapshot(state, CPU)
    state["a"].add_(1)
    state["list"][0].zero_()
    found = fetch()
    assert found["a"].tolist() == [0, 0, 0]
    assert found["list"][0].tolist() == [1, 1]
    assert found["n"] == 7


def test_work_is_done_beside_the_caller_one_at_a_time():
    gate, done = threading.Event(), []
    writer = Writer()
    assert not writer.busy()
    writer.start(lambda: (gate.wait(10), done.append(1)))
    assert writer.busy()
    assert done == []
    gate.set()
    writer.start(lambda: done.append(2))
    writer.finish()
    assert done == [1, 2]
    assert not writer.busy()


@pytest.mark.parametrize("look", ["busy", "start", "finish"])
def test_an_error_of_the_work_is_raised_where_the_caller_looks_next(look):
    def fail():
        raise StorageError("disk full")
    writer = Writer()
    writer.start(fail)
    writer.last.exception()  # waits
    with pytest.raises(StorageError, match="disk full"):
        writer.start(print) if look == "start" else getattr(writer, look)()
    writer.finish()  # told once

