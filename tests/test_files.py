"""Files that are whole or not there, and the lock of a folder."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from repro.errors import InUseError, StorageError
from repro.files import append_text, hold_lock, holder, open_plain, read_history, write_atomic, write_json


@pytest.mark.parametrize("data", ["text ü\n", b"\x00\xff", ""])
def test_a_write_replaces_the_file_and_leaves_nothing_else(tmp_path, data):
    path = tmp_path / "new folder" / "file"
    write_atomic(path, "old")
    write_atomic(path, data)
    assert path.read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("failing", ["fsync", "replace", "open"])
def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path, monkeypatch, failing):
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os if failing == "fsync" else Path, failing, full)
    with pytest.raises(StorageError) as caught:
        write_atomic(path, "newer")
    monkeypatch.undo()
    assert caught.value.exit_code == 5
    assert "file: No space left on device (5 bytes needed, " in str(caught.value)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.fault(66)
def test_of_many_who_write_one_file_at_once_one_has_its_way_and_no_reader_sees_less(tmp_path):
    path = tmp_path / "table.md"
    code = ("import sys; from pathlib import Path; from repro.files import write_atomic\n"
            "for _ in range(100): write_atomic(Path(sys.argv[1]), sys.argv[2] * 20000)")
    write_atomic(path, "0" * 20000)
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), mark], stderr=subprocess.PIPE, text=True)
               for mark in "12"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        text = path.read_text()
        seen.add((len(text), len(set(text))))
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [("", 0)] * 2
    assert seen == {(20000, 1)}
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.md"]


@pytest.mark.fault(40)
@pytest.mark.parametrize("tail", ["3", "30,0.1,60.5", "30,0.1,abc\n", "30,0.1\n", "\x00", "30,0.1,1,2,3\n"])
def test_a_torn_last_line_of_a_history_is_dropped(tmp_path, tail):
    path = tmp_path / "history.csv"
    path.write_text(f"iteration,rate,error\n10,0.1,80.0\n20,0.1,60.5\n{tail}")
    assert read_history(path) == [{"iteration": 10.0, "rate": 0.1, "error": 80.0},
                                  {"iteration": 20.0, "rate": 0.1, "error": 60.5}]


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no plain file"):
        open_plain(tmp_path / "pipe").close()


HOLD = "from pathlib import Path; import sys\nfrom repro.files import hold_lock\n" \
       "with hold_lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "runs" / "cifar_resnet20" / "seed0"


@pytest.fixture
def other(folder):
    """`other()`: another process that holds the folder's lock until its standard input closes."""
    started = []

    def start() -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process
    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.fault(36)
def test_a_folder_in_use_by_another_process(folder, other):
    process = other()
    with pytest.raises(InUseError) as caught, hold_lock(folder):
        pass
    text = str(caught.value)
    assert caught.value.exit_code == 7
    assert f"{folder}: this run is in progress by pid {process.pid} on {socket.gethostname()} since 20" in text
    assert "delete" not in text
    assert holder(folder)["pid"] == process.pid, "the owner's mark is unharmed"
    process.communicate()
    assert holder(folder) is None


@pytest.mark.fault(37)
def test_a_killed_holders_lock_is_taken_over_with_a_note(folder, other):
    process = other()
    process.kill()
    process.wait()
    assert (folder / "run.lock").is_file()
    assert holder(folder) is None
    with hold_lock(folder) as note:
        assert note == f"took over the lock of pid {process.pid}, which is gone"
        assert holder(folder)["pid"] == os.getpid()
    assert not folder.exists()


@pytest.mark.fault(36)
def test_a_lock_from_another_host_is_respected_and_the_message_says_what_to_do(folder):
    write_json(folder / "run.lock", {"pid": "\x1b[2J", "host": "elsewhere", "since": "2026-01-01T00:00:00+00:00"})
    before = (folder / "run.lock").read_bytes()
    with pytest.raises(InUseError) as caught, hold_lock(folder):
        pass
    assert r"by pid \x1b[2J on elsewhere since 2026-01-01T00:00:00+00:00" in str(caught.value)
    assert f"if that process is gone, delete {folder / 'run.lock'}" in str(caught.value)
    assert (folder / "run.lock").read_bytes() == before
    assert holder(folder)["host"] == "elsewhere"


@pytest.mark.fault(37)
@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_torn_lock_of_a_dead_process_does_not_stop_anybody(folder, content):
    folder.mkdir(parents=True)
    (folder / "run.lock").write_text(content)
    with hold_lock(folder) as note:
        assert note is None


def test_a_released_lock_leaves_what_a_run_wrote_and_no_empty_folders(folder):
    with pytest.raises(KeyError), hold_lock(folder):
        raise KeyError
    assert not folder.parent.exists()
    with hold_lock(folder) as note:
        assert note is None
        (folder / "run.json").write_text("{}")
    assert [entry.name for entry in folder.iterdir()] == ["run.json"]


@pytest.mark.fault(69, 74)
@pytest.mark.parametrize("lost", ["moved", "another one there", "lock taken"])
@pytest.mark.parametrize("write", [lambda folder: write_json(folder / "run.json", {}),
                                   lambda folder: append_text(folder / "history.csv", "1,2\n")], ids=["json", "csv"])
def test_a_folder_or_lock_that_is_lost_in_mid_run_is_never_written_to_again(folder, tmp_path, other, lost, write):
    with hold_lock(folder):
        write(folder)
        if lost == "lock taken":
            (folder / "run.lock").unlink()
            other()
        else:
            folder.rename(tmp_path / "moved")
        if lost == "another one there":
            folder.mkdir()
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(StorageError, match="no longer this process's"):
            write(folder)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        assert folder.exists() is (lost != "moved")


@pytest.mark.fault(56)
def test_a_file_system_that_cannot_lock_is_named(folder, monkeypatch):
    def no_locks(file, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(StorageError, match=r"can't write .*run\.lock: Function not implemented"):
        hold_lock(folder).__enter__()
