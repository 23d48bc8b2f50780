"""Counts and forward passes: each check passes, and finds what is made wrong in the networks."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from repro.config import paper_config
from repro.evaluation import complexity
from repro.models import blocks, cifar
from repro.schema import ShortcutOption, StrideIn
from repro.verification import counts, networks
from repro.verification.check import Mismatch, same

NETS = list(complexity.networks())


def use(monkeypatch, *kept: str, experiments=()):
    """Only these networks, by data set and key, and the pinned experiments of these names."""
    found = [net for net in NETS if f"{net.dataset}/{net.key}" in kept]
    assert found or experiments
    monkeypatch.setattr(counts, "networks", lambda: iter(found))
    monkeypatch.setattr(counts, "pinned_configs", lambda: iter([(name, paper_config(name)) for name in experiments]))


def test_parameters_of_all_networks(monkeypatch):
    """All but those of 1202 layers, for their time; `repro verify` has them too."""
    use(monkeypatch, *{f"{net.dataset}/{net.key}" for net in NETS if net.depth < 1000},
        experiments=("cifar_plain110", "imagenet_optC", "imagenet_vgg19"))
    assert counts.parameters() == "36 networks, and those of 3 experiments (layers, parameters)"


def test_multiply_adds_where_they_are_golden(monkeypatch):
    kept = ["cifar10/plain-20", "cifar10/resnet-20", "imagenet/resnet-18", "imagenet/resnet-50", "imagenet/vgg-19"]
    use(monkeypatch, *kept)
    assert counts.multiply_adds() == "8 networks"


def test_an_option_in_the_place_of_another(monkeypatch):
    original = blocks.make_shortcut
    monkeypatch.setattr(blocks, "make_shortcut", lambda i, o, stride, config, group: original(
        i, o, stride, replace(config, shortcut_option={"A": ShortcutOption.B, "B": ShortcutOption.A}.get(
            config.shortcut_option.name, config.shortcut_option)), group))
    use(monkeypatch, "cifar10/resnet-20", experiments=["imagenet_resnet18"])
    with pytest.raises(Mismatch) as caught:
        counts.parameters()
    assert [(one.what, one.expected, one.found) for one in caught.value.differences] == [
        ("parameters of cifar10/resnet-20-A", 269_722, 272_474),
        ("parameters of cifar10/resnet-20-B", 272_474, 269_722),
        ("parameters of imagenet_resnet18", 11_515_688, 11_689_512)]


def test_an_experiment_of_another_depth(monkeypatch):
    use(monkeypatch, "cifar10/plain-20")
    config = paper_config("cifar_resnet20")
    other = replace(config, model=replace(config.model, blocks_per_stage=5))
    monkeypatch.setattr(counts, "pinned_configs", lambda: iter([("cifar_resnet20", other)]))
    with pytest.raises(Mismatch, match="parameters of cifar_resnet20: expected 269722, found 464154"):
        counts.parameters()


def test_a_layer_too_many(monkeypatch):
    use(monkeypatch, "cifar10/plain-20")
    net, = counts.networks()
    monkeypatch.setattr(counts, "networks", lambda: iter([replace(net, build=lambda: nn.Sequential(
        net.build(), nn.Linear(10, 10)))]))
    with pytest.raises(Mismatch, match="layers of cifar10/plain-20: expected 20, found 21; parameters"):
        counts.parameters()


def test_the_stride_in_the_wrong_convolution(monkeypatch):
    original = blocks.Bottleneck.__init__

    def other(self, i, o, stride, config, group):
        original(self, i, o, stride, replace(config, stride_in=next(
            one for one in StrideIn if one is not config.stride_in)), group)

    monkeypatch.setattr(blocks.Bottleneck, "__init__", other)
    use(monkeypatch, "imagenet/resnet-50")
    with pytest.raises(Mismatch) as caught:
        counts.multiply_adds()
    assert [(one.what, one.expected) for one in caught.value.differences] == [
        ("multiply-adds of imagenet/resnet-50-B-first_1x1", 3.858e9),
        ("multiply-adds of imagenet/resnet-50-B-conv3x3", 4.089e9)]
    with pytest.raises(Mismatch, match="ResNet-50 as the authors have it, outputs"):
        same([networks.against_torchvision("ResNet-50 as the authors have it", 50, StrideIn.first_1x1)])


def test_the_networks_written_out_and_torchvisions_agree():
    assert networks.cifar()
    assert networks.imagenet()


def basic_block(after):
    """A basic block's forward pass that ends in this function of its two summands."""
    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return after(out, None if self.shortcut is None else self.shortcut(x))
    return forward


