"""`repro list`: experiments, suites, tables and figures, and what is there of them. Never imports torch."""

import json
from pathlib import Path
from typing import Any

from repro import paper
from repro.config import experiments
from repro.paths import conf_dir, display_path, experiments_dir
from repro.reporting.figure_data import names as figure_names
from repro.reporting.run_cost import measured_cost
from repro.reporting.tables import names as table_names
from repro.runs import Run, scan


def entries(results: Path, reference: Path) -> dict[str, Any]:
    """All that `repro list` shows, as plain values."""
    mine, committed = scan(results / "runs"), scan(reference / "runs")
    found: list[dict[str, Any]] = []
    for name in experiments():
        content = paper.read_yaml(conf_dir() / "experiment" / f"{name}.yaml")
        found.append({"name": name, "description": content.get("description", ""),
                      "reproduces": content.get("reproduces", []),
                      "reference": states(committed, name), "yours": states(mine, name),
                      "cost": measured_cost(name, [*mine, *committed])})
    suites = [{"name": name, "question": paper.suite(name).question, "experiments": list(paper.suite(name).experiments)}
              for name in paper.suites()]
    return {"experiments": found, "suites": suites, "tables": table_names(), "figures": figure_names(),
            "configurations": display_path(conf_dir()), "published": display_path(experiments_dir()),
            "results": display_path(results)}


def states(runs: list[Run], experiment: str) -> str:
    """The runs of an experiment in words: '2 finished, 1 interrupted', other settings named; '-' for none."""
    counts: dict[str, int] = {}
    for run in runs:
        if run.experiment != experiment:
            continue
        state = run.problem if run.status == "finished" and run.problem else run.status
        other = "" if "@" not in run.folder.parent.name else " (other settings)"
        state += f" ({run.no_evidence})" if run.no_evidence else other
        counts[state] = counts.get(state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "-"


def listing(results: Path, reference: Path) -> str:
    """The list for a person."""
    found = entries(results, reference)
    lines = ["Experiments (repro run experiment=NAME):"]
    lines += [f"  {e['name']:18} {e['description']:22} reference: {e['reference']}; yours: {e['yours']}"
              + (f"; {e['cost']['text']}" if e["cost"] else "") for e in found["experiments"]]
    lines += ["", "Suites (repro suite NAME):"]
    lines += [f"  {s['name']:21} {s['question']}" for s in found["suites"]]
    lines += ["", "Tables (repro table NAME):   " + ", ".join(found["tables"]),
              "Figures (repro figure NAME): " + ", ".join(found["figures"]),
              "", f"configurations: {found['configurations']}   published numbers: {found['published']}   "
              f"your results: {found['results']}"]
    return "\n".join(lines) + "\n"


def listing_json(results: Path, reference: Path) -> str:
    """The list as JSON."""
    return json.dumps(entries(results, reference), indent=2) + "\n"
