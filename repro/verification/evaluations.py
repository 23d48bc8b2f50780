"""Errors and losses of the tests that give results, against loops over single images; ten crops against torchvision."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import transforms

from repro.config import paper_config
from repro.data.imagenet import ImageNetData
from repro.devices import resolve
from repro.evaluation.protocols import Outcome, center_view, single_view
from repro.evaluation.scores import count_errors, ten_crops
from repro.evaluation.views import six_crops
from repro.schema import Device, RunConfig
from repro.verification.check import Difference, agreement, same

IMAGES, BATCH, CLASSES = 103, 25, 10  # the last of the batches holds 3 images
TOLERANCE = 1e-5  # of a float32 sum
PICTURES = ((37, 37), (37, 52), (51, 37), (38, 63), (32, 33))  # height, width
CROPS = (32, 31)


class Looked(nn.Module):
    """A network whose logits are made: the first two values of an image are its number."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 1, 1) -> (N, K)."""
        return self.logits[(256 * x[:, 0, 0, 0] + x[:, 1, 0, 0]).long()]


class Images:
    """Numbered validation images in the place of ImageNet's files."""

    mean = torch.zeros(3, 1, 1)

    def __init__(self, labels: Tensor):
        self.labels = labels

    def validation(self, batch_size: int, rank: int = 0, size: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """As `repro.data.imagenet.ImageNetData.validation`."""
        images, labels = numbered().float()[rank::size], self.labels[rank::size]
        yield from zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True)


def numbered() -> Tensor:
    """(IMAGES, 3, 1, 1) uint8: what `Looked` reads."""
    number = torch.arange(IMAGES)
    return torch.stack([number // 256, number % 256, number * 0], 1)[:, :, None, None].to(torch.uint8)


def made(ties: bool) -> tuple[Tensor, Tensor]:
    """Logits (IMAGES, CLASSES) and labels; with `ties` whole numbers of which several are the largest."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(IMAGES, CLASSES)) * 2
    logits = np.clip(np.round(logits), -2, 2) if ties else logits
    return torch.from_numpy(logits).float(), torch.from_numpy(generator.integers(0, CLASSES, IMAGES))


def by_hand(logits: Tensor, labels: Tensor) -> tuple[int, int, float]:
    """Top-1 and top-5 errors and the mean cross-entropy, image by image; of equal classes the lower number is first."""
    errors, top5_errors, loss = 0, 0, 0.0
    for values, label in zip(logits.tolist(), labels.tolist(), strict=True):
        before = sum(value > values[label] or (value == values[label] and number < label)
                     for number, value in enumerate(values))
        errors += before >= 1
        top5_errors += before >= 5
        loss += math.log(sum(math.exp(value) for value in values)) - values[label]
    return errors, top5_errors, loss / len(labels)


def errors() -> str:
    """The three places where errors are counted, with ties and an incomplete last batch."""
    compared: list[Difference] = []
    for ties in (True, False):
        logits, labels = made(ties)
        wanted = by_hand(logits, labels)
        name = "CIFAR-10 test with ties" if ties else "CIFAR-10 test"
        single = single_view(Looked(logits), numbered(), labels, torch.zeros(3, 1, 1), BATCH)
        compared += of_outcome(name, (wanted[0], None, wanted[2]), single)
        compared.append(Difference("top-1 and top-5 errors of scores" + (" with ties" if ties else ""), wanted[:2],
                                   count_errors(logits.numpy(), labels.numpy())))
    # Without ties: there torch's topk gives equal classes in no order.
    config = resolve_for_cpu(paper_config("imagenet_optB"))
    images = cast(ImageNetData, Images(labels))
    for size in (1, 2):
        parts = [center_view(Looked(logits), images, config, rank, size) for rank in range(size)]
        total = Outcome(sum(one.errors for one in parts), sum(one.images for one in parts),
                        sum(one.loss * one.images for one in parts) / IMAGES,
                        sum(one.top5_errors or 0 for one in parts))
        compared += of_outcome(f"ImageNet test by {size} processes", wanted, total)
    same(compared)
    return f"top-1, top-5 and loss of {IMAGES} made images in batches of {BATCH}, with ties, against a loop"


def resolve_for_cpu(config: RunConfig) -> RunConfig:
    """The configuration for the CPU, with the batches of this check."""
    machine = replace(config.machine, device=Device.cpu, evaluation_batch_size=BATCH)
    return resolve(replace(config, machine=machine))


def of_outcome(name: str, wanted: tuple[int, int | None, float], found: Outcome) -> Iterator[Difference]:
    """Images, errors and loss of a test."""
    yield Difference(f"{name}, images", IMAGES, found.images)
    yield Difference(f"{name}, top-1 errors", wanted[0], found.errors)
    yield Difference(f"{name}, top-1 error in percent", 100 * wanted[0] / IMAGES, found.top1_error)
    yield Difference(f"{name}, top-5 errors", wanted[1], found.top5_errors)
    yield agreement(f"{name}, loss", np.array(wanted[2]), np.array(found.loss), TOLERANCE)


def crops() -> str:
    """Ten crops of pictures with even and odd margins, in torchvision's order."""
    compared = []
    for height, width in PICTURES:
        picture = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
        for size in CROPS:
            found = ten_crops(torch.from_numpy(six_crops(picture, size)).permute(0, 3, 1, 2)[None])[0]
            wanted = torch.stack(transforms.TenCrop(size)(torch.from_numpy(picture).permute(2, 0, 1)))
            compared.append(agreement(f"ten {size}x{size} crops of {height}x{width}", wanted.numpy(), found.numpy()))
    return f"{same(compared)} pictures, exactly"
