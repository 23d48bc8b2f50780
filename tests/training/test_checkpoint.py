"""Checkpoints in one file and in parts: both forms give the state back, and no damage or interruption passes."""

import errno
import hashlib
import json
import threading
from contextlib import suppress

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repro.errors import Stopped, StorageError
from repro.training import checkpoint, engine
from tests.made import tiny_config, tiny_data

CPU = torch.device("cpu")


def state_of(iteration):
    """A state that tells which iteration it is of."""
    return {"iteration": iteration, "weight": torch.full((300,), float(iteration)), "names": ["a", "b"]}


def saved(folder, *iterations, part_size=None):
    for iteration in iterations:
        checkpoint.save(folder, iteration, state_of(iteration), {"utc": "now"}, part_size)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def loaded(folder):
    """The iteration of the newest checkpoint, checked against all of its state, and the notes."""
    state, meta, notes = checkpoint.load_newest(folder, CPU)
    assert meta["iteration"] == state["iteration"]
    assert torch.equal(state["weight"], state_of(state["iteration"])["weight"])
    assert meta["utc"] == "now"
    return state["iteration"], notes


@pytest.fixture
def payload():
    return checkpoint.serialised(state_of(1))


# ---- what is written

def test_without_a_part_size_it_is_one_file_and_its_json(tmp_path, payload):
    saved(tmp_path, 1)
    assert names(tmp_path) == ["checkpoint-00000001.json", "checkpoint-00000001.pt"]
    assert (tmp_path / "checkpoint-00000001.pt").read_bytes() == payload
    facts = {"schema": 2, "iteration": 1, "bytes": len(payload), "utc": "now"}
    assert json.loads((tmp_path / "checkpoint-00000001.json").read_text()) == facts | {
        "sha256": hashlib.sha256(payload + json.dumps(facts, sort_keys=True).encode()).hexdigest()}


@pytest.mark.parametrize("part_size", [700, 1000, 10**6])
def test_parts_are_of_the_size_that_is_asked_for_and_joined_give_the_whole(tmp_path, payload, part_size):
    saved(tmp_path, 1, part_size=part_size)
    parts = sorted(tmp_path.glob("*.pt.*"))
    assert [path.name for path in parts] == [f"checkpoint-00000001.pt.{n:03d}" for n in range(len(parts))]
    assert [path.stat().st_size for path in parts[:-1]] == [part_size] * (len(parts) - 1)
    assert 0 < parts[-1].stat().st_size <= part_size
    assert b"".join(path.read_bytes() for path in parts) == payload
    meta = json.loads((tmp_path / "checkpoint-00000001.json").read_text())
    assert (meta["parts"], meta["bytes"]) == (len(parts), len(payload))
    assert not (tmp_path / "checkpoint-00000001.pt").exists()


def test_more_than_a_thousand_parts_are_joined_in_their_order(tmp_path, monkeypatch):
    content = bytes(number % 251 for number in range(1003))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomic", lambda path, data: path.write_bytes(data))  # no fsync: quicker
        checkpoint.write(tmp_path, 1, content, {}, 1)
    assert len(list(tmp_path.glob("*.pt.*"))) == 1003
    path, = checkpoint.list_checkpoints(tmp_path)
    assert checkpoint.read_payload(path, 1003) == content
    checkpoint.remove_all(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("part_size", [0, -5])
def test_a_part_size_below_one_byte_is_an_error_and_writes_nothing(tmp_path, part_size):
    with pytest.raises(ValueError, match="allowed is 1 or more"):
        saved(tmp_path, 1, part_size=part_size)
    assert names(tmp_path) == []


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(min_size=1, max_size=400), part_size=st.integers(1, 450))
def test_cutting_and_joining_give_the_same_bytes(tmp_path, content, part_size):
    checkpoint.write(tmp_path, 1, content, {}, part_size)
    path, = checkpoint.list_checkpoints(tmp_path)
    count = json.loads(path.with_suffix(".json").read_text())["parts"]
    assert checkpoint.read_payload(path, count) == content
    checkpoint.remove_all(tmp_path)
    assert names(tmp_path) == []


