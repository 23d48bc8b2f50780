"""The paper's networks, plain and residual, of Sec. 4.2 (CIFAR-10) and Table 1 (ImageNet), and their initial values.

All tensors are float, (N, C, H, W); a stride of 2 halves H and W, rounded up. `group`: see `batch_norm`.
"""

import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.schema import Architecture, ConvInit, Family, FcInit, ModelConfig, ShortcutOption, StrideIn, ZeroPadding

WIDTHS = (64, 128, 256, 512)  # Table 1: channels of the 3x3 convolutions of conv2_x to conv5_x


def batch_norm(channels: int, config: ModelConfig, group: int) -> nn.BatchNorm2d:
    """Batch normalization over `group` images (0: over the whole mini-batch) with the configuration's constants."""
    eps, momentum = config.batch_norm_eps, config.batch_norm_momentum
    return GroupedBatchNorm2d(channels, group, eps, momentum) if group else nn.BatchNorm2d(channels, eps, momentum)


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization whose training statistics come from groups of `group` images, as on several GPUs."""

    def __init__(self, channels: int, group: int, eps: float, momentum: float):
        super().__init__(channels, eps=eps, momentum=momentum)
        self.group = group
        self.averaged_groups = 0  # while momentum is None: the running averages are plain ones over so many groups

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape; N in training must be a multiple of the group."""
        if not self.training or len(x) <= self.group:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        parts = torch.split(x, self.group)
        means, variances = (self.running_mean.new_zeros(len(parts), self.num_features) for _ in range(2))
        out = [F.batch_norm(part, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
               for part, mean, variance in zip(parts, means, variances, strict=True)]
        if self.num_batches_tracked is not None:  # a training step counts for all layers in one call
            self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:
            self.averaged_groups += len(parts)
            share = len(parts) / self.averaged_groups
        with torch.no_grad():  # towards the groups' mean: it doesn't matter which of them are on which device
            self.running_mean.lerp_(means.mean(0), share)
            self.running_var.lerp_(variances.mean(0), share)
        return torch.cat(out)


class ZeroPadShortcut(nn.Module):
    """Option A: identity that samples with stride 2 and adds zero channels, `before` in front (Sec. 3.3, 4.2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, before: int = 0):
        super().__init__()
        self.before, self.after = before, out_channels - in_channels - before
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H/stride, W/stride)."""
        # Choice: the even positions, as a 1x1 convolution with stride 2 would take.
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class ProjectionShortcut(nn.Sequential):
    """Options B and C: a 1x1 convolution followed by batch normalization (Sec. 3.3, 3.4)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, config: ModelConfig, group: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.bn = batch_norm(out_channels, config, group)


def make_shortcut(in_channels: int, out_channels: int, stride: int, config: ModelConfig,
                  group: int) -> nn.Module | None:
    """What is added to a block's output (Sec. 4.1); None in a plain network."""
    grows = stride != 1 or in_channels != out_channels  # A pads with zeros there, B projects there, C everywhere
    if config.family is Family.plain:
        return None
    if config.shortcut_option is ShortcutOption.C or (config.shortcut_option is ShortcutOption.B and grows):
        return ProjectionShortcut(in_channels, out_channels, stride, config, group)
    before = (out_channels - in_channels) // 2 if config.zero_padding is ZeroPadding.both_sides else 0
    return ZeroPadShortcut(in_channels, out_channels, stride, before) if grows else nn.Identity()


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each followed by batch normalization; ReLU after the addition (Sec. 3.2, 3.4, Fig. 2)."""

    expansion = 1

    def __init__(self, in_channels: int, out_channels: int, stride: int, config: ModelConfig, group: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = batch_norm(out_channels, config, group)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, padding=1, bias=False)
        self.bn2 = batch_norm(out_channels, config, group)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, config, group)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H/stride, W/stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out if self.shortcut is None else out + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, each with batch normalization; ReLU after the addition (Sec. 4.1, Fig. 5)."""

    expansion = 4

    def __init__(self, in_channels: int, out_channels: int, stride: int, config: ModelConfig, group: int):
        super().__init__()
        width = out_channels // self.expansion  # the first 1x1 reduces to it, the last one restores
        first, second = (stride, 1) if config.stride_in is StrideIn.first_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, first, bias=False)
        self.bn1 = batch_norm(width, config, group)
        self.conv2 = nn.Conv2d(width, width, 3, second, padding=1, bias=False)
        self.bn2 = batch_norm(width, config, group)
        self.conv3 = nn.Conv2d(width, out_channels, 1, 1, bias=False)
        self.bn3 = batch_norm(out_channels, config, group)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, config, group)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H/stride, W/stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out if self.shortcut is None else out + self.shortcut(x))


