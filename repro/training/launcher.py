"""Start a process for each device of this machine and wait for all of them: `repro run ... machine=ddp devices=N`."""

import os
import pickle
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from repro.devices import resolve
from repro.errors import LostProcessError, ReproError
from repro.runs import Run, read_run, run_folder
from repro.schema import RunConfig
from repro.stopping import StopRequest

GRACE = 3.0  # Choice: seconds in which the others may end by themselves when one is gone
LOOK = 0.05  # seconds between two looks at the processes


def launch(config: RunConfig, command: list[str] | None = None) -> Run:
    """Train a configuration by `config.devices` processes of this machine and return its run.

    Signals go on to all of them, and they stop together. If one dies, the others are stopped, and LostProcessError (1)
    names it. Raises what the leader raises otherwise.
    """
    assert config.devices is not None
    with tempfile.TemporaryDirectory(prefix="repro-") as scratch, StopRequest() as stop:
        task, answer = Path(scratch) / "task", Path(scratch) / "answer"
        task.write_bytes(pickle.dumps((config, command)))
        port = free_port()
        children = [start(rank, config.devices, task, answer, port) for rank in range(config.devices)]
        try:
            wait(children, stop)
            codes = [child.poll() for child in children]
        finally:
            end(children)
        raise_outcome(codes, [read_answer(Path(f"{answer}{rank}")) for rank in range(config.devices)],
                      [child.pid for child in children], config, command)
    return read_run(run_folder(resolve(config)))


def start(rank: int, size: int, task: Path, answer: Path, port: int) -> subprocess.Popen[bytes]:
    """One process; only the first one's output is shown. Each is in a session of its own: it gets what we send."""
    cores = os.cpu_count() or 1
    environment = os.environ | {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // size)))
    return subprocess.Popen([sys.executable, "-m", "repro.training.worker", str(task), f"{answer}{rank}"],
                            env=environment, stdout=None if rank == 0 else subprocess.DEVNULL, start_new_session=True)


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait(children: Sequence[subprocess.Popen[bytes]], stop: StopRequest) -> None:
    """Wait until all have ended, or until some seconds after one has failed; pass signals on."""
    sent, failed_at = None, None
    while any(child.poll() is None for child in children):
        if stop.received is not None and sent is None:
            sent = stop.received
            for child in children:
                if child.poll() is None:
                    child.send_signal(sent)
        if failed_at is None and any(failed(child) for child in children):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > GRACE:
            return
        time.sleep(LOOK)


def failed(child: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended otherwise than at its end or with its state saved."""
    return child.returncode is not None and child.returncode not in (0, 75, 130)


def end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Leave no process behind."""
    for child in children:
        if child.poll() is None:
            child.kill()
    for child in children:
        child.wait()


def read_answer(path: Path) -> ReproError | None:
    """The error that a process ended with, None where it left none."""
    if not path.is_file():
        return None
    kind, text, code = pickle.loads(path.read_bytes())
    error: ReproError = kind(text)
    error.exit_code = code
    return error


def raise_outcome(codes: Sequence[int | None], answers: Sequence[ReproError | None], pids: Sequence[int],
                  config: RunConfig, command: list[str] | None) -> None:
    """Raise the error that ended the processes; nothing where all of them reached their end.

    codes: their exit codes, None for one that still ran when another one had failed.
    """
    own = [error for error in answers if error is not None and not isinstance(error, LostProcessError)]
    if own:
        raise own[0]
    go_on = f"go on with: {shlex.join(command or ['repro', 'run', f'experiment={config.name}'])}"
    ended = {rank: code for rank, code in enumerate(codes) if code and answers[rank] is None}
    if ended:
        rank = min(ended, key=lambda one: (ended[one] > 0, one))  # one that was killed before those that it took along
        code = ended[rank]
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise LostProcessError(f"{config.name}: process {rank} of {len(codes)} (pid {pids[rank]}) {how}; the others "
                               f"were stopped, the last checkpoint is intact\n{go_on}")
    if any(answers):
        silent = [f"{rank} (pid {pids[rank]})" for rank, code in enumerate(codes) if code is None]
        which = f"process {', '.join(silent)} of {len(codes)}" if silent else f"one of {len(codes)} processes"
        raise LostProcessError(f"{config.name}: {which} did not answer for {config.machine.timeout_seconds:g} s; all "
                               f"were stopped, the last checkpoint is intact\n{go_on}")
