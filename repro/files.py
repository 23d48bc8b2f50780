"""Files: atomic writes, JSON and CSV that may be torn, and the lock of a folder. Never imports torch."""

import csv
import errno
import fcntl
import hashlib
import io
import json
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from repro.errors import InUseError, StorageError
from repro.paths import display_path, escape

LOCK = "run.lock"
_held: dict[Path, str] = {}  # the folders that this process holds, and what it wrote into their locks


def open_plain(path: Path) -> io.BufferedReader:
    """A file to read. OSError as `open`, and for a pipe or device, which might be waited for without end."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "no plain file", str(path))
    return file


def read_json(path: Path) -> Any:
    """What a plain file of JSON holds; OSError if it can't be read, ValueError if it holds anything else."""
    with open_plain(path) as file:
        try:
            return msgspec.json.decode(file.read())
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(str(error)) from error


def read_object(path: Path) -> dict[str, Any]:
    """What a file of JSON holds; {} if it is missing, torn or no mapping."""
    with suppress(OSError, ValueError):
        if isinstance(content := read_json(path), dict):
            return content
    return {}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file of any size, as hexadecimal digits."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_history(path: Path) -> list[dict[str, float]]:
    """A CSV of numbers as dicts; [] if there is none; it ends before the first line that is not whole."""
    result = []
    with suppress(TypeError, ValueError):
        for row in read_rows(path):
            result.append({key: float(value) for key, value in row.items()})
    return result


def read_rows(path: Path) -> list[dict[str, str]]:
    """A CSV as dicts of text, without a torn last line; [] if there is none, or a damaged one."""
    if path.is_file():
        with open_plain(path) as file, suppress(csv.Error):
            text = file.read().decode("utf-8", errors="replace")
            return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))
    return []


@contextmanager
def storage_errors(path: Path, size: int = 0) -> Iterator[None]:
    """An OSError becomes a StorageError that names the file and, of a full disk, the bytes that are needed and free."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        need = f" ({size} bytes needed, {shutil.disk_usage(path.parent).free} free)" if full else ""
        raise StorageError(f"can't write {display_path(path)}: {error.strerror}{need}") from error


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that it is either the old or the new one, also after a power cut. StorageError if it can't."""
    payload = data.encode() if isinstance(data, str) else data
    # In a folder that is held nobody else writes: what a killed process left half written is written over. If such a
    # folder is gone, it is not made anew.
    held = is_held(path.parent)
    part = path.with_name(f".{path.name}.part" if held else f".{path.name}.{secrets.token_hex(4)}.part")
    with storage_errors(path, len(payload)):
        if not held:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise


def append_text(path: Path, text: str) -> None:
    """Append to a file so that it survives a power cut; StorageError if that fails."""
    is_held(path.parent)
    with storage_errors(path, len(text)), path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, readable by people."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def utc_now() -> str:
    """Now in ISO form, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def duration(seconds: float | None) -> str:
    """Seconds in words: 45 s, 12 min, 3.4 h, 2.5 days; '?' where nothing was measured."""
    if seconds is None:
        return "?"
    for least, unit, length in ((48 * 3600, "days", 86400), (90 * 60, "h", 3600), (90, "min", 60)):
        if seconds >= least:
            return f"{seconds / length:.{0 if unit == 'min' else 1}f} {unit}"
    return f"{seconds:.0f} s"


@contextmanager
def hold_lock(folder: Path) -> Iterator[str | None]:
    """Hold a run folder for this process, whose death frees it; InUseError (exit 7) while another process holds it.

    Yields a note if it took over a lock. On this machine the kernel's lock decides, between machines what is written.
    """
    from filelock import FileLock, Timeout  # late: every command imports this module

    path = folder / LOCK
    with ExitStack() as stack:
        with storage_errors(path):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path, fallback_to_soft=False)
            with suppress(Timeout):
                stack.enter_context(lock.acquire(1.0))  # in which what a killed process had started lets go
            before = read_object(path)
            if not lock.is_locked or (before and before.get("host") != socket.gethostname()):
                advice = f"; if that process is gone, delete {path}" if lock.is_locked else ""
                pid, host, since = (escape(str(before.get(key, "?"))) for key in ("pid", "host", "since"))
                raise InUseError(f"{display_path(folder)}: this run is in progress by pid {pid} on {host} since "
                                 f"{since}{advice}")
            text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": utc_now()})
            path.write_text(text, encoding="utf-8")
        _held[folder] = text
        try:
            yield f"took over the lock of pid {before.get('pid')}, which is gone" if before else None
        finally:
            del _held[folder]
            with suppress(OSError):  # if an error is on its way, it is the one to know
                if path.read_text(encoding="utf-8") == text:
                    path.unlink()
                folder.rmdir()  # leave no empty folders behind a run that never began
                folder.parent.rmdir()


def is_held(folder: Path) -> bool:
    """Whether this process holds a folder, or one around it; StorageError if it has lost it."""
    held = [one for one in _held if folder in (one, one.parent)]
    for one in held:
        if read_object(one / LOCK) != json.loads(_held[one]):  # it was moved, or its lock deleted and taken by another
            raise StorageError(f"{display_path(one)}: its {LOCK} is no longer this process's: the folder was moved or "
                               "removed, or that file was. Nothing was written since")
    return bool(held)


def holder(folder: Path) -> dict[str, Any] | None:
    """Who holds a folder now, as far as its lock tells; None if nobody."""
    owner = read_object(folder / LOCK)
    if owner.get("host") == socket.gethostname():
        with suppress(OSError), (folder / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None  # the kernel would not give it while its holder lives
    return owner or None
