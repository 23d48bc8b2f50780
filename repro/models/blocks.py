"""Building blocks: the three shortcut options, basic and bottleneck block, batch normalization over groups, stages.

All tensors are float, (N, C, H, W); a stride of 2 halves H and W, rounded up. `group`: see `batch_norm`.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from math import ceil, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

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
        """(N, in, H, W) -> (N, out, H/stride, W/stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class ProjectionShortcut(nn.Sequential):
    """Options B and C: a 1x1 convolution followed by batch normalization (Sec. 3.3, 3.4)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, config: ModelConfig, group: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.bn = batch_norm(out_channels, config, group)


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
        if self.shortcut is not None:
            out = out + self.shortcut(x)
        return F.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, each with batch normalization; ReLU after the addition (Sec. 4.1, Fig. 5).

    The first 1x1 reduces to a quarter of `out_channels`, the last one restores them; `config.stride_in` says which
    convolution has the stride.
    """

    expansion = 4

    def __init__(self, in_channels: int, out_channels: int, stride: int, config: ModelConfig, group: int):
        super().__init__()
        width = out_channels // self.expansion
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
        if self.shortcut is not None:
            out = out + self.shortcut(x)
        return F.relu(out)


def batch_norm(channels: int, config: ModelConfig, group: int) -> nn.BatchNorm2d:
    """Batch normalization over `group` images (0: over the whole mini-batch) with the configuration's constants."""
    eps, momentum = config.batch_norm_eps, config.batch_norm_momentum
    return GroupedBatchNorm2d(channels, group, eps, momentum) if group else nn.BatchNorm2d(channels, eps, momentum)


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
        assert self.running_mean is not None
        assert self.running_var is not None
        parts = torch.split(x, self.group)
        means, variances = (self.running_mean.new_zeros(len(parts), self.num_features) for _ in range(2))
        out = [F.batch_norm(part, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
               for part, mean, variance in zip(parts, means, variances, strict=True)]
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:
            self.averaged_groups += len(parts)
            share = len(parts) / self.averaged_groups
        with torch.no_grad():
            self.running_mean.lerp_(means.mean(0), share)
            self.running_var.lerp_(variances.mean(0), share)
        return torch.cat(out)


class Stage(nn.Sequential):
    """Blocks one after the other.

    With `checkpointing`, n blocks are cut into about sqrt(n) segments (Chen et al., arXiv 1604.06174): a forward pass
    that needs gradients keeps only each segment's input, and the backward pass computes one segment again at a time.
    Outputs, gradients and batch-normalization statistics are the same.
    """

    checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H/stride, W/stride)."""
        if not self.checkpointing or not torch.is_grad_enabled():
            for block in self:
                x = block(x)
            return x
        blocks, length = list(self), ceil(sqrt(len(self)))
        for begin in range(0, len(blocks), length):
            segment = nn.Sequential(*blocks[begin : begin + length])
            # No layer draws random numbers; their state could not be read while a CUDA graph is captured.
            x = checkpoint(segment, x, use_reentrant=False, preserve_rng_state=False,
                           context_fn=partial(checkpoint_contexts, segment))
        return x


def checkpoint_contexts(segment: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What surrounds a segment's first forward pass, and what its second one."""
    return nullcontext(), keep_statistics(segment)


@contextmanager
def keep_statistics(module: nn.Module) -> Iterator[None]:
    """Batch normalization over the batch at hand that leaves its running statistics as they are."""
    layers = [(layer, layer.momentum, layer.num_batches_tracked) for layer in module.modules()
              if isinstance(layer, nn.BatchNorm2d)]
    shared = [layer for layer in module.modules() if isinstance(layer, nn.SyncBatchNorm)]
    for layer, _, _ in layers:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    for other in shared:
        other.track_running_stats = False
    try:
        yield
    finally:
        for layer, momentum, count in layers:
            layer.momentum, layer.num_batches_tracked = momentum, count
        for other in shared:
            other.track_running_stats = True


def set_checkpointing(model: nn.Module, on: bool) -> None:
    """Turn activation checkpointing on or off in all stages of a network."""
    for module in model.modules():
        if isinstance(module, Stage):
            module.checkpointing = on


def weighted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    """(name, layer) of every convolution and fully-connected layer in forward order; projections are not counted."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and ".shortcut." not in name:
            yield name, module