# ---- both forms in one folder

@pytest.mark.parametrize("sizes", [[None, 900, None, 900], [900, None, 900, None], [900, 700, 10**6, 800]])
def test_the_last_two_are_kept_whatever_their_form(tmp_path, sizes):
    for iteration, part_size in enumerate(sizes, start=1):
        saved(tmp_path, iteration, part_size=part_size)
        assert loaded(tmp_path) == (iteration, [])
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == [
        "checkpoint-00000004.pt", "checkpoint-00000003.pt"]
    assert {name.split(".")[0] for name in names(tmp_path)} == {"checkpoint-00000003", "checkpoint-00000004"}
    checkpoint.remove(checkpoint.list_checkpoints(tmp_path)[0])
    assert loaded(tmp_path) == (3, [])
    assert not list(tmp_path.glob("checkpoint-00000004*"))
    checkpoint.remove_all(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("first", [None, 700, 900])
@pytest.mark.parametrize("second", [None, 700, 900])
@pytest.mark.parametrize("stop", range(12))
def test_saving_an_iteration_again_in_another_form_never_loses_it(tmp_path, monkeypatch, first, second, stop):
    """Interrupted before any of its writes and deletions, the only checkpoint there is can be loaded."""
    class Killed(BaseException):
        pass
    saved(tmp_path, 1, part_size=first)
    calls = iter(range(100))

    def counted(function):
        def call(*arguments, **settings):
            if next(calls) == stop:
                raise Killed
            return function(*arguments, **settings)
        return call
    with monkeypatch.context() as patch:
        for name in ("write_atomic", "write_json"):
            patch.setattr(checkpoint, name, counted(getattr(checkpoint, name)))
        patch.setattr(checkpoint.Path, "unlink", counted(checkpoint.Path.unlink))
        try:
            saved(tmp_path, 1, part_size=second)
        except Killed:
            assert loaded(tmp_path) == (1, [])
    saved(tmp_path, 1, part_size=second)
    assert loaded(tmp_path) == (1, [])
    assert bool(list(tmp_path.glob("*.pt.*"))) == (second is not None)
    assert (tmp_path / "checkpoint-00000001.pt").exists() == (second is None)


# ---- damage

def damaged(path, damage):
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "missing":
        path.unlink()
        return
    path.write_bytes({"empty": b"", "cut": content[:-1], "longer": content + b"x", "flipped": content[:middle]
                      + bytes([content[middle] ^ 1]) + content[middle + 1 :]}[damage])


@pytest.mark.fault(26)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "longer", "flipped"])
@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_damaged_part_gives_one_message_and_the_one_before(tmp_path, damage, which):
    saved(tmp_path, 1)
    saved(tmp_path, 2, part_size=700)
    damaged(sorted(tmp_path.glob("*.pt.*"))[which], damage)
    iteration, notes = loaded(tmp_path)
    assert iteration == 1
    assert len(notes) == 1
    assert "checkpoint-00000002.pt: damaged (" in notes[0]
    assert notes[0].endswith("; not used")


def test_a_json_whose_files_are_all_gone_is_told_of(tmp_path):
    saved(tmp_path, 1, part_size=700)
    saved(tmp_path, 2)
    (tmp_path / "checkpoint-00000002.pt").unlink()
    iteration, notes = loaded(tmp_path)
    assert (iteration, len(notes)) == (1, 1)
    for part in tmp_path.glob("*.pt.*"):
        part.unlink()
    with pytest.raises(StorageError, match="no usable checkpoint is left; resume=never"):
        loaded(tmp_path)


@pytest.mark.parametrize("parts", [0, 1, 10**12, "3", None, -1])
def test_a_wrong_number_of_parts_is_refused(tmp_path, parts):
    saved(tmp_path, 1, part_size=700)
    path = tmp_path / "checkpoint-00000001.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"parts": parts}))
    with pytest.raises(StorageError, match="not used"):
        loaded(tmp_path)


def test_parts_without_their_json_do_not_count(tmp_path):
    saved(tmp_path, 1, 2, part_size=700)
    (tmp_path / "checkpoint-00000002.json").unlink()
    assert loaded(tmp_path) == (1, [])
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["checkpoint-00000001.pt"]


