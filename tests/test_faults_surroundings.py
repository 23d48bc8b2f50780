"""Runs and commands in surroundings that are not as wished: users, folders, clocks, locales, terminals, no git."""

import fcntl
import itertools
import os
import pty
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import torch

from repro import files, provenance, runs
from repro.config import compose, to_dict
from repro.devices import resolve
from repro.paths import TREE, display_path
from repro.runs import read_run, scan
from repro.stopping import StopRequest
from repro.training.launch import free_port
from tests.data.conftest import ordinary_user
from tests.made_cli import TINY
from tests.outcome import Outcome, says

AWKWARD = "a b, ü '雪'\n\"x\" ${HOME} $(touch executed) [1]"
COLUMNS = 20
SYNTHETIC = ["experiment=cifar_resnet20", "data.name=synthetic", "model.blocks_per_stage=1", "train.mini_batch_size=16",
             "train.batch_norm_group=16", "train.iterations=2", "train.lr_drops=[1]", "evaluation.interval=2",
             "evaluation.batch_norm_images=32", "evaluation.responses=false", "evaluation.gradient_iterations=[]",
             "machine.device=cpu", "machine.threads=1"]
# Runs a module's command line and writes every attempt to reach a network into the file that is named first.
WATCHED = """
import runpy, sys
watch, module, *arguments = sys.argv[1:]
def hook(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        with open(watch, "a") as file:
            file.write(f"{event} {arguments[1:]}\\n")
sys.addaudithook(hook)
sys.argv = [module, *arguments]
runpy.run_module(module, run_name="__main__")
"""


def environment(**changes: str) -> dict[str, str]:
    """This process's variables, the tree to import from, and these changes."""
    return os.environ | {"PYTHONPATH": str(TREE), "OMP_NUM_THREADS": "1"} | changes


class Side(NamedTuple):
    """How one of the two runs ended and what it left."""

    code: int
    text: str
    run: runs.Run


class Both(NamedTuple):
    """Two runs that were started in the same second."""

    results: Path
    abroad: Side  # other time zone and locale, no git, nobody reads its output
    watched: Side  # on a terminal of 20 columns, every attempt to reach a network written down
    network: str


def without_git(folder: Path) -> str:
    """A PATH with a folder that holds nothing but what a shell needs."""
    folder.mkdir()
    for name in ("sh", "env"):
        (folder / name).symlink_to(shutil.which(name) or "/bin/sh")
    return str(folder)


