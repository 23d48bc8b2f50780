"""The networks: golden counts, initial values, outputs of blocks and whole networks in NumPy and torchvision."""

import functools

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from repro import models, paper
from repro.config import compose
from repro.models import TABLE_1, BasicBlock, Bottleneck, build_model
from repro.schema import DEPTHS, Family
from repro.weights import TORCHVISION, their_key
from tests.made import scatter
from tests.reference_numpy import ReferenceNet

CIFAR10, IMAGENET = (paper.golden_counts(name) for name in ("cifar10", "imagenet"))


@functools.cache
def config(*overrides, experiment="cifar_resnet20"):
    return compose([f"experiment={experiment}", *overrides]).model


def imagenet(layers, *overrides):
    """A network of Table 1, with option B unless it is overridden."""
    return config(f"model.depth={layers}", *overrides, experiment="imagenet_optB")


def on_meta(settings):
    """The network without values."""
    with torch.device("meta"):
        return build_model(settings)


# ---- counts

@pytest.mark.parametrize(("experiment", "golden"), [("cifar_resnet20", CIFAR10), ("imagenet_optB", IMAGENET)])
def test_golden_parameters(experiment, golden):
    for layers, counts in golden.items():
        for option, number in list(counts.parameters.items())[: 1 if layers > 56 else 3]:
            model = on_meta(config(f"model.depth={layers}", f"model.shortcut_option={option}", experiment=experiment))
            assert sum(values.numel() for values in model.parameters()) == number
            assert len(list(models.weighted_layers(model))) == layers


@pytest.mark.parametrize(("settings", "side", "golden"), [
    (config("model=plain"), 32, CIFAR10[20].multiply_adds["A"]),
    (config("model.depth=110"), 32, CIFAR10[110].multiply_adds["A"]),
    (imagenet(34), 224, IMAGENET[34].multiply_adds["B"]), (imagenet(50), 224, IMAGENET[50].multiply_adds["B"]),
    (imagenet(50, "model.stride_in=conv3x3"), 224, IMAGENET[50].multiply_adds_stride_in_3x3)],
    ids=["plain-20", "resnet-110", "resnet-34", "resnet-50", "resnet-50-v1.5"])
def test_golden_multiply_adds(settings, side, golden):
    """Convolutions and the fully-connected layer, as far as they are printed there (half of the fourth digit)."""
    model = on_meta(settings).eval()
    for module in list(model.modules()):  # batch normalization takes most of the time
        for name, layer in module.named_children():
            if isinstance(layer, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, side, side))
    assert counter.get_total_flops() / 2 == pytest.approx(golden, rel=2e-4)


def test_the_blocks_are_those_of_table_1():
    rows = [row for row in paper.published_table("table1").rows if row.blocks]
    assert {row.layers: ({"basic": BasicBlock, "bottleneck": Bottleneck}[row.block], tuple(row.blocks))
            for row in rows} == TABLE_1
    assert set(TABLE_1) == set(DEPTHS[Family.residual])


# ---- shortcuts and blocks

def test_option_a_takes_even_positions_and_adds_zero_channels_behind_or_on_both_sides():
    """On both sides: akamaster's F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4))."""
    x = torch.randn(2, 16, 8, 8)
    for words, zeros in (((), (0, 16)), (("model.zero_padding=both_sides",), (8, 8))):
        out = build_model(config(*words)).stage2[0].shortcut(x)
        assert torch.equal(out, F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, *zeros)))


def test_a_bottleneck_is_its_formula():
    """Fig. 5 (right) with option A and without a shortcut, written out."""
    block = scatter(Bottleneck(64, 256, 2, imagenet(50, "model.shortcut_option=A"), 0)).double().eval()
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
    plain = Bottleneck(64, 256, 2, config("model=imagenet_plain", experiment="imagenet_plain34"), 0).double().eval()
    plain.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(block(x), expected.relu(), atol=1e-10)
        assert torch.allclose(plain(x), out.relu(), atol=1e-10)


# ---- batch normalization over groups

