"""What there is, what runs now, what tables lack, and what runs took: `list`, `status`, `pending`. No torch."""

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro import paper
from repro.config import experiments, flat, override, paper_config, paper_hashes, to_dict
from repro.files import holder, read_json, read_rows
from repro.paths import conf_dir, display_path, experiments_dir
from repro.reporting import figures, select, tables
from repro.reporting.select import RunSet
from repro.runs import OUT_OF_MEMORY, Run
from repro.schema import CIFAR10
from repro.wording import duration

FINISHED, DIVERGED, IN_USE, OPEN = "finished", "diverged", "in use", "open"
# What is said of a run that was begun, is not finished and did not diverge; one that still says 'running' was killed.
STOPPED = {"interrupted": "stopped", OUT_OF_MEMORY: OUT_OF_MEMORY, "running": "ended without saving a word (killed?)"}


# ---- repro list


def entries(yours: RunSet, reference: RunSet) -> dict[str, Any]:
    """All that `repro list` shows, as plain values."""
    found = []
    for name in experiments():
        content = paper.read_yaml(conf_dir() / "experiment" / f"{name}.yaml")
        times = measured_times(name, paper_hashes(name), [yours, reference])
        found.append({"name": name, "description": content.get("description", ""),
                      "reproduces": content.get("reproduces", []),
                      "reference": states(reference.runs, name), "yours": states(yours.runs, name),
                      "cost": listed_cost(times[0]) if times else None})
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
            other = "other settings" if "@" in run.name else None
            if note := run.no_evidence or other:
                state += f" ({note})"
            counts[state] = counts.get(state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "-"


def listed_cost(time: Mapping[str, Any]) -> dict[str, Any]:
    """The hours that a run took, on several GPUs those of each of them, also in words."""
    hours, devices = time["seconds"] / 3600, time["devices"]
    each = f", {hours * devices:.2g} GPU-hours" if devices > 1 else ""
    seed = time["from"].rpartition("/")[2]
    return {"hours": hours * devices, "text": f"{hours:.2g} h on {time['device']}{each} ({seed})"}


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


def measured_times(experiment: str, identities: Collection[str], found: Iterable[RunSet]) -> list[dict[str, Any]]:
    """Seconds of finished runs with one of these identities, each with its machine, where its record has both."""
    times = []
    for run in (run for pool in found for run in pool.runs):
        record = run.record
        if not run.finished or record is None or run.experiment != experiment or run.identity not in identities:
            continue
        place, seconds = record.environment, record.train_seconds + record.evaluation_seconds
        if place.device and seconds:
            devices, together = place.devices or 1, place.jobs_per_device or 1
            device = f"{devices} x " * (devices > 1) + place.device + f", {together} runs at once" * (together > 1)
            times.append({"seconds": seconds, "kind": "run", "iterations": record.iterations, "devices": devices,
                          "device": device, "precision": select.precision(run), "from": run.name})
    return times


def benchmarks(experiment: str, reference: Path) -> list[dict[str, Any]]:
    """Committed estimates of the experiment as it stands: whole runs computed from a few measured updates."""
    return [{"seconds": one["run_seconds"], "kind": "estimate", "iterations": one["iterations"],
             "device": one["device"], "precision": one["precision"], "from": path.name}
            for path in sorted((reference / "bench").glob("cost_*.json"))
            for one in read_json(path)["experiments"] if one["experiment"] == experiment]


# ---- repro status


def status(yours: RunSet, reference: RunSet) -> dict[str, Any]:
    """Everything `repro status` says, as plain values. Locks are looked at and left as they are."""
    owners = {run.folder: owner for run in yours.runs if (owner := holder(run.folder)) is not None}
    return {"running": [progress(run) | {"owner": owners[run.folder]} for run in yours.runs if run.folder in owners],
            "interrupted": [stopped(run) for run in yours.runs
                            if run.status in STOPPED and run.folder not in owners],
            "lacking": lacking_rows([yours, reference])}


def stopped(run: Run) -> dict[str, Any]:
    """An interrupted run and how to go on."""
    values = flat(to_dict(select.record(run).config))
    keys = [text.partition(": ")[0] for text in select.record(run).deviations or []]
    words = ["repro run", shlex.quote(f"experiment={run.experiment}"), f"seed={run.seed}",
             *(shlex.quote(override(key, values[key])) for key in keys if key in values)]
    return progress(run) | {"note": STOPPED[run.status], "go_on": " ".join(words) + select.data_root(run)}


def progress(run: Run) -> dict[str, Any]:
    """How far a run is, its last errors (percent), and the seconds left by its own measured speed."""
    rows, record, timing = run.history(), run.record, read_rows(run.folder / "timing.csv")
    last = rows[-1] if rows else {}
    reached, total, spent = 0, 0, 0.0
    if record:
        reached, total, spent = record.iteration, record.iterations, record.train_seconds + record.evaluation_seconds
    at = max(reached, int(last.get("iteration", 0)))
    if timing and at > reached:  # tests since the record was written
        with suppress(KeyError, TypeError, ValueError):
            spent = float(timing[-1]["train_seconds"]) + sum(float(row["evaluation_seconds"]) for row in timing)
            reached = at
    return {"name": run.name, "folder": str(run.folder), "iteration": at, "iterations": total,
            "no_evidence": run.no_evidence,
            "seconds_left": spent / reached * (total - at) if reached and spent else None,
            **{key: value for key, value in last.items() if key.endswith("top1_error")}}


def lacking_rows(found: Sequence[RunSet]) -> list[dict[str, Any]]:
    """For each row of a table that an experiment reproduces: seeds there of those needed, and the time they'd take.

    Of an ImageNet row also the finished runs that are not tested in its table's way, and the command that does it; of
    Table 5 the members of its ensemble that are tested.
    """
    rows = []
    for row, experiment in paper.reproduced_rows().items():
        answers = [select.paper_runs(pool, experiment) for pool in found]
        seeds, needed = max(answer.count for answer in answers), needed_seeds(row, experiment)
        if seeds < needed:
            times = (measured_times(experiment, paper_hashes(experiment), found)
                     or benchmarks(experiment, found[-1].root))
            kinds = {"run": "a finished run", "estimate": "computed from a few measured steps"}
            source = f"{times[0]['device']}, {times[0]['precision']}; {kinds[times[0]['kind']]}" if times else None
            state = f"partial {seeds}/{needed}" if seeds else select.open_status(answers)
            rows.append(lacking(row, experiment, seeds, needed, state, source=source,
                                seconds=times[0]["seconds"] * (needed - seeds) if times else None))
        elif protocol := select.TABLES.get(row.partition("/")[0]):
            best = max((select.evaluated_runs(pool, experiment, protocol) for pool in found),
                       key=lambda answer: (answer.count, len(answer.lacking)))
            if best.count < needed and best.lacking:
                rows.append(lacking(row, experiment, best.count, needed, select.NOT_EVALUATED,
                                    go_on=select.evaluation_command(best.lacking[0][0], protocol)))
    return rows + lacking_members(found)


def lacking(row: str, experiment: str, seeds: int, needed: int, state: str, **more: Any) -> dict[str, Any]:
    """What one row lacks."""
    return {"row": row, "experiment": experiment, "seeds": seeds, "needed": needed, "status": state,
            "seconds": None, "source": None, **more}


def lacking_members(found: Iterable[RunSet]) -> list[dict[str, Any]]:
    """What Table 5 lacks: how many members of its ensemble are tested, and its command; [] if one counts."""
    wanted, state, there = paper.ensemble(select.ENSEMBLE), select.NOT_RUN, []
    for pool in found:
        if content := select.read_ensemble(pool.root):
            if select.ensemble_problem(content, pool) is None:
                return []
            state = "not counted"
        there.append(sum(any(run.seed == member.seed for run, _ in
                             select.evaluated_runs(pool, member.experiment, wanted.protocol).tests)
                         for member in wanted.members))
    return [lacking(str(wanted.reproduces), f"ensemble {select.ENSEMBLE}", max(there), len(wanted.members), state,
                    of="members", go_on=f"repro ensemble {select.ENSEMBLE}")]


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
    known = {entry["experiment"]: entry["seconds"] for entry in found["lacking"] if entry["source"]}
    if known:  # one run may answer two rows
        sources = dict.fromkeys(entry["source"] for entry in found["lacking"] if entry["source"])
        lines += [f"  together {duration(sum(known.values()))}, one after the other",
                  *(f"  times: {one}" for one in sources)]
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
