"""The networks: golden counts, plain against residual, shortcuts against code written out here, torchvision."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from repro import paper
from repro.config import compose
from repro.models import build_model
from repro.models.blocks import BasicBlock, GroupedBatchNorm2d, ProjectionShortcut, ZeroPadShortcut
from tests.models.test_imagenet import randomize
from tests.reference_numpy import ReferenceNet

GOLDEN = {count.layers: count for count in paper.golden_counts().cifar10}


@functools.cache
def config(*overrides):
    return compose(["experiment=cifar_resnet20", *overrides]).model


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("depth", "option"), [(20, "A"), (56, "B"), (110, "C")])
def test_golden_parameter_counts(depth, option):
    with torch.device("meta"):
        model = build_model(config(f"model.depth={depth}", f"model.shortcut_option={option}"))
    assert parameters(model) == GOLDEN[depth].parameters[option]


@pytest.mark.parametrize(("depth", "family"), [(20, "plain"), (110, "residual")])
def test_golden_multiply_adds(depth, family):
    with torch.device("meta"):
        model = build_model(config(f"model.depth={depth}", f"model={family}"))
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 32, 32))
    assert parameters(model) == GOLDEN[depth].parameters["A"]
    assert counter.get_total_flops() / 2 == pytest.approx(GOLDEN[depth].multiply_adds["A"], rel=2e-4)


@pytest.mark.parametrize("blocks", [1, 9])
def test_6n_plus_2_weighted_layers(blocks):
    with torch.device("meta"):
        model = build_model(config(f"model.blocks_per_stage={blocks}"))
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 6 * blocks + 2


def test_plain_and_residual_a_have_the_same_parameters_shapes_and_initial_values():
    plain, residual = (build_model(config(f"model={family}"), 7).state_dict() for family in ("plain", "residual"))
    assert plain.keys() == residual.keys()
    assert all(torch.equal(plain[k], residual[k]) for k in plain)
    other = build_model(config(), 8).state_dict()
    assert not torch.equal(other["conv1.weight"], plain["conv1.weight"])


def test_layers_that_the_options_share_start_from_the_same_values():
    a, c = (build_model(config(f"model.shortcut_option={o}")).state_dict() for o in "AC")
    assert a.keys() < c.keys()
    assert all(torch.equal(a[k], c[k]) for k in a)


@pytest.mark.parametrize(("init", "fan"), [("fan_out", 64 * 9), ("fan_in", 32 * 9)])
def test_msra_initialization(init, fan):
    weight = build_model(config(f"model.conv_init={init}")).stage3[0].conv1.weight
    assert float(weight.detach().std()) == pytest.approx((2 / fan) ** 0.5, rel=0.02)
    assert abs(float(weight.detach().mean())) < 0.002


def test_batch_normalization_starts_at_one_and_zero_and_convolutions_have_no_bias():
    model = build_model(config("model.shortcut_option=C"))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all())
            assert not bool(module.bias.any())
        if isinstance(module, nn.Conv2d):
            assert module.bias is None


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
    model = build_model(config("model.zero_padding=both_sides"))
    x = torch.randn(2, 16, 8, 8)
    out = model.stage2[0].shortcut(x)
    assert torch.equal(out, F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)))
    assert not torch.equal(out, build_model(config()).stage2[0].shortcut(x))


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


@pytest.mark.parametrize(("option", "kinds"), [
    ("A", [nn.Identity] * 3 + [ZeroPadShortcut, nn.Identity, nn.Identity] * 2),
    ("B", [nn.Identity] * 3 + [ProjectionShortcut, nn.Identity, nn.Identity] * 2),
    ("C", [ProjectionShortcut] * 9)])
def test_where_each_option_projects(option, kinds):
    model = build_model(config(f"model.shortcut_option={option}"))
    assert [type(m.shortcut) for m in model.modules() if isinstance(m, BasicBlock)] == kinds


@pytest.mark.parametrize("option", [None, "A", "B", "C"])
def test_the_forward_pass_equals_the_network_in_numpy_in_float64(option):
    """Logits in training mode, the running statistics after it, and logits in evaluation mode."""
    words = ["model=plain"] if option is None else [f"model.shortcut_option={option}"]
    model = randomize(build_model(config(*words)))
    x = 60 * torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for training in (True, False):
        weights = {key: value.numpy().copy() for key, value in model.state_dict().items()}
        reference = ReferenceNet(weights, 3, option, training)
        with torch.no_grad():
            assert torch.allclose(model.train(training)(x), torch.from_numpy(reference(x.numpy())), atol=1e-9)
        assert len(reference.running) == (2 * len([key for key in weights if key.endswith("running_mean")]) * training)
        for key, values in reference.running.items():
            assert torch.allclose(model.state_dict()[key], torch.from_numpy(values), atol=1e-9), key


def test_option_b_blocks_equal_torchvisions_basic_block():
    from torchvision.models.resnet import BasicBlock as TheirBlock

    ours = BasicBlock(16, 32, 2, config("model.shortcut_option=B"), 0).eval()
    downsample = nn.Sequential(nn.Conv2d(16, 32, 1, 2, bias=False), nn.BatchNorm2d(32))
    theirs = TheirBlock(16, 32, 2, downsample).eval()
    names = {"shortcut.conv": "downsample.0", "shortcut.bn": "downsample.1"}
    state = {}
    for key, value in ours.state_dict().items():
        prefix, _, leaf = key.rpartition(".")
        state[f"{names.get(prefix, prefix)}.{leaf}"] = value
    theirs.load_state_dict(state)
    x = torch.randn(4, 16, 8, 8)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)


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


def test_a_batch_norm_group_normalizes_each_group_by_itself():
    grouped, plain = GroupedBatchNorm2d(5, 4, 1e-5, 0.1), nn.BatchNorm2d(5)
    x = torch.randn(8, 5, 3, 3) * torch.arange(1, 9)[:, None, None, None]
    expected = torch.cat([nn.BatchNorm2d(5)(x[:4]), nn.BatchNorm2d(5)(x[4:])])
    assert torch.allclose(grouped(x), expected, atol=1e-6)
    assert not torch.allclose(plain(x), expected, atol=1e-2)
    assert torch.allclose(grouped.running_mean, plain.running_mean, atol=0.02)
    grouped.eval()
    assert torch.allclose(grouped(x), F.batch_norm(x, grouped.running_mean, grouped.running_var, eps=1e-5), atol=1e-6)


@pytest.mark.fault(82)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_batch_norm_group_keeps_its_buffers_in_the_type_that_they_have(dtype):
    grouped = GroupedBatchNorm2d(5, 4, 1e-5, 0.1).to(dtype)
    x = torch.randn(8, 5, 3, 3, dtype=dtype)
    expected = torch.cat([nn.BatchNorm2d(5).to(dtype)(x[:4]), nn.BatchNorm2d(5).to(dtype)(x[4:])])
    assert torch.equal(grouped(x), expected)
    assert grouped.running_var.dtype == dtype
    mean = torch.stack([part.mean((0, 2, 3)) for part in x.split(4)]).mean(0)
    assert torch.allclose(grouped.running_mean, 0.1 * mean, rtol=0.02, atol=1e-3)
