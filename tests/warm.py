"""The command line as a process that starts at once: a fork of a server that has imported torch and the training.

The child is a real process with its own exit code, signals, working folder and environment; it only skips the import.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "repro.cli", "repro.training.train", "tests.made_cli"])


class Command:
    """A command that runs; of subprocess.Popen what the tests use. Its output is text and comes through pipes."""

    def __init__(self, *words: str, cwd: Path, env: Mapping[str, str], made_data: bool = False):
        (out, theirs_out), (err, theirs_err) = FORKS.Pipe(duplex=False), FORKS.Pipe(duplex=False)
        self.stdout, self.stderr = (os.fdopen(os.dup(end.fileno()), encoding="utf-8") for end in (out, err))
        self.process = FORKS.Process(target=run, args=(words, str(cwd), dict(env), made_data, theirs_out, theirs_err))
        self.process.start()
        for end in (out, err, theirs_out, theirs_err):
            end.close()
        self.words, self.pid = words, self.process.pid or 0

    def poll(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        return self.process.exitcode

    returncode = property(poll)

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End it and forget its output."""
        self.kill()
        self.process.join()
        self.stdout.close()
        self.stderr.close()

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        """Wait for the end; standard output and error. subprocess.TimeoutExpired if it takes longer."""
        with self.stdout, self.stderr, ThreadPoolExecutor(2) as readers:  # both at once, so that neither pipe is full
            texts = [readers.submit(stream.read) for stream in (self.stdout, self.stderr)]
            self.process.join(timeout)
            if self.process.exitcode is None:
                self.kill()
                raise subprocess.TimeoutExpired(self.words, timeout)
            return texts[0].result(), texts[1].result()


def run(words: tuple[str, ...], cwd: str, env: dict[str, str], made_data: bool, *pipes: Connection) -> None:
    """In the child: `repro WORDS`, as a shell would start it; `pipes` are its standard output and error."""
    for number, pipe in enumerate(pipes, 1):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["repro", *words]
    if made_data:
        importlib.import_module("tests.made_cli").use_made_data()
    sys.exit(importlib.import_module("repro.cli").main())


def complete(*words: str, timeout: float = 600, **how) -> subprocess.CompletedProcess:
    """Run a command to its end, as subprocess.run does."""
    command = Command(*words, **how)
    out, err = command.communicate(timeout)
    return subprocess.CompletedProcess(words, command.returncode, out, err)
