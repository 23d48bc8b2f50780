"""Class probabilities of a test on disk, so that it can be stopped and go on, and be a part of an ensemble.

NAME.json is the record; NAME.npy holds the probabilities (N, K) float16, NAME.labels.npy the classes (N,) int64; these
two files are never committed. Rows are appended, and count once the record says so.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from repro.config import PAPER_PRECISIONS, flat
from repro.errors import ConfigError, StorageError
from repro.evaluation.predictions import count_errors
from repro.paths import display_path
from repro.runs import file_sha256, read_json, sync, utc_now, write_atomic, write_json

SCHEMA = 1
# Two tests that agree in these are the same test.
SAME = ("schema", "protocol", "experiment", "weights_sha256", "data_fingerprint", "split", "settings", "model",
        "precision", "images", "classes", "wiring_test")
EXACT = {precision.name for precision in PAPER_PRECISIONS}


class SavedProbabilities:
    """The record of a test and its probabilities, while they come in. A context that saves at its end."""

    def __init__(self, path: Path, about: dict[str, Any], labels: np.ndarray, classes: int, fresh: bool = False,
                 any_exact: bool = False):
        """Take up what lies at `path` (without suffix) if it is of the same test, and unless `fresh`; else begin.

        `about` becomes part of the record; `note` then says in a line what was found. A finished test in fp32 or TF32
        answers a request for the other of them with `any_exact`. ConfigError if a finished test of anything else is
        there: it is replaced by `fresh` only.
        """
        self.path, self.labels, self.classes = path, labels, classes
        self.record: dict[str, Any] = {"schema": SCHEMA, **about, "images": len(labels), "classes": classes,
                                       "images_done": 0, "top1_errors": 0, "top5_errors": 0, "finished": False}
        self.note = ""
        found = None if fresh else self.matching_record(any_exact)
        if found is not None and found["finished"]:
            self.record = found
        elif found is not None:
            self.record = found | {"device": with_other(found["device"], about["device"])}
            self.note = f"goes on after {found['images_done']} of {len(labels)} images"

    @property
    def done(self) -> int:
        """Images tested."""
        return int(self.record["images_done"])

    @property
    def finished(self) -> bool:
        """Whether every image is tested."""
        return bool(self.record["finished"])

    def matching_record(self, any_exact: bool) -> dict[str, Any] | None:
        """The record on disk if it is of the same test and its probabilities are there; None, with a note, if not.

        Of a finished test the record is enough, with a note if its probabilities are not as they were. ConfigError for
        a finished test of something else.
        """
        try:
            record = read_record(self.path)
            other = [key for key in SAME if record.get(key) != self.record[key]]
            length = self.length(record["images_done"])
            record["top1_errors"], record["top5_errors"], record["finished"], record["device"]
        except FileNotFoundError:
            return None
        except (StorageError, KeyError, TypeError):
            self.note = f"{display_path(json_path(self.path))} is unreadable; the test begins anew"
            return None
        if record["finished"]:
            if other and not (any_exact and other == ["precision"] and record.get("precision") in EXACT):
                raise ConfigError(f"{display_path(json_path(self.path))} holds a finished test: "
                                  f"{differences(record, self.record, other)}; resume=never replaces it")
            try:
                read_arrays(self.path, record)
            except StorageError as error:
                self.note = f"{error}; the errors of the finished test stand; resume=never tests again"
            return record
        if other:
            self.note = (f"{display_path(json_path(self.path))} is of another test ({', '.join(other)} differ) "
                         "and is replaced")
            return None
        rows = rows_path(self.path)
        if not rows.is_file() or rows.stat().st_size < length:
            self.note = f"{display_path(rows)} lacks rows; the test begins anew"
            return None
        return record

    def __enter__(self) -> "SavedProbabilities":
        write_json(json_path(self.path), self.record)  # first: an old record must not stand beside new rows
        try:
            self.file = rows_path(self.path).open("r+b" if self.done else "w+b")
            self.file.write(self.header())
            self.file.truncate(self.length(self.done))
            self.file.seek(self.length(self.done))
        except OSError as error:
            raise StorageError(f"can't write {display_path(rows_path(self.path))}: {error.strerror}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        with self.file:
            if not self.finished:
                self.save()

    def header(self) -> bytes:
        """The first bytes of the .npy file, as numpy writes them."""
        buffer = BytesIO()
        np.lib.format.write_array_header_1_0(buffer, {"descr": "<f2", "fortran_order": False,
                                                      "shape": (len(self.labels), self.classes)})
        return buffer.getvalue()

    def length(self, rows: int) -> int:
        """Bytes of the file with so many rows."""
        return len(self.header()) + 2 * rows * self.classes

    def add(self, scores: np.ndarray) -> None:
        """Take in the probabilities (B, K) float32 of the next images; errors are counted before they are rounded."""
        begin, end = self.done, self.done + len(scores)
        top1, top5 = count_errors(scores, self.labels[begin:end])
        try:
            self.file.write(scores.astype("<f2").tobytes())
        except OSError as error:
            raise StorageError(f"can't write {display_path(rows_path(self.path))}: {error.strerror}") from error
        self.record |= {"images_done": end, "top1_errors": self.record["top1_errors"] + top1,
                        "top5_errors": self.record["top5_errors"] + top5}

    def save(self) -> None:
        """Make everything up to here last, the rows first."""
        try:
            self.file.flush()
            sync(self.file.fileno(), self.path.parent)
        except OSError as error:
            raise StorageError(f"can't write {display_path(rows_path(self.path))}: {error.strerror}") from error
        write_json(json_path(self.path), self.record)

    def finish(self) -> None:
        """Record the result."""
        images = len(self.labels)
        assert self.done == images
        buffer = BytesIO()
        np.save(buffer, self.labels)
        write_atomic(labels_path(self.path), buffer.getvalue())
        self.save()
        self.record |= {"val_top1_error": 100 * self.record["top1_errors"] / images,
                        "val_top5_error": 100 * self.record["top5_errors"] / images,
                        "probabilities_sha256": file_sha256(rows_path(self.path)),
                        "labels_sha256": file_sha256(labels_path(self.path)), "utc": utc_now(), "finished": True}
        write_json(json_path(self.path), self.record)


def differences(old: dict[str, Any], new: dict[str, Any], keys: Sequence[str]) -> str:
    """What differs in these keys of two records, as 'key: old, now new'."""
    before, now = (flat({key: record.get(key) for key in keys}) for record in (old, new))
    return "; ".join(f"{key}: {before.get(key)}, now {value}" for key, value in now.items()
                     if before.get(key) != value)


def json_path(path: Path) -> Path:
    """The record of a test."""
    return path.with_name(f"{path.name}.json")


def rows_path(path: Path) -> Path:
    """The probabilities of a test."""
    return path.with_name(f"{path.name}.npy")


def labels_path(path: Path) -> Path:
    """The true classes of a test's images."""
    return path.with_name(f"{path.name}.labels.npy")


def read_record(path: Path) -> dict[str, Any]:
    """The record of a test; FileNotFoundError if there is none, StorageError if it is no such record."""
    try:
        record = read_json(json_path(path))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise StorageError(f"{display_path(json_path(path))}: unreadable ({type(error).__name__})") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise StorageError(f"{display_path(json_path(path))}: not the record of a test that this version knows")
    return record


def read_arrays(path: Path, record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, K), mapped, and classes (N,) of a finished test; StorageError if they were changed or lost."""
    for file, key in ((rows_path(path), "probabilities_sha256"), (labels_path(path), "labels_sha256")):
        try:
            changed = file_sha256(file) != record[key]
        except OSError as error:
            raise StorageError(f"{display_path(file)}: {error.strerror}") from error
        except KeyError as error:
            raise StorageError(f"{display_path(json_path(path))} has no {key}") from error
        if changed:
            raise StorageError(f"{display_path(file)} was changed after the test")
    return np.load(rows_path(path), mmap_mode="r"), np.load(labels_path(path))


def with_other(devices: str, device: str) -> str:
    """The names of the devices that took part."""
    return devices if device in devices.split("; ") else f"{devices}; {device}"
