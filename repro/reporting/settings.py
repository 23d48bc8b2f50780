"""What `repro show` says: a run's settings with their sources, schedule and cost, and what differs. No torch."""

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from repro import paper
from repro.config import (
    ENVIRONMENT,
    PAPER_PRECISIONS,
    compose,
    config_hash,
    deviations,
    difference,
    experiments,
    files_of,
    flat,
    scale_lengths,
    to_dict,
    with_precision,
)
from repro.config import settings as hashed_settings
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


def settings(config: RunConfig, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Each setting with its value and source."""
    found = sources(files_of(overrides))
    found |= {key: f"${name}" for name, key in ENVIRONMENT.items() if os.environ.get(name)}
    given = {word.partition("=")[0].lstrip("+") for word in overrides}
    given |= {"model.blocks_per_stage"} if "model.depth" in given else set()  # another spelling
    return [{"key": key, "value": value, "source": "override" if key in given else found.get(key, "")}
            for key, value in flat(to_dict(config)).items() if key not in ("name", "description", "reproduces")]


def facts(config: RunConfig, overrides: Sequence[str], found: Sequence[RunSet]) -> dict[str, Any]:
    """Everything `repro show experiment=NAME` says; a folder for each of the paper's precisions if that is auto."""
    auto = config.machine.precision is Precision.auto
    runs = [with_precision(config, one) for one in (PAPER_PRECISIONS if auto else [config.machine.precision])]
    changes = deviations(config)
    return {"experiment": config.name, "description": config.description, "settings": settings(config, overrides),
            "schedule": schedule(config),
            "cost": counts(config), "times": measured_times(config.name, set(map(config_hash, runs)), *found),
            "folders": [{"folder": display_path(run_folder(run)), "identity": config_hash(run),
                         "precision": run.machine.precision.name} for run in runs],
            "deviations": changes, "reproduces": [] if changes else config.reproduces}


def schedule(config: RunConfig) -> dict[str, Any]:
    """The schedule as it runs, lengths in iterations."""
    train, scale = config.train, config.scale
    length = scale_lengths(train.iterations, scale)
    drops = [scale_lengths(drop, scale) for drop in train.lr_drops] if train.lr_policy is LrPolicy.drops else []
    return {"scale": scale, "iterations": length,
            "rates": [{"from": start, "to": end, "lr": round(train.lr * train.lr_factor**number, 12)} for
                      number, (start, end) in enumerate(pairwise([0, *(d for d in drops if d < length), length]))]}


def counts(config: RunConfig) -> dict[str, Any]:
    """Parameters, and multiply-adds of one image (ImageNet: 224x224); None where golden_counts.yaml has none."""
    model, imagenet = config.model, config.data.name == IMAGENET
    count = paper.golden_counts(IMAGENET if imagenet else CIFAR10).get(model.depth or 0)
    if count is None or model.num_classes != (CLASSES if imagenet else 10):
        return {"parameters": None, "multiply_adds": None}
    option = model.shortcut_option.name
    adds = count.multiply_adds_stride_in_3x3 if model.stride_in.name == "conv3x3" else None
    return {"parameters": count.parameters.get(option), "multiply_adds": adds or count.multiply_adds.get(option)}


def against(config: RunConfig, overrides: Sequence[str], name: str) -> dict[str, Any]:
    """What differs, of all that changes numbers, from a recipe of others or another experiment, and why it matters."""
    paper.pick(name, dict.fromkeys([*paper.recipes(), *experiments()]), "recipe or experiment")
    recipe = paper.recipe(name) if name in paper.recipes() else {}
    own = [word for word in overrides if word.startswith(("experiment=", "hydra.searchpath="))]
    words = [*own, f"recipe={name}"] if recipe else [f"experiment={name}"]
    theirs = compose(words)
    if {config.machine.precision, theirs.machine.precision} <= {Precision.auto, *PAPER_PRECISIONS}:  # all the paper's
        theirs = with_precision(theirs, config.machine.precision)
    why = sources(files_of(words)) | recipe.get("why", {})
    return {"names": [config.name, name], "differences": [
        {"key": key, "here": here, "there": there, "why": why.get(key, "")}
        for key, (here, there) in difference(hashed_settings(config), hashed_settings(theirs)).items()],
        "notes": [*(f"not expressed by settings: {text}" for text in recipe.get("not_expressed", ())),
                  f"theirs: repro run {shlex.join(words)}"]}


def compare(*runs: Run) -> dict[str, Any]:
    """What two runs and their last errors (percent) differ in; ConfigError for an unreadable record."""
    known, histories = [], []
    for run in runs:
        if (record := run.record) is None:
            raise ConfigError(f"{display_path(run.folder)}: {run.problem}")
        session = record.sessions[-1] if record.sessions else Provenance()
        histories.append(run.history())
        known.append({**hashed_settings(record.config), "seed": run.seed, "status": run.problem or run.status,
                      "data sha256": record.data and record.data.sha256, "commit": session.commit,
                      "uncommitted changes": session.dirty, **to_builtins(record.environment),
                      **{key: value for row in histories[-1][-1:] for key, value in row.items() if "_error" in key}})
    at = next((one["iteration"] for one, other in zip(*histories, strict=False) if one != other), None)
    return {"names": [run.name + f" ({run.no_evidence})" * bool(run.no_evidence) for run in runs],
            "differences": [{"key": key, "here": here, "there": there}
                            for key, (here, there) in difference(*known).items()],
            "notes": [f"the histories differ from iteration {at:g} on" if at else "the histories agree"]}


def align(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Rows as lines in columns, values as they stand in YAML (null, true, [1, 2]); the last column is free."""
    texts = [[value if isinstance(value, str) else json.dumps(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [("  " + "  ".join(map(str.ljust, row, widths))).rstrip() for row in texts]


def facts_text(found: Mapping[str, Any]) -> str:
    """A run's settings and facts for a person."""
    plan = found["schedule"]
    parts = {"settings": align([list(one.values()) for one in found["settings"]]), "schedule": [
        f"  {plan['iterations']} iterations (scale {plan['scale']:g})",
        *(f"  lr {one['lr']:g} for iterations {one['from']} to {one['to']}" for one in plan["rates"])]}
    parts["cost"] = [*(f"  {key}: {f'{count:,.0f}' if count else 'not in golden_counts.yaml'}"
                       for key, count in found["cost"].items()),
                     *([f"  time: {duration(one['seconds'])} on {one['device']}, {one['precision']} ({one['source']})"
                        for one in found["times"]] or ["  time: not measured; `repro show NAME --measure` does it"])]
    parts["folder and identity"] = align([list(one.values()) for one in found["folders"]])
    parts["deviations from the experiment"] = [f"  {text}" for text in found["deviations"] or ["none"]]
    parts["reproduces"] = [f"  {', '.join(found['reproduces']) or 'no row of a table'}"]
    return "\n".join([f"{found['experiment']}: {found['description']}",
                      *(line for title, lines in parts.items() for line in ("", f"{title}:", *lines))])


def differences_text(found: Mapping[str, Any]) -> str:
    """What `against` or `compare` found for a person."""
    heads = ["setting", *found["names"], "why it matters"]
    rows = [list(one.values()) for one in found["differences"]]
    table = align([heads[: len(rows[0])], *rows]) if rows else ["  nothing that changes numbers differs"]
    return "\n".join([*table, "", *found["notes"]])
