"""Promote a finished local run into results/reference, where the committed evidence lies."""

import errno
import shutil
from pathlib import Path

from repro.config import config_hash
from repro.errors import ConfigError, StorageError
from repro.files import NO_EXCHANGE, exchange, read_object, temporary_path, write_atomic
from repro.paths import display_path, in_tree, reference_dir
from repro.runs import Run, find_run, read_run

PUBLISHED_FILES = ("config.yaml", "run.json", "history.csv", "timing.csv")
EXTRA_FILES = ("responses.csv", "gradients.csv")  # copied where they are there: what redraws figures without weights
TESTS = "evaluations/*.json"  # finished ones are copied too: errors under the ways of testing, not their probabilities
ENSEMBLES = "ensembles/"  # where ensembles lie below a results folder


def publish(name: str, results: Path) -> Path:
    """Copy the record of a finished run, given by its folder or as EXPERIMENT/seedK, and return the copy's folder.

    Weights, mean image, probabilities, checkpoints and TensorBoard files stay where they are. ConfigError if the run is
    not finished, says nothing about its data set, or another one stands in its place.
    """
    if not in_tree():
        raise ConfigError("repro publish writes into a checkout's results/reference; this is an installed package")
    run = find_run(name, results)
    folder = run.folder
    if not run.finished or run.record is None:
        raise ConfigError(f"{display_path(folder)} is not finished: {run.problem or run.status}")
    if run.wiring_test:
        raise ConfigError(f"{display_path(folder)} is a wiring test, which is no evidence about ImageNet")
    if run.synthetic:
        raise ConfigError(f"{display_path(folder)} ran on synthetic images, which are no evidence about CIFAR-10")
    if config_hash(run.record.config) != run.identity:
        raise ConfigError(f"{display_path(folder)}: its recorded configuration and identity differ")
    missing = [file for file in PUBLISHED_FILES if not (folder / file).is_file()]
    if missing:
        raise ConfigError(f"{display_path(folder)} has no {', '.join(missing)}")
    name = run.experiment if run.is_paper_run else f"{run.experiment}@{run.identity}"
    target = reference_dir() / "runs" / name / f"seed{run.seed}"
    check_free(target, run)
    copy_record(folder, target)
    print(f"published {display_path(target)}")
    return target


def publish_ensemble(name: str, results: Path, problem: str | None) -> Path:
    """Copy the record of an ensemble, called ensembles/NAME, and return the copy's path.

    problem: why it is no evidence, None if it is. ConfigError then, and if there is none.
    """
    if not in_tree():
        raise ConfigError("repro publish writes into a checkout's results/reference; this is an installed package")
    source, target = results / f"{name}.json", reference_dir() / f"{name}.json"
    if not source.is_file():
        raise ConfigError(f"no {display_path(source)}: `repro ensemble {name.removeprefix(ENSEMBLES)}` makes it")
    if problem is not None:
        raise ConfigError(f"{display_path(source)} is no evidence: {problem}")
    try:
        write_atomic(target, source.read_bytes())
    except OSError as error:
        raise StorageError(f"can't read {display_path(source)}: {error.strerror}") from error
    print(f"published {display_path(target)}")
    return target


def copy_record(folder: Path, target: Path) -> None:
    """Copy all files of a record, or none. Published tests that the folder has no longer stay."""
    part = temporary_path(target)
    try:
        part.mkdir(parents=True)
        for file in (*PUBLISHED_FILES, *(file for file in EXTRA_FILES if (folder / file).is_file()),
                     *finished_tests(folder)):
            (part / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / file, part / file)
        for file in finished_tests(target):
            if not (part / file).exists():
                (part / file).parent.mkdir(exist_ok=True)
                shutil.copyfile(target / file, part / file)
        put_in_place(part, target)
    except OSError as error:
        raise StorageError(f"can't copy {display_path(folder)} to {display_path(target)}: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)  # also the record that was replaced


def put_in_place(new: Path, target: Path) -> None:
    """Let a folder take its place, also from one that is there, in one step where the system can; that one is `new`."""
    try:
        new.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        try:
            exchange(new, target)
        except OSError as no_exchange:
            if no_exchange.errno not in NO_EXCHANGE:
                raise
            old = temporary_path(target)
            target.rename(old)
            new.rename(target)
            old.rename(new)


def finished_tests(folder: Path) -> list[str]:
    """The records of a run's finished tests (`repro eval protocol=...`), by their path in its folder."""
    return [str(path.relative_to(folder)) for path in sorted(folder.glob(TESTS))
            if read_object(path).get("finished") is True]


def check_free(target: Path, run: Run) -> None:
    """Raise ConfigError if another record stands in the target folder already."""
    there = read_run(target)
    if there.record is not None and there.record != run.record:
        raise ConfigError(f"{display_path(target)} holds a record already; to replace that evidence, delete the folder "
                          "first (README quotes it)")
