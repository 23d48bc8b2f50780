"""Files that are whole or not there, and the lock of a folder."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from repro import files
from repro.errors import InUseError, StorageError
from repro.files import append_text, hold_lock, utc_now, write_atomic, write_json
from repro.publishing import PUBLISHED_FILES, copy_record

HEADER = "iteration,learning_rate,train_top1_error,test_top1_error"
# ---- atomic writes

@pytest.mark.parametrize("data", ["text ü\n", b"\x00\xff", "", b""])
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
        raise OSError(28, "No space left on device")
    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(Path, failing, full)
    with pytest.raises(StorageError) as caught:
        write_atomic(path, "newer")
    monkeypatch.undo()
    assert caught.value.exit_code == 5
    assert "file: No space left on device (5 bytes needed, " in str(caught.value)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_write_below_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't write"):
        write_atomic(tmp_path / "file" / "below", "x")


def test_a_write_cut_off_before_the_rename_is_not_seen(tmp_path):
    """What a power cut leaves: the old file, and a hidden part that no reader looks at; it goes, but no live one's."""
    folder = tmp_path / "seed0"
    write_json(folder / "run.json", {"old": 1})
    left, live = folder / ".run.json.0a1b2c3d.part", folder / ".run.json.00000000.part"
    for part in (left, live):
        part.write_text('{"new"')
    os.utime(left, (0, 0))
    assert json.loads((folder / "run.json").read_text()) == {"old": 1}
    write_json(folder / "run.json", {"new": 2})
    assert {entry.name for entry in folder.iterdir()} == {"run.json", live.name}


# ---- locks

HOLD = "from pathlib import Path; import sys\nfrom repro.files import hold_lock\n" \
       "with hold_lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of a folder until its standard input closes: (process, folder)."""
    folder = tmp_path / "runs" / "cifar_resnet20" / "seed0"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process, folder
    process.kill()
    process.communicate()


@pytest.mark.fault(36)
def test_a_folder_in_use_by_another_process(holder):
    process, folder = holder
    with pytest.raises(InUseError) as caught, hold_lock(folder):
        pass
    text = str(caught.value)
    assert caught.value.exit_code == 7
    assert f"in progress by pid {process.pid} on {socket.gethostname()} since 20" in text
    assert str(folder) in text
    assert "delete" not in text
    owner = json.loads((folder / "run.lock").read_text())
    assert owner["pid"] == process.pid, "the owner's mark is unharmed"
    process.communicate()
    with hold_lock(folder) as note:
        assert note is None


@pytest.mark.fault(37)
def test_a_killed_holders_lock_is_taken_over_with_a_note(holder):
    process, folder = holder
    process.kill()
    process.wait()
    assert (folder / "run.lock").is_file()
    with hold_lock(folder) as note:
        assert note == f"took over the lock of pid {process.pid}, which is gone"
        assert json.loads((folder / "run.lock").read_text())["pid"] == os.getpid()
    assert not folder.exists()


def test_a_lock_is_exclusive_within_one_process_too(tmp_path):
    with hold_lock(tmp_path / "a" / "seed0"):
        with pytest.raises(InUseError, match=f"pid {os.getpid()}"), hold_lock(tmp_path / "a" / "seed0"):
            pass
        with hold_lock(tmp_path / "a" / "seed1") as note:
            assert note is None
        assert (tmp_path / "a" / "seed0" / "run.lock").is_file()


@pytest.mark.fault(36)
def test_a_lock_from_another_host_is_respected_and_the_message_says_what_to_do(tmp_path):
    folder = tmp_path / "a" / "seed0"
    write_json(folder / "run.lock", {"pid": 1, "host": "elsewhere", "since": "2026-01-01T00:00:00+00:00"})
    before = (folder / "run.lock").read_bytes()
    with pytest.raises(InUseError) as caught, hold_lock(folder):
        pass
    text = str(caught.value)
    assert "by pid 1 on elsewhere since 2026-01-01T00:00:00+00:00" in text
    assert f"if that machine is gone, delete {folder / 'run.lock'}" in text
    assert (folder / "run.lock").read_bytes() == before


@pytest.mark.fault(37)
@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "\x00\x00"])
def test_a_torn_lock_of_a_dead_process_does_not_stop_anybody(tmp_path, content):
    folder = tmp_path / "a" / "seed0"
    folder.mkdir(parents=True)
    (folder / "run.lock").write_text(content)
    with hold_lock(folder) as note:
        assert note is None


def test_a_released_lock_removes_itself_and_empty_folders(tmp_path):
    folder = tmp_path / "runs" / "cifar_resnet20" / "seed0"
    with hold_lock(folder):
        assert (folder / "run.lock").is_file()
    assert not folder.parent.exists()


def test_a_released_lock_leaves_what_a_run_wrote(tmp_path):
    folder = tmp_path / "runs" / "cifar_resnet20" / "seed0"
    with hold_lock(folder):
        (folder / "run.json").write_text("{}")
    assert [entry.name for entry in folder.iterdir()] == ["run.json"]


