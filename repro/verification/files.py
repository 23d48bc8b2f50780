"""Files that must be as they were published: the paper's numbers, CIFAR-10."""

import hashlib
import shlex
from pathlib import Path

import numpy as np
import torch

from repro.data import cifar10_files
from repro.data.cifar10 import per_pixel_mean
from repro.data.imagenet_files import TRAIN, VAL
from repro.paper import published_dir
from repro.places import data_dir, shown
from repro.verification.check import Difference, Skipped, agreement, same

SUMS = "SHA256SUMS"
TOLERANCE = 1e-6  # of float32 against float64, of pixels 0..255


def published() -> str:
    """The SHA-256 of every file of published numbers against the list beside them."""
    folder = published_dir()
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    listed = {name: digest for digest, name in map(str.split, lines)}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.yaml"))}
    compared = [Difference(f"SHA-256 of {name}", listed.get(name, f"a line in {SUMS}"), found.get(name, "no such file"))
                for name in listed | found]
    return f"{same(compared)} files in {shown(folder)}"


def cifar10(root: Path) -> str:
    """Every pixel and label by SHA-256, and the mean image that is subtracted against NumPy's; Skipped without data."""
    if cifar10_files.find(root) is None:
        raise Skipped(f"CIFAR-10 is not in {shown(root)}; `repro data fetch cifar10{named(root)}` fetches it")
    arrays = cifar10_files.load(root)
    compared = [mean_image(arrays.train_images), *(
        Difference(f"images of each class among the {name} images", [len(labels) // 10] * 10,
                   np.bincount(labels, minlength=10).tolist())
        for name, labels in (("training", arrays.train_labels), ("test", arrays.test_labels)))]
    same(compared)
    return (f"{len(arrays.train_images):,} training and {len(arrays.test_images):,} test images in "
            f"{shown(arrays.source)}, SHA-256 of the content {arrays.sha256[:12]}...; mean image as NumPy's")


def mean_image(images: np.ndarray) -> Difference:
    """The per-pixel mean of the training images, (3, 32, 32) in 0..255."""
    found = per_pixel_mean(torch.from_numpy(images)).numpy()
    if found.shape != (3, 32, 32) or found.min() < 0 or found.max() > 255:
        return Difference("mean image", "(3, 32, 32) in 0..255", f"{found.shape} in {found.min()}..{found.max()}")
    return agreement("mean image", images.mean(0, dtype=np.float64), found, TOLERANCE)


def imagenet(root: Path) -> str:
    """Nothing but what verifies ImageNet: it takes hours to read."""
    if (root / TRAIN).is_dir() and (root / VAL).is_dir():
        raise Skipped(f"too large to read here; `repro data verify imagenet{named(root)}` opens every image")
    raise Skipped(f"ImageNet is not in {shown(root)}; where it is, `repro data verify imagenet data.root=FOLDER` opens "
                  "every image")


def named(root: Path) -> str:
    """The setting that names a folder, where it is not the one that is looked at anyway."""
    return "" if root == data_dir() else f" {shlex.quote(f'data.root={root}')}"
