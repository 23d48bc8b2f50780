"""An exact resume in small: a run that is interrupted ends bit for bit like one that is left alone."""

import contextlib
import io
import signal
import tempfile
from pathlib import Path

import numpy as np
import torch

from repro.config import compose
from repro.errors import Stopped
from repro.runs import Run
from repro.stopping import StopRequest
from repro.training import engine
from repro.verification.check import Difference, agreement, same

UPDATES, INTERRUPTED_AFTER = 8, 3
SETTINGS = ("experiment=cifar_resnet110", "data=synthetic", "model.blocks_per_stage=1", "train.mini_batch_size=16",
            "train.batch_norm_group=16", f"train.iterations={UPDATES}", "train.lr_drops=[5,7]", "train.warmup_window=2",
            "train.warmup_max=4", f"evaluation.interval={UPDATES}", "evaluation.responses=false",
            "evaluation.batch_norm_images=0", "evaluation.gradient_iterations=[]", "machine.device=cpu",
            "machine.precision=fp32", "engine=eager")


def resume() -> str:
    """Train the smallest network on synthetic images twice, once with an interruption, in a temporary folder."""
    with (tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()),
          contextlib.redirect_stdout(io.StringIO())):
        whole = trained(Path(folder) / "whole", None)
        resumed = trained(Path(folder) / "resumed", INTERRUPTED_AFTER)
        assert resumed.record is not None
        compared = [Difference("sessions of the interrupted run", 2, len(resumed.record["sessions"])),
                    Difference("history.csv", *((run.folder / "history.csv").read_text() for run in (whole, resumed)))]
        wanted, found = (weights_of(run) for run in (whole, resumed))
    compared += [Difference("weights", list(wanted), list(found)),
                 *(agreement(name, wanted[name], found[name]) for name in wanted if name in found)]
    same(compared)
    return (f"{UPDATES} updates, interrupted after {INTERRUPTED_AFTER}: the same {len(wanted)} tensors and history, "
            "bit for bit")


def trained(results: Path, interrupted_after: int | None) -> Run:
    """The run with its results in a folder; first up to a signal where it is to be interrupted."""
    config = compose([*SETTINGS, f"results={results}"])
    if interrupted_after is not None:
        stop = StopRequest()  # not active: it receives what it is given here
        stepwise = engine.run_stepwise(config, stop, say=engine.silent)
        for _ in range(interrupted_after - 1):
            next(stepwise)
        stop.received = signal.SIGTERM
        with contextlib.suppress(Stopped):
            for _ in stepwise:
                pass
    return engine.run(config, say=engine.silent)


def weights_of(run: Run) -> dict[str, np.ndarray]:
    """The final weights and running statistics."""
    state = torch.load(run.folder / "weights.pt", weights_only=True)
    return {name: values.numpy() for name, values in state.items()}