def terminal(columns: int) -> tuple[int, int]:
    """A pseudo-terminal of so many columns: its two ends."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    return ours, theirs


def read_all(descriptor: int, into: list[bytes]) -> None:
    """Read until the other end is closed, which a terminal tells by an error."""
    with suppress(OSError):
        while block := os.read(descriptor, 1 << 16):
            into.append(block)


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Both:
    """Two short runs, on made-up and on synthetic images, begun at once, into a folder with an awkward name."""
    folder = tmp_path_factory.mktemp("both")
    results = folder / AWKWARD
    ours, theirs = terminal(COLUMNS)
    reading, writing = os.pipe()
    os.close(reading)
    clean = {name: value for name, value in environment().items() if not name.startswith("REPRO_")}
    clean |= {"REPRO_RESULTS": str(results)}
    watched = subprocess.Popen(
        [sys.executable, "-c", WATCHED, str(folder / "network"), "repro", "run", *SYNTHETIC, "seed=1"], cwd=folder,
        env=clean, stdin=theirs, stdout=theirs, stderr=theirs)
    abroad = subprocess.Popen(
        [sys.executable, "-m", "tests.made_cli", "run", *TINY], cwd=folder,
        env=clean | {"TZ": "Asia/Kathmandu", "LC_ALL": "de_DE.UTF-8", "PATH": without_git(folder / "bin")},
        stdout=writing, stderr=subprocess.PIPE)
    os.close(theirs)
    os.close(writing)
    blocks: list[bytes] = []
    reader = threading.Thread(target=read_all, args=(ours, blocks))
    reader.start()
    complaint = abroad.communicate(timeout=240)[1].decode()
    watched.wait(timeout=240)
    reader.join()
    os.close(ours)
    found = {run.seed: run for run in scan(results / "runs")}
    network = folder / "network"
    return Both(results, Side(abroad.returncode, complaint, found[0]),
               Side(watched.returncode, b"".join(blocks).decode(), found[1]),
               network.read_text() if network.exists() else "")


@pytest.mark.fault(38)
def test_two_runs_of_the_same_second_have_their_own_folders_and_finish(both):
    assert (both.abroad.code, both.watched.code) == (0, 0), both
    assert both.abroad.run.folder != both.watched.run.folder
    assert both.abroad.run.finished
    assert both.watched.run.finished
    begun = [datetime.fromisoformat(side.run.record.started) for side in (both.abroad, both.watched)]
    assert abs((begun[0] - begun[1]).total_seconds()) < 60, "they ran at once"


@pytest.mark.fault(38)
def test_runs_that_begin_at_the_same_instant_differ_by_what_they_are(here, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "utc_now", lambda: "2026-01-01T00:00:00+00:00")
    for words in ([], ["train.lr=0.05"]):
        assert here("run", *TINY, "train.iterations=2", *words).code == 0
    assert len({run.folder for run in scan(tmp_path / "results" / "runs") if run.finished}) == 2


@pytest.mark.fault(39)
def test_a_results_folder_with_an_awkward_name_is_made_and_used(both, direct, monkeypatch):
    assert both.results.name == AWKWARD
    assert not (both.results.parent / "executed").exists()
    monkeypatch.setenv("REPRO_RESULTS", str(both.results))
    for command in (["status"], ["table", "synthetic_demo"]):
        outcome = direct(*command)
        assert (outcome.code, outcome.err) == (0, ""), command
    assert (both.results / "tables" / "synthetic_demo.md").is_file()


@pytest.mark.fault(43)
def test_a_run_in_another_time_zone_and_locale_records_iso_utc_and_decimal_points(both):
    for run in (both.abroad.run, both.watched.run):
        times = [run.record.started, run.record.sessions[0].started]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", time) for time in times)
        rows = (run.folder / "history.csv").read_text().splitlines()
        assert {len(row.split(",")) for row in rows} == {len(rows[0].split(","))}
        assert all(re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", cell) for row in rows[1:] for cell in row.split(","))
    apart = [datetime.fromisoformat(run.record.started).timestamp() for run in (both.abroad.run, both.watched.run)]
    assert abs(apart[0] - apart[1]) < 60, "and not 5 h 45 min, which Kathmandu is ahead"


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
    record = read_run(run.folder).record
    assert read_run(run.folder).finished
    assert record.started == first
    assert record.sessions[-1].started == "2001-01-01T00:00:00+00:00"
    assert record.train_seconds > 0
    seconds = [float(row["train_seconds"]) for row in files.read_rows(run.folder / "timing.csv")]
    assert seconds == sorted(seconds), "durations are not differences of that clock"
    assert here("status").code == 0


# ---- terminals and readers

@pytest.mark.fault(44)
def test_a_run_whose_reader_has_left_goes_on_quietly_to_its_end(both):
    assert both.abroad.code == 0
    assert both.abroad.text == ""
    assert both.abroad.run.finished


@pytest.mark.fault(44)
def test_the_bar_stays_within_a_terminal_of_20_columns(both):
    bars = re.findall(r"\r([^\r\n]+)", both.watched.text)
    assert bars, "there was a bar"
    assert max(map(len, bars)) <= COLUMNS, bars
    assert "Traceback" not in both.watched.text


@pytest.mark.fault(44)
def test_a_command_on_a_narrow_terminal(tmp_path):
    ours, theirs = terminal(COLUMNS)
    process = subprocess.Popen([sys.executable, "-m", "repro", "status"], stdout=theirs, stderr=theirs, stdin=theirs,
                               cwd=tmp_path, env=environment())
    os.close(theirs)
    blocks: list[bytes] = []
    read_all(ours, blocks)
    os.close(ours)
    assert process.wait(timeout=240) == 0
    assert b"".join(blocks)
    assert b"Traceback" not in b"".join(blocks)


@pytest.mark.fault(44)
def test_a_reader_of_one_line_is_no_error(tmp_path):
    """`repro status | head -1`."""
    process = subprocess.Popen([sys.executable, "-m", "repro", "status"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, cwd=tmp_path, env=environment())
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=240) == 0


@pytest.mark.fault(44)
def test_what_goes_into_a_pipe_has_no_control_codes(here):
    outcome = here("run", *TINY, "train.iterations=2")
    lists = [here(*command) for command in (["status"], ["table", "table6"], ["show", *TINY])]
    assert [text for one in (outcome, *lists) for text in one if not isinstance(text, int)
            and re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)] == []


@pytest.mark.slow
@pytest.mark.fault(53, 70)
def test_two_processes_without_standard_streams_train_and_import_nothing_of_the_current_folder(tmp_path):
    """`>&- 2>&- <&-`, as some daemons start a command; every package that a worker needs has a namesake here."""
    for name in ("hydra", "torch", "numpy", "repro", "tqdm", "yaml"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    command = [sys.executable, "-P", "-m", "repro", "run", *SYNTHETIC,
               "train.batch_norm_group=8", "devices=2", f"results={tmp_path / 'results'}"]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&- <&-', "sh", *command], cwd=tmp_path, env=environment(),
                          timeout=240, check=False)
    run, = scan(tmp_path / "results" / "runs")
    assert (done.returncode, run.finished) == (0, True)
    assert not (tmp_path / "executed").exists()


@pytest.mark.fault(64)
def test_a_run_whose_output_has_no_room_says_so_once_and_finishes(tmp_path):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "repro", "run", *SYNTHETIC], env=environment(
            REPRO_RESULTS=str(tmp_path)), stdout=full, stderr=subprocess.PIPE, text=True, timeout=240, check=False)
    run, = scan(tmp_path / "runs")
    assert (done.returncode, run.finished) == (0, True), done.stderr
    assert done.stderr == "standard output can't be written (No space left on device): what follows is not shown\n"


@pytest.mark.fault(64)
def test_a_command_whose_output_has_no_room_is_5_and_its_exit_code_needs_no_standard_error(tmp_path):
    def ended(*arguments: str, error: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
        with Path("/dev/full").open("w") as full:
            return subprocess.run([sys.executable, "-m", "repro", *arguments], env=environment(), stdout=full,
                                  stderr=full if error is None else error, text=True, check=False, cwd=tmp_path)
    says(ended("status"), 5, "can't read or write: No space left on device")
    ascii_alone = subprocess.run([sys.executable, "-m", "repro", "status", "--results", "/tmp/é"], capture_output=True,
                                 env=environment() | {"PYTHONIOENCODING": "ascii"}, text=True, check=False)
    assert "\\xe9" in ascii_alone.stdout + ascii_alone.stderr
    assert ended("lisst", error=None).returncode == 2


@pytest.mark.fault(60)
def test_a_current_folder_that_was_deleted_is_one_line(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    done = subprocess.run(["sh", "-c", 'rmdir "$1" && shift && exec "$@"', "sh", folder, sys.executable, "-P", "-m",
                           "repro", "status"], cwd=folder, env=environment(), capture_output=True, text=True,
                          check=False)
    says(done, 5, "the current folder was deleted", "cd")


@pytest.mark.fault(60)
def test_a_current_folder_that_is_deleted_later_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert display_path(tmp_path / "results") == str(tmp_path / "results")


@pytest.mark.fault(60)
def test_a_system_without_fcntl_is_one_line():
    done = subprocess.run([sys.executable, "-c", "import sys; sys.modules['fcntl'] = None; import repro.cli"],
                          env=environment(), capture_output=True, text=True, check=False)
    says(done, 2, "needs Linux or macOS", "WSL")


# ---- network

def test_a_run_on_synthetic_images_opens_no_connection(both):
    """TensorBoard's files included: nothing is sent anywhere, nothing listens."""
    assert both.watched.code == 0
    assert (both.watched.run.folder / "tensorboard").is_dir()
    assert both.network == ""


