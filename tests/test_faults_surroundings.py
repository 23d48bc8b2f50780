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
from typing import NamedTuple

import msgspec
import pytest
import torch

from repro import files, provenance
from repro.config import compose, to_dict
from repro.devices import resolve
from repro.paths import TREE
from repro.runs import Run, read_run, scan
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


def start(*words: str, **how) -> subprocess.CompletedProcess[str]:
    """A command with this process's variables and this tree to import from, to its end."""
    how = {"env": environment(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
    return subprocess.run(words, text=True, check=False, **how)


def environment(**changes: str) -> dict[str, str]:
    """This process's variables, the tree to import from, and these changes."""
    return os.environ | {"PYTHONPATH": str(TREE), "OMP_NUM_THREADS": "1"} | changes


class Both(NamedTuple):
    """Two runs that were started in the same second, and what was seen of them."""
    codes: tuple[int, int]
    complaint: str  # of the run abroad: another time zone and locale, no git, nobody reads its output
    abroad: Run
    shown: str  # by the other run, on a terminal of 20 columns
    watched: Run
    network: str  # its attempts to reach one


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Both:
    """Two short runs, on made-up and on synthetic images, begun at once, into a folder with an awkward name."""
    folder = tmp_path_factory.mktemp("both")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    reading, writing = os.pipe()
    os.close(reading)
    clean = {name: value for name, value in environment().items() if not name.startswith("REPRO_")}
    clean |= {"REPRO_RESULTS": str(folder / AWKWARD)}
    watched = subprocess.Popen(
        [sys.executable, "-c", WATCHED, str(folder / "network"), "repro", "run", *SYNTHETIC, "seed=1"], cwd=folder,
        env=clean, stdin=theirs, stdout=theirs, stderr=theirs)
    abroad = subprocess.Popen(
        [sys.executable, "-m", "tests.made_cli", "run", *TINY], cwd=folder,
        env=clean | {"TZ": "Asia/Kathmandu", "LC_ALL": "de_DE.UTF-8", "PATH": str(folder)},  # where no git is
        stdout=writing, stderr=subprocess.PIPE)
    os.close(theirs)
    os.close(writing)
    blocks: list[bytes] = []

    def read() -> None:
        with suppress(OSError):  # by which a terminal tells that its other end is closed
            while block := os.read(ours, 1 << 16):
                blocks.append(block)
    reader = threading.Thread(target=read)
    reader.start()
    complaint = abroad.communicate()[1].decode()
    watched.wait()
    reader.join()
    os.close(ours)
    found = {run.seed: run for run in scan(folder / AWKWARD / "runs")}
    network = (folder / "network").read_text() if (folder / "network").exists() else ""
    return Both((abroad.returncode, watched.returncode), complaint, found[0], b"".join(blocks).decode(), found[1],
                network)


@pytest.mark.fault(38, 43, 44, 45)
def test_two_runs_at_once_finish_wherever_they_are(both):
    assert both.codes == (0, 0), both
    assert both.complaint == "", "its reader has left"
    assert both.abroad.finished
    assert both.watched.finished
    assert both.abroad.folder != both.watched.folder
    records = both.abroad.record, both.watched.record
    for run, record in zip((both.abroad, both.watched), records, strict=True):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record.started)
        rows = (run.folder / "history.csv").read_text().splitlines()
        assert all(re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", cell) for row in rows[1:] for cell in row.split(","))
    apart = [datetime.fromisoformat(record.started).timestamp() for record in records]
    assert abs(apart[0] - apart[1]) < 3600, "and not 5 h 45 min, which Kathmandu is ahead"
    session = both.abroad.record.sessions[0]
    assert (session.commit, session.dirty) == (None, None), "without git they are unknown"
    assert session.repro


@pytest.mark.fault(39)
def test_a_results_folder_with_an_awkward_name_is_made_and_used(both, direct, monkeypatch):
    results = both.abroad.folder.parents[2]
    assert results.name == AWKWARD
    assert not (results.parent / "executed").exists()
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
    assert run.finished
    assert run.record.started == first
    assert run.record.sessions[-1].started == "2001-01-01T00:00:00+00:00"
    seconds = [float(row["train_seconds"]) for row in files.read_rows(run.folder / "timing.csv")]
    assert seconds[0] > 0
    assert seconds == sorted(seconds), "durations are not differences of that clock"


# ---- terminals, readers, the current folder

@pytest.mark.fault(44)
def test_the_bar_stays_within_a_terminal_of_20_columns(both):
    bars = re.findall(r"\r([^\r\n]+)", both.shown)
    assert bars, "there was a bar"
    assert max(map(len, bars)) <= COLUMNS, bars


@pytest.mark.fault(44)
def test_a_reader_of_one_line_is_no_error(tmp_path):
    """`repro status | head -1`."""
    with subprocess.Popen([sys.executable, "-m", "repro", "status"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          cwd=tmp_path, env=environment()) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.fault(44)
def test_what_goes_into_a_pipe_has_no_control_codes(here):
    outcomes = [here(*command) for command in (
        ["run", *TINY, "train.iterations=2"], ["status"], ["table", "table6"], ["show", *TINY])]
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
               "repro", "status", cwd=tmp_path / "gone"), 5, "the current folder was deleted", "change to one")
    says(start(sys.executable, "-c", "import sys; sys.modules['fcntl'] = None; import repro.cli"), 2,
         "needs Linux or macOS", "WSL")


# ---- network

def test_a_run_on_synthetic_images_opens_no_connection(both, tmp_path):
    """TensorBoard's files included: nothing is sent anywhere, nothing listens."""
    assert (both.watched.folder / "tensorboard").is_dir()
    assert both.network == ""
    (tmp_path / "reaching.py").write_text("import socket\nsocket.socket().connect_ex(('127.0.0.1', 9))\n")
    start(sys.executable, "-c", WATCHED, str(tmp_path / "seen"), "reaching", env=environment(PYTHONPATH=str(tmp_path)))
    assert (tmp_path / "seen").read_text().startswith("socket.connect "), "the control"


@pytest.mark.fault(35)
def test_the_meeting_place_of_processes_is_a_free_port_on_this_machine_alone(monkeypatch):
    with socket.socket() as named:
        named.bind(("127.0.0.1", 0))
        named.listen()
        taken = named.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(taken))
        ports = {free_port() for _ in range(20)}
        assert taken not in ports
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
def as_nobody(direct, monkeypatch):
    """The command line as a user without rights, in this process: the kernel refuses, nothing is a stand-in.

    Once with all rights first, so that all modules are loaded. A skip where other users can't read this checkout, or
    for a run this Python, as in a private home folder.
    """
    def call(*arguments: str, results: Path) -> Outcome:
        with ordinary_user():
            needed = [TREE / "conf" / "config.yaml", *([Path(torch.__file__)] if arguments[0] == "run" else [])]
            if not all(os.access(path, os.R_OK, effective_ids=True) for path in needed):
                pytest.skip("other users can't read this checkout, or this Python")
        direct(*arguments)
        monkeypatch.setenv("REPRO_RESULTS", str(results))
        with ordinary_user():
            return direct(*arguments)
    return call


