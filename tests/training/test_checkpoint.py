"""Checkpoints give the state back; no damage, interruption, other version or hostile content passes."""

import hashlib
import json
import os
import pickle
from contextlib import suppress

import pytest
import torch

from repro.errors import StorageError
from repro.training import checkpoint


def state_of(iteration):
    return {"iteration": iteration, "weight": torch.full((300,), float(iteration)), "names": ["a", "b"]}


def save(folder, *iterations):
    for iteration in iterations:
        checkpoint.save(folder, iteration, state_of(iteration), {"utc": "now"})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def load(folder):
    state, meta = checkpoint.load_newest(folder)
    assert meta["iteration"] == state["iteration"]
    assert torch.equal(state["weight"], state_of(state["iteration"])["weight"])
    assert meta["utc"] == "now"
    return state["iteration"]


def test_a_checkpoint_is_one_file_and_its_json_and_the_last_two_stay(tmp_path):
    for iteration in (1, 2, 3):
        save(tmp_path, iteration)
        assert load(tmp_path) == iteration
    assert names(tmp_path) == [f"checkpoint-0000000{iteration}.{end}" for iteration in (2, 3) for end in ("json", "pt")]
    payload = (tmp_path / "checkpoint-00000003.pt").read_bytes()
    facts = {"schema": 2, "iteration": 3, "bytes": len(payload), "utc": "now"}
    assert json.loads((tmp_path / "checkpoint-00000003.json").read_text()) == facts | {
        "sha256": hashlib.sha256(payload + json.dumps(facts, sort_keys=True).encode()).hexdigest()}
    path = tmp_path / "checkpoint-00000003.json"  # of schema 1, which runs in progress may have
    path.write_text(json.dumps(facts | {"schema": 1, "sha256": hashlib.sha256(payload).hexdigest()}))
    assert load(tmp_path) == 3


@pytest.mark.parametrize("stop", range(5))
def test_a_save_that_is_interrupted_at_any_point_loses_no_checkpoint(tmp_path, monkeypatch, stop, caplog):
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
    assert load(tmp_path) == (2 if stop < 2 else 3)
    assert caplog.messages == []
    save(tmp_path, 4)
    assert load(tmp_path) == 4


@pytest.mark.fault(26)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped"])
def test_a_damaged_checkpoint_gives_one_message_and_the_one_before(tmp_path, damage, caplog):
    save(tmp_path, 1, 2)
    path = tmp_path / "checkpoint-00000002.pt"
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes({"missing": b"", "empty": b"", "cut": content[:-1], "flipped":
                      content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]}[damage])
    if damage == "missing":
        path.unlink()
    assert load(tmp_path) == 1
    line, = caplog.messages
    assert f"checkpoint-00000002.pt: {'unreadable' if damage == 'missing' else 'damaged'} (" in line
    assert line.endswith("; not used")


def test_a_full_disk_leaves_the_one_before_and_remove_all_leaves_nothing(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(path, value):
        raise StorageError("can't write")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_json", full)
        with pytest.raises(StorageError):
            save(tmp_path, 2)
    assert not list(tmp_path.glob("*00000002*")), "what was written of it would only take room"
    assert load(tmp_path) == 1
    (tmp_path / ".checkpoint-00000002.pt.0a1b.part").write_bytes(b"what a killed process was writing")
    (tmp_path / "checkpoint-00000003.pt").write_bytes(b"one that was cut off before its JSON")
    assert load(tmp_path) == 1
    (tmp_path / "run.json").write_text("{}")
    checkpoint.remove_all(tmp_path)
    assert names(tmp_path) == ["run.json"]


class Evil:
    """What would run a command where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.fault(28, 29)
@pytest.mark.parametrize(("content", "facts", "message"), [
    (pickle.dumps(Evil(), protocol=2), {}, "unreadable (UnpicklingError)"),
    (None, {"schema": 3}, "of schema 3; this version of repro reads up to 2"),
    (b"a form that this torch does not know", {"versions": {"torch": "99.0"}}, "torch 99.0 wrote it, this is "),
    (b"neither", {"versions": {"torch": "\x1b[2J"}}, r"torch \x1b[2J wrote it, this is "),
    (b"neither", {"versions": "2.11"}, "torch of an unknown version wrote it, this is ")])
def test_a_checkpoint_that_is_hostile_or_of_a_newer_version_is_refused(content, facts, message, tmp_path, caplog,
                                                                       monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path, 1)
    path = tmp_path / "checkpoint-00000001.pt"
    path.write_bytes(content or path.read_bytes())
    meta = json.loads(path.with_suffix(".json").read_text()) | facts  # with a hash that agrees
    path.with_suffix(".json").write_text(json.dumps(meta | {"sha256": checkpoint.digest(path.read_bytes(), meta)}))
    with pytest.raises(StorageError, match="no usable checkpoint is left; resume=never"):
        load(tmp_path)
    assert message in caplog.text
    assert not (tmp_path / "executed").exists()


@pytest.mark.fault(29)
def test_a_checkpoint_written_on_a_gpu_is_read_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    save(tmp_path, 1)
    assert b"cuda:0" in (tmp_path / "checkpoint-00000001.pt").read_bytes()
    assert load(tmp_path) == 1
