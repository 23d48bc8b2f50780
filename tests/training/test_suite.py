"""Suites: what runs, what leaves the others alone, tests and ensembles afterwards, costs, and what is pending."""

import os
import signal
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from repro.config import compose
from repro.devices import autocast
from repro.errors import ConfigError, DivergedError, InUseError, OutOfMemoryError, Stopped
from repro.files import hold_lock
from repro.models import build_model
from repro.paper import ensemble
from repro.paper import suite as read_suite
from repro.paths import TREE
from repro.runs import read_run
from repro.schema import Precision
from repro.stopping import StopRequest
from repro.training import suite as module
from repro.training.distributed import plan
from repro.training.step import TrainStep
from tests.made import tiny_config, tiny_data
from tests.outcome import says

COMMAND = ["repro", "suite", "imagenet_deeper", "resume=never"]
DEEPER = read_suite("imagenet_deeper")
MEMBERS = [(one.experiment, one.seed) for one in ensemble("table5").members]


@pytest.fixture
def finished(monkeypatch):
    """`finished(members, during)` makes these runs finished ones; tests, of which `during` is called, are listed."""
    def call(members, during=lambda: None) -> tuple[list, list]:
        plans = [plan(compose([f"experiment={name}", f"seed={seed}", "machine.device=cpu"]), COMMAND)
                 for name, seed in MEMBERS]
        there = [one.folder for one in plans if (one.config.name, one.config.seed) in members]
        done: list[tuple[str, str, int]] = []

        def evaluate(config, protocol, weights, stop):
            done.append((protocol, config.name, config.seed))
            during()
            return "tested", {}
        monkeypatch.setattr(module, "read_run", lambda folder: SimpleNamespace(finished=folder in there))
        monkeypatch.setattr(module, "evaluate", evaluate)
        monkeypatch.setattr(module, "combine", lambda name, overrides: (f"combined {name}", {}))
        return plans, done
    return call


def test_finished_runs_are_tested_and_an_ensemble_is_made_where_all_members_are_there(finished, caplog):
    plans, done = finished(MEMBERS)
    with StopRequest() as stop:
        module.evaluate_finished(DEEPER, plans, [], stop)
        assert done == [(protocol, *member) for protocol in ("ten_crop", "multi_scale") for member in MEMBERS]
        assert "combined table5" in caplog.text
        caplog.clear()
        plans, done = finished(MEMBERS[:-1])
        module.evaluate_finished(DEEPER, plans[:-1], [], stop)  # as with seeds=1
    assert len(done) == 10
    assert "ensemble table5 not made: lacks imagenet_resnet152 seed 1\n" in caplog.text
    assert "combined" not in caplog.text


def test_a_signal_between_two_tests_stops(finished):
    plans, done = finished(MEMBERS, lambda: os.kill(os.getpid(), signal.SIGINT))
    with StopRequest() as stop, pytest.raises(Stopped, match="before the ten_crop test of imagenet_optC") as caught:
        module.evaluate_finished(DEEPER, plans, [], stop)
    assert (caught.value.exit_code, len(done)) == (130, 1)
    assert str(caught.value).endswith("go on with: repro suite imagenet_deeper")


@pytest.fixture
def asked(monkeypatch):
    """The runs that would be done, and the seconds that they would have."""
    found = SimpleNamespace(plans=[], seconds=[])

    def run_each(plans, stop):
        found.plans.extend(plans)
        found.seconds.append(stop.seconds_left())
        return []
    monkeypatch.setattr(module, "run_each", run_each)
    monkeypatch.setattr(module, "make_data", lambda config: None)
    monkeypatch.setattr(module, "evaluate_finished", lambda *rest: None)
    return found


def test_max_seconds_bounds_the_whole_suite(asked):
    module.run_suite("imagenet_deeper", "paper", 1, ["machine.device=cpu", "max_seconds=1000"], COMMAND)
    assert 900 < asked.seconds[0] < 1000
    assert [one.config.name for one in asked.plans] == list(DEEPER.experiments)


def test_without_a_gpu_the_short_version_runs_in_fp32_unless_told_otherwise(asked, caplog):
    module.run_suite("cifar_plain_vs_res", "auto", None, ["machine.device=cpu"], COMMAND)
    assert "`repro show cifar_plain_vs_res --measure`" in caplog.text
    module.run_suite("cifar_plain_vs_res", "short", 1, ["machine.precision=bf16", "machine.device=cpu"], COMMAND)
    half = len(asked.plans) // 2
    assert {one.config.scale < 1 for one in asked.plans} == {True}
    assert {one.config.machine.precision for one in asked.plans[:half]} == {Precision.fp32}
    assert {one.config.machine.precision for one in asked.plans[half:]} == {Precision.bf16}
    with pytest.raises(ConfigError, match="needs a CUDA device and there is none here"):
        module.run_suite("imagenet_deeper", "auto", None, ["machine.device=cpu"], COMMAND)


