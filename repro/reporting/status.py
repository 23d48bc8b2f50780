"""`repro status`: what tables lack, what runs now, what is interrupted, and the time left. Never imports torch."""

import json
import shlex
from pathlib import Path
from typing import Any

from repro import paper
from repro.config import flat, paper_hashes, to_dict
from repro.reporting.evaluations import NOT_EVALUATED, TABLES, command, data_root, evaluated_runs
from repro.reporting.imagenet_tables import ENSEMBLE, ensemble_problem, read_ensemble
from repro.reporting.run_cost import benchmarks, measured_times
from repro.reporting.selection import RunSelection, RunSet, paper_runs, pools, record
from repro.runs import OUT_OF_MEMORY, Run, holder, read_rows, scan
from repro.wording import duration

COMMAND = "repro run {} seed={}"


def status(results: Path, reference: Path) -> dict[str, Any]:
    """Everything `repro status` says, as plain values."""
    mine = scan(results / "runs")
    running = [entry for run in mine if (entry := lock_holder(run)) is not None]
    busy = {entry["folder"] for entry in running}
    return {"running": running, "interrupted": [describe_stopped(run) for run in mine if is_open(run) and
                                                str(run.folder) not in busy],
            "lacking": missing_seeds(results, reference)}


def lock_holder(run: Run) -> dict[str, Any] | None:
    """Who works in a run's folder now; None if nobody. The lock is looked at and left as it is."""
    owner = holder(run.folder)
    return None if owner is None else progress(run) | {"owner": owner}


def is_open(run: Run) -> bool:
    """Whether a run was begun, is not finished and did not diverge."""
    return run.record is not None and run.status in ("running", "interrupted", OUT_OF_MEMORY)


def describe_stopped(run: Run) -> dict[str, Any]:
    """An interrupted run and how to go on; one that still says 'running' was killed."""
    note = {"interrupted": "stopped", OUT_OF_MEMORY: OUT_OF_MEMORY}.get(run.status,
                                                                        "ended without saving a word (killed?)")
    content = record(run)
    values = flat(to_dict(content.config))
    keys = [text.partition(": ")[0] for text in content.deviations]
    changes = [shlex.quote(f"{key}={override(values[key])}") for key in keys if key in values]
    go_on = " ".join([COMMAND.format(shlex.quote(f"experiment={run.experiment}"), run.seed), *changes])
    return progress(run) | {"note": note, "go_on": go_on + data_root(run)}


def override(value: Any) -> str:
    """A value as an override gives it: null, true, [1,2]."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def progress(run: Run) -> dict[str, Any]:
    """How far a run is, its last errors (percent), and the seconds left by its own measured speed."""
    content = run.record
    rows = run.history()
    done, total = (content.iteration, content.iterations) if content else (0, 0)
    at = int(rows[-1]["iteration"]) if rows else 0
    spent = content.train_seconds + content.evaluation_seconds if content else 0.0
    timing = recorded_seconds(run.folder / "timing.csv")
    reached, spent = (at, timing) if timing and at >= done else (done, spent)
    return {"name": f"{run.folder.parent.name}/{run.folder.name}", "folder": str(run.folder),
            "iteration": max(done, at),
            "iterations": total, "no_evidence": run.no_evidence,
            "seconds_left": spent / reached * (total - max(done, at)) if reached and spent else None,
            **{key: value for key, value in (rows[-1] if rows else {}).items() if key.endswith("top1_error")}}


def recorded_seconds(path: Path) -> float:
    """Seconds of training and testing up to the last row of timing.csv; 0 without one."""
    rows = read_rows(path)
    try:
        return float(rows[-1]["train_seconds"]) + sum(float(row["evaluation_seconds"]) for row in rows) if rows else 0.0
    except (KeyError, TypeError, ValueError):
        return 0.0


def missing_seeds(results: Path, reference: Path) -> list[dict[str, Any]]:
    """For each row of a table that an experiment reproduces: seeds there of those needed, and the time they'd take.

    Of an ImageNet row also the finished runs that are not tested in its table's way, and the command that does it.
    """
    found = pools(results, reference)
    entries = []
    for row, experiment in paper.reproduced_rows().items():
        answers: list[RunSelection] = [paper_runs(pool, experiment) for pool in found]
        best = max(answers, key=lambda answer: len(answer.runs))
        needed = needed_seeds(row, experiment)
        if len(best.runs) >= needed:
            entries += missing_evaluations(row, experiment, found, needed)
            continue
        times = measured_times(experiment, paper_hashes(experiment), 0, results, reference)
        time = next(iter(times or benchmarks(experiment, reference)), None)
        missing = needed - len(best.runs)
        state = next((answer.status for answer in answers if answer.status not in ("not run", "finished")), "not run")
        entries.append({"row": row, "experiment": experiment, "seeds": len(best.runs), "needed": needed,
                        "status": f"partial {len(best.runs)}/{needed}" if best.runs else state,
                        "seconds": time and time["seconds"] * missing, "source": time and (
                            f"{time['device']}, {time['precision']}; "
                            + ("a finished run" if time["kind"] == "run" else "computed from a few measured steps"))})
    return entries + missing_members(found, (results, reference))


def missing_evaluations(row: str, experiment: str, found: list[RunSet], needed: int) -> list[dict[str, Any]]:
    """What an ImageNet row lacks whose runs are finished: tests in its table's way; [] if it lacks none."""
    protocol = TABLES.get(row.partition("/")[0])
    if protocol is None:
        return []
    best = max((evaluated_runs(pool, experiment, protocol) for pool in found),
               key=lambda entry: (len(entry.found), len(entry.lacking)))
    if len(best.found) >= needed:
        return []
    return [{"row": row, "experiment": experiment, "seeds": len(best.found), "needed": needed, "status": NOT_EVALUATED,
             "seconds": None, "source": None, "go_on": command(run, protocol)} for run, _ in best.lacking[:1]]


