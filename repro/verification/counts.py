"""Golden counts: parameters and multiply-adds of the networks that this installation builds."""

from collections.abc import Iterator

import torch

from repro.evaluation.complexity import Network, count, networks
from repro.models import build_model
from repro.models.layers import weighted_layers
from repro.paper import golden_counts
from repro.published import GoldenCount
from repro.ranges import CIFAR10, IMAGENET
from repro.reporting.complexity_table import half_a_digit
from repro.schema import Architecture, ModelConfig, StrideIn
from repro.verification.check import Difference, same
from repro.verification.identities import pinned_configs


def name_of(network: Network) -> str:
    """'imagenet/resnet-50-B-conv3x3'."""
    parts = (network.shortcut_option, network.stride_in)
    return "-".join([f"{network.dataset}/{network.key}", *(part.name for part in parts if part)])


def parameters() -> str:
    """Parameters and weighted layers of every network of the paper, and of every experiment's, built without data."""
    known = golden_counts().by_depth()
    compared = [one for network in networks() for one in of_network(network, known[network.dataset])]
    nets = len(compared) // 2
    others = list(of_experiments(known))
    same([*compared, *others])
    return f"{nets} networks, and those of {len(others)} experiments (layers, parameters)"


def of_network(network: Network, known: dict[int, GoldenCount]) -> Iterator[Difference]:
    """Its layers and its parameters, if these are golden; a network without shortcuts has those of option A."""
    option = network.shortcut_option.name if network.shortcut_option else "A"
    with torch.device("meta"):
        model = network.build()
    found = sum(parameter.numel() for parameter in model.parameters())
    yield Difference(f"layers of {name_of(network)}", network.depth, sum(1 for _ in weighted_layers(model)))
    yield Difference(f"parameters of {name_of(network)}", known[network.depth].parameters.get(option, "a golden count"),
                     found)


def of_experiments(known: dict[str, dict[int, GoldenCount]]) -> Iterator[Difference]:
    """The parameters of the network of each of the paper's experiments."""
    for name, config in pinned_configs():
        model = config.model
        one = known[IMAGENET if model.architecture is Architecture.imagenet else CIFAR10].get(model.depth or 0)
        expected = one.parameters.get(model.shortcut_option.name) if one else None
        yield Difference(f"parameters of {name}", expected or "a golden count", built(model))


def built(model: ModelConfig) -> int:
    """Parameters of the network of a configuration."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_model(model).parameters())


def multiply_adds() -> str:
    """Multiply-adds of one image, by torch's own counter, to the digits that golden_counts.yaml gives."""
    known = golden_counts().by_depth()
    compared = [one for network in networks() for one in counted(network, known[network.dataset][network.depth])]
    return f"{same(compared)} networks"


def counted(network: Network, one: GoldenCount) -> Iterator[Difference]:
    """The multiply-adds of a network, if they are golden."""
    option = network.shortcut_option.name if network.shortcut_option else "A"
    expected = (one.multiply_adds_stride_in_3x3 if network.stride_in is StrideIn.conv3x3
                else one.multiply_adds.get(option))
    if expected is not None:
        counts = count(network)
        found = counts.convolution_multiply_adds + counts.fully_connected_multiply_adds
        near = abs(found - expected) <= half_a_digit(expected)
        yield Difference(f"multiply-adds of {name_of(network)}", expected, expected if near else found)
