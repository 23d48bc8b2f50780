"""ImageNet as files: where the images lie, of which class each is, and whether the set is whole.

root/train/<wnid>/* and root/val/<wnid>/*, listed as torchvision's ImageFolder does; or a flat root/val/ with labels
beside it (see repro/data/imagenet_labels.py). A wiring test takes any folders of classes, and one of them for both
sets. Every file is looked at once (one stat: kind and size); nothing is opened. Names are kept as bytes in one array,
so that 1.28 million of them take some 40 MB. Never imports torch before it must.
"""

import hashlib
import logging
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repro.data.cifar10_files import present
from repro.data.imagenet_labels import IMAGE, WNID, validation_wnids
from repro.data.parts import in_order
from repro.errors import DataError, StorageError
from repro.paths import display_path
from repro.schema import CLASSES

TRAIN, VAL = "train", "val"
LAYOUT = ("train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, or val/ILSVRC2012_val_*.JPEG with Kaggle's LOC_val_solution.csv "
          "beside val/")
ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
# What a person has to do, since nobody may pass these images on.
BY_HAND = (f"get {' and '.join(ARCHIVES)} with an account of image-net.org, unpack the images into one folder as "
           f"{LAYOUT}, and name it by data.root=FOLDER or REPRO_DATA")
OTHERS = "images of other sets can only make a wiring test: data.wiring_test=true"
FEW, MOST_NAMED = 5, 10  # classes and bad files in a message
AT_ONCE = 8  # Choice: folders listed at the same time, for network disks, where each file is a wait; no loss elsewhere
SAY_SECONDS = 5.0  # between lines while a set is listed
BLOCK = 10_000  # files that are hashed at once
logger = logging.getLogger(__name__)
Names = NDArray[np.bytes_]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Expected:
    """What counts as whole: classes, training images, validation images."""

    classes: int
    train: int
    val: int


OFFICIAL = Expected(CLASSES, 1_281_167, 50_000)  # Sec. 4.1: 1.28 million and 50k


@dataclass(frozen=True)
class ImageSet:
    """Images by class and name: paths (N,) bytes relative to `root`, and labels (N,) int64, places in the wnids."""

    root: Path
    names: Names
    labels: Numbers

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.root / os.fsdecode(self.names[index])


@dataclass(frozen=True)
class ImageNetFiles:
    """Both sets; the classes' names, sorted: label k is wnids[k].

    fingerprint: SHA-256 over path, bytes and label of every file of both; one_folder: whether both are the same images
    (wiring tests only).
    """

    train: ImageSet
    val: ImageSet
    wnids: tuple[str, ...]
    fingerprint: str
    one_folder: bool


@dataclass(frozen=True)
class Listing:
    """The images of a set by class and name: paths (N,) relative to `folder`, bytes, and places (N,) in `classes`;
    what is wrong with some of them."""

    folder: Path
    names: Names
    sizes: Numbers
    places: Numbers
    classes: tuple[str, ...]
    bad: tuple[str, ...]


@dataclass(frozen=True)
class Listings:
    """The files of both sets as they were found below `root`; `val` is `train` where one folder serves as both."""

    root: Path
    train: Listing
    val: Listing

    @property
    def one_folder(self) -> bool:
        """Whether one folder serves as both sets."""
        return self.train is self.val

    @property
    def each(self) -> list[Listing]:
        """One or two of them."""
        return [self.train] if self.one_folder else [self.train, self.val]


def find(root: Path, wiring_test: bool = False, expected: Expected = OFFICIAL,
         val_alone: bool = False) -> ImageNetFiles:
    """List the files of both sets and check their number, classes, names and kinds; nothing is opened.

    val_alone: a root without train/ will do, the training set is empty then. DataError (exit 3) that names what is
    missing or the first bad files, and what to do; StorageError (exit 5) for a folder that can't be read.
    """
    try:
        found = list_sets(root, wiring_test, val_alone)
    except OSError as error:
        raise StorageError(f"can't read {display_path(Path(error.filename or root))}: {error.strerror}") from error
    if val_alone and not len(found.train.names):
        expected = replace(expected, train=0)
    wrong = [*differences(found, expected, wiring_test),
             *(f"{len(one.bad):,} bad: {', '.join(one.bad[:MOST_NAMED])}{and_more(len(one.bad))}"
               for one in found.each if one.bad)]
    if wrong:
        raise DataError(f"the images in {display_path(root)} are not as they should be: {'; '.join(wrong)}. Put it "
                        f"right, or name another folder by data.root=FOLDER" + ("" if wiring_test else f"; {OTHERS}"))
    train, val = found.train, found.val
    first, second = image_set(train, train.classes), image_set(val, train.classes)
    return ImageNetFiles(first, second, train.classes, fingerprint((train, first), (val, second)), found.one_folder)


