"""Counter-based random numbers: a pure function of (seed, stream, counter), the same on CPU, CUDA and MPS.

Nothing has to be saved for an exact resume. All arithmetic is on int64 tensors that hold 32-bit values; both
multipliers are below 2^31, so no product overflows. The mixer is the two-round hash of C. Wellons' "hash-prospector".
A position is the place of an image in the run: iteration x mini-batch size + place in the mini-batch.
"""

import math
from typing import TypeVar

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
ORDER_STREAM, ORDER_TIES_STREAM, AUGMENT_STREAM, SYNTHETIC_STREAM = 0, 1, 2, 3  # synthetic images use 3 and 4
FLIP_STREAM, SIDE_STREAM, TOP_STREAM, LEFT_STREAM = 5, 6, 7, 8  # ImageNet's crops
COLOR_STREAM = 9  # ImageNet: 9 to 12
Bits = TypeVar("Bits", int, Tensor)


def mix(x: Bits) -> Bits:
    """A bijection of 32-bit values: one integer, or an int64 tensor of any shape."""
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & MASK
    x = ((x ^ (x >> 15)) * 0x735A2D97) & MASK
    return x ^ (x >> 15)


def uniform_bits(counter: Tensor, seed: int, stream: int) -> Tensor:
    """32 random bits for each counter (int64, taken modulo 2^32), as an int64 tensor of the same shape.

    Two keys derived from (seed, stream) enter around a first mixing round, so that two seeds give unrelated sequences
    and not one sequence in another order.
    """
    first = mix(mix(seed & MASK) ^ (0x9E3779B9 * (stream + 1) & MASK))
    second = mix(first ^ 0x6A09E667)
    return mix((mix((counter & MASK) ^ first) + second) & MASK)


def permutation(length: int, seed: int, epoch: int, device: torch.device | None = None) -> Tensor:
    """A random order of 0..length-1 for one pass (int64, None: on the CPU): the indices sorted by 63 random bits each.

    Each pass has its own counters, epoch * length onwards. Ties (1 in 7e9 passes of 50,000) keep their order.
    """
    counter = torch.arange(length, dtype=torch.int64, device=device) + epoch * length
    high = uniform_bits(counter, seed, ORDER_STREAM) >> 1  # 31 bits: int64 is signed
    low = uniform_bits(counter, seed, ORDER_TIES_STREAM)
    return torch.argsort((high << 32) | low, stable=True)


def training_draws(position: Tensor, seed: int, low: int, high: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shorter side in low..high, both included, bits of top and left, and whether to flip: half of them (Sec. 3.4).

    position: (B,) int64 on any device. Returns int64 (B,) thrice and bool (B,), as `crops.random_crop` takes them. Each
    side has the same chance to (high - low + 1) parts in 2^32.
    """
    flip, side, top, left = (uniform_bits(position, seed, stream)
                             for stream in (FLIP_STREAM, SIDE_STREAM, TOP_STREAM, LEFT_STREAM))
    return low + ((side * (high - low + 1)) >> 32), top, left, flip >> 31 == 1


def normals(position: Tensor, seed: int) -> Tensor:
    """Three draws of a standard normal distribution for each position (B,) int64: float32 (B, 3), by Box-Muller.

    Computed in float64 (float32 on MPS, which has no other): devices differ by the last bit of float32 at most.
    """
    bits = torch.stack([uniform_bits(position, seed, COLOR_STREAM + which) for which in range(4)], dim=-1)
    uniform = (bits + 1).to(torch.float32 if position.device.type == "mps" else torch.float64) / 2**32  # in (0, 1]
    radius, angle = torch.sqrt(-2 * torch.log(uniform[:, :2])), 2 * math.pi * uniform[:, 2:]
    first, second = radius * torch.cos(angle), radius * torch.sin(angle)
    return torch.cat([first, second[:, :1]], dim=1).to(torch.float32)
