"""Kill runs with SIGKILL, again and again, and compare what they end with: `python -m tests.torture [--kills 100]`.

Each run is a process of its own: `repro run` forked from this one, which has imported torch already, so that a kill
costs a second and not ten. Half of the kills come at random moments, the others in the middle of the next write of a
checkpoint. What must be the same as in a run left alone, bit for bit: weights.pt and history.csv.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import RawValue
from pathlib import Path
from typing import Any

import torch

from repro.cli import main
from repro.runs import Run, scan
from repro.training.step import Execution, TrainStep
from tests.made_images import SMOKE, make_folder

SHORT = ("machine.device=cpu", "machine.threads=1", "machine.tensorboard=false", "machine.checkpoint_seconds=0",
         "evaluation.responses=false", "evaluation.batch_norm_images=0", "evaluation.gradient_iterations=[]")
CIFAR = (*SHORT, "data=synthetic", "train.mini_batch_size=8", "train.batch_norm_group=8", "train.lr_drops=[]")
LONGEST = 1.5  # seconds that a run lives at most before it is killed, beside its start
PATIENCE = 60.0  # seconds in which it must come to where it is to be killed


@dataclass
class Toll:
    """What the kills of one run came to."""

    name: str
    kills: int = 0
    within_writes: int = 0  # left something half-written behind
    redone: int = 0  # updates that were done and lost
    updates: int = 0  # of the run
    problem: str | None = None

    def line(self) -> str:
        """For a person."""
        outcome = self.problem or "weights and history as of the run left alone"
        return (f"{self.name}: {self.kills} kills, {self.within_writes} of them within a write; {self.updates} "
                f"updates, {self.redone} done again; {outcome}")


def start(words: Sequence[str], counter: Any) -> int:
    """The pid of a forked `repro run`, which counts its updates in memory that all processes share."""
    pid = os.fork()
    if pid:
        return pid
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    advance = Execution.advance

    def counted(execution: Execution, updates: int) -> None:
        advance(execution, updates)
        counter.value += updates
    Execution.advance = counted
    os._exit(main(["run", *words]))


def exit_code(pid: int, options: int = 0) -> int | None:
    """How a process ended; with os.WNOHANG None while it lives."""
    found, status = os.waitpid(pid, options)
    return os.waitstatus_to_exitcode(status) if found else None


def kill(pid: int, root: Path, counter: Any, aimed: bool, wait: float) -> int | None:
    """Kill a run after it has done some updates: None, or its exit code if it ended first."""
    moment, before = time.monotonic() + PATIENCE, counter.value
    while counter.value == before and time.monotonic() < moment:
        if (code := exit_code(pid, os.WNOHANG)) is not None:
            return code
        time.sleep(0.001)
    moment = time.monotonic() + wait
    while time.monotonic() < moment or (aimed and not any(root.glob("runs/*/seed*/.checkpoint-*.part"))):
        if (code := exit_code(pid, os.WNOHANG)) is not None:
            return code
        if not aimed:
            time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def half_written(root: Path) -> bool:
    """Whether a run's folder has what a write left behind that was cut off."""
    folder = scan(root / "runs")[0].folder
    whole = {path.stem for path in folder.glob("checkpoint-*.json")}
    return bool(list(folder.glob(".*.part"))) or any(path.stem not in whole for path in folder.glob("checkpoint-*.pt"))


def difference(alone: Run, run: Run) -> str | None:
    """How a run ended otherwise than the one left alone; None if it did not."""
    if not (alone.finished and run.finished):
        return f"not finished: {run.problem or run.status}"
    if (alone.folder / "history.csv").read_bytes() != (run.folder / "history.csv").read_bytes():
        return "HISTORY DIFFERS"
    ours, theirs = (torch.load(one.folder / "weights.pt", weights_only=True) for one in (run, alone))
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
        return "WEIGHTS DIFFER"
    left = [path.name for path in run.folder.iterdir() if "checkpoint" in path.name or path.name.startswith(".")]
    return f"LEFT BEHIND: {left}" if left else None


def torture(name: str, words: Sequence[str], kills: int, scratch: Path, draw: random.Random) -> Toll:
    """Run a configuration once alone and once with so many kills, and compare."""
    toll, counter = Toll(name), RawValue("q", 0)
    alone, tortured = scratch / name / "alone", scratch / name / "tortured"
    if code := exit_code(start([*words, f"results={alone}"], counter)):
        toll.problem = f"the run left alone ended with {code}"
        return toll
    toll.updates, counter.value = counter.value, 0
    ended = None
    while ended is None:
        pid = start([*words, f"results={tortured}"], counter)
        if toll.kills == kills:
            ended = exit_code(pid)
        elif (ended := kill(pid, tortured, counter, toll.kills % 2 == 1, draw.uniform(0, LONGEST))) is None:
            toll.kills += 1
            toll.within_writes += half_written(tortured)
    toll.redone = counter.value - toll.updates
    toll.problem = f"ended with {ended}" if ended else difference(*scan(alone / "runs"), *scan(tortured / "runs"))
    return toll


def runs_of(kills: int, scratch: Path, short: bool) -> list[tuple[str, list[str], int]]:
    """Name, overrides and kills of the runs: the two shortest nets, and one that reads images by processes.

    They are so long that the last kill finds them alive, also on a machine that is faster than any. `short`: a net of
    8 layers alone, for a test.
    """
    if short:
        return [("resnet8", ["experiment=cifar_resnet20", "model.blocks_per_stage=1", *CIFAR,
                             f"train.iterations={20 * kills}", f"evaluation.interval={5 * kills}"], kills)]
    images = make_folder(scratch / "images")
    of_images = max(1, kills // 5)
    of_each = max(1, (kills - of_images) // 2)
    length = 60 * of_each
    return [*((net, [f"experiment=cifar_{net}", *CIFAR, f"train.iterations={length}",
                     f"evaluation.interval={length // 4}"], count)
              for net, count in (("plain20", of_each), ("resnet20", max(1, kills - of_images - of_each)))),
            ("image-folder", ["experiment=imagenet_optB", *SMOKE, *SHORT, f"data.root={images}",
                              "machine.loader=processes", "machine.workers=2", f"train.iterations={15 * of_images}",
                              "train.lr_drops=[]", f"evaluation.interval={5 * of_images}"], of_images)]


def load_without_momentum(step: TrainStep, state: dict[str, Any], load_state: Any = TrainStep.load_state) -> None:
    """A broken resume, to see that this is noticed."""
    load_state(step, state)
    for buffer in step.optimizer.momentum:
        buffer.zero_()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--short", action="store_true", help="a net of 8 layers alone")
    parser.add_argument("--forget", action="store_true", help="resume without the momentum: must be found out")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    asked = parser.parse_args()
    if asked.forget:
        TrainStep.load_state = load_without_momentum
    print(f"kills: {asked.kills}, seed of their moments: {asked.seed}", flush=True)
    draw, lost = random.Random(asked.seed), 0
    with tempfile.TemporaryDirectory(prefix="repro-torture-") as folder:
        for one in runs_of(asked.kills, Path(folder), asked.short):
            toll = torture(*one, Path(folder), draw)
            lost += toll.problem is not None
            print(toll.line(), flush=True)
    print(f"{asked.kills} kills asked for; runs lost: {lost or 'nothing'}")
    sys.exit(bool(lost))