def test_a_full_disk_leaves_the_one_before_and_remove_all_leaves_nothing(tmp_path, monkeypatch):
    saved(tmp_path, 1, part_size=700)
    original, calls = checkpoint.write_atomic, iter(range(100))

    def full(path, data):
        if next(calls) == 2:
            raise StorageError("can't write") from OSError(errno.ENOSPC, "full")
        original(path, data)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomic", full)
        with pytest.raises(StorageError):
            saved(tmp_path, 2, part_size=700)
    assert not list(tmp_path.glob("*00000002*")), "what was written of it would only take room"
    assert loaded(tmp_path) == (1, [])
    (tmp_path / ".checkpoint-00000002.pt.002.part").write_bytes(b"what a killed process was writing")
    (tmp_path / "checkpoint-00000003.pt").write_bytes(b"a whole one that was cut off")
    (tmp_path / "run.json").write_text("{}")
    checkpoint.remove_all(tmp_path)
    assert names(tmp_path) == ["run.json"]


# ---- from elsewhere than the loop

def test_the_state_can_be_serialised_here_and_written_in_a_thread(tmp_path):
    folders = [tmp_path / str(n) for n in range(4)]

    def work(folder, content):
        for iteration in range(1, 6):
            checkpoint.write(folder, iteration, content[iteration], {"utc": "now"}, 700)
    content = {iteration: checkpoint.serialised(state_of(iteration)) for iteration in range(1, 6)}
    threads = [threading.Thread(target=work, args=(folder, content)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for folder in folders:
        assert loaded(folder) == (5, [])
        assert len(checkpoint.list_checkpoints(folder)) == 2


def test_what_is_serialised_is_the_state_of_that_moment():
    state = state_of(1)
    before = checkpoint.serialised(state)
    state["weight"].add_(1)
    assert before == checkpoint.serialised(state_of(1)) != checkpoint.serialised(state)


@pytest.fixture
def one_thread():
    """Quicker for networks this small, where others use the machine too."""
    threads = torch.get_num_threads()
    yield "machine.threads=1"
    torch.set_num_threads(threads)


def test_a_run_that_changes_the_form_midway_ends_bit_for_bit_like_one_left_alone(tmp_path, monkeypatch, one_thread):
    monkeypatch.setattr(engine, "load_data", lambda config, device: tiny_data())
    short = [one_thread, "train.iterations=8", "train.lr_drops=[3,6]", "evaluation.interval=8",
             "evaluation.responses=false", "evaluation.gradient_iterations=[]", "evaluation.batch_norm_images=0"]
    alone = engine.run(tiny_config(*short, f"results={tmp_path / 'alone'}"), say=lambda line: None)
    config = tiny_config(*short, f"results={tmp_path / 'cut'}")
    original, forms = checkpoint.save, []
    with monkeypatch.context() as patch:
        for steps, part_size in ((2, None), (1, 200_000), (2, 300_000), (1, None), (10**6, 200_000)):
            calls = iter(range(10**6))
            reason = property(lambda self, calls=calls, steps=steps: "SIGTERM" if next(calls) >= steps else None)
            patch.setattr(engine.StopRequest, "reason", reason)
            patch.setattr(checkpoint, "save", lambda *given, size=part_size: original(*given[:4], size))
            with suppress(Stopped):
                run = engine.run(config, say=lambda line: None)
            metas = [json.loads(path.with_suffix(".json").read_text())
                     for path in checkpoint.list_checkpoints(engine.run_folder(config))]
            forms.append([(meta["iteration"], "parts" in meta) for meta in metas])
    assert [found[:1] for found in forms] == [[(2, False)], [(3, True)], [(5, True)], [(6, False)], []]
    assert forms[1] == [(3, True), (2, False)], "both forms in one folder"
    assert (run.folder / "history.csv").read_bytes() == (alone.folder / "history.csv").read_bytes()
    ours, theirs = (torch.load(r.folder / "weights.pt", weights_only=True) for r in (run, alone))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not list(run.folder.glob("*checkpoint*"))
