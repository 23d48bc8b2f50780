"""One of the processes that `repro.training.launcher` starts, with TASK, ANSWER and the launcher's pid as arguments."""

import ctypes
import os
import pickle
import signal
import sys
from contextlib import suppress
from pathlib import Path

from repro.errors import ReproError, Stopped
from repro.streams import keep_on_without_output, open_streams

PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def main() -> int:
    """Train what the task file says; an error of ours goes into the answer file, its code is the exit code."""
    task, answer = map(Path, sys.argv[1:3])
    end_with_parent(int(sys.argv[3]))
    open_streams()
    keep_on_without_output()
    from repro.training import engine  # late: torch takes seconds, in which the launcher may be killed

    config, command = pickle.loads(task.read_bytes())
    try:
        engine.run(config, command)
    except ReproError as error:
        answer.write_bytes(pickle.dumps(error))
        return error.exit_code
    return 0


def end_with_parent(parent: int) -> None:
    """Save and stop, on Linux, when the process that started this one is killed; end at once if it has been already."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(Stopped.exit_code)


if __name__ == "__main__":
    sys.exit(main())
