"""The ImageNet networks: golden parameters, Table 1's sizes, and torchvision's networks with the same weights."""

import re

import pytest
import torch
import torchvision
from torch import nn

from repro import paper
from repro.config import compose
from repro.errors import ConfigError
from repro.models.blocks import BasicBlock, Bottleneck, ProjectionShortcut, ZeroPadShortcut, weighted_layers
from repro.models.build import build_imagenet_model
from repro.models.imagenet import architecture, imagenet_config
from repro.schema import Family, ShortcutOption, StrideIn

A, B, C = ShortcutOption
GOLDEN = [(count.layers, "B", count.parameters["B"]) for count in paper.golden_counts().imagenet
          if count.layers in (18, 34, 50)]


def on_meta(*arguments, **settings):
    with torch.device("meta"):
        return build_imagenet_model(*arguments, **settings)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("layers", "option", "number"), GOLDEN)
def test_golden_parameter_counts(layers, option, number):
    assert parameters(on_meta(layers, shortcut_option=ShortcutOption[option])) == number


@pytest.mark.parametrize("layers", [34, 50])
def test_the_weighted_layers_are_those_of_the_name(layers):
    for option in ShortcutOption:
        assert sum(1 for _ in weighted_layers(on_meta(layers, shortcut_option=option))) == layers


def test_a_plain_network_is_the_option_a_network_without_shortcuts():
    plain, residual = on_meta(18, Family.plain, A), on_meta(18, Family.residual, A)
    assert plain.state_dict().keys() == residual.state_dict().keys()
    assert parameters(plain) == parameters(residual)
    assert {type(block.shortcut) for block in plain.modules() if isinstance(block, BasicBlock)} == {type(None)}
    assert on_meta(18, Family.plain, C).state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(("layers", "channels"), [(18, (64, 128, 256, 512)), (50, (256, 512, 1024, 2048))])
def test_output_sizes_of_table_1(layers, channels):
    model = on_meta(layers)
    sizes = {}
    for name in ("conv1", "pool", "conv2_x", "conv3_x", "conv4_x", "conv5_x"):
        getattr(model, name).register_forward_hook(
            lambda module, inputs, out, name=name: sizes.update({name: tuple(out.shape[1:])}))
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)
    maps = (56, 28, 14, 7)
    assert sizes == {"conv1": (64, 112, 112), "pool": (64, 56, 56)} | {
        f"conv{i + 2}_x": (channels[i], maps[i], maps[i]) for i in range(4)}


@pytest.mark.parametrize(("layers", "option", "kinds"), [
    (34, A, {ZeroPadShortcut: 3, nn.Identity: 13}), (34, B, {ProjectionShortcut: 3, nn.Identity: 13}),
    (34, C, {ProjectionShortcut: 16}), (50, B, {ProjectionShortcut: 4, nn.Identity: 12}),
    (50, A, {ZeroPadShortcut: 4, nn.Identity: 12})])
def test_where_each_option_projects(layers, option, kinds):
    """Sec. 4.1: option C introduces projections in thirteen more shortcuts of the 34-layer network."""
    found: dict[type, int] = {}
    for block in on_meta(layers, shortcut_option=option).modules():
        if isinstance(block, (BasicBlock, Bottleneck)):
            found[type(block.shortcut)] = found.get(type(block.shortcut), 0) + 1
    assert found == kinds


@pytest.mark.parametrize(("stride_in", "strides"), [(StrideIn.first_1x1, (2, 1, 1)), (StrideIn.conv3x3, (1, 2, 1))])
def test_where_a_bottleneck_has_its_stride(stride_in, strides):
    model = on_meta(50, stride_in=stride_in)
    for name in ("conv3_x", "conv4_x", "conv5_x"):
        first, second = getattr(model, name)[0], getattr(model, name)[1]
        assert tuple(getattr(first, f"conv{i}").stride[0] for i in (1, 2, 3)) == strides
        assert first.shortcut.conv.stride == (2, 2)
        assert all(getattr(second, f"conv{i}").stride == (1, 1) for i in (1, 2, 3))
    assert all(conv.stride == (1, 1) for conv in model.conv2_x.modules() if isinstance(conv, nn.Conv2d))


def test_a_depth_that_is_not_in_table_1():
    with pytest.raises(ConfigError, match=r"(?s)no depth in Table 1 named '51'.*18, 34, 50, 101, 152"):
        build_imagenet_model(51)
    with pytest.raises(ConfigError, match="16"):
        build_imagenet_model(16)  # VGG's row of Table 1 has no blocks


def test_the_blocks_give_the_layers_of_every_row():
    for layers in (18, 34, 50, 101, 152):
        row = architecture(layers)
        assert sum(row.blocks) * {"basic": 2, "bottleneck": 3}[row.block] + 2 == layers


