"""Files: atomic writes, JSON and CSV that may be torn, and the lock of a folder. Never imports torch."""

import csv
import ctypes
import errno
import functools
import glob
import hashlib
import io
import json
import os
import secrets
import shutil
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from repro.errors import InUseError, StorageError
from repro.paths import display_path

LOCK = "run.lock"
LET_GO_SECONDS = 1.0  # in which what a killed process had started lets go of its lock
LEFT_SECONDS = 3600.0  # Choice: after which a half-written file is of a process that was killed
RENAME_EXCHANGE = RENAME_SWAP = 2  # linux/fs.h; macOS sys/stdio.h
AT_FDCWD = -100  # linux/fcntl.h
NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV)
# What a file system answers that has no locks, or can't bring a folder to its disk.
UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF}
_held: set[Path] = set()  # the folders that this process holds


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
        text = file.read()
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def read_object(path: Path) -> dict[str, Any]:
    """What a file of JSON holds; {} if it is missing, torn or no mapping."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file of any size, as hexadecimal digits."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_history(path: Path) -> list[dict[str, float]]:
    """A CSV of numbers as dicts; [] if there is none; it ends before the first line that is not whole."""
    result = []
    for row in read_rows(path):
        try:
            result.append({key: float(value) for key, value in row.items()})
        except (TypeError, ValueError):
            break
    return result


def read_rows(path: Path) -> list[dict[str, str]]:
    """A CSV as dicts of text; [] if there is none; a torn last line and whatever follows damage is dropped."""
    if not path.is_file():
        return []
    with open_plain(path) as file:
        text = file.read().decode("utf-8", errors="replace")
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    found = []
    with suppress(csv.Error):  # a field that is too long
        for row in rows:
            found.append(row)
    return found


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that it is either the old or the new one, also after a power cut. StorageError if it can't.

    Of two processes that write it at once one has its way. Its folder is made, but never again while this process
    holds it (`hold_lock`).
    """
    payload = data.encode() if isinstance(data, str) else data
    held = check_held(path.parent)
    part = temporary_path(path)
    try:
        if not held:
            path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            file.write(payload)
            file.flush()
            sync(file.fileno(), path.parent)
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise write_problem(path, len(payload), error) from error


def append_text(path: Path, text: str) -> None:
    """Append to a file so that it survives a power cut; StorageError if that fails, InUseError as of `check_held`."""
    check_held(path.parent)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            sync(file.fileno(), path.parent)
    except OSError as error:
        raise write_problem(path, len(text.encode()), error) from error


def temporary_path(path: Path) -> Path:
    """A name that nobody else has, beside a path, for what will take its place; what killed writers left there goes."""
    for old in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > LEFT_SECONDS:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def write_problem(path: Path, size: int, error: OSError) -> StorageError:
    """What to say where so many bytes could not be written; a disk or quota that is full with what is free."""
    free = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with suppress(OSError):
            free = f", {shutil.disk_usage(path.parent).free} free"
    return StorageError(f"can't write {display_path(path)}: {error.strerror} ({size} bytes needed{free})")


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync(descriptor, folder)
    finally:
        os.close(descriptor)


