"""Responses (Fig. 7), gradient norms and averaged statistics against brute force; networks against golden counts."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from repro.config import compose
from repro.evaluation.analysis import Moments, gradient_norms, layer_responses, with_averaged_statistics
from repro.models import build_model
from repro.models.blocks import weighted_layers
from repro.paper import golden_counts
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
    assert moments.mean == pytest.approx(whole.mean(), rel=1e-14)
    assert moments.std() == pytest.approx(whole.std(), rel=1e-12)
    assert (moments.count, moments.channels) == (103 * 5 * 16, 5)


@pytest.mark.parametrize("overrides", [("model=plain", "model.blocks_per_stage=1"), ("model.shortcut_option=C",)])
def test_responses_are_after_normalization_and_before_the_addition(overrides):
    """Recomputed layer by layer with the network's own weights, written out by hand."""
    model = shaken(build_model(tiny_config(*overrides).model, seed=3))
    images = tiny_data().eval_images
    mean = tiny_data().mean
    found = layer_responses(model, (batch.float() - mean for batch in images.split(7)))
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
    assert [row[0] for row in found] == list(range(1, 8))
    for (_, _, channels, mean, std), values in zip(found, expected, strict=True):
        assert std == pytest.approx(values.std(), rel=1e-5)
        assert mean == pytest.approx(values.mean(), rel=1e-4, abs=1e-6)
        assert channels == values.shape[1]
    assert [row[1] for row in found][:3] == ["conv1", "stage1.0.conv1", "stage1.0.conv2"]


def test_the_model_is_left_as_it_was():
    model = shaken(build_model(MODEL)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layer_responses(model, [tiny_data().eval_images.float()])
    with pytest.raises(RuntimeError):
        layer_responses(model, [tiny_data().eval_images.float()[:, :2]])
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


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


def batches(count: int, size: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [30 * torch.randn(size, 3, 32, 32, generator=generator) * (1 + number) for number in range(count)]


@pytest.mark.parametrize("group", [0, 4])
def test_the_first_layer_gets_the_average_of_each_batch(group):
    """Means and unbiased variances, averaged with equal weights over mini-batches (or over their groups)."""
    model = build_model(MODEL, batch_norm_group=group)
    images = batches(3)
    averaged = with_averaged_statistics(model, iter(images))
    with torch.no_grad():
        parts = [part for batch in images for part in torch.split(model.conv1(batch).double(), group or len(batch))]
    mean = torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0)
    variance = torch.stack([part.var((0, 2, 3)) for part in parts]).mean(0)
    assert torch.allclose(averaged.bn1.running_mean.double(), mean, rtol=1e-4, atol=1e-4)
    assert torch.allclose(averaged.bn1.running_var.double(), variance, rtol=1e-4)


def test_it_is_no_moving_average_and_leaves_the_model_alone():
    """The order of the batches does not matter, as it would with a momentum of 0.1."""
    model, images = build_model(MODEL), batches(4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    forwards, backwards = (with_averaged_statistics(model, order) for order in (images, images[::-1]))
    assert torch.allclose(forwards.bn1.running_mean, backwards.bn1.running_mean, rtol=1e-4, atol=1e-4)
    assert torch.allclose(forwards.bn1.running_var, backwards.bn1.running_var, rtol=1e-4)
    assert not torch.equal(forwards.bn1.running_mean, model.bn1.running_mean)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# ---- the size of networks: one of each kind

# {name: (words that compose it, option or stride as golden_counts.yaml calls it)}
NETS = {"plain-20": (["experiment=cifar_plain20"], "A"), "resnet-110": (["experiment=cifar_resnet110"], "A"),
        "resnet-56-C": (["experiment=cifar_resnet56", "model.shortcut_option=C"], "C"),
        "resnet-34": (["experiment=imagenet_optB"], "B"), "vgg-16": (["experiment=imagenet_vgg16"], "A"),
        "resnet-50-v1.5": (["experiment=imagenet_resnet50", "model.stride_in=conv3x3"], "B")}


@pytest.fixture(scope="module")
def counted() -> dict[str, tuple[int, int]]:
    """By torch's own counter on the meta device: parameters, multiply-adds."""
    found = {}
    for name, (words, _) in NETS.items():
        config = compose(words)
        with torch.device("meta"):
            model, image = build_model(config.model).eval(), torch.empty(1, 3, *2 * [config.data.crop_size or 32])
        parameters = sum(parameter.numel() for parameter in model.parameters())
        assert len(list(weighted_layers(model))) == config.model.depth
        for module in list(model.modules()):  # batch normalization takes most of the time
            for child, layer in module.named_children():
                if isinstance(layer, nn.BatchNorm2d):
                    setattr(module, child, nn.Identity())
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(image)
        operations = counter.get_flop_counts()["Global"]
        assert set(operations) == {torch.ops.aten.convolution, torch.ops.aten.addmm}
        found[name] = parameters, sum(operations.values()) // 2
    return found


@pytest.mark.parametrize("name", NETS)
def test_golden_counts(counted, name):
    """Parameters exactly, multiply-adds as far as they are printed there (half of the fourth digit at most)."""
    words, option = NETS[name]
    golden = golden_counts(compose(words).data.name)[compose(words).model.depth]
    parameters, operations = counted[name]
    assert parameters == golden.parameters[option]
    adds = golden.multiply_adds_stride_in_3x3 if "v1.5" in name else golden.multiply_adds.get(option)
    if adds is not None:  # none stands there of option C
        assert operations == pytest.approx(adds, rel=2e-4)
