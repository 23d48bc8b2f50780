"""Which full-length runs the committed evidence still lacks, cheapest first. Never imports torch."""

from dataclasses import dataclass
from pathlib import Path

from repro import paper
from repro.config import paper_config
from repro.reporting.selection import REFERENCE, YOURS, RunSet, paper_runs
from repro.reporting.status import lock_holder, needed_seeds
from repro.runs import Run, scan
from repro.schema import CIFAR10

FINISHED, DIVERGED, IN_USE, OPEN = "finished", "diverged", "in use", "open"


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


def pending(results: Path, reference: Path) -> list[Pending]:
    """All runs that rows of tables need and results/reference does not have, by cost, then seed.

    Those of CIFAR-10: an ImageNet run needs its data and days, and `repro status` names it. Of an experiment of k seeds
    these are seeds 0 to k-1. Runs that are finished here and only want publishing, that
    diverged here, or that another process holds, are in the list too, with that state.
    """
    committed, mine = RunSet(REFERENCE, tuple(scan(reference / "runs"))), RunSet(YOURS, tuple(scan(results / "runs")))
    here = {(run.folder.parent.name, run.folder.name): run for run in mine.runs}
    found = []
    for row, experiment in paper.reproduced_rows().items():
        if paper_config(experiment).data.name != CIFAR10:
            continue
        there = {run.seed for run in paper_runs(committed, experiment).runs}
        done = {run.seed for run in paper_runs(mine, experiment).runs}
        for seed in range(needed_seeds(row, experiment)):
            if seed not in there:
                run = here.get((experiment, f"seed{seed}"))
                found.append(entry(experiment, seed, run, seed in done))
    return sorted(found, key=lambda one: (one.multiply_adds, one.seed, "plain" not in one.experiment))


def entry(experiment: str, seed: int, run: Run | None, finished: bool) -> Pending:
    """One lacking run with what is there of it."""
    config = paper_config(experiment)
    state = OPEN
    if finished:
        state = FINISHED
    elif run is not None and lock_holder(run) is not None:
        state = IN_USE
    elif run is not None and run.status == "diverged":
        state = DIVERGED
    assert config.model.depth is not None
    cost = paper.golden_count("cifar10", config.model.depth).multiply_adds["A"]
    done = run.record.iteration if run and run.record else 0
    return Pending(experiment, seed, state, done, config.train.iterations, cost)


def lines(found: list[Pending]) -> list[str]:
    """The list for a person."""
    words = {FINISHED: "finished here; publish it", DIVERGED: "diverged here", IN_USE: "in progress elsewhere"}
    return [f"  {one.name:24} " + (words.get(one.state) or (
        f"iteration {one.iteration} of {one.iterations}" if one.iteration else "not begun")) for one in found]
