"""The engine on a CUDA device, against the CPU and against itself. Skipped where there is none."""

import pytest
import torch

from repro.errors import Stopped
from repro.schema import Device, Precision
from repro.training import engine
from tests.made import tiny_config, tiny_data, with_machine

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]


@pytest.fixture(autouse=True)
def made_up_data(monkeypatch):
    def load(config, device):
        data = tiny_data()
        tensors = {name: value.to(device) for name, value in vars(data).items() if isinstance(value, torch.Tensor)}
        return type(data)(**{**vars(data), **tensors})
    monkeypatch.setattr(engine, "load_data", load)


def on_gpu(*overrides, precision=Precision.fp32):
    config = tiny_config(*overrides)
    return with_machine(config, device=Device.cuda, precision=precision, deterministic=True)


def silent(text):
    """Swallow what the engine says."""


def test_the_first_losses_are_those_of_the_cpu(tmp_path):
    length = ["train.iterations=4", "evaluation.interval=1", "train.lr_drops=[2]"]
    gpu = engine.run(on_gpu(*length, f"results={tmp_path / 'gpu'}"), say=silent).history()
    cpu = engine.run(tiny_config(*length, f"results={tmp_path / 'cpu'}"), say=silent).history()
    assert [row["train_loss"] for row in gpu] == pytest.approx([row["train_loss"] for row in cpu], rel=1e-3)


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.tf32, Precision.bf16, Precision.fp16])
def test_an_interrupted_run_ends_bit_for_bit_in_deterministic_mode(precision, tmp_path, monkeypatch):
    whole = engine.run(on_gpu(f"results={tmp_path / 'whole'}", precision=precision), say=silent)
    config = on_gpu(f"results={tmp_path / 'parts'}", precision=precision)
    calls = iter(range(10**6))
    with monkeypatch.context() as patch:
        patch.setattr(engine.StopRequest, "reason", property(lambda self: "SIGTERM" if next(calls) >= 13 else None))
        with pytest.raises(Stopped):
            engine.run(config, say=silent)
    parts = engine.run(config, say=silent)
    left, right = (torch.load(run.folder / "weights.pt", weights_only=True) for run in (whole, parts))
    assert (whole.folder / "history.csv").read_bytes() == (parts.folder / "history.csv").read_bytes()
    assert all(torch.equal(left[k], right[k]) for k in left)
