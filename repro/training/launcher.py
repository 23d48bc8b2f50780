"""Start a process for each device of this machine and wait for all of them: `repro run ... machine=ddp devices=N`."""

import os
import pickle
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from repro.data.parts import cores_here
from repro.devices import resolve
from repro.errors import LostProcessError, PeerError, ReproError, Stopped
from repro.places import own_module
from repro.runs import Run, read_run, run_folder
from repro.schema import RunConfig
from repro.stopping import SIGNALS, StopRequest, going_on
from repro.training.checkpoint import list_checkpoints

GRACE = 3.0  # Choice: seconds in which the others may end by themselves when one has died
PATIENCE = 120.0  # Choice: the same when one has ended with an error of ours, about which the leader may be writing
LOOK = 0.05  # seconds between two looks at the processes
LOOPBACK = {"linux": "lo", "darwin": "lo0"}  # all processes are on this machine, whatever its name resolves to


class Children:
    """The processes of one run and what they answer."""

    def __init__(self, scratch: Path, devices: int):
        self.scratch, self.devices = scratch, devices
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start all of them, with signals blocked until they can handle them."""
        port = free_port()
        old = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            for rank in range(self.devices):
                self.processes.append(started(rank, self.devices, self.scratch, port))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)

    def wait(self, stop: StopRequest) -> list[int | None]:
        """Wait until all have ended, or until some time after one has failed; pass a signal on. Their exit codes."""
        sent = failed_at = None
        while any(process.poll() is None for process in self.processes):
            if stop.received is not None and sent is None:
                sent = stop.received
                for process in self.processes:
                    if process.poll() is None:
                        process.send_signal(sent)
            bad = [rank for rank, process in enumerate(self.processes) if process.returncode not in (None, 0, 75, 130)]
            if bad:
                failed_at = failed_at or time.monotonic()
                if time.monotonic() - failed_at > (PATIENCE if all(map(self.told, bad)) else GRACE):
                    break
            time.sleep(LOOK)
        return [process.poll() for process in self.processes]

    def told(self, rank: int) -> bool:
        """Whether a process ended with an error of its own, and not for want of another one."""
        error = self.answer(rank)
        return error is not None and not isinstance(error, PeerError)

    def end(self) -> None:
        """Leave no process behind."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
        for process in self.processes:
            process.wait()

    def answer(self, rank: int) -> ReproError | None:
        """The error that a process ended with, None where it left none."""
        path = self.scratch / f"answer{rank}"
        if not path.is_file():
            return None
        error: ReproError = pickle.loads(path.read_bytes())
        return error


def launch(config: RunConfig, command: list[str] | None = None) -> Run:
    """Train a configuration by `config.devices` processes of this machine and return its run.

    Signals go on to all of them, and they stop together. If one dies, the others are stopped, and LostProcessError (1)
    names it. Raises what the leader raises otherwise.
    """
    assert config.devices is not None
    with tempfile.TemporaryDirectory(prefix="repro-") as scratch:
        children = Children(Path(scratch), config.devices)
        (Path(scratch) / "task").write_bytes(pickle.dumps((config, command)))
        def at_once() -> None:
            children.end()
            shutil.rmtree(scratch, ignore_errors=True)

        with StopRequest(at_once=at_once) as stop:
            try:
                children.start()
                codes = children.wait(stop)
            finally:
                children.end()
            raise_outcome(codes, [children.answer(rank) for rank in range(config.devices)],
                          [process.pid for process in children.processes], config, command)
            if stop.received is not None:
                raise Stopped(f"stopped by {stop.reason}; the run had just finished", stop.exit_code)
    return read_run(run_folder(resolve(config)))


def started(rank: int, size: int, scratch: Path, port: int) -> subprocess.Popen[bytes]:
    """One process; only the first one's output is shown. Each is in a session of its own: it gets what we send."""
    environment = os.environ | {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # we name a lost process; torch prints C++ frames
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores_here() // size)))
    if sys.platform in LOOPBACK:
        environment.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK[sys.platform])
    words = [*own_module("repro.training.worker"), str(scratch / "task"), str(scratch / f"answer{rank}"),
             str(os.getpid())]
    return subprocess.Popen(words, env=environment, stdout=None if rank == 0 else subprocess.DEVNULL,
                            start_new_session=True)


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def raise_outcome(codes: Sequence[int | None], answers: Sequence[ReproError | None], pids: Sequence[int],
                  config: RunConfig, command: list[str] | None) -> None:
    """Raise the error that ended the processes; nothing where all of them reached their end.

    codes: their exit codes, None for one that still ran when another one had failed.
    """
    own = [error for error in answers if error is not None and not isinstance(error, PeerError)]
    if own:
        raise own[0]
    kept = ("the last checkpoint is intact" if list_checkpoints(run_folder(resolve(config)))
            else "nothing was saved yet")
    go_on = f"go on with: {shlex.join(going_on(command or ['repro', 'run', f'experiment={config.name}']))}"
    ended = {rank: code for rank, code in enumerate(codes) if code and answers[rank] is None}
    silent = [rank for rank, code in enumerate(codes) if code is None]
    waited = silent and all(code == -signal.SIGABRT for code in ended.values())  # NCCL aborts who waits in vain
    if ended and not waited:
        rank = min(ended, key=lambda one: (ended[one] > 0, one))  # one that was killed before those that it took along
        code = ended[rank]
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise LostProcessError(f"{config.name}: process {rank} of {len(codes)} (pid {pids[rank]}) {how}; the others "
                               f"were stopped, {kept}\n{go_on}")
    if ended or any(answers):
        who = ", ".join(f"{rank} (pid {pids[rank]})" for rank in silent)
        which = f"process {who} of {len(codes)}" if silent else f"one of {len(codes)} processes"
        raise LostProcessError(f"{config.name}: {which} did not answer for {config.machine.timeout_seconds:g} s; all "
                               f"were stopped, {kept}\n{go_on}")
