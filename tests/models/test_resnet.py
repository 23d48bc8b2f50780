"""The networks: golden counts, plain against residual, where shortcuts project, initial values, torchvision, NumPy."""

import functools
import re
from collections import Counter

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from repro import paper
from repro.config import compose
from repro.models import build_model
from repro.models.blocks import BasicBlock, Bottleneck, ProjectionShortcut, ZeroPadShortcut, weighted_layers
from repro.models.resnet import TABLE_1, imagenet_config
from repro.schema import DEPTHS, Family, ShortcutOption, StrideIn
from tests.reference_numpy import ReferenceNet

A, B, C = ShortcutOption
CIFAR10, IMAGENET = (paper.golden_counts(name) for name in ("cifar10", "imagenet"))


@functools.cache
def config(*overrides):
    return compose(["experiment=cifar_resnet20", *overrides]).model


def on_meta(settings, *arguments):
    """The network without values."""
    with torch.device("meta"):
        return build_model(settings, *arguments)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def randomize(model, seed=0):
    """Weights, running means and variances that are nothing special, in float64, for evaluation."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.weight, 0.5, 1.0), (module.bias, -0.5, 0.5),
                                      (module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0)):
                tensor.data.uniform_(low, high, generator=generator)
    return model.double().eval()


# ---- counts

@pytest.mark.parametrize(("depth", "option"), [(20, "A"), (56, "B"), (110, "C"), (1202, "A")])
def test_golden_parameters_of_cifar10(depth, option):
    model = on_meta(config(f"model.depth={depth}", f"model.shortcut_option={option}"))
    assert parameters(model) == CIFAR10[depth].parameters[option]
    assert len(list(weighted_layers(model))) == depth


@pytest.mark.parametrize("layers", TABLE_1)
def test_golden_parameters_of_imagenet(layers):
    for option, number in IMAGENET[layers].parameters.items():
        model = on_meta(imagenet_config(layers, shortcut_option=ShortcutOption[option]))
        assert parameters(model) == number
        assert len(list(weighted_layers(model))) == layers


@pytest.mark.parametrize(("depth", "family"), [(20, "plain"), (110, "residual")])
def test_golden_multiply_adds(depth, family):
    model = on_meta(config(f"model.depth={depth}", f"model={family}"))
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 32, 32))
    assert parameters(model) == CIFAR10[depth].parameters["A"]
    assert counter.get_total_flops() / 2 == pytest.approx(CIFAR10[depth].multiply_adds["A"], rel=2e-4)


def test_the_blocks_are_those_of_table_1():
    rows = [row for row in paper.published_table("table1").rows if row.blocks]
    assert {row.layers: ({"basic": BasicBlock, "bottleneck": Bottleneck}[row.block], tuple(row.blocks))
            for row in rows} == TABLE_1
    assert set(TABLE_1) == set(DEPTHS[Family.residual])


# ---- shortcuts

SHORTCUTS = {
    "CIFAR-10 A": (config(), [nn.Identity] * 3 + [ZeroPadShortcut, nn.Identity, nn.Identity] * 2),
    "CIFAR-10 B": (config("model.shortcut_option=B"),
                   [nn.Identity] * 3 + [ProjectionShortcut, nn.Identity, nn.Identity] * 2),
    "CIFAR-10 C": (config("model.shortcut_option=C"), [ProjectionShortcut] * 9),
    "plain": (config("model=plain"), [type(None)] * 9),
    "34 A": (imagenet_config(34, shortcut_option=A), {ZeroPadShortcut: 3, nn.Identity: 13}),
    "34 B": (imagenet_config(34), {ProjectionShortcut: 3, nn.Identity: 13}),
    "34 C": (imagenet_config(34, shortcut_option=C), {ProjectionShortcut: 16}),
    "50 B": (imagenet_config(50), {ProjectionShortcut: 4, nn.Identity: 12}),
    "50 A": (imagenet_config(50, shortcut_option=A), {ZeroPadShortcut: 4, nn.Identity: 12}),
}


@pytest.mark.parametrize("name", SHORTCUTS)
def test_where_each_option_projects(name):
    """Sec. 4.1: option C introduces projections in thirteen more shortcuts of the 34-layer network."""
    settings, kinds = SHORTCUTS[name]
    found = [type(block.shortcut) for block in on_meta(settings).modules()
             if isinstance(block, (BasicBlock, Bottleneck))]
    assert (found if isinstance(kinds, list) else Counter(found)) == kinds


@pytest.mark.parametrize(("stride_in", "strides"), [(StrideIn.first_1x1, (2, 1, 1)), (StrideIn.conv3x3, (1, 2, 1))])
def test_where_a_bottleneck_has_its_stride(stride_in, strides):
    model = on_meta(imagenet_config(50, stride_in=stride_in))
    for name in ("conv3_x", "conv4_x", "conv5_x"):
        first, second = getattr(model, name)[0], getattr(model, name)[1]
        assert tuple(getattr(first, f"conv{i}").stride[0] for i in (1, 2, 3)) == strides
        assert first.shortcut.conv.stride == (2, 2)
        assert all(getattr(second, f"conv{i}").stride == (1, 1) for i in (1, 2, 3))
    assert all(conv.stride == (1, 1) for conv in model.conv2_x.modules() if isinstance(conv, nn.Conv2d))


# ---- initial values

@pytest.mark.parametrize("settings", [(config("model=plain"), config(), config("model.shortcut_option=C")),
                                      (imagenet_config(18, Family.plain), imagenet_config(18, shortcut_option=C))],
                         ids=["CIFAR-10", "ImageNet"])
def test_layers_that_networks_share_start_from_the_same_values(settings):
    plain, *others = (build_model(one, 7).state_dict() for one in settings)
    for other in others:
        assert plain.keys() <= other.keys()
        assert all(torch.equal(plain[key], other[key]) for key in plain)
    assert not torch.equal(build_model(settings[0], 8).conv1.weight, plain["conv1.weight"])


@pytest.mark.parametrize(("init", "fan"), [("fan_out", 64 * 9), ("fan_in", 32 * 9)])
def test_msra_initialization(init, fan):
    model = build_model(config(f"model.conv_init={init}", "model.shortcut_option=C"))
    weight = model.stage3[0].conv1.weight.detach()
    assert float(weight.std()) == pytest.approx((2 / fan) ** 0.5, rel=0.02)
    assert abs(float(weight.mean())) < 0.002
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all())
            assert not bool(module.bias.any())
        assert not isinstance(module, nn.Conv2d) or module.bias is None


@pytest.mark.parametrize(("init", "std", "bias"), [("uniform_zero_bias", 0.125 / 3**0.5, False),
                                                   ("uniform", 0.125 / 3**0.5, True), ("msra", 32**-0.5, True)])
def test_how_the_fully_connected_layer_starts(init, std, bias):
    """64 inputs: nn.Linear starts uniform in +-1/8 (standard deviation 1/8/sqrt(3)), kaiming_normal_ at sqrt(2/64)."""
    fc = build_model(config(f"model.fc_init={init}", "model.num_classes=1000")).fc
    reference = nn.Linear(64, 1000)
    if init == "msra":
        nn.init.kaiming_normal_(reference.weight)
    for weight in (fc.weight, reference.weight):
        assert float(weight.detach().std()) == pytest.approx(std, rel=0.02)
    assert (float(fc.weight.detach().abs().max()) <= 0.125) == (init != "msra")
    assert bool(fc.bias.any()) == bias
    assert float(fc.bias.detach().abs().max()) <= 0.125
    assert not bias or float(fc.bias.detach().std()) == pytest.approx(float(reference.bias.detach().std()), rel=0.1)


# ---- outputs

@pytest.mark.parametrize("option", [None, "A", "B", "C"])
def test_the_forward_pass_equals_the_network_in_numpy_in_float64(option):
    """Logits in training mode, the running statistics after it, and logits in evaluation mode."""
    words = ["model=plain"] if option is None else [f"model.shortcut_option={option}"]
    model = randomize(build_model(config(*words, "model.depth=14")))
    x = 60 * torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for training in (True, False):
        weights = {key: value.numpy().copy() for key, value in model.state_dict().items()}
        reference = ReferenceNet(weights, 2, option, training)
        with torch.no_grad():
            assert torch.allclose(model.train(training)(x), torch.from_numpy(reference(x.numpy())), atol=1e-9)
        assert len(reference.running) == (2 * len([key for key in weights if key.endswith("running_mean")]) * training)
        for key, values in reference.running.items():
            assert torch.allclose(model.state_dict()[key], torch.from_numpy(values), atol=1e-9), key


def theirs(key: str) -> str:
    """torchvision's name of one of our parameters."""
    key = re.sub(r"conv(\d)_x\.", lambda match: f"layer{int(match[1]) - 1}.", key)
    return key.replace("shortcut.conv.", "downsample.0.").replace("shortcut.bn.", "downsample.1.")


