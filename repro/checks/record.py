"""`repro check record`: what a reviewer asks of a run's record that somebody else sends. Never imports torch.

Nothing in it is trusted, followed or run. The checks say whether the record agrees with itself, with this version's
experiments and with what is known of networks and images; none can say that the run took place.
"""

import json
import math
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from repro.checks import FAIL, OK, WARNING, CheckResult
from repro.config import config_hash, deviations, experiments
from repro.data import cifar10_files
from repro.errors import ConfigError
from repro.files import file_sha256, read_history, read_object
from repro.paper import PROTOCOLS, counts
from repro.paths import display_path, escape
from repro.reporting.select import check_evaluation
from repro.runs import EXTRA_FILES, PUBLISHED_FILES, Record, Run, history_columns, history_problem, parse_record
from repro.schema import CIFAR10, HELD_OUT, IMAGENET, VALIDATION_IMAGES
from repro.training.schedule import Schedule

CHECKS = ["files", "run.json", "configuration", "history", "network", "data", "layers", "tests", "copies", "code"]
TESTS = "evaluations"
KNOWN = {*PUBLISHED_FILES, *EXTRA_FILES, *(f"{TESTS}/{protocol}.json" for protocol in PROTOCOLS)}
LARGEST = 2**23  # Choice: bytes of a file; many times what a run of the paper's longest schedule writes
# What a finished run has written.
REQUIRED = ("evaluated_on", "parameters", "data", "sessions", "started", "ended", "result", "history_sha256")


def check_record(folder: Path, others: Sequence[Path] = ()) -> list[CheckResult]:
    """All results about the record in a folder; the last one says what it would count as, were it taken.

    others: folders of records whose numbers it must not share. ConfigError if there is no such folder, OSError if it
    can't be read; whatever its files hold gives results, never an error.
    """
    if not folder.is_dir():
        raise ConfigError(f"{display_path(folder)}: no such folder")
    checks, record, counts_as = CHECKS[:2], None, ""
    problems = [("files", text) for text in file_problems(folder)]
    if not problems:
        try:
            content = strict_json((folder / "run.json").read_bytes())
            record = parse_record(content)
            problems = [("run.json", f"no {key}") for key in REQUIRED if not getattr(record, key)]
        except (ValueError, RecursionError) as error:
            problems = [("run.json", str(error))]
    if record is not None and not problems:
        checks, run = CHECKS, Run(folder, record, history_problem(folder, record))
        problems = [*find_problems(run, record, content["config"]), *history_problems(run, record),
                    *copies(run, record, others)]
        counts_as = (f"a run of the paper: {', '.join(record.config.reproduces) or 'curves only'}"
                     if run.is_paper_run else f"not a paper run: {'; '.join(deviations(record.config))}")
    results = []
    for check in checks:
        texts = [text for name, text in problems if name == check]
        status = OK if not texts else WARNING if check == "code" else FAIL  # a warning is for a person to judge
        results.append(CheckResult(check, status, escape("; ".join(texts))[:600]))
    if failed := [one.check for one in results if one.status == FAIL]:
        counts_as = f"nothing while these checks fail: {', '.join(failed)}"
    return [*results, CheckResult("counts as", FAIL if failed else OK, counts_as)]


def file_problems(folder: Path) -> Iterator[str]:
    """What is wrong with the entries of a folder; what is a link, a pipe or unknown is never opened."""
    if folder.is_symlink():
        yield "the folder is a symbolic link; give the folder itself"
        return
    tests = folder / TESTS
    there = {str(path.relative_to(folder)): path.lstat() for place in (folder, tests)
             if place.is_dir() and not place.is_symlink() for path in sorted(place.iterdir())}
    for name, facts in there.items():
        if name == TESTS and stat.S_ISDIR(facts.st_mode):
            continue
        if name not in KNOWN:
            yield f"{name[:100]} is no file of a record (`repro publish` copies what is, without weights)"
        elif not stat.S_ISREG(facts.st_mode):
            yield f"{name} is a link or no plain file"
        elif facts.st_size > LARGEST:
            yield f"{name} has {facts.st_size} bytes; a record's has at most {LARGEST}"
    yield from (f"{name} is missing" for name in PUBLISHED_FILES if name not in there)


def strict_json(data: bytes) -> dict[str, Any]:
    """A JSON object whose keys are given once, with finite numbers and nothing that Hydra would call or resolve."""
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key is given twice")
        return dict(pairs)

    def whole(digits: str) -> int:
        if len(digits) > 18:
            raise ValueError("a whole number of more than 18 digits")
        return int(digits)

    content = json.loads(data.decode(), object_pairs_hook=once, parse_int=whole)
    if hostile := re.search(r'\$\{|"_\w*_": ', json.dumps(content, allow_nan=False)):
        raise ValueError(f"{hostile[0]} is Hydra's, and could run code; a record has plain values only")
    if not isinstance(content, dict):
        raise ValueError("no mapping of keys to values")
    return content


