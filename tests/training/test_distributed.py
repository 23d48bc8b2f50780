"""Two processes that train one network: the same numbers as one, a killed one, signals, other numbers of processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from repro import files, runs
from repro.config import compose
from repro.devices import resolve
from repro.errors import ConfigError, DivergedError, LostProcessError, PeerError
from repro.models import build_model
from repro.schema import Device
from repro.training import checkpoint, distributed, step
from repro.training.distributed import World, check_shares, count_processes, plan, rank_from_environment
from tests.made import run_config, tiny_config, tiny_data, with_machine
from tests.training.conftest import same_end, weights_of
from tests.warm import complete

# 8 layers on synthetic images. Steady: so few and small steps that rounding does not grow: it does, tenfold in a step.
WORDS = ("experiment=cifar_resnet20", "data=synthetic", "machine.device=cpu", "model.depth=8", "machine.threads=1",
         "train.mini_batch_size=16", "train.batch_norm_group=8", "machine.tensorboard=false",
         "evaluation.responses=false", "evaluation.batch_norm_images=0", "evaluation.gradient_iterations=[]",
         "machine.checkpoint_seconds=3600")
STEADY = (*WORDS, "train.iterations=4", "train.lr=1e-5", "train.lr_drops=[]", "evaluation.interval=4")
SHORT = (*WORDS, "train.iterations=12", "train.lr_drops=[8]", "train.lr=0.003", "evaluation.interval=4")
LONG = (*WORDS, "train.iterations=5000", "evaluation.interval=4", "machine.checkpoint_seconds=0", "devices=2")


def start(*words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    out, error = process.communicate(timeout=600)
    assert process.returncode == code, out + error
    return out + error


def the_run(results: Path) -> runs.Run:
    return runs.read_run(next((results / "runs").glob("*/seed0")))


def wait_for_a_test(process: subprocess.Popen[str], results: Path) -> Path:
    """Wait until the history of a process's run has a row; its folder."""
    while not (found := [path for path in results.glob("runs/*/seed0/history.csv") if files.read_history(path)]):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return found[0].parent


def children_of(process: subprocess.Popen[str]) -> list[int]:
    return sorted(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))


@pytest.mark.fault(35)
def test_two_processes_train_as_one_within_rounding(tmp_path, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "example.invalid")
    monkeypatch.setenv("MASTER_PORT", "29500")
    one, two = (run_config(compose([*STEADY, f"devices={number}", f"results={tmp_path / str(number)}"]))
                for number in (1, 2))
    assert [row["iteration"] for row in two.history()] == [4]
    for own, other in zip(two.history(), one.history(), strict=True):
        assert own["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
        assert own["test_loss"] == pytest.approx(other["test_loss"], rel=1e-4)
        assert own["train_top1_error"] == other["train_top1_error"]
    for name, before in build_model(one.record.config.model, 0, 8).state_dict().items():
        change, expected = (weights_of(run)[name].double() - before for run in (two, one))
        assert float((change - expected).norm()) <= 5e-3 * float(expected.norm()), name
    assert two.record.environment.devices == 2
    assert (two.identity, two.record.data) == (one.identity, one.record.data)


@pytest.mark.slow
@pytest.mark.fault(22, 47)
def test_a_signal_stops_all_with_one_state_and_as_many_go_on_exactly(tmp_path):
    """Left alone under torchrun, interrupted under our own launcher: the same, bit for bit."""
    said = finish(start("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "repro", "run",
                        *SHORT, f"results={tmp_path / 'alone'}"))
    assert (said.count("iterations from the start"), said.count("iteration 4/12")) == (1, 1), "one speaks for both"
    results = tmp_path / "results"
    command = ("-m", "repro", "run", *SHORT, f"results={results}", "devices=2")
    process = start(*command)
    wait_for_a_test(process, results)
    process.send_signal(signal.SIGTERM)
    assert finish(process, 75).count("stopped by SIGTERM at iteration") == 1
    assert the_run(results).status == "interrupted"
    shutil.copytree(results, tmp_path / "copy")
    finish(start(*command))
    assert same_end(the_run(results), the_run(tmp_path / "alone"))
    done = complete("run", *SHORT, f"results={tmp_path / 'copy'}", cwd=tmp_path, env=os.environ)
    assert "devices 2 until now, 1 from here on" in done.stdout
    assert the_run(tmp_path / "copy").finished


def raise_in_rank_one(plan, stop):
    if os.environ["RANK"] == "1":
        raise ValueError(f"something odd among {os.environ['LOCAL_WORLD_SIZE']}")
    time.sleep(60)


@pytest.mark.slow
@pytest.mark.fault(34)
def test_an_unexpected_error_of_one_is_named_and_ends_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "GRACE", 0.5)
    with pytest.raises(LostProcessError, match="process 1 of 2 failed: ValueError: something odd among 2\ngo on"):
        distributed.launch(plan(tiny_config("devices=2", "train.batch_norm_group=8", f"results={tmp_path}")),
                           raise_in_rank_one)


