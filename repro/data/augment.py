"""The paper's training augmentation, batched on the device: pad 4, random crop, random flip (Sec. 4.2).

Images are (N, 3, H, W); mean and std are in pixels 0..255 and broadcast against one image.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.data.random import AUGMENT_STREAM, uniform_bits


def augment_batch(images: Tensor, mean: Tensor, index: Tensor, position: Tensor, seed: int,
                  padding: int, flip: bool, std: Tensor | None = None, black: bool = False) -> Tensor:
    """The training images `index`, normalized, padded, cropped and flipped, each by its own draw.

    images: (N, 3, H, W) uint8; index: (B,) int64; position: (B,) int64, the place of each image in the run, which with
    the seed fixes its draw. Returns (B, 3, H, W) float32. Choice: the mean is subtracted before the padding, so the
    border is the mean color. `black`: padded with pixels of 0 and normalized last, as torchvision's pipelines do.
    """
    batch = images[index]
    if not black:
        batch = normalize(batch, mean, std)
    batch = crop_and_flip(F.pad(batch, (padding,) * 4), *draw(position, seed, padding, flip), batch.shape[-2:])
    return normalize(batch, mean, std) if black else batch


def normalize(images: Tensor, mean: Tensor, std: Tensor | None = None) -> Tensor:
    """uint8 pixels (N, 3, H, W) -> float32: the mean subtracted, and divided by std where there is one."""
    centered = images.float() - mean
    return centered if std is None else centered / std


def draw(position: Tensor, seed: int, padding: int, flip: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets down and right in 0..2*padding and whether to flip, for each position: int64, int64, bool, (B,)."""
    offsets = 2 * padding + 1
    outcomes = offsets * offsets * (2 if flip else 1)
    outcome = (uniform_bits(position, seed, AUGMENT_STREAM) * outcomes) >> 32
    return outcome % offsets, outcome // offsets % offsets, outcome // (offsets * offsets) == 1


def crop_and_flip(padded: Tensor, down: Tensor, right: Tensor, mirrored: Tensor, size: tuple[int, ...]) -> Tensor:
    """One gather: (B, C, H+2p, W+2p) -> (B, C, H, W), each image from its own offset, then mirrored where asked."""
    height, width = size
    rows = down[:, None] + torch.arange(height, device=padded.device)
    columns = torch.arange(width, device=padded.device).expand(len(down), width)
    columns = right[:, None] + torch.where(mirrored[:, None], width - 1 - columns, columns)
    batch = torch.arange(len(down), device=padded.device)
    channels = torch.arange(padded.shape[1], device=padded.device)
    return padded[batch[:, None, None, None], channels[None, :, None, None], rows[:, None, :, None],
                  columns[:, None, None, :]]
