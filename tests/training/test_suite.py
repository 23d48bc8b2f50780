"""Suites: what runs, what leaves the others alone, tests and ensembles afterwards, costs, and what is pending."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch
from msgspec import structs
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


def test_finished_runs_are_tested_until_a_signal_comes_and_ensembles_made(monkeypatch, caplog):
    done: list[tuple[str, str, int]] = []
    plans = [plan(compose([f"experiment={name}", f"seed={seed}", "machine.device=cpu"]), COMMAND)
             for name, seed in MEMBERS]

    def evaluate(config, protocol, weights, stop):
        done.append((protocol, config.name, config.seed))
        if len(done) > 10:
            os.kill(os.getpid(), signal.SIGINT)
        return "tested", {}
    monkeypatch.setattr(module, "read_run", lambda folder: SimpleNamespace(finished=folder != plans[-1].folder))
    monkeypatch.setattr(module, "evaluate", evaluate)
    with StopRequest() as stop:
        module.evaluate_finished(DEEPER, plans, [], stop)
        assert done == [(protocol, *member) for protocol in ("ten_crop", "multi_scale") for member in MEMBERS[:-1]]
        assert "ensemble table5 lacks 6 of 6 members" in caplog.text
        monkeypatch.setattr(module, "combine", lambda name, overrides: (f"combined {name}", {}))
        module.evaluate_finished(structs.replace(DEEPER, protocols=()), plans, [], stop)
        assert "combined table5" in caplog.text
        with pytest.raises(Stopped, match="before a test of imagenet_optC") as caught:
            module.evaluate_finished(DEEPER, plans, [], stop)
    assert (caught.value.exit_code, len(done)) == (130, 11)
    assert str(caught.value).endswith("go on with: repro suite imagenet_deeper")


@pytest.fixture
def asked(monkeypatch):
    found = SimpleNamespace(plans=[], seconds=[])

    def run_each(plans, stop):
        found.plans.extend(plans)
        found.seconds.append(stop.seconds_left())
        return []
    monkeypatch.setattr(module, "run_each", run_each)
    monkeypatch.setattr(module, "make_data", lambda config: None)
    monkeypatch.setattr(module, "evaluate_finished", lambda *rest: None)
    return found


def test_without_a_gpu_the_short_version_runs_in_fp32_unless_told_otherwise(asked, caplog):
    module.run_suite("cifar_plain_vs_res", "auto", None, ["machine.device=cpu"], COMMAND)
    assert "preset=short: Do deeper plain networks" in caplog.text
    words = ["machine.precision=bf16", "machine.device=cpu", "max_seconds=1000"]
    module.run_suite("cifar_plain_vs_res", "short", 1, words, COMMAND)
    assert 900 < asked.seconds[1] < 1000, "which bounds the whole suite"
    half = len(asked.plans) // 2
    assert {one.config.scale < 1 for one in asked.plans} == {True}
    assert {one.config.machine.precision for one in asked.plans[:half]} == {Precision.fp32}
    assert {one.config.machine.precision for one in asked.plans[half:]} == {Precision.bf16}
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        module.run_suite("imagenet_deeper", "auto", None, ["machine.device=cpu"], COMMAND)


@pytest.mark.fault(31)
def test_runs_that_diverge_find_no_memory_or_are_in_use_leave_the_others_alone(made_up, monkeypatch, caplog):
    words = "train.iterations=2", "train.lr_drops=[]", "evaluation.responses=false"
    plans = [plan(tiny_config(f"seed={seed}", *words, *more)) for seed, more in enumerate(
        [["train.lr=1e30"], [], [], [], []])]
    run = module.run

    def elsewhere(asked):
        assert 900 < asked.config.max_seconds <= 1000, "what is left for all of them"
        if asked.config.seed == 1:
            raise OutOfMemoryError("no memory left")
        run(asked)
        if asked.config.seed == 4:
            raise InUseError("another process, which has finished it meanwhile")

    monkeypatch.setattr(module, "run", elsewhere)
    with StopRequest(1000) as stop, hold_lock(plans[2].folder):
        failures = module.run_each(plans, stop)
    assert [type(failure) for failure in failures] == [DivergedError, OutOfMemoryError, InUseError]
    assert all(failure.__cause__ is None for failure in failures), "which would keep the network alive"
    assert caplog.text.count("going on with the rest") == 4
    assert [read_run(one.folder).status for one in plans] == ["diverged", *["unreadable"] * 2, *["finished"] * 2]


def test_the_cost_of_a_run_is_that_of_its_updates_and_tests(monkeypatch, caplog):
    cost = module.measure_cost(tiny_config("machine.threads=1"))
    tests = cost["test_seconds_per_image"] * 4 * 10_000
    assert cost["run_seconds"] == pytest.approx(40 * cost["step_seconds"] + tests)
    assert 0 < cost["step_seconds"] < 10
    monkeypatch.setattr(module, "measure_cost", lambda config: cost | {"experiment": config.name, "run_seconds": 1.0})
    found = module.measure_suite("cifar_very_deep", [])
    assert found["total_seconds"] == sum(read_suite("cifar_very_deep").seeds.get(one["experiment"], 1)
                                         for one in found["experiments"])
    assert "all of them: " in caplog.messages[-1]


@pytest.mark.slow
@pytest.mark.fault(81)
def test_bf16_loses_the_gradient_of_plain_56():
    config = compose(["experiment=cifar_plain56"])

    def gradient(precision: Precision | None) -> torch.Tensor:  # at the initial values, on noise; None: in float64
        torch.manual_seed(0)
        images, labels = 60 * torch.randn(8, 3, 32, 32), torch.randint(0, 10, (8,))
        net = build_model(config.model, 0, 8)
        if precision is None:
            logits = net.double()(images.double())
        else:
            with autocast(torch.device("cpu"), precision):
                logits = net(images).float()
        F.cross_entropy(logits, labels).backward()
        return torch.cat([parameter.grad.double().flatten() for parameter in net.parameters()])
    exact = gradient(None)
    assert F.cosine_similarity(exact, gradient(Precision.fp32), dim=0) > 0.95
    assert F.cosine_similarity(exact, gradient(Precision.bf16), dim=0) < 0.3
    assert "train deep plain nets in fp32" in " ".join((TREE / "README.md").read_text(encoding="utf-8").split())


# ---- repro suite pending


def test_it_stops_saves_and_goes_on_where_it_was(here, monkeypatch):
    update = TrainStep.__call__

    def signalled(self):
        update(self)
        os.kill(os.getpid(), signal.SIGTERM)
    monkeypatch.setattr("repro.training.train.load_data", lambda *_: tiny_data(images=300))
    monkeypatch.setattr(TrainStep, "__call__", signalled)
    words = ("machine.threads=1", "machine.tensorboard=false")
    for done in (1, 2):
        says(here("suite", "pending", "--max-seconds", "600", *words), 75,
             f"stopped by SIGTERM at iteration {done} of 64000", "go on with: ",
             "suite pending --max-seconds 600 machine.threads=1 machine.tensorboard=false\n")
    title, first, *_ = here("suite", "pending", "--dry-run").out.splitlines()
    assert title == "full-length runs that results/reference lacks, cheapest first:"
    assert first.split()[:5] == ["cifar_plain20/seed0", "open,", "iteration", "2", "of"]


@pytest.mark.parametrize(("words", "told"), [
    (["--max-seconds", "0"], ["--max-seconds 0"]),
    (["scale=0.1"], ["changes the numbers of cifar_plain20", "scale: 1.0 -> 0.1"]),
    (["machine.precision=bf16"], ["machine.precision"]),
    (["--runs", "cifar_resnet57"], ["no experiment named 'cifar_resnet57'", "cifar_resnet56"])])
def test_what_would_not_count_is_refused(here, words, told, tmp_path):
    says(here("suite", "pending", *words), 2, *told)
    assert not (tmp_path / "results" / "runs").exists()


def test_runs_can_be_named_in_an_order_with_the_engine(here, asked):
    order = "cifar_resnet56,cifar_plain20/seed0,cifar_resnet110,cifar_resnet56"
    assert here("suite", "pending", "--runs", order, "engine=eager").code == 0
    assert [(one.config.name, one.config.seed) for one in asked.plans] == [
        ("cifar_resnet56", 0), ("cifar_plain20", 0), *(("cifar_resnet110", seed) for seed in range(5))]
    assert {one.config.engine.name for one in asked.plans} == {"eager"}
    assert here("suite", "pending", "--max-seconds", "1000").code == 0
    assert 900 < asked.seconds[-1] <= 980, "some of it is for the last test and the last checkpoint"
