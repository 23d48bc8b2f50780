"""Made images in the form of CIFAR-10, for a demonstration and for tests without network or data set.

Ten classes of shapes (disc, ring, square, frame, triangle, plus, cross, horizontal bars, vertical bars, checks) of
random place, size and colors on a shaded, noisy ground. Everything is a pure function of the image's number in
integer arithmetic, so the pixels are the same on every machine. They say nothing about CIFAR-10.
"""

import hashlib

import torch
from torch import Tensor

from repro.data.cifar10_files import Cifar10Arrays
from repro.data.random import SYNTHETIC_STREAM, uniform_bits

# Choice: sizes and difficulty were fixed with a linear classifier and an 8-layer network before any deeper network
# was tried: the first gets nowhere near the second, and the second does not get everything right.
TRAIN_IMAGES, TEST_IMAGES = 10_000, 2_000
CLASSES = 10
SIZE = 32
SEED = 151203385
NOISE = 24  # largest change of a pixel's brightness
CHUNK = 2_000  # images made at once


def make() -> Cifar10Arrays:
    """10,000 training and 2,000 test images, uint8 (N, 3, 32, 32), labels int64 (N,); test images follow the others."""
    parts = [images_from(first, CHUNK) for first in range(0, TRAIN_IMAGES + TEST_IMAGES, CHUNK)]
    images = torch.cat([part[0] for part in parts]).numpy()
    labels = torch.cat([part[1] for part in parts]).numpy()
    return Cifar10Arrays(images[:TRAIN_IMAGES], labels[:TRAIN_IMAGES], images[TRAIN_IMAGES:], labels[TRAIN_IMAGES:],
                         hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest())


def images_from(first: int, count: int) -> tuple[Tensor, Tensor]:
    """The images of these numbers: uint8 (count, 3, 32, 32), and their labels, number modulo 10: int64 (count,)."""
    number = torch.arange(first, first + count)
    label = number % CLASSES
    mask = shapes(number, label)
    return paint(number, mask), label


def draw(number: Tensor, which: int, outcomes: int) -> Tensor:
    """A draw from 0..outcomes-1 for each image, the `which`-th of its draws."""
    return (uniform_bits(number, SEED + which, SYNTHETIC_STREAM) * outcomes) >> 32


def shapes(number: Tensor, label: Tensor) -> Tensor:
    """Where each image's shape is: bool (N, 32, 32)."""
    radius = (5 + draw(number, 0, 6))[:, None, None]
    row = torch.arange(SIZE)[None, :, None] - (9 + draw(number, 1, 14))[:, None, None]
    column = torch.arange(SIZE)[None, None, :] - (9 + draw(number, 2, 14))[:, None, None]
    down, across = row.abs(), column.abs()
    reach, square = torch.maximum(down, across), row * row + column * column
    inside = reach <= radius
    bar = 2 + draw(number, 3, 2)[:, None, None]  # width of bars and checks, of frames and rings
    thin = 1 + radius // 6
    rows, columns = torch.div(row + SIZE, bar, rounding_mode="floor"), torch.div(column + SIZE, bar,
                                                                                rounding_mode="floor")
    kinds = (
        square <= radius * radius,
        (square <= radius * radius) & (square > (radius - bar) * (radius - bar)),
        inside,
        inside & (reach > radius - bar),
        inside & (2 * across <= row + radius),
        inside & (torch.minimum(down, across) <= thin),
        inside & ((down - across).abs() <= thin),
        inside & (rows % 2 == 0),
        inside & (columns % 2 == 0),
        inside & ((rows + columns) % 2 == 0),
    )
    mask = torch.zeros(len(number), SIZE, SIZE, dtype=torch.bool)
    for kind, shape in enumerate(kinds):
        mask |= shape.expand_as(mask) & (label == kind)[:, None, None]
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
