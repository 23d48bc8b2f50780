"""What there is, what runs now, what tables lack, and what runs took: `list`, `status`, `pending`. No torch."""

import json
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro import paper
from repro.config import experiments, flat, override, paper_config, paper_hashes, to_dict
from repro.files import holder, read_rows
from repro.paths import conf_dir, display_path, experiments_dir
from repro.reporting import figures, select, tables
from repro.reporting.select import RunSet
from repro.runs import OUT_OF_MEMORY, Run
from repro.schema import CIFAR10
from repro.wording import duration

FINISHED, DIVERGED, IN_USE, OPEN = "finished", "diverged", "in use", "open"


# ---- repro list


def entries(yours: RunSet, reference: RunSet) -> dict[str, Any]:
    """All that `repro list` shows, as plain values."""
    found = []
    for name in experiments():
        content = paper.read_yaml(conf_dir() / "experiment" / f"{name}.yaml")
        found.append({"name": name, "description": content.get("description", ""),
                      "reproduces": content.get("reproduces", []),
                      "reference": states(reference.runs, name), "yours": states(yours.runs, name),
                      "cost": measured_cost(name, [*yours.runs, *reference.runs])})
    suites = [paper.suite(name) for name in paper.suites()]
    return {"experiments": found,
            "suites": [{"name": one.name, "question": one.question, "experiments": list(one.experiments)}
                       for one in suites],
            "tables": tables.names(), "figures": figures.names(), "configurations": display_path(conf_dir()),
            "published": display_path(experiments_dir()), "results": display_path(yours.root)}


