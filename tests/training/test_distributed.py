"""Two processes that train one network: the same numbers as one, a killed one, signals, other numbers of processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import ProcessExitedException

from repro import files, runs
from repro.config import compose
from repro.devices import resolve
from repro.errors import ConfigError, DivergedError, LostProcessError, PeerError
from repro.models import build_model
from repro.training import checkpoint, launch
from repro.training.distributed import World, first_host, join, rank_from_environment
from repro.training.launch import failure, free_port
from repro.training.plan import check_shares, count_processes, plan
from repro.training.step import batch_norm_group, sync_batch_norm
from tests.made import tiny_config
from tests.made_images import SMOKE, make_folder
from tests.warm import complete

SHORT = ("train.iterations=24", "train.lr_drops=[16]", "train.lr=0.003", "evaluation.interval=4",
         "machine.checkpoint_seconds=3600")
# So few and small steps that rounding does not grow: it does, tenfold in a step, where statistics come from 8 images.
STEADY = (*SHORT, "train.iterations=4", "train.lr=1e-5", "evaluation.interval=2")
QUICK = ("experiment=cifar_resnet20", "data=synthetic", "machine.device=cpu", "train.batch_norm_group=64")
LONG = (*SHORT, "train.iterations=5000", "devices=2", "machine.checkpoint_seconds=1")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images") / "set")


def command(images: Path, results: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "repro", "run", "experiment=imagenet_optB", *SMOKE, f"data.root={images}",
            f"results={results}", *overrides]


def start(words: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    try:
        out, error = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert process.returncode == code, out + error
    return out + error


def the_run(results: Path) -> runs.Run:
    return runs.read_run(next((results / "runs").glob("*/seed0")))


def wait_for_iteration(results: Path, iteration: int) -> Path:
    """Wait until a run's history has come so far; its folder."""
    until = time.monotonic() + 500
    while time.monotonic() < until:
        for path in (results / "runs").glob("*/seed0/history.csv"):
            if any(row["iteration"] >= iteration for row in files.read_history(path)):
                return path.parent
        time.sleep(0.05)
    raise AssertionError("the run does not come that far")


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


@pytest.fixture(scope="module")
def alone(images, tmp_path_factory) -> runs.Run:
    """A steady run by one process."""
    results = tmp_path_factory.mktemp("alone")
    done = complete(*command(images, results, *STEADY)[3:], cwd=results, env=os.environ)
    assert done.returncode == 0, done.stderr
    return the_run(results)


@pytest.fixture(scope="module")
def both(images, tmp_path_factory) -> runs.Run:
    """The same by two processes, which meet on this machine whatever the environment says."""
    results = tmp_path_factory.mktemp("both")
    finish(start(command(images, results, *STEADY, "devices=2"), MASTER_PORT="29500", MASTER_ADDR="example.invalid"))
    return the_run(results)


@pytest.fixture(scope="module")
def together(images, tmp_path_factory) -> runs.Run:
    """The short run by two processes that torchrun started; what our own launcher starts must do the same."""
    results = tmp_path_factory.mktemp("together")
    said = finish(start([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
                         *command(images, results, *SHORT)[1:]]))
    assert (said.count("iterations from the start"), said.count("iteration 4/24")) == (1, 1), "one speaks for both"
    return the_run(results)