@pytest.mark.fault(31)
def test_runs_that_diverge_find_no_memory_or_are_in_use_leave_the_others_alone(made_up, monkeypatch, caplog):
    words = "train.iterations=2", "train.lr_drops=[]", "evaluation.responses=false"
    plans = [plan(tiny_config(f"seed={seed}", *words, *more)) for seed, more in enumerate(
        [["train.lr=1e30"], [], [], []])]
    update = TrainStep.__call__

    def full(self):
        if self.config.seed == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        update(self)

    monkeypatch.setattr(TrainStep, "__call__", full)
    with StopRequest() as stop, hold_lock(plans[2].folder):
        failures = module.run_each(plans, stop)
    assert [type(failure) for failure in failures] == [DivergedError, OutOfMemoryError, InUseError]
    assert all(failure.__cause__ is None for failure in failures), "which would keep the network alive"
    assert caplog.text.count("going on with the rest") == 3
    assert [read_run(one.folder).status for one in plans] == ["diverged", "out of memory", "unreadable", "finished"]


def test_a_run_that_is_finished_elsewhere_in_the_meantime_is_no_failure(made_up, monkeypatch):
    """As where two processes do the runs of one suite."""
    one, run = plan(tiny_config("train.iterations=2", "train.lr_drops=[]")), module.run

    def elsewhere(asked):
        run(asked)
        raise InUseError("in progress elsewhere")

    monkeypatch.setattr(module, "run", elsewhere)
    with StopRequest() as stop:
        assert module.run_each([one], stop) == []


def test_the_cost_of_a_run_is_that_of_its_updates_and_tests(monkeypatch, caplog):
    cost = module.measure_cost(tiny_config("machine.threads=1"))
    tests = cost["test_seconds_per_image"] * 4 * 10_000
    assert cost["run_seconds"] == pytest.approx(40 * cost["step_seconds"] + tests)
    assert 0 < cost["step_seconds"] < 10
    monkeypatch.setattr(module, "measure_cost", lambda config: cost | {"experiment": config.name, "run_seconds": 1.0})
    found = module.measure_suite("cifar_very_deep", [])
    assert found["total_seconds"] == sum(read_suite("cifar_very_deep").seeds_of(one["experiment"])
                                         for one in found["experiments"])
    assert "all of them: " in caplog.messages[-1]


def first_gradient(config, precision: Precision | None) -> torch.Tensor:
    """The gradient of all parameters at the initial values, on noise; in float64 without a precision."""
    torch.manual_seed(0)
    images, labels = 60 * torch.randn(8, 3, 32, 32), torch.randint(0, 10, (8,))
    net = build_model(config.model, 0, 8)
    with nullcontext() if precision is None else autocast(torch.device("cpu"), precision):
        logits = net.double()(images.double()) if precision is None else net(images)
    F.cross_entropy(logits if precision is None else logits.float(), labels).backward()
    return torch.cat([parameter.grad.double().flatten() for parameter in net.parameters()])


@pytest.mark.slow
@pytest.mark.fault(81)
def test_bf16_loses_the_gradient_of_plain_56():
    config = compose(["experiment=cifar_plain56"])
    exact = first_gradient(config, None)
    assert F.cosine_similarity(exact, first_gradient(config, Precision.fp32), dim=0) > 0.95
    assert F.cosine_similarity(exact, first_gradient(config, Precision.bf16), dim=0) < 0.3
    assert "train deep plain nets in fp32" in " ".join((TREE / "README.md").read_text(encoding="utf-8").split())


# ---- repro suite pending


def test_a_dry_run_only_says_what_is_lacking(here, tmp_path):
    outcome = here("suite", "pending", "--dry-run")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0] == "full-length runs that results/reference lacks, cheapest first:"
    assert lines[1].split()[0] == "cifar_plain20/seed0"
    assert not (tmp_path / "results").exists()


def test_it_stops_saves_and_goes_on_where_it_was(here, monkeypatch):
    update = TrainStep.__call__

    def signalled(self):
        update(self)
        os.kill(os.getpid(), signal.SIGTERM)
    monkeypatch.setattr("repro.training.train.load_data", lambda *_: tiny_data(images=300))
    monkeypatch.setattr(TrainStep, "__call__", signalled)
    words = ("machine.threads=1", "machine.tensorboard=false")
    for done in (1, 2):
        outcome = here("suite", "pending", "--max-seconds", "600", *words)
        says(outcome, 75, f"stopped by SIGTERM at iteration {done} of 64000", "go on with: ",
             "suite pending --max-seconds 600 machine.threads=1 machine.tensorboard=false\n")
        assert f"cifar_plain20/seed0       open, iteration {done} of 64000" in outcome.out


@pytest.mark.parametrize(("words", "told"), [
    (["--max-seconds", "0"], ["--max-seconds 0"]),
    (["train.lrr=1"], ["unknown key 'train.lrr'", "train.lr"]),
    (["scale=0.1"], ["changes the numbers of cifar_plain20", "scale: 1.0 -> 0.1"]),
    (["machine.precision=bf16"], ["machine.precision"]),
    (["--runs", "cifar_resnet57"], ["'cifar_resnet57' is no experiment", "cifar_resnet56"])])
def test_what_would_not_count_is_refused(here, words, told, tmp_path):
    says(here("suite", "pending", *words), 2, *told)
    assert not (tmp_path / "results" / "runs").exists()


def test_runs_can_be_named_in_an_order_with_the_engine(here, asked):
    order = "cifar_resnet56,cifar_plain20/seed0,cifar_resnet110,cifar_resnet56"
    assert here("suite", "pending", "--runs", order, "engine=eager").code == 0
    assert [(one.config.name, one.config.seed) for one in asked.plans] == [
        ("cifar_resnet56", 0), ("cifar_plain20", 0), *(("cifar_resnet110", seed) for seed in range(5))]
    assert {one.config.engine.name for one in asked.plans} == {"eager"}
