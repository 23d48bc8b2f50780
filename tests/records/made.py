"""Made-up records in which everything agrees, as a run of the paper would leave them, and ways to spoil them."""

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from repro.checks import CheckResult
from repro.config import compose, config_hash, deviations, paper_hashes, read_config, to_dict, with_precision
from repro.data.cifar10_files import OFFICIAL
from repro.evaluation.protocols import views_of
from repro.files import file_sha256
from repro.paper import PROTOCOLS, golden_count
from repro.records.check import check_record
from repro.runs import GRADIENT_COLUMNS, RESPONSE_COLUMNS, TIMING_COLUMNS, history_columns
from repro.schema import VALIDATION_IMAGES, Family, Precision, RunConfig
from repro.training.schedule import Schedule

BEGUN = datetime(2026, 5, 1, tzinfo=UTC)
SECONDS, TEST_SECONDS, PAUSE = 30.0, 2.0, timedelta(hours=1)  # of each row; between two sessions
VERSIONS = {"python": "3.12.1", "torch": "2.12.0", "torchvision": "0.27.0", "hydra-core": "1.3.8", "omegaconf": "2.3.0",
            "numpy": "2.1.0"}
CODE = {"repro": "0.1.0", "commit": "0123456789abcdef" * 2 + "01234567", "dirty": False}
HOW = {"engine": "eager", "updates_per_graph": 1, "jobs_per_device": 1, "devices": 1}


def csv_lines(rows: list[Any]) -> str:
    """Rows as lines of a CSV."""
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


@functools.cache
def composed(experiment: str, overrides: tuple[str, ...]) -> RunConfig:
    """Composing takes 0.1 s; the records of one configuration share it."""
    return compose([f"experiment={experiment}", "machine.device=cpu", *overrides])


