"""Made-up records in which everything agrees, as a run of the paper would leave them, and ways to spoil them."""

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from repro.config import compose, config_hash, deviations, paper_hashes, read_config, to_dict, with_precision
from repro.data.cifar10_files import SHA256
from repro.files import file_sha256, read_history
from repro.paper import PROTOCOLS, counts
from repro.runs import GRADIENT_COLUMNS, RESPONSE_COLUMNS, TIMING_COLUMNS, history_columns
from repro.schema import VALIDATION_IMAGES, Precision, RunConfig
from repro.training.schedule import Schedule

BEGUN, ENDED = "2026-05-01T00:00:00+00:00", "2026-05-01T10:00:00+00:00"
VERSIONS = {"python": "3.12.1", "torch": "2.12.0", "torchvision": "0.27.0", "numpy": "2.1.0"}
CODE = {"repro": "0.1.0", "commit": "0123456789abcdef" * 2 + "01234567", "dirty": False}


@functools.cache
def composed(experiment: str, overrides: tuple[str, ...]) -> RunConfig:
    """Composing takes 0.1 s; the records of one configuration share it."""
    return with_precision(compose([f"experiment={experiment}", "machine.device=cpu", *overrides]), Precision.fp32)


def write_record(root: Path, experiment: str = "cifar_resnet20", *overrides: str, seed: int = 0) -> Path:
    """A finished record below root/EXPERIMENT[@identity]/seedK, with all files that it may have."""
    config = replace(composed(experiment, overrides), seed=seed)
    own, imagenet = config_hash(config), config.data.name == "imagenet"
    folder = root / (experiment if own in paper_hashes(experiment) else f"{experiment}@{own}") / f"seed{seed}"
    folder.mkdir(parents=True)
    split = "val" if imagenet or config.data.split.name == "45k" else "test"
    columns, schedule = history_columns(split, imagenet), Schedule(config)
    warmup_end = None if not schedule.warms_up else min(schedule.warmup_max, 450)
    rows = history(config, split, warmup_end)
    layers = [(layer, f"layer{layer}") for layer in range(1, config.model.depth + 1)]
    for name, lines_of in (("history", [columns, *([row[key] for key in columns] for row in rows)]),
                           ("timing", [TIMING_COLUMNS]),
                           ("responses", [RESPONSE_COLUMNS, *((*layer, 16, 0.01, 0.5 + seed) for layer in layers)]),
                           ("gradients", [GRADIENT_COLUMNS, *((1, *layer, 0.25 + seed) for layer in layers)])):
        text = "".join(",".join(map(str, line)) + "\n" for line in lines_of)
        (folder / f"{name}.csv").write_text(text)
    recorded = to_dict(config)
    (folder / "config.yaml").write_text(yaml.safe_dump(recorded, sort_keys=False))
    record = {
        "schema": 1, "experiment": experiment, "seed": seed, "identity": own, "status": "finished", "config": recorded,
        "deviations": deviations(config), "evaluated_on": split, "iterations": schedule.iterations,
        "iteration": schedule.iterations, "parameters": counts(config)["parameters"],
        "data": {"name": config.data.name, "split": config.data.split.name,
                 "sha256": "b" * 64 if imagenet else SHA256},
        "environment": {**VERSIONS, "device": "made-up device", "precision": "fp32", "threads": 2},
        "started": BEGUN, "ended": ENDED, "warmup_end": warmup_end, "train_seconds": 30.0, "evaluation_seconds": 2.0,
        "sessions": [{"started": BEGUN, "from_iteration": 0, "device": "made-up device", **CODE, **VERSIONS,
                      "ended": ENDED, "to_iteration": schedule.iterations}],
        "weights_sha256": "a" * 64, "gradients_sha256": file_sha256(folder / "gradients.csv"),
        "responses": {"images": 10_000, "evaluated_on": split, "precision": "fp32",
                      "sha256": file_sha256(folder / "responses.csv")}}
    record |= {"best_on_test": {}} if split == "test" else {}
    (folder / "run.json").write_text(json.dumps(record, indent=2))
    consistent(folder)
    if imagenet:
        write_evaluations(folder, record)
    return folder


