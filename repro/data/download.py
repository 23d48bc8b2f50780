"""The official site as a source of CIFAR-10: resumable download, safe unpacking. Never imports torch."""

import gzip
import hashlib
import http.client
import ipaddress
import re
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from repro.data import cifar10_files as files
from repro.data.cifar10_files import FOLDER, Expected
from repro.runs import write_atomic

ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_LIMIT = 200_000_000  # bytes; the published archive has 170,498,071
TIMEOUT = 20.0  # seconds without an answer from the official site
# Choice: what comes slower than 10 kB/s for a minute, which would take 5 hours, is given up for the next source.
SLOW_SECONDS, SLOW_BYTES = 60.0, 600_000
LINE_EVERY = 10.0  # seconds between lines of progress where stderr is no terminal
Say = Callable[[str], None]


class UnavailableError(Exception):
    """A source that can't deliver; the text says why."""


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
    began, received = time.monotonic(), 0
    try:
        while block := response.read1(1 << 18):
            limit -= len(block)
            received += len(block)
            if limit < 0:
                raise UnavailableError(f"sent more than {ARCHIVE_LIMIT} bytes; the archive has less")
            yield block
            if time.monotonic() - began >= SLOW_SECONDS:
                if received < SLOW_BYTES:
                    raise UnavailableError(f"too slow: {received} bytes in {SLOW_SECONDS:g} s; the next call resumes")
                began, received = time.monotonic(), 0
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"connection lost: {error or type(error).__name__}; the next call resumes") from error


class CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to admitted addresses only."""

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str,
                         headers: http.client.HTTPMessage, newurl: str) -> urllib.request.Request | None:
        """Refuse what check_url refuses, and any way from https to http."""
        try:
            check_url(newurl, https=req.full_url.startswith("https:"))
        except UnavailableError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def check_url(url: str, https: bool = False) -> None:
    """UnavailableError unless it is https, or http to this machine itself where `https` is not asked for."""
    parts = urllib.parse.urlsplit(url)
    try:
        loopback = parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        loopback = False
    if parts.scheme != "https" and not (parts.scheme == "http" and loopback and not https):
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