def test_the_watch_over_the_network_sees_a_connection(tmp_path):
    """The control."""
    (tmp_path / "reaching.py").write_text("import socket\nsocket.socket().connect_ex(('127.0.0.1', 9))\n")
    subprocess.run([sys.executable, "-c", WATCHED, str(tmp_path / "seen"), "reaching"], check=True, cwd=tmp_path,
                   env=environment(PYTHONPATH=str(tmp_path)))
    assert (tmp_path / "seen").read_text().startswith("socket.connect ")


def test_nothing_that_is_advised_or_started_listens_to_other_machines():
    sources = [TREE / "README.md", TREE / "CONTRIBUTING.md", TREE / "Makefile", *TREE.glob("repro/**/*.py"),
               *TREE.glob("repro/**/templates/*")]
    text = {path: path.read_text(encoding="utf-8") for path in sources if path.is_file()}
    assert [path for path, content in text.items() if re.search(r"bind_all|0\.0\.0\.0|--host", content)] == []
    assert "tensorboard --logdir results/runs" in text[TREE / "README.md"], "which binds to localhost by itself"


@pytest.mark.fault(35)
def test_the_meeting_place_of_processes_is_a_free_port_on_this_machine_alone(monkeypatch):
    with socket.socket() as usual, socket.socket() as named:
        with suppress(OSError):  # torch's usual port, if nobody else holds it
            usual.bind(("127.0.0.1", 29500))
        named.bind(("127.0.0.1", 0))
        named.listen()
        taken = named.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(taken))
        ports = {free_port() for _ in range(20)}
        assert not ports & {taken, 29500}
        with pytest.raises(torch.distributed.DistNetworkError, match=r"EADDRINUSE|in use"):
            torch.distributed.TCPStore("127.0.0.1", taken, 1, is_master=True)  # the control
        assert torch.distributed.TCPStore("127.0.0.1", ports.pop(), 1, is_master=True).port


