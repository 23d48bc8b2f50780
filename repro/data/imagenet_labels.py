"""The classes of ImageNet's validation images where these lie in one folder, as published. Never imports torch.

Read are, in this order, below the data set's folder: the development kit (unpacked, its archive, or its two files), the
solution of the Kaggle competition, or a text file with one wnid a line in the order of the images' numbers.
"""

import codecs
import csv
import io
import re
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

from repro.data.matlab import read_structures
from repro.errors import DataError, StorageError
from repro.places import shown

KIT = "ILSVRC2012_devkit_t12"
TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
SOLUTION = "LOC_val_solution.csv"
LISTS = ("val_labels.txt", "imagenet_2012_validation_synset_labels.txt")
ACCEPTED = f"{KIT}/ or {KIT}.tar.gz, {TRUTH} and {META}, {SOLUTION}, or {LISTS[0]} with one wnid a line"
IMAGE = re.compile(rb"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)
WNID = re.compile(r"n\d{8}")
LIMIT = 1 << 26  # bytes of a file of labels


def validation_wnids(root: Path) -> tuple[Path, list[str]]:
    """The file that was read, and the wnid of each validation image in the order of their numbers, from 1 on.

    DataError if there is none or it can't be understood, StorageError if it can't be opened.
    """
    for folder in (root / KIT / "data", root / KIT, root):
        if (folder / TRUTH).is_file() and (folder / META).is_file():
            return folder / TRUTH, understood(folder / TRUTH, kit_wnids, content_of(folder / TRUTH),
                                              content_of(folder / META))
    archive = root / f"{KIT}.tar.gz"
    if archive.is_file():
        return archive, understood(archive, kit_wnids, *archived(archive, TRUTH, META))
    for name, read in ((SOLUTION, solution_wnids), *((name, listed_wnids) for name in LISTS)):
        if (root / name).is_file():
            return root / name, understood(root / name, read, content_of(root / name))
    raise DataError(f"the validation images in {shown(root / 'val')} are not in folders of their classes, and their "
                    f"labels are not in {shown(root)}: put there {ACCEPTED}")


def understood(path: Path, read: Callable[..., list[str]], *contents: bytes) -> list[str]:
    """What `read` makes of these contents, all of them wnids; DataError if it can't. A byte order mark is no label."""
    try:
        wnids = read(*(content.removeprefix(codecs.BOM_UTF8) for content in contents))
        wrong = next((wnid for wnid in wnids if not WNID.fullmatch(wnid)), None)
        if wrong is not None:
            raise ValueError(f"{wrong[:40]!r} is no wnid such as n01440764")
    except (ValueError, IndexError, KeyError, csv.Error) as error:
        raise DataError(f"{shown(path)}: labels of validation images can't be read from it ({error}); expected is one "
                        f"of {ACCEPTED}") from error
    return wnids


def kit_wnids(truth: bytes, meta: bytes) -> list[str]:
    """From the development kit: a line for each image with the ILSVRC2012_ID of its class, and the table of classes."""
    wnids = {int(row["ILSVRC2012_ID"] or 0): str(row["WNID"]) for row in read_structures(meta)}
    numbers = [int(line) for line in truth.split()]
    unknown = sorted(set(numbers) - wnids.keys())
    if unknown:
        raise ValueError(f"{META} has no class {unknown[0]}")
    return [wnids[number] for number in numbers]


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
        raise StorageError(f"can't read {shown(path)}: {error.strerror}") from error


def archived(path: Path, *names: str) -> list[bytes]:
    """The contents of the files of these names in the development kit's archive. DataError if it is not whole."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name in names and (file := archive.extractfile(member)) is not None:
                    found[name] = file.read(LIMIT)
                if len(found) == len(names):
                    break
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{shown(path)}: the archive can't be read ({error}); download it again") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{shown(path)}: the archive has no {' and no '.join(missing)}; download it again")
    return [found[name] for name in names]
