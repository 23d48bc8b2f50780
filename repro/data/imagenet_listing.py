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
NESTED, NO_IMAGES = "a folder in a class's folder", "a class's folder without images"
STRAY, OTHER_NAME, NO_IMAGE = ("in no class's folder", "not named as ImageNet's validation images are",
                               "not an image file by its name")
Say = Callable[[str], None]
Names = NDArray[np.bytes_]
Numbers = NDArray[np.int64]


@dataclass
class Problems:
    """Files that should not be as they are, each with its reason; the number of hidden ones, which are skipped."""

    files: list[tuple[bytes, str]] = field(default_factory=list)
    hidden: int = 0

    @property
    def count(self) -> int:
        """How many there are, the hidden ones not counted."""
        return len(self.files)

    def add(self, path: bytes, reason: str) -> None:
        """One more."""
        self.files.append((path, reason))

    def merge(self, other: "Problems") -> None:
        """Those of another folder, which come later."""
        self.files += other.files
        self.hidden += other.hidden

    def __str__(self) -> str:
        named = [f"{shown(Path(os.fsdecode(path)))} ({reason})" for path, reason in self.files[:MOST_NAMED]]
        return f"{self.count:,} bad: " + ", ".join(named) + and_more(self.count)


def and_more(count: int) -> str:
    """Words about those of so many files that are not named."""
    return f" and {count - MOST_NAMED:,} more" if count > MOST_NAMED else ""


@dataclass(frozen=True)
class Contents:
    """What is in one folder, by name: image files (N,) with their bytes, folders; and what is wrong with the rest."""

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
    names, sizes = zip(*files, strict=True) if files else ((), ())
    return Contents(np.array(names, np.bytes_), np.array(sizes, np.int64), sorted(folders), problems)


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
        return NO_IMAGE
    return None if status.st_size else "empty file"


def list_classes(folder: Path, inside: Contents, say: Say | None = None) -> Listing:
    """The images in the folders of their classes; `inside`: the contents of `folder`."""
    problems, found_all, names = Problems(), [], []
    problems.merge(inside.problems)
    for name in inside.names.tolist():
        problems.add(os.fsencode(folder) + b"/" + name, STRAY)
    began = time.monotonic()
    found_in = in_order(contents, [folder / os.fsdecode(wnid) for wnid in inside.folders], AT_ONCE)
    for number, (wnid, found) in enumerate(zip(inside.folders, found_in, strict=True), 1):
        problems.merge(found.problems)
        for name in found.folders:
            problems.add(os.path.join(os.fsencode(folder), wnid, name), NESTED)
        if not len(found.names) and not found.problems.count and not found.folders:
            problems.add(os.path.join(os.fsencode(folder), wnid), NO_IMAGES)
        names.append(np.char.add(wnid + b"/", found.names))
        found_all.append(found)
        if say is not None and time.monotonic() - began >= SAY_SECONDS:
            began = time.monotonic()
            say(f"  listing {shown(folder)}: {sum(map(len, names)):,} images in {number:,} of "
                f"{len(inside.folders):,} folders")
    return Listing(folder, np.concatenate(names), np.concatenate([found.sizes for found in found_all]),
                   np.repeat(np.arange(len(names)), list(map(len, names))),
                   tuple(map(os.fsdecode, inside.folders)), problems)


def list_flat(folder: Path, inside: Contents) -> Listing:
    """ImageNet's validation images in one folder, with the labels that lie beside it.

    DataError if there are no labels or not one for each image, bad ones included.
    """
    source, wnids = validation_wnids(folder.parent)
    matches = [IMAGE.fullmatch(name) for name in inside.names.tolist()]
    problems = Problems()
    problems.merge(inside.problems)
    bad = [IMAGE.fullmatch(os.path.basename(path)) for path, _ in problems.files]
    for name, match in zip(inside.names.tolist(), matches, strict=True):
        if match is None:
            problems.add(os.fsencode(folder) + b"/" + name, OTHER_NAME)
    numbers = np.array([int(match[1]) for match in matches if match is not None], np.int64)
    all_numbers = [*numbers.tolist(), *(int(match[1]) for match in bad if match is not None)]
    if len(all_numbers) != len(wnids) or set(all_numbers) != set(range(1, len(wnids) + 1)):
        raise DataError(f"{shown(source)} has labels of {len(wnids):,} images, ILSVRC2012_val_00000001 and so on, but "
                        f"{shown(folder)} holds {len(all_numbers):,} of such a name"
                        f"{first_lacking(set(all_numbers), len(wnids))}; make both complete"
                        + (f"; {problems}" if problems.count else ""))
    classes, all_places = np.unique(np.array(wnids), return_inverse=True)
    good = np.array([match is not None for match in matches])
    places = all_places.reshape(-1)[numbers - 1]
    order = np.argsort(places, kind="stable")  # by name within a class
    return Listing(folder, inside.names[good][order], inside.sizes[good][order],
                   places[order].astype(np.int64), tuple(classes.tolist()), problems)


def first_lacking(numbers: set[int], count: int) -> str:
    """Words about the first number of 1 to `count` that is not among these."""
    lacking = set(range(1, count + 1)) - numbers
    return f" (there is no {min(lacking):08d})" if lacking else ""