# ---- users and permissions

@pytest.fixture
def locked() -> Iterator[Path]:
    """A folder that every user may read and none but its owner may write, below one that all may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "locked ü"
        folder.mkdir()
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


@pytest.fixture
def open_tree() -> None:
    """A skip where other users can't read this checkout, whose conf/ a command needs."""
    with ordinary_user():
        if not os.access(TREE / "conf" / "config.yaml", os.R_OK, effective_ids=True):
            pytest.skip("other users can't read this checkout")


@pytest.fixture
def as_nobody(open_tree, here, monkeypatch, tmp_path):
    """The command line as a user without rights, in this process: the kernel refuses, nothing is a stand-in.

    Once with all rights first, into another folder, so that all modules are loaded: another user may be unable to
    read this Python.
    """
    def call(*arguments: str, results: Path) -> Outcome:
        if arguments[0] != "data":
            here(*arguments)
        monkeypatch.setenv("REPRO_RESULTS", str(results))
        with ordinary_user():
            return here(*arguments)
    return call


@pytest.mark.fault(39)
@pytest.mark.parametrize("arguments", [["table", "table6"], ["figure", "short_figure1"], ["run", *TINY]],
                         ids=lambda words: words[0])
def test_a_results_folder_that_can_not_be_written_is_5_with_its_path(as_nobody, locked, arguments):
    says(as_nobody(*arguments, results=locked / "results"), 5, str(locked / "results"), "Permission denied")
    assert list(locked.iterdir()) == []


@pytest.mark.fault(39)
def test_a_command_that_only_reads_needs_no_right_to_write(as_nobody, locked):
    outcome = as_nobody("status", results=locked)
    assert (outcome.code, outcome.err) == (0, "")