def test_what_the_paper_leaves_open_is_as_on_cifar10():
    ours, theirs = imagenet_config(34, num_classes=7), compose(["experiment=cifar_resnet20"]).model
    for name in ("conv_init", "batch_norm_eps", "batch_norm_momentum"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert (ours.depth, ours.num_classes) == (34, 7)
    model = on_meta(18, num_classes=7, batch_norm_group=32)
    assert model.fc.weight.shape == (7, 512)
    assert {module.group for module in model.modules() if isinstance(module, nn.BatchNorm2d)} == {32}


def test_initial_values():
    """Sec. 3.4: MSRA over the fan-out; plain and residual networks start from the same values."""
    plain, residual = build_imagenet_model(18, Family.plain), build_imagenet_model(18, shortcut_option=C, seed=0)
    states = plain.state_dict(), residual.state_dict()
    assert states[0].keys() < states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    weight = residual.conv5_x[1].conv1.weight.detach()
    assert float(weight.std()) == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert not torch.equal(build_imagenet_model(18, seed=1).conv1.weight, residual.conv1.weight)


# ---- torchvision's networks: option B; bottlenecks with the stride in the 3x3

def theirs(key: str) -> str:
    """torchvision's name of one of our parameters."""
    for ours, name in ((r"conv(\d)_x\.", None), (r"shortcut\.conv\.", "downsample.0."),
                       (r"shortcut\.bn\.", "downsample.1.")):
        key = re.sub(ours, name or (lambda match: f"layer{int(match[1]) - 1}."), key)
    return key


def randomize(model, seed=0):
    """Weights, running means and variances that are nothing special, in float64, for evaluation."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.weight, 0.5, 1.0), (module.bias, -0.5, 0.5),
                                      (module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0)):
                tensor.data.uniform_(low, high, generator=generator)
    return model.double().eval()


@pytest.mark.parametrize(("layers", "seed"), [(34, 1), (50, 2)])
def test_torchvisions_outputs_with_the_same_weights(layers, seed):
    ours = randomize(build_imagenet_model(layers, stride_in=StrideIn.conv3x3, seed=seed), seed)
    with torch.device("meta"):
        other = getattr(torchvision.models, f"resnet{layers}")()
    other.load_state_dict({theirs(key): value for key, value in ours.state_dict().items()}, assign=True)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        found, expected = ours(x), other.double().eval()(x)
    assert float(expected.std()) > 0.01
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_torchvisions_parameters_and_strides_at_152_layers():
    ours = on_meta(152, stride_in=StrideIn.conv3x3)
    with torch.device("meta"):
        other = torchvision.models.resnet152()
    assert {theirs(key): value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in other.state_dict().items()}
    assert {theirs(f"{name}.")[:-1]: (module.stride, module.padding, module.kernel_size)
            for name, module in ours.named_modules() if isinstance(module, nn.Conv2d)} == {
        name: (module.stride, module.padding, module.kernel_size)
        for name, module in other.named_modules() if isinstance(module, nn.Conv2d)}


def test_the_papers_bottleneck_is_another_function_than_torchvisions():
    """The same weights with the stride in the first 1x1 give other outputs: the comparison above can fail."""
    ours = randomize(build_imagenet_model(50, stride_in=StrideIn.first_1x1))
    other = build_imagenet_model(50, stride_in=StrideIn.conv3x3).double().eval()
    other.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert not torch.allclose(ours(x), other(x), rtol=1e-2, atol=1e-2)


def test_a_bottleneck_is_its_formula():
    """Fig. 5 (right) with option A and with option B written out."""
    config = imagenet_config(50, shortcut_option=A)
    block = randomize(Bottleneck(64, 256, 2, config, 0))
    x = torch.randn(2, 64, 6, 6, dtype=torch.float64)
    state = block.state_dict()

    def layer(number, x, **settings):
        out = nn.functional.conv2d(x, state[f"conv{number}.weight"], **settings)
        mean, var, weight, bias = (state[f"bn{number}.{name}"][:, None, None]
                                   for name in ("running_mean", "running_var", "weight", "bias"))
        return (out - mean) / (var + 1e-5).sqrt() * weight + bias

    out = layer(3, layer(2, layer(1, x, stride=2).relu(), padding=1).relu())
    expected = out.clone()
    expected[:, :64] += x[:, :, ::2, ::2]
    with torch.no_grad():
        assert torch.allclose(block(x), expected.relu(), atol=1e-10)
    plain = Bottleneck(64, 256, 2, imagenet_config(50, Family.plain), 0).double().eval()
    plain.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(plain(x), out.relu(), atol=1e-10)