@pytest.mark.fault(39)
@pytest.mark.parametrize("arguments", [["table", "table6"], ["run", *TINY]], ids=lambda words: words[0])
def test_a_results_folder_that_can_not_be_written_is_5_with_its_path(here, as_nobody, locked, arguments):
    says(as_nobody(*arguments, results=locked / "results"), 5, str(locked / "results"), "Permission denied")
    assert list(locked.iterdir()) == []
    outcome = as_nobody("status", results=locked)
    assert (outcome.code, outcome.err) == (0, ""), "a command that only reads needs no right to write"


@pytest.mark.fault(17)
@pytest.mark.parametrize("arguments", [["data", "verify", "cifar10"], ["run", "experiment=cifar_resnet20"]],
                         ids=lambda words: words[0])
def test_a_data_folder_without_permission_is_5_with_its_path(as_nobody, locked, direct, arguments):
    results = locked.parent / "results"
    results.mkdir()
    results.chmod(0o777)
    words = [*arguments, f"data.root={locked}"]
    assert direct(*words).code == 3, "the control: readable, and empty"
    locked.chmod(0)
    says(as_nobody(*words, results=results), 5, str(locked), "Permission denied")
    assert not list(results.rglob("run.json"))


# ---- the record

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


def test_a_record_names_versions_device_threads_data_and_the_whole_configuration(both):
    record = both.watched.record
    environment = msgspec.to_builtins(record.environment)
    assert {"python", "torch", "torchvision", "hydra-core", "omegaconf", "numpy"} <= environment.keys()
    assert environment["torch"] == torch.__version__.split("+")[0]
    assert (record.sessions[0].device, environment["threads"]) == (environment["device"], 1)
    assert re.fullmatch(r"[0-9a-f]{64}", record.data.sha256)
    meant = to_dict(resolve(compose([*SYNTHETIC, "seed=1", "results=null", "devices=1"])))
    assert to_dict(record.config) | {"results": None} == meant
    assert socket.gethostname() not in (both.watched.folder / "run.json").read_text(), "and no name of a machine"


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
