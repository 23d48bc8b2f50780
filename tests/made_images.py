"""Small folders of made JPEGs in ImageNet's form, for wiring tests; they say nothing about ImageNet."""

from pathlib import Path

import numpy as np
from PIL import Image

SMOKE = ("machine=smoke", "machine.device=cpu", "model.depth=18", "data.crop_size=32", "data.shorter_side=[36,48]",
         "data.test_shorter_side=36", "train.mini_batch_size=16", "train.batch_norm_group=8",
         "evaluation.batch_norm_images=32", "machine.workers=1")


def make_folder(root: Path, classes: int = 4, images: int = 8, seed: int = 0) -> Path:
    """root/<wnid>/<number>.JPEG of 44x60 to 60x44 pixels whose color and stripes tell the class; returns root."""
    generator = np.random.default_rng(seed)
    for label in range(classes):
        folder = root / f"n{label + 1:08d}"
        folder.mkdir(parents=True)
        for number in range(images):
            height, width = (44, 60) if number % 2 else (60, 44)
            color = np.array([60 + 180 * (label % 2), 60 + 90 * (label // 2 % 3), 120])
            stripes = 40 * (np.arange(width) // (3 + 2 * label) % 2)
            pixels = color + stripes[None, :, None] + generator.integers(-20, 20, (height, width, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.JPEG", quality=95)
    return root