@pytest.mark.fault(35)
def test_two_processes_have_the_losses_of_one_within_rounding(alone, both):
    ours, theirs = both.history(), alone.history()
    assert [row["iteration"] for row in ours] == [2, 4]
    for own, other in zip(ours, theirs, strict=True):
        assert own["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
        assert own["val_loss"] == pytest.approx(other["val_loss"], rel=1e-4)
        assert own["train_top1_error"] == other["train_top1_error"]
    assert ours[0]["train_loss"] != pytest.approx(ours[1]["train_loss"], rel=1e-3), "the losses do change"


def test_two_processes_change_the_weights_and_statistics_as_one_does(alone, both):
    own, other = (torch.load(run.folder / "weights.pt", weights_only=True) for run in (both, alone))
    initial = build_model(alone.record.config.model, 0, 8).state_dict()
    for name, before in initial.items():
        change, expected = own[name].double() - before, other[name].double() - before
        assert float((change - expected).norm()) <= 5e-3 * float(expected.norm()), name


def test_the_record_names_the_processes_and_is_of_the_same_identity(alone, both):
    assert both.record.environment.devices == 2
    assert both.identity == alone.identity
    assert both.record.data == alone.record.data


def raise_in_rank_one(plan, stop):
    """The training of two processes, of which one has a fault that nobody knows of."""
    if os.environ["RANK"] == "1":
        raise ValueError("something odd")
    time.sleep(60)


@pytest.mark.fault(34)
def test_an_unexpected_error_of_one_is_named_and_ends_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "PATIENCE", 0.5)
    began = time.monotonic()
    with pytest.raises(LostProcessError, match=r"process 1 of 2 failed: ValueError: something odd\n"
                                               "what was saved before stays; go on with: repro run"):
        launch.launch(plan(tiny_config("devices=2", "train.batch_norm_group=8", f"results={tmp_path}")),
                      raise_in_rank_one)
    assert time.monotonic() - began < 50


def process_of(rank: int, launcher: subprocess.Popen[str]) -> int:
    """The pid of one of the processes that a launcher has started, in this order."""
    return [pid for pid in sorted(children_of(launcher.pid))
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()][rank]


@pytest.mark.slow
@pytest.mark.fault(34)
def test_one_that_is_killed_stops_all_and_is_named(images, tmp_path):
    process = start(command(images, tmp_path, *LONG, "machine.timeout_seconds=600", "machine.checkpoint_seconds=0"))
    wait_for_iteration(tmp_path, 8)
    leader, victim = (process_of(rank, process) for rank in (0, 1))
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    text = finish(process, 1)
    assert time.monotonic() - began < 300
    assert f"process 1 of 2 (pid {victim}) died of SIGKILL; the others were stopped" in text
    assert "go on with: " in text
    assert "Traceback" not in text
    assert not Path(f"/proc/{leader}").exists()
    assert len(checkpoint.list_checkpoints(the_run(tmp_path).folder)) >= 1, "the last checkpoint is intact"


@pytest.mark.slow
@pytest.mark.fault(68)
def test_a_launcher_that_is_killed_in_its_first_second_leaves_nobody_behind(tmp_path):
    """Its processes have not come to import torch yet."""
    process = start([sys.executable, "-m", "repro", "run", *QUICK, "devices=2", "train.iterations=1000000",
                     f"results={tmp_path}"])
    left: list[int] = []
    until = time.monotonic() + 120
    while len(left) < 3 and time.monotonic() < until:  # two workers and Python's tracker of resources
        left = children_of(process.pid)
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=240)
    while left and time.monotonic() < until:
        left = [pid for pid in left if Path(f"/proc/{pid}").exists()]
        time.sleep(0.05)
    assert left == []
    assert not list(tmp_path.glob("runs/*/*/run.json"))


@pytest.mark.slow
@pytest.mark.fault(34)
def test_one_that_hangs_is_named_after_the_timeout(images, tmp_path):
    process = start(command(images, tmp_path, *LONG, "machine.timeout_seconds=15"))
    wait_for_iteration(tmp_path, 4)
    hanging = process_of(1, process)
    os.kill(hanging, signal.SIGSTOP)
    text = finish(process, 1)
    assert f"process 1 of 2 (pid {hanging}) did not answer for 15 s" in text
    assert not Path(f"/proc/{hanging}").exists()