def missing_members(found: list[RunSet], roots: tuple[Path, Path]) -> list[dict[str, Any]]:
    """What Table 5 lacks: how many members of its ensemble are tested, and its command; [] if one counts."""
    records = [read_ensemble(root) for root in roots]
    problems = [ensemble_problem(content, pool) for content, pool in zip(records, found, strict=True)]
    if any(content and problem is None for content, problem in zip(records, problems, strict=True)):
        return []
    wanted = paper.ensemble(ENSEMBLE)
    there = [sum(any(one.run.seed == member.seed
                     for one in evaluated_runs(pool, member.experiment, wanted.protocol).found)
                 for member in wanted.members) for pool in found]
    return [{"row": str(wanted.reproduces), "experiment": f"ensemble {ENSEMBLE}", "seeds": max(there),
             "needed": len(wanted.members), "of": "members", "status": "not counted" if any(records) else "not run",
             "seconds": None, "source": None, "go_on": f"repro ensemble {ENSEMBLE}"}]


def needed_seeds(row: str, experiment: str) -> int:
    """How many seeds a row of a table needs: as many as the suites run that feed this table; on ImageNet one.

    The second network of 152 layers that a suite trains is a member of Table 5's ensemble only.
    """
    table = row.partition("/")[0]
    if table in TABLES:
        return 1
    suites = [paper.suite(name) for name in paper.suites()]
    return max((suite.seeds_of(experiment) for suite in suites if table in suite.tables), default=1)


def text(found: dict[str, Any]) -> str:
    """The status for a person."""
    lines = ["running now:"]
    for run in found["running"]:
        owner = run["owner"]
        lines += [f"  {describe_run(run)}, about {duration(run['seconds_left'])} left",
                  f"    pid {owner.get('pid', '?')} on {owner.get('host', '?')} since {owner.get('since', '?')}"]
    lines += [] if found["running"] else ["  nothing"]
    if found["interrupted"]:
        lines.append("interrupted (the same command goes on):")
    for run in found["interrupted"]:
        lines += [f"  {describe_run(run)}, {run['note']}, about {duration(run['seconds_left'])} left",
                  f"    {run['go_on']}"]
    lines.append("what the tables lack:")
    for entry in found["lacking"]:
        left = "not measured" if entry["seconds"] is None else f"{duration(entry['seconds'])} to go"
        lines.append(f"  {entry['row']:22} {entry['experiment']:18} {entry['status']:13} "
                     f"{entry['seeds']}/{entry['needed']} {entry.get('of', 'seeds')}, "
                     + entry.get("go_on", left))
    lines += [] if found["lacking"] else ["  nothing"]
    seconds = {entry["experiment"]: entry["seconds"] for entry in found["lacking"]}  # one run may answer two rows
    known = [one for one in seconds.values() if one is not None]
    if known:
        sources = dict.fromkeys(entry["source"] for entry in found["lacking"] if entry["source"])
        lines += [f"  together {duration(sum(known))}, one after the other", *(f"  times: {one}" for one in sources)]
    return "\n".join(lines)


def describe_run(run: dict[str, Any]) -> str:
    """A run, how far it is, and its last errors."""
    errors = ", ".join(f"{key.removesuffix('_top1_error')} error {run[key]:.2f} %" for key in run
                       if key.endswith("top1_error"))
    made = f" ({run['no_evidence']})" if run["no_evidence"] else ""
    return f"{run['name']}{made}: iteration {run['iteration']} of {run['iterations']}{errors and f', {errors}'}"
