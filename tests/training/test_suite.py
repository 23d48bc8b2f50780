"""What a suite does after its runs: their tests, which stop in time, and ensembles of what is there."""

import os
import signal
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from repro.config import compose
from repro.devices import autocast
from repro.errors import CaptureError, DivergedError, InUseError, OutOfMemoryError, Stopped
from repro.files import hold_lock
from repro.models import build_model
from repro.paper import ensemble
from repro.paper import suite as read_suite
from repro.paths import TREE
from repro.runs import read_run
from repro.schema import VALIDATION_IMAGES, Engine, Precision
from repro.stopping import StopRequest
from repro.training import launch, train
from repro.training import suite as module
from repro.training.plan import plan
from repro.training.schedule import Schedule
from repro.training.step import TrainStep
from tests.made import tiny_config, tiny_data

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


def test_an_ensemble_whose_members_are_all_there_is_made(finished, caplog):
    plans, done = finished(MEMBERS)
    with StopRequest() as stop:
        module.evaluate_finished(DEEPER, plans, [], stop)
    assert done == [(protocol, *member) for protocol in ("ten_crop", "multi_scale") for member in MEMBERS]
    assert "combined table5" in caplog.text


def test_an_ensemble_that_lacks_members_is_named_and_no_error(finished, caplog):
    plans, done = finished(MEMBERS[:-1])
    with StopRequest() as stop:
        module.evaluate_finished(DEEPER, plans[:-1], [], stop)  # as with seeds=1
    assert len(done) == 10
    out = caplog.text
    assert "ensemble table5 not made: lacks imagenet_resnet152 seed 1\n" in out
    assert "combined" not in out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_between_two_tests_stops(finished, number, code):
    plans, done = finished(MEMBERS, lambda: os.kill(os.getpid(), number))
    with StopRequest() as stop, pytest.raises(Stopped, match="before the ten_crop test of imagenet_optC") as caught:
        module.evaluate_finished(DEEPER, plans, [], stop)
    assert (caught.value.exit_code, len(done)) == (code, 1)
    assert str(caught.value).endswith("go on with: repro suite imagenet_deeper")


def test_max_seconds_bounds_the_tests_too(monkeypatch):
    """They are inside of the suite's own limit."""
    limits = []
    monkeypatch.setattr(module, "make_data", lambda config: None)
    monkeypatch.setattr(module, "run_each", lambda *rest: [])
    monkeypatch.setattr(module, "evaluate_finished", lambda suite, plans, overrides, stop: limits.append(
        (stop.seconds_left(), bool(stop.previous))))
    module.run_suite("imagenet_deeper", "paper", 1, ["machine.device=cpu", "max_seconds=1000"], COMMAND)
    (left, active), = limits
    assert 900 < left < 1000
    assert active, "signals are received"


def test_where_a_capture_fails_this_run_and_all_that_follow_are_done_without_graphs_in_fresh_processes(monkeypatch,
                                                                                                     caplog):
    tried, launched = [], []

    def fails(plan, stop):
        tried.append(plan)
        raise CaptureError("CUDA graphs can't be captured here:\n  RuntimeError: the first cause")

    monkeypatch.setattr(launch, "_failed_captures", [])
    monkeypatch.setattr(launch, "train_here", fails)
    monkeypatch.setattr(launch, "launch", launched.append)
    with StopRequest() as stop:
        assert module.run_each([plan(tiny_config(f"seed={seed}", "engine=graph")) for seed in range(3)], stop) == []
    assert len(tried) == 1
    assert [one.config.seed for one in launched] == [0, 1, 2]
    assert {one.config.engine for one in launched} == {Engine.eager}
    assert "the first cause\ngoing on in a fresh process" in caplog.text


@pytest.mark.fault(31)
def test_runs_that_diverge_find_no_memory_or_are_in_use_leave_the_others_alone(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(train, "load_data", lambda *_: tiny_data())
    words = f"results={tmp_path}", "train.iterations=2", "train.lr_drops=[]", "evaluation.responses=false"
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
    assert caplog.text.count("going on with the rest") == 3
    assert [read_run(one.folder).status for one in plans] == ["diverged", "out of memory", "unreadable", "finished"]


def test_a_run_that_is_finished_elsewhere_in_the_meantime_is_no_failure(monkeypatch, tmp_path):
    """As where two processes do the runs of one suite."""
    monkeypatch.setattr(train, "load_data", lambda *_: tiny_data())
    plans = [plan(tiny_config(f"seed={seed}", f"results={tmp_path}", "train.iterations=2", "train.lr_drops=[]"))
             for seed in range(2)]
    run = module.run

    def elsewhere(one):
        if one.config.seed == 0:
            run(one)
            raise InUseError("in progress elsewhere")
        return run(one)

    monkeypatch.setattr(module, "run", elsewhere)
    with StopRequest() as stop:
        assert module.run_each(plans, stop) == []
    assert all(read_run(one.folder).finished for one in plans)


def test_a_stop_between_two_runs_is_said_with_the_command_that_goes_on():
    stop = StopRequest()
    stop.received = signal.SIGTERM
    with pytest.raises(Stopped, match=r"stopped by SIGTERM before cifar_resnet20 seed 0\ngo on with: repro suite"):
        module.run_each([plan(tiny_config(), COMMAND)], stop)


def test_the_cost_of_imagenet_counts_its_images_and_says_what_is_left_out(monkeypatch, caplog):
    monkeypatch.setattr(module, "measure", lambda config: module.Cost(
        config.name, "made-up device", Precision.fp32.name, 0.0, 1.0, 3, "eager"))
    found = module.measure_cost(DEEPER, [])
    schedule = Schedule.of(compose(["experiment=imagenet_optB"]))
    tests = sum(schedule.evaluates(number) for number in range(1, schedule.iterations + 1))
    assert found["experiments"][0]["run_seconds"] == tests * VALIDATION_IMAGES
    assert "without reading and decoding images (repro bench input)" in caplog.messages[-1]
    found = module.measure_cost(read_suite("cifar_very_deep"), ["machine.precision=fp32"])
    assert found["experiments"][0]["run_seconds"] % 10_000 == 0
    assert "decoding" not in caplog.messages[-1]


def first_gradient(config, precision: Precision | None) -> torch.Tensor:
    """The gradient of all parameters at the initial values, on noise; in float64 without a precision."""
    torch.manual_seed(0)
    images, labels = 60 * torch.randn(16, 3, 32, 32), torch.randint(0, 10, (16,))
    net = build_model(config.model, 0, 16)
    with nullcontext() if precision is None else autocast(torch.device("cpu"), precision):
        logits = net.double()(images.double()) if precision is None else net(images)
    F.cross_entropy(logits if precision is None else logits.float(), labels).backward()
    return torch.cat([parameter.grad.double().flatten() for parameter in net.parameters()])


@pytest.mark.fault(81)
def test_short_runs_are_in_fp32_since_bf16_loses_the_gradient_of_plain_56():
    config = compose(["experiment=cifar_plain56"])
    exact = first_gradient(config, None)
    assert F.cosine_similarity(exact, first_gradient(config, Precision.fp32), dim=0) > 0.95
    assert F.cosine_similarity(exact, first_gradient(config, Precision.bf16), dim=0) < 0.3
    assert module.short_precision(read_suite("cifar_plain_vs_res").preset("short"), []) is Precision.fp32
    assert "train deep plain nets in fp32" in " ".join((TREE / "README.md").read_text(encoding="utf-8").split())