def write_record(root: Path, experiment: str = "cifar_resnet20", *overrides: str, seed: int = 0) -> Path:
    """A finished record in two sessions, below root/EXPERIMENT[@identity]/seedK, with all files that it may have."""
    config = replace(with_precision(composed(experiment, overrides), Precision.fp32), seed=seed)
    own = config_hash(config)
    imagenet = config.data.name == "imagenet"
    name = experiment if own in paper_hashes(experiment) else f"{experiment}@{own}"
    folder = root / name / f"seed{seed}"
    folder.mkdir(parents=True)
    split = "val" if imagenet or config.data.split.name == "45k" else "test"
    columns = history_columns(split, imagenet)
    rows = history(config, split)
    (folder / "history.csv").write_text(csv_lines([columns, *([row[name] for name in columns] for row in rows)]))
    marks = [row["iteration"] for row in rows]
    half = marks[len(marks) // 2 - 1] if len(marks) > 1 else marks[-1]
    timing, ends = times(config, marks, half)
    (folder / "timing.csv").write_text(csv_lines([TIMING_COLUMNS, *timing]))
    recorded = to_dict(replace(config, results=None, data=replace(config.data, root=None)))
    (folder / "config.yaml").write_text(yaml.safe_dump(recorded, sort_keys=False))
    record = {
        "schema": 1, "experiment": experiment, "seed": seed, "identity": own, "status": "finished", "config": recorded,
        "deviations": deviations(config), "evaluated_on": split, "iterations": marks[-1], "peak_memory_bytes": 10**9,
        "parameters": parameters(config), "data": {"name": config.data.name, "split": config.data.split.name,
                                                   "sha256": "b" * 64 if imagenet else OFFICIAL.sha256},
        "environment": {**VERSIONS, "system": "Linux", "architecture": "x86_64", "cores": 2, "interpreter": "cpython",
                        "device": "made-up device", "precision": "fp32", "threads": 2, **HOW},
        "started": ends[0][0], "warmup_end": warmup_end(config),
        "sessions": [{"started": begin, "from_iteration": first, "device": "made-up device", **HOW, **CODE, **VERSIONS,
                      "ended": end, "to_iteration": last} for begin, end, first, last in ends],
        "iteration": marks[-1], "train_seconds": SECONDS * len(marks) + 1.0,
        "evaluation_seconds": TEST_SECONDS * len(marks) + 10.0, "ended": ends[-1][1], "weights_sha256": "a" * 64,
        "recomputed_batch_norm": {"images": averaged_images(config), f"{split}_loss": 0.5,
                                  **{key: rows[-1][key] for key in columns if key.startswith(split)
                                     and key.endswith("error")}},
        "result": rows[-1], "history_sha256": file_sha256(folder / "history.csv")}
    if split == "test":
        best = min(rows, key=lambda row: row["test_top1_error"])
        record["best_on_test"] = {key: best[key] for key in ("iteration", "test_top1_error")}
    if imagenet:
        write_evaluations(folder, config, record)
    else:
        write_layers(folder, config, record, split)
    (folder / "run.json").write_text(json.dumps(record, indent=2))
    return folder


def tested_images(config: RunConfig, split: str) -> int:
    """Images of the split that a configuration is tested on."""
    if config.data.name == "imagenet":
        return VALIDATION_IMAGES
    return 10_000 if split == "test" else 5_000


def history(config: RunConfig, split: str) -> list[dict[str, Any]]:
    """Rows that fall from chance level, with errors that are counts of images and losses that can be theirs."""
    schedule, images = Schedule.of(config), tested_images(config, split)
    marks = [*range(schedule.interval, schedule.iterations, schedule.interval), schedule.iterations]
    imagenet = config.data.name == "imagenet"
    train, test, chance = (27.0, 26.5, 99.9) if imagenet else (2.0, 8.5, 90.0)
    rows: list[dict[str, Any]] = []
    before = 0
    for mark in marks:
        left = (1 - mark / marks[-1]) ** 4
        trained = (mark - before) * config.train.mini_batch_size
        first = 100 * round(trained * (train + left * (chance - train)) / 100) / trained
        second = 100 * round(images * (test + left * (chance - test)) / 100) / images
        row = {"iteration": mark, "learning_rate": 0.0, "train_loss": first / 60 + 1e-6 * (len(marks) - len(rows)),
               "train_top1_error": first, f"{split}_loss": second / 60 + 0.01, f"{split}_top1_error": second}
        if imagenet:
            row["val_top5_error"] = 100 * round(images * second / 300) / images
        rows.append(row)
        before = mark
    schedule = schedule.after((row["iteration"], row[f"{split}_top1_error"]) for row in rows)
    ended = warmup_end(config)
    for row in rows:
        row["learning_rate"] = schedule.rate(row["iteration"] - 1, ended is not None and row["iteration"] - 1 < ended)
    return rows


def warmup_end(config: RunConfig) -> int | None:
    """Some iteration at which a warm-up may end."""
    schedule = Schedule.of(config)
    if schedule.warmup.name == "none":
        return None
    return schedule.warmup_max if schedule.warmup.name == "fixed400" else min(schedule.warmup_max, 450)


def times(config: RunConfig, marks: list[int], half: int) -> tuple[list[list[Any]], list[tuple[str, str, int, int]]]:
    """Rows of timing.csv, and (started, ended, from, to) of two sessions, the first until `half`."""
    rows: list[list[Any]] = []
    clock, begun, seconds = BEGUN, 0, 0.0
    sessions, started, at_start = [], BEGUN, 0.0
    for mark in marks:
        seconds += SECONDS
        clock += timedelta(seconds=SECONDS + TEST_SECONDS)
        rate = (mark - begun) * config.train.mini_batch_size / (seconds - at_start)
        rows.append([mark, round(seconds, 3), TEST_SECONDS, round(rate, 1), clock.isoformat(timespec="seconds")])
        if mark == half and mark != marks[-1]:
            sessions.append((started, clock + timedelta(seconds=1), begun, mark))
            clock += PAUSE
            started, begun, at_start = clock, mark, seconds
    sessions.append((started, clock + timedelta(seconds=20), begun, marks[-1]))
    return rows, [(begin.isoformat(), end.isoformat(), first, last) for begin, end, first, last in sessions]


def averaged_images(config: RunConfig) -> int:
    """Images whose batch statistics are averaged after the last iteration."""
    size = config.train.mini_batch_size
    return config.evaluation.batch_norm_images // size * size


def parameters(config: RunConfig) -> int:
    """The golden count of a configuration's network."""
    option = "A" if config.model.family is Family.plain else config.model.shortcut_option.name
    name = "imagenet" if config.data.name == "imagenet" else "cifar10"
    return golden_count(name, config.model.depth or 0).parameters[option]


def write_layers(folder: Path, config: RunConfig, record: dict[str, Any], split: str) -> None:
    """responses.csv and gradients.csv, and what the record says of them."""
    depth, stage = config.model.depth or 0, 2 * (config.model.blocks_per_stage or 0)
    rows = [[layer, f"layer{layer}", 16 * 2 ** (max(0, layer - 2) // stage), 0.01, 0.5] for layer in range(1, depth)]
    (folder / "responses.csv").write_text(csv_lines([RESPONSE_COLUMNS, *rows]))
    norms = [[iteration, layer, f"layer{layer}", 0.25] for iteration in sorted(Schedule.of(config).gradients)
             for layer in range(1, depth + 1)]
    (folder / "gradients.csv").write_text(csv_lines([GRADIENT_COLUMNS, *norms]))
    record["responses"] = {"images": tested_images(config, split), "evaluated_on": split, "precision": "fp32",
                           "sha256": file_sha256(folder / "responses.csv")}
    record["gradients_sha256"] = file_sha256(folder / "gradients.csv")


def write_evaluations(folder: Path, config: RunConfig, record: dict[str, Any]) -> None:
    """The three tests of an ImageNet run, of the center crop as the run's own."""
    images = VALIDATION_IMAGES
    (folder / "evaluations").mkdir()
    errors = {"center": record["result"]["val_top1_error"], "ten_crop": 25.0, "multi_scale": 22.0}
    for protocol in PROTOCOLS:
        views = views_of(protocol, config.data)
        top1, top5 = round(errors[protocol] * images / 100), round(errors[protocol] * images / 350)
        model = {key: value for key, value in to_dict(config.model).items()
                 if key not in ("conv_init", "fc_init", "batch_norm_momentum")}
        content = {
            "schema": 1, "protocol": protocol, "definition": views.definition, "experiment": record["experiment"],
            "seed": record["seed"], "identity": record["identity"], "deviations": record["deviations"],
            "weights_sha256": "a" * 64, "data_fingerprint": "b" * 64, "split": "val", "wiring_test": False,
            "one_folder": False, "model": model,
            "settings": {"shorter_sides": list(views.shorter_sides), "crop_size": views.crop_size,
                         "normalisation_sha256": "c" * 64},
            "precision": "fp32", "versions": VERSIONS, **CODE, "device": "made-up device",
            "images": images, "classes": 1000, "top1_errors": top1, "top5_errors": top5,
            "finished": True, "val_top1_error": 100 * top1 / images, "val_top5_error": 100 * top5 / images,
            "probabilities_sha256": "d" * 64, "labels_sha256": "e" * 64, "utc": record["ended"]}
        (folder / "evaluations" / f"{protocol}.json").write_text(json.dumps(content, indent=2))


# ---- ways to spoil a record

def edit(folder: Path, change: Callable[[dict[str, Any]], Any], name: str = "run.json") -> None:
    """Change a JSON file in place."""
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content, indent=2))


def put(folder: Path, value: Any, *path: Any, name: str = "run.json") -> None:
    """Put a value into a JSON file, at a path of keys and numbers."""
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value
    edit(folder, change, name)


def remove(folder: Path, *path: Any, name: str = "run.json") -> None:
    """Remove a key of a JSON file."""
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]
    edit(folder, change, name)


def lines(folder: Path, change: Callable[[list[str]], Any], name: str = "history.csv") -> None:
    """Change the lines of a CSV in place."""
    found = (folder / name).read_text().splitlines()
    change(found)
    (folder / name).write_text("\n".join(found) + "\n")


def cell(folder: Path, row: int, column: str, value: Any, name: str = "history.csv") -> None:
    """Change a cell of a CSV; rows count from 0 and from the end as in a list."""
    def change(found: list[str]) -> None:
        place = found[0].split(",").index(column)
        number = row + 1 if row >= 0 else row
        cells = found[number].split(",")
        cells[place] = str(value)
        found[number] = ",".join(cells)
    lines(folder, change, name)


def consistent(folder: Path) -> None:
    """Make result, best test error and hash those of history.csv, as a careful forger would."""
    found = (folder / "history.csv").read_text().splitlines()
    names = found[0].split(",")
    rows = [dict(zip(names, map(float, line.split(",")), strict=True)) for line in found[1:]]
    rows = [row | {"iteration": int(row["iteration"])} for row in rows]

    def change(record: dict[str, Any]) -> None:
        record |= {"result": rows[-1], "history_sha256": hashlib.sha256(
            (folder / "history.csv").read_bytes()).hexdigest()}
        if "best_on_test" in record:
            best = min(rows, key=lambda row: row["test_top1_error"])
            record["best_on_test"] = {key: best[key] for key in ("iteration", "test_top1_error")}
    edit(folder, change)


def set_everywhere(folder: Path, section: str, key: str, value: Any) -> None:
    """Change a setting in run.json and config.yaml, and renew identity."""
    def change(record: dict[str, Any]) -> None:
        record["config"][section][key] = value
        record["identity"] = config_hash(read_config(record["config"]))
        (folder / "config.yaml").write_text(yaml.safe_dump(record["config"], sort_keys=False))
    edit(folder, change)


def objections(folder: Path, *references: Path) -> list[CheckResult]:
    """What `check_record` finds that is not ok, the last finding left out."""
    return [one for one in check_record(folder, references)[:-1] if one.status != "ok"]
