"""Layers, parameters and multiply-adds of the paper's networks, counted on shapes alone (no data, no training)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from repro.config import paper_config
from repro.models import build_model
from repro.models.build import build_imagenet_model
from repro.models.layers import weighted_layers
from repro.paper import golden_counts, published_table
from repro.schema import DEPTHS, Family, ShortcutOption, StrideIn

IMAGE_SIZES = {"cifar10": 32, "imagenet": 224}  # Sec. 4.2, 4.1: pixels of one side
CIFAR_PLAIN_UP_TO = 110  # Sec. 4.2: plain networks of 20 to 110 layers


@dataclass(frozen=True)
class Counts:
    """What one network has; multiply-adds are those of one image."""

    layers: int  # weighted layers: convolutions (projections apart) and fully-connected layers
    parameters: int
    convolution_multiply_adds: int
    fully_connected_multiply_adds: int


@dataclass(frozen=True)
class Network:
    """A network of the paper: where its published numbers stand, what distinguishes it, and how it is made."""

    key: str  # as in experiments/published, "resnet-50"
    label: str
    dataset: str  # cifar10 or imagenet, for the size of the image
    depth: int  # as in its name
    build: Callable[[], nn.Module]
    shortcut_option: ShortcutOption | None = None  # None: no shortcuts
    stride_in: StrideIn | None = None  # None: no bottlenecks


def count(network: Network) -> Counts:
    """Build the network on the meta device and count it with torch's own counter.

    Raises RuntimeError if the forward pass holds an operation with multiply-adds that is no convolution and no
    fully-connected layer.
    """
    with torch.device("meta"):
        model = network.build().eval()
        image = torch.empty(1, 3, IMAGE_SIZES[network.dataset], IMAGE_SIZES[network.dataset])
    layers = sum(1 for _ in weighted_layers(model))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    without_batch_norm(model)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    flops = dict(counter.get_flop_counts().get("Global", {}))
    convolutions = flops.pop(torch.ops.aten.convolution, 0)
    fully_connected = flops.pop(torch.ops.aten.addmm, 0)
    if flops:
        raise RuntimeError(f"{network.key}: operations that are counted nowhere: {', '.join(map(str, flops))}")
    return Counts(layers, parameters, convolutions // 2, fully_connected // 2)  # 2 operations are 1 multiply-add


def without_batch_norm(model: nn.Module) -> None:
    """Take batch normalization out: it has no multiply-adds that count, and most of the time on the meta device."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())


def networks() -> Iterator[Network]:
    """All networks of the paper, plain before residual, in the order of their depth; then VGG-16 and VGG-19."""
    yield from cifar_networks()
    yield from imagenet_networks()
    for depth in DEPTHS[Family.vgg]:
        model = paper_config(f"imagenet_vgg{depth}").model
        yield Network(f"vgg-{depth}", f"VGG-{depth}", "imagenet", depth, partial(build_model, model))


def cifar_networks() -> Iterator[Network]:
    """Sec. 4.2: plain and residual networks; options B and C, which the paper doesn't use there, for comparison."""
    depths = [golden.layers for golden in golden_counts().cifar10]
    for depth in depths:
        if depth <= CIFAR_PLAIN_UP_TO:
            yield cifar(depth, Family.plain, ShortcutOption.A)
    for depth in depths:
        for option in ShortcutOption:
            yield cifar(depth, Family.residual, option)


def cifar(depth: int, family: Family, option: ShortcutOption) -> Network:
    """One network of 6n+2 layers."""
    model = replace(paper_config("cifar_resnet20").model, family=family, shortcut_option=option, depth=depth,
                    blocks_per_stage=(depth - 2) // 6)
    return named_network(depth, family, option, "cifar10", lambda: build_model(model))


def imagenet_networks() -> Iterator[Network]:
    """Table 1: plain, basic with options A, B, C, and bottleneck with option B, then with the stride in the 3x3."""
    rows = published_table("table1").rows
    basic, bottleneck = ([row.layers for row in rows if row.block == kind and row.layers]
                         for kind in ("basic", "bottleneck"))
    for depth in basic:
        yield imagenet(depth, Family.plain, ShortcutOption.A)
    for depth in basic:
        for option in ShortcutOption:
            yield imagenet(depth, Family.residual, option)
    for stride_in in StrideIn:
        for depth in bottleneck:
            yield imagenet(depth, Family.residual, ShortcutOption.B, stride_in)


def imagenet(depth: int, family: Family, option: ShortcutOption, stride_in: StrideIn | None = None) -> Network:
    """One network of Table 1."""
    def build() -> nn.Module:
        return build_imagenet_model(depth, family, option, stride_in or StrideIn.first_1x1)
    return replace(named_network(depth, family, option, "imagenet", build), stride_in=stride_in)


def named_network(depth: int, family: Family, option: ShortcutOption, dataset: str,
          build: Callable[[], nn.Module]) -> Network:
    """A network with its key and label."""
    name = "plain" if family is Family.plain else "ResNet"
    return Network(f"{name.lower()}-{depth}", f"{name}-{depth}", dataset, depth, build,
                   None if family is Family.plain else option)
