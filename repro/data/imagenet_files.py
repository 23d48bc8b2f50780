"""ImageNet as files: where the images lie, of which class each is, and whether the set is whole.

root/train/<wnid>/* and root/val/<wnid>/*, listed as torchvision's ImageFolder does; or a flat root/val/ with labels
beside it: Kaggle's table, or a text file with one wnid a line in the order of the images' numbers. A wiring test takes
any folders of classes, and one of them for both sets. Every file is looked at once (one stat: kind and size).
"""

import csv
import hashlib
import logging
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets.folder import is_image_file, make_dataset

from repro.data.crops import open_rgb
from repro.data.loader import in_parts, progress
from repro.errors import DataError, StorageError
from repro.paths import display_path
from repro.schema import CLASSES

TRAIN, VAL = "train", "val"
SOLUTION = "LOC_val_solution.csv"  # Kaggle's
LISTS = ("val_labels.txt", "imagenet_2012_validation_synset_labels.txt")
LABELS = f"{SOLUTION} (Kaggle's), or {LISTS[0]} with one wnid a line"
# What a person has to do, since nobody may pass these images on.
BY_HAND = ("get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar with an account of image-net.org, unpack the "
           "images into one folder as train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, or val/ILSVRC2012_val_*.JPEG with "
           f"{SOLUTION} beside val/, and name it by data.root=FOLDER or REPRO_DATA")
OTHERS = "images of other sets can only make a wiring test: data.wiring_test=true"
MOST_NAMED = 10  # classes and bad files in a message
AT_ONCE = 8  # Choice: folders listed at the same time, for network disks, where each file is a wait; no loss elsewhere
OFFICIAL = (CLASSES, 1_281_167, 50_000)  # Sec. 4.1: classes, 1.28 million training and 50k validation images
BLOCK = 10_000  # files that are hashed at once
Looked = tuple[NDArray[np.bytes_], NDArray[np.int64], list[str]]  # see `look_at`
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSet:
    """Images by class and name: paths (N,) below `root`, sizes in bytes (N,), labels (N,): places in the sorted
    `wnids`; `bad`: files and classes that are left out. As one array a million names take 40 MB."""

    root: Path
    names: NDArray[np.bytes_]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64]
    wnids: tuple[str, ...]
    bad: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.root / os.fsdecode(self.names[index])


@dataclass(frozen=True)
class ImageNetFiles:
    """Both sets, which share `wnids`; fingerprint: SHA-256 over path, bytes and label of every file, a line each."""

    train: ImageSet
    val: ImageSet
    wnids: tuple[str, ...]
    fingerprint: str
    one_folder: bool  # both are the same images, in a wiring test


def find(root: Path, wiring_test: bool = False, expected: tuple[int, int, int] = OFFICIAL,
         val_alone: bool = False) -> ImageNetFiles:
    """List the files of both sets and check their number, classes and kinds; nothing is opened.

    val_alone: a root without train/ will do, the training set is empty then. DataError (exit 3) that names what is
    missing or the first bad files; StorageError (exit 5) for a folder that can't be read.
    """
    try:
        train, val = list_sets(root, wiring_test, val_alone)
    except OSError as error:
        raise StorageError(f"can't read {display_path(Path(error.filename or root))}: {error.strerror}") from error
    lonely = set(val.wnids) - set(train.wnids) if wiring_test else set(val.wnids) ^ set(train.wnids)
    wrong = [f"classes in one set only: {first_of(sorted(lonely))}"] if lonely else []
    classes, *counts = expected
    for images, count in zip((train, val), counts, strict=True):
        if not wiring_test and len(images) and (len(images), len(images.wnids)) != (count, classes):
            wrong.append(f"{len(images):,} good images in {len(images.wnids):,} classes in "
                         f"{display_path(images.root)}, expected {count:,} in {classes:,}")
    if bad := list(dict.fromkeys(train.bad + val.bad)):
        wrong.append(f"{len(bad):,} bad (empty, missing, no plain file or no images): {first_of(bad)}")
    if wrong:
        raise DataError(f"the images in {display_path(root)} are not as they should be: {'; '.join(wrong)}. Put it "
                        f"right, or name another folder by data.root=FOLDER" + ("" if wiring_test else f"; {OTHERS}"))
    one_folder = train is val
    if val.wnids != train.wnids:  # in a wiring test; both are sorted
        places = np.searchsorted(np.array(train.wnids), np.array(val.wnids))
        val = replace(val, labels=places[val.labels], wnids=train.wnids)
    digest = hashlib.sha256()
    for name, images in ((TRAIN, train), (VAL, val)):
        for begin in range(0, len(images), BLOCK):
            columns = (column[begin : begin + BLOCK].tolist() for column in (images.names, images.sizes, images.labels))
            digest.update(b"".join(b"%s/%s\0%d\0%d\n" % (name.encode(), *row) for row in zip(*columns, strict=True)))
    return ImageNetFiles(train, val, train.wnids, digest.hexdigest(), one_folder)


