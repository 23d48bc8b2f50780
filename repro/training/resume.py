"""What to do with what lies in a run's folder: nothing yet, a run to go on with, a finished one, or another's."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from repro import files
from repro.config import ADDED_LATER, ANY, REMOVED, difference, paper_hashes, settings
from repro.errors import ConfigError, DataError, StorageError
from repro.paths import display_path
from repro.runs import Run, read_run
from repro.schema import Precision, Resume, RunConfig
from repro.training import checkpoint
from repro.training.distributed import World
from repro.training.plan import Plan
from repro.training.step import TrainStep

logger = logging.getLogger(__name__)


@contextmanager
def hold_lock(folder: Path, world: World) -> Iterator[None]:
    """Hold the run's folder, in process 0; an error of it is raised in every process."""
    with ExitStack() as stack:
        note = world.from_main(lambda: stack.enter_context(files.hold_lock(folder)))
        if note:
            logger.warning(f"{display_path(folder)}: {note}")
        yield


def previous_run(plan: Plan) -> Run:
    """The earlier run in a folder, if it is this configuration's; put aside first where it is not to go on.

    StorageError where it has come far and nothing is left to go on from: never silently from scratch.
    """
    if plan.config.resume is Resume.never:
        archive_run(plan.folder)
    earlier = read_run(plan.folder)
    check_same(earlier, plan)
    came_far = earlier.record.iteration > 0 if earlier.record else bool(earlier.history())
    if earlier.finished:
        checkpoint.remove_all(plan.folder)
        logger.info(f"{plan.title} is finished: {display_path(plan.folder)} (resume=never runs it again)")
    elif came_far and earlier.status != "diverged" and not checkpoint.list_checkpoints(plan.folder):
        raise StorageError(f"{display_path(plan.folder)}: {earlier.problem or 'its checkpoints are gone'}; "
                           "resume=never puts it aside and starts over")
    return earlier


def archive_run(folder: Path) -> None:
    """Move what an earlier run left in a folder into `<folder>.old-<k>` beside it."""
    content = [path for path in folder.iterdir() if not path.name.startswith(files.LOCK)]
    if not content:
        return
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    aside.mkdir()
    for path in content:
        path.rename(aside / path.name)
    logger.info(f"resume=never: the earlier run is now in {display_path(aside)}")


def check_same(earlier: Run, plan: Plan) -> None:
    """Raise ConfigError if the folder holds another configuration's run.

    Only fp32 and TF32 share a folder: a finished run in either answers a request that left the precision open.
    """
    if earlier.record is None:
        return
    if earlier.seed != plan.config.seed:
        raise ConfigError(f"{display_path(earlier.folder)} holds the run of seed {earlier.seed}, not "
                          f"{plan.config.seed}; resume=never puts it aside")
    answers = earlier.finished and plan.asked_precision is Precision.auto and plan.is_paper_run and (
        earlier.identity in paper_hashes(plan.config.name))
    if earlier.identity != plan.config_hash and not answers:
        raise ConfigError(f"{display_path(earlier.folder)} holds a run of another configuration: "
                          f"{difference_text(settings(earlier.record.config), settings(plan.config))}; go on with the "
                          "recorded one, take another seed or results=FOLDER, or resume=never")


def restore(step: TrainStep, plan: Plan) -> dict[str, Any]:
    """Put the newest whole checkpoint into the step; {} for none, else its JSON and `rows`, the CSV files of then."""
    world, where = step.world, step.device if step.world.size == 1 else torch.device("cpu")
    found = world.from_main(lambda: checkpoint.load_newest(plan.folder, where))
    if found is None:
        return {}
    state, meta, notes = found
    for note in notes:
        logger.warning(note)
    recorded = ADDED_LATER | {key: value for key, value in meta["numbers"].items()
                              if key not in REMOVED or REMOVED[key] not in (ANY, value)}
    if text := difference_text(recorded, seed_and_settings(plan.config)):
        raise ConfigError(f"{display_path(plan.folder)}: the checkpoint is of another configuration: {text}; "
                          "resume=never starts over")
    step.load_state(state)
    return meta | {"rows": state.get("rows", {})}


def seed_and_settings(config: RunConfig) -> dict[str, Any]:
    """All that a checkpoint's run must share with the run that goes on from it."""
    return {"seed": config.seed, **settings(config)}


def difference_text(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The keys in which two configurations differ, as 'key: old, now new'."""
    return "; ".join(f"{key}: {before}, now {now}" for key, (before, now) in sorted(difference(old, new).items()))


def check_same_data(earlier: Run, sha256: str, done: int, world: World) -> None:
    """Raise DataError where processes have other images, or a run would go on with others than it began with."""
    found = world.all_gather_object(sha256)
    if len(set(found)) > 1:
        raise DataError("the processes do not have the same images: their fingerprints are "
                        + ", ".join(one[:12] for one in found))
    before = earlier.record.data.sha256 if earlier.record and earlier.record.data else sha256
    if done and before != sha256:
        raise DataError(f"{display_path(earlier.folder)}: trained on another set of images until iteration {done} "
                        f"(fingerprint {before[:12]}, now {sha256[:12]}); put the images back, or resume=never starts "
                        "over")
