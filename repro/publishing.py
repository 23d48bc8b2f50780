"""Promote a finished local run into results/reference, where the committed evidence lies."""

import shutil
from pathlib import Path

from repro.errors import ConfigError, StorageError
from repro.places import in_tree, reference_dir, shown
from repro.runs import Run, read_run

PUBLISHED_FILES = ("config.yaml", "run.json", "history.csv", "timing.csv")


def publish(name: str, results: Path) -> Path:
    """Copy the record of a finished run, given by its folder or as EXPERIMENT/seedK, and return the copy's folder.

    Weights, checkpoints and TensorBoard files stay where they are. ConfigError if the run is not finished or another
    one stands in its place.
    """
    if not in_tree():
        raise ConfigError("repro publish writes into a checkout's results/reference; this is an installed package")
    folder = next((f for f in (Path(name), results / "runs" / name) if (f / "run.json").is_file()), None)
    if folder is None:
        raise ConfigError(f"no run {name!r}: not a run's folder, nor one below {shown(results / 'runs')}")
    run = read_run(folder)
    if not run.finished or run.record is None:
        raise ConfigError(f"{shown(folder)} is not finished: {run.problem or run.status}")
    target = reference_dir() / "runs" / folder.resolve().parent.name / f"seed{run.seed}"
    check_free(target, run)
    target.mkdir(parents=True, exist_ok=True)
    try:
        for file in PUBLISHED_FILES:
            shutil.copyfile(folder / file, target / file)
    except OSError as error:
        raise StorageError(f"can't copy {shown(folder)} to {shown(target)}: {error}") from error
    print(f"published {shown(target)}")
    return target


def check_free(target: Path, run: Run) -> None:
    """Raise ConfigError if a different finished run stands in the target folder already."""
    there = read_run(target)
    if there.record is not None and run.record is not None and there.record["result"] != run.record["result"]:
        raise ConfigError(f"{shown(target)} holds another run of this experiment and seed; remove it first")
