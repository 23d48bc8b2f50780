"""What `repro show` says: a run's settings with their sources, schedule and cost, and what differs. No torch."""

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from msgspec import to_builtins
from tabulate import tabulate

from repro import config, paper
from repro.config import PAPER_PRECISIONS, compose, flat, with_precision
from repro.errors import ConfigError
from repro.files import duration
from repro.paths import display_path
from repro.reporting.select import RunSet
from repro.reporting.status import measured_times
from repro.runs import Provenance, Run, run_folder
from repro.schema import CIFAR10, CLASSES, IMAGENET, LrPolicy, Precision, RunConfig


def sources(files: Sequence[Path]) -> dict[str, str]:
    """{dotted key: the comment beside it or its section, which is its source}; the last file that sets a key wins."""
    found: dict[str, str] = {}
    for path in files:
        text = path.read_text(encoding="utf-8")
        package = re.search(r"^# @package (?!_global_)(\w+)", text, re.MULTILINE)
        keys: list[str] = []  # that lead to the line
        comments: dict[str, str] = {}
        for line in text.splitlines():
            if match := re.match(r"( *)(\w+):(?:.*?\s#\s*(.*))?", line):
                keys[len(match[1]) // 2:] = [match[2]]
                comments[".".join(keys)] = match[3] or ""
        for key in flat(paper.read_yaml(path) or {}):
            comment = comments.get(key) or comments.get(key.partition(".")[0], "")
            found[f"{package[1]}.{key}" if package else key] = comment
    return found


def settings(run: RunConfig, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Each setting with its value and source."""
    found = sources(config.files_of(overrides))
    found |= {key: f"${name}" for name, key in config.ENVIRONMENT.items() if os.environ.get(name)}
    given = {word.partition("=")[0].lstrip("+") for word in overrides}
    given |= {"model.blocks_per_stage"} if "model.depth" in given else set()  # another spelling
    found |= dict.fromkeys(given, "override")
    return [{"key": key, "value": value, "source": found.get(key, "")}
            for key, value in flat(config.to_dict(run)).items() if key not in ("name", "description", "reproduces")]


def facts(run: RunConfig, overrides: Sequence[str], found: Sequence[RunSet]) -> dict[str, Any]:
    """Everything `repro show experiment=NAME` says; a folder for each of the paper's precisions if that is auto."""
    auto = run.machine.precision is Precision.auto
    runs = [with_precision(run, one) for one in (PAPER_PRECISIONS if auto else [run.machine.precision])]
    folders = [{"folder": display_path(run_folder(one)), "identity": config.config_hash(one),
                "precision": one.machine.precision.name} for one in runs]
    changes, train = config.deviations(run), run.train
    drops = [config.scale_lengths(drop, run.scale) for drop in train.lr_drops] * (train.lr_policy is LrPolicy.drops)
    length = config.scale_lengths(train.iterations, run.scale)
    parts = pairwise([0, *(drop for drop in drops if drop < length), length])  # of one rate each
    return {"experiment": run.name, "description": run.description, "settings": settings(run, overrides),
            "schedule": {"scale": run.scale, "iterations": length, "rates": [
                {"from": start, "to": end, "lr": round(train.lr * train.lr_factor**number, 12)}
                for number, (start, end) in enumerate(parts)]},
            "cost": counts(run), "times": measured_times(run.name, {one["identity"] for one in folders}, *found),
            "folders": folders, "deviations": changes, "reproduces": [] if changes else run.reproduces}


def counts(run: RunConfig) -> dict[str, Any]:
    """Parameters, and multiply-adds of one image (ImageNet: 224x224); None where golden_counts.yaml has none."""
    model, imagenet = run.model, run.data.name == IMAGENET
    count = paper.golden_counts(IMAGENET if imagenet else CIFAR10).get(model.depth or 0)
    if count is None or model.num_classes != (CLASSES if imagenet else 10):
        return {"parameters": None, "multiply_adds": None}
    option, v1_5 = model.shortcut_option.name, model.stride_in.name == "conv3x3"
    return {"parameters": count.parameters.get(option), "multiply_adds":
            (v1_5 and count.multiply_adds_stride_in_3x3) or count.multiply_adds.get(option)}


def against(run: RunConfig, overrides: Sequence[str], name: str) -> dict[str, Any]:
    """What differs, of all that changes numbers, from a recipe of others or another experiment, and why it matters."""
    paper.pick(name, dict.fromkeys([*paper.recipes(), *config.experiments()]), "recipe or experiment")
    recipe = paper.recipe(name) if name in paper.recipes() else {}
    own = [word for word in overrides if word.startswith(("experiment=", "hydra.searchpath="))]
    words = [*own, f"recipe={name}"] if recipe else [f"experiment={name}"]
    theirs = compose(words)
    if {run.machine.precision, theirs.machine.precision} <= {Precision.auto, *PAPER_PRECISIONS}:  # all the paper's
        theirs = with_precision(theirs, run.machine.precision)
    why = sources(config.files_of(words)) | recipe.get("why", {})
    return {"names": [run.name, name], "differences": [
        {"key": key, "here": here, "there": there, "why": why.get(key, "")}
        for key, (here, there) in config.difference(config.settings(run), config.settings(theirs)).items()],
        "notes": [*(f"not expressed by settings: {text}" for text in recipe.get("not_expressed", ())),
                  f"theirs: repro run {shlex.join(words)}"]}


def compare(*runs: Run) -> dict[str, Any]:
    """What two runs and their last errors (percent) differ in; ConfigError for an unreadable record."""
    known, histories = [], [run.history() for run in runs]
    for run, history in zip(runs, histories, strict=True):
        if (record := run.record) is None:
            raise ConfigError(f"{display_path(run.folder)}: {run.problem}")
        session = record.sessions[-1] if record.sessions else Provenance()
        known.append({**config.settings(record.config), "seed": run.seed, "status": run.problem or run.status,
                      "data sha256": record.data and record.data.sha256, "commit": session.commit,
                      **to_builtins(record.environment),
                      **{key: value for row in history[-1:] for key, value in row.items() if "_error" in key}})
    at = next((one["iteration"] for one, other in zip(*histories, strict=False) if one != other), None)
    return {"names": [run.name + f" ({run.no_evidence})" * bool(run.no_evidence) for run in runs],
            "differences": [{"key": key, "here": here, "there": there}
                            for key, (here, there) in config.difference(*known).items()],
            "notes": [f"the histories differ from iteration {at:g} on" if at else "the histories agree"]}


def align(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as lines in columns, values as they stand in YAML (null, true, [1, 2])."""
    texts = [[value if isinstance(value, str) else json.dumps(value) for value in row] for row in rows]
    lines = tabulate(texts, tablefmt="plain", disable_numparse=True).splitlines()
    return "\n".join(f"  {line}".rstrip() for line in lines)


def facts_text(found: Mapping[str, Any]) -> str:
    """A run's settings in columns, and the other facts as YAML."""
    times = [f"{duration(one['seconds'])} on {one['device']}, {one['precision']} ({one['source']})"
             for one in found["times"]] or ["not measured; --measure does it"]
    rest = {key: value for key, value in found.items() if key != "settings"} | {"times": times}
    return "\n".join(["settings:", align([list(one.values()) for one in found["settings"]]), "",
                      yaml.safe_dump(rest, sort_keys=False, default_flow_style=None, width=120)])


def differences_text(found: Mapping[str, Any]) -> str:
    """What `against` or `compare` found for a person."""
    heads = ["setting", *found["names"], "why it matters"]
    rows = [list(one.values()) for one in found["differences"]]
    table = align([heads[: len(rows[0])], *rows]) if rows else "  nothing that changes numbers differs"
    return "\n".join([table, "", *found["notes"]])
