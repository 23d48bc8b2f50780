"""Read a pack as one stream, held against its manifest all the way."""

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

from repro.errors import DataError, StorageError
from repro.packing.manifest import BLOCK, CHUNK, END, Pack, PackedFile, PackedRun
from repro.places import shown


class Stream:
    """The parts of a pack as one stream of bytes; StorageError if one can't be read."""

    def __init__(self, pack: Pack):
        self.chunks = (chunk for part in pack.parts for chunk in read_chunks(pack.folder / part.name))
        self.rest = b""

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end."""
        while len(self.rest) < size and (chunk := next(self.chunks, b"")):
            self.rest += chunk
        data, self.rest = self.rest[:size], self.rest[size:]
        return data


def read_chunks(path: Path) -> Iterator[bytes]:
    """The content of a file, piece by piece; StorageError if it can't be read."""
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise StorageError(f"can't read {shown(path)}: {error.strerror}") from error


def check_parts(pack: Pack) -> None:
    """Raise DataError for the first part that is missing, cut or changed."""
    for part in pack.parts:
        path = pack.folder / part.name
        size = path.stat().st_size if path.is_file() else None
        expected = f"expected: {part.bytes} bytes, sha256 {part.sha256[:12]}"
        if size != part.bytes:
            raise DataError(f"{shown(path)} is missing; {expected}" if size is None
                            else f"{shown(path)} has {size} bytes; {expected}")
        digest = hashlib.sha256()
        for chunk in read_chunks(path):
            digest.update(chunk)
        if digest.hexdigest() != part.sha256:
            raise DataError(f"{shown(path)} is damaged (sha256 {digest.hexdigest()[:12]}); {expected}")


def contents(pack: Pack) -> Iterator[tuple[PackedRun, PackedFile, Iterator[bytes]]]:
    """Every file of a pack with its content, in the manifest's order; DataError where the tar differs from it.

    Nothing in the tar decides anything: each of its headers must be that of the next plain file in the manifest.
    """
    stream = Stream(pack)
    for run in pack.runs:
        for file in run.files:
            check_header(stream.read(BLOCK), pack, f"{run.name}/{file.name}", file.bytes)
            content = checked(stream, file, pack)
            yield run, file, content
            for _ in content:  # what the caller did not read
                pass
            stream.read(-file.bytes % BLOCK)
    if stream.read(len(END) + 1) != END:
        raise DataError(f"{shown(pack.folder)}: the parts hold more than the manifest names")


def check_header(block: bytes, pack: Pack, name: str, size: int) -> None:
    """Raise DataError if a block of the tar is not the header of this plain file."""
    try:
        entry = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.TarError, ValueError):
        entry = tarfile.TarInfo()
    if (entry.type, entry.name, entry.size) != (tarfile.REGTYPE, name, size):
        raise DataError(f"{shown(pack.folder)}: the parts do not hold {name} as a file of {size} bytes where the "
                        "manifest says so")


def checked(stream: Stream, file: PackedFile, pack: Pack) -> Iterator[bytes]:
    """The content of the file that the stream is at; DataError at its end if its hash is not the manifest's."""
    digest, left = hashlib.sha256(), file.bytes
    while left and (chunk := stream.read(min(CHUNK, left))):
        digest.update(chunk)
        left -= len(chunk)
        yield chunk
    if digest.hexdigest() != file.sha256:
        raise DataError(f"{shown(pack.folder)}: {file.name} has not the hash that the manifest names")
