"""What is measured of a network beside its errors: layer responses, gradients, plainly averaged statistics."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from repro.models.blocks import weighted_layers


class Moments:
    """Mean and standard deviation of a stream of tensors (N, C, H, W), in float64 (Chan et al. 1979: parts are merged).
    """

    count, channels, mean, squares = 0, 0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        exact = (values.cpu() if values.device.type == "mps" else values).double()  # MPS has no float64
        variance, mean = torch.stack(torch.var_mean(exact, correction=0)).tolist()
        old, new = self.count, exact.numel()
        difference = mean - self.mean
        self.count, self.channels = old + new, values.shape[1]
        self.mean += difference * (new / self.count)
        self.squares = self.squares + variance * new + difference * difference * (old * new / self.count)

    def std(self) -> float:
        """The population standard deviation."""
        return float(torch.tensor(self.squares / self.count, dtype=torch.float64).sqrt())  # math.sqrt rounds otherwise


@torch.no_grad()
def layer_responses(model: nn.Module, batches: Iterable[Tensor]) -> list[tuple[int, str, int, float, float]]:
    """(layer from 1, name, channels, mean, std) of every 3x3 layer's responses to normalized images (B, 3, H, W).

    They are the outputs after batch normalization, before ReLU or addition (Fig. 7). Choice: one standard deviation
    over all images, channels and positions of a layer, about its mean (the paper does not say over what).
    """
    modules = dict(model.named_modules())
    names = [name for name, layer in weighted_layers(model)
             if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)]
    found = {name: Moments() for name in names}
    handles = [modules["bn".join(name.rsplit("conv", 1))].register_forward_hook(  # stage1.0.bn2 follows stage1.0.conv2
        lambda _module, _inputs, output, add=moments.add: add(output)) for name, moments in found.items()]
    was_training = model.training
    model.eval()
    try:
        for images in batches:
            model(images)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return [(number, name, moments.channels, moments.mean, moments.std())
            for number, (name, moments) in enumerate(found.items(), 1)]


def gradient_norms(model: nn.Module) -> list[tuple[int, str, float]]:
    """(layer from 1, name, L2 norm of its weight's gradient) of every weighted layer, after a backward pass.

    The gradient is that of the loss alone (Sec. 4.1 says that it is healthy with batch normalization).
    """
    names, norms = [], []
    for name, layer in weighted_layers(model):
        gradient = layer.weight.grad
        assert gradient is not None, "no backward pass yet"
        names.append(name)
        norms.append(torch.linalg.vector_norm(gradient if gradient.device.type == "mps" else gradient.double()))
    return list(zip(range(1, len(names) + 1), names, torch.stack(norms).tolist(), strict=True))


def with_averaged_statistics(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """A copy of the model whose running statistics are plain averages over these batches (authors' README).

    Each batch (N, 3, H, W) is normalized by its own statistics; means and unbiased variances have equal weights.
    """
    averaged = copy.deepcopy(model)
    averaged.zero_grad(set_to_none=True)
    update_bn(batches, averaged)
    return averaged
