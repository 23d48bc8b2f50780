"""Two runs side by side: differing settings first, then end errors and curves. Never imports torch."""

from typing import Any

from repro.config import numbers
from repro.errors import ConfigError
from repro.reporting.selection import record, run_name
from repro.runs import Run

ROWS = 12  # of the curves, at most
KINDS = ("train_top1_error", "test_top1_error", "val_top1_error")


def label(run: Run) -> str:
    """The run's name with what one must know of it: unfinished, synthetic images, a wiring test, a short schedule."""
    content = record(run)
    notes = [] if run.finished else [f"{run.problem or run.status} at iteration {content.get('iteration', '?')}"]
    notes += [run.no_evidence] if run.no_evidence else []
    notes += [f"scale {content['config']['scale']:g}"] if content["config"]["scale"] != 1 else []
    return run_name(run) + (f" ({', '.join(notes)})" if notes else "")


def compare(first: Run, second: Run) -> dict[str, Any]:
    """What differs between two runs, as plain values; ConfigError for a run without a readable record."""
    for run in (first, second):
        if run.record is None:
            raise ConfigError(f"{run.folder}: {run.problem}")
    histories = [{int(row["iteration"]): row for row in run.history()} for run in (first, second)]
    common = sorted(set(histories[0]) & set(histories[1]))
    keys = [kind for kind in KINDS if common and all(kind in history[common[0]] for history in histories)]
    differing = [at for at in common if histories[0][at] != histories[1][at]]
    largest = {key: max(abs(histories[0][at][key] - histories[1][at][key]) for at in common) for key in keys}
    return {"runs": [label(first), label(second)], "settings": settings(first, second),
            "errors": {key: [ends(run).get(key) for run in (first, second)]
                       for key in dict.fromkeys([*ends(first), *ends(second)])},
            "first_difference": differing[0] if differing else None, "common_points": len(common),
            "largest_difference": largest,
            "curve": [{"iteration": at, **{key: [history[at][key] for history in histories] for key in keys}}
                      for at in thinned(common)]}


def settings(first: Run, second: Run) -> list[dict[str, Any]]:
    """The settings in which two runs differ: those that change numbers, then seed, code, versions and machine."""
    flat = [described(run) for run in (first, second)]
    return [{"key": key, "values": [values.get(key) for values in flat]}
            for key in dict.fromkeys([*flat[0], *flat[1]]) if flat[0].get(key) != flat[1].get(key)]


def described(run: Run) -> dict[str, Any]:
    """Settings and surroundings of a run by key."""
    content = record(run)
    session = (content.get("sessions") or [{}])[-1]
    return {**numbers(content["config"]), "seed": run.seed, "split tested": content.get("evaluated_on"),
            "data sha256": (content.get("data") or {}).get("sha256"), "commit": session.get("commit"),
            "uncommitted changes": session.get("dirty"), **(content.get("environment") or {})}


def ends(run: Run) -> dict[str, float]:
    """Errors (percent) at the end; of an unfinished run at its last evaluation."""
    content = record(run)
    result = content.get("result") or (run.history() or [{}])[-1]
    found = {key: float(result[key]) for key in (*KINDS, "val_top5_error") if key in result}
    averaged = content.get("recomputed_batch_norm") or {}
    found |= {f"{key}, averaged BN": averaged[key] for key in KINDS if key in averaged}
    best = content.get("best_on_test") or {}
    return found | ({"extra, best on test (no result)": best["test_top1_error"]} if "test_top1_error" in best else {})


def thinned(points: list[int]) -> list[int]:
    """At most ROWS of the points, the first and the last among them."""
    if len(points) <= ROWS:
        return points
    return [points[round(number * (len(points) - 1) / (ROWS - 1))] for number in range(ROWS)]


def text(found: dict[str, Any]) -> str:
    """The comparison for a person."""
    lines = [f"A: {found['runs'][0]}", f"B: {found['runs'][1]}", "", "differing settings:"]
    lines += [f"  {entry['key']}: {entry['values'][0]} | {entry['values'][1]}" for entry in found["settings"]]
    lines += [] if found["settings"] else ["  none"]
    lines += ["", f"{'errors at the end (%)':38}{'A':>8}{'B':>8}{'B - A':>8}"]
    for key, (a, b) in found["errors"].items():
        both = f"{b - a:+8.2f}" if a is not None and b is not None else f"{'-':>8}"
        lines.append(f"  {key:36}{shown(a):>8}{shown(b):>8}{both}")
    first = found["first_difference"]
    lines += ["", f"histories: {found['common_points']} common points, " + (
        "all equal" if first is None else f"the first difference at iteration {first}")]
    lines += [f"  largest difference of {key}: {value:.2f}" for key, value in found["largest_difference"].items()]
    keys = list(found["largest_difference"])
    if found["curve"]:
        heads = "".join(f"{key.removesuffix('_top1_error') + ' ' + side:>10}" for key in keys for side in "AB")
        lines += ["", f"{'iteration':>10}{heads}"]
        lines += [f"{row['iteration']:>10}" + "".join(f"{value:10.2f}" for key in keys for value in row[key])
                  for row in found["curve"]]
    return "\n".join(lines)


def shown(value: float | None) -> str:
    """A percentage or '-'."""
    return "-" if value is None else f"{value:.2f}"


def figure_name(first: Run, second: Run) -> str:
    """The name of the figure of two runs."""
    names = [run_name(run).replace("/", "-").replace("@", "-") for run in (first, second)]
    return f"compare_{names[0]}_vs_{names[1]}"


