"""Forward passes: CIFAR-10 networks against ones written out in NumPy, ImageNet networks against torchvision's."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torchvision
from torch import nn

from repro.config import paper_config
from repro.models import build_model
from repro.models.build import build_imagenet_model
from repro.schema import Family, ShortcutOption, StrideIn
from repro.verification.check import Difference, agreement, same
from repro.verification.written_out import WrittenOut

TOLERANCE = 1e-9  # of float64 outputs that were summed in another order
IMAGES, BLOCKS = 3, 3  # of a mini-batch; n of ResNet-20
KINDS: tuple[tuple[str, Family, ShortcutOption], ...] = (
    ("plain-20", Family.plain, ShortcutOption.A),
    *((f"ResNet-20 {option.name}", Family.residual, option) for option in ShortcutOption))
THEIRS = (("ResNet-18", 18, StrideIn.first_1x1), ("ResNet-50 as the authors have it", 50, StrideIn.first_1x1),
          ("ResNet-50 v1.5", 50, StrideIn.conv3x3))
SIDE = 64  # pixels; enough for all strides


def cifar() -> str:
    """Plain-20 and ResNet-20 with options A, B, C, in both modes, and the running statistics of training."""
    compared = [one for name, family, option in KINDS for one in against_numpy(name, family, option)]
    same(compared)
    return (f"{', '.join(name for name, _, _ in KINDS)}: training and evaluation mode, {IMAGES} images, float64, "
            f"against NumPy within {TOLERANCE:g}")


def against_numpy(name: str, family: Family, option: ShortcutOption) -> Iterator[Difference]:
    """One network: logits in training mode, the running statistics after it, and logits in evaluation mode."""
    config = replace(paper_config("cifar_resnet20").model, family=family, shortcut_option=option)
    model = scattered(build_model(config))
    images = made_images(32)
    for training in (True, False):
        weights = {key: value.numpy().copy() for key, value in model.state_dict().items()}
        written = WrittenOut(weights, BLOCKS, None if family is Family.plain else option.name, training)
        wanted = written(images.numpy())
        with torch.no_grad():
            found = model.train(training)(images)
        yield agreement(f"{name}, logits in {'training' if training else 'evaluation'} mode", wanted, found.numpy(),
                        TOLERANCE)
        state = model.state_dict()
        for key, values in written.running.items():
            yield agreement(f"{name}, {key}", values, state[key].numpy(), TOLERANCE)


def scattered(model: nn.Module) -> nn.Module:
    """The model in float64, batch normalisation with scales, shifts and statistics that are nothing special."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for tensor, low, high in ((module.weight, 0.5, 1.0), (module.bias, -0.5, 0.5),
                                      (module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0)):
                tensor.data.uniform_(low, high, generator=generator)
    return model.double()


def made_images(side: int) -> torch.Tensor:
    """(IMAGES, 3, side, side) float64, as spread as pixels without their mean."""
    generator = torch.Generator().manual_seed(1)
    return 60 * torch.randn(IMAGES, 3, side, side, dtype=torch.float64, generator=generator)


def imagenet() -> str:
    """ResNet-18 and both kinds of ResNet-50, option B, in evaluation mode."""
    same([against_torchvision(*one) for one in THEIRS])
    return (f"{', '.join(name for name, _, _ in THEIRS)}: {IMAGES} images, float64, against torchvision's with the "
            f"same weights within {TOLERANCE:g}")


def against_torchvision(name: str, layers: int, stride_in: StrideIn) -> Difference:
    """The outputs of our network and of torchvision's, whose layers stand in the same order."""
    ours = scattered(build_imagenet_model(layers, stride_in=stride_in)).eval()
    with torch.device("meta"):
        theirs: Any = getattr(torchvision.models, f"resnet{layers}")()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)), assign=True)
    if stride_in is StrideIn.first_1x1:
        move_strides(theirs)
    images = made_images(SIDE)
    with torch.no_grad():
        wanted, found = theirs.double().eval()(images), ours(images)
    return agreement(f"{name}, outputs", wanted.numpy(), found.numpy(), TOLERANCE)


def move_strides(theirs: nn.Module) -> None:
    """Torchvision's bottlenecks have their stride in the 3x3, the authors' in the first 1x1 (their README)."""
    for block in theirs.modules():
        if isinstance(block, torchvision.models.resnet.Bottleneck) and block.stride == 2:
            block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