def test_the_running_averages_of_groups_do_not_depend_on_which_device_has_them():
    torch.manual_seed(0)
    whole, first, second = (models.GroupedBatchNorm2d(5, 4, 1e-5, 0.1) for _ in range(3))
    for _ in range(3):
        x = 3 * torch.randn(16, 5, 2, 2) + 1
        whole(x), first(x[:8]), second(x[8:])
    for name in ("running_mean", "running_var"):
        mean = (getattr(first, name) + getattr(second, name)) / 2
        assert torch.allclose(getattr(whole, name), mean, atol=1e-6)
        assert not torch.allclose(getattr(whole, name), getattr(first, name), atol=1e-3)


@pytest.mark.fault(82)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_batch_norm_group_normalizes_each_group_by_itself_and_keeps_the_type_of_its_buffers(dtype):
    grouped = models.GroupedBatchNorm2d(5, 4, 1e-5, 0.1).to(dtype)
    x = torch.randn(8, 5, 3, 3, dtype=dtype) * torch.arange(1, 9, dtype=dtype)[:, None, None, None]
    expected = torch.cat([nn.BatchNorm2d(5).to(dtype)(part) for part in x.split(4)])
    assert torch.equal(grouped(x), expected)
    assert not torch.allclose(nn.BatchNorm2d(5).to(dtype)(x), expected, atol=1e-2)
    assert grouped.running_var.dtype == dtype
    assert int(grouped.num_batches_tracked) == 1
    mean = torch.stack([part.mean((0, 2, 3)) for part in x.split(4)]).mean(0)
    assert torch.allclose(grouped.running_mean, 0.1 * mean, rtol=0.02, atol=1e-3)
    evaluated = F.batch_norm(x, grouped.running_mean, grouped.running_var, grouped.weight, grouped.bias, eps=1e-5)
    assert torch.equal(grouped.eval()(x), evaluated)


# ---- initial values

@pytest.mark.parametrize("settings", [
    (config("model=plain"), config(), config("model.shortcut_option=C")),
    (config("model.depth=18", experiment="imagenet_plain18"), imagenet(18, "model.shortcut_option=C"))],
    ids=["CIFAR-10", "ImageNet"])
def test_layers_that_networks_share_start_from_the_same_values(settings):
    plain, *others = (build_model(one, 7).state_dict() for one in settings)
    for other in others:
        assert plain.keys() <= other.keys()
        assert all(torch.equal(plain[key], other[key]) for key in plain)
    assert not torch.equal(build_model(settings[0], 8).conv1.weight, plain["conv1.weight"])
    first, second = [value for key, value in plain.items() if key.endswith("conv2.weight")][:2]
    assert not torch.equal(first, second), "each layer has values of its own"


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
    model = scatter(build_model(config(*words, "model.depth=14"))).double()
    x = 60 * torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for training in (True, False):
        weights = {key: value.numpy().copy() for key, value in model.state_dict().items()}
        reference = ReferenceNet(weights, 2, option, training)
        with torch.no_grad():
            assert torch.allclose(model.train(training)(x), torch.from_numpy(reference(x.numpy())), atol=1e-9)
        assert len(reference.running) == (2 * len([key for key in weights if key.endswith("running_mean")]) * training)
        for key, values in reference.running.items():
            assert torch.allclose(model.state_dict()[key], torch.from_numpy(values), atol=1e-9), key


theirs = functools.partial(their_key, TORCHVISION)


@pytest.mark.parametrize(("layers", "stride_in", "equal"), [
    (34, "first_1x1", True), (50, "conv3x3", True), (50, "first_1x1", False)])
def test_torchvisions_outputs_with_the_same_weights(layers, stride_in, equal):
    """torchvision has option B and the stride in the 3x3; with it in the first 1x1 it is another function."""
    ours = scatter(build_model(imagenet(layers, f"model.stride_in={stride_in}"), 1)).double().eval()
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
    ours = on_meta(imagenet(152, "model.stride_in=conv3x3"))
    with torch.device("meta"):
        other = torchvision.models.resnet152()
    assert {theirs(key): value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in other.state_dict().items()}
    assert {theirs(f"{name}.")[:-1]: (module.stride, module.padding, module.kernel_size)
            for name, module in ours.named_modules() if isinstance(module, nn.Conv2d)} == {
        name: (module.stride, module.padding, module.kernel_size)
        for name, module in other.named_modules() if isinstance(module, nn.Conv2d)}
