"""Made-up runs in a temporary folder: the records that the trainer writes, without training."""

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repro import config
from repro.config import paper_hashes, scale_lengths, with_precision
from repro.files import file_sha256
from repro.paper import ensemble
from repro.reporting.table import Table
from repro.schema import Device, Precision, RunConfig

SHORT = ("scale=0.0046875", "evaluation.interval=6400")  # of the preset `short`, and of the demonstration
SYNTHETIC = ("data=synthetic", "scale=0.001875", "evaluation.interval=10240")
IMAGES = 50_000  # of ImageNet's validation set


@functools.cache
def compose(*words: str) -> RunConfig:
    return config.compose(words)


def curve(iterations: int, interval: int, train: float, test: float) -> list[tuple[float, ...]]:
    """Rows of a history that falls from 90 % and ends at these errors."""
    marks = {mark: (1 - mark / iterations) ** 4 for mark in [*range(interval, iterations, interval), iterations]}
    return [(mark, 0.1, left + 0.1, train + left * (90 - train), left + 0.2, test + left * (90 - test))
            for mark, left in marks.items()]


def write_run(root: Path, experiment: str, seed: int = 0, *, test: float = 8.0, train: float = 0.5,
              precision: str = "fp32", overrides: tuple[str, ...] = (), status: str = "finished",
              folder: str | None = None, change: dict[str, Any] | None = None, device: str = "made-up device",
              responses: list[float] | None = None, gradients: dict[int, list[float]] | None = None) -> Path:
    """One run below root/runs with a record as the trainer writes it; `change` replaces keys of the record."""
    run = replace(compose(f"experiment={experiment}", *overrides), seed=seed)
    run = replace(run, machine=replace(run.machine, device=Device.auto, precision=Precision[precision]))
    own, length = config.config_hash(run), scale_lengths(run.train.iterations, run.scale)
    rows = curve(length, scale_lengths(run.evaluation.interval, run.scale), train, test)
    imagenet = run.data.name == "imagenet"
    split = "val" if imagenet else "test"
    names = ["iteration", "learning_rate", "train_loss", "train_top1_error", f"{split}_loss", f"{split}_top1_error"]
    if imagenet:
        names, rows = [*names, "val_top5_error"], [(*row, row[-1] / 3) for row in rows]
    if status != "finished":
        rows = rows[: len(rows) // 2]
    place = folder or (experiment if own in paper_hashes(experiment) else f"{experiment}@{own}")
    path = root / "runs" / place / f"seed{seed}"
    path.mkdir(parents=True, exist_ok=True)
    record = {
        "schema": 1, "experiment": experiment, "seed": seed, "identity": own, "status": status,
        "config": config.to_dict(run), "deviations": config.deviations(run), "iteration": int(rows[-1][0]),
        "iterations": length, "parameters": 269722, "evaluated_on": split, "warmup_end": None,
        "data": {"name": run.data.name, "split": "full", "sha256": "0"},
        "result": dict(zip(names, rows[-1], strict=True)) if status == "finished" else None,
        "train_seconds": 100.4, "evaluation_seconds": 23.0,
        "environment": {"device": device, "precision": precision}, "sessions": []}
    if responses is not None:
        write_rows(path / "responses.csv", ("layer", "name", "channels", "mean", "std"), [
            (number, f"layer{number}", 16, 0.0, value) for number, value in enumerate(responses, 1)])
        record["responses"] = {"images": 10000, "evaluated_on": "test", "precision": precision,
                               "sha256": file_sha256(path / "responses.csv")}
    if gradients is not None:
        write_rows(path / "gradients.csv", ("iteration", "layer", "name", "norm"), [
            (iteration, number, f"layer{number}", value) for iteration, values in gradients.items()
            for number, value in enumerate(values, 1)])
        record["gradients_sha256"] = file_sha256(path / "gradients.csv")
    (path / "run.json").write_text(json.dumps(record | (change or {})))
    write_rows(path / "history.csv", names, rows)
    return path


def write_rows(path: Path, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    path.write_text("\n".join(",".join(map(str, row)) for row in [names, *rows]) + "\n")


def write_evaluation(run: Path, protocol: str, top1: float = 25.0, top5: float = 8.0, /, **change: Any) -> Path:
    """evaluations/PROTOCOL.json of a made-up ImageNet run, as `repro eval` writes it; `change` replaces keys."""
    record = json.loads((run / "run.json").read_text())
    counts = {"top1_errors": round(top1 * IMAGES / 100), "top5_errors": round(top5 * IMAGES / 100)}
    content = {
        "schema": 1, "protocol": protocol, "experiment": record["experiment"], "seed": record["seed"],
        "identity": record["identity"], "weights_sha256": "0" * 64, "split": "val", "images": IMAGES, **counts,
        "val_top1_error": 100 * counts["top1_errors"] / IMAGES, "val_top5_error": 100 * counts["top5_errors"] / IMAGES,
        "precision": "fp32", "device": "made-up device", "wiring_test": False, "finished": True} | change
    path = run / "evaluations" / f"{protocol}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_ensemble(root: Path, **change: Any) -> Path:
    """ensembles/table5.json as `repro ensemble table5` writes it."""
    members = [{"experiment": one.experiment, "seed": one.seed, "precision": "fp32", "weights_sha256": "0" * 64,
                "identity": config.config_hash(with_precision(config.paper_config(one.experiment), Precision.fp32))}
               for one in ensemble("table5").members]
    content = {"schema": 1, "name": "table5", "protocol": "multi_scale", "split": "val", "members": members,
               "images": IMAGES, "top1_errors": 9_000, "top5_errors": 2_000, "val_top1_error": 18.0,
               "val_top5_error": 4.0, "wiring_test": False, "paper_runs": True, "finished": True} | change
    path = root / "ensembles" / "table5.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def statuses(table: Table) -> dict[str, str]:
    """{row key: reproduced, partial 2/5, stale, not run, ...}."""
    return {row.key: row.status for row in table.rows}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return tmp_path / "reference"
