"""Building blocks: the three shortcut options, basic and bottleneck block, and batch normalization over groups.

All tensors are float, (N, C, H, W).
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.schema import Family, ModelConfig, ShortcutOption, StrideIn, ZeroPadding


class ZeroPadShortcut(nn.Module):
    """Option A: identity that samples with stride 2 and adds zero channels; no parameters (Sec. 3.3, 4.2).

    Choice: the sampled positions are the even ones, as a 1x1 convolution with stride 2 would take. `before` of the
    new channels stand before the old ones, the others follow them.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, before: int = 0):
        super().__init__()
        self.before, self.after = before, out_channels - in_channels - before
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, ceil(H/stride), ceil(W/stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class ProjectionShortcut(nn.Module):
    """Options B and C: a 1x1 convolution followed by batch normalization (Sec. 3.3, 3.4)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, config: ModelConfig, group: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.bn = batch_norm(out_channels, config, group)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, ceil(H/stride), ceil(W/stride))."""
        out: Tensor = self.bn(self.conv(x))
        return out


def make_shortcut(in_channels: int, out_channels: int, stride: int, config: ModelConfig,
                  group: int) -> nn.Module | None:
    """What is added to a block's output (Sec. 4.1); None in a plain network.

    A: identity, zero-padded where dimensions grow. B: projection where they grow, else identity. C: projection always.
    """
    grows = stride != 1 or in_channels != out_channels
    if config.family is Family.plain:
        return None
    if config.shortcut_option is ShortcutOption.C or (config.shortcut_option is ShortcutOption.B and grows):
        return ProjectionShortcut(in_channels, out_channels, stride, config, group)
    before = (out_channels - in_channels) // 2 if config.zero_padding is ZeroPadding.both_sides else 0
    return ZeroPadShortcut(in_channels, out_channels, stride, before) if grows else nn.Identity()


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each followed by batch normalization; ReLU after the addition (Sec. 3.2, 3.4, Fig. 2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, config: ModelConfig, group: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = batch_norm(out_channels, config, group)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, padding=1, bias=False)
        self.bn2 = batch_norm(out_channels, config, group)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, config, group)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, ceil(H/stride), ceil(W/stride))."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.shortcut is not None:
            out = out + self.shortcut(x)
        return F.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, each with batch normalization; ReLU after the addition (Sec. 4.1, Fig. 5).

    The first 1x1 reduces to a quarter of `out_channels`, the last one restores them; `config.stride_in` says which
    convolution has the stride.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, config: ModelConfig, group: int):
        super().__init__()
        width = out_channels // 4
        first, second = (stride, 1) if config.stride_in is StrideIn.first_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, first, bias=False)
        self.bn1 = batch_norm(width, config, group)
        self.conv2 = nn.Conv2d(width, width, 3, second, padding=1, bias=False)
        self.bn2 = batch_norm(width, config, group)
        self.conv3 = nn.Conv2d(width, out_channels, 1, 1, bias=False)
        self.bn3 = batch_norm(out_channels, config, group)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, config, group)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, ceil(H/stride), ceil(W/stride))."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.shortcut is not None:
            out = out + self.shortcut(x)
        return F.relu(out)


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization whose training statistics come from groups of `group` images, as on several GPUs.

    The running averages follow the mean of the groups' statistics, so that it doesn't matter which of the groups are
    on which device. With momentum None the averages are plain ones over all groups so far.
    """

    def __init__(self, channels: int, group: int, eps: float, momentum: float):
        super().__init__(channels, eps=eps, momentum=momentum)
        self.group = group
        self.averaged_groups = 0  # groups in the plain averages, while momentum is None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape; N in training must be a multiple of the group."""
        if not self.training or len(x) <= self.group:
            return super().forward(x)
        parts = torch.split(x, self.group)
        assert self.running_mean is not None
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        means, variances = (self.running_mean.new_zeros(len(parts), self.num_features) for _ in range(2))
        out = [F.batch_norm(part, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
               for part, mean, variance in zip(parts, means, variances, strict=True)]
        with torch.no_grad():
            self.follow(means.mean(0), variances.mean(0), len(parts))
        return torch.cat(out)

    def follow(self, mean: Tensor, variance: Tensor, groups: int) -> None:
        """Move the running averages toward the mean statistics of so many groups; (C,) each."""
        assert self.running_mean is not None
        assert self.running_var is not None
        share = self.momentum
        if share is None:
            self.averaged_groups += groups
            share = groups / self.averaged_groups
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def batch_norm(channels: int, config: ModelConfig, group: int) -> nn.BatchNorm2d:
    """Batch normalization over `group` images (0: over the whole mini-batch) with the configuration's constants."""
    eps, momentum = config.batch_norm_eps, config.batch_norm_momentum
    return GroupedBatchNorm2d(channels, group, eps, momentum) if group else nn.BatchNorm2d(channels, eps, momentum)


def weighted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    """(name, layer) of every convolution and fully-connected layer in forward order; projections are not counted.

    For a 6n+2-layer network of Sec. 4.2 these are 6n+1 3x3 convolutions and the fully-connected layer.
    """
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and ".shortcut." not in name:
            yield name, module
