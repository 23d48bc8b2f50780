"""Put runs into a pack."""

import hashlib
import os
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import BinaryIO

from repro import __version__
from repro.errors import ConfigError, InUseError, StorageError
from repro.packing.manifest import (
    BLOCK,
    CHUNK,
    END,
    FILE_NAME,
    FORMAT,
    MANIFEST,
    PackedFile,
    PackedRun,
    Say,
    iteration_of,
    name_problem,
    part_name,
)
from repro.places import shown
from repro.runs import Run, find_run, locked, read_run, scan, sync, utc_now, write_json
from repro.sizes import size_text

MOST_PARTS = 1000  # Choice: three digits, so that a shell's pack-* names the parts in their order


class Parts:
    """Writes a stream of bytes as pack-000, pack-001, ... of at most `size` bytes each (None: as one)."""

    def __init__(self, folder: Path, size: int | None):
        self.folder, self.size = folder, size
        self.made_folder = not folder.exists()
        self.done: list[PackedFile] = []
        self.file: BinaryIO | None = None
        self.digest, self.written = hashlib.sha256(), 0  # of the part that is open

    def write(self, data: bytes) -> None:
        """Append to the stream; StorageError if the disk does not take it, ConfigError for too many parts."""
        try:
            while data:
                file = self.file or self.begin()
                piece = data if self.size is None else data[: self.size - self.written]
                file.write(piece)
                self.digest.update(piece)
                self.written += len(piece)
                data = data[len(piece) :]
                if self.written == self.size:
                    self.end()
        except OSError as error:
            raise StorageError(f"can't write into {shown(self.folder)}: {error.strerror}") from error

    def begin(self) -> BinaryIO:
        """Open the next part."""
        if len(self.done) == MOST_PARTS:
            raise ConfigError(f"part_size={self.size} makes more than {MOST_PARTS} parts; take a larger one")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = (self.folder / part_name(len(self.done))).open("xb")
        self.digest, self.written = hashlib.sha256(), 0
        return self.file

    def end(self) -> None:
        """Close the part that is open, if one is."""
        if self.file is not None:
            with self.file as file:
                file.flush()
                sync(file.fileno(), self.folder)
            self.done.append(PackedFile(part_name(len(self.done)), self.written, self.digest.hexdigest()))
        self.file = None

    def discard(self) -> None:
        """Delete what was written, the folder too if it was not there before."""
        if self.file is not None:
            with suppress(OSError):
                self.file.close()
        for number in range(len(self.done) + (self.file is not None)):
            (self.folder / part_name(number)).unlink(missing_ok=True)
        if self.made_folder:
            with suppress(OSError):
                self.folder.rmdir()


def header(name: str, size: int) -> bytes:
    """The block that stands before a file of so many bytes in a tar, without owner and time."""
    entry = tarfile.TarInfo(name)
    entry.size = size
    try:
        return entry.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except ValueError as error:
        raise StorageError(f"can't pack {name} of {size} bytes: {error}") from error


def pack(target: Path, results: Path, names: Sequence[str], part_size: int | None, say: Say) -> None:
    """Write the named runs (folders or EXPERIMENT/seedK; none: all) of a results folder into a new or empty folder.

    Of runs that nobody named, those in progress or not whole are left out with a line; a named one raises InUseError
    or StorageError. ConfigError if the folder is not empty, a run is not there or nothing is to be packed. After any
    error the target is as it was.
    """
    check_empty(target)
    chosen = find_runs(names, results) if names else {name_of(run): run for run in scan(results / "runs")}
    parts, packed = Parts(target, part_size), []
    try:
        for name, run in chosen.items():
            try:
                packed.append(pack_run(name, run.folder, parts, say))
            except (InUseError, UnfitError) as error:
                if names:
                    raise
                say(f"left out: {error}")
        if not packed:
            raise ConfigError(f"no runs to pack in {shown(results / 'runs')}")
        parts.write(END)
        parts.end()
        write_json(target / MANIFEST, {"format": FORMAT, "repro": __version__, "utc": utc_now(),
                                       "parts": [asdict(part) for part in parts.done],
                                       "runs": [asdict(run) for run in packed]})
    except BaseException:
        parts.discard()
        raise
    size = sum(part.bytes for part in parts.done)
    say(f"runs: {len(packed)}, parts: {len(parts.done)}, together {size_text(size)}: {shown(target)}")


class UnfitError(StorageError):
    """A run that can't be carried because its record is not whole or not of its folder."""


def check_empty(target: Path) -> None:
    """Raise ConfigError unless the folder is new or empty."""
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{shown(target)} is no folder")
    if target.is_dir() and any(target.iterdir()):
        raise ConfigError(f"{shown(target)} is not empty; a pack needs a folder of its own")


def find_runs(names: Sequence[str], results: Path) -> dict[str, Run]:
    """The named runs by their names in the pack; ConfigError if one is not there or two have the same name."""
    found: dict[str, Run] = {}
    for run in (find_run(name, results) for name in names):
        other = found.setdefault(name_of(run), run)
        if not other.folder.samefile(run.folder):
            raise ConfigError(f"{shown(other.folder)} and {shown(run.folder)} would have the same name in a pack")
    return found


def name_of(run: Run) -> str:
    """A run's name in a pack: the last two of its folder's names, <experiment>[@<identity>]/seed<k>."""
    return "/".join(Path(os.path.abspath(run.folder)).parts[-2:])


def pack_run(name: str, folder: Path, parts: Parts, say: Say) -> PackedRun:
    """Append a run's files to the parts, under its lock. InUseError; UnfitError if its record is not whole."""
    with locked(folder) as note:
        if note:
            say(f"{name}: {note}")
        run = read_run(folder)
        if run.record is None or run.problem:
            raise UnfitError(f"{name}: {run.problem}")
        entry = PackedRun(name, run.experiment, run.identity, run.seed, run.status, iteration_of(run), ())
        if problem := name_problem(entry):
            raise UnfitError(f"{name}: {problem}")
        entry = replace(entry, files=tuple(add_file(parts, name, folder, file) for file in files_of(folder)))
    say(f"{name}: {entry.status} at iteration {entry.iteration}, "
        f"{size_text(sum(file.bytes for file in entry.files))}")
    return entry


def files_of(folder: Path) -> list[str]:
    """The files of a run that a pack holds, by their paths in its folder; checkpoints only with their JSON.

    A test (evaluations/) that is in progress is left out.
    """
    paths = (*sorted(folder.iterdir()), *sorted(folder.glob("evaluations/*")))
    names = [str(path.relative_to(folder)) for path in paths if path.is_file()]
    return [name for name in names if FILE_NAME.fullmatch(name)
            and (not name.startswith("checkpoint-") or (folder / f"{name.split('.')[0]}.json").is_file())
            and not (name.startswith("evaluations/") and (folder / f"{name.split('.')[0]}.lock").exists())]


def add_file(parts: Parts, run_name: str, folder: Path, name: str) -> PackedFile:
    """Append one file, header and padding included; StorageError if it can't be read or changes meanwhile."""
    path = folder / name
    digest, left = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            size = left = os.fstat(file.fileno()).st_size
            parts.write(header(f"{run_name}/{name}", size))
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                parts.write(chunk)
                left -= len(chunk)
    except OSError as error:
        raise StorageError(f"can't read {shown(path)}: {error.strerror}") from error
    if left:
        raise StorageError(f"{shown(path)} changed while it was read")
    parts.write(bytes(-size % BLOCK))
    return PackedFile(name, size, digest.hexdigest())