def test_an_error_inside_releases_the_lock(tmp_path):
    with pytest.raises(KeyError), hold_lock(tmp_path / "a" / "seed0"):
        raise KeyError
    with hold_lock(tmp_path / "a" / "seed0") as note:
        assert note is None


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as caught, hold_lock(tmp_path / "file" / "seed0"):
        pass
    assert str(tmp_path / "file") in str(caught.value)


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
        seen.add((text[0], len(text), len(set(text))))
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [("", 0)] * 2
    assert {rest for _, *rest in map(tuple, seen) if rest != [20000, 1]} == set()
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.md"]


@pytest.mark.fault(66)
def test_of_two_who_publish_one_run_at_once_one_has_its_way_and_the_record_is_never_gone(tmp_path):
    target = tmp_path / "reference" / "seed0"
    for mark in "12":
        (tmp_path / mark / "evaluations").mkdir(parents=True)
        for name in (*PUBLISHED_FILES, "responses.csv"):
            (tmp_path / mark / name).write_text(mark)
        (tmp_path / mark / "evaluations" / "center.json").write_text(json.dumps({"finished": True, "mark": mark}))
    code = ("import sys; from pathlib import Path; from repro.publishing import copy_record\n"
            "for _ in range(60): copy_record(*map(Path, sys.argv[1:]))")
    copy_record(tmp_path / "1", target)
    writers = [subprocess.Popen([sys.executable, "-c", code, tmp_path / mark, target], stderr=subprocess.PIPE,
                                text=True) for mark in "12"]
    seen = []
    while any(writer.poll() is None for writer in writers):
        seen.append((target / "run.json").is_file())
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [("", 0)] * 2
    assert all(seen)
    assert len({path.read_text() for path in target.iterdir() if path.is_file()}) == 1
    assert len(list(target.rglob("*"))) == len(PUBLISHED_FILES) + 3
    assert [entry.name for entry in target.parent.iterdir()] == ["seed0"], "nothing is left beside it"


@pytest.mark.fault(69, 74)
@pytest.mark.parametrize("write", [lambda folder: write_json(folder / "run.json", {}),
                                   lambda folder: append_text(folder / "history.csv", "1,2\n")], ids=["json", "csv"])
@pytest.mark.parametrize("lost", ["moved", "moved and another one there", "lock deleted", "lock deleted and taken"])
def test_a_folder_or_lock_that_is_lost_in_mid_run_is_never_written_to_again(tmp_path, lost, write):
    folder, others, before = tmp_path / "a" / "seed0", [], {}

    def lose_and_write():
        write(folder)
        if "moved" in lost:
            folder.rename(tmp_path / "moved")
        else:
            (folder / "run.lock").unlink()
        if "another" in lost:
            folder.mkdir()
        if "taken" in lost:
            others.append(subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE,
                                           stdout=subprocess.PIPE, text=True))
            assert others[0].stdout.readline() == "held\n"
        before.update({path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()})
        write(folder)
    with pytest.raises(InUseError if "taken" in lost else StorageError) as caught, hold_lock(folder):
        lose_and_write()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    if others:
        assert f"in progress by pid {others[0].pid}" in str(caught.value)
        assert json.loads((folder / "run.lock").read_text())["pid"] == others[0].pid, "it keeps what it holds"
        others[0].communicate()
    else:
        assert f"{folder}: its run.lock is gone in mid-run" in str(caught.value)


@pytest.mark.fault(69)
def test_what_fails_when_a_lock_is_let_go_hides_no_error(tmp_path):
    lock = tmp_path / "a" / "seed0" / "run.lock"

    def fail():
        if subprocess.run(["chattr", "+i", lock], capture_output=True, check=False).returncode:
            pytest.skip("no file can be made immutable here")
        raise KeyError("the first")
    try:
        with pytest.raises(KeyError, match="the first"), hold_lock(lock.parent):
            fail()
        assert lock.exists()
    finally:
        subprocess.run(["chattr", "-i", lock], capture_output=True, check=False)


@pytest.mark.fault(74)
@pytest.mark.parametrize(("change", "taken"), [
    ({"host": "renamed"}, True), ({"host": "renamed", "namespace": "pid:[1]"}, True),
    ({"boot": "an earlier one"}, True), ({"boot": "x", "host": "elsewhere"}, False),
    ({"boot": "x", "machine": "another one of the same name"}, False), ({"boot": "x", "machine": None}, False)])
def test_a_lock_that_nobody_holds_is_judged_by_the_machine_and_its_boot(tmp_path, monkeypatch, change, taken):
    """This process has the kernel's lock: who wrote the file is gone, unless it is on another machine."""
    folder = tmp_path / "a" / "seed0"
    machine = None if change.get("machine", "one") is None else "one"  # a container may have no name of its own
    here = files.process(os.getpid()) | {"machine": machine}
    monkeypatch.setattr(files, "process", lambda pid: here)
    write_json(folder / "run.lock", {**here, "pid": 4_000_000, "since": "2026"} | change)
    if taken:
        with hold_lock(folder) as note:
            assert note == "took over the lock of pid 4000000, which is gone"
    else:
        with pytest.raises(InUseError, match="if that machine is gone, delete"), hold_lock(folder):
            pass


