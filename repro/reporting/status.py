"""What `repro status` and `repro report` say of all runs, `repro show` of one, or of what differs. No torch."""

import base64
import json
import os
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from msgspec import to_builtins
from tabulate import tabulate

from repro import __version__, config, paper
from repro.config import PAPER_PRECISIONS, compose, flat, paper_config, paper_hashes, with_precision
from repro.errors import ConfigError
from repro.files import duration, holder, read_json, utc_now
from repro.paths import display_path, escape
from repro.reporting import figures, select, tables
from repro.reporting.claims import evaluate
from repro.reporting.select import RunSet
from repro.runs import OUT_OF_MEMORY, Provenance, Run, run_folder
from repro.schema import CIFAR10, LrPolicy, Precision, RunConfig

# States of a run that the reference lacks; `repro suite pending` advances those of CIFAR-10 that are open.
OPEN, FINISHED, DIVERGED, IN_USE = "open", "finished here", "diverged here", "in progress"
# What is said of a run that was begun, is not finished and did not diverge; one that still says 'running' was killed.
STOPPED = {"interrupted": "stopped", OUT_OF_MEMORY: OUT_OF_MEMORY, "running": "ended without saving a word (killed?)"}


def status(yours: RunSet, reference: RunSet) -> dict[str, Any]:
    """Everything `repro status` says. Locks are looked at and left as they are."""
    running, interrupted = [], []
    for run in yours.runs:
        if owner := holder(run.folder):
            running.append(progress(run, escape(" ".join(f"{key} {owner.get(key)}"
                                                         for key in ("pid", "host", "since")))))
        elif run.status in STOPPED:
            interrupted.append(progress(run, STOPPED[run.status]) | {"go_on": continuation(run)})
    listed = [{"name": name, **{pool.origin: sum(run.experiment == name for run in pool.runs)
                                for pool in (yours, reference)}, "description": paper_config(name).description}
              for name in config.experiments()]
    return {"experiments": listed, "suites": {name: paper.suite(name).question for name in paper.suites()},
            "tables": tables.names(), "figures": figures.names(), "running": running, "interrupted": interrupted,
            "lacking": lacking(yours, reference)}


def progress(run: Run, state: str) -> dict[str, Any]:
    """How far a run is saved, its last test error (percent), and the seconds left by its own measured speed."""
    record, last = run.record, (run.history() or [{}])[-1]
    at, total = (record.iteration, record.iterations) if record else (0, 0)
    spent = select.seconds(run) if record else 0.0
    return {"run": run.name, "no_evidence": run.no_evidence, "state": state, "iteration": at, "iterations": total,
            "seconds_left": spent / at * (total - at) if at and spent else None,
            "errors": {key: value for key, value in last.items() if key.endswith("top1_error")}}


def continuation(run: Run) -> str:
    """The command that goes on with a run, with what it changes of its experiment."""
    record = select.record(run)
    values = flat(config.to_dict(record.config))
    changed = [text.partition(": ")[0] for text in record.deviations or []]
    return "repro run " + shlex.join([f"experiment={run.experiment}", f"seed={run.seed}",
                                      *(config.override(key, values[key]) for key in changed if key in values)])


def lacking(yours: RunSet, reference: RunSet) -> list[dict[str, Any]]:
    """The full-length runs that tables need and results/reference lacks: cheapest first, ImageNet's last."""
    here, found = {run.name: run for run in yours.runs}, []
    suites = [paper.suite(name) for name in paper.suites()]
    needed = [own for own in map(paper_config, config.experiments()) if own.reproduces]
    for own in sorted(needed, key=lambda one: (one.data.name != CIFAR10, one.model.depth)):
        name, total = own.name, own.train.iterations
        times = measured_times(name, paper_hashes(name), yours, reference)
        done, there = ({run.seed for run in select.paper_runs(pool, name).runs} for pool in (yours, reference))
        # of an experiment of which a suite runs k seeds: 0 to k-1
        seeds = max((suite.seeds.get(name, 1) for suite in suites if name in suite.experiments), default=1)
        for seed in sorted(set(range(seeds)) - there):
            run = here.get(f"{name}/seed{seed}")
            state = (FINISHED if seed in done else OPEN if run is None else IN_USE if holder(run.folder) else
                     DIVERGED if run.status == "diverged" else OPEN)
            at = run.record.iteration if run and run.record else 0
            found.append({"run": f"{name}/seed{seed}", "experiment": name, "seed": seed, "dataset": own.data.name,
                          "state": state, "iteration": at, "iterations": total,
                          "seconds_left": times[0]["seconds"] * (1 - at / total) if times else None,
                          "measured": f"{times[0]['device']}, {times[0]['source']}" if times else None})
    return found