def states(runs: Iterable[Run], experiment: str) -> str:
    """The runs of an experiment in words: '2 finished, 1 interrupted', other settings named; '-' for none."""
    counts: dict[str, int] = {}
    for run in runs:
        if run.experiment == experiment:
            state = run.problem if run.status == "finished" and run.problem else run.status
            other = "" if "@" not in run.folder.parent.name else " (other settings)"
            state += f" ({run.no_evidence})" if run.no_evidence else other
            counts[state] = counts.get(state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "-"


def listing(found: Mapping[str, Any]) -> str:
    """The list for a person."""
    lines = ["Experiments (repro run experiment=NAME):"]
    lines += [f"  {e['name']:18} {e['description']:22} reference: {e['reference']}; yours: {e['yours']}"
              + (f"; {e['cost']['text']}" if e["cost"] else "") for e in found["experiments"]]
    lines += ["", "Suites (repro suite NAME):"]
    lines += [f"  {s['name']:21} {s['question']}" for s in found["suites"]]
    lines += ["", "Tables (repro table NAME):   " + ", ".join(found["tables"]),
              "Figures (repro figure NAME): " + ", ".join(found["figures"]),
              "", f"configurations: {found['configurations']}   published numbers: {found['published']}   "
              f"your results: {found['results']}"]
    return "\n".join(lines)


# ---- what runs took


def seconds_of(run: Run) -> float | None:
    """Seconds that a finished run trained and tested; None where its record does not say so, or not on what device."""
    if not run.finished or run.record is None or run.record.environment.device is None:
        return None
    return run.record.train_seconds + run.record.evaluation_seconds or None


def devices_of(run: Run) -> tuple[int, str]:
    """How many devices computed a run, and their name: '8 x NVIDIA H100'."""
    place = select.record(run).environment
    devices = place.devices or 1
    return devices, f"{devices} x {place.device}" if devices > 1 else str(place.device)


def measured_times(experiment: str, identities: Collection[str], iterations: int,
                   found: Iterable[RunSet]) -> list[dict[str, Any]]:
    """Times of finished runs with one of these identities, in seconds, each with its machine and where it stands."""
    times = []
    for run in (run for pool in found for run in pool.runs):
        if run.experiment == experiment and run.identity in identities and (seconds := seconds_of(run)) is not None:
            (devices, text), together = devices_of(run), select.record(run).environment.jobs_per_device or 1
            times.append({"seconds": seconds, "kind": "run", "iterations": iterations, "devices": devices,
                          "device": text + f", {together} runs at once" * (together > 1),
                          "precision": select.precision(run), "from": run.name})
    return times


def benchmarks(experiment: str, reference: Path) -> list[dict[str, Any]]:
    """Committed estimates of the experiment as it stands: whole runs computed from a few measured updates."""
    contents = {path.name: json.loads(path.read_text(encoding="utf-8"))
                for path in sorted((reference / "bench").glob("cost_*.json"))}
    return [{"seconds": one["run_seconds"], "kind": "estimate", "iterations": one["iterations"],
             "device": one["device"], "precision": one["precision"], "from": name}
            for name, content in contents.items() for one in content["experiments"] if one["experiment"] == experiment]


def measured_cost(experiment: str, runs: Iterable[Run]) -> dict[str, Any] | None:
    """What the first finished run of an experiment took whose time is recorded, in hours of one GPU; None without one.

    Of a run on several GPUs the hours count for each of them.
    """
    for run in runs:
        if run.folder.parent.name == experiment and (seconds := seconds_of(run)) is not None:
            hours, (devices, text) = seconds / 3600, devices_of(run)
            each = f", {hours * devices:.2g} GPU-hours" if devices > 1 else ""
            return {"hours": hours * devices, "text": f"{hours:.2g} h on {text}{each} ({run.folder.name})"}
    return None


# ---- repro status


def status(yours: RunSet, reference: RunSet) -> dict[str, Any]:
    """Everything `repro status` says, as plain values. Locks are looked at and left as they are."""
    owners = {run.folder: owner for run in yours.runs if (owner := holder(run.folder)) is not None}
    return {"running": [progress(run) | {"owner": owners[run.folder]} for run in yours.runs if run.folder in owners],
            "interrupted": [stopped(run) for run in yours.runs
                            if run.status in STOPPED and run.folder not in owners],
            "lacking": lacking_rows([yours, reference])}


# What is said of a run that was begun, is not finished and did not diverge; one that still says 'running' was killed.
STOPPED = {"interrupted": "stopped", OUT_OF_MEMORY: OUT_OF_MEMORY, "running": "ended without saving a word (killed?)"}


def stopped(run: Run) -> dict[str, Any]:
    """An interrupted run and how to go on."""
    values = flat(to_dict(select.record(run).config))
    keys = [text.partition(": ")[0] for text in select.record(run).deviations or []]
    words = ["repro run", shlex.quote(f"experiment={run.experiment}"), f"seed={run.seed}",
             *(shlex.quote(override(key, values[key])) for key in keys if key in values)]
    return progress(run) | {"note": STOPPED[run.status], "go_on": " ".join(words) + select.data_root(run)}


def progress(run: Run) -> dict[str, Any]:
    """How far a run is, its last errors (percent), and the seconds left by its own measured speed."""
    rows, content = run.history(), run.record
    at = int(rows[-1]["iteration"]) if rows else 0
    done, total, spent = (content.iteration, content.iterations, content.train_seconds + content.evaluation_seconds
                          ) if content else (0, 0, 0.0)
    timing = recorded_seconds(run.folder / "timing.csv")
    reached, spent = (at, timing) if timing and at >= done else (done, spent)
    return {"name": run.name, "folder": str(run.folder), "iteration": max(done, at),
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


def lacking_rows(found: Sequence[RunSet]) -> list[dict[str, Any]]:
    """For each row of a table that an experiment reproduces: seeds there of those needed, and the time they'd take.

    Of an ImageNet row also the finished runs that are not tested in its table's way, and the command that does it.
    """
    rows = []
    for row, experiment in paper.reproduced_rows().items():
        answers = [select.paper_runs(pool, experiment) for pool in found]
        seeds, needed = max(answer.count for answer in answers), needed_seeds(row, experiment)
        if seeds >= needed:
            rows += lacking_tests(row, experiment, found, needed)
            continue
        times = (measured_times(experiment, paper_hashes(experiment), 0, found)
                 or benchmarks(experiment, found[-1].root))
        state = select.open_status(answer for answer in answers if not answer.count)
        sources = [f"{time['device']}, {time['precision']}; " + (
            "a finished run" if time["kind"] == "run" else "computed from a few measured steps") for time in times]
        rows.append({"row": row, "experiment": experiment, "seeds": seeds, "needed": needed,
                     "status": f"partial {seeds}/{needed}" if seeds else state,
                     "seconds": times[0]["seconds"] * (needed - seeds) if times else None,
                     "source": sources[0] if sources else None})
    return rows + lacking_members(found)


def lacking_tests(row: str, experiment: str, found: Iterable[RunSet], needed: int) -> list[dict[str, Any]]:
    """What an ImageNet row lacks whose runs are finished: tests in its table's way; [] if it lacks none."""
    protocol = select.TABLES.get(row.partition("/")[0])
    if protocol is None:
        return []
    best = max((select.evaluated_runs(pool, experiment, protocol) for pool in found),
               key=lambda answer: (answer.count, len(answer.lacking)))
    if best.count >= needed or not best.lacking:
        return []
    return [{"row": row, "experiment": experiment, "seeds": best.count, "needed": needed,
             "status": select.NOT_EVALUATED, "seconds": None, "source": None,
             "go_on": select.evaluation_command(best.lacking[0][0], protocol)}]


def lacking_members(found: Iterable[RunSet]) -> list[dict[str, Any]]:
    """What Table 5 lacks: how many members of its ensemble are tested, and its command; [] if one counts."""
    wanted, status, there = paper.ensemble(select.ENSEMBLE), select.NOT_RUN, []
    for pool in found:
        if content := select.read_ensemble(pool.root):
            if select.ensemble_problem(content, pool) is None:
                return []
            status = "not counted"
        there.append(sum(any(run.seed == member.seed for run, _ in
                             select.evaluated_runs(pool, member.experiment, wanted.protocol).tests)
                         for member in wanted.members))
    return [{"row": str(wanted.reproduces), "experiment": f"ensemble {select.ENSEMBLE}", "seeds": max(there),
             "needed": len(wanted.members), "of": "members", "status": status,
             "seconds": None, "source": None, "go_on": f"repro ensemble {select.ENSEMBLE}"}]


def needed_seeds(row: str, experiment: str) -> int:
    """How many seeds a row of a table needs: as many as the suites run that feed this table; on ImageNet one.

    The second network of 152 layers that a suite trains is a member of Table 5's ensemble only.
    """
    table = row.partition("/")[0]
    suites = [] if table in select.TABLES else [paper.suite(name) for name in paper.suites()]
    return max((suite.seeds_of(experiment) for suite in suites if table in suite.tables), default=1)


def status_text(found: Mapping[str, Any]) -> str:
    """The status for a person."""
    lines = ["running now:"]
    for run in found["running"]:
        owner = run["owner"]
        lines += [f"  {progress_text(run)}, about {duration(run['seconds_left'])} left",
                  f"    pid {owner.get('pid', '?')} on {owner.get('host', '?')} since {owner.get('since', '?')}"]
    lines += [] if found["running"] else ["  nothing"]
    lines += ["interrupted (the same command goes on):"] if found["interrupted"] else []
    for run in found["interrupted"]:
        lines += [f"  {progress_text(run)}, {run['note']}, about {duration(run['seconds_left'])} left",
                  f"    {run['go_on']}"]
    lines.append("what the tables lack:")
    for entry in found["lacking"]:
        left = "not measured" if entry["seconds"] is None else f"{duration(entry['seconds'])} to go"
        lines.append(f"  {entry['row']:22} {entry['experiment']:18} {entry['status']:13} "
                     f"{entry['seeds']}/{entry['needed']} {entry.get('of', 'seeds')}, {entry.get('go_on', left)}")
    lines += [] if found["lacking"] else ["  nothing"]
    seconds = {entry["experiment"]: entry["seconds"] for entry in found["lacking"]}  # one run may answer two rows
    known = [one for one in seconds.values() if one is not None]
    if known:
        sources = dict.fromkeys(entry["source"] for entry in found["lacking"] if entry["source"])
        lines += [f"  together {duration(sum(known))}, one after the other", *(f"  times: {one}" for one in sources)]
    return "\n".join(lines)


def progress_text(run: Mapping[str, Any]) -> str:
    """A run, how far it is, and its last errors."""
    errors = "".join(f", {key.removesuffix('_top1_error')} error {value:.2f} %" for key, value in run.items()
                     if key.endswith("top1_error"))
    made = f" ({run['no_evidence']})" if run["no_evidence"] else ""
    return f"{run['name']}{made}: iteration {run['iteration']} of {run['iterations']}{errors}"


# ---- repro pending


@dataclass(frozen=True)
class Pending:
    """A run that results/reference lacks: how far it is here, and what state it is in (see the constants above)."""

    experiment: str
    seed: int
    state: str
    iteration: int
    iterations: int
    multiply_adds: float  # of one image, forward; what the runs are ordered by

    @property
    def name(self) -> str:
        """Its folder below runs/."""
        return f"{self.experiment}/seed{self.seed}"

    def __str__(self) -> str:
        """The run for a person."""
        words = {FINISHED: "finished here; publish it", DIVERGED: "diverged here", IN_USE: "in progress elsewhere"}
        begun = f"iteration {self.iteration} of {self.iterations}" if self.iteration else "not begun"
        return f"  {self.name:24} {words.get(self.state, begun)}"


def pending(yours: RunSet, reference: RunSet) -> list[Pending]:
    """All runs that rows of tables need and results/reference does not have, by cost, then seed.

    Those of CIFAR-10: an ImageNet run needs its data and days, and `repro status` names it. Of an experiment of k seeds
    these are seeds 0 to k-1. Runs that are finished here and only want publishing, that diverged here, or that another
    process holds, are in the list too, with that state.
    """
    here = {run.name: run for run in yours.runs}
    found = []
    for row, experiment in paper.reproduced_rows().items():
        config = paper_config(experiment)
        if config.data.name != CIFAR10 or config.model.depth is None:
            continue
        there, done = ({run.seed for run in select.paper_runs(pool, experiment).runs} for pool in (reference, yours))
        cost = paper.golden_count(CIFAR10, config.model.depth).multiply_adds["A"]
        for seed in set(range(needed_seeds(row, experiment))) - there:
            run = here.get(f"{experiment}/seed{seed}")
            state = (FINISHED if seed in done else OPEN if run is None else IN_USE if holder(run.folder) else
                     DIVERGED if run.status == "diverged" else OPEN)
            iteration = run.record.iteration if run and run.record else 0
            found.append(Pending(experiment, seed, state, iteration, config.train.iterations, cost))
    return sorted(found, key=lambda one: (one.multiply_adds, one.seed, "plain" not in one.experiment))
