"""Stopping in time: signals and a time limit set a reason that the loop reads after each step.

Where nothing is being trained a signal ends the command at once, or as soon as the import that is under way is done.
"""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType

PR_SET_PDEATHSIG = 1  # of linux/prctl.h
RETRY = 0.05  # seconds until a signal that came during an import comes again
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_noted: set[int] = set()  # signals that came during an import


class Signalled(BaseException):
    """A signal ends a command that has nothing to save; like KeyboardInterrupt no `except Exception` stops it."""

    exit_code = 75


def command_to_go_on(command: list[str]) -> list[str]:
    """The command that goes on with what was stopped: without resume=never, which would begin it anew."""
    return [word for word in command if not word.lstrip("+").startswith("resume=")]


def end_with_parent(parent: int, number: int) -> None:
    """Have the kernel send this process a signal when its parent is gone (Linux); end it if it is gone already."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(Signalled.exit_code)


def raise_signals() -> None:
    """From here on SIGNALS raise Signalled, Ctrl-C KeyboardInterrupt as ever; where a StopRequest is active, it acts.

    For a process of our own: it has no way back. A signal that is ignored (nohup) stays so.
    """
    signal.signal(signal.SIGALRM, lambda number, frame: repeat_signals())
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, raise_signal)


def raise_signal(number: int, frame: FrameType | None) -> None:
    """Signal handler. Within an import it only notes: half a library would swallow an error, or abort."""
    if is_importing(frame):
        _noted.add(number)
        signal.setitimer(signal.ITIMER_REAL, RETRY)
    elif number == signal.SIGINT:
        raise KeyboardInterrupt
    else:
        raise Signalled(signal.Signals(number).name)


def repeat_signals() -> None:
    """Let the signals that were noted come again, to whoever handles them by now."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    numbers = [*_noted]
    _noted.clear()
    for number in numbers:
        signal.raise_signal(number)


def is_importing(frame: FrameType | None) -> bool:
    """Whether this frame is at work for an import."""
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


class StopRequest:
    """While active, `reason` says why to stop, or None. A second Ctrl-C stops at once, the last checkpoint intact."""

    def __init__(self, max_seconds: float | None = None, at_once: Callable[[], object] | None = None):
        self.at_once = at_once  # what else a second Ctrl-C does
        self.deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self.received: int | None = None
        self.previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self  # Python lets only the main thread handle signals
        repeat_signals()
        for number in SIGNALS:
            if signal.getsignal(number) is signal.SIG_IGN:
                continue  # as nohup wants it
            self.previous[number] = signal.signal(number, self.receive)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the launcher blocks them until there is a handler
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Signal handler."""
        if number == signal.SIGINT and self.received == signal.SIGINT:
            if self.at_once is not None:
                self.at_once()
            os.write(2, b"\nstopped at once; the last checkpoint is intact\n")
            os._exit(130)
        self.received = number

    @property
    def reason(self) -> str | None:
        """Why to stop now."""
        if self.received is not None:
            return "Ctrl-C" if self.received == signal.SIGINT else signal.Signals(self.received).name
        return "max_seconds" if self.deadline is not None and time.monotonic() >= self.deadline else None

    def seconds_left(self) -> float | None:
        """Seconds to the time limit, never quite 0; None without one."""
        return None if self.deadline is None else max(1e-3, self.deadline - time.monotonic())

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 75 for everything else."""
        return 130 if self.received == signal.SIGINT else 75