@pytest.mark.fault(74)
def test_a_host_that_is_renamed_in_mid_run_keeps_its_lock(tmp_path, monkeypatch):
    with hold_lock(tmp_path / "a" / "seed0"):
        monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
        write_json(tmp_path / "a" / "seed0" / "run.json", {})
    assert not (tmp_path / "a" / "seed0" / "run.lock").exists()


# A process whose kernel answers flock and fsync as file systems do that have neither: seccomp(2) makes it so.
WITHOUT = """
import ctypes, errno, platform, struct, sys
answers = {"flock": int(sys.argv.pop(1)), "fsync": int(sys.argv.pop(1))}
numbers = {"x86_64": {"flock": 73, "fsync": 74}, "aarch64": {"flock": 32, "fsync": 82}}.get(platform.machine())
rules = [(0x20, 0, 0, 0)]
for call, answer in answers.items() if numbers else ():
    rules += [(0x15, 0, 1, numbers[call]), (0x06, 0, 0, 0x00050000 | answer)] if answer else []
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in [*rules, (0x06, 0, 0, 0x7fff0000)]))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rules) + 1, ctypes.addressof(code)))
libc = ctypes.CDLL(None)
if not numbers or libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(filter)):
    sys.exit(99)
"""
WITHOUT_LOCKS = WITHOUT + """
import json, os, subprocess
from pathlib import Path
from repro.errors import InUseError
from repro.files import hold_lock, process, write_json
folder = Path(sys.argv[1]) / "seed0"
with hold_lock(folder) as note:
    print(note)
    write_json(folder / "run.json", {})
    try:
        with hold_lock(folder):
            print("two")
    except InUseError as error:
        print("in use", f"by pid {os.getpid()}" in str(error))
dead = subprocess.Popen(["true"])
dead.wait()
for owner in ({"pid": dead.pid}, {"began": "1"}, {"pid": dead.pid, "namespace": "pid:[1]"}, None):
    (folder / "run.lock").write_text("" if owner is None else json.dumps(process(os.getpid()) | owner))
    try:
        with hold_lock(folder) as note:
            print("taken", bool(note))
    except InUseError as error:
        print("in use")
        (folder / "run.lock").unlink()
print(sorted(os.listdir(folder)))
"""


@pytest.mark.fault(56)
@pytest.mark.parametrize(("flock", "fsync"), [(errno.ENOSYS, errno.EINVAL), (errno.ENOLCK, 0), (errno.EINVAL, 0)])
def test_without_the_kernels_lock_the_lock_file_keeps_others_out_and_what_is_lost_is_said(tmp_path, flock, fsync):
    done = subprocess.run([sys.executable, "-c", WITHOUT_LOCKS, str(flock), str(fsync), str(tmp_path)],
                          capture_output=True, text=True, check=False, timeout=240)
    if done.returncode == 99:
        pytest.skip("this kernel takes no filter of system calls")
    assert done.stdout.splitlines() == ["None", "in use True", "taken True", "taken True", "in use", "taken False",
                                        "['run.json']"], done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 + bool(fsync), lines
    assert f"{tmp_path / 'seed0'}: its file system can't lock files" in lines[0]
    assert not fsync or "may be lost in a power cut" in lines[1]


# ---- locale and time zone

@pytest.mark.fault(43)
def test_times_are_utc_to_the_second_in_any_time_zone(tmp_path):
    code = "from repro.files import utc_now; import time; print(utc_now(), time.strftime('%Y-%m-%dT%H', time.gmtime()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           env=os.environ | {"TZ": "Asia/Kathmandu", "LC_ALL": "de_DE.UTF-8"}).stdout.split()
    assert found[0].startswith(found[1][:13])
    assert found[0].endswith("+00:00")
    assert len(utc_now()) == len("2026-01-01T00:00:00+00:00")


@pytest.mark.fault(43)
def test_records_are_utf8_with_decimal_points_in_any_locale(tmp_path):
    code = ("import locale, sys; from pathlib import Path; from repro.files import write_json, read_history\n"
            "locale.setlocale(locale.LC_ALL, '')\n"
            "write_json(Path(sys.argv[1]), {'ü': 0.5})\nprint(read_history(Path(sys.argv[2]))[0])")
    (tmp_path / "history.csv").write_text("iteration,x\n1,0.25\n")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.json"), str(tmp_path / "history.csv")],
                          capture_output=True, text=True, check=True, env=os.environ | {"LC_ALL": "C", "LANG": "C"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "ü": 0.5\n}\n'
    assert done.stdout == "{'iteration': 1.0, 'x': 0.25}\n"

