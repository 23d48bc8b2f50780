"""Start a run: by this process, or by one for each device of this machine (`repro run ... machine=ddp devices=N`)."""

import logging
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import resource_tracker
from typing import Any

from torch.multiprocessing.spawn import ProcessException, start_processes

from repro.data.loader import cores_here
from repro.errors import LostProcessError, PeerError, ReproError, Stopped
from repro.runs import Run, read_run
from repro.stopping import SIGNALS, StopRequest, end_with_parent
from repro.streams import open_streams, show_messages
from repro.training.distributed import rank_from_environment
from repro.training.plan import Plan
from repro.training.train import train_here

logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.CRITICAL)  # `failure` says which process and why
GRACE = 30.0  # Choice: seconds for the others to end, and to save, before they are killed


def run(plan: Plan) -> Run:
    """Train a run to its end, or go on where it stopped; the run on disk. Raises what `train_here` does.

    With several devices this starts a process for each and waits for them, unless it was started as one of several.
    """
    if plan.devices > 1 and rank_from_environment() is None:
        return launch(plan)
    with StopRequest(plan.config.max_seconds) as stop:
        return train_here(plan, stop)


def launch(plan: Plan, train: Callable[[Plan, StopRequest], object] = train_here) -> Run:
    """Train a run by `devices` processes, which each call `train`; signals go on to all of them. The run on disk.

    If one fails, the others are stopped; raises the error of ours that it told, else LostProcessError (1).
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
        except ProcessException as error:
            answers = dict[int, ReproError]()
            while not errors.empty():
                rank, answers[rank] = errors.get()
            raise failure(plan, error, answers) from error
        finally:
            kill_workers()
        if stop.received is not None:
            raise Stopped(f"stopped by {stop.reason}; the run had just finished", stop.exit_code)
    return read_run(plan.folder)


def work(rank: int, plan: Plan, train: Callable[[Plan, StopRequest], object], errors: Any, port: int,
         parent: int) -> None:
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
        errors.put((rank, error if isinstance(error, ReproError) else LostProcessError(
            f"{plan.title}: process {rank} of {plan.devices} failed: {type(error).__name__}: {error}\n{plan.advice}")))
        raise


def failure(plan: Plan, error: ProcessException, answers: dict[int, ReproError]) -> ReproError:
    """What to raise when a process has failed: what one has told, else which one died or did not answer."""
    for _, answer in sorted(answers.items()):
        if not isinstance(answer, PeerError):
            return answer
    text = str(error)  # torch's: "process 1 terminated with signal SIGKILL"
    if error.error_index in answers:  # it waited in vain
        lost = next((rank for rank in range(plan.devices) if rank not in answers), error.error_index)
        text = f"process {lost} did not answer for {plan.config.machine.timeout_seconds:g} s"
    return LostProcessError(f"{plan.title}: {text}; the others were stopped\n{plan.advice}")


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
