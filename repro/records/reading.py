"""Read the folder of a record that comes from elsewhere: known plain files of a limited size, as JSON, YAML or CSV.

No link is followed, nothing outside the folder is opened, no object is made but texts, numbers, lists and mappings.
"""

import errno
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from repro.checks import FAIL, CheckResult
from repro.errors import ConfigError, StorageError
from repro.paper import PROTOCOLS, UniqueKeyLoader
from repro.paths import display_path
from repro.publishing import EXTRA_FILES, PUBLISHED_FILES
from repro.wording import escape

Problems = Iterator[tuple[str, str]]  # FAIL or WARNING, and the text
LONGEST, LONGEST_VALUE = 600, 60  # characters that are shown of a problem, and of a recorded value in it
TESTS = "evaluations"
KNOWN = (*PUBLISHED_FILES, *EXTRA_FILES, *(f"{TESTS}/{protocol}.json" for protocol in PROTOCOLS))
# Choice: bytes; many times what a run of the paper's longest schedule writes.
LIMITS = {"config.yaml": 2**15, "run.json": 2**21, TESTS: 2**17}
CSV_LIMIT = 2**23
MOST_ENTRIES = 100  # Choice: of a folder; a record has at most seven
DEEPEST = 12  # Choice: levels of lists and mappings; a record has four
LARGEST = 2**63  # of whole numbers
HEAVY = re.compile(r".*\.(pt|pth|ckpt|bin|pkl|pickle|npy|npz|safetensors|tar|gz|zip)(\.\d+)?|checkpoint.*|tensorboard",
                   re.IGNORECASE)
NUMBER = re.compile(r"-?\d{1,400}(\.\d{1,400})?(e[+-]?\d{1,4})?", re.ASCII)  # as the recorder writes it
LONGEST_LINE = 1000  # characters of a CSV
CODE = re.compile(r"_\w+_")  # _target_, _partial_, _args_, ...: what Hydra would call, and how


class Refused(Exception):
    """A file or value of a record that can't be what it should be; the message says why."""


def make_result(check: str, status: str, text: str) -> CheckResult:
    """A result whose text is safe to print: the record comes from elsewhere."""
    return CheckResult(check, status, cut(escape(text), LONGEST))


def cut(text: str, longest: int = LONGEST_VALUE) -> str:
    """The text, or its beginning with dots."""
    return text if len(text) <= longest else f"{text[:longest]}..."


def format_value(value: Any) -> str:
    """A recorded value for a message."""
    return cut(repr(value))


def read_folder(folder: Path) -> tuple[dict[str, bytes], list[tuple[str, str]]]:
    """The known files of a record and what is wrong with the others.

    ConfigError (2) if there is no such folder, StorageError (5) if it or a file of it can't be read.
    """
    try:
        mode = folder.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise ConfigError(f"{display_path(folder)}: no such folder") from error
    except OSError as error:
        raise StorageError(f"can't read {display_path(folder)}: {error.strerror}") from error
    if stat.S_ISLNK(mode):
        return {}, [(FAIL, "the folder is a symbolic link; give the folder itself")]
    if not stat.S_ISDIR(mode):
        raise ConfigError(f"{display_path(folder)}: no folder, but a record is one")
    files: dict[str, bytes] = {}
    problems = list(read_entries(folder, "", files))
    there = {name for name in KNOWN if os.path.lexists(folder / name)}
    problems += [(FAIL, f"{name} is missing") for name in PUBLISHED_FILES if name not in there]
    return files, problems


def read_entries(folder: Path, prefix: str, files: dict[str, bytes]) -> Problems:
    """Read the known files of a folder into `files`; what is wrong with its entries."""
    for entry in list_folder(folder):
        name = f"{prefix}{entry.name}"
        if entry.is_symlink():
            yield FAIL, f"{format_value(name)} is a symbolic link; a record has none"
        elif HEAVY.fullmatch(entry.name):
            yield FAIL, (f"{format_value(name)} is no part of a record and was not opened; send the record without "
                          "weights, checkpoints and arrays (`repro publish` copies what belongs to it)")
        elif entry.is_dir(follow_symlinks=False) and name == TESTS:
            yield from read_entries(folder / TESTS, f"{TESTS}/", files)
        elif name not in KNOWN:
            yield FAIL, f"{format_value(name)} is no file of a record; those are {', '.join(KNOWN)}"
        else:
            try:
                files[name] = read_file(folder / entry.name, LIMITS.get(prefix.rstrip("/") or name, CSV_LIMIT))
            except Refused as refused:
                yield FAIL, f"{name}: {refused}"


