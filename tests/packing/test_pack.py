"""`repro pack`: what goes into a pack, what stays out, and that a failure leaves nothing."""

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro import __version__
from repro.errors import ConfigError
from repro.packing import pack as packing
from repro.packing.manifest import Pack, part_name, read_manifest
from repro.packing.pack import Parts
from repro.packing.stream import Stream
from tests.outcome import says
from tests.packing.made import NAME, files, tree, write_run

OTHER = "cifar_plain20/seed3"


@pytest.fixture
def results(tmp_path) -> Path:
    """Two runs, an interrupted and a finished one, with files beside them that no pack holds."""
    root = tmp_path / "results"
    folder = write_run(root, {**files(), "config.yaml": b"a: 1\n", "timing.csv": b"iteration\n10\n",
                              "run.lock.bak": b"", ".history.csv.part": b"torn", "notes.txt": b"mine",
                              "checkpoint-00000020.pt.000": b"cut off: without JSON", "checkpoint-00000005.json": b"{}",
                              "checkpoint-00000005.pt.000": b"01", "checkpoint-00000005.pt.001": b"2"})
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "events.csv").write_text("x")
    write_run(root, files(20, "finished", seed=3, experiment="cifar_plain20"), OTHER)
    return root


def members(folder: Path) -> dict[str, bytes]:
    """The files in a pack as the standard library's tar reader finds them in the joined parts."""
    data = b"".join(path.read_bytes() for path in sorted(folder.glob("pack-*")))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}


def test_all_runs_are_packed_with_what_belongs_to_them_and_nothing_else(direct, results, tmp_path):
    before = tree(results)
    done = direct("pack", "out")
    assert done.code == 0, done
    assert "runs: 2, parts: 1" in done.out
    held = members(tmp_path / "out")
    assert sorted(held) == sorted([f"{OTHER}/{name}" for name in ("history.csv", "run.json", "weights.pt")] + [
        f"{NAME}/{name}" for name in (
            "checkpoint-00000005.json", "checkpoint-00000005.pt.000", "checkpoint-00000005.pt.001",
            "checkpoint-00000010.json", "checkpoint-00000010.pt", "config.yaml", "history.csv", "run.json",
            "timing.csv")])
    assert all((results / "runs" / name).read_bytes() == data for name, data in held.items())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "pack-000"]
    assert tree(results) == before, "no lock is left, nothing is changed"


