"""The paper's networks, plain and residual, of Sec. 4.2 (CIFAR-10) and Table 1 (ImageNet), and their initial values."""

import hashlib
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.config import paper_config
from repro.models.blocks import BasicBlock, Bottleneck, Stage, batch_norm
from repro.schema import CLASSES, Architecture, ConvInit, Family, FcInit, ModelConfig, ShortcutOption, StrideIn

CIFAR_CHANNELS = (16, 32, 64)  # Sec. 4.2: filters on maps of 32x32, 16x16 and 8x8
WIDTHS = (64, 128, 256, 512)  # Table 1: channels of the 3x3 convolutions of conv2_x to conv5_x
# Table 1: the kind of block and how many of them conv2_x to conv5_x have; a plain network has its ResNet's blocks.
TABLE_1: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)), 34: (BasicBlock, (3, 4, 6, 3)), 50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)), 152: (Bottleneck, (3, 8, 36, 3))}
VGG_NAMES = {16: "vgg16", 19: "vgg19"}  # torchvision's, without batch normalization
VGG_CROP, VGG_MAP = 224, 7  # pixels; the first fully-connected layer takes the 7x7 map of such an image


def build_model(config: ModelConfig, seed: int = 0, batch_norm_group: int = 0) -> nn.Module:
    """The network of a configuration with its initial values (Sec. 3.4: MSRA), on the CPU, in training mode.

    `batch_norm_group` is the number of images that share batch statistics (0: the whole mini-batch). Under
    `torch.device("meta")` it has shapes only.
    """
    model: nn.Module
    if config.architecture is Architecture.cifar:
        model = CifarNet(config, batch_norm_group)
    elif config.family is Family.vgg:
        model = Vgg(config)
    else:
        model = ImageNetNet(config, batch_norm_group)
    if next(model.parameters()).device.type != "meta":
        initialize(model, config, seed)
    return model


class CifarNet(nn.Module):
    """3x3 convolution, 3 stages of n basic blocks, average pooling, fully-connected layer: 6n+2 weighted layers."""

    def __init__(self, config: ModelConfig, batch_norm_group: int = 0):
        super().__init__()
        first, second, third = CIFAR_CHANNELS
        assert config.blocks_per_stage is not None
        arguments = config.blocks_per_stage, config, batch_norm_group
        self.conv1 = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.bn1 = batch_norm(first, config, batch_norm_group)
        self.stage1 = make_stage(BasicBlock, first, first, 1, *arguments)
        self.stage2 = make_stage(BasicBlock, first, second, 2, *arguments)
        self.stage3 = make_stage(BasicBlock, second, third, 2, *arguments)
        self.fc = nn.Linear(third, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) normalized pixels -> (N, num_classes) logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


class ImageNetNet(nn.Module):
    """7x7 convolution and 3x3 max pooling, 4 stages named as in Table 1, average pooling, fully-connected layer."""

    def __init__(self, config: ModelConfig, batch_norm_group: int = 0):
        super().__init__()
        assert config.depth is not None
        block, numbers = TABLE_1[config.depth]
        channels = [WIDTHS[0], *(width * block.expansion for width in WIDTHS)]
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 7, 2, padding=3, bias=False)
        self.bn1 = batch_norm(WIDTHS[0], config, batch_norm_group)
        self.pool = nn.MaxPool2d(3, 2, padding=1)  # Choice: the padding, as in fb.resnet.torch; Table 1 gives sizes
        self.conv2_x, self.conv3_x, self.conv4_x, self.conv5_x = [
            make_stage(block, channels[k], channels[k + 1], 1 if k == 0 else 2, number, config, batch_norm_group)
            for k, number in enumerate(numbers)]  # conv3_1, conv4_1 and conv5_1 have stride 2
        self.fc = nn.Linear(channels[-1], config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) normalized pixels, 224x224 in the paper -> (N, num_classes) logits."""
        out: Tensor = self.fc(self.features(x).mean((2, 3)))
        return out

    def features(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) normalized pixels -> the last feature map (N, C, H/32, W/32), rounded up."""
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        out: Tensor = self.conv5_x(self.conv4_x(self.conv3_x(self.conv2_x(x))))
        return out


class Vgg(nn.Module):
    """VGG-16 or 19 (Simonyan and Zisserman), which the paper compares with: torchvision's, tested only."""

    def __init__(self, config: ModelConfig):
        from torchvision import models  # here, because it takes a second that no other network needs

        super().__init__()
        assert config.depth is not None
        net: Any = getattr(models, VGG_NAMES[config.depth])(num_classes=config.num_classes, init_weights=False)
        self.features: nn.Sequential = net.features
        self.classifier: nn.Sequential = net.classifier

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 224, 224) normalized pixels -> (N, num_classes) logits."""
        out: Tensor = self.classifier(self.features(x).flatten(1))
        return out


def make_stage(block: type[BasicBlock | Bottleneck], in_channels: int, out_channels: int, stride: int, blocks: int,
               config: ModelConfig, group: int) -> Stage:
    """So many blocks; the first one may have a stride and change the channels."""
    return Stage(block(in_channels, out_channels, stride, config, group),
                 *(block(out_channels, out_channels, 1, config, group) for _ in range(blocks - 1)))


@torch.no_grad()
def initialize(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """MSRA initialization (He et al. 2015): normal with variance 2/fan; batch normalization 1 and 0.

    Every layer draws from a generator of its own, seeded by (seed, name): layers that two networks share start from
    the same values, whatever shortcuts stand between them.
    """
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            continue
        seed_of_layer = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8]) >> 1
        generator = torch.Generator().manual_seed(seed_of_layer)
        if isinstance(module, nn.Conv2d):
            maps = module.out_channels if config.conv_init is ConvInit.fan_out else module.in_channels
            std = math.sqrt(2.0 / (maps * module.weight[0, 0].numel()))
            module.weight.normal_(0.0, std, generator=generator)
            if module.bias is not None:  # VGG's
                module.bias.zero_()
            continue
        bound = 1.0 / math.sqrt(module.in_features)  # the paper says nothing of this layer: see `FcInit`
        if config.fc_init is FcInit.msra:
            module.weight.normal_(0.0, math.sqrt(2.0 / module.in_features), generator=generator)
        else:
            module.weight.uniform_(-bound, bound, generator=generator)
        if config.fc_init is FcInit.uniform_zero_bias:
            module.bias.zero_()
        else:
            module.bias.uniform_(-bound, bound, generator=generator)


def imagenet_config(layers: int, family: Family = Family.residual, shortcut_option: ShortcutOption = ShortcutOption.B,
                    stride_in: StrideIn = StrideIn.first_1x1, num_classes: int = CLASSES) -> ModelConfig:
    """The model section of one of the paper's ImageNet networks, `layers` of TABLE_1."""
    return replace(paper_config("imagenet_optB").model, depth=layers, family=family, shortcut_option=shortcut_option,
                   stride_in=stride_in, num_classes=num_classes)
