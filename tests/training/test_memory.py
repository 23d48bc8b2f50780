"""The memory that a run needs, against what torch really allocates."""

import pytest
import torch
from torch.nn import functional as F

from repro.devices import place
from repro.models import build_model
from repro.models.recompute import recompute
from repro.training.memory import Memory, kept_bytes, needed, shortage
from tests.made import tiny_config, tiny_data


def net(*overrides):
    config = tiny_config("model.blocks_per_stage=3", "train.mini_batch_size=32", "train.batch_norm_group=32",
                         *overrides)
    return place(build_model(config.model), config, torch.device("cpu")).train(), config


def peak_of_a_step(model, images):
    """Bytes that a forward and backward pass allocates at most, as torch's profiler sees every single allocation."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        F.cross_entropy(model(images), torch.zeros(len(images), dtype=torch.int64)).backward()
    level = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    return peak


@pytest.mark.parametrize("overrides", [[], ["machine.activation_checkpointing=true"], ["model.family=plain"]],
                         ids=["residual", "checkpointed", "plain"])
def test_the_estimate_is_near_what_a_step_really_takes(overrides):
    """Activations are most of it; the rest is work space and gradients under way, which the estimate leaves out."""
    model, config = net("machine.threads=1", *overrides)
    memory = needed(model, tiny_data(), config)
    recompute(model, config.machine.activation_checkpointing)
    real = peak_of_a_step(model, torch.randn(32, 3, 32, 32).contiguous(memory_format=torch.channels_last))
    assert 0.5 * real < memory.activations < 1.25 * real


def test_checkpointing_needs_less_and_16_bits_need_less():
    usual, config = net()
    memory = needed(usual, tiny_data(), config)
    other, config = net("machine.activation_checkpointing=true")
    assert needed(other, tiny_data(), config).activations < 0.7 * memory.activations
    half, config = net("machine.precision=bf16")
    assert needed(half, tiny_data(), config).activations < 0.8 * memory.activations


def test_weights_gradients_momentum_and_data_are_counted():
    model, config = net()
    data = tiny_data()
    memory = needed(model, data, config)
    assert memory.weights == 3 * 4 * sum(p.numel() for p in model.parameters())
    assert memory.data == (100 + 30) * 3 * 32 * 32
    assert memory.total == memory.weights + memory.data + memory.activations
    assert Memory(1, 2, 3).total == 6


def test_the_model_is_left_as_it_is():
    model, config = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    needed(model, tiny_data(), config)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(stage.recomputed for stage in (model.stage1, model.stage2, model.stage3))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_one_convolution_keeps_its_input():
    layer = torch.nn.Conv2d(3, 8, 3, bias=False)
    assert kept_bytes(layer, torch.randn(2, 3, 16, 16)) == 2 * 3 * 16 * 16 * 4


@pytest.mark.fault(31)
@pytest.mark.parametrize(("free", "words", "expected"), [
    (10**9, [], None), (10**6, [], "the 1.0 MB that are free on this GPU; machine.activation_checkpointing=true"),
    (10**6, ["machine.activation_checkpointing=true"], "free on this GPU")])
def test_a_gpu_that_is_too_small_is_named_before_the_start(free, words, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    said = shortage(Memory(10**6, 10**7, 1), torch.device("cuda"), tiny_config(*words))
    assert (said is None) if expected is None else expected in said
    assert "needs less" not in (said or "") or not words
    assert shortage(Memory(10**12, 0, 0), torch.device("cpu"), tiny_config()) is None