def test_the_manifest_names_every_run_file_and_part(direct, results, tmp_path):
    assert direct("pack", "out", "part_size=2K").code == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["format"], manifest["repro"], manifest["utc"][:2]) == (1, __version__, "20")
    assert [run["name"] for run in manifest["runs"]] == [OTHER, NAME]
    assert {key: value for key, value in manifest["runs"][1].items() if key != "files"} == {
        "name": NAME, "experiment": "cifar_resnet20", "identity": "0123456789ab", "seed": 0, "status": "interrupted",
        "iteration": 10}
    held = members(tmp_path / "out")
    for run in manifest["runs"]:
        for file in run["files"]:
            data = held.pop(f"{run['name']}/{file['name']}")
            assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert held == {}
    assert len(manifest["parts"]) > 3
    for number, part in enumerate(manifest["parts"]):
        data = (tmp_path / "out" / f"pack-{number:03d}").read_bytes()
        assert part == {"name": f"pack-{number:03d}", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        assert len(data) == 2048 or number == len(manifest["parts"]) - 1
    text = (tmp_path / "out" / "manifest.json").read_text() + str(sorted(held))
    assert str(tmp_path) not in text
    assert socket.gethostname() not in text


@pytest.mark.parametrize("form", ["name", "folder", "relative", "inside", "twice"])
def test_runs_can_be_named_in_every_way(direct, results, tmp_path, monkeypatch, form):
    folder = results / "runs" / NAME
    if form == "inside":
        monkeypatch.chdir(folder)
    words = {"name": [NAME], "folder": [str(folder)], "relative": [f"results/runs/{NAME}"], "inside": ["."],
             "twice": [NAME, str(folder)]}[form]
    done = direct("pack", str(tmp_path / "out"), *words)
    assert done.code == 0, done
    assert [run.name for run in read_manifest(tmp_path / "out").runs] == [NAME]


def test_all_is_what_no_name_means_and_never_goes_with_one(direct, results, tmp_path):
    assert direct("pack", "out", "--all").code == 0
    assert len(read_manifest(tmp_path / "out").runs) == 2
    says(direct("pack", "more", NAME, "--all"), 2, "--all", NAME)


@pytest.mark.parametrize(("words", "said"), [
    (["cifar_resnet20/seed9"], "no run 'cifar_resnet20/seed9'"), (["part_size=0"], "part_size=0: '0' is no size"),
    (["part_size=much"], "allowed is"), (["partsize=1M"], "unknown key 'partsize'; did you mean part_size?"),
    (["part_size=1"], "more than 1000 parts")])
def test_wrong_words_are_usage_errors_and_leave_no_folder(direct, results, tmp_path, monkeypatch, words, said):
    monkeypatch.setattr(packing.os, "fsync", lambda descriptor: None)  # quicker: one case writes a thousand parts
    says(direct("pack", "out", *words), 2, said)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_left_alone(direct, results, tmp_path):
    (tmp_path / "out").mkdir()
    assert direct("pack", "out", NAME).code == 0, "an empty one is fine"
    before = tree(tmp_path / "out")
    says(direct("pack", "out", NAME), 2, "out is not empty")
    assert tree(tmp_path / "out") == before
    (tmp_path / "file").touch()
    says(direct("pack", "file"), 2, "file is no folder")


def test_no_runs_at_all(direct, tmp_path):
    says(direct("pack", "out"), 2, "no runs to pack in results/runs")
    assert list(tmp_path.iterdir()) == []


HOLD = "from pathlib import Path; import sys\nfrom repro.runs import locked\n" \
       "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"


@pytest.fixture
def holder(results):
    """Another process that holds the lock of the interrupted run."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(results / "runs" / NAME)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.communicate()


def test_a_run_in_progress_is_left_out_or_7_if_it_was_named(direct, results, tmp_path, holder):
    done = direct("pack", "out")
    assert done.code == 0
    line, = [line for line in done.out.splitlines() if line.startswith("left out: ")]
    assert f"in progress by pid {holder.pid}" in line
    assert [run.name for run in read_manifest(tmp_path / "out").runs] == [OTHER]
    says(direct("pack", "other", OTHER, NAME), 7, f"in progress by pid {holder.pid}")
    assert not (tmp_path / "other").exists(), "what was written of the first run is gone again"
    assert (results / "runs" / NAME / "run.lock").is_file(), "the holder's lock is unharmed"


UNFIT = {"torn record": ("run.json", b"{", "unreadable run.json"),
         "another seed": ("run.json", files(10, seed=1)["run.json"], "does not fit its record"),
         "another identity": ("run.json", files(10, identity="ba9876543210")["run.json"], "does not fit its record"),
         "finished without its history": ("run.json", files(20, "finished")["run.json"], "history.csv does not reach")}


@pytest.mark.parametrize("case", UNFIT)
def test_a_run_that_is_not_whole_is_left_out_or_5_if_it_was_named(direct, results, tmp_path, case):
    name, content, said = UNFIT[case]
    (results / "runs" / NAME / name).write_bytes(content)
    done = direct("pack", "out")
    assert done.code == 0
    assert f"left out: {NAME}: " in done.out
    assert said in done.out
    assert [run.name for run in read_manifest(tmp_path / "out").runs] == [OTHER]
    says(direct("pack", "other", NAME), 5, said)
    assert not (tmp_path / "other").exists()


def test_a_folder_that_is_named_like_no_run_is_refused(direct, results, tmp_path):
    (results / "runs" / NAME).rename(tmp_path / "copy")
    says(direct("pack", "out", "copy"), 5, "not named <experiment>[@<identity>]/seed<k>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "results"]


def test_two_runs_of_one_name_are_refused(direct, results, tmp_path):
    write_run(tmp_path / "elsewhere", files())
    says(direct("pack", "out", NAME, f"elsewhere/runs/{NAME}"), 2, "would have the same name")
    assert direct("pack", "out", f"elsewhere/runs/{NAME}").code == 0, "one alone may lie elsewhere"


@pytest.mark.parametrize("failing", ["fsync", "the manifest"])
def test_a_full_disk_leaves_the_target_as_it_was(direct, results, tmp_path, monkeypatch, failing):
    (tmp_path / "empty").mkdir()

    def full(*arguments):
        raise OSError(28, "No space left on device")
    for target in ("new", "empty"):
        with monkeypatch.context() as patch:
            if failing == "fsync":
                patch.setattr(packing.os, "fsync", full)
            else:
                patch.setattr(Path, "replace", full)
            says(direct("pack", target, "part_size=2K"), 5, "No space left on device")
    assert not (tmp_path / "new").exists()
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_file_that_changes_while_it_is_read_is_an_error(direct, results, tmp_path, monkeypatch):
    original = os.fstat

    def grown(descriptor):
        found = list(original(descriptor))
        found[6] += 1
        return os.stat_result(found)
    with monkeypatch.context() as patch:
        patch.setattr(packing.os, "fstat", grown)
        says(direct("pack", "out", OTHER), 5, "changed while it was read")
    assert not (tmp_path / "out").exists()


# ---- cutting and joining

@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(st.binary(max_size=50), max_size=12), size=st.none() | st.integers(1, 60),
       reads=st.lists(st.integers(0, 40), max_size=8))
def test_what_is_cut_into_parts_is_read_as_one_stream_again(pieces, size, reads):
    whole = b"".join(pieces)
    with tempfile.TemporaryDirectory() as name:
        parts = Parts(Path(name) / "pack", size)
        for piece in pieces:
            parts.write(piece)
        parts.end()
        sizes = [part.bytes for part in parts.done]
        assert sum(sizes) == len(whole)
        if size is not None:
            assert sizes[:-1] == [size] * (len(sizes) - 1)
            assert all(0 < count <= size for count in sizes)
        stream, at = Stream(Pack(Path(name) / "pack", tuple(parts.done), ())), 0
        for count in [*reads, len(whole), 1]:
            assert stream.read(count) == whole[at : at + count]
            at += count
        parts.discard()
        assert not (Path(name) / "pack").exists()


def test_a_thousand_parts_are_named_in_their_order_and_one_more_is_too_many(tmp_path):
    names = [part_name(number) for number in range(packing.MOST_PARTS)]
    assert names == sorted(names)
    parts = Parts(tmp_path / "pack", 1)
    parts.done = [None] * packing.MOST_PARTS
    with pytest.raises(ConfigError, match="more than 1000 parts; take a larger one"):
        parts.write(b"x")
