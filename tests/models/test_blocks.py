"""Shortcuts, blocks and grouped batch normalization against what is written out here; activation checkpointing."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from repro.config import compose
from repro.models import blocks, build_model
from repro.models.blocks import Bottleneck, GroupedBatchNorm2d, ZeroPadShortcut, set_checkpointing
from repro.models.resnet import imagenet_config
from repro.schema import Family, ShortcutOption
from tests.models.test_resnet import config, randomize


def test_option_a_takes_even_positions_and_appends_zero_channels():
    x = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).reshape(2, 3, 4, 4)
    out = ZeroPadShortcut(3, 5, 2)(x)
    for n in range(2):
        for c in range(5):
            for i in range(2):
                for j in range(2):
                    assert out[n, c, i, j] == (x[n, c, 2 * i, 2 * j] if c < 3 else 0)


def test_zeros_on_both_sides_are_those_of_the_code_that_has_them():
    """akamaster/pytorch_resnet_cifar10: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4))."""
    x = torch.randn(2, 16, 8, 8)
    out = build_model(config("model.zero_padding=both_sides")).stage2[0].shortcut(x)
    assert torch.equal(out, F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)))
    assert not torch.equal(out, build_model(config()).stage2[0].shortcut(x))


def test_a_bottleneck_is_its_formula():
    """Fig. 5 (right) with option A and without a shortcut, written out."""
    block = randomize(Bottleneck(64, 256, 2, imagenet_config(50, shortcut_option=ShortcutOption.A), 0))
    x = torch.randn(2, 64, 6, 6, dtype=torch.float64)
    state = block.state_dict()

    def layer(number, x, **settings):
        out = F.conv2d(x, state[f"conv{number}.weight"], **settings)
        mean, var, weight, bias = (state[f"bn{number}.{name}"][:, None, None]
                                   for name in ("running_mean", "running_var", "weight", "bias"))
        return (out - mean) / (var + 1e-5).sqrt() * weight + bias

    out = layer(3, layer(2, layer(1, x, stride=2).relu(), padding=1).relu())
    expected = out.clone()
    expected[:, :64] += x[:, :, ::2, ::2]
    plain = Bottleneck(64, 256, 2, imagenet_config(50, Family.plain), 0).double().eval()
    plain.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(block(x), expected.relu(), atol=1e-10)
        assert torch.allclose(plain(x), out.relu(), atol=1e-10)


def test_the_running_averages_of_groups_do_not_depend_on_which_device_has_them():
    torch.manual_seed(0)
    whole, first, second = (GroupedBatchNorm2d(5, 4, 1e-5, 0.1) for _ in range(3))
    for _ in range(3):
        x = 3 * torch.randn(16, 5, 2, 2) + 1
        whole(x), first(x[:8]), second(x[8:])
    for name in ("running_mean", "running_var"):
        mean = (getattr(first, name) + getattr(second, name)) / 2
        assert torch.allclose(getattr(whole, name), mean, atol=1e-6)
        assert not torch.allclose(getattr(whole, name), getattr(first, name), atol=1e-3)


def test_without_momentum_the_averages_are_those_of_all_groups():
    layer = GroupedBatchNorm2d(5, 4, 1e-5, 0.1)
    layer.momentum = None
    x = torch.randn(24, 5, 3, 3)
    layer(x[:16]), layer(x[16:])
    assert torch.allclose(layer.running_mean, x.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(layer.running_var, torch.stack([part.var((0, 2, 3)) for part in x.split(4)]).mean(0))


@pytest.mark.fault(82)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_batch_norm_group_normalizes_each_group_by_itself_and_keeps_the_type_of_its_buffers(dtype):
    grouped = GroupedBatchNorm2d(5, 4, 1e-5, 0.1).to(dtype)
    x = torch.randn(8, 5, 3, 3, dtype=dtype) * torch.arange(1, 9, dtype=dtype)[:, None, None, None]
    expected = torch.cat([nn.BatchNorm2d(5).to(dtype)(part) for part in x.split(4)])
    assert torch.equal(grouped(x), expected)
    assert not torch.allclose(nn.BatchNorm2d(5).to(dtype)(x), expected, atol=1e-2)
    assert grouped.running_var.dtype == dtype
    mean = torch.stack([part.mean((0, 2, 3)) for part in x.split(4)]).mean(0)
    assert torch.allclose(grouped.running_mean, 0.1 * mean, rtol=0.02, atol=1e-3)
    evaluated = F.batch_norm(x, grouped.running_mean, grouped.running_var, grouped.weight, grouped.bias, eps=1e-5)
    assert torch.equal(grouped.eval()(x), evaluated)


# ---- activation checkpointing

def train_once(model, images):
    """Gradients and buffers after one forward and backward pass."""
    F.cross_entropy(model(images), torch.arange(len(images)) % 10).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}, dict(model.named_buffers())


@pytest.mark.parametrize(("network", "group"), [("cifar", 0), ("cifar", 4), ("imagenet", 0)])
def test_gradients_and_statistics_are_the_same_bit_for_bit(network, group):
    settings, side = (config(), 32) if network == "cifar" else (imagenet_config(50, num_classes=10), 64)
    plain = build_model(settings, 0, group).train()
    other = copy.deepcopy(plain)
    set_checkpointing(other, True)
    images = torch.randn(8 if group else 2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 50
    for left, right in zip(train_once(plain, images), train_once(other, images), strict=True):
        assert left.keys() == right.keys()
        assert [name for name in left if not torch.equal(left[name], right[name])] == []
    assert {int(b) for name, b in other.named_buffers() if name.endswith("num_batches_tracked")} == {1}


def test_statistics_would_move_twice_without_care(monkeypatch):
    """Negative control."""
    monkeypatch.setattr(blocks, "keep_statistics", lambda segment: nullcontext())
    model = build_model(config()).train()
    set_checkpointing(model, True)
    train_once(model, torch.randn(8, 3, 32, 32))
    assert int(model.stage1[0].bn1.num_batches_tracked) == 2


def test_without_gradients_nothing_is_computed_twice():
    model = build_model(compose(["experiment=cifar_resnet20", "model.depth=8"]).model).eval()
    set_checkpointing(model, True)
    calls = []
    model.stage1[0].conv1.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(torch.zeros(2, 3, 32, 32))
    assert calls == [1]
