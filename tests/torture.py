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
from multiprocessing import RawValue
from pathlib import Path
from typing import Any

from repro.cli import main
from repro.runs import scan
from repro.training.step import Execution
from tests.made_images import SMOKE, make_folder
from tests.training.conftest import same_end

SHORT = ("machine.device=cpu", "machine.threads=1", "machine.tensorboard=false", "machine.checkpoint_seconds=0",
         "evaluation.responses=false", "evaluation.batch_norm_images=0", "evaluation.gradient_iterations=[]",
         "train.lr_drops=[]")
CIFAR = (*SHORT, "data=synthetic", "train.mini_batch_size=8", "train.batch_norm_group=8")
LONGEST = 1.5  # seconds that a run lives at most before it is killed, beside its start


def start(words: Sequence[str], counter: Any) -> int:
    """The pid of a forked `repro run`, which counts its updates in memory that all processes share."""
    pid = os.fork()
    if pid:
        return pid
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    advance = Execution.advance

    def counted(execution: Execution, *updates: int) -> None:
        before = execution.done
        advance(execution, *updates)
        counter.value += execution.done - before
    Execution.advance = counted
    os._exit(main(["run", *words]))


def exit_code(pid: int, options: int = 0) -> int | None:
    found, status = os.waitpid(pid, options)
    return os.waitstatus_to_exitcode(status) if found else None


def kill(pid: int, root: Path, counter: Any, aimed: bool, wait: float) -> int | None:
    """Kill a run after it has done some updates: None, or its exit code if it ended first."""
    before, moment = counter.value, None
    while moment is None or time.monotonic() < moment or (
            aimed and not any(root.glob("runs/*/seed*/.checkpoint-*.part"))):
        if (code := exit_code(pid, os.WNOHANG)) is not None:
            return code
        if moment is None and counter.value > before:
            moment = time.monotonic() + wait
        if moment is None or not aimed:
            time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def torture(name: str, words: Sequence[str], kills: int, scratch: Path, draw: random.Random) -> bool:
    """Run a configuration once alone and once with so many kills; say and return whether both end alike."""
    counter, done = RawValue("q", 0), 0
    alone, tortured = scratch / name / "alone", scratch / name / "tortured"
    ended = exit_code(start([*words, f"results={alone}"], counter))
    updates, counter.value = counter.value, 0
    while ended == 0 and done < kills:
        pid = start([*words, f"results={tortured}"], counter)
        if (code := kill(pid, tortured, counter, done % 2 == 1, draw.uniform(0, LONGEST))) is not None:
            ended = code or -1
        done += 1
    ended = ended or exit_code(start([*words, f"results={tortured}"], counter))
    runs = [*scan(alone / "runs"), *scan(tortured / "runs")]
    same = ended == 0 and all(run.finished for run in runs) and same_end(*runs) and not list(
        runs[1].folder.glob("*checkpoint*"))
    print(f"{name}: {done} kills; {updates} updates, {counter.value - updates} done again; "
          + ("weights and history as of the run left alone" if same else f"DIFFERS, or ended with {ended}"), flush=True)
    return same


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--short", action="store_true", help="a net of 8 layers alone")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    asked = parser.parse_args()
    print(f"kills: {asked.kills}, seed of their moments: {asked.seed}", flush=True)
    kills, draw, lost = asked.kills if asked.short else -(-asked.kills // 3), random.Random(asked.seed), 0
    with tempfile.TemporaryDirectory(prefix="repro-torture-") as folder:
        scratch = Path(folder)
        # Name, updates for each kill, so that the last one finds the run alive on any machine, and overrides.
        runs = [("resnet8", 20, ["experiment=cifar_resnet20", "model.blocks_per_stage=1", *CIFAR])]
        if not asked.short:
            images = make_folder(scratch / "images")
            runs = [("plain20", 60, ["experiment=cifar_plain20", *CIFAR]),
                    ("resnet20", 60, ["experiment=cifar_resnet20", *CIFAR]),
                    ("image-folder", 15, ["experiment=imagenet_optB", *SMOKE, *SHORT, f"data.root={images}"])]
        for name, updates, words in runs:
            words += [f"train.iterations={updates * kills}", f"evaluation.interval={updates * kills // 4}"]
            lost += not torture(name, words, kills, scratch, draw)
    print(f"{asked.kills} kills asked for; runs lost: {lost or 'nothing'}")
    sys.exit(bool(lost))
