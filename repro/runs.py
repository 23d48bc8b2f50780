"""Runs on disk: where they lie, their records, and the copy that is committed. Never imports torch.

A run lies in RESULTS/runs/EXPERIMENT/seedK, or in EXPERIMENT@IDENTITY/seedK if any override changes its numbers.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from repro import files
from repro.config import config_hash, paper_hashes, read_config, scale_lengths
from repro.errors import ConfigError, suggest
from repro.paths import display_path, escape, in_tree, reference_dir, results_dir
from repro.schema import IMAGENET, SYNTHETIC, Precision, RunConfig

GRADIENT_COLUMNS = ("iteration", "layer", "name", "norm")
RESPONSE_COLUMNS = ("layer", "name", "channels", "mean", "std")
TIMING_COLUMNS = ("iteration", "train_seconds", "evaluation_seconds", "images_per_second", "utc")
OUT_OF_MEMORY = "out of memory"  # the status of a run that ended so
PUBLISHED_FILES = ("config.yaml", "history.csv", "timing.csv", "run.json")  # run.json last: without it there is no run
EXTRA_FILES = ("responses.csv", "gradients.csv")  # what redraws figures without weights
ENSEMBLES = "ensembles/"  # where ensembles lie below a results folder
SCHEMA = 1
Text = Annotated[str, Meta(max_length=10_000)]
Time = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00\Z")]
Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]
Errors = dict[str, int | float]  # a row: iteration, losses, errors in percent
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Provenance(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """How, where and when something was computed: the newest session of a run, each session, or the responses."""
    python: Text | None = None
    torch: Text | None = None
    torchvision: Text | None = None
    hydra_core: Text | None = msgspec.field(default=None, name="hydra-core")
    omegaconf: Text | None = None
    numpy: Text | None = None
    device: Text | None = None
    engine: Text | None = None
    updates_per_graph: Count | None = None  # of earlier records, as the next two
    jobs_per_device: Count | None = None
    memory_format_ms: dict[str, Seconds] | None = None
    devices: Count | None = None
    repro: Text | None = None
    commit: Annotated[str, Meta(pattern=r"^[0-9a-f]{40}\Z")] | None = None
    dirty: bool | None = None
    system: Text | None = None
    architecture: Text | None = None
    cores: Count | None = None
    interpreter: Text | None = None
    precision: Text | None = None
    threads: Count | None = None
    started: Time | None = None
    from_iteration: Count | None = None
    ended: Time | None = None
    to_iteration: Count | None = None
    slurm: dict[str, Text | Count] | None = None  # its job, and how often that was put back into the queue
    images: Count | None = None  # this and the rest of responses.csv (Fig. 7)
    evaluated_on: Text | None = None
    sha256: Sha256 | None = None
    utc: Time | None = None


class Images(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What a run was trained and tested on; the SHA-256 of its images, or of ImageNet's names and sizes."""
    name: Text
    split: Text
    sha256: Text
    one_folder: bool = False  # a wiring test, tested on its training images