def list_folder(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder by name; StorageError if it can't be listed or has very many."""
    found: list[os.DirEntry[str]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                found.append(entry)
                if len(found) > MOST_ENTRIES:
                    raise StorageError(f"{display_path(folder)} has more than {MOST_ENTRIES} entries: no record")
    except OSError as error:
        raise StorageError(f"can't read {display_path(folder)}: {error.strerror}") from error
    return sorted(found, key=lambda entry: entry.name)


def read_file(path: Path, limit: int) -> bytes:
    """The content of a plain file of at most so many bytes. Refused if it is anything else, StorageError if unreadable.

    A pipe or device that stands in its place is never waited for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise Refused("no plain file") from error
        raise StorageError(f"can't read {display_path(path)}: {error.strerror}") from error
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_size > limit:
        os.close(descriptor)
        raise Refused("no plain file" if not stat.S_ISREG(facts.st_mode) else
                      f"{facts.st_size} bytes; a record's has at most {limit}, so it was not read")
    try:
        with os.fdopen(descriptor, "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise StorageError(f"can't read {display_path(path)}: {error.strerror}") from error


def text_of(data: bytes) -> str:
    """Bytes as UTF-8; Refused if they are none."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"no UTF-8 ({error.reason} at byte {error.start})") from error


def json_of(data: bytes) -> dict[str, Any]:
    """A JSON object without NaN, keys given twice, instructions for Hydra or anything endless; Refused otherwise."""
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [key for key, _ in pairs]
            raise Refused(f"key {format_value(next(key for key in names if names.count(key) > 1))} is given twice")
        return found

    def no_number(name: str) -> Any:
        raise Refused(f"{name} is no finite number")

    try:
        value = json.loads(text_of(data), object_pairs_hook=once, parse_constant=no_number)
    except RecursionError as error:
        raise Refused("nested too deeply") from error
    except ValueError as error:
        raise Refused(f"no JSON ({error})") from error
    return plain_mapping(value)


def yaml_of(data: bytes) -> dict[str, Any]:
    """A YAML mapping without tags, anchors and aliases, held to what `json_of` holds JSON to; Refused otherwise."""
    text = text_of(data)
    try:
        check_events(text)
        value = yaml.load(text, UniqueKeyLoader)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        raise Refused(f"no YAML that a record may have ({' '.join(str(error).split())})") from error
    return plain_mapping(value)


def check_events(text: str) -> None:
    """Refused for YAML that would grow, nest or make objects when it is loaded."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise Refused("anchors and aliases (& and *) are not admitted: they can grow without end")
        if (tag := getattr(event, "tag", None)) is not None:
            raise Refused(f"tag {format_value(tag)} is not admitted: a record has plain values only")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise Refused("nested too deeply")


def plain_mapping(value: Any) -> dict[str, Any]:
    """The value, if it is a mapping of texts to plain finite values and asks nothing of Hydra; Refused otherwise."""
    if not isinstance(value, dict):
        raise Refused("no mapping of keys to values")
    for path, inner in walk(value):
        key = path[-1]
        if isinstance(key, str) and CODE.fullmatch(key):
            raise Refused(f"{dotted_path(path)}: a key of Hydra's that could run code; a record has settings and "
                          "numbers only")
        if isinstance(inner, str) and "${" in inner:
            raise Refused(f"{dotted_path(path)}: {format_value(inner)} is an interpolation; a record has plain values "
                          "only")
        if isinstance(inner, float) and not math.isfinite(inner):
            raise Refused(f"{dotted_path(path)}: {inner} is no finite number")
        if isinstance(inner, int) and abs(inner) >= LARGEST:
            raise Refused(f"{dotted_path(path)}: a whole number of more than 63 bits")
        if inner is not None and not isinstance(inner, (str, int, float, dict, list)):
            raise Refused(f"{dotted_path(path)}: {format_value(inner)} is no text, number, list or mapping")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Refused("a text that is no Unicode") from error
    return value


def walk(value: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value inside nested lists and mappings with its path; Refused where they are too deep."""
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), value)]
    while waiting:
        path, inner = waiting.pop()
        if path:
            yield path, inner
        if isinstance(inner, (dict, list)) and len(path) > DEEPEST:
            raise Refused(f"{dotted_path(path)}: nested too deeply")
        if isinstance(inner, list):
            waiting += [((*path, number), entry) for number, entry in enumerate(inner)]
        elif isinstance(inner, dict):
            for key, entry in inner.items():
                if not isinstance(key, str):
                    raise Refused(f"key {format_value(key)} is no text")
                waiting.append(((*path, key), entry))


def dotted_path(path: Sequence[Any]) -> str:
    """A path as data.root."""
    return ".".join(str(part) for part in path)


def csv_rows(data: bytes, columns: Sequence[str], texts: Sequence[str] = (),
            whole: Sequence[str] = ("iteration",)) -> list[dict[str, Any]]:
    """The rows of a CSV with these columns: finite numbers, `whole` ones, and `texts`; Refused at the first other one.

    No quotes: no record has any.
    """
    text = text_of(data)
    if not text.endswith("\n"):
        raise Refused("its last line is torn")
    lines = text[:-1].split("\n")
    if max(map(len, lines)) > LONGEST_LINE:
        raise Refused(f"a line of more than {LONGEST_LINE} characters")
    if lines[0].split(",") != list(columns):
        raise Refused(f"its first line is {format_value(lines[0])}, not {','.join(columns)}")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        cells = line.split(",")
        if len(cells) != len(columns):
            raise Refused(f"line {number} has {len(cells)} cells, not {len(columns)}")
        rows.append({name: cell if name in texts else number_of(cell, name in whole, f"line {number}: {name}")
                     for name, cell in zip(columns, cells, strict=True)})
    if not rows:
        raise Refused("no line below the first")
    return rows


def number_of(cell: str, whole: bool, where: str) -> float | int:
    """A cell as a finite number, as Python writes it; Refused otherwise."""
    if whole:
        if not re.fullmatch(r"[0-9]{1,12}", cell):
            raise Refused(f"{where} {format_value(cell)} is no whole number")
        return int(cell)
    value = float(cell) if NUMBER.fullmatch(cell) else math.nan
    if not math.isfinite(value):
        raise Refused(f"{where} {format_value(cell)} is no finite number")
    return value
