"""Counting: every network against golden counts and against formulas that are written out here."""

import pytest
import torch
from torch import nn

from repro.evaluation.complexity import Counts, Network, count, networks
from repro.reporting.tables import CountedNetwork, complexity_table, count_differences

# One of each kind; `repro complexity --check` counts all of them.
COUNTED = ("cifar10/plain-20", "cifar10/resnet-110-A", "cifar10/resnet-56-C", "imagenet/resnet-34-B",
           "imagenet/resnet-50-B-conv3x3", "imagenet/vgg-16")


def as_counted(net: Network, counts: Counts) -> CountedNetwork:
    return CountedNetwork(net.key, net.label, net.dataset, net.depth,
                          net.shortcut_option.name if net.shortcut_option else None,
                          net.stride_in.name if net.stride_in else None, **vars(counts))


@pytest.fixture(scope="module")
def counted() -> dict[str, CountedNetwork]:
    """Six networks, counted once."""
    keys = {as_counted(net, Counts(0, 0, 0, 0)).row_key: net for net in networks()}
    return {key: as_counted(keys[key], count(keys[key])) for key in COUNTED}


def test_all_networks_of_the_paper_are_listed():
    cifar = [f"cifar10/plain-{depth}" for depth in (20, 32, 44, 56, 110)]
    cifar += [f"cifar10/resnet-{depth}-{option}" for depth in (20, 32, 44, 56, 110, 1202) for option in "ABC"]
    imagenet = [f"imagenet/plain-{depth}" for depth in (18, 34)]
    imagenet += [f"imagenet/resnet-{depth}-{option}" for depth in (18, 34) for option in "ABC"]
    imagenet += [f"imagenet/resnet-{depth}-B-{stride}" for stride in ("first_1x1", "conv3x3")
                 for depth in (50, 101, 152)]
    assert [as_counted(net, Counts(0, 0, 0, 0)).row_key for net in networks()] == [
        *cifar, *imagenet, "imagenet/vgg-16", "imagenet/vgg-19"]


def test_golden_counts_and_layers(counted):
    assert count_differences(counted.values()) == []
    assert [net.row_key for net in counted.values() if net.layers != net.depth] == []


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
    for key, net in counted.items():
        if key.startswith("cifar10"):
            found = net.convolution_multiply_adds, net.fully_connected_multiply_adds
            assert found == cifar_formula((net.depth - 2) // 6, net.shortcut_option), key


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
    net = counted[key]
    found = net.convolution_multiply_adds, net.fully_connected_multiply_adds
    assert found == imagenet_formula([3, 4, 6, 3], bottleneck, "B", stride_in_3x3=True)


def test_vgg_agrees_with_a_formula(counted):
    total, before = 0, 3
    for index, (number, width) in enumerate(zip((2, 2, 3, 3, 3), (64, 128, 256, 512, 512), strict=True)):
        total += 9 * (before + (number - 1) * width) * width * (224 // 2**index) ** 2
        before = width
    net = counted["imagenet/vgg-16"]
    assert net.convolution_multiply_adds == total
    assert net.fully_connected_multiply_adds == 512 * 49 * 4096 + 4096 * 4096 + 4096 * 1000


def test_the_verdicts_on_the_papers_numbers(counted):
    """Table 1 is of the networks with the stride in the first 1x1 and, at 34 layers, of option A (or plain)."""
    table = complexity_table(counted.values())
    assert {row.key.removeprefix("imagenet/"): row.verdict for row in table.rows if row.verdict} == {
        "resnet-34-B": "agrees if cut, not rounded", "resnet-50-B-conv3x3": "differs", "vgg-16": "agrees"}


def test_an_operation_that_would_be_counted_nowhere_is_an_error():
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.bmm(x[0], x[0])

    with pytest.raises(RuntimeError, match=r"net: operations that are counted nowhere: .*bmm"):
        count(Network("net", "net", "cifar10", 1, Attention))


def test_a_network_without_any_layer_has_no_count():
    assert vars(count(Network("net", "net", "cifar10", 0, nn.Identity))) == {
        "layers": 0, "parameters": 0, "convolution_multiply_adds": 0, "fully_connected_multiply_adds": 0}
