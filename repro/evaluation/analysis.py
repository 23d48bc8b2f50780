"""What is measured of a network beside its errors: responses, gradients, plainly averaged statistics, and its size."""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from repro.config import paper_config
from repro.models import build_model
from repro.models.blocks import weighted_layers
from repro.schema import DEPTHS, Family, ModelConfig, ShortcutOption, StrideIn

CIFAR_PLAIN_UP_TO = 110  # Sec. 4.2: plain networks of 20 to 110 layers


class LayerResponse(NamedTuple):
    """One 3x3 layer, counted from 1 in forward order: mean and standard deviation of its responses."""

    layer: int
    name: str
    channels: int
    mean: float
    std: float


class Moments:
    """Mean and standard deviation of a stream of tensors, in float64 (Chan et al. 1979: parts are merged)."""

    count, channels, mean, squares = 0, 0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        """Take in a tensor (N, C, H, W)."""
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
def layer_responses(model: nn.Module, batches: Iterable[Tensor]) -> list[LayerResponse]:
    """The responses of every 3x3 layer to normalized images (B, 3, H, W), in fp32; the model keeps its mode.

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
    return [LayerResponse(number, name, moments.channels, moments.mean, moments.std())
            for number, (name, moments) in enumerate(found.items(), 1)]


def gradient_norms(model: nn.Module) -> list[tuple[int, str, float]]:
    """(layer from 1, name, L2 norm of the gradient of its weight) of every weighted layer, in forward order.

    The gradient is that of the loss alone, as the last backward pass left it (Sec. 4.1 says that it is healthy with
    batch normalization); the norm is computed in float64 where the device has it.
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

    Each batch (N, 3, H, W) is normalized by its own statistics, as in training; means and unbiased variances are
    averaged with equal weights.
    """
    averaged = copy.deepcopy(model)
    averaged.zero_grad(set_to_none=True)
    update_bn(batches, averaged)
    return averaged


@dataclass(frozen=True)
class Network:
    """A network of the paper, which is counted on shapes alone."""

    label: str  # "ResNet-50"; in lower case the key in experiments/published
    dataset: str  # cifar10 or imagenet
    model: ModelConfig
    shortcut_option: ShortcutOption | None = None  # None: no shortcuts
    stride_in: StrideIn | None = None  # None: no bottlenecks

    key = property(lambda self: self.label.lower())
    depth = property(lambda self: self.model.depth)


@dataclass(frozen=True)
class Counts:
    """What one network has; multiply-adds are those of one image."""

    layers: int  # weighted layers: convolutions (projections apart) and fully-connected layers
    parameters: int
    convolution_multiply_adds: int
    fully_connected_multiply_adds: int


def count(network: Network) -> Counts:
    """Build the network on the meta device and count it with torch's own counter.

    RuntimeError if it has an operation with multiply-adds that is no convolution and no fully-connected layer.
    """
    from torch.utils.flop_counter import FlopCounterMode  # late: it loads triton, which no run needs

    side = 32 if network.dataset == "cifar10" else 224  # pixels (Sec. 4.2, 4.1)
    with torch.device("meta"):
        model, image = build_model(network.model).eval(), torch.empty(1, 3, side, side)
    layers = sum(1 for _ in weighted_layers(model))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    for module in list(model.modules()):  # batch normalization has none that count, and takes most of the time
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    flops: dict[Any, int] = dict(counter.get_flop_counts().get("Global", {}))
    convolutions, fully_connected = (flops.pop(operation, 0) for operation in
                                     (torch.ops.aten.convolution, torch.ops.aten.addmm))
    if flops:
        raise RuntimeError(f"{network.key}: operations that are counted nowhere: {', '.join(map(str, flops))}")
    return Counts(layers, parameters, convolutions // 2, fully_connected // 2)  # 2 operations are 1 multiply-add


def networks() -> Iterator[Network]:
    """All networks of the paper: by data set, plain before residual, then by depth.

    For comparison there are options B and C on CIFAR-10, which the paper doesn't use there, and bottlenecks with the
    stride in the 3x3.
    """
    from repro.models.resnet import imagenet_config
    from repro.paper import golden_counts, published_table

    cifar = paper_config("cifar_resnet20").model
    models = {golden.layers: replace(cifar, depth=golden.layers, blocks_per_stage=(golden.layers - 2) // 6)
              for golden in golden_counts().cifar10}
    for depth, model in models.items():
        if depth <= CIFAR_PLAIN_UP_TO:
            yield Network(f"plain-{depth}", "cifar10", replace(model, family=Family.plain))
    for (depth, model), option in product(models.items(), ShortcutOption):
        yield Network(f"ResNet-{depth}", "cifar10", replace(model, shortcut_option=option), option)
    basic, bottleneck = ([row.layers for row in published_table("table1").rows if row.block == kind and row.layers]
                         for kind in ("basic", "bottleneck"))
    for depth in basic:
        yield Network(f"plain-{depth}", "imagenet", imagenet_config(depth, Family.plain))
    for depth, option in product(basic, ShortcutOption):
        yield Network(f"ResNet-{depth}", "imagenet", imagenet_config(depth, shortcut_option=option), option)
    for stride, depth in product(StrideIn, bottleneck):
        yield Network(f"ResNet-{depth}", "imagenet", imagenet_config(depth, stride_in=stride), ShortcutOption.B, stride)
    for depth in DEPTHS[Family.vgg]:
        yield Network(f"VGG-{depth}", "imagenet", paper_config(f"imagenet_vgg{depth}").model)
