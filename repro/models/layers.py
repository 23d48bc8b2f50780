"""The weighted layers of a network, as the paper counts them."""

from collections.abc import Iterator

from torch import nn


def weighted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    """(name, layer) of every convolution and fully-connected layer in forward order; projections are not counted.

    For a 6n+2-layer network of Sec. 4.2 these are 6n+1 3x3 convolutions and the fully-connected layer.
    """
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and ".shortcut." not in name:
            yield name, module
