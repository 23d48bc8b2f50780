"""Start a run: by this process, or by one for each device of this machine (`repro run ... machine=ddp devices=N`)."""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import resource_tracker
from typing import Any

from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from repro.data.loader import cores_here
from repro.errors import LostProcessError, PeerError, ReproError, Stopped
from repro.runs import Run, read_run
from repro.stopping import SIGNALS, StopRequest, end_with_parent
from repro.streams import open_streams, show_messages
from repro.training.distributed import rank_from_environment
from repro.training.plan import Plan
from repro.training.train import train_here

logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.CRITICAL)  # `failure` says which process and why
Train = Callable[[Plan, StopRequest], object]
# Choice: seconds in which the others may end by themselves, the first one may be saving; after as many again they are
# killed.
GRACE = 30.0


def run(plan: Plan) -> Run:
    """Train a run to its end, or go on where it stopped; the run on disk. Raises what `train_here` does.

    With several devices this starts a process for each and waits for them, unless it was started as one of several.
    """
    if plan.devices > 1 and rank_from_environment() is None:
        return launch(plan)
    with StopRequest(plan.config.max_seconds) as stop:
        return train_here(plan, stop)


def launch(plan: Plan, train: Train = train_here) -> Run:
    """Train a run by `devices` processes of this machine, which each call `train`; the run on disk.

    Signals go on to all of them. If one dies, the others are stopped, and LostProcessError (1) names it; else raises
    what the first process that failed raises.
    """
    errors, workers, forwarded = multiprocessing.get_context("spawn").SimpleQueue(), list[Any](), False

    def kill_workers() -> None:
        for process in workers:
            process.kill()

    with StopRequest(at_once=kill_workers) as stop:
        resource_tracker.ensure_running()  # its start unblocks signals
        before = dict(os.environ)
        os.environ["PYTHONSAFEPATH"] = "1"  # processes that start here import nothing of the current folder
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # we name a lost process; torch prints C++ frames
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores_here() // plan.devices)))
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the processes can handle them
        try:
            context = start_processes(  # type: ignore[no-untyped-call]
                work, (plan, train, errors, free_port(), os.getpid()), plan.devices, join=False)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            os.environ.clear()
            os.environ.update(before)
        workers += context.processes
        try:
            while not context.join(0.1, GRACE):
                if stop.received is not None and not forwarded:
                    forwarded = True
                    for pid in context.pids():
                        with suppress(ProcessLookupError):
                            os.kill(pid, stop.received)
        except ProcessExitedException as error:
            answers = dict[int, ReproError]()
            while not errors.empty():
                answers |= [errors.get()]
            raise failure(plan, error, answers, context.pids()) from None
        finally:
            kill_workers()
        if stop.received is not None:
            raise Stopped(f"stopped by {stop.reason}; the run had just finished", stop.exit_code)
    return read_run(plan.folder)


def work(rank: int, plan: Plan, train: Train, errors: Any, port: int, parent: int) -> None:
    """One of the processes: it sends its error to the launcher; only the first one's output is shown."""
    os.setsid()  # Ctrl-C reaches the launcher alone, which forwards it
    end_with_parent(parent, signal.SIGTERM)
    if rank:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    open_streams()
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(plan.devices), "LOCAL_RANK": str(rank),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")  # all are on this machine
    try:
        with show_messages(), StopRequest(plan.config.max_seconds) as stop:
            train(plan, stop)
    except Exception as error:
        if os.environ.get("REPRO_DEBUG") == "1":
            traceback.print_exc()
        known = error if isinstance(error, ReproError) else LostProcessError(
            f"{plan.title}: process {rank} of {plan.devices} failed: {type(error).__name__}: {error}\n{plan.advice}")
        errors.put((rank, known))
        sys.exit(known.exit_code)


def failure(plan: Plan, error: ProcessExitedException, answers: dict[int, ReproError], pids: list[int]) -> ReproError:
    """What to raise when a process has ended badly: an error of ours, else who died or did not answer."""
    for _, answer in sorted(answers.items()):
        if not isinstance(answer, PeerError):
            return answer
    rank, how = error.error_index, f"ended with exit code {error.exit_code}"
    if rank in answers or error.exit_code == -signal.SIGABRT:  # it waited in vain; NCCL aborts then
        rank = next((other for other in range(len(pids)) if other not in answers and other != rank), rank)
        how = f"did not answer for {plan.config.machine.timeout_seconds:g} s"
    elif error.exit_code < 0:
        how = f"died of {signal.Signals(-error.exit_code).name}"
    return LostProcessError(f"{plan.title}: process {rank} of {len(pids)} (pid {pids[rank]}) {how}; the others were "
                            f"stopped\n{plan.advice}")


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