@pytest.mark.slow
@pytest.mark.fault(22, 47)
def test_a_signal_stops_all_with_one_state_and_as_many_go_on_exactly(images, tmp_path, together):
    results = tmp_path / "results"
    process = start(command(images, results, *SHORT, "devices=2"))
    folder = wait_for_iteration(results, 4)
    process.send_signal(signal.SIGTERM)
    text = finish(process, 75)
    assert text.count("stopped by SIGTERM at iteration") == 1
    assert the_run(results).status == "interrupted"
    shutil.copytree(folder.parents[2], tmp_path / "copy")
    finish(start(command(images, results, *SHORT, "devices=2")))
    assert (folder / "history.csv").read_bytes() == (together.folder / "history.csv").read_bytes()
    own, other = (torch.load(run / "weights.pt", weights_only=True) for run in (folder, together.folder))
    assert all(torch.equal(own[name], other[name]) for name in other)
    text = finish(start(command(images, tmp_path / "copy", *SHORT)))
    assert "devices 2 until now, 1 from here on" in text
    other_number = the_run(tmp_path / "copy")
    assert other_number.finished
    assert other_number.history()[0] == together.history()[0], "what was done by two stays"


@pytest.mark.slow
@pytest.mark.fault(34)
def test_an_error_of_the_leader_is_one_message_and_its_exit_code(images, tmp_path):
    text = finish(start(command(tmp_path / "nowhere", tmp_path, *SHORT, "devices=2")), 3)
    assert text.count("repro: ") == 1
    assert "nowhere" in text


# ---- without processes

@pytest.mark.fault(7)
def test_more_devices_than_there_are_is_an_error():
    with pytest.raises(ConfigError, match="4 asked, 1 found"):
        resolve(compose(["experiment=imagenet_optB", "devices=4", "machine.device=auto"]))
    assert count_processes(compose(["experiment=imagenet_optB", "devices=2", "machine.device=cpu"])) == 2
    assert count_processes(compose(["experiment=imagenet_optB", "machine=ddp", "machine.device=cpu"])) == 1


@pytest.mark.parametrize("engine", ["graph", "compile"])
def test_engines_of_one_device_are_refused_for_several(engine):
    with pytest.raises(ConfigError, match=f"engine={engine}"):
        resolve(compose(["experiment=imagenet_optB", "devices=2", "machine.device=cpu", f"engine={engine}"]))


def test_srun_and_torchrun_tell_who_a_process_is(monkeypatch):
    assert rank_from_environment() is None
    for name, value in {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}.items():
        monkeypatch.setenv(name, value)
    assert rank_from_environment() == (3, 8, 1)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert rank_from_environment() == (1, 2, 1)
    with pytest.raises(ConfigError, match="devices=4"):
        count_processes(tiny_config("devices=4"))
    assert count_processes(tiny_config()) == 2
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(ConfigError, match="RANK=x"):
        rank_from_environment()


