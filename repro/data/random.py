"""Counter-based random numbers: a pure function of (seed, stream, counter) in integer tensor operations.

The same values on CPU, CUDA and MPS and in any order; nothing has to be saved for an exact resume. All arithmetic is
on int64 tensors that hold 32-bit values; both multipliers are below 2^31, so no product overflows. The mixer is the
two-round multiply-xorshift hash of C. Wellons' "hash-prospector" (bias 0.10 of an ideal avalanche).
"""

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
ORDER_STREAM, ORDER_TIES_STREAM, AUGMENT_STREAM, SYNTHETIC_STREAM = 0, 1, 2, 3  # synthetic images use 3 and 4
CROP_STREAM, COLOR_STREAM = 5, 9  # ImageNet: 5 to 8, 9 to 12


def mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit values, int64 tensor of any shape."""
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & MASK
    x = ((x ^ (x >> 15)) * 0x735A2D97) & MASK
    return x ^ (x >> 15)


def mix_int(x: int) -> int:
    """`mix` of one Python integer."""
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & MASK
    x = ((x ^ (x >> 15)) * 0x735A2D97) & MASK
    return x ^ (x >> 15)


def uniform_bits(counter: Tensor, seed: int, stream: int) -> Tensor:
    """32 random bits for each counter (int64, taken modulo 2^32), as an int64 tensor of the same shape.

    Two keys derived from (seed, stream) enter around a first mixing round, so that two seeds give unrelated sequences
    and not one sequence in another order.
    """
    first = mix_int(mix_int(seed & MASK) ^ (0x9E3779B9 * (stream + 1) & MASK))
    second = mix_int(first ^ 0x6A09E667)
    return mix((mix((counter & MASK) ^ first) + second) & MASK)


def permutation(length: int, seed: int, epoch: int, device: torch.device | None = None) -> Tensor:
    """A random order of 0..length-1 for one pass (int64, None: on the CPU): the indices sorted by 63 random bits each.

    Each pass has its own counters, epoch * length onwards. Ties (1 in 7e9 passes of 50,000) keep their order.
    """
    counter = torch.arange(length, dtype=torch.int64, device=device) + epoch * length
    high = uniform_bits(counter, seed, ORDER_STREAM) >> 1  # 31 bits: int64 is signed
    low = uniform_bits(counter, seed, ORDER_TIES_STREAM)
    return torch.argsort((high << 32) | low, stable=True)