@pytest.mark.slow
@pytest.mark.fault(34)
@pytest.mark.parametrize(("number", "words", "what"), [
    (signal.SIGKILL, ["machine.timeout_seconds=600"], "terminated with signal SIGKILL; the others were stopped"),
    (signal.SIGSTOP, ["machine.timeout_seconds=15"], "did not answer for 15 s")])
def test_one_that_is_killed_or_hangs_stops_all_and_is_named(number, words, what, tmp_path):
    process = start("-m", "repro", "run", *LONG, *words, f"results={tmp_path}")
    folder = wait_for_a_test(process, tmp_path)
    workers = [pid for pid in children_of(process) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(workers[1], number)
    text = finish(process, 1)
    assert f"process 1 {what}" in text
    assert "go on with: " in text
    assert "Traceback" not in text
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    assert checkpoint.list_checkpoints(folder), "the last checkpoint is intact"


@pytest.mark.slow
@pytest.mark.fault(68)
def test_a_launcher_that_is_killed_in_its_first_second_leaves_nobody_behind(tmp_path):
    """Its processes have not come to import torch yet."""
    process = start("-m", "repro", "run", *LONG, f"results={tmp_path}")
    left: list[int] = []
    until = time.monotonic() + 120
    while len(left) < 3 and time.monotonic() < until:  # two workers and Python's tracker of resources
        left = children_of(process)
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=240)
    while left and time.monotonic() < until:
        left = [pid for pid in left if Path(f"/proc/{pid}").exists()]
        time.sleep(0.05)
    assert left == []
    assert not list(tmp_path.glob("runs/*/*/run.json"))


@pytest.mark.slow
@pytest.mark.fault(49)
def test_processes_that_were_asked_for_different_runs_end_with_both_values(tmp_path):
    """Two tasks of srun."""
    port = str(distributed.free_port())
    processes = [start("-m", "repro", "run", *STEADY, f"results={tmp_path}", f"seed={30 + rank}", MASTER_PORT=port,
                       SLURM_PROCID=str(rank), SLURM_STEP_NUM_TASKS="2", SLURM_STEP_NODELIST="localhost")
                 for rank in (0, 1)]
    for process in processes:
        assert "asked for different runs (seed: 30 and 31); devices=1" in finish(process, 2)
    assert not list(tmp_path.glob("runs/*/*/run.json"))


@pytest.mark.fault(7)
def test_more_devices_than_there_are_is_an_error():
    with pytest.raises(ConfigError, match="4 asked, 1 found"):
        resolve(compose(["experiment=imagenet_optB", "devices=4", "machine.device=auto"]))
    assert count_processes(compose(["experiment=imagenet_optB", "devices=2", "machine.device=cpu"])) == 2
    assert count_processes(compose(["experiment=imagenet_optB", "machine=ddp", "machine.device=cpu"])) == 1
    with pytest.raises(ConfigError, match="engine=graph"):
        resolve(compose(["experiment=imagenet_optB", "devices=2", "machine.device=cpu", "engine=graph"]))


