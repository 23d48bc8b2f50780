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
from repro.errors import CaptureError, Stopped
from repro.models import build_model
from repro.paper import ensemble
from repro.paper import suite as read_suite
from repro.paths import TREE
from repro.runs import run_folder
from repro.schema import VALIDATION_IMAGES, Engine, Precision
from repro.stopping import StopRequest
from repro.training import suite as module
from repro.training.schedule import Schedule

COMMAND = ["repro", "suite", "imagenet_deeper", "resume=never"]
DEEPER = read_suite("imagenet_deeper")
MEMBERS = [(one.experiment, one.seed) for one in ensemble("table5").members]


@pytest.fixture
def finished(monkeypatch):
    """`finished(members, during)` makes these runs finished ones; tests, of which `during` is called, are listed."""
    def call(members, during=lambda: None) -> tuple[list, list]:
        configs = [compose([f"experiment={name}", f"seed={seed}", "machine.device=cpu", "machine.precision=fp32"])
                   for name, seed in MEMBERS]
        there = [run_folder(config) for config in configs if (config.name, config.seed) in members]
        done: list[tuple[str, str, int]] = []

        def evaluate(config, protocol, weights, stop):
            done.append((protocol, config.name, config.seed))
            during()
            return "tested", {}
        monkeypatch.setattr(module, "read_run", lambda folder: SimpleNamespace(finished=folder in there))
        monkeypatch.setattr(module, "evaluate", evaluate)
        monkeypatch.setattr(module, "combine", lambda name, overrides: (f"combined {name}", {}))
        return configs, done
    return call


def test_an_ensemble_whose_members_are_all_there_is_made(finished, caplog):
    configs, done = finished(MEMBERS)
    with StopRequest() as stop:
        module.evaluate_finished(DEEPER, configs, [], stop, COMMAND)
    assert done == [(protocol, *member) for protocol in ("ten_crop", "multi_scale") for member in MEMBERS]
    assert "combined table5" in caplog.text


def test_an_ensemble_that_lacks_members_is_named_and_no_error(finished, caplog):
    configs, done = finished(MEMBERS[:-1])
    with StopRequest() as stop:
        module.evaluate_finished(DEEPER, configs[:-1], [], stop, COMMAND)  # as with seeds=1
    assert len(done) == 10
    out = caplog.text
    assert "ensemble table5 not made: lacks imagenet_resnet152 seed 1\n" in out
    assert "combined" not in out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_between_two_tests_stops(finished, number, code):
    configs, done = finished(MEMBERS, lambda: os.kill(os.getpid(), number))
    with StopRequest() as stop, pytest.raises(Stopped, match="before the ten_crop test of imagenet_optC") as caught:
        module.evaluate_finished(DEEPER, configs, [], stop, COMMAND)
    assert (caught.value.exit_code, len(done)) == (code, 1)
    assert str(caught.value).endswith("go on with: repro suite imagenet_deeper")


def test_max_seconds_bounds_the_tests_too(monkeypatch):
    """They are inside of the suite's own limit."""
    limits = []
    monkeypatch.setattr(module, "make_data", lambda config: None)
    monkeypatch.setattr(module, "run_unfinished", lambda *rest: [])
    monkeypatch.setattr(module, "evaluate_finished", lambda suite, configs, overrides, stop, command: limits.append(
        (stop.seconds_left(), bool(stop.previous))))
    module.run_suite("imagenet_deeper", "paper", 1, ["machine.device=cpu", "max_seconds=1000"], COMMAND)
    (left, active), = limits
    assert 900 < left < 1000
    assert active, "signals are received"


def test_where_a_capture_fails_each_run_goes_on_without_graphs_in_a_fresh_process(monkeypatch, caplog):
    def fails(*arguments):
        raise CaptureError("CUDA graphs can't be captured here:\n  RuntimeError: the first cause")

    launched = []
    monkeypatch.setattr(module, "run_unfinished", fails)
    monkeypatch.setattr(module.launcher, "launch", lambda train, config, command: launched.append(config))
    monkeypatch.setattr(module, "make_data", lambda config: None)
    _, failures = module.run_suite("cifar_plain_vs_res", "paper", 1, ["machine.device=cpu", "engine=graph"], COMMAND)
    assert failures == []
    assert len(launched) == 8
    assert {config.engine for config in launched} == {Engine.eager}
    assert "the first cause\ngoing on without graphs" in caplog.text


def test_the_cost_of_imagenet_counts_its_images_and_says_what_is_left_out(monkeypatch, caplog):
    monkeypatch.setattr(module.cost, "measure", lambda config: module.cost.Cost(
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
