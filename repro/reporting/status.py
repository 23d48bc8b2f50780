"""What there is, what runs now, what results/reference lacks, and the time left. Never imports torch."""

import shlex
from collections.abc import Collection, Mapping
from typing import Any

from repro import config, paper
from repro.config import paper_config, paper_hashes
from repro.files import duration, holder, read_json
from repro.reporting import figures, select, tables
from repro.reporting.select import RunSet
from repro.runs import OUT_OF_MEMORY, Run
from repro.schema import CIFAR10

# States of a run that the reference lacks; `repro suite pending` advances those of CIFAR-10 that are open.
OPEN, FINISHED, DIVERGED, IN_USE = "open", "finished here", "diverged here", "in progress"
# What is said of a run that was begun, is not finished and did not diverge; one that still says 'running' was killed.
STOPPED = {"interrupted": "stopped", OUT_OF_MEMORY: OUT_OF_MEMORY, "running": "ended without saving a word (killed?)"}


def status(yours: RunSet, reference: RunSet) -> dict[str, Any]:
    """Everything `repro status` says. Locks are looked at and left as they are."""
    running, interrupted = [], []
    for run in yours.runs:
        if owner := holder(run.folder):
            running.append(progress(run, " ".join(f"{key} {owner.get(key)}" for key in ("pid", "host", "since"))))
        elif run.status in STOPPED:
            interrupted.append(progress(run, STOPPED[run.status]) | {"go_on": continuation(run)})
    listed = [{"name": name, "description": paper_config(name).description,
               **{pool.origin: sum(run.experiment == name for run in pool.runs) for pool in (yours, reference)}}
              for name in config.experiments()]
    return {"experiments": listed, "suites": {name: paper.suite(name).question for name in paper.suites()},
            "tables": tables.names(), "figures": figures.names(), "running": running, "interrupted": interrupted,
            "lacking": lacking(yours, reference)}


def progress(run: Run, state: str) -> dict[str, Any]:
    """How far a run is saved, its last test error (percent), and the seconds left by its own measured speed."""
    record, last = run.record, (run.history() or [{}])[-1]
    at, total = (record.iteration, record.iterations) if record else (0, 0)
    spent = record.train_seconds + record.evaluation_seconds if record else 0.0
    return {"run": run.name, "no_evidence": run.no_evidence, "state": state, "iteration": at, "iterations": total,
            "seconds_left": spent / at * (total - at) if at and spent else None,
            "errors": {key: value for key, value in last.items() if key.endswith("top1_error")}}


def continuation(run: Run) -> str:
    """The command that goes on with a run, with what it changes of its experiment."""
    record = select.record(run)
    values = config.flat(config.to_dict(record.config))
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
    """The status for a person."""
    known = [one for one in found["lacking"] if one["seconds_left"] is not None]
    return "\n".join([
        "experiments (repro run experiment=NAME), with the number of their runs here and in results/reference:",
        *(f"  {one['name']:18}  {one[select.YOURS]}  {one[select.REFERENCE]}  {one['description']}"
          for one in found["experiments"]),
        "suites (repro suite NAME):", *(f"  {name:21}  {question}" for name, question in found["suites"].items()),
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
