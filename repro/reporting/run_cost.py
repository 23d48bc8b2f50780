"""What runs of an experiment took, as far as it was measured: finished runs and committed benchmarks. No torch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.record import Environment
from repro.runs import Run, scan


def measured_times(experiment: str, identities: frozenset[str], iterations: int, *roots: Path) -> list[dict[str, Any]]:
    """Times of finished runs with one of these identities, in seconds, each with its machine and where it stands."""
    found = []
    for root in roots:
        for run in scan(root / "runs"):
            if run.experiment != experiment or not run.finished or run.identity not in identities:
                continue
            seconds = seconds_of(run)
            if seconds is None or run.record is None or run.record.environment.device is None:
                continue
            environment = run.record.environment
            together, devices = environment.jobs_per_device or 1, environment.devices or 1
            found.append({"seconds": seconds, "kind": "run", "iterations": iterations, "devices": devices,
                          "device": device_text(environment) + (f", {together} runs at once" * (together > 1)),
                          "precision": run.record.config.machine.precision.name,
                          "from": f"{run.folder.parent.name}/{run.folder.name}"})
    return found


def seconds_of(run: Run) -> float | None:
    """Seconds that a run trained and tested; None where its record does not say so."""
    return (run.record.train_seconds + run.record.evaluation_seconds or None) if run.record else None


def device_text(environment: Environment) -> str:
    """'8 x NVIDIA H100', or the name of the only device."""
    devices = environment.devices or 1
    return f"{devices} x {environment.device}" if devices > 1 else str(environment.device)


def benchmarks(experiment: str, reference: Path) -> list[dict[str, Any]]:
    """Committed estimates of the experiment as it stands: whole runs computed from a few measured updates."""
    found = []
    for path in sorted((reference / "bench").glob("cost_*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        found += [{"seconds": one["run_seconds"], "kind": "estimate", "iterations": one["iterations"],
                   "device": one["device"], "precision": one["precision"], "from": path.name}
                  for one in content["experiments"] if one["experiment"] == experiment]
    return found


def measured_cost(experiment: str, runs: Sequence[Run]) -> dict[str, Any] | None:
    """What `repro list` says that a run of an experiment took: the first finished one whose time is recorded, or None.

    hours: of one GPU, so those of a run on several count for each of them.
    """
    for run in runs:
        seconds = seconds_of(run)
        if (run.folder.parent.name == experiment and run.finished and seconds is not None
                and run.record is not None and run.record.environment.device is not None):
            environment = run.record.environment
            wall, devices = seconds / 3600, environment.devices or 1
            each = f", {wall * devices:.2g} GPU-hours" if devices > 1 else ""
            return {"hours": wall * devices,
                    "text": f"{wall:.2g} h on {device_text(environment)}{each} ({run.folder.name})"}
    return None


def gpu_hours(time: Mapping[str, Any]) -> str:
    """', 40 GPU-hours' of a run on several devices, else ''."""
    return f", {time['seconds'] * time['devices'] / 3600:.2g} GPU-hours" if time["devices"] > 1 else ""


def time_lines(times: list[dict[str, Any]], suite: str | None) -> list[str]:
    """The measured times for a person, each with its duration as `text`, or how to measure one."""
    if not times:
        return [f"  time: not measured: repro cost {suite or 'SUITE'}"]
    return [f"  time: {one['text']} on {one['device']}, {one['precision']} "
            + (f"(finished run {one['from']}{gpu_hours(one)})" if one["kind"] == "run"
               else f"(computed from measured updates, {one['from']})") for one in times]