@pytest.mark.fault(17)
@pytest.mark.parametrize("action", ["fetch", "verify"])
def test_a_data_folder_without_permission_is_5_with_its_path(as_nobody, locked, action, tmp_path):
    if action == "verify":
        locked.chmod(0)
    says(as_nobody("data", action, "cifar10", f"data.root={locked}", results=tmp_path), 5, str(locked),
         "Permission denied")
    locked.chmod(0o755)
    assert list(locked.iterdir()) == []


@pytest.mark.fault(17)
def test_a_run_whose_data_can_not_be_read_is_5_with_its_path(open_tree, direct, locked, monkeypatch):
    results = locked.parent / "results"
    results.mkdir()
    results.chmod(0o777)
    monkeypatch.setenv("REPRO_RESULTS", str(results))
    command = ["run", "experiment=cifar_resnet20", f"data.root={locked}"]
    assert direct(*command).code == 3, "the control: readable, and empty"
    shutil.rmtree(results / "runs", ignore_errors=True)
    locked.chmod(0)
    with ordinary_user():
        says(direct(*command), 5, str(locked), "Permission denied")
    assert not list(results.rglob("run.json"))


# ---- the record

@pytest.mark.fault(45)
def test_a_run_without_git_says_that_its_commit_is_unknown(both):
    code = both.abroad.run.record.sessions[0]
    assert (code.commit, code.dirty) == (None, None)
    assert code.repro


@pytest.mark.fault(45)
def test_uncommitted_changes_are_recorded(tmp_path, monkeypatch):
    """In a real repository, made here."""
    git = ["git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.invalid", "-C", str(tmp_path)]
    (tmp_path / "file").write_text("one")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    monkeypatch.setattr(provenance, "TREE", tmp_path)
    monkeypatch.setattr(provenance, "in_tree", lambda: True)
    clean = provenance.code_version()
    assert re.fullmatch(r"[0-9a-f]{40}", clean["commit"])
    assert clean["dirty"] is False
    (tmp_path / "file").write_text("two")
    assert provenance.code_version() == clean | {"dirty": True}
    shutil.rmtree(tmp_path / ".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.code_version() == clean | {"commit": None, "dirty": None}, "a tree without its repository"


def test_a_record_names_code_versions_device_threads_data_and_the_whole_configuration(both):
    record = both.watched.run.record
    session, environment = record.sessions[0], msgspec.to_builtins(record.environment)
    if (TREE / ".git").exists() and shutil.which("git"):
        assert re.fullmatch(r"[0-9a-f]{40}", session.commit)
        assert isinstance(session.dirty, bool)
    assert {"python", "torch", "torchvision", "hydra-core", "omegaconf", "numpy"} <= environment.keys()
    assert environment["torch"] == torch.__version__.split("+")[0]
    assert session.device == environment["device"]
    assert environment["threads"] == 1
    assert re.fullmatch(r"[0-9a-f]{64}", record.data.sha256)
    meant = to_dict(resolve(compose([*SYNTHETIC, "seed=1", "results=null", "devices=1"])))
    assert to_dict(record.config) | {"results": None} == meant
    assert socket.gethostname() not in (both.watched.run.folder / "run.json").read_text(), "and no name of a machine"


# ---- seeds, and going on in another way

@pytest.mark.fault(46)
def test_the_seed_is_0_if_none_is_given_and_whole_up_to_its_largest():
    assert compose(["experiment=cifar_resnet20"]).seed == 0
    assert compose(["experiment=cifar_resnet20", f"seed={2**32 - 1}"]).seed == 2**32 - 1


@pytest.mark.fault(47)
def test_another_mini_batch_is_another_run_and_never_goes_on_with_this_one(here, tmp_path):
    assert here("run", *TINY, "max_seconds=0.001").code == 75
    run, = scan(tmp_path / "results" / "runs")
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    outcome = here("run", *TINY, "train.mini_batch_size=32")
    assert outcome.code == 0
    assert "from the start" in outcome.out
    assert "train.mini_batch_size: 128 -> 32" in outcome.out
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before
    assert len(scan(tmp_path / "results" / "runs")) == 2
