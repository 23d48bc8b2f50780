"""The files of one set of images, in folders of their classes or ImageNet's flat val/. Never imports torch.

Every file is looked at once (one stat: kind and size); nothing is opened. Names are kept as bytes in one array, so that
1.28 million of them take some 40 MB.
"""

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repro.data.imagenet_labels import IMAGE, validation_wnids
from repro.data.parts import in_order
from repro.errors import DataError, StorageError
from repro.places import shown

SUFFIXES = (b".jpeg", b".jpg", b".png", b".bmp", b".gif", b".pgm", b".ppm", b".tif", b".tiff", b".webp")
MOST_NAMED = 10  # of bad files
AT_ONCE = 8  # Choice: folders listed at the same time, for network disks, where each file is a wait; no loss elsewhere
SAY_SECONDS = 5.0  # between lines while a set is listed
Say = Callable[[str], None]
Names = NDArray[np.bytes_]
Numbers = NDArray[np.int64]


@dataclass
class Problems:
    """Files that should not be as they are, with their reasons, and empty classes; hidden files, which are skipped."""

    files: list[tuple[bytes, str]] = field(default_factory=list)
    empty: list[tuple[bytes, str]] = field(default_factory=list)
    hidden: int = 0

    @property
    def count(self) -> int:
        """All of them but the hidden ones."""
        return len(self.files) + len(self.empty)

    def add(self, path: bytes, reason: str) -> None:
        """One more."""
        self.files.append((path, reason))

    def merge(self, other: "Problems") -> None:
        """Those of another folder, which come later."""
        self.files += other.files
        self.empty += other.empty
        self.hidden += other.hidden

    def __str__(self) -> str:
        named = [f"{shown(Path(os.fsdecode(path)))} ({reason})"
                 for path, reason in [*self.files, *self.empty][:MOST_NAMED]]
        more = f" and {self.count - len(named):,} more" if self.count > len(named) else ""
        return f"{self.count:,} bad: " + ", ".join(named) + more


@dataclass(frozen=True)
class Contents:
    """What is in one folder, by name: image files (N,) and their bytes, folders; and what is wrong with the rest."""

    names: Names
    sizes: Numbers
    folders: list[bytes]
    problems: Problems


@dataclass(frozen=True)
class Listing:
    """The images of a set by class and name: paths (N,) relative to `folder`, bytes, and places (N,) in `classes`."""

    folder: Path
    names: Names
    sizes: Numbers
    places: Numbers
    classes: tuple[str, ...]
    problems: Problems


def contents(folder: Path) -> Contents:
    """Look at every entry of a folder once; links are followed, names that begin with a dot skipped and counted.

    StorageError if the folder or an entry can't be read.
    """
    files: list[tuple[bytes, int]] = []
    folders: list[bytes] = []
    bad: list[tuple[bytes, str]] = []
    problems = Problems()
    try:
        with os.scandir(os.fsencode(folder)) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    problems.hidden += 1
                    continue
                status = status_of(entry)
                if status is not None and stat.S_ISDIR(status.st_mode):
                    folders.append(entry.name)
                elif reason := problem_of(entry.name, status):
                    bad.append((entry.path, reason))
                elif status is not None:
                    files.append((entry.name, status.st_size))
    except OSError as error:
        unreadable = Path(os.fsdecode(error.filename or folder))
        raise StorageError(f"can't read {shown(unreadable)}: {error.strerror}") from error
    for path, reason in sorted(bad):
        problems.add(path, reason)
    files.sort()
    return Contents(np.array([name for name, _ in files], np.bytes_), np.array([size for _, size in files], np.int64),
                    sorted(folders), problems)


def status_of(entry: os.DirEntry[bytes]) -> os.stat_result | None:
    """Kind and size of an entry; None for a link to nothing or to itself."""
    try:
        return entry.stat()
    except OSError:
        if entry.is_symlink():
            return None
        raise


def problem_of(name: bytes, status: os.stat_result | None) -> str | None:
    """Why an entry that is no folder is no image either; None if it may be one."""
    if status is None:
        return "a link to nothing"
    if not stat.S_ISREG(status.st_mode):
        return "no file"
    if not name.lower().endswith(SUFFIXES):
        return "not an image file by its name"
    return None if status.st_size else "empty file"


def list_classes(folder: Path, inside: Contents, say: Say | None = None) -> Listing:
    """The images in the folders of their classes; `inside`: the contents of `folder`."""
    problems, names, sizes, counts = Problems(), [], [], []
    problems.merge(inside.problems)
    for name in inside.names.tolist():
        problems.add(os.fsencode(folder) + b"/" + name, "in no class's folder")
    began = time.monotonic()
    found_in = in_order(contents, [folder / os.fsdecode(wnid) for wnid in inside.folders], AT_ONCE)
    for number, (wnid, found) in enumerate(zip(inside.folders, found_in, strict=True), 1):
        problems.merge(found.problems)
        for name in found.folders:
            problems.add(os.path.join(os.fsencode(folder), wnid, name), "a folder in a class's folder")
        if not len(found.names) and not found.problems.count and not found.folders:
            problems.empty.append((os.path.join(os.fsencode(folder), wnid), "a class's folder without images"))
        names.append(np.char.add(wnid + b"/", found.names))
        sizes.append(found.sizes)
        counts.append(len(found.names))
        if say is not None and time.monotonic() - began >= SAY_SECONDS:
            began = time.monotonic()
            say(f"  listing {shown(folder)}: {sum(counts):,} images in {number:,} of {len(inside.folders):,} folders")
    return Listing(folder, np.concatenate(names), np.concatenate(sizes), np.repeat(np.arange(len(counts)), counts),
                   tuple(map(os.fsdecode, inside.folders)), problems)


def list_flat(folder: Path, inside: Contents, skip: bool = False) -> Listing:
    """ImageNet's validation images in one folder, with the labels that lie beside it.

    DataError if there are no labels or not one for each image; with `skip` some of the images may be lacking.
    """
    source, wnids = validation_wnids(folder.parent)
    matches = [IMAGE.fullmatch(name) for name in inside.names.tolist()]
    problems = Problems()
    problems.merge(inside.problems)
    for name, match in zip(inside.names.tolist(), matches, strict=True):
        if match is None:
            problems.add(os.fsencode(folder) + b"/" + name, "not named as ImageNet's validation images are")
    numbers = np.array([int(match[1]) for match in matches if match is not None], np.int64)
    there, due = set(numbers.tolist()), set(range(1, len(wnids) + 1))
    if len(numbers) != len(there) or not (there <= due if skip else there == due):
        raise DataError(f"{shown(source)} has labels of {len(wnids):,} images, ILSVRC2012_val_00000001 and so on, but "
                        f"{shown(folder)} holds {len(numbers):,} of such a name"
                        f"{first_lacking(set(numbers.tolist()), len(wnids))}; make both complete"
                        + (f"; {problems}" if problems.count else ""))
    classes, all_places = np.unique(np.array(wnids), return_inverse=True)
    good = np.array([match is not None for match in matches])
    places = all_places.reshape(-1)[numbers - 1]
    order = np.argsort(places, kind="stable")  # by name within a class
    return Listing(folder, inside.names[good][order], inside.sizes[good][order], places[order].astype(np.int64),
                   tuple(classes.tolist()), problems)


def first_lacking(numbers: set[int], count: int) -> str:
    """Words about the first number of 1 to `count` that is not among these."""
    lacking = set(range(1, count + 1)) - numbers
    return f" (there is no {min(lacking):08d})" if lacking else ""
