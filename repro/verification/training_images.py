"""What a network is shown: crops and flips against NumPy's slices, and the order of the images of each pass."""

import numpy as np
import torch

from repro.config import paper_config
from repro.data.augment import augmented_batch, draw
from repro.data.cifar10 import TrainingOrder
from repro.verification.check import Difference, agreement, same

IMAGES, SIDE, PADDING = 64, 32, 4  # Sec. 4.2: 32x32 images, 4 pixels on each side
OFFSETS = 2 * PADDING + 1
DRAWS = 16_200  # 100 for each offset down, offset right and flip
PASS = 500  # images of a made data set
SEED = 7


def augmentation() -> str:
    """A batch against an image-by-image pad and slice with the same draws; every draw that there is, occurs."""
    data = paper_config("cifar_resnet20").data
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (IMAGES, 3, SIDE, SIDE), dtype=np.uint8)
    mean = generator.uniform(0, 255, (3, SIDE, SIDE)).astype(np.float32)
    index, position = torch.from_numpy(generator.permutation(IMAGES)), torch.arange(1000, 1000 + IMAGES)
    found = augmented_batch(torch.from_numpy(images), torch.from_numpy(mean), index, position, SEED, data.padding,
                            data.flip)
    drawn = [values.tolist() for values in draw(position, SEED, data.padding, data.flip)]
    wanted = np.stack([sliced(images[number].astype(np.float32) - mean, down, right, flip)
                       for number, down, right, flip in zip(index.tolist(), *drawn, strict=True)])
    every = torch.stack([values.long() for values in draw(torch.arange(DRAWS), SEED, data.padding, data.flip)], 1)
    kinds = set(map(tuple, every.tolist()))
    same([agreement(f"{IMAGES} cropped and flipped images", wanted, found.numpy()),
          Difference("crops and flips that are drawn", OFFSETS**2 * 2, len(kinds)),
          Difference("offsets that are drawn", (list(range(OFFSETS)),) * 2,
                     (sorted({down for down, _, _ in kinds}), sorted({right for _, right, _ in kinds})))])
    return f"{IMAGES} images against NumPy, exactly; all {OFFSETS**2} crops occur, flipped or not"


def sliced(image: np.ndarray, down: int, right: int, flip: bool) -> np.ndarray:
    """One image (3, 32, 32) without its mean: padded with zeros, cropped, mirrored."""
    padded = np.pad(image, ((0, 0), (PADDING, PADDING), (PADDING, PADDING)))
    crop = padded[:, down : down + SIDE, right : right + SIDE]
    return crop[:, :, ::-1] if flip else crop


def order() -> str:
    """Every image once in each pass, in another order each time and with each seed."""
    passes = [one for seed in (0, 1) for one in two_passes(seed)]
    compared = [Difference(f"images of pass {number}", list(range(PASS)), sorted(one))
                for number, one in enumerate(passes)]
    same([*compared, Difference("orders of two passes with two seeds", 4, len(set(map(tuple, passes))))])
    return f"{len(passes)} passes over {PASS} images"


def two_passes(seed: int) -> list[list[int]]:
    """The order of the first two passes, as a training step reads it."""
    found = TrainingOrder(PASS, seed, torch.device("cpu"))
    found.cover(0)
    return [half.tolist() for half in torch.split(found.order, PASS)]
