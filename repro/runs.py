"""Runs on disk: where they lie, their records, and the copy that is committed. Never imports torch.

A run lives in `<results>/runs/<experiment>/seed<k>/`, or in `<experiment>@<identity>/seed<k>/` if any override changes
its numbers. It holds config.yaml, run.json (the record), history.csv and timing.csv; while it is not finished also
checkpoints, afterwards weights.pt.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from repro import files
from repro.config import config_hash, paper_hashes, scale_lengths
from repro.errors import ConfigError, StorageError
from repro.paths import display_path, in_tree, reference_dir, results_dir
from repro.record import Record, parse_record
from repro.schema import IMAGENET, SYNTHETIC, RunConfig
from repro.wording import suggest

GRADIENT_COLUMNS = ("iteration", "layer", "name", "norm")
RESPONSE_COLUMNS = ("layer", "name", "channels", "mean", "std")
TIMING_COLUMNS = ("iteration", "train_seconds", "evaluation_seconds", "images_per_second", "utc")
OUT_OF_MEMORY = "out of memory"  # the status of a run that ended so
PUBLISHED_FILES = ("config.yaml", "history.csv", "timing.csv", "run.json")  # run.json last: without it there is no run
EXTRA_FILES = ("responses.csv", "gradients.csv")  # what redraws figures without weights
ENSEMBLES = "ensembles/"  # where ensembles lie below a results folder


@dataclass(frozen=True)
class Run:
    """One run on disk: its folder and its record (None with a problem if that can't be read).

    Without a record the experiment and seed are those of the folder's name, and the identity is ''.
    """

    folder: Path
    record: Record | None
    problem: str | None = None

    @property
    def name(self) -> str:
        """EXPERIMENT[@identity]/seedK, as its folder is called."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def title(self) -> str:
        return title(self.record.config) if self.record else f"{self.experiment} seed {self.seed}"

    @property
    def experiment(self) -> str:
        return self.record.experiment if self.record else self.folder.parent.name.split("@")[0]

    @property
    def seed(self) -> int:
        return self.record.seed if self.record else int(self.folder.name.removeprefix("seed"))

    @property
    def identity(self) -> str:
        return self.record.identity if self.record else ""

    @property
    def status(self) -> str:
        """running, interrupted, out of memory, finished or diverged as recorded; 'unreadable' without a record."""
        return self.record.status if self.record else "unreadable"

    @property
    def finished(self) -> bool:
        """Whether the run reached its last iteration and its history says so too."""
        return self.status == "finished" and not self.problem

    @property
    def is_paper_run(self) -> bool:
        """Whether it ran its experiment as it stands in conf/ now, and so may enter a paper table."""
        return self.identity in paper_hashes(self.experiment)

    @property
    def synthetic(self) -> bool:
        """Whether it ran on made images and so says nothing about CIFAR-10."""
        return self.record is not None and self.record.config.data.name == SYNTHETIC

    @property
    def wiring_test(self) -> bool:
        """Whether it ran on any folder of images and so says nothing about ImageNet."""
        return self.record is not None and self.record.config.data.wiring_test

    @property
    def no_evidence(self) -> str | None:
        """What is said wherever a run is named that is no evidence: 'synthetic images' or 'wiring test'; else None."""
        return "synthetic images" if self.synthetic else "wiring test" if self.wiring_test else None

    @property
    def tested_on(self) -> str:
        """The split that its data set is tested on: val on ImageNet, whose test labels are not public, else test."""
        return "val" if self.record is not None and self.record.config.data.name == IMAGENET else "test"

    def history(self) -> list[dict[str, float]]:
        """Rows of history.csv as numbers; a torn last line is left out."""
        return files.read_history(self.folder / "history.csv")


def title(config: RunConfig) -> str:
    """What a run is called wherever it is shown; synthetic images and a wiring test are always named."""
    synthetic = " (synthetic images)" if config.data.name == SYNTHETIC else ""
    return f"{config.name} seed {config.seed}" + (" (wiring test)" if config.data.wiring_test else synthetic)


def run_folder(config: RunConfig, own: str | None = None) -> Path:
    """Where this configuration's run lies; precision must be resolved. `own` is its hash, if that is known."""
    own = own or config_hash(config)
    name = config.name if own in paper_hashes(config.name) else f"{config.name}@{own}"
    return results_dir(config.results) / "runs" / name / f"seed{config.seed}"


def find_run(name: str, *roots: Path) -> Run:
    """The run in a folder, or called EXPERIMENT/seedK below one of these results folders; ConfigError if none."""
    places = [Path(name), *(root / "runs" / name for root in roots)]
    folder = next((place for place in places if (place / "run.json").is_file()), None)
    if folder is None:
        known = [run.name for root in roots for run in scan(root / "runs")]
        raise ConfigError(f"no run {name!r}: not a run's folder, nor one below "
                          f"{' or '.join(display_path(root / 'runs') for root in roots)}{suggest(name, known)}")
    return read_run(folder)


def scan(root: Path) -> list[Run]:
    """All runs below `root` (a `runs` folder), by experiment and seed; unreadable ones carry their problem."""
    folders = []
    for folder in root.glob("*/seed*"):
        if not folder.parent.name.isprintable():
            files.say_once(f"{display_path(folder.parent)} is left out: its name has characters that can't be printed")
        elif re.fullmatch(r"seed\d+", folder.name):
            folders.append(folder)
    return [read_run(folder) for folder in sorted(folders, key=lambda f: (f.parent.name, int(f.name[4:])))]


def read_run(folder: Path) -> Run:
    """The run in a folder. A missing, torn, foreign or hostile record is a problem, not an exception."""
    try:
        record = parse_record(files.read_json(folder / "run.json"))
        return Run(folder, record, history_problem(folder, record))
    except FileNotFoundError:
        return Run(folder, None, "no run.json")
    except (OSError, ValueError) as error:
        return Run(folder, None, f"unreadable run.json or history.csv ({error})")


def write_record(folder: Path, record: Record) -> None:
    """Replace a run's run.json."""
    files.write_json(folder / "run.json", msgspec.to_builtins(record))


def history_columns(evaluated_on: str, top5: bool = False) -> tuple[str, ...]:
    """Columns of history.csv; errors in percent, `evaluated_on` is test or val."""
    columns = ("iteration", "learning_rate", "train_loss", "train_top1_error", f"{evaluated_on}_loss",
               f"{evaluated_on}_top1_error")
    return (*columns, f"{evaluated_on}_top5_error") if top5 else columns


def history_problem(folder: Path, record: Record) -> str | None:
    """Why a record that says 'finished' is not borne out by its history.csv; None if it is."""
    if record.status != "finished":
        return None
    rows, config = files.read_history(folder / "history.csv"), record.config
    last = scale_lengths(config.train.iterations, config.scale)
    interval = scale_lengths(config.evaluation.interval, config.scale)
    marks = range(interval, last, interval)
    if record.iterations != last or len(rows) != len(marks) + 1 or [row.get("iteration") for row in rows] != [
            *marks, last]:
        return "history.csv has not every evaluation once"
    if record.history_sha256 not in (None, files.file_sha256(folder / "history.csv")):
        return "history.csv was changed after the run"
    if record.result != rows[-1]:
        return "history.csv and the recorded result differ"
    return None


def publish(name: str, results: Path) -> Path:
    """Copy the record of a finished run, given by its folder or as EXPERIMENT/seedK, to results/reference.

    Weights, probabilities, checkpoints and TensorBoard files stay where they are; run.json is copied last, so that
    there is no half of a record. ConfigError if the run is no evidence or another one stands in its place.
    """
    if not in_tree():
        raise ConfigError("repro publish writes into a checkout's results/reference; this is an installed package")
    run = find_run(name, results)
    folder, record = run.folder, run.record
    if record is None or not run.finished:
        raise ConfigError(f"{display_path(folder)} is not finished: {run.problem or run.status}")
    if run.no_evidence or config_hash(record.config) != run.identity:
        raise ConfigError(f"{display_path(folder)} is no evidence: "
                          + (run.no_evidence or "its recorded configuration and identity differ"))
    experiment = run.experiment if run.is_paper_run else f"{run.experiment}@{run.identity}"
    target = reference_dir() / "runs" / experiment / f"seed{run.seed}"
    with files.hold_lock(target):
        if read_run(target).record not in (None, record):
            raise ConfigError(f"{display_path(target)} holds a record already; to replace that evidence, delete the "
                              "folder first (README quotes it)")
        tests = [str(path.relative_to(folder)) for path in sorted(folder.glob("evaluations/*.json"))
                 if files.read_object(path).get("finished") is True]
        extra = [file for file in EXTRA_FILES if (folder / file).is_file()]
        for file in (*tests, *extra, *PUBLISHED_FILES):
            copy_file(folder / file, target / file)
    print(f"published {display_path(target)}")
    return target


def publish_ensemble(name: str, results: Path, problem: str | None) -> Path:
    """Copy the record of an ensemble, called ensembles/NAME; ConfigError if there is none or a problem with it."""
    source, target = results / f"{name}.json", reference_dir() / f"{name}.json"
    if not source.is_file():
        raise ConfigError(f"no {display_path(source)}: `repro ensemble {name.removeprefix(ENSEMBLES)}` makes it")
    if problem is not None or not in_tree():
        raise ConfigError(f"{display_path(source)} is no evidence: {problem or 'this is an installed package'}")
    copy_file(source, target)
    print(f"published {display_path(target)}")
    return target


def copy_file(source: Path, target: Path) -> None:
    """Copy a small file atomically; StorageError if it can't be read or written."""
    try:
        data = source.read_bytes()
    except OSError as error:
        raise StorageError(f"can't read {display_path(source)}: {error.strerror}") from error
    files.write_atomic(target, data)