@pytest.mark.fault(49)
def test_devices_1_is_one_process_whoever_started_it(monkeypatch):
    for name, value in {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1"}.items():
        monkeypatch.setenv(name, value)
    config = tiny_config("devices=1")
    assert count_processes(config) == 1
    assert join(config).size == 1


def both_ranks(tmp_path, *own: Sequence[str]) -> list[str]:
    """Two tasks of srun with words of their own, which fail with 2 long before the timeout: what each says."""
    began = time.monotonic()
    processes = [start([sys.executable, "-m", "repro", "run", *QUICK, f"results={tmp_path}",
                        "machine.timeout_seconds=600", *mine],
                       SLURM_PROCID=str(rank), SLURM_STEP_NUM_TASKS="2", SLURM_STEP_NODELIST="localhost",
                       MASTER_PORT=str(port))
                 for port in [free_port()] for rank, mine in enumerate(own)]
    said = [finish(process, 2) for process in processes]
    assert time.monotonic() - began < 300, "half of machine.timeout_seconds"
    assert not list(tmp_path.glob("runs/*/*/run.json"))
    assert not [text for text in said if "frame #" in text or "Traceback" in text]
    return said


@pytest.mark.fault(49)
def test_processes_that_were_asked_for_different_runs_all_end_with_both_values(tmp_path):
    for text in both_ranks(tmp_path, ["seed=30"], ["seed=31", "train.lr=0.2", "data.root=/elsewhere"]):
        assert "seed: 30 in process 0, 31 in process 1\n" in text
        assert "train.lr: 0.1 in process 0, 0.2 in process 1\n" in text
        assert "data.root: None in process 0, /elsewhere in process 1\n" in text


@pytest.mark.fault(61)
@pytest.mark.parametrize(("bad", "flags"), [(0, []), pytest.param(1, ["-m"], marks=pytest.mark.slow)])
def test_one_that_fails_its_configuration_ends_the_others_with_its_message(tmp_path, bad, flags):
    own = [flags, flags]
    own[bad] = [*flags, "model.depth=9" if bad == 0 else "train.lr=abc"]
    reason = "model.depth=9: allowed is 6n+2" if bad == 0 else "train.lr=abc: allowed is a number"
    said = both_ranks(tmp_path, *own)
    assert f"repro: {reason}" in said[bad]
    assert f"repro: process {bad} of 2: {reason}" in said[1 - bad]


def test_the_shares_of_a_mini_batch_are_disjoint_and_all_of_it():
    shares = [World(rank, 4).share(32) for rank in range(4)]
    assert [place for share in shares for place in range(32)[share]] == list(range(32))
    with pytest.raises(ConfigError, match=r"train\.mini_batch_size=30"):
        World(0, 4).share(30)


def test_statistics_over_more_images_than_a_process_has_need_a_gpu():
    config = tiny_config("train.batch_norm_group=16")
    assert batch_norm_group(config, 2) == 0
    assert batch_norm_group(tiny_config("train.batch_norm_group=4"), 2) == 4
    with pytest.raises(ConfigError, match=r"train\.batch_norm_group=16.*train\.batch_norm_group=8 is possible"):
        check_shares(config, 2)
    with pytest.raises(ConfigError, match=r"train\.mini_batch_size=16: must be a multiple of devices=3"):
        check_shares(config, 3)
    with pytest.raises(ConfigError, match=r"train\.batch_norm_group=8: .*each has 4.*its divisors, and all 16"):
        check_shares(tiny_config("train.batch_norm_group=8"), 4)
    check_shares(tiny_config("train.batch_norm_group=8"), 2)
    model = torch.nn.BatchNorm2d(3)
    assert sync_batch_norm(model, tiny_config("train.batch_norm_group=8"), 2) is model
    assert isinstance(sync_batch_norm(model, config, 2), torch.nn.SyncBatchNorm)


def test_the_first_of_slurms_hosts(monkeypatch):
    assert first_host("node1,node2") == first_host("node1") == "node1"
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="set MASTER_ADDR"):
        first_host("node[1-4]")


def test_the_one_that_ended_badly_is_named_and_not_those_who_waited_for_it():
    planned, lost = plan(tiny_config(), ["repro", "run", "x=1", "resume=never"]), PeerError("gone")

    def error_of(rank, code, *answers):
        said = {number: answer for number, answer in enumerate(answers) if answer is not None}
        return failure(planned, ProcessExitedException("", rank, 10 + rank, code), said, [10, 11, 12])
    assert "process 1 of 3 (pid 11) ended with exit code 9" in str(error_of(1, 9, lost, None, None))
    assert "process 1 of 3 (pid 11) died of SIGKILL" in str(error_of(1, -9, lost, None, lost))
    assert "process 2 of 3 (pid 12) did not answer" in str(error_of(0, 1, lost, lost, None))
    assert "process 1 of 3 (pid 11) did not answer" in str(error_of(0, -signal.SIGABRT, None, None, None))
    assert str(error_of(0, -9, None, None, None)).endswith("go on with: repro run x=1")
    assert str(error_of(1, 1, lost, LostProcessError("a reader"), None)) == "a reader"
    assert error_of(1, 1, DivergedError("inf"), lost, None).exit_code == 6
