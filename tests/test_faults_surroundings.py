"""Runs and commands in surroundings that are not as wished: users, folders, clocks, locales, terminals, no git."""

import fcntl
import io
import itertools
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest
import torch

from repro import files
from repro.cli import main
from repro.paths import TREE
from repro.runs import read_run, scan
from repro.stopping import StopRequest
from repro.streams import open_streams, show_messages
from tests.conftest import ordinary_user
from tests.made_cli import TINY
from tests.outcome import says

AWKWARD = "a b, ü '雪'\n\"x\" ${HOME} $(touch executed) [1]"
COLUMNS = 20
SYNTHETIC = ["experiment=cifar_resnet20", "data.name=synthetic", "model.blocks_per_stage=1", "train.mini_batch_size=16",
             "train.batch_norm_group=16", "train.iterations=2", "train.lr_drops=[1]", "evaluation.interval=2",
             "evaluation.batch_norm_images=32", "evaluation.responses=false", "evaluation.gradient_iterations=[]",
             "machine.device=cpu", "machine.threads=1"]


def start(*words: str, **how) -> subprocess.CompletedProcess[str]:
    """A command with this process's variables and this tree to import from, to its end."""
    how = {"env": environment(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
    return subprocess.run(words, text=True, check=False, **how)


def environment(**changes: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(TREE), "OMP_NUM_THREADS": "1"} | changes


@pytest.mark.slow
@pytest.mark.fault(38, 39, 43, 44, 45)
def test_two_runs_at_once_into_a_folder_with_an_awkward_name_finish_wherever_they_are(tmp_path, direct, monkeypatch):
    """One on a terminal of 20 columns; one abroad: another time zone and locale, no git, nobody reads its output."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    reading, writing = os.pipe()
    os.close(reading)
    results = tmp_path / AWKWARD
    words = [sys.executable, "-m", "tests.made_cli", "run", *TINY]
    clean = environment(REPRO_RESULTS=str(results))
    near = subprocess.Popen([*words, "seed=1"], cwd=tmp_path, env=clean, stdin=theirs, stdout=theirs, stderr=theirs)
    abroad = subprocess.Popen(
        words, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE,
        env=clean | {"TZ": "Asia/Kathmandu", "LC_ALL": "de_DE.UTF-8", "PATH": str(tmp_path)})  # where no git is
    os.close(theirs)
    os.close(writing)
    shown = bytearray()
    with suppress(OSError):  # by which a terminal tells that its other end is closed
        while block := os.read(ours, 1 << 16):
            shown += block
    os.close(ours)
    assert (abroad.communicate()[1], abroad.returncode, near.wait()) == (b"", 0, 0), "also where its reader has left"
    bars = re.findall(r"\r([^\r\n]+)", shown.decode())
    assert 0 < max(map(len, bars)) <= COLUMNS, bars

    first, second = scan(results / "runs")
    for run in (first, second):
        assert run.finished
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", run.record.started)
        rows = (run.folder / "history.csv").read_text().splitlines()
        assert all(re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", cell) for row in rows[1:] for cell in row.split(","))
    one, other = (datetime.fromisoformat(run.record.started).timestamp() for run in (first, second))
    assert abs(one - other) < 3600, "and not 5 h 45 min, which Kathmandu is ahead"
    session = first.record.sessions[0]
    assert (session.commit, session.dirty) == (None, None), "without git they are unknown"
    assert not (tmp_path / "executed").exists()
    monkeypatch.setenv("REPRO_RESULTS", str(results))
    for command in (["status"], ["table", "synthetic_demo"]):
        outcome = direct(*command)
        assert (outcome.code, outcome.err) == (0, ""), command
    assert (results / "tables" / "synthetic_demo.md").is_file()


@pytest.mark.fault(43)
def test_a_clock_that_is_put_back_between_two_sessions_does_no_harm(here, tmp_path, monkeypatch):
    looks = itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "reason", property(lambda stop: "max_seconds" if next(looks) > 12 else None))
        assert here("run", *TINY).code == 75
    run, = scan(tmp_path / "results" / "runs")
    first = run.record.started
    assert 0 < run.record.iteration < 20

    class Earlier(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2001, 1, 1, tzinfo=tz)
    monkeypatch.setattr(files, "datetime", Earlier)
    assert here("run", *TINY).code == 0
    run = read_run(run.folder)
    assert (run.finished, run.record.started) == (True, first)
    assert run.record.sessions[-1].started == "2001-01-01T00:00:00+00:00"
    seconds = [float(row["train_seconds"]) for row in files.read_rows(run.folder / "timing.csv")]
    assert [0, *seconds] == sorted([0, *seconds]), "durations are not differences of that clock"


@pytest.mark.fault(44, 64)
def test_a_reader_that_is_gone_is_no_error_and_a_full_disk_is_5(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    for target, code, said in ((writer, 0, ""), ("/dev/full", 5, "can't read or write: [Errno 28] No space left")):
        with open(target, "w") as stream:  # closing it fails where the buffer still holds something
            monkeypatch.setattr(sys, "stdout", stream)
            assert main(["--version"]) == code
        err = capsys.readouterr().err
        assert (said in err, bool(err)) == (True, bool(code))


@pytest.mark.fault(44, 64)
def test_a_message_that_can_not_be_written_ends_no_command(monkeypatch):
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with show_messages():
            logging.getLogger("repro").info("no room")
            with pytest.raises(TypeError):
                logging.getLogger("repro").info("%d", "a mistake of ours")


def test_what_a_stream_has_no_letter_for_is_escaped(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    open_streams()
    print("é", flush=True)
    assert sys.stdout.buffer.getvalue() == b"\\xe9\n"


@pytest.mark.fault(44)
def test_what_goes_into_a_pipe_has_no_control_codes(here):
    outcomes = [here(*command) for command in (["run", *TINY, "train.iterations=2"], ["status"], ["show", *TINY])]
    assert [text for one in outcomes for text in one[1:] if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)] == []


@pytest.mark.slow
@pytest.mark.fault(53, 70)
def test_two_processes_without_standard_streams_train_and_import_nothing_of_the_current_folder(tmp_path):
    """`>&- 2>&- <&-`, as some daemons start a command; every package that a worker needs has a namesake here."""
    for name in ("hydra", "torch", "numpy", "repro", "tqdm", "yaml"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    done = start("sh", "-c", 'exec "$@" >&- 2>&- <&-', "sh", sys.executable, "-P", "-m", "repro", "run", *SYNTHETIC,
                 "train.batch_norm_group=8", "devices=2", f"results={tmp_path / 'results'}", cwd=tmp_path)
    run, = scan(tmp_path / "results" / "runs")
    assert (done.returncode, run.finished) == (0, True)
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
@pytest.mark.fault(64)
def test_output_without_room_ends_a_command_with_5_and_no_run(tmp_path):
    with Path("/dev/full").open("w") as full:
        says(start(sys.executable, "-m", "repro", "status", stdout=full), 5, "No space left on device")
        assert start(sys.executable, "-m", "repro", "lisst", stdout=full, stderr=full).returncode == 2
        done = start(sys.executable, "-m", "repro", "run", *SYNTHETIC, stdout=full,
                     env=environment(REPRO_RESULTS=str(tmp_path)))
    run, = scan(tmp_path / "runs")
    assert (done.returncode, run.finished) == (0, True), done.stderr
    assert len(done.stderr.splitlines()) <= 1, done.stderr
    ascii_alone = start(sys.executable, "-m", "repro", "status", "--é", env=environment(PYTHONIOENCODING="ascii"))
    assert "\\xe9" in ascii_alone.stderr


@pytest.mark.fault(60)
def test_a_current_folder_that_was_deleted_and_a_system_without_fcntl_are_one_line(tmp_path):
    (tmp_path / "gone").mkdir()
    says(start("sh", "-c", 'rmdir "$1" && shift && exec "$@"', "sh", str(tmp_path / "gone"), sys.executable, "-P", "-m",
               "repro", "status", cwd=tmp_path / "gone"), 5, "No such file or directory")
    says(start(sys.executable, "-c", "import sys; sys.modules['fcntl'] = None; import repro.cli"), 2,
         "needs Linux or macOS", "WSL")


@pytest.mark.fault(39)
@pytest.mark.parametrize("arguments", [["table", "table6"], ["run", *TINY]], ids=lambda words: words[0])
def test_a_results_folder_that_can_not_be_written_is_5_with_its_path(here, open_folder, monkeypatch, arguments):
    """As a user without rights: the kernel refuses. Once with all rights first, so that all modules are loaded."""
    with ordinary_user():
        needed = [TREE / "conf" / "config.yaml", *([Path(torch.__file__)] if arguments[0] == "run" else [])]
        if not all(os.access(path, os.R_OK, effective_ids=True) for path in needed):
            pytest.skip("other users can't read this checkout, or this Python, as in a private home folder")
    here(*arguments)
    locked = open_folder / "locked ü"
    locked.mkdir(0o555)
    monkeypatch.setenv("REPRO_RESULTS", str(locked / "results"))
    with ordinary_user():
        says(here(*arguments), 5, str(locked / "results"), "Permission denied")
        assert list(locked.iterdir()) == []
        outcome = here("status")
    assert (outcome.code, outcome.err) == (0, ""), "a command that only reads needs no right to write"