@pytest.mark.fault(49)
def test_srun_and_torchrun_tell_who_a_process_is_unless_it_is_to_be_alone(monkeypatch):
    assert rank_from_environment() is None
    srun = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}
    monkeypatch.setattr(os, "environ", srun)
    assert rank_from_environment() == (3, 8, 1)
    monkeypatch.setattr(os, "environ", srun | {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"})
    assert rank_from_environment() == (1, 2, 1)
    with pytest.raises(ConfigError, match="devices=4"):
        count_processes(tiny_config("devices=4"))
    assert count_processes(tiny_config()) == 2
    assert count_processes(tiny_config("devices=1")) == 1
    assert distributed.join(tiny_config("devices=1")).size == 1


@pytest.mark.parametrize(("hosts", "first"), [
    ("node1,node2", "node1"), ("n[01-04,07],other", "n01"), ("a,b[1-2]", "a"), ("alone", "alone")])
def test_the_tasks_of_srun_meet_on_the_first_host(monkeypatch, hosts, first):
    monkeypatch.setattr(os, "environ", {"SLURM_STEP_NODELIST": hosts, "SLURM_JOB_ID": "10003", "SLURM_STEP_ID": "1"})
    distributed.set_meeting_point()
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == (first, "20100")


def test_statistics_over_more_images_than_a_process_has_need_a_gpu(monkeypatch):
    config = tiny_config("train.batch_norm_group=16")
    with pytest.raises(ConfigError, match=r"train\.batch_norm_group=16: .*each has 8 .* allowed are its divisors$"):
        check_shares(config, 2)
    check_shares(with_machine(config, device=Device.cuda), 2)
    with pytest.raises(ConfigError, match=r"train\.mini_batch_size=16: must be a multiple of devices=3"):
        check_shares(config, 3)
    with pytest.raises(ConfigError, match=r"train\.batch_norm_group=8: .*each has 4.*its divisors, and all 16"):
        check_shares(with_machine(tiny_config("train.batch_norm_group=8"), device=Device.cuda), 4)
    monkeypatch.setattr(step, "DistributedDataParallel", lambda model, **_: model)
    for group, kind in ((4, "GroupedBatchNorm2d"), (8, "BatchNorm2d"), (16, "SyncBatchNorm")):
        config = tiny_config(f"train.batch_norm_group={group}")
        model = build_model(config.model, 0, step.batch_norm_group(config, 2))
        one, two = (step.TrainStep(model, tiny_data(), config, World(rank, 2)) for rank in (0, 1))
        assert {type(layer).__name__ for layer in two.norms} == {kind}
        assert [*one.places, *two.places] == list(range(16))


def test_the_one_that_was_lost_is_named_and_not_those_who_waited_for_it():
    planned = plan(tiny_config("machine.timeout_seconds=15"), ["repro", "run", "x=1", "resume=never"])
    lost = PeerError("gone")
    killed = ProcessExitedException("process 1 terminated with signal SIGKILL", 1, 11, -9)
    assert str(distributed.failure(planned, killed, {0: lost})).endswith(
        "process 1 terminated with signal SIGKILL; the others were stopped\ngo on with: repro run x=1")
    waited, planned = ProcessRaisedException("", 0, 10), replace(planned, devices=2)
    assert "process 1 did not answer for 15 s" in str(distributed.failure(planned, waited, {0: lost}))
    assert distributed.failure(planned, waited, {0: lost, 1: DivergedError("inf")}).exit_code == 6


def test_what_the_first_process_finds_or_fails_with_reaches_all_and_it_alone_decides_to_save(monkeypatch):
    sent = []

    def broadcast(answer, **_):  # first by process 0, then by process 1
        if sent:
            answer[:] = sent.pop()
        else:
            sent.append([*answer])

    def fail():
        raise ConfigError("not this way")
    monkeypatch.setattr(distributed.dist, "broadcast_object_list", broadcast)
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda tensor: None)
    assert [World(rank, 2).from_main(lambda rank=rank: f"of {rank}") for rank in (0, 1)] == ["of 0", "of 0"]
    for rank in (0, 1):
        with pytest.raises(ConfigError, match="not this way"):
            World(rank, 2).from_main(fail if rank == 0 else pytest.fail)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [World(rank, 2).agree(True, True, 1, cpu) for rank in (0, 1)] == [(True, True), (True, False)]
    assert World(0, 2).agree(True, True, 11, cuda) == (False, False), "not all of them may have come so far"


def test_each_process_goes_on_with_its_own_statistics_and_another_number_with_the_mean(monkeypatch):
    monkeypatch.setattr(step, "DistributedDataParallel", lambda model, **_: model)
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda tensor: None)
    config = tiny_config("train.batch_norm_group=4")
    one, two, alone, fourth = (step.TrainStep(build_model(config.model, 0, 4), tiny_data(), config, World(*world))
                              for world in ((0, 2), (1, 2), (0, 1), (3, 4)))
    state = one.state()
    state["statistics"][:] = torch.tensor([[1.0], [3.0]])
    for own, value in ((one, 1), (two, 3), (alone, 2), (fourth, 2)):
        own.load_state(state)
        assert {float(buffer.mean()) for buffer in step.running_statistics(own.model)} == {value}
