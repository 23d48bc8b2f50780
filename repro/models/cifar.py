"""The paper's CIFAR-10 networks of 6n+2 layers (Sec. 4.2), plain and residual, and their initial values."""

import hashlib
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.models.blocks import BasicBlock, batch_norm
from repro.models.checkpointing import Stage
from repro.schema import ConvInit, FcInit, ModelConfig

CHANNELS = (16, 32, 64)  # Sec. 4.2: filters on maps of 32x32, 16x16 and 8x8


class CifarNet(nn.Module):
    """3x3 convolution, 3 stages of n blocks, global average pooling, fully-connected layer: 6n+2 weighted layers."""

    def __init__(self, config: ModelConfig, batch_norm_group: int = 0):
        super().__init__()
        self.conv1 = nn.Conv2d(3, CHANNELS[0], 3, padding=1, bias=False)
        self.bn1 = batch_norm(CHANNELS[0], config, batch_norm_group)
        self.stage1 = self.make_stage(CHANNELS[0], CHANNELS[0], 1, config, batch_norm_group)
        self.stage2 = self.make_stage(CHANNELS[0], CHANNELS[1], 2, config, batch_norm_group)
        self.stage3 = self.make_stage(CHANNELS[1], CHANNELS[2], 2, config, batch_norm_group)
        self.fc = nn.Linear(CHANNELS[2], config.num_classes)

    @staticmethod
    def make_stage(in_channels: int, out_channels: int, stride: int, config: ModelConfig, group: int) -> Stage:
        """n basic blocks; the first one may subsample with stride 2 and grow the channels."""
        assert config.blocks_per_stage is not None
        first = BasicBlock(in_channels, out_channels, stride, config, group)
        others = [BasicBlock(out_channels, out_channels, 1, config, group) for _ in range(config.blocks_per_stage - 1)]
        return Stage(first, *others)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) mean-subtracted pixels -> (N, num_classes) logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


@torch.no_grad()
def initialize(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """MSRA initialization (He et al. 2015): normal with variance 2/fan; batch normalization 1 and 0.

    Every parameter draws from a generator of its own, seeded by (seed, name): layers that two networks share start
    from the same values, whatever shortcuts stand between them. `FcInit` says how the fully-connected layer starts.
    """
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            continue
        generator = torch.Generator().manual_seed(parameter_seed(seed, name))
        weight = module.weight
        if isinstance(module, nn.Conv2d):
            maps = weight.shape[0] if config.conv_init is ConvInit.fan_out else weight.shape[1]
            weight.normal_(0.0, math.sqrt(2.0 / (maps * weight[0, 0].numel())), generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        else:
            initialize_fc(module, config.fc_init, generator)


def initialize_fc(layer: nn.Linear, init: FcInit, generator: torch.Generator) -> None:
    """Initial values of the fully-connected layer, of which the paper says nothing; weight (out, in), bias (out,)."""
    fan_in = layer.weight.shape[1]
    bound = 1.0 / math.sqrt(fan_in)
    if init is FcInit.msra:
        layer.weight.normal_(0.0, math.sqrt(2.0 / fan_in), generator=generator)
    else:
        layer.weight.uniform_(-bound, bound, generator=generator)
    if init is FcInit.uniform_zero_bias:
        layer.bias.zero_()
    else:
        layer.bias.uniform_(-bound, bound, generator=generator)


def parameter_seed(seed: int, name: str) -> int:
    """63 bits of the SHA-256 of (seed, parameter name)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8]) >> 1
