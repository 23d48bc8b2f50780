"""What a pack holds: its manifest, and which names it may give. A manifest comes from elsewhere and is not trusted.

A pack is an uncompressed tar of the runs' files, cut into pack-000, pack-001, ... (`cat pack-* | tar x` reads it too),
and manifest.json, written last: every run, file and part with its size and SHA-256. The tar names no owner.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.errors import DataError, StorageError
from repro.places import shown
from repro.runs import Run

FORMAT = 1
MANIFEST = "manifest.json"
BLOCK = 512  # bytes; a tar is made of such blocks (POSIX.1-1988, ustar)
END = bytes(2 * BLOCK)
CHUNK = 2**20  # bytes read at once

# All that is packed and all that is admitted: <experiment>[@<identity>]/seed<k>/ and these files below it.
RUN_NAME = re.compile(r"(?P<experiment>\w[\w.+ -]*)(@(?P<identity>[0-9a-z]+))?/seed(?P<seed>0|[1-9][0-9]*)")
FILE_NAME = re.compile(r"config\.yaml|run\.json|weights\.pt|mean\.npz|[A-Za-z0-9_]+\.csv"
                       r"|evaluations/(center|ten_crop|multi_scale)\.(json|npy|labels\.npy)"
                       r"|checkpoint-[0-9]{8,}\.(json|pt(\.[0-9]{3,})?)")

Say = Callable[[str], None]


@dataclass(frozen=True)
class PackedFile:
    """A file of a run, or a part of a pack."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class PackedRun:
    """A run as the manifest names it; `name` is its folder below results/runs."""

    name: str
    experiment: str
    identity: str
    seed: int
    status: str
    iteration: int
    files: tuple[PackedFile, ...]


@dataclass(frozen=True)
class Pack:
    """A pack whose manifest could be read and names nothing but runs."""

    folder: Path
    parts: tuple[PackedFile, ...]
    runs: tuple[PackedRun, ...]


def part_name(number: int) -> str:
    """The name of a part, counted from 0."""
    return f"pack-{number:03d}"


def iteration_of(run: Run) -> int:
    """Iterations that a run's record says are done."""
    return int(run.record.get("iteration", 0)) if run.record else 0


def name_problem(run: PackedRun) -> str | None:
    """Why a run's name can't be that of its folder; None if it can."""
    found = RUN_NAME.fullmatch(run.name)
    if found is None:
        return "the folder is not named <experiment>[@<identity>]/seed<k>"
    if (found["experiment"], int(found["seed"])) != (run.experiment, run.seed) \
            or found["identity"] not in (None, run.identity):
        return f"the folder's name does not fit its record ({run.experiment}, {run.identity}, seed {run.seed})"
    return None


def read_manifest(folder: Path) -> Pack:
    """The manifest of a pack; DataError if it is missing, torn or names what no run holds."""
    path = folder / MANIFEST
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["format"] != FORMAT:
            raise ValueError(f"a pack of format {value['format']}; this version reads {FORMAT}")
        pack = Pack(folder, tuple(map(packed_file, value["parts"])), tuple(map(packed_run, value["runs"])))
        check_names(pack)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{shown(path)} is not there: not a pack, or one that was not written to its end") from None
    except OSError as error:
        raise StorageError(f"can't read {shown(path)}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{shown(path)}: not admitted ({type(error).__name__}: {error})") from error
    return pack


def packed_file(value: dict[str, Any]) -> PackedFile:
    """One file as the manifest names it; ValueError or TypeError if it does not."""
    file = PackedFile(**value)
    if type(file.bytes) is not int or file.bytes < 0 or not isinstance(file.sha256, str):
        raise ValueError(f"{file.name!r} has no size and hash")
    return file


def packed_run(value: dict[str, Any]) -> PackedRun:
    """One run as the manifest names it; ValueError or TypeError if its names are not those of a run."""
    run = PackedRun(**value | {"files": tuple(map(packed_file, value["files"]))})
    if type(run.seed) is not int or type(run.iteration) is not int:
        raise ValueError(f"{run.name!r} has no seed and iteration")
    if problem := name_problem(run):
        raise ValueError(f"{run.name!r}: {problem}")
    for file in run.files:
        if not FILE_NAME.fullmatch(file.name):
            raise ValueError(f"{run.name}/: {file.name!r} is no file of a run")
    return run


def check_names(pack: Pack) -> None:
    """ValueError if parts are not named in order, a name comes twice, or sizes do not add up to those of a tar."""
    if [part.name for part in pack.parts] != [part_name(number) for number in range(len(pack.parts))]:
        raise ValueError("its parts are not pack-000, pack-001, ...")
    names = [f"{run.name}/{file.name}" for run in pack.runs for file in run.files]
    if len(set(names)) < len(names) or len({run.name for run in pack.runs}) < len(pack.runs):
        raise ValueError("a name comes twice")
    sizes = [file.bytes for run in pack.runs for file in run.files]
    if sum(BLOCK + size + -size % BLOCK for size in sizes) + len(END) != sum(part.bytes for part in pack.parts):
        raise ValueError("the sizes of its files and its parts do not fit")
