"""Start a process for each device of this machine and wait for all of them: `repro run ... machine=ddp devices=N`."""

import logging
import os
import shlex
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pipe, resource_tracker
from multiprocessing.connection import Connection

from torch.multiprocessing.spawn import ProcessContext, ProcessExitedException, start_processes

from repro.data.parts import cores_here
from repro.devices import resolve
from repro.errors import LostProcessError, PeerError, ReproError, Stopped
from repro.runs import Run, read_run, run_folder
from repro.schema import RunConfig
from repro.stopping import SIGNALS, StopRequest, command_to_go_on, end_with_parent
from repro.streams import keep_on_without_output, open_streams, show_messages
from repro.training.checkpoint import list_checkpoints

logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.CRITICAL)  # `failure` says which process and why
Train = Callable[[RunConfig, list[str] | None], object]
# Choice: seconds in which the others may end by themselves when one is lost, or has failed and said so (then the first
# one may be saving); after as many again they are killed.
GRACE, PATIENCE = 10.0, 120.0
LOOK = 0.1  # seconds between two looks at the signals received
LOOPBACK = {"linux": "lo", "darwin": "lo0"}  # all processes are on this machine, whatever its name resolves to


def launch(train: Train, config: RunConfig, command: list[str] | None = None) -> Run:
    """Train a configuration by `config.devices` processes of this machine, which each call `train`; its run.

    Signals go on to all of them, and they stop together. If one dies, the others are stopped, and LostProcessError (1)
    names it. Raises what the first process that failed raises otherwise.
    """
    size = config.devices
    assert size is not None
    pipes = [Pipe(duplex=False) for _ in range(size)]
    workers: list[ProcessContext] = []

    def kill_workers() -> None:
        for process in (process for context in workers for process in context.processes if process.is_alive()):
            process.kill()

    with StopRequest(at_once=kill_workers) as stop:
        try:
            with environment_of_workers(size):
                workers.append(start_processes(  # type: ignore[no-untyped-call]
                    work, (size, free_port(), os.getpid(), [answer for _, answer in pipes], train, config, command,
                           logging.getLogger("repro").getEffectiveLevel()),
                    size, join=False, start_method="spawn"))
            forwarded = False
            while not workers[0].join(LOOK, PATIENCE if any(answer.poll() for answer, _ in pipes) else GRACE):
                if stop.received is not None and not forwarded:
                    forwarded = True
                    for process in workers[0].processes:
                        with suppress(ProcessLookupError):
                            os.kill(process.pid, stop.received)
        except ProcessExitedException as error:
            answers = [receive.recv() if receive.poll() else None for receive, _ in pipes]
            pids = [process.pid for process in workers[0].processes]
            raise failure(error, answers, pids, config, command) from None
        finally:
            kill_workers()
        if stop.received is not None:
            raise Stopped(f"stopped by {stop.reason}; the run had just finished", stop.exit_code)
    return read_run(run_folder(resolve(config)))


@contextmanager
def environment_of_workers(size: int) -> Iterator[None]:
    """Processes that start here import nothing of the current folder; signals wait until they can handle them."""
    resource_tracker.ensure_running()  # its start unblocks signals
    before = dict(os.environ)
    os.environ["PYTHONSAFEPATH"] = "1"
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # we name a lost process; torch prints C++ frames
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores_here() // size)))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.environ.clear()
        os.environ.update(before)


def work(rank: int, size: int, port: int, parent: int, answers: Sequence[Connection], train: Train,
         config: RunConfig, command: list[str] | None, level: int) -> None:
    """One of the processes: it sends an error of ours to the launcher; only the first one's output is shown."""
    os.setsid()  # Ctrl-C reaches the launcher alone, which forwards it
    end_with_parent(parent, signal.SIGTERM)
    if rank:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    open_streams()
    keep_on_without_output()
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if sys.platform in LOOPBACK:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK[sys.platform])
    try:
        with show_messages(level=level):
            train(config, command)
    except ReproError as error:
        answers[rank].send(error)
        sys.exit(error.exit_code)
    except Exception as error:
        if os.environ.get("REPRO_DEBUG") == "1":
            traceback.print_exc()
        answers[rank].send(LostProcessError(f"{config.name}: process {rank} of {size} failed: "
                                            f"{type(error).__name__}: {error}\n{how_to_go_on(config, command)}"))
        sys.exit(LostProcessError.exit_code)


def failure(error: ProcessExitedException, answers: Sequence[ReproError | None], pids: Sequence[int],
            config: RunConfig, command: list[str] | None) -> ReproError:
    """What to raise when a process has ended badly: an error of ours, else who died or did not answer."""
    own = [answer for answer in answers if answer is not None and not isinstance(answer, PeerError)]
    if own:
        return own[0]
    rank, how = error.error_index, f"ended with exit code {error.exit_code}"
    if answers[rank] is not None or error.exit_code == -signal.SIGABRT:  # it waited in vain; NCCL aborts then
        rank = next((other for other, answer in enumerate(answers) if answer is None and other != rank), rank)
        how = f"did not answer for {config.machine.timeout_seconds:g} s"
    elif error.exit_code < 0:
        how = f"died of {signal.Signals(-error.exit_code).name}"
    return LostProcessError(f"{config.name}: process {rank} of {len(pids)} (pid {pids[rank]}) {how}; the others were "
                            f"stopped\n{how_to_go_on(config, command)}")


def how_to_go_on(config: RunConfig, command: list[str] | None) -> str:
    """What is saved of a run whose processes were lost, and the command that goes on."""
    saved = ("the last checkpoint is intact" if list_checkpoints(run_folder(resolve(config)))
             else "nothing was saved yet")
    words = command_to_go_on(command or ["repro", "run", f"experiment={config.name}"])
    return f"{saved}; go on with: {shlex.join(words)}"


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
