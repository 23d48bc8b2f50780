"""Responses (Fig. 7), gradient norms and averaged statistics against brute force; every network's size against golden
counts and against formulas that are written out here."""

import numpy as np
import pytest
import torch
from torch import nn

from repro.evaluation import analysis
from repro.evaluation.analysis import (
    Counts,
    Moments,
    Network,
    count,
    gradient_norms,
    layer_responses,
    networks,
    response_layers,
    with_averaged_statistics,
)
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


@pytest.mark.parametrize("overrides", [(), ("model=plain", "model.blocks_per_stage=1"), ("model.shortcut_option=C",)])
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
    assert [entry.layer for entry in found] == list(range(1, 8))
    for entry, values in zip(found, expected, strict=True):
        assert entry.std == pytest.approx(values.std(), rel=1e-5)
        assert entry.mean == pytest.approx(values.mean(), rel=1e-4, abs=1e-6)
        assert entry.channels == values.shape[1]
    assert [entry.name for entry in found][:3] == ["conv1", "stage1.0.conv1", "stage1.0.conv2"]


def test_the_model_is_left_as_it_was():
    model = shaken(build_model(MODEL)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layer_responses(model, [tiny_data().eval_images.float()])
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_go_also_when_the_network_fails():
    model = build_model(MODEL)
    with pytest.raises(RuntimeError):
        layer_responses(model, [tiny_data().eval_images.float()[:, :2]])
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


def test_the_model_itself_is_left_alone():
    model = build_model(MODEL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    averaged = with_averaged_statistics(model, batches(2))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.bn1.momentum == 0.1
    assert not torch.equal(averaged.bn1.running_mean, model.bn1.running_mean)
    assert all(torch.equal(a, b) for a, b in zip(averaged.parameters(), model.parameters(), strict=True))


def test_it_is_no_moving_average():
    """The order of the batches does not matter, as it would with a momentum of 0.1."""
    model, images = build_model(MODEL), batches(4)
    forwards, backwards = (with_averaged_statistics(model, order) for order in (images, images[::-1]))
    assert torch.allclose(forwards.bn1.running_mean, backwards.bn1.running_mean, rtol=1e-4, atol=1e-4)
    assert torch.allclose(forwards.bn1.running_var, backwards.bn1.running_var, rtol=1e-4)


# One of each kind.
COUNTED = ("cifar10/plain-20", "cifar10/resnet-110-A", "cifar10/resnet-56-C", "imagenet/resnet-34-B",
           "imagenet/resnet-50-B-conv3x3", "imagenet/vgg-16")


def row_key(net: Network) -> str:
    options = [part.name for part in (net.shortcut_option, net.stride_in) if part]
    return "-".join([f"{net.dataset}/{net.key}", *options])


@pytest.fixture(scope="module")
def counted() -> dict[str, tuple[Network, Counts]]:
    """Six networks, counted once."""
    found = {row_key(net): net for net in networks()}
    return {key: (found[key], count(found[key])) for key in COUNTED}


def test_all_networks_of_the_paper_are_listed():
    cifar = [f"cifar10/plain-{depth}" for depth in (20, 32, 44, 56, 110)]
    cifar += [f"cifar10/resnet-{depth}-{option}" for depth in (20, 32, 44, 56, 110, 1202) for option in "ABC"]
    imagenet = [f"imagenet/plain-{depth}" for depth in (18, 34)]
    imagenet += [f"imagenet/resnet-{depth}-{option}" for depth in (18, 34) for option in "ABC"]
    imagenet += [f"imagenet/resnet-{depth}-B-{stride}" for stride in ("first_1x1", "conv3x3")
                 for depth in (50, 101, 152)]
    assert [row_key(net) for net in networks()] == [
        *cifar, *imagenet, "imagenet/vgg-16", "imagenet/vgg-19"]


def test_golden_counts_and_layers(counted):
    """Parameters exactly, multiply-adds as far as they are printed there (half of the fourth digit at most)."""
    for key, (net, found) in counted.items():
        golden, option = golden_counts().by_depth()[net.dataset][net.depth], row_key(net).split("-")[2:3] or ["A"]
        assert found.layers == net.depth
        assert found.parameters == golden.parameters[option[0]]
        adds = golden.multiply_adds_stride_in_3x3 if "conv3x3" in key else golden.multiply_adds.get(option[0])
        if adds is not None:
            total = found.convolution_multiply_adds + found.fully_connected_multiply_adds
            assert total == pytest.approx(adds, rel=2e-4), key


def cifar_formula(n: int, option: str | None) -> tuple[int, int]:
    """(multiply-adds of convolutions, of the fully-connected layer) of 6n+2 layers, from Sec. 4.2."""
    total = 9 * 3 * 16 * 32**2
    for index, (channels, size) in enumerate(((16, 32), (32, 16), (64, 8))):
        before = channels if index == 0 else channels // 2
        total += 9 * (before + (2 * n - 1) * channels) * channels * size**2
        if option == "C":
            total += (before + (n - 1) * channels) * channels * size**2
        elif option == "B" and index > 0:
            total += before * channels * size**2
    return total, 64 * 10


def test_cifar_networks_agree_with_a_formula(counted):
    for key, (net, found) in counted.items():
        if key.startswith("cifar10"):
            option = net.shortcut_option.name if net.shortcut_option else None
            assert (found.convolution_multiply_adds, found.fully_connected_multiply_adds) == cifar_formula(
                (net.depth - 2) // 6, option), key


def imagenet_formula(blocks: list[int], bottleneck: bool, option: str | None, stride_in_3x3: bool) -> tuple[int, int]:
    """The same for Table 1; a map's side is that of the stage, and twice that before the stride."""
    total, before = 49 * 3 * 64 * 112**2, 64
    for index, number in enumerate(blocks):
        width, size = 64 * 2**index, 56 // 2**index
        out = 4 * width if bottleneck else width
        for block in range(number):
            first = block == 0
            if bottleneck:
                early = size * 2 if first and index > 0 and stride_in_3x3 else size
                total += before * width * early**2 + (9 * width * width + width * out) * size**2
            else:
                total += (9 * before * width + 9 * width * width) * size**2
            grows = first and (index > 0 or before != out)
            if option == "C" or (option == "B" and grows):
                total += before * out * size**2
            before = out
    return total, before * 1000


@pytest.mark.parametrize(("key", "bottleneck"), [("imagenet/resnet-34-B", False),
                                                 ("imagenet/resnet-50-B-conv3x3", True)])
def test_imagenet_networks_agree_with_a_formula(counted, key, bottleneck):
    _, net = counted[key]
    found = net.convolution_multiply_adds, net.fully_connected_multiply_adds
    assert found == imagenet_formula([3, 4, 6, 3], bottleneck, "B", stride_in_3x3=True)


def test_vgg_agrees_with_a_formula(counted):
    total, before = 0, 3
    for index, (number, width) in enumerate(zip((2, 2, 3, 3, 3), (64, 128, 256, 512, 512), strict=True)):
        total += 9 * (before + (number - 1) * width) * width * (224 // 2**index) ** 2
        before = width
    _, net = counted["imagenet/vgg-16"]
    assert net.convolution_multiply_adds == total
    assert net.fully_connected_multiply_adds == 512 * 49 * 4096 + 4096 * 4096 + 4096 * 1000


def test_an_operation_that_would_be_counted_nowhere_is_an_error(monkeypatch):
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.bmm(x[0], x[0])

    monkeypatch.setattr(analysis, "build_model", lambda model: Attention())
    with pytest.raises(RuntimeError, match=r"net: operations that are counted nowhere: .*bmm"):
        count(Network("net", "cifar10", MODEL))