def sync(descriptor: int, folder: Path) -> None:
    """Bring a file of this folder, or the folder itself, to the disk; where its file system can't, that is said."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        say_once(f"{display_path(folder)}: its file system can't be told to write at once ({error.strerror}): what was "
                 "written last may be lost in a power cut")


@functools.cache
def say_once(text: str) -> None:
    """Print a line on standard error that nobody needs twice."""
    print(text, file=sys.stderr, flush=True)


def exchange(left: Path, right: Path) -> None:
    """Swap two folders in one step of the kernel. OSError where the system or its file system can't."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(left), os.fsencode(right)
    try:
        if sys.platform == "darwin":
            failed = libc.renamex_np(*names, RENAME_SWAP)
        else:
            failed = libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)
    except AttributeError:  # a C library without this function
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, readable by people."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def utc_now() -> str:
    """Now in ISO form, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def hold_lock(folder: Path) -> Iterator[str | None]:
    """Hold a run folder for this process, whose death frees it; yields a note if a dead process's lock was taken over.

    Raises InUseError (exit 7) while another process, here or on another host, holds it.
    """
    from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout  # late: every command imports this module

    path, kernel = folder / LOCK, True
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock: BaseFileLock = FileLock(path, fallback_to_soft=False)
            try:
                stack.enter_context(lock.acquire(LET_GO_SECONDS))
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                say_once(f"{display_path(folder)}: its file system can't lock files ({error.strerror}): two processes "
                         "that begin there at the same moment are not surely kept apart")
                lock, kernel = SoftFileLock(folder / f"{LOCK}.soft"), False
                stack.enter_context(lock.acquire(LET_GO_SECONDS))
            before = read_object(path)
            if before and not is_gone(before, kernel):
                raise InUseError(f"{in_use_message(folder, before)}; if that machine is gone, delete {path}")
            try:
                path.write_text(json.dumps({**process(os.getpid()), "since": utc_now()}), encoding="utf-8")
            except OSError:
                path.unlink()
                raise
        except Timeout:
            raise InUseError(in_use_message(folder, read_object(path))) from None
        except OSError as error:
            raise StorageError(f"can't write {display_path(path)}: {error.strerror}") from error
        _held.add(folder)
        try:
            yield f"took over the lock of pid {before.get('pid')}, which is gone" if before else None
        finally:
            _held.discard(folder)
            with suppress(OSError):  # if an error is on its way, it is the one to know
                if is_ours(path):
                    path.unlink()
                folder.rmdir()  # leave no empty folders behind a run that never began
                folder.parent.rmdir()


def check_held(folder: Path) -> bool:
    """Whether this process holds a folder, or a lock in it.

    Where it has lost it, what it would write appears in another folder, or between what others write: StorageError (5)
    if the lock is gone, with its folder or alone; InUseError (7) if another process has it.
    """
    holds = [held for held in _held if folder in (held, held.parent)]
    for held in holds:
        if not (held / LOCK).is_file():
            raise StorageError(f"{display_path(held)}: its {LOCK} is gone in mid-run: the folder was moved, removed or "
                               "unmounted, or that file was deleted. Nothing was written since; what this run has "
                               "written must be back there before it goes on")
        if not is_ours(held / LOCK):
            raise InUseError(f"{in_use_message(held, read_object(held / LOCK))}; the {LOCK} of this one was deleted, "
                             "and it has written nothing since")
    return bool(holds)


def is_ours(path: Path) -> bool:
    """Whether this process has written a lock."""
    return process(os.getpid()).items() <= read_object(path).items()


def holder(folder: Path) -> dict[str, Any] | None:
    """Who holds a folder now, as far as its lock tells; None if nobody."""
    owner = read_object(folder / LOCK)
    return owner if owner and not is_gone(owner) else None


def is_gone(owner: dict[str, Any], kernel: bool = False) -> bool:
    """Whether the process that a lock names has surely ended; of one on another machine nobody can tell.

    kernel: whether we have the kernel's lock on the file, which it would have if it lived on this machine.
    """
    here = process(os.getpid())
    same_host = bool(owner.get("host") == here["host"])
    if owner.get("boot") != here["boot"] or (here["boot"] is None and not same_host):
        return same_host and owner.get("machine") == here["machine"] is not None  # booted since
    if kernel:
        return True
    pid = owner.get("pid")
    if owner.get("namespace") != here["namespace"] or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return owner.get("began") != start_of_process(pid)  # another one has its number by now


def in_use_message(folder: Path, owner: dict[str, Any]) -> str:
    """One line that says who holds a run folder."""
    return (f"{display_path(folder)}: this run is in progress by pid {owner.get('pid', '?')} "
            f"on {owner.get('host', '?')} since {owner.get('since', '?')}")


@functools.cache
def process(pid: int) -> dict[str, Any]:
    """A process of this machine, so that another one can tell whether it still lives; None for what can't be known."""
    namespace = None
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return {"pid": pid, "host": socket.gethostname(), "machine": read_small_file("/etc/machine-id"),
            "namespace": namespace,
            "boot": read_small_file("/proc/sys/kernel/random/boot_id"), "began": start_of_process(pid)}


def read_small_file(path: str) -> str | None:
    """What a small file of the system says; None if it is not there."""
    with suppress(OSError, ValueError):
        return Path(path).read_text(encoding="utf-8").strip() or None
    return None


def start_of_process(pid: int) -> str | None:
    """When a process began, in the kernel's ticks since it was booted itself (proc(5), field 22)."""
    stat = read_small_file(f"/proc/{pid}/stat")
    return stat.rpartition(")")[2].split()[19] if stat else None
