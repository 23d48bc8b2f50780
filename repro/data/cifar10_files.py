"""CIFAR-10 as files: the official batches, known by the SHA-256 of pixels and labels. Loads torch only to download."""

import hashlib
import io
import logging
import pickle
import shlex
import shutil
import socket
import sys
import warnings
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from repro.errors import DataError, StorageError

FOLDER = "cifar-10-batches-py"
# SHA-256 of each batch's pixels and labels as uint8; the last batch is the test set.
BATCHES = {"data_batch_1": "ba52cb2d72c412975d7556bb26bd094956f1c002d1937053f6f1252f2ac17114",
           "data_batch_2": "350ff9000489d02f2568c0dcf4912ffdbae9e50932147905fb1b8159ad54f0ac",
           "data_batch_3": "a2b8653fc457df407af6c38b7e0d1a12530f3b5f81fce9f81516efd065daf722",
           "data_batch_4": "133e6292c377755074c305db8a684d48d5397372cb0aba34f52b4335eab35d97",
           "data_batch_5": "eb08cdc11fd1267ef871cf4790f193684b3f556d13317be68f4eb374a078ea87",
           "test_batch": "9a4c74f5c8b6f2c4e13d3a1dfb43a5a8cda8a9da515e99fd620d2013a1a6287a"}
# What records call the whole: over the SHA-256 in hexadecimal of training images and labels, test images and labels.
SHA256 = "e1646650b961b3ee12dd0004168153770317f711f2e0deada99d2f9ed80065bc"
SILENCE = 20.0  # seconds without an answer from the official site
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cifar10Arrays:
    """Images (N, 3, 32, 32) uint8 and labels (N,) int64 in official order, and the SHA-256 of the content."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    sha256: str


class BatchUnpickler(pickle.Unpickler):
    """Makes numpy's arrays and calls nothing else, whatever a file asks for."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] != "numpy" or name not in ("_reconstruct", "ndarray", "dtype"):
            raise pickle.UnpicklingError(f"{module}.{name} is not of CIFAR-10")
        return super().find_class(module, name)


def folder_in(root: Path) -> Path:
    """Where the batches lie, or would: in `root`, or it is their folder itself."""
    return root if root.name == FOLDER else root / FOLDER


def load(root: Path) -> Cifar10Arrays:
    """All images and labels; DataError (exit 3) if a batch is missing or damaged, StorageError (5) if not readable."""
    try:
        *train, test = [read_batch(folder_in(root) / name) for name in BATCHES]
    except FileNotFoundError as error:
        raise DataError(
            f"CIFAR-10 is not in {root}: there is no {error.filename}. Get it with `repro data fetch cifar10 "
            f"{shlex.quote(f'data.root={root}')}` (170 MB from the official site, 180 MB on disk), or name the folder "
            "that holds it with REPRO_DATA=FOLDER or data.root=FOLDER") from error
    except OSError as error:
        raise StorageError(f"can't read {error.filename or root}: {error.strerror}") from error
    images, labels = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
    return Cifar10Arrays(images, labels, *test, SHA256)


def read_batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 3, 32, 32) and labels (N,) of one batch; DataError unless their SHA-256 agrees."""
    content = path.read_bytes()
    try:
        with warnings.catch_warnings():  # numpy about align=0 in the official pickles
            warnings.simplefilter("ignore")
            batch = BatchUnpickler(io.BytesIO(content), encoding="latin1").load()
        pixels, labels = np.asarray(batch["data"], np.uint8), np.array(batch["labels"], np.uint8)
        found = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    except Exception as error:  # pickle raises whatever a damaged file makes of it
        found = f"{type(error).__name__}: {error}"
    if found != BATCHES[path.name]:
        raise DataError(f"{path} is damaged ({len(content)} bytes): the SHA-256 of its content should be "
                        f"{BATCHES[path.name]}, found {found}; run `repro data fetch cifar10` to repair")
    return pixels.reshape(-1, 3, 32, 32), labels.astype(np.int64)


def fetch(root: Path) -> None:
    """Make CIFAR-10 whole in `root` from the official site; a damaged file is kept as NAME.corrupt.

    DataError (exit 3) if the site does not deliver it, StorageError (exit 5) for what can't be read or written here.
    """
    folder, work = folder_in(root), root / ".cifar10-fetch"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".cifar10.lock"):
            with suppress(DataError):
                load(root)
                logger.info(f"CIFAR-10 is whole in {folder}; nothing to fetch")
                return
            for path in filter(Path.exists, map(folder.joinpath, BATCHES)):
                try:
                    read_batch(path)
                except DataError as error:
                    logger.warning(f"{error}; kept as {path.name}.corrupt")
                    path.replace(f"{path}.corrupt")
            try:
                download(work, folder)
                load(work)  # nothing gets its final name before every SHA-256 agrees
                folder.mkdir(exist_ok=True)
                for path in (work / FOLDER).iterdir():
                    path.replace(folder / path.name)
            finally:
                shutil.rmtree(work, ignore_errors=True)
            logger.info(f"CIFAR-10 is whole in {folder} (every SHA-256 agrees)")
    except OSError as error:
        raise StorageError(f"can't read or write {error.filename or root}: {error.strerror or error} (up to 500 MB are "
                           "needed while fetching)") from error


def download(work: Path, folder: Path) -> None:
    """The official archive by torchvision, which checks its MD5, unpacked in `work`; DataError names `folder`."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_url

    logger.info(f"CIFAR-10: fetching {CIFAR10.url}")
    before, failure = socket.getdefaulttimeout(), ""
    socket.setdefaulttimeout(SILENCE)
    try:
        with redirect_stderr(sys.stderr if sys.stderr.isatty() else io.StringIO()):  # its bar is for terminals
            download_url(CIFAR10.url, work, CIFAR10.filename, CIFAR10.tgz_md5)
    except (URLError, TimeoutError, ConnectionError, HTTPException, RuntimeError) as error:  # the last: another MD5
        failure = str(error) or repr(error)  # raised below: an HTTPError that is kept leaves its connection open
    finally:
        socket.setdefaulttimeout(before)
    if failure:
        raise DataError(f"can't fetch CIFAR-10 from {CIFAR10.url}: {failure}. Put the official files into {folder}, or "
                        "name the folder that holds them with REPRO_DATA=FOLDER or data.root=FOLDER")
    shutil.unpack_archive(work / CIFAR10.filename, work, filter="data")