def shifted(self, x):
    """Option A that samples the odd positions."""
    return F.pad(x[:, :, 1 :: self.stride, 1 :: self.stride], (0, 0, 0, 0, self.before, self.after))


def in_front(self, x):
    """Option A that puts the zero channels before the old ones."""
    return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.after, self.before))


ALL = ["plain-20", "ResNet-20 A", "ResNet-20 B", "ResNet-20 C"]


@pytest.mark.parametrize(("owner", "name", "value", "nets"), [
    (blocks.ZeroPadShortcut, "forward", shifted, ALL[1:2]), (blocks.ZeroPadShortcut, "forward", in_front, ALL[1:2]),
    (blocks.BasicBlock, "forward", basic_block(lambda out, other: out if other is None else out + other), ALL),
    (blocks.BasicBlock, "forward", basic_block(lambda out, other: F.relu(out) if other is None
                                               else F.relu(out) + other), ALL[1:]),
    (blocks.BasicBlock, "forward", basic_block(lambda out, other: F.relu(out)), ALL[1:])])
def test_another_block(monkeypatch, owner, name, value, nets):
    monkeypatch.setattr(owner, name, value)
    assert differing() == nets


def differing() -> list[str]:
    """The CIFAR-10 networks in which the check finds something."""
    with pytest.raises(Mismatch) as caught:
        networks.cifar()
    return list(dict.fromkeys(one.what.partition(",")[0] for one in caught.value.differences))


@pytest.mark.parametrize(("change", "what"), [
    ({"batch_norm_eps": 1.01e-5}, "logits in evaluation mode"), ({"batch_norm_momentum": 0.11}, "running_var")])
def test_another_batch_normalisation(monkeypatch, change, what):
    original = blocks.batch_norm
    for module in (blocks, cifar):
        monkeypatch.setattr(module, "batch_norm", lambda channels, config, group: original(
            channels, replace(config, **change), group))
    with pytest.raises(Mismatch) as caught:
        networks.cifar()
    assert any(what in one.what for one in caught.value.differences)


def test_a_wrong_pooling_of_the_imagenet_networks(monkeypatch):
    monkeypatch.setattr(nn.MaxPool2d, "forward", lambda self, x: F.avg_pool2d(x, 3, 2, 1))
    original = networks.build_imagenet_model

    def ours(*arguments, **settings):
        model = original(*arguments, **settings)
        model.pool = nn.Identity()
        return model

    monkeypatch.setattr(networks, "build_imagenet_model", ours)
    with pytest.raises(Mismatch, match="ResNet-18, outputs"):
        same([networks.against_torchvision(*networks.THEIRS[0])])


def test_the_statistics_of_the_written_out_network_are_those_of_its_mini_batch():
    """Its two modes are two functions, so each is compared."""
    model = networks.scattered(cifar.CifarNet(paper_config("cifar_resnet20").model))
    images = networks.made_images(32).numpy()
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    training, evaluation = (networks.WrittenOut(weights, 3, "A", mode) for mode in (True, False))
    assert abs(training(images) - evaluation(images)).max() > 0.01
    assert len(training.running) == 2 * 19
    assert not evaluation.running
    assert torch.equal(model.bn1.running_mean, torch.from_numpy(weights["bn1.running_mean"]))