def make_stage(block: type[BasicBlock | Bottleneck], in_channels: int, out_channels: int, stride: int, blocks: int,
               config: ModelConfig, group: int) -> nn.Sequential:
    """So many blocks; the first one may have a stride and change the channels."""
    return nn.Sequential(block(in_channels, out_channels, stride, config, group),
                         *(block(out_channels, out_channels, 1, config, group) for _ in range(blocks - 1)))


# Table 1: the kind of block and how many of them conv2_x to conv5_x have; a plain network has its ResNet's blocks.
TABLE_1: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)), 34: (BasicBlock, (3, 4, 6, 3)), 50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)), 152: (Bottleneck, (3, 8, 36, 3))}


class CifarNet(nn.Module):
    """3x3 convolution, 3 stages of n basic blocks, average pooling, fully-connected layer: 6n+2 weighted layers."""

    def __init__(self, config: ModelConfig, group: int = 0):
        super().__init__()
        assert config.blocks_per_stage is not None
        arguments = config.blocks_per_stage, config, group
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = batch_norm(16, config, group)
        self.stage1 = make_stage(BasicBlock, 16, 16, 1, *arguments)  # Sec. 4.2: 16 filters on maps of 32x32
        self.stage2 = make_stage(BasicBlock, 16, 32, 2, *arguments)  # 32 on 16x16
        self.stage3 = make_stage(BasicBlock, 32, 64, 2, *arguments)  # 64 on 8x8
        self.fc = nn.Linear(64, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) normalized pixels -> (N, num_classes) logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


class ImageNetNet(nn.Module):
    """7x7 convolution and 3x3 max pooling, 4 stages named as in Table 1, average pooling, fully-connected layer."""

    def __init__(self, config: ModelConfig, group: int = 0):
        super().__init__()
        assert config.depth is not None
        block, numbers = TABLE_1[config.depth]
        channels = [WIDTHS[0], *(width * block.expansion for width in WIDTHS)]
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 7, 2, padding=3, bias=False)
        self.bn1 = batch_norm(WIDTHS[0], config, group)
        self.pool = nn.MaxPool2d(3, 2, padding=1)  # Choice: the padding, as in fb.resnet.torch; Table 1 gives sizes
        self.conv2_x, self.conv3_x, self.conv4_x, self.conv5_x = [
            make_stage(block, channels[k], channels[k + 1], 1 if k == 0 else 2, number, config, group)
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


def build_model(config: ModelConfig, seed: int = 0, batch_norm_group: int = 0) -> nn.Module:
    """The network of a configuration with its initial values, on the CPU; under torch.device("meta") shapes only."""
    model = (CifarNet if config.architecture is Architecture.cifar else ImageNetNet)(config, batch_norm_group)
    if model.fc.weight.device.type != "meta":
        initialize(model, config, seed)
    return model


@torch.no_grad()
def initialize(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """MSRA initialization (Sec. 3.4; He et al. 2015): normal with variance 2/fan; batch normalization 1 and 0."""
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            continue
        # By its name: layers that two networks share start from the same values, whatever shortcuts stand between.
        seed_of_layer = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8]) >> 1
        generator = torch.Generator().manual_seed(seed_of_layer)
        if isinstance(module, nn.Conv2d):
            maps = module.out_channels if config.conv_init is ConvInit.fan_out else module.in_channels
            std = math.sqrt(2.0 / (maps * module.weight[0, 0].numel()))
            module.weight.normal_(0.0, std, generator=generator)
            continue
        bound = 1.0 / math.sqrt(module.in_features)  # the paper says nothing of this layer: see `FcInit`
        if config.fc_init is FcInit.msra:
            module.weight.normal_(0.0, math.sqrt(2.0 / module.in_features), generator=generator)
        else:
            module.weight.uniform_(-bound, bound, generator=generator)
        module.bias.uniform_(-bound, bound, generator=generator)
        if config.fc_init is FcInit.uniform_zero_bias:
            module.bias.zero_()


def weighted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    """(name, layer) of every convolution and fully-connected layer in forward order; projections are not counted."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and ".shortcut." not in name:
            yield name, module
