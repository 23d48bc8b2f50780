"""`repro pending`: the order, the time limit, going on, and what it refuses. On made-up data."""

import os
import signal
import time

import pytest
import torch

from repro import commands as command
from repro.runs import read_run
from repro.training import train
from repro.training.step import TrainStep
from tests.made import tiny_data
from tests.outcome import says

FACTOR = float(os.environ.get("REPRO_TEST_TIME_FACTOR", "1"))  # larger on a slow or busy machine


@pytest.fixture
def quick(here, monkeypatch):
    """The command on 300 made-up images."""
    monkeypatch.setattr(train, "load_data", lambda *_: tiny_data(images=300))
    monkeypatch.setattr(command, "check_data", lambda root: None)
    return here


def test_a_dry_run_only_says_what_is_lacking(quick, tmp_path):
    outcome = quick("pending", "--dry-run")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0] == "full-length runs that results/reference lacks, cheapest first:"
    assert lines[1].split()[0] == "cifar_plain20/seed0"
    assert not (tmp_path / "results").exists()


FEW_FILES = ("machine.threads=1", "machine.tensorboard=false")


@pytest.fixture
def one_update(monkeypatch):
    """SIGTERM comes after the first update."""
    original = TrainStep.__call__

    def signalled(self):
        original(self)
        os.kill(os.getpid(), signal.SIGTERM)

    def begin():
        monkeypatch.setattr(TrainStep, "__call__", signalled)
    return begin


def test_it_stops_in_time_and_goes_on_where_it_was(quick, one_update, tmp_path):
    limit = 6 * FACTOR
    began = time.monotonic()
    outcome = quick("pending", "--most", "1", "--max-seconds", str(limit), *FEW_FILES)
    spent = time.monotonic() - began
    says(outcome, 75, "stopped by max_seconds at iteration", "go on with: ", "pending")
    assert f" pending --max-seconds {limit:g} {' '.join(FEW_FILES)}\n" in outcome.err
    assert spent < limit + 5 * FACTOR, "a step of a busy machine may come on top"
    run = read_run(tmp_path / "results" / "runs" / "cifar_plain20" / "seed0")
    first = run.record.iteration
    assert 0 < first < 64000
    assert run.record.deviations == []
    assert f"iteration {first} of 64000" in outcome.out
    one_update()
    again = quick("pending", *FEW_FILES)
    says(again, 75, f"stopped by SIGTERM at iteration {first + 1}")
    assert f"64000 iterations from iteration {first}" in again.out


def test_a_signal_saves_and_ends_with_75(quick, one_update, tmp_path):
    one_update()
    says(quick("pending", *FEW_FILES), 75, "stopped by SIGTERM at iteration 1")
    folder = tmp_path / "results" / "runs" / "cifar_plain20" / "seed0"
    assert torch.load(folder / "checkpoint-00000001.pt", weights_only=True)["counters"]["iteration"] == 1


@pytest.mark.parametrize(("words", "told"), [
    (["--max-seconds", "0"], ["--max-seconds 0"]),
    (["--max-seconds", "many"], ["--max-seconds"]),
    (["train.lrr=1"], ["unknown key 'train.lrr'", "train.lr"]),
    (["scale=0.1"], ["changes the numbers of cifar_plain20", "scale: 1.0 -> 0.1"]),
    (["machine.precision=bf16"], ["machine.precision"]),
    (["machine.device=tpu"], ["machine.device"]),
])
def test_what_would_not_count_is_refused(quick, words, told, tmp_path):
    says(quick("pending", *words), 2, *told)
    assert not (tmp_path / "results" / "runs").exists()


def test_without_the_data_set_it_says_where_it_looked(direct, tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "nothing"))
    says(direct("pending", "--max-seconds", "60"), 3, "CIFAR-10 is not in nothing", "data fetch cifar10")


@pytest.fixture
def asked(monkeypatch):
    """The runs that would be done."""
    from repro.training import suite

    found = []
    monkeypatch.setattr(suite, "run_each", lambda plans, stop: found.extend(plans) or [])
    return found


def test_runs_can_be_named_in_an_order_with_the_engine(quick, asked):
    order = "cifar_resnet56,cifar_plain20/seed0,cifar_resnet110/seed1,cifar_resnet56"
    assert quick("pending", "--runs", order, "engine=eager").code == 0
    assert [(plan.config.name, plan.config.seed) for plan in asked] == [
        ("cifar_resnet56", 0), ("cifar_plain20", 0), ("cifar_resnet110", 1)]
    assert {plan.config.engine.name for plan in asked} == {"eager"}
    assert asked[0].command[1:] == ("pending", "--runs", order, "engine=eager")


def test_an_experiment_that_is_named_means_all_its_lacking_seeds(quick, asked):
    assert quick("pending", "--runs", "cifar_resnet110", "--most", "4").code == 0
    assert [plan.config.seed for plan in asked] == [0, 1, 2, 3]


@pytest.mark.parametrize(("runs", "told"), [("cifar_resnet57", ["'cifar_resnet57' is no experiment", "cifar_resnet56"]),
                                            ("", ["'' is no experiment"])])
def test_a_run_that_there_is_not_is_refused(runs, told, quick):
    says(quick("pending", "--runs", runs), 2, *told)


def test_at_most_so_many_runs(quick, asked):
    assert quick("pending", "--most", "3").code == 0
    assert [plan.config.name for plan in asked] == ["cifar_plain20", "cifar_resnet20", "cifar_plain32"]
