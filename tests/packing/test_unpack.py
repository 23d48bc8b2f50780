"""`repro unpack`: which run stays, that it comes in one step, and real runs that go on elsewhere bit for bit."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from repro import runs
from repro.errors import Stopped, StorageError
from repro.packing import unpack as unpacking
from repro.packing.pack import pack
from repro.training import checkpoint, engine
from tests.made import tiny_config, tiny_data
from tests.outcome import says
from tests.packing.made import NAME, files, made_pack, tree, write_run

FOLDER = f"runs/{NAME}"


def can_exchange() -> bool:
    """Whether the file system of temporary folders can swap two folders."""
    with tempfile.TemporaryDirectory() as left, tempfile.TemporaryDirectory() as right:
        try:
            unpacking.exchange(Path(left), Path(right))
        except OSError:
            return False
    return True


replaces = pytest.mark.skipif(not can_exchange(), reason="this file system can't exchange two folders")


def run_tree(content: dict[str, bytes]) -> dict[str, bytes]:
    """What a results folder holds that has this run and nothing else."""
    return {f"{FOLDER}/{name}": data for name, data in content.items()}


@pytest.fixture
def results(tmp_path) -> Path:
    return tmp_path / "results"


# ---- which run stays

def test_a_run_that_is_not_here_is_put_here_and_twice_is_harmless(direct, results, tmp_path):
    made_pack(tmp_path / "pack", files(10))
    done = direct("unpack", "pack")
    assert (done.code, done.out) == (0, f"{NAME}: unpacked, interrupted at iteration 10\n")
    assert tree(results) == run_tree(files(10))
    again = direct("unpack", "pack")
    assert again.code == 0
    assert "kept as it is here, interrupted at iteration 10 (packed: interrupted at iteration 10)" in again.out
    assert tree(results) == run_tree(files(10))


def test_the_mean_image_and_the_tests_of_a_run_go_with_it(direct, tmp_path, monkeypatch):
    """What it takes to test the weights elsewhere, and to make an ensemble of what is tested."""
    carried = {"mean.npz": b"mean", "evaluations/ten_crop.json": b"{}", "evaluations/ten_crop.npy": b"rows" * 200,
               "evaluations/ten_crop.labels.npy": b"labels"}
    folder = write_run(tmp_path / "there", files(20, "finished"))
    (folder / "evaluations" / "center.lock").mkdir(parents=True)
    for name, data in {**carried, "evaluations/center.json": b"{}", "evaluations/center.npy": b"of one in progress",
                       "evaluations/notes.txt": b"mine"}.items():
        (folder / name).write_bytes(data)
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "there"))
    assert direct("pack", "pack", "part_size=1K").code == 0
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "here"))
    assert direct("unpack", "pack").code == 0
    assert tree(tmp_path / "here") == run_tree(files(20, "finished") | carried)


FURTHER = [(10, "interrupted"), (15, "running"), (20, "interrupted"), (20, "finished")]


@replaces
@pytest.mark.parametrize("here", FURTHER)
@pytest.mark.parametrize("packed", FURTHER)
def test_the_further_run_stays_and_finished_is_the_furthest(direct, results, tmp_path, here, packed):
    write_run(results, files(*here))
    made_pack(tmp_path / "pack", files(*packed))
    done = direct("unpack", "pack")
    assert done.code == 0, done
    taken = FURTHER.index(packed) > FURTHER.index(here)
    assert tree(results) == run_tree(files(*(packed if taken else here)))
    assert ("unpacked" in done.out, "kept" in done.out) == (taken, not taken)


@replaces
def test_a_finished_run_that_is_torn_here_is_replaced_by_a_whole_one(direct, results, tmp_path):
    write_run(results, files(20, "finished") | {"history.csv": b"torn"})
    made_pack(tmp_path / "pack", files(20, "finished"))
    assert direct("unpack", "pack").code == 0
    assert tree(results) == run_tree(files(20, "finished"))


@pytest.mark.parametrize("changes", [{"identity": "ba9876543210"}, {"seed": 1}, {"experiment": "cifar_plain20"}])
@pytest.mark.parametrize("iteration", [5, 20])
def test_another_run_in_the_place_is_2_and_nothing_changes(direct, results, tmp_path, changes, iteration):
    write_run(results, files(iteration, **changes))
    before = tree(results)
    made_pack(tmp_path / "pack", files(10))
    says(direct("unpack", "pack"), 2, "results/runs/", "the packed one is of cifar_resnet20, 0123456789ab, seed 0")
    assert tree(results) == before


def test_two_finished_runs_with_different_histories_are_2_and_nothing_changes(direct, results, tmp_path):
    other = files(20, "finished")
    other["history.csv"] = other["history.csv"].replace(b"82.5", b"82.6")
    write_run(results, other)
    made_pack(tmp_path / "pack", files(20, "finished"))
    says(direct("unpack", "pack"), 2, "their history.csv differ")
    assert tree(results) == run_tree(other)


def test_a_run_that_cannot_be_read_here_is_5_and_left_alone(direct, results, tmp_path):
    write_run(results, files(10) | {"run.json": b"{"})
    made_pack(tmp_path / "pack", files(20))
    says(direct("unpack", "pack"), 5, "holds no readable run", "move it away")
    assert tree(results) == run_tree(files(10) | {"run.json": b"{"})


def test_a_run_in_progress_here_is_7_and_nothing_changes(direct, results, tmp_path):
    made_pack(tmp_path / "pack", files(20))
    folder = write_run(results, files(10))
    with runs.locked(folder):
        says(direct("unpack", "pack"), 7, "in progress by pid")
        assert (folder / runs.LOCK).is_file()
    assert tree(results) == run_tree(files(10))


def test_a_conflict_of_one_run_leaves_all_runs_as_they_were(direct, results, tmp_path):
    name = "cifar_resnet20@0123456789ab/seed5"
    write_run(tmp_path / "there", files(20))
    write_run(tmp_path / "there", files(20, seed=5), name)
    pack(tmp_path / "pack", tmp_path / "there", [], None, lambda line: None)
    write_run(results, files(20, seed=6), name)
    before = tree(results)
    says(direct("unpack", "pack"), 2, "seed 6", "seed 5")
    assert tree(results) == before
    shutil.rmtree(results / "runs" / name)
    assert direct("unpack", "pack").code == 0
    assert tree(results) == tree(tmp_path / "there")


@replaces
def test_what_no_pack_holds_stays_with_the_run_and_old_checkpoints_go(direct, results, tmp_path):
    folder = write_run(results, files(10) | {"notes.txt": b"mine", ".history.csv.part": b"torn"})
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "events").write_bytes(b"1")
    made_pack(tmp_path / "pack", files(20))
    assert direct("unpack", "pack").code == 0
    assert tree(results) == run_tree(files(20) | {"notes.txt": b"mine", "tensorboard/events": b"1"})


@replaces
def test_a_run_folder_that_is_a_link_to_another_disk_stays_one(direct, results, tmp_path):
    real = write_run(tmp_path / "disk", files(10))
    (results / "runs").mkdir(parents=True)
    (results / "runs" / NAME.split("/")[0]).symlink_to(real.parent)
    made_pack(tmp_path / "pack", files(20))
    assert direct("unpack", "pack").code == 0
    assert tree(tmp_path / "disk") == run_tree(files(20))
    assert (results / "runs" / NAME.split("/")[0]).is_symlink()


# ---- in one step

KILL = """
import os, signal, sys
from pathlib import Path
from repro.packing import unpack as unpacking