@pytest.mark.parametrize(("layers", "stride_in", "equal"), [
    (34, StrideIn.first_1x1, True), (50, StrideIn.conv3x3, True), (50, StrideIn.first_1x1, False)])
def test_torchvisions_outputs_with_the_same_weights(layers, stride_in, equal):
    """torchvision has option B and the stride in the 3x3; with it in the first 1x1 it is another function."""
    ours = randomize(build_model(imagenet_config(layers, stride_in=stride_in), 1))
    with torch.device("meta"):
        other = getattr(torchvision.models, f"resnet{layers}")()
    other.load_state_dict({theirs(key): value for key, value in ours.state_dict().items()}, assign=True)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = ours(x), other.double().eval()(x)
    assert float(expected.std()) > 0.01
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12) is equal
    assert equal or not torch.allclose(found, expected, rtol=1e-2, atol=1e-2)


def test_torchvisions_parameters_and_strides_at_152_layers():
    ours = on_meta(imagenet_config(152, stride_in=StrideIn.conv3x3))
    with torch.device("meta"):
        other = torchvision.models.resnet152()
    assert {theirs(key): value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in other.state_dict().items()}
    assert {theirs(f"{name}.")[:-1]: (module.stride, module.padding, module.kernel_size)
            for name, module in ours.named_modules() if isinstance(module, nn.Conv2d)} == {
        name: (module.stride, module.padding, module.kernel_size)
        for name, module in other.named_modules() if isinstance(module, nn.Conv2d)}