def measured_times(experiment: str, identities: Collection[str], *found: RunSet) -> list[dict[str, Any]]:
    """Seconds of whole runs: of finished ones with these identities, then the committed estimates of the paper's."""
    times = [{"seconds": select.seconds(run), "precision": select.precision(run), "device": select.device(run),
              "source": f"finished run {run.name}"} for pool in found for run in pool.runs
             if run.experiment == experiment and run.finished and run.identity in identities and select.seconds(run)]
    if paper_hashes(experiment) & set(identities):
        times += [{"seconds": one["run_seconds"], "device": one["device"], "precision": one["precision"],
                   "source": f"computed from measured updates, {path.name}"}
                  for path in sorted((found[-1].root / "bench").glob("cost_*.json"))
                  for one in read_json(path)["experiments"] if one["experiment"] == experiment]
    return times


def status_text(found: Mapping[str, Any]) -> str:
    known = [one for one in found["lacking"] if one["seconds_left"] is not None]
    return "\n".join([
        "experiments (repro run experiment=NAME), with the number of their runs here and in results/reference:",
        align([list(one.values()) for one in found["experiments"]]),
        "suites (repro suite NAME):", align(list(found["suites"].items())),
        f"tables (repro table NAME): {', '.join(found['tables'])}",
        f"figures (repro figure NAME): {', '.join(found['figures'])}",
        "running now:", *map(run_text, found["running"]), "interrupted:", *map(run_text, found["interrupted"]),
        "what results/reference lacks (repro suite pending runs those of CIFAR-10):", *map(run_text, found["lacking"]),
        *dict.fromkeys(f"  measured on {one['measured']}" for one in known),
        f"  together {duration(sum(one['seconds_left'] for one in known))} for the {len(known)} that are measured"])


def run_text(run: Mapping[str, Any]) -> str:
    """A run with its state, how far it is, its errors, the time left, and the command that goes on."""
    errors = [f"{key.removesuffix('_top1_error')} error {value:.2f} %" for key, value in run.get("errors", {}).items()]
    parts = [run.get("no_evidence"), run["state"], f"iteration {run['iteration']} of {run['iterations']}", *errors,
             f"{duration(run['seconds_left'])} left" if run["seconds_left"] else None, run.get("go_on")]
    return f"  {run['run']:24}  {', '.join(filter(None, parts))}"


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
    found = sources(config.files_of(overrides))
    found |= {key: f"${name}" for name, key in config.ENVIRONMENT.items() if os.environ.get(name)}
    given = config.override_keys(overrides)
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
            "cost": paper.counts(run), "times": measured_times(run.name, {one["identity"] for one in folders}, *found),
            "folders": folders, "deviations": changes, "reproduces": [] if changes else run.reproduces}


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
    heads = ["setting", *found["names"], "why it matters"]
    rows = [list(one.values()) for one in found["differences"]]
    table = align([heads[: len(rows[0])], *rows]) if rows else "  nothing that changes numbers differs"
    return "\n".join([table, "", *found["notes"]])


def report(runs: Sequence[RunSet]) -> str:
    """The page. Everything from a record is escaped; the same runs give the same page but for its date."""
    import jinja2
    parts = {None: ("tables", "Tables and figures", ""),
             select.SHORT: ("short", "Short runs", "not the paper's schedule"),
             select.SYNTHETIC: ("synthetic", "Synthetic images", select.NOT_CIFAR)}
    sections = []
    for variant, (key, title, warning) in parts.items():
        drawn = {name: figures.render(name, runs, ["svg"]) for name in figures.names()
                 if select.split_name(name)[0] == variant}
        images = {name: base64.b64encode(made["svg"]).decode() for name, made in drawn.items() if made}
        if images or variant != select.SYNTHETIC:
            sections.append({"id": key, "title": title, "warning": warning, "figures": images, "tables": [
                tables.build(name, runs) for name in tables.names()
                if name != "claims" and select.split_name(name)[0] == variant]})
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
                                     autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template("report.html.j2").render(
        runs=[(pool.origin, run) for pool in runs for run in pool.runs], select=select, version=__version__,
        claims=evaluate(runs), date=utc_now(), sections=sections)
