"""What the tests of training share: runs of 8 layers on made-up images, one left alone, others stopped."""

from contextlib import suppress

import pytest
import torch

from repro.errors import Stopped
from repro.models import build_model
from repro.stopping import StopRequest
from repro.training import train
from repro.training.step import TrainStep
from tests.made import run_config, tiny_config, tiny_data

# A warm-up that ends, drops of the rate, passes that end within mini-batches, gradients between tests.
WORDS = ("train.iterations=16", "train.lr_drops=[8,12]", "evaluation.interval=4", "train.warmup=error80",
         "train.warmup_window=3", "evaluation.gradient_iterations=[1,7,16]", "machine.checkpoint_seconds=1000")


@pytest.fixture
def made_up(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "load_data", lambda *_: tiny_data())


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """A run of WORDS that nothing happens to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "load_data", lambda *_: tiny_data())
        return run_config(tiny_config(*WORDS, f"results={tmp_path_factory.mktemp('alone')}"))


@pytest.fixture
def stop_after(monkeypatch):
    """`stop_after(config, steps)` runs a configuration until so many steps are done, as a signal would end it."""
    def run(config, steps):
        calls = iter(range(10**6))
        with monkeypatch.context() as patch:
            patch.setattr(StopRequest, "reason", property(lambda self: "SIGTERM" if next(calls) >= steps else None))
            with suppress(Stopped):
                run_config(config)
    return run


def make_step(*overrides):
    """A step of `tiny_config` on made-up images, its first mini-batch prepared."""
    config = tiny_config(*overrides)
    step = TrainStep(build_model(config.model, config.seed).train(), tiny_data(), config)
    step.input.prepare(0)
    return step


def weights_of(run):
    return torch.load(run.folder / "weights.pt", weights_only=True)


def same_end(run, other):
    """Whether two runs ended with the same weights, history and gradients, bit for bit."""
    ours, theirs = weights_of(run), weights_of(other)
    return (all((run.folder / name).read_bytes() == (other.folder / name).read_bytes()
                for name in ("history.csv", "gradients.csv") if (other.folder / name).exists())
            and ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs))