def history(config: RunConfig, split: str, warmup_end: int | None) -> list[dict[str, Any]]:
    """Rows that fall from chance level, with errors that are counts of images."""
    schedule, imagenet = Schedule(config), config.data.name == "imagenet"
    images = VALIDATION_IMAGES if imagenet else 10_000 if split == "test" else 5_000
    marks = [*range(schedule.interval, schedule.iterations, schedule.interval), schedule.iterations]
    train, test, chance = (27.0, 26.5, 99.9) if imagenet else (2.0 + config.seed / 100, 8.5 + config.seed / 100, 90.0)
    rows: list[dict[str, Any]] = []
    for before, mark in zip([0, *marks], marks, strict=False):
        left = (1 - mark / marks[-1]) ** 4
        trained = (mark - before) * config.train.mini_batch_size
        first = 100 * round(trained * (train + left * (chance - train)) / 100) / trained
        second = 100 * round(images * (test + left * (chance - test)) / 100) / images
        loss = 1e-6 * (len(marks) - len(rows)) + 1e-3 * config.seed
        rows.append({"iteration": mark, "train_loss": first / 60 + loss, "train_top1_error": first,
                     f"{split}_loss": second / 60 + loss, f"{split}_top1_error": second,
                     "val_top5_error": 100 * round(images * second / 300) / images})
    schedule.follow((row["iteration"], row[f"{split}_top1_error"]) for row in rows)
    for row in rows:
        done = row["iteration"] - 1
        row["learning_rate"] = schedule.rate(done, warmup_end is not None and done < warmup_end)
    return rows


def write_evaluations(folder: Path, record: dict[str, Any]) -> None:
    """The three tests of an ImageNet run."""
    (folder / "evaluations").mkdir()
    for protocol, errors in zip(PROTOCOLS, (13_250, 12_500, 11_000), strict=True):
        content = {
            "schema": 1, "protocol": protocol, "experiment": record["experiment"], "seed": record["seed"],
            "identity": record["identity"], "weights_sha256": "a" * 64, "data_fingerprint": "b" * 64, "split": "val",
            "wiring_test": False, "precision": "fp32", "images": VALIDATION_IMAGES, "classes": 1000,
            "top1_errors": errors, "top5_errors": errors // 3, "finished": True,
            "val_top1_error": 100 * errors / VALIDATION_IMAGES,
            "val_top5_error": 100 * (errors // 3) / VALIDATION_IMAGES}
        (folder / "evaluations" / f"{protocol}.json").write_text(json.dumps(content))


# ---- ways to spoil a record

def put(folder: Path, value: Any, *path: Any, name: str = "run.json") -> None:
    """Put a value into a JSON file, at a path of keys and numbers; `...` removes what is there."""
    content = json.loads((folder / name).read_text())
    inner = functools.reduce(lambda at, key: at[key], path[:-1], content)
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    (folder / name).write_text(json.dumps(content, indent=2))


def lines(folder: Path, change: Callable[[list[str]], Any], name: str = "history.csv") -> None:
    """Change the lines of a CSV in place."""
    found = (folder / name).read_text().splitlines()
    change(found)
    (folder / name).write_text("\n".join(found) + "\n")


def cell(folder: Path, row: int, column: str, value: Any, name: str = "history.csv") -> None:
    """Change a cell of a CSV; rows count from 0, and from the end as in a list."""
    def change(found: list[str]) -> None:
        number = row + 1 if row >= 0 else row
        cells = found[number].split(",")
        cells[found[0].split(",").index(column)] = str(value)
        found[number] = ",".join(cells)
    lines(folder, change, name)


def consistent(folder: Path) -> None:
    """Make result, best test error and hash those of history.csv, as a careful forger would."""
    rows = read_history(folder / "history.csv")
    put(folder, rows[-1], "result")
    put(folder, file_sha256(folder / "history.csv"), "history_sha256")
    if "best_on_test" in json.loads((folder / "run.json").read_text()):
        best = min(rows, key=lambda row: row["test_top1_error"])
        put(folder, {key: best[key] for key in ("iteration", "test_top1_error")}, "best_on_test")


def set_everywhere(folder: Path, value: Any, *path: str) -> None:
    """Change a setting in run.json and config.yaml, and renew the hash."""
    put(folder, value, "config", *path)
    config = json.loads((folder / "run.json").read_text())["config"]
    put(folder, config_hash(read_config(config)), "identity")
    put(folder, config["seed"], "seed")
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
