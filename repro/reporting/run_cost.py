"""What runs of an experiment took, as far as it was measured: finished runs and committed benchmarks. No torch."""

import json
from pathlib import Path
from typing import Any

from repro.runs import scan


def measured_times(experiment: str, identities: frozenset[str], iterations: int, *roots: Path) -> list[dict[str, Any]]:
    """Times of finished runs with one of these identities, in seconds, each with its machine and where it stands."""
    found = []
    for root in roots:
        for run in scan(root / "runs"):
            if run.experiment == experiment and run.finished and run.record and run.identity in identities:
                seconds = run.record["train_seconds"] + run.record["evaluation_seconds"]
                environment = run.record["environment"]
                together = environment.get("jobs_per_device", 1)
                found.append({"seconds": seconds, "kind": "run", "iterations": iterations,
                              "device": environment["device"] + (f", {together} runs at once" * (together > 1)),
                              "precision": run.record["config"]["machine"]["precision"],
                              "from": f"{run.folder.parent.name}/{run.folder.name}"})
    return found


def benchmarks(experiment: str, reference: Path) -> list[dict[str, Any]]:
    """Committed estimates of the experiment as it stands: whole runs computed from a few measured updates."""
    found = []
    for path in sorted((reference / "bench").glob("cost_*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        found += [{"seconds": one["run_seconds"], "kind": "estimate", "iterations": one["iterations"],
                   "device": one["device"], "precision": one["precision"], "from": path.name}
                  for one in content["experiments"] if one["experiment"] == experiment]
    return found


def time_lines(times: list[dict[str, Any]], suite: str | None) -> list[str]:
    """The measured times for a person, each with its duration as `text`, or how to measure one."""
    if not times:
        return [f"  time: not measured: repro cost {suite or 'SUITE'}"]
    return [f"  time: {one['text']} on {one['device']}, {one['precision']} "
            + (f"(finished run {one['from']})" if one["kind"] == "run"
               else f"(computed from measured updates, {one['from']})") for one in times]
