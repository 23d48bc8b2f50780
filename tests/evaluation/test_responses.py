"""Responses (Fig. 7) and gradient norms against brute force."""

import numpy as np
import pytest
import torch
from torch import nn

from repro.evaluation.responses import Moments, gradient_norms, layer_responses, response_layers
from repro.models import build_model
from repro.models.layers import weighted_layers
from tests.made import tiny_config, tiny_data

MODEL = tiny_config().model


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with random statistics and scales of its batch normalizations, so that no layer looks like another."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return model


def test_streaming_moments_equal_those_of_the_whole():
    values = torch.randn(103, 5, 4, 4, generator=torch.Generator().manual_seed(1)) * 3 + 1000
    moments = Moments()
    for part in torch.split(values, 17):
        moments.add(part)
    whole = values.double().numpy()
    assert float(moments.mean) == pytest.approx(whole.mean(), rel=1e-14)
    assert moments.std() == pytest.approx(whole.std(), rel=1e-12)
    assert (moments.count, moments.channels) == (103 * 5 * 16, 5)


@pytest.mark.parametrize("overrides", [(), ("model=plain", "model.blocks_per_stage=1"), ("model.shortcut_option=C",)])
def test_responses_are_after_normalization_and_before_the_addition(overrides):
    """Recomputed layer by layer with the network's own weights, written out by hand."""
    model = shaken(build_model(tiny_config(*overrides).model, seed=3))
    images = tiny_data().eval_images
    mean = tiny_data().mean
    found = layer_responses(model, images, lambda batch: batch.float() - mean, 7)
    expected = []

    def normalized(conv: nn.Module, bn: nn.Module, x: torch.Tensor) -> torch.Tensor:
        out = bn(conv(x))
        expected.append(out.double().numpy())
        return out

    model.eval()
    with torch.no_grad():
        x = torch.relu(normalized(model.conv1, model.bn1, images.float() - mean))
        for stage in (model.stage1, model.stage2, model.stage3):
            for block in stage:
                out = torch.relu(normalized(block.conv1, block.bn1, x))
                out = normalized(block.conv2, block.bn2, out)
                x = torch.relu(out if block.shortcut is None else out + block.shortcut(x))
    assert len(found) == len(expected) == 7
    assert [entry.layer for entry in found] == list(range(1, 8))
    for entry, values in zip(found, expected, strict=True):
        assert entry.std == pytest.approx(values.std(), rel=1e-5)
        assert entry.mean == pytest.approx(values.mean(), rel=1e-4, abs=1e-6)
        assert entry.channels == values.shape[1]
    assert [entry.name for entry in found][:3] == ["conv1", "stage1.0.conv1", "stage1.0.conv2"]


def test_the_model_is_left_as_it_was():
    model = shaken(build_model(MODEL)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layer_responses(model, tiny_data().eval_images, lambda batch: batch.float(), 10)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_go_also_when_the_network_fails():
    model = build_model(MODEL)
    with pytest.raises(RuntimeError):
        layer_responses(model, tiny_data().eval_images, lambda batch: batch.float()[:, :2], 10)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_a_network_of_depth_6n_plus_2_has_as_many_weighted_layers():
    model = build_model(tiny_config("model.blocks_per_stage=3", "model.shortcut_option=C").model)
    assert len(list(weighted_layers(model))) == 20
    assert len(response_layers(model)) == 19


def test_gradient_norms_are_those_of_the_loss():
    model = build_model(MODEL)
    data = tiny_data()
    loss = nn.functional.cross_entropy(model(data.eval_images.float() - data.mean), data.eval_labels)
    loss.backward()
    found = gradient_norms(model)
    assert [name for _, name, _ in found] == [name for name, _ in weighted_layers(model)]
    for _, name, norm in found:
        gradient = model.get_submodule(name).weight.grad.numpy().astype(np.float64)
        assert norm == pytest.approx(np.sqrt((gradient**2).sum()), rel=1e-12)


def test_there_are_no_norms_before_a_backward_pass():
    with pytest.raises(AssertionError, match="no backward pass"):
        gradient_norms(build_model(MODEL))
