"""The classes of ImageNet's validation images where these lie in one folder, as published. Never imports torch.

Read is, in the data set's folder, the solution of the Kaggle competition, or else a text file with one wnid a line in
the order of the images' numbers.
"""

import codecs
import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

from repro.errors import DataError, StorageError
from repro.paths import display_path

SOLUTION = "LOC_val_solution.csv"
LISTS = ("val_labels.txt", "imagenet_2012_validation_synset_labels.txt")
ACCEPTED = f"{SOLUTION} (Kaggle's), or {LISTS[0]} with one wnid a line"
IMAGE = re.compile(rb"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)
WNID = re.compile(r"n\d{8}")
LIMIT = 1 << 26  # bytes of a file of labels


def validation_wnids(root: Path) -> tuple[Path, list[str]]:
    """The file that was read, and the wnid of each validation image in the order of their numbers, from 1 on.

    DataError if there is none or it can't be understood, StorageError if it can't be opened.
    """
    for name, read in ((SOLUTION, solution_wnids), *((name, listed_wnids) for name in LISTS)):
        if (root / name).is_file():
            return root / name, understood(root / name, read)
    raise DataError(f"the validation images in {display_path(root / 'val')} are not in folders of their classes, and "
                    f"their labels are not in {display_path(root)}: put there {ACCEPTED}")


def understood(path: Path, read: Callable[[bytes], list[str]]) -> list[str]:
    """What `read` makes of a file, all of it wnids; DataError if it can't. A byte order mark is no label."""
    try:
        wnids = read(content_of(path).removeprefix(codecs.BOM_UTF8))
        wrong = next((wnid for wnid in wnids if not WNID.fullmatch(wnid)), None)
        if wrong is not None:
            raise ValueError(f"{wrong[:40]!r} is no wnid such as n01440764")
    except (ValueError, IndexError, KeyError, csv.Error) as error:
        raise DataError(f"{display_path(path)}: labels of validation images can't be read from it ({error}); expected "
                        f"is one of {ACCEPTED}") from error
    return wnids


def solution_wnids(content: bytes) -> list[str]:
    """From Kaggle's table: ImageId, and PredictionString that begins with the class's wnid; in any order."""
    rows = sorted((row["ImageId"] or "", (row["PredictionString"] or "").split()[0])
                  for row in csv.DictReader(io.StringIO(content.decode())))
    for number, (name, _) in enumerate(rows, 1):
        if name != f"ILSVRC2012_val_{number:08d}":
            raise ValueError(f"image {number} is missing or there twice")
    return [wnid for _, wnid in rows]


def listed_wnids(content: bytes) -> list[str]:
    """One wnid a line."""
    return content.decode().split()


def content_of(path: Path) -> bytes:
    """A file's content, of which labels are a few megabytes. StorageError if it can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(LIMIT)
    except OSError as error:
        raise StorageError(f"can't read {display_path(path)}: {error.strerror}") from error
