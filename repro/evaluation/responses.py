"""The strength of the layers' responses (Sec. 4.2, Fig. 7) and of their gradients."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from repro.models.layers import weighted_layers


@dataclass(frozen=True)
class LayerResponse:
    """One 3x3 layer, counted from 1 in forward order: mean and standard deviation of its responses."""

    layer: int
    name: str
    channels: int
    mean: float
    std: float


class Moments:
    """Mean and standard deviation of a stream of tensors, in float64 (Chan et al. 1979: parts are merged)."""

    def __init__(self) -> None:
        self.count, self.channels = 0, 0
        self.mean = self.squares = torch.zeros((), dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Take in a tensor (N, C, H, W)."""
        exact = (values.cpu() if values.device.type == "mps" else values).double()  # MPS has no float64
        variance, mean = torch.var_mean(exact, correction=0)
        old, new = self.count, exact.numel()
        difference = mean - self.mean.to(mean.device)
        self.count, self.channels = old + new, values.shape[1]
        self.mean = self.mean.to(mean.device) + difference * (new / self.count)
        self.squares = self.squares.to(mean.device) + variance * new + difference.square() * (old * new / self.count)

    def std(self) -> float:
        """The population standard deviation."""
        return float((self.squares / self.count).sqrt())


@torch.no_grad()
def layer_responses(model: nn.Module, images: Tensor, prepare: Callable[[Tensor], Tensor],
                    batch_size: int) -> list[LayerResponse]:
    """The responses of every 3x3 layer: its output after batch normalization, before ReLU or addition (Fig. 7).

    images: (N, 3, H, W) uint8; `prepare` makes a batch of them the network's input. Evaluation mode, in fp32; the model
    is left in the mode that it was in. Choice: one standard deviation over all images, channels and positions of a
    layer, about the layer's mean (the paper does not say over what).
    """
    normalizations = dict(response_layers(model))
    moments = {name: Moments() for name in normalizations}
    handles = [watch(module, moments[name]) for name, module in normalizations.items()]
    was_training = model.training
    model.eval()
    try:
        for begin in range(0, len(images), batch_size):
            model(prepare(images[begin : begin + batch_size]))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return [LayerResponse(number, name, found.channels, float(found.mean), found.std())
            for number, (name, found) in enumerate(moments.items(), 1)]


def watch(module: nn.Module, moments: Moments) -> RemovableHandle:
    """Take in all that a module gives out."""
    return module.register_forward_hook(lambda _module, _inputs, output: moments.add(output))


def response_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """(name of the 3x3 convolution, the batch normalization that follows it), in forward order."""
    modules = dict(model.named_modules())
    found = []
    for name, layer in weighted_layers(model):
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            path, _, leaf = name.rpartition(".")
            partner = leaf.replace("conv", "bn")
            found.append((name, modules[f"{path}.{partner}" if path else partner]))
    return found


def gradient_norms(model: nn.Module) -> list[tuple[int, str, float]]:
    """(layer from 1, name, L2 norm of the gradient of its weight) of every weighted layer, in forward order.

    The gradient is that of the loss alone, as the last backward pass left it; computed in float64 where the device has
    it. The paper says of plain networks that these norms are healthy with batch normalization (Sec. 4.1).
    """
    norms = []
    for _, layer in weighted_layers(model):
        gradient = layer.weight.grad
        assert gradient is not None, "no backward pass yet"
        exact = gradient if gradient.device.type == "mps" else gradient.double()
        norms.append(torch.linalg.vector_norm(exact))
    values = torch.stack(norms).tolist()
    names = [name for name, _ in weighted_layers(model)]
    return [(number, name, value) for number, (name, value) in enumerate(zip(names, values, strict=True), 1)]
