"""Made images that a network learns within a few updates: the data of every contender."""

import torch
from torch import Tensor

from repro.data.cifar10 import DeviceData, per_pixel_mean

CLASSES = 10
NOISE, STEP = 60, 18  # largest noise, and how much brighter each class is than the one before; 59 + 9 x 18 < 256
MEAN_OF = 1_000  # Choice: images whose mean is subtracted; that of 50,000 takes seconds and is the same but for noise


def random_images(count: int) -> tuple[Tensor, Tensor]:
    """uint8 (count, 3, 32, 32) on the CPU, noise whose brightness gives the label away, and labels (count,) int64."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    images = torch.randint(0, NOISE, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return images.add_((STEP * labels).to(torch.uint8)[:, None, None, None]), labels


def mean_image(images: Tensor) -> Tensor:
    """What all contenders subtract: float32 (3, 32, 32), pixels 0..255, of made images uint8 (N, 3, 32, 32)."""
    return per_pixel_mean(images[:MEAN_OF])


def random_data(count: int, device: torch.device) -> DeviceData:
    """The made images on a device, for training alone: none are kept apart for a test."""
    images, labels = random_images(count)
    mean, images, labels = mean_image(images).to(device), images.to(device), labels.to(device)
    return DeviceData(images, labels, images[:MEAN_OF], labels[:MEAN_OF], mean, "made", "made", "")