def list_sets(root: Path, wiring_test: bool, val_alone: bool) -> Listings:
    """List the files of both sets. DataError where there are none, StorageError for a folder that can't be read."""
    if val_alone and not wiring_test and (root / VAL).is_dir() and not (root / TRAIN).exists():
        val = listed(root / VAL)
        none = replace(val, names=val.names[:0], sizes=val.sizes[:0], places=val.places[:0], bad=())
        return Listings(root, none, val)
    train_folder, val_folder = set_folders(root, wiring_test)
    train = listed(train_folder)
    return Listings(root, train, train if train_folder == val_folder else listed(val_folder))


def set_folders(root: Path, wiring_test: bool) -> tuple[Path, Path]:
    """The folders of the training and validation images, the same one for both where a wiring test has but one.

    DataError if they are not there, with a hint where something like them is.
    """
    if not present(root):
        raise DataError(f"ImageNet is not in {root}: there is no such folder; {BY_HAND}")
    found = [name for name in (TRAIN, VAL) if (root / name).is_dir()]
    if len(found) == 2:
        return root / TRAIN, root / VAL
    if wiring_test:
        only = root / found[0] if found else root
        return only, only
    missing = " and ".join(f"{name}/" for name in (TRAIN, VAL) if name not in found)
    raise DataError(f"ImageNet is not in {root}: {missing} missing{hint(root)}; {BY_HAND}; {OTHERS}")


def hint(root: Path) -> str:
    """What else is in a folder that should hold train/ and val/."""
    if any(WNID.fullmatch(name) for name in os.listdir(root)):
        return " (it holds the classes' folders itself: name the folder above it)"
    if (root / "ILSVRC" / "Data" / "CLS-LOC").is_dir():
        return f" (is it data.root={root / 'ILSVRC' / 'Data' / 'CLS-LOC'}? LOC_val_solution.csv belongs there)"
    archives = [name for name in ARCHIVES if (root / name).is_file()]
    return f" ({' and '.join(archives)} must be unpacked)" if archives else ""


def listed(folder: Path) -> Listing:
    """The images of a folder of classes, or of a flat val/. DataError if there is neither."""
    with os.scandir(folder) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if classes:
        return list_classes(folder, classes)
    if folder.name == VAL and os.listdir(folder):
        return list_flat(folder)
    raise DataError(f"{display_path(folder)} holds no folders of classes; expected is {LAYOUT}")


def list_classes(folder: Path, classes: list[str]) -> Listing:
    """The images in the folders of their classes."""
    from torchvision.datasets.folder import make_dataset

    def list_class(wnid: str) -> tuple[Names, Numbers, list[str]]:
        paths = [path for path, _ in make_dataset(str(folder), {wnid: 0}, is_valid_file=is_image, allow_empty=True)]
        if not paths:
            os.listdir(folder / wnid)  # raises where it may not be read, which torchvision passes over
            return np.array([], np.bytes_), np.array([], np.int64), [f"{display_path(folder / wnid)} (no images)"]
        names, sizes, bad = look_at(folder, [os.path.relpath(path, folder) for path in paths])
        return names, sizes, bad

    found, began = [], time.monotonic()
    for number, one in enumerate(in_order(list_class, classes, AT_ONCE), 1):
        found.append(one)
        if time.monotonic() - began >= SAY_SECONDS:
            began = time.monotonic()
            logger.info(f"  listing {display_path(folder)}: {sum(len(names) for names, *_ in found):,} images in "
                        f"{number:,} of {len(classes):,} folders")
    names, sizes, bad = zip(*found, strict=True)
    return Listing(folder, np.concatenate(names), np.concatenate(sizes),
                   np.repeat(np.arange(len(classes)), list(map(len, names))), tuple(classes),
                   tuple(text for texts in bad for text in texts))


def is_image(path: str) -> bool:
    """Whether torchvision takes a file of this name for an image; those that begin with a dot are none."""
    from torchvision.datasets.folder import is_image_file

    return is_image_file(path) and not os.path.basename(path).startswith(".")


