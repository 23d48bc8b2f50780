"""Take the runs out of a pack into the results folder: each appears, or replaces the one here, in one step."""

import math
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from repro.errors import ConfigError, DataError, InUseError, StorageError
from repro.packing.manifest import FILE_NAME, Pack, PackedRun, Say, iteration_of, read_manifest
from repro.packing.stream import check_parts, contents
from repro.places import shown
from repro.runs import LOCK, NO_EXCHANGE, Run, exchange, file_sha256, locked, read_run, sync, sync_folder


def unpack(folder: Path, results: Path, say: Say) -> None:
    """Put the runs of a pack into a results folder; of a run that is here too the further one stays, ours if equal.

    DataError (3) if the pack is not whole or not admitted, ConfigError (2) if a run contradicts the one that is here,
    InUseError (7), StorageError (5). Nothing is written then, unless the disk fails in the last step.
    """
    pack = read_manifest(folder)
    check_parts(pack)
    for _ in contents(pack):  # all of it, before anything is written
        pass
    with ExitStack() as stack:
        places = {run.name: (results / "runs" / run.name).resolve() for run in pack.runs}
        for name, place in places.items():
            if note := stack.enter_context(locked(place)):
                say(f"{name}: {note}")
            clear(beside(place), place)
        taken = [run for run in pack.runs if is_further(run, read_run(places[run.name]), say)]
        new = {run.name: stack.enter_context(new_folder(beside(places[run.name]))) for run in taken}
        extract(pack, new)
        for run in taken:
            check_record(run, read_run(new[run.name]))
        for run in taken:
            put_in_place(new[run.name], places[run.name])
            say(f"{run.name}: unpacked, {run.status} at iteration {run.iteration}")


def is_further(packed: PackedRun, here: Run, say: Say) -> bool:
    """Whether a packed run is to be taken: none is here, or it is further than the one here. Else says what is kept.

    ConfigError if the two are not the same run, StorageError if what is here can't be read.
    """
    if here.record is None:
        if any(path.name != LOCK for path in here.folder.iterdir()):
            raise StorageError(f"{shown(here.folder)} holds no readable run ({here.problem}); move it away and unpack "
                               "again")
        return True
    if (here.experiment, here.identity, here.seed) != (packed.experiment, packed.identity, packed.seed):
        raise ConfigError(f"{shown(here.folder)} holds a run of {here.experiment}, {here.identity}, seed {here.seed}; "
                          f"the packed one is of {packed.experiment}, {packed.identity}, seed {packed.seed}")
    ours = math.inf if here.finished else iteration_of(here)
    theirs = math.inf if packed.status == "finished" else packed.iteration
    if ours == theirs == math.inf and file_sha256(here.folder / "history.csv") != history_sha256(packed):
        raise ConfigError(f"{shown(here.folder)} is finished and so is the packed run, but their history.csv differ; "
                          "to take the packed one, move ours away")
    if theirs <= ours:
        say(f"{packed.name}: kept as it is here, {here.status} at iteration {iteration_of(here)} (packed: "
            f"{packed.status} at iteration {packed.iteration})")
    return theirs > ours


def history_sha256(packed: PackedRun) -> str:
    """The hash of a packed run's history.csv, '' if it has none."""
    return next((file.sha256 for file in packed.files if file.name == "history.csv"), "")


def beside(place: Path) -> Path:
    """Where a run's folder is made ready, beside the place it goes to; nobody takes it for a run."""
    return place.with_name(f".{place.name}.part")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder that is held by this process, so that it stays held where it is renamed to; deleted in the end."""
    try:
        with locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def extract(pack: Pack, new: dict[str, Path]) -> None:
    """Write the files of these runs into their new folders; StorageError if the disk does not take them."""
    for run, file, content in contents(pack):
        if run.name not in new:
            continue
        path = new[run.name] / file.name
        try:
            path.parent.mkdir(exist_ok=True)
            with path.open("xb") as out:
                for chunk in content:
                    out.write(chunk)
                out.flush()
                sync(out.fileno(), path.parent)
            sync_folder(path.parent)
            sync_folder(new[run.name])
        except OSError as error:
            raise StorageError(f"can't write {shown(path)}: {error.strerror} ({file.bytes} bytes needed)") from error


def check_record(packed: PackedRun, new: Run) -> None:
    """Raise DataError if the record of an unpacked run is not whole or not what the manifest says of it."""
    if new.record is None or new.problem:
        raise DataError(f"{packed.name}: the packed record is not whole: {new.problem}")
    recorded = (new.experiment, new.identity, new.seed, new.status, iteration_of(new))
    if recorded != (packed.experiment, packed.identity, packed.seed, packed.status, packed.iteration):
        raise DataError(f"{packed.name}: the packed record is of another run or state than the manifest says")


def put_in_place(new: Path, place: Path) -> None:
    """Let a new folder take the place of the one that this process holds; nobody ever sees a mixture or nothing.

    StorageError if the file system can't do that and a run is there already.
    """
    try:
        exchange(new, place)
    except OSError as error:
        if error.errno not in NO_EXCHANGE or (place / "run.json").is_file():
            raise StorageError(f"can't put the packed run in the place of {shown(place)}: {error.strerror}; move that "
                               "folder away and unpack again") from error
        move_to_free_place(new, place)
    sync_folder(place.parent)
    clear(new, place)


def move_to_free_place(new: Path, place: Path) -> None:
    """Rename a folder to where there is nothing but our lock; InUseError if another process is quicker."""
    (place / LOCK).unlink(missing_ok=True)
    try:
        new.rename(place)
    except OSError as error:
        raise InUseError(f"{shown(place)}: another process began this run just now ({error.strerror})") from error


def clear(old: Path, place: Path) -> None:
    """Delete a folder made ready or replaced, if it is there; what no pack holds (TensorBoard's files) moves on."""
    if not old.is_dir():
        return
    for path in old.iterdir():
        kept = not (path.name == LOCK or path.name.startswith(".") or FILE_NAME.fullmatch(path.name))
        if kept and not (place / path.name).exists():
            with suppress(OSError):
                path.rename(place / path.name)
    shutil.rmtree(old, ignore_errors=True)
