"""What `repro show` says: a run's settings with their sources, schedule and cost, and what differs. No torch.

The comments in conf/ are the only text about sources: `sources` reads them from the files that a run is composed of.
"""

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
    paper_config,
    scale_lengths,
    to_dict,
    with_precision,
)
from repro.config import settings as hashed_settings
from repro.errors import ConfigError
from repro.paths import display_path
from repro.record import Session
from repro.reporting.select import RunSet
from repro.reporting.status import measured_times
from repro.runs import Run, run_folder
from repro.schema import CIFAR10, CLASSES, IMAGENET, TRAINING_IMAGES, Device, Family, LrPolicy, Precision, RunConfig
from repro.wording import duration


def sources(files: Sequence[Path]) -> dict[str, tuple[str, str]]:
    """{dotted key: (the comment beside it or beside its section, its file)}; the last file that sets a key wins."""
    found: dict[str, tuple[str, str]] = {}
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
            found[f"{package[1]}.{key}" if package else key] = comment, display_path(path)
    return found


def settings(config: RunConfig, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Each setting's key, value, source and file; the paper's value and source where the experiment has another."""
    found, papers, theirs = sources(files_of(overrides)), {}, {}
    if config.name in experiments():  # none of the user's own
        papers, theirs = flat(to_dict(paper_config(config.name))), sources(files_of([f"experiment={config.name}"]))
    given = {key: f"${name}" for name, key in ENVIRONMENT.items() if os.environ.get(name)}
    given |= {word.partition("=")[0].lstrip("+"): "override" for word in overrides}
    if "model.depth" in given:  # another spelling
        given["model.blocks_per_stage"] = given["model.depth"]
    rows = []
    for key, value in flat(to_dict(config)).items():
        source, file = (given[key], "") if key in given else found.get(key, ("", ""))
        row = {"key": key, "value": value, "source": source, "file": file}
        if key in papers and papers[key] != value:
            row |= {"paper": papers[key], "paper_source": theirs.get(key, ("conf/", ""))[0]}
        rows += [row] if key not in ("name", "description", "reproduces") else []  # these configure nothing
    return rows


def facts(config: RunConfig, overrides: Sequence[str], found: Sequence[RunSet]) -> dict[str, Any]:
    """Everything `repro show experiment=NAME` says, as plain values; a folder for each precision that auto may mean."""
    on = {Device.cpu: PAPER_PRECISIONS[:1], Device.cuda: PAPER_PRECISIONS[1:]}
    auto = config.machine.precision is Precision.auto
    runs = [with_precision(config, precision) for precision in (
        on.get(config.machine.device, PAPER_PRECISIONS) if auto else [config.machine.precision])]
    changes = deviations(config)
    return {"experiment": config.name, "description": config.description, "settings": settings(config, overrides),
            "schedule": None if config.model.family is Family.vgg else schedule(config),  # VGG is not trained here
            "cost": counts(config), "times": measured_times(config.name, set(map(config_hash, runs)), *found),
            "folders": [{"folder": display_path(run_folder(run)), "identity": config_hash(run),
                         "precision": run.machine.precision.name} for run in runs],
            "deviations": changes, "reproduces": [] if changes else config.reproduces}


def schedule(config: RunConfig) -> dict[str, Any]:
    """The schedule as it runs, lengths in iterations; `passes` over the training images where their number is known."""
    train, data, scale = config.train, config.data, config.scale
    length = scale_lengths(train.iterations, scale)
    drops = [scale_lengths(drop, scale) for drop in train.lr_drops] if train.lr_policy is LrPolicy.drops else []
    images = {CIFAR10: 45_000 if data.split.name == "45k" else 50_000, IMAGENET: TRAINING_IMAGES}.get(data.name)
    passes = round(length * train.mini_batch_size / images, 2) if images and not data.wiring_test else None
    return {"scale": scale, "iterations": length, "passes": passes,
            "rates": [{"from": start, "to": end, "lr": round(train.lr * train.lr_factor**number, 12)} for
                      number, (start, end) in enumerate(pairwise([0, *(d for d in drops if d < length), length]))],
            "evaluation_interval": scale_lengths(config.evaluation.interval, scale)}


def counts(config: RunConfig) -> dict[str, Any]:
    """Parameters, and multiply-adds of one image (ImageNet: 224x224); None where golden_counts.yaml has none."""
    model, imagenet = config.model, config.data.name == IMAGENET
    count = paper.golden_counts(IMAGENET if imagenet else CIFAR10).get(model.depth or 0)
    known = count if count and model.num_classes == (CLASSES if imagenet else 10) else None
    option = model.shortcut_option.name
    adds = known and (known.multiply_adds_stride_in_3x3 if model.stride_in.name == "conv3x3" else None)
    return {"parameters": known and known.parameters.get(option),
            "multiply_adds": adds or (known and known.multiply_adds.get(option))}


def against(config: RunConfig, overrides: Sequence[str], name: str) -> dict[str, Any]:
    """What differs, of all that changes numbers, from a recipe of others or another experiment, and why it matters."""
    paper.pick(name, dict.fromkeys([*paper.recipes(), *experiments()]), "recipe or experiment")
    recipe = paper.recipe(name) if name in paper.recipes() else None
    own = [word for word in overrides if word.startswith(("experiment=", "hydra.searchpath="))]
    words = [*own, f"recipe={name}"] if recipe else [f"experiment={name}"]
    theirs = compose(words)
    if {config.machine.precision, theirs.machine.precision} <= {Precision.auto, *PAPER_PRECISIONS}:  # all the paper's
        theirs = with_precision(theirs, config.machine.precision)
    standing = hashed_settings(paper_config(config.name)) if config.name in experiments() else {}
    why = {key: comment for key, (comment, _) in sources(files_of(words)).items()} | (recipe["why"] if recipe else {})
    rows = [{"key": key, "here": here, "there": there, "paper": standing.get(key), "why": why.get(key, "")}
            for key, (here, there) in difference(hashed_settings(config), hashed_settings(theirs)).items()]
    notes = [f"not expressed by settings: {text}" for text in recipe.get("not_expressed", ())] if recipe else []
    notes.append(f"theirs: repro run {shlex.join(words)}")
    return {"names": [config.name, name], "differences": rows, "notes": notes}


def compare(*runs: Run) -> dict[str, Any]:
    """What two runs and their last errors (percent) differ in; ConfigError for an unreadable record."""
    known, histories = [], []
    for run in runs:
        if (record := run.record) is None:
            raise ConfigError(f"{display_path(run.folder)}: {run.problem}")
        session = record.sessions[-1] if record.sessions else Session()
        histories.append(run.history())
        known.append({**hashed_settings(record.config), "seed": run.seed, "status": run.problem or run.status,
                      "data sha256": record.data and record.data.sha256, "commit": session.commit,
                      "uncommitted changes": session.dirty, **to_builtins(record.environment),
                      **{key: value for row in histories[-1][-1:] for key, value in row.items() if "_error" in key}})
    rows = [{"key": key, "here": here, "there": there} for key, (here, there) in difference(*known).items()]
    at = next((one["iteration"] for one, other in zip(*histories, strict=False) if one != other), None)
    return {"names": [run.name + f" ({run.no_evidence})" * bool(run.no_evidence) for run in runs], "differences": rows,
            "notes": [f"the histories differ from iteration {at:g} on" if at else "the histories agree"]}


def align(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Rows as lines in columns, values as they stand in YAML (null, true, [1, 2]); the last column is free."""
    texts = [[value if isinstance(value, str) else json.dumps(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [("  " + "  ".join(map(str.ljust, row, widths))).rstrip() for row in texts]


def facts_text(found: Mapping[str, Any]) -> str:
    """A run's settings and facts for a person."""
    sections: dict[str, list[list[Any]]] = {}
    for one in found["settings"]:
        instead = f"; instead of {json.dumps(one['paper'])} ({one['paper_source']})" if "paper" in one else ""
        section = one["key"].rpartition(".")[0] or "run"
        sections.setdefault(section, []).append([one["key"], one["value"], one["source"] + instead])
    parts = {section: align(rows) for section, rows in sections.items()}
    parts["schedule"] = [f"  not trained here; `repro eval experiment={found['experiment']} weights=FILE` tests it"]
    if plan := found["schedule"]:
        passes = f", {plan['passes']:g} passes over the training images" if plan["passes"] else ""
        parts["schedule"] = [
            f"  {plan['iterations']} iterations (scale {plan['scale']:g}){passes}; tested every "
            f"{plan['evaluation_interval']}",
            *(f"  lr {one['lr']:g} for iterations {one['from']} to {one['to']}" for one in plan["rates"])]
    parts["cost"] = [f"  {key}: {f'{count:,.0f}' if count else 'not in golden_counts.yaml'}"
                     for key, count in found["cost"].items()]
    parts["cost"] += [f"  time: {duration(one['seconds'])} on {one['device']}, {one['precision']} ({one['source']})"
                      for one in found["times"]] or ["  time: not measured; --measure does it"]
    parts["folder and identity"] = align([list(one.values()) for one in found["folders"]])
    parts["deviations from the experiment"] = [f"  {text}" for text in found["deviations"] or ["none"]]
    parts["reproduces"] = [f"  {', '.join(found['reproduces']) or 'no row of a table'}"]
    return "\n".join([f"{found['experiment']}: {found['description']}",
                      *(line for title, lines in parts.items() for line in ("", f"{title}:", *lines))])


def differences_text(found: Mapping[str, Any]) -> str:
    """What `against` or `compare` found for a person."""
    heads = ["setting", *found["names"], "the paper", "why it matters"]
    rows = [list(one.values()) for one in found["differences"]]
    table = align([heads[: len(rows[0])], *rows]) if rows else ["  nothing that changes numbers differs"]
    return "\n".join([*table, "", *found["notes"]])