class Record(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What run.json holds. Errors in percent, times in seconds or ISO form in UTC."""
    schema: int
    experiment: Text
    seed: Count
    identity: Annotated[str, Meta(pattern=r"^[0-9a-f]{12}\Z")]  # config_hash of the configuration
    status: Text  # running, interrupted, finished, diverged or out of memory
    config: RunConfig  # resolved; without this machine's folders
    deviations: list[Text] | None = None  # from the paper's settings
    evaluated_on: Text | None = None
    iterations: Count  # of the whole run
    iteration: Count = 0  # done and saved
    parameters: Count | None = None
    peak_memory_bytes: Count | None = None
    memory_bytes: Count | None = None  # of earlier records
    data: Images | None = None
    environment: Provenance = msgspec.field(default_factory=Provenance)
    started: Time | None = None
    ended: Time | None = None
    warmup_end: Count | None = None
    sessions: list[Provenance] = msgspec.field(default_factory=list)
    train_seconds: Seconds = 0.0
    evaluation_seconds: Seconds = 0.0
    diverged: Errors | None = None  # iteration, learning_rate, last_finite_loss
    weights_sha256: Sha256 | None = None
    recomputed_batch_norm: Errors | None = None
    responses: Provenance | None = None
    gradients_sha256: Sha256 | None = None
    result: Errors | None = None  # the last row of history.csv
    history_sha256: Sha256 | None = None
    best_on_test: Errors | None = None  # an extra, never the result


class Run:
    """One run on disk: its folder and its record (None with a problem if that can't be read)."""

    def __init__(self, folder: Path, record: Record | None, problem: str | None = None):
        self.folder, self.record, self.problem = folder, record, problem
        self.name = escape(f"{folder.parent.name}/{folder.name}")  # EXPERIMENT[@identity]/seedK
        self.experiment = record.experiment if record else self.name.split("/")[0].split("@")[0]
        self.seed = record.seed if record else int(re.sub(r"\D", "", folder.name) or 0)
        self.identity = record.identity if record else ""
        self.status = record.status if record else "unreadable"
        self.finished = self.status == "finished" and not problem  # then its history says so too
        # What is said wherever a run is named that is no evidence
        self.no_evidence = evidence_problem(record.config) if record else None
        # ImageNet's test labels are not public
        self.tested_on = "val" if record and record.config.data.name == IMAGENET else "test"

    @property
    def is_paper_run(self) -> bool:
        """Whether it ran its experiment as it stands in conf/ now, and so may enter a paper table."""
        return self.identity in paper_hashes(self.experiment)

    def history(self) -> list[dict[str, float]]:
        """Rows of history.csv as numbers; a torn last line is left out."""
        return files.read_history(self.folder / "history.csv")


def evidence_problem(config: RunConfig) -> str | None:
    return "synthetic images" if config.data.name == SYNTHETIC else "wiring test" if config.data.wiring_test else None


def title(config: RunConfig) -> str:
    """What a run is called wherever it is shown."""
    problem = evidence_problem(config)
    return f"{config.name} seed {config.seed}" + (f" ({problem})" if problem else "")


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
        raise ConfigError(f"no run {name!r} here or in {', '.join(map(display_path, roots))}{suggest(name, known)}")
    return read_run(folder)


def scan(root: Path) -> list[Run]:
    """All runs below `root` (a `runs` folder), by experiment and seed; unreadable ones carry their problem."""
    found = [read_run(folder) for folder in root.glob("*/seed*") if re.fullmatch(r"seed\d+", folder.name)]
    return sorted(found, key=lambda run: (run.folder.parent.name, int(run.folder.name.removeprefix("seed"))))


def read_run(folder: Path) -> Run:
    """The run in a folder. A missing, torn, foreign or hostile record is a problem, not an exception."""
    try:
        record = parse_record(files.read_json(folder / "run.json"))
        return Run(folder, record, history_problem(folder, record))
    except FileNotFoundError:
        return Run(folder, None, "no run.json")
    except (OSError, ValueError, RecursionError) as error:
        return Run(folder, None, f"unreadable run.json or history.csv ({error})")


def parse_record(content: Any) -> Record:
    """The record in a JSON object; ValueError says what is missing or wrong, or unknown in its configuration."""
    if not isinstance(content, dict):
        raise ValueError("no mapping of keys to values")
    if isinstance(schema := content.get("schema"), int) and schema > SCHEMA:
        raise ValueError(f"record of schema {schema}; this version reads up to {SCHEMA}")
    text = json.dumps(content, ensure_ascii=False)
    if not text.isprintable() or re.search(r'\\[^"]', text.replace("\\\\", "")):  # as JSON writes control characters
        raise ValueError("a text that can't be printed")
    try:
        record: Record = msgspec.convert(content | {"config": read_config(content.get("config"))}, Record)
    except (msgspec.ValidationError, ConfigError) as error:
        raise ValueError(str(error).replace(" - at `$.", " - at `")) from error
    if record.config.machine.precision is Precision.auto:
        raise ValueError("machine.precision=auto: a run records what that was")
    return record


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


def publish(name: str, results: Path, problem: str | None = None) -> Path:
    """Copy the record of a finished run (its folder, or EXPERIMENT/seedK) or of an ensemble (ensembles/NAME).

    ConfigError if there is a problem with the evidence, or another run stands in its place.
    """
    if not in_tree():
        raise ConfigError("repro publish writes into a checkout's results/reference; this is an installed package")
    if name.startswith(ENSEMBLES) and not Path(name).exists():
        source, target = results / f"{name}.json", reference_dir() / f"{name}.json"
        if not source.is_file():
            problem = f"`repro ensemble {name.removeprefix(ENSEMBLES)}` makes it"
        if problem is not None:
            raise ConfigError(f"{display_path(source)} is no evidence: {problem}")
        files.write_atomic(target, source.read_bytes())
    else:
        run = find_run(name, results)
        folder, record = run.folder, run.record
        if record is None or not run.finished:
            raise ConfigError(f"{display_path(folder)} is not finished: {run.problem or run.status}")
        if config_hash(record.config) != run.identity:
            problem = "its recorded configuration and identity differ"
        if problem := run.no_evidence or problem:
            raise ConfigError(f"{display_path(folder)} is no evidence: {problem}")
        experiment = run.experiment if run.is_paper_run else f"{run.experiment}@{run.identity}"
        target = reference_dir() / "runs" / experiment / f"seed{run.seed}"
        with files.hold_lock(target):
            if read_run(target).record not in (None, record):
                raise ConfigError(f"{display_path(target)} holds a record already; to replace that evidence, delete "
                                  "the folder first (README quotes it)")
            tests = sorted(folder.glob("evaluations/*.json"))
            for path in (*tests, *(folder / file for file in (*EXTRA_FILES, *PUBLISHED_FILES))):
                if path.is_file() or path.name in PUBLISHED_FILES:  # of which none may be missing
                    files.write_atomic(target / path.relative_to(folder), path.read_bytes())
    print(f"published {display_path(target)}")
    return target
