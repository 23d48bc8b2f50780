"""One of the processes that `repro.training.launcher` starts: python -m repro.training.worker TASK ANSWER."""

import ctypes
import pickle
import signal
import sys
from contextlib import suppress
from pathlib import Path

from repro.errors import ReproError
from repro.training import engine

PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def main() -> int:
    """Train what the task file says; an error of ours goes into the answer file, its code is the exit code."""
    task, answer = map(Path, sys.argv[1:3])
    end_with_parent()
    config, command = pickle.loads(task.read_bytes())
    try:
        engine.run(config, command)
    except ReproError as error:
        answer.write_bytes(pickle.dumps(error))
        return error.exit_code
    return 0


def end_with_parent() -> None:
    """On Linux: save and stop when the process that started this one is killed."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