def look_at(folder: Path, paths: list[str]) -> tuple[Names, Numbers, list[str]]:
    """Good files among these: names (N,) and bytes (N,); and what is wrong with the others."""
    good, bad = [], []
    for path in paths:
        try:
            status = os.stat(folder / path)
            reason = "no file" if not stat.S_ISREG(status.st_mode) else "" if status.st_size else "empty file"
        except OSError:
            reason = "a link to nothing"
        if reason:
            bad.append(f"{display_path(folder / path)} ({reason})")
        else:
            good.append((os.fsencode(path), status.st_size))
    names, sizes = zip(*good, strict=True) if good else ((), ())
    return np.array(names, np.bytes_), np.array(sizes, np.int64), bad


def list_flat(folder: Path) -> Listing:
    """ImageNet's validation images in one folder, with the labels that lie beside it.

    DataError if there are no labels or not one for each image, bad ones included.
    """
    source, wnids = validation_wnids(folder.parent)
    paths = sorted(name for name in os.listdir(folder) if IMAGE.fullmatch(os.fsencode(name)))
    numbers = {int(name[15:23]) for name in paths}
    if len(paths) != len(wnids) or numbers != set(range(1, len(wnids) + 1)):
        lacking = set(range(1, len(wnids) + 1)) - numbers
        raise DataError(f"{display_path(source)} has labels of {len(wnids):,} images, ILSVRC2012_val_00000001 and so "
                        f"on, but {display_path(folder)} holds {len(paths):,} of such a name"
                        f"{f' (there is no {min(lacking):08d})' if lacking else ''}; make both complete")
    names, sizes, bad = look_at(folder, paths)
    classes, of_number = np.unique(np.array(wnids), return_inverse=True)
    places = of_number.reshape(-1)[[int(name[15:23]) - 1 for name in names.tolist()]]
    order = np.argsort(places, kind="stable")  # by name within a class
    return Listing(folder, names[order], sizes[order], places[order].astype(np.int64), tuple(classes.tolist()),
                   tuple(bad))


def and_more(count: int) -> str:
    """Words about those of so many files that are not named."""
    return f" and {count - MOST_NAMED:,} more" if count > MOST_NAMED else ""


def differences(found: Listings, expected: Expected, wiring_test: bool) -> Iterator[str]:
    """What is wrong with classes and numbers of images; in a wiring test the classes of the training set may be any."""
    train, val = found.train, found.val
    only_val = sorted(set(val.classes) - set(train.classes))
    if only_val:
        yield f"{few(only_val)} only in {display_path(val.folder)}"
    if wiring_test:
        return
    for listing, wanted in ((train, expected.train), (val, expected.val)):
        name, count = display_path(listing.folder), len(listing.names)
        odd = [wnid for wnid in listing.classes if not WNID.fullmatch(wnid)]
        if odd:
            yield f"{few(odd)} in {name}: not a wnid such as n01440764"
        if len(listing.classes) != expected.classes:
            yield f"{len(listing.classes):,} classes in {name}, expected {expected.classes:,}"
        if count != wanted:
            yield f"{count:,} good images in {name}, expected {wanted:,}"
    only_train = sorted(set(train.classes) - set(val.classes))
    if only_train:
        yield f"{few(only_train)} only in {display_path(train.folder)}"


def few(names: list[str]) -> str:
    """Some names of classes."""
    more = f" and {len(names) - FEW:,} more" if len(names) > FEW else ""
    return ("class " if len(names) == 1 else "classes ") + ", ".join(names[:FEW]) + more


def image_set(listing: Listing, wnids: tuple[str, ...]) -> ImageSet:
    """The listed images with labels by their places in `wnids`, which hold all of the listing's classes."""
    place = {wnid: label for label, wnid in enumerate(wnids)}
    labels = np.array([place[wnid] for wnid in listing.classes], np.int64)
    return ImageSet(listing.folder, listing.names, labels[listing.places])


def fingerprint(train: tuple[Listing, ImageSet], val: tuple[Listing, ImageSet]) -> str:
    """SHA-256 over path below train/ or val/, bytes and label of every file, a line each, in the order of the sets."""
    digest = hashlib.sha256()
    for name, (listing, images) in ((TRAIN, train), (VAL, val)):
        for begin in range(0, len(images), BLOCK):
            part = slice(begin, begin + BLOCK)
            rows = zip(images.names[part].tolist(), listing.sizes[part].tolist(), images.labels[part].tolist(),
                       strict=True)
            digest.update(b"".join(b"%s/%s\0%d\0%d\n" % (name.encode(), *row) for row in rows))
    return digest.hexdigest()
