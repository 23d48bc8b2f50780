"""What a run's folder holds before the first update: nothing, a run to go on with, a finished one, or another's."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from repro import runs
from repro.config import config_hash, hashed_settings, paper_hashes, to_dict
from repro.errors import ConfigError, DataError, StorageError
from repro.paths import display_path
from repro.runs import Run, read_history, read_run
from repro.schema import Family, Precision, Resume, RunConfig
from repro.training import checkpoint
from repro.training.distributed import World

logger = logging.getLogger(__name__)


def check_trainable(config: RunConfig) -> None:
    """Raise ConfigError for a network that is here for its imported weights only."""
    if config.model.family is Family.vgg:
        raise ConfigError(f"{config.name}: the paper does not train VGG, and no recipe for it is here; `repro eval "
                          f"experiment={config.name} weights=FILE` tests imported weights")


@contextmanager
def hold_lock(folder: Path, world: World) -> Iterator[None]:
    """Hold the run's folder, in the leader; an error of it is raised in every process."""
    with ExitStack() as stack:
        note = world.from_main(lambda: stack.enter_context(runs.hold_lock(folder)))
        if note:
            logger.warning(f"{display_path(folder)}: {note}")
        yield


def previous_run(folder: Path, config: RunConfig, asked: Precision) -> Run:
    """The earlier run in a folder, if it is this configuration's; put aside first where it is not to go on."""
    if config.resume is Resume.never:
        archive_run(folder)
    earlier = read_run(folder)
    check_same(earlier, config, asked)
    require_checkpoint(earlier)
    if earlier.finished:
        checkpoint.remove_all(folder)
        logger.info(f"{runs.title(config)} is finished: {display_path(folder)} (resume=never runs it again)")
    return earlier


def check_same_data(earlier: Run, sha256: str, done: int, world: World) -> None:
    """Raise DataError where processes have other images, or a run would go on with others than it began with."""
    found = world.all_gather_object(sha256)
    if len(set(found)) > 1:
        raise DataError("the processes do not have the same images: fingerprints "
                        + ", ".join(f"{one[:12]} in process {rank}" for rank, one in enumerate(found)))
    before = (earlier.record or {}).get("data", {}).get("sha256", sha256)
    if done and before != sha256:
        raise DataError(f"{display_path(earlier.folder)}: trained on another set of images until iteration {done} "
                        f"(fingerprint {before[:12]}, now {sha256[:12]}); put the images back, or resume=never starts "
                        "over")


def changed_surroundings(before: dict[str, Any], now: dict[str, Any] | None = None) -> str:
    """In what surroundings two sessions of a run differ, in words (a CPU's name tells its threads); '' for none."""
    keys = ("device", "python", "torch", "torchvision", "numpy", "commit")
    return "; ".join(f"{key} {before[key]} until now, {now[key]} from here on" for key in keys
                     if now and before.get(key) is not None and before[key] != now.get(key))


def previous_evaluations(folder: Path, evaluated_on: str, done: int) -> list[tuple[int, float]]:
    """(iteration, error in percent) of the tests up to this iteration, as recorded."""
    return [(int(row["iteration"]), row[f"{evaluated_on}_top1_error"]) for row in read_history(folder / "history.csv")
            if row["iteration"] <= done]


def check_same(earlier: Run, config: RunConfig, asked: Precision) -> None:
    """Raise ConfigError if the folder holds another configuration's run.

    Only fp32 and TF32 share a folder: a finished run in either answers a request that left the precision open.
    """
    if earlier.record is None:
        return
    if earlier.seed != config.seed:
        raise ConfigError(f"{display_path(earlier.folder)} holds the run of seed {earlier.seed}, not {config.seed}; "
                          "resume=never puts it aside")
    if earlier.identity == config_hash(config):
        return
    known = paper_hashes(config.name)
    if earlier.finished and asked is Precision.auto and {earlier.identity, config_hash(config)} <= known:
        return
    raise ConfigError(f"{display_path(earlier.folder)} holds a run of another configuration: "
                      + difference_text(hashed_settings(earlier.record["config"]), hashed_settings(to_dict(config)))
                      + "; go on with the recorded one, take another seed or results=FOLDER, or resume=never")


def require_checkpoint(earlier: Run) -> None:
    """Raise StorageError where a run has come far and nothing is left to go on from: never silently from scratch."""
    if checkpoint.list_checkpoints(earlier.folder) or earlier.finished or earlier.status == "diverged":
        return
    begun = earlier.record.get("iteration", 0) > 0 if earlier.record else bool(earlier.history())
    if begun:
        raise StorageError(f"{display_path(earlier.folder)}: {earlier.problem or 'its checkpoints are gone'}; "
                           "resume=never puts it aside and starts over")


def difference_text(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The keys in which two configurations differ, as 'key: old, now new'."""
    return "; ".join(f"{key}: {old.get(key)}, now {new.get(key)}" for key in sorted(old.keys() | new.keys())
                     if old.get(key) != new.get(key)) or "an older form of this one"


def archive_run(folder: Path) -> None:
    """Move what an earlier run left in a folder into `<folder>.old-<k>` beside it."""
    content = [path for path in folder.iterdir() if not path.name.startswith(runs.LOCK)]
    if not content:
        return
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    aside.mkdir()
    for path in content:
        path.rename(aside / path.name)
    logger.info(f"resume=never: the earlier run is now in {display_path(aside)}")
