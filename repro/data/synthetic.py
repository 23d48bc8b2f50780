"""Made images in the form of CIFAR-10, for a demonstration and for tests without network or data set.

Ten classes of shapes of random place, size and colors on a shaded, noisy ground. Everything is a pure function of the
image's number in integer arithmetic: the pixels are the same on every machine. They say nothing about CIFAR-10.
"""

import hashlib

import torch
from torch import Tensor

from repro.data.cifar10_files import Cifar10Arrays
from repro.data.random import SYNTHETIC_STREAM, uniform_bits

# Choice: sizes and difficulty were fixed with a linear classifier and an 8-layer network before any deeper network
# was tried: the first gets nowhere near the second, and the second does not get everything right.
TRAIN_IMAGES, TEST_IMAGES = 10_000, 2_000
SIZE = 32
SEED = 151203385
NOISE = 24  # largest change of a pixel's brightness
CHUNK = 2_000  # images made at once


def make() -> Cifar10Arrays:
    """10,000 training and 2,000 test images, uint8 (N, 3, 32, 32), labels int64 (N,); test images follow the others."""
    numbers = torch.arange(TRAIN_IMAGES + TEST_IMAGES)
    images = torch.cat([paint(part, shapes(part)) for part in torch.split(numbers, CHUNK)]).numpy()
    labels = (numbers % 10).numpy()
    return Cifar10Arrays(images[:TRAIN_IMAGES], labels[:TRAIN_IMAGES], images[TRAIN_IMAGES:], labels[TRAIN_IMAGES:],
                         hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest())


def draw(number: Tensor, which: int, outcomes: int) -> Tensor:
    """A draw from 0..outcomes-1 for each image, the `which`-th of its draws."""
    return (uniform_bits(number, SEED + which, SYNTHETIC_STREAM) * outcomes) >> 32


def shapes(number: Tensor) -> Tensor:
    """Where each image's shape is: bool (N, 32, 32); its class is the number modulo 10."""
    radius = (5 + draw(number, 0, 6))[:, None, None]
    row = torch.arange(SIZE)[None, :, None] - (9 + draw(number, 1, 14))[:, None, None]
    column = torch.arange(SIZE)[None, None, :] - (9 + draw(number, 2, 14))[:, None, None]
    down, across = row.abs(), column.abs()
    reach, square = torch.maximum(down, across), row * row + column * column
    inside = reach <= radius
    bar = 2 + draw(number, 3, 2)[:, None, None]  # width of bars and checks, of frames and rings
    thin = 1 + radius // 6
    rows, columns = (row + SIZE) // bar, (column + SIZE) // bar
    kinds = (
        square <= radius * radius,  # disc, then ring
        (square <= radius * radius) & (square > (radius - bar) * (radius - bar)),
        inside,  # square, then frame
        inside & (reach > radius - bar),
        inside & (2 * across <= row + radius),  # triangle
        inside & (torch.minimum(down, across) <= thin),  # plus
        inside & ((down - across).abs() <= thin),  # cross
        inside & (rows % 2 == 0),  # bars that lie, bars that stand, checks
        inside & (columns % 2 == 0),
        inside & ((rows + columns) % 2 == 0),
    )
    mask = torch.zeros(len(number), SIZE, SIZE, dtype=torch.bool)
    for kind, shape in enumerate(kinds):
        mask |= shape.expand_as(mask) & (number % 10 == kind)[:, None, None]
    return mask


def paint(number: Tensor, mask: Tensor) -> Tensor:
    """Colors for shape and ground, a shade across the ground, and noise: uint8 (N, 3, 32, 32)."""
    row, column = torch.arange(SIZE)[None, :, None], torch.arange(SIZE)[None, None, :]
    tilt = [draw(number, 10 + k, 9)[:, None, None] - 4 for k in (0, 1)]
    shade = tilt[0] * (row - SIZE // 2) + tilt[1] * (column - SIZE // 2)
    pixel = number[:, None, None] * (SIZE * SIZE) + row * SIZE + column
    noise = ((uniform_bits(pixel, SEED, SYNTHETIC_STREAM + 1) * (2 * NOISE + 1)) >> 32) - NOISE
    channels = []
    for channel in range(3):
        ground = (40 + draw(number, 20 + channel, 176))[:, None, None]
        step = (48 + draw(number, 30 + channel, 80))[:, None, None]
        sign = (2 * draw(number, 40 + channel, 2) - 1)[:, None, None]
        channels.append((ground + shade + noise + mask * sign * step).clamp(0, 255))
    return torch.stack(channels, 1).to(torch.uint8)