def find_problems(run: Run, record: Record, written: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The checks that fail of a record whose types are good, and why; written: its configuration in run.json."""
    config, data, place = record.config, record.data, run.folder.resolve()
    assert data is not None  # REQUIRED
    # compared as bytes: what is in config.yaml, tags, aliases without end, is never parsed
    if (run.folder / "config.yaml").read_bytes() != yaml.safe_dump(written, sort_keys=False).encode():
        yield "configuration", "config.yaml is not what a run writes of the configuration in run.json"
    name = f"{config.name if run.is_paper_run else f'{config.name}@{record.identity}'}/seed{record.seed}"
    if place.parent.name.partition("@")[0] in experiments() and f"{place.parent.name}/{place.name}" != name:
        yield "configuration", f"its folder is {place.parent.name}/{place.name}, not {name}"
    layers = {file: file_sha256(run.folder / file) if (run.folder / file).exists() else None for file in EXTRA_FILES}
    for check, key, said, due in (
            ("configuration", "experiment", record.experiment, config.name),
            ("configuration", "seed", record.seed, config.seed),
            ("configuration", "identity", record.identity, config_hash(config)),
            ("configuration", "deviations", record.deviations, deviations(config)),
            ("configuration", "precision", record.environment.precision, config.machine.precision.name),
            ("network", "parameters", record.parameters, counts(config)["parameters"] or record.parameters),
            ("data", "data set", data.name, config.data.name),
            ("data", "split", data.split, config.data.split.name),
            ("data", "SHA-256", data.sha256, cifar10_files.SHA256 if config.data.name == CIFAR10 else data.sha256),
            ("layers", "responses.csv", record.responses and record.responses.sha256, layers["responses.csv"]),
            ("layers", "gradients.csv", record.gradients_sha256, layers["gradients.csv"])):
        if said != due:
            yield check, f"the recorded {key} is {str(said)[:100]}, not {str(due)[:100]}"
    if config.data.name not in (CIFAR10, IMAGENET) or config.data.wiring_test or data.one_folder:
        yield "data", "synthetic images or a wiring test are no evidence"
    for path in sorted((run.folder / TESTS).glob("*.json")):
        try:
            check_evaluation(run, path.stem, strict_json(path.read_bytes()))
        except (ValueError, TypeError, RecursionError) as error:
            yield "tests", f"{path.name}: {error}"
    for number, session in enumerate(record.sessions, 1):
        if session.commit is None or session.dirty is not False:
            yield "code", f"session {number}: no commit was recorded, or its tree had uncommitted changes"


def history_problems(run: Run, record: Record) -> Iterator[tuple[str, str]]:
    """What is wrong with history.csv: as a whole, then in each row its learning rate, losses and errors (percent)."""
    config, rows = record.config, run.history()
    imagenet, held_out = config.data.name == IMAGENET, config.data.split.name == "45k"
    split, tested = "val" if imagenet or held_out else "test", HELD_OUT if held_out else 10_000
    if not run.finished:
        yield "history", f"not finished: {run.problem or run.status}"
        return
    if tuple(rows[0]) != history_columns(split, imagenet) or record.evaluated_on != split:
        yield "history", f"it has {', '.join(rows[0])}; a run of this configuration is tested on {split}"
        return
    best = min(rows, key=lambda row: row[f"{split}_top1_error"])
    if split == "test" and record.best_on_test != {key: best[key] for key in ("iteration", "test_top1_error")}:
        yield "history", f"best_on_test is not its lowest test error, {best['test_top1_error']}"
    schedule = Schedule(config)
    schedule.follow((int(row["iteration"]), row[f"{split}_top1_error"]) for row in rows)
    done, ended, warms_up = 0, record.warmup_end, schedule.warms_up
    if warms_up and ended is not None and ended > schedule.warmup_max:
        yield "history", f"warmup_end is {ended}; this warm-up ends after {schedule.warmup_max} at the latest"
    for row in rows:
        here = int(row["iteration"])
        due = schedule.rate(here - 1, warms_up and (ended is None or here - 1 < ended))
        if not math.isclose(row["learning_rate"], due, rel_tol=1e-9):
            yield "history", f"iteration {here}: learning rate {row['learning_rate']:g}, the schedule gives {due:g}"
        for key, value in row.items():
            images = (here - done) * config.train.mini_batch_size if key.startswith("train") else (
                VALIDATION_IMAGES if imagenet else tested)
            count = value * images / 100
            if key.endswith("error") and not (0 <= value <= 100 and math.isclose(count, round(count), abs_tol=1e-6)):
                yield "history", f"iteration {here}: {key} {value} is no whole number of errors among {images} images"
            elif key.endswith("loss") and not 0 <= value < math.inf:
                yield "history", f"iteration {here}: {key} {value} is no loss"
        done = here


def copies(run: Run, record: Record, others: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Other runs with the same layers, or with the losses or errors of more than half of its tests."""
    rows = run.history()
    for folder in others:
        other = read_object(folder / "run.json")
        if all(other.get(key) == getattr(record, key) for key in ("experiment", "seed", "identity")):
            continue  # the same run
        shared = [name for name in EXTRA_FILES if (run.folder / name).exists() and (folder / name).is_file()
                  and file_sha256(run.folder / name) == file_sha256(folder / name)]
        for kind in ("loss", "top1_error"):
            ours, theirs = ({(row.get("iteration"), *(value for key, value in row.items() if key.endswith(kind)))
                             for row in found} for found in (rows, read_history(folder / "history.csv")))
            shared += [f"the {kind} of {len(ours & theirs)} tests"] if 2 * len(ours & theirs) > len(rows) else []
        if shared:
            yield "copies", f"it shares {', '.join(shared)} with {folder.parent.name}/{folder.name}"