def first_of(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def list_sets(root: Path, wiring_test: bool, val_alone: bool) -> tuple[ImageSet, ImageSet]:
    """Training and validation images, the same object where one folder serves as both. DataError without them."""
    found = [name for name in (TRAIN, VAL) if name in (os.listdir(root) if root.exists() else ())]
    if found == [TRAIN, VAL]:
        return list_images(root / TRAIN), list_images(root / VAL)
    if wiring_test and root.is_dir():
        both = list_images(root / found[0] if found else root)
        return both, both
    if val_alone and found == [VAL]:
        val = list_images(root / VAL)
        return replace(val, names=val.names[:0], sizes=val.sizes[:0], labels=val.labels[:0], bad=()), val
    missing = " and ".join(f"{name}/" for name in (TRAIN, VAL) if name not in found) + " missing"
    raise DataError(f"ImageNet is not in {root}: {missing if root.exists() else 'there is no such folder'}; {BY_HAND}; "
                    f"{OTHERS}")


def list_images(folder: Path) -> ImageSet:
    """The images of a folder of classes, or of a flat val/. DataError if there is neither."""
    with os.scandir(folder) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        return list_flat(folder)

    def is_image(path: str) -> bool:
        return is_image_file(path) and not os.path.basename(path).startswith(".")

    def list_class(wnid: str) -> Looked:
        paths = [path for path, _ in make_dataset(str(folder), {wnid: 0}, is_valid_file=is_image, allow_empty=True)]
        if not paths:
            os.listdir(folder / wnid)  # raises where it may not be read, which torchvision passes over
        names, sizes, bad = look_at(folder, [os.path.relpath(path, folder) for path in paths])
        return names, sizes, bad if paths else [display_path(folder / wnid)]

    found = []
    with progress(f"list {display_path(folder)}", len(classes), unit="folder") as advance, \
            ThreadPoolExecutor(AT_ONCE) as pool:
        for one in pool.map(list_class, classes):
            found.append(one)
            advance(1)
    names, sizes, bad = zip(*found, strict=True)
    return ImageSet(folder, np.concatenate(names), np.concatenate(sizes),
                    np.repeat(np.arange(len(classes)), list(map(len, names))), tuple(classes), tuple(chain(*bad)))


def look_at(folder: Path, paths: list[str]) -> Looked:
    """Names (N,) and bytes (N,) of the good files among these; the others."""
    names, sizes, bad = [], [], []
    for path in paths:
        try:
            status = os.stat(folder / path)
        except OSError:
            status = None
        if status and stat.S_ISREG(status.st_mode) and status.st_size:
            names.append(os.fsencode(path))
            sizes.append(status.st_size)
        else:
            bad.append(display_path(folder / path))
    return np.array(names, np.bytes_), np.array(sizes, np.int64), bad


def list_flat(folder: Path) -> ImageSet:
    """ImageNet's validation images in one folder, with the labels that lie beside it. DataError without labels."""
    wnids = validation_wnids(folder)
    names, sizes, bad = look_at(folder, [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, len(wnids) + 1)])
    classes, of_number = np.unique(np.array(wnids), return_inverse=True)
    labels = of_number.reshape(-1)[[int(name[15:23]) - 1 for name in names.tolist()]].astype(np.int64)
    order = np.argsort(labels, kind="stable")  # by name within a class
    return ImageSet(folder, names[order], sizes[order], labels[order], tuple(classes.tolist()), tuple(bad))


def validation_wnids(folder: Path) -> list[str]:
    """The wnid of each image of a flat val/ in the order of their numbers; DataError if there are none to be read."""
    path = next((path for name in (SOLUTION, *LISTS) if (path := folder.parent / name).is_file()), None)
    if folder.name != VAL or path is None:
        raise DataError(f"{display_path(folder)} holds no folders of classes, nor is it a val/ with the labels of its "
                        f"images beside it: {LABELS}; {BY_HAND}")
    try:
        text = path.read_text(encoding="utf-8-sig")  # a byte order mark is no label
        if path.name != SOLUTION:
            return text.split()
        # ImageId, and PredictionString that begins with the wnid; in any order
        wnids = {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(text.splitlines())}
        return [wnids[f"ILSVRC2012_val_{number:08d}"] for number in range(1, len(wnids) + 1)]
    except (ValueError, LookupError, AttributeError, csv.Error) as error:
        raise DataError(f"{display_path(path)}: the labels of the validation images can't be read from it ({error}); "
                        f"expected is {LABELS}") from error


def verify(root: Path, wiring_test: bool, expected: tuple[int, int, int] = OFFICIAL) -> None:
    """Check what `find` checks, then decode every image; DataError (exit 3) counts the bad ones and names the first."""
    files = find(root, wiring_test, expected)
    sets = [files.train] if files.one_folder else [files.train, files.val]
    logger.info(f"{display_path(root)}: " + ("one folder for both sets, a wiring test; " if files.one_folder else "")
                + " and ".join(f"{len(images):,} images in {display_path(images.root)}" for images in sets)
                + f", {len(files.wnids):,} classes, fingerprint {files.fingerprint}")
    bad, total = [], sum(map(len, sets))
    with progress(f"verify {display_path(root)}", total) as advance:
        for images in sets:
            for count, problems in in_parts(partial(decode, images), range(len(images))):
                bad += problems
                advance(count)
    if bad:
        raise DataError(f"{len(bad):,} of {total:,} images can't be read: {first_of(bad)}. Put them there again from "
                        "the official archives")
    logger.info(f"all {total:,} images can be read")


def decode(images: ImageSet, numbers: Sequence[int]) -> tuple[int, list[str]]:
    """Open these images of a set; how many they are, and why some can't be read."""
    problems = []
    for number in numbers:
        try:
            open_rgb(images.path(number))
        except DataError as error:
            problems.append(str(error))
    return len(numbers), problems
