"""Random draws of the ImageNet augmentation: a function of seed and position in the run, whatever the mini-batches.

A position is the place of an image in the run: iteration x mini-batch size + place in the mini-batch.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from repro.data.crops import BITS
from repro.data.random import COLOR_STREAM, CROP_STREAM, uniform_bits

FLIP, SIDE, TOP, LEFT = range(4)  # streams from CROP_STREAM on


class TrainingDraws(NamedTuple):
    """Draws of `pictures.random_crop`: int64 (B,) thrice, and bool (B,)."""

    shorter_side: Tensor
    top_bits: Tensor
    left_bits: Tensor
    flip: Tensor


def training_draws(position: Tensor, seed: int, low: int, high: int) -> TrainingDraws:
    """Shorter side uniform in low..high, both included, where to crop and whether to flip (Sec. 3.4).

    position: (B,) int64 on any device. Each side has the same chance to (high - low + 1) parts in 2^32.
    """
    side, top, left = (uniform_bits(position, seed, CROP_STREAM + which) for which in (SIDE, TOP, LEFT))
    return TrainingDraws(low + ((side * (high - low + 1)) >> BITS), top, left, flips(position, seed))


def flips(position: Tensor, seed: int) -> Tensor:
    """Whether to flip, with probability 1/2: bool (B,)."""
    return uniform_bits(position, seed, CROP_STREAM + FLIP) >> (BITS - 1) == 1


def normals(position: Tensor, seed: int) -> Tensor:
    """Three draws of a standard normal distribution for each position (B,) int64: float32 (B, 3), by Box-Muller.

    Computed in float64 (float32 on MPS, which has no other), so that devices differ by the last bit of float32 at most.
    The largest possible value is 6.66.
    """
    bits = torch.stack([uniform_bits(position, seed, COLOR_STREAM + which) for which in range(4)], dim=-1)
    uniform = (bits + 1).to(torch.float32 if position.device.type == "mps" else torch.float64) / 2**BITS  # in (0, 1]
    radius, angle = torch.sqrt(-2 * torch.log(uniform[:, :2])), 2 * math.pi * uniform[:, 2:]
    first, second = radius * torch.cos(angle), radius * torch.sin(angle)
    return torch.cat([first, second[:, :1]], dim=1).to(torch.float32)