def killed(original, when, at, calls=[]):
    def call(*arguments):
        calls.append(1)
        if when == "before" and len(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments)
        if when == "after" and len(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

folder, results, name, when, at = sys.argv[1:]
owner = os if name == "fsync" else unpacking
setattr(owner, name, killed(getattr(owner, name), when, int(at)))
unpacking.unpack(Path(folder), Path(results), print)
"""
POINTS = [("fsync", "before", 1, "old"), ("fsync", "before", 5, "old"), ("extract", "after", 1, "old"),
          ("check_record", "after", 1, "old"), ("exchange", "before", 1, "old"), ("exchange", "after", 1, "new"),
          ("clear", "before", 2, "new"), ("clear", "after", 2, "new")]


@replaces
@pytest.mark.parametrize(("name", "when", "at", "expected"), POINTS)
@pytest.mark.parametrize("here", [True, False])
def test_killed_in_the_middle_either_the_old_or_the_new_run_is_there(direct, results, tmp_path, name, when, at,
                                                                    expected, here):
    old = files(10) | {"notes.txt": b"mine"} if here else {}
    if here:
        write_run(results, old)
    made_pack(tmp_path / "pack", files(20))
    done = subprocess.run([sys.executable, "-c", KILL, "pack", str(results), name, when, str(at)], cwd=tmp_path,
                          capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": os.pathsep.join(
                              sys.path)})
    assert done.returncode == -signal.SIGKILL, done
    found = tree(results / FOLDER)
    found.pop(runs.LOCK)
    mine = found.pop("notes.txt", None)  # follows after the exchange, at the latest with the next unpack
    assert found == ({name: data for name, data in old.items() if name != "notes.txt"} if expected == "old"
                     else files(20))
    assert mine == (b"mine" if here and (expected, name, when) != ("new", "exchange", "after")
                    and (name, when) != ("clear", "before") else None)
    assert [run.folder.name for run in runs.scan(results / "runs")] == ["seed0"], "what lies beside is no run"
    again = direct("unpack", "pack")
    assert again.code == 0, again
    assert "took over the lock of pid" in again.out
    assert tree(results) == run_tree(files(20) | ({"notes.txt": b"mine"} if here else {})), "and nothing beside it"


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("failing", ["fsync", "open", "exchange"])
def test_a_failing_disk_leaves_what_was_here(direct, results, tmp_path, monkeypatch, here, failing):
    if here:
        write_run(results, files(10))
    before = tree(results)
    made_pack(tmp_path / "pack", files(20))

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        if failing == "open":
            original = Path.open
            patch.setattr(Path, "open", lambda path, mode="r", *more, **kinds: full() if mode == "xb" else
                          original(path, mode, *more, **kinds))
        else:
            patch.setattr(*{"fsync": (runs.os, "fsync"), "exchange": (unpacking, "exchange")}[failing], full)
        says(direct("unpack", "pack"), 5, "No space left on device")
    assert tree(results) == (before or {"runs/": b""})
    assert direct("unpack", "pack").code == 0


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EINVAL])
def test_a_file_system_that_cannot_exchange_folders_takes_new_runs_only(direct, results, tmp_path, monkeypatch, code):
    def impossible(*arguments):
        raise OSError(code, os.strerror(code))
    monkeypatch.setattr(unpacking, "exchange", impossible)
    made_pack(tmp_path / "pack", files(10))
    assert direct("unpack", "pack").code == 0
    assert tree(results) == run_tree(files(10))
    made_pack(tmp_path / "further", files(20))
    says(direct("unpack", "further"), 5, "can't put the packed run in the place of", "move that folder away")
    assert tree(results) == run_tree(files(10))
    shutil.rmtree(results)
    assert direct("unpack", "further").code == 0
    assert tree(results) == run_tree(files(20))


def test_without_exchange_a_run_that_begins_meanwhile_is_7(results, tmp_path, monkeypatch, direct):
    def begun(left, right):
        (right / "config.yaml").write_text("another process")
        raise OSError(errno.ENOSYS, "not implemented")
    monkeypatch.setattr(unpacking, "exchange", begun)
    made_pack(tmp_path / "pack", files(10))
    says(direct("unpack", "pack"), 7, "another process began this run just now")
    assert tree(results) == run_tree({"config.yaml": b"another process"})


def test_a_system_without_the_function_says_so_by_its_error_number(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.ctypes, "CDLL", lambda *arguments, **settings: object())
    with pytest.raises(OSError, match="not implemented") as caught:
        unpacking.exchange(tmp_path, tmp_path)
    assert caught.value.errno in unpacking.NO_EXCHANGE


@replaces
def test_exchange_swaps_two_folders_or_names_the_error(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    unpacking.exchange(tmp_path / "a", tmp_path / "b")
    assert sorted(tree(tmp_path)) == ["a/b", "b/a"]
    with pytest.raises(FileNotFoundError):
        unpacking.exchange(tmp_path / "a", tmp_path / "none")


@replaces
def test_the_lock_is_held_from_before_to_after_the_exchange(results, tmp_path, monkeypatch, direct):
    folder = write_run(results, files(10))
    made_pack(tmp_path / "pack", files(20))
    tried = []

    def watched(original):
        def call(*arguments):
            original(*arguments)
            with pytest.raises(runs.InUseError), runs.locked(folder):
                pass
            tried.append(1)
        return call
    for name in ("extract", "exchange", "clear"):
        monkeypatch.setattr(unpacking, name, watched(getattr(unpacking, name)))
    assert direct("unpack", "pack").code == 0
    assert len(tried) == 4
    with runs.locked(folder) as note:
        assert note is None


# ---- real runs

def silent(line):
    """Swallow what is said."""


@pytest.fixture
def stop_at(monkeypatch):
    """Make the next runs stop after so many steps of theirs; on made-up data."""
    monkeypatch.setattr(engine, "load_data", lambda config, device: tiny_data())
    threads = torch.get_num_threads()

    def set_limit(steps):
        calls = iter(range(10**6))
        reason = property(lambda self: "SIGTERM" if next(calls) >= steps else None)
        monkeypatch.setattr(engine.StopRequest, "reason", reason)
    yield set_limit
    torch.set_num_threads(threads)


def tiny(results, *overrides):
    return tiny_config("train.iterations=8", "train.lr_drops=[3,6]", "evaluation.interval=4", "machine.threads=1",
                       "evaluation.batch_norm_images=0", "evaluation.responses=false", f"results={results}", *overrides)


@replaces
def test_a_run_that_is_carried_there_and_back_ends_bit_for_bit_like_one_left_alone(stop_at, tmp_path):
    stop_at(10**6)
    alone = engine.run(tiny(tmp_path / "alone"), say=silent)
    for number, (place, steps) in enumerate([("home", 3), ("away", 2), ("home", 10**6)]):
        stop_at(steps)
        if number:
            carried, before = tmp_path / f"pack{number}", {1: "home", 2: "away"}[number]
            pack(carried, tmp_path / before, [], 100_000, silent)
            assert len(list(carried.glob("pack-*"))) > 3
            assert max(path.stat().st_size for path in carried.glob("pack-*")) == 100_000
            unpacking.unpack(carried, tmp_path / place, silent)
            newest = checkpoint.list_checkpoints(engine.run_folder(tiny(tmp_path / place)))[0]
            assert newest.name == f"checkpoint-{[3, 5][number - 1]:08d}.pt"
        if number == 2:
            run = engine.run(tiny(tmp_path / place), say=silent)
        else:
            with pytest.raises(Stopped):
                engine.run(tiny(tmp_path / place), say=silent)
    assert (run.folder / "history.csv").read_bytes() == (alone.folder / "history.csv").read_bytes()
    ours, theirs = (torch.load(r.folder / "weights.pt", weights_only=True) for r in (run, alone))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert len(run.record["sessions"]) == 3
    assert len(alone.record["sessions"]) == 1


def test_a_carried_run_that_lost_its_checkpoint_would_be_noticed(stop_at, tmp_path):
    """Negative control: what goes on elsewhere goes on from the packed checkpoint and from nothing else."""
    stop_at(2)
    with pytest.raises(Stopped):
        engine.run(tiny(tmp_path / "home"), say=silent)
    pack(tmp_path / "pack", tmp_path / "home", [], None, silent)
    unpacking.unpack(tmp_path / "pack", tmp_path / "away", silent)
    checkpoint.remove_all(engine.run_folder(tiny(tmp_path / "away")))
    with pytest.raises(StorageError, match="its checkpoints are gone"):
        engine.run(tiny(tmp_path / "away"), say=silent)


def test_the_commands_carry_a_real_run_with_a_checkpoint_in_parts(here, stop_at, tmp_path, monkeypatch):
    original = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *given: original(*given[:4], 200_000))
    stop_at(3)
    config = tiny(tmp_path / "results")
    with pytest.raises(Stopped):
        engine.run(config, say=silent)
    done = here("pack", "out", "part_size=150kB")
    assert done.code == 0, done
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "away"))
    assert here("unpack", "out").code == 0
    away = engine.run_folder(tiny(tmp_path / "away"))
    assert tree(away) == tree(engine.run_folder(config))
    assert len(list(away.glob("checkpoint-00000003.pt.*"))) > 2
    _, meta, notes = checkpoint.load_newest(away, torch.device("cpu"))
    assert (meta["iteration"], notes) == (3, [])
    assert json.loads((away / "run.json").read_text())["status"] == "interrupted"
