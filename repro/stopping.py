"""Stopping in time: signals and a time limit set a reason that the loop reads after each step."""

import ctypes
import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def end_with_parent(parent: int, number: int) -> None:
    """Have the kernel send this process a signal when its parent is gone (Linux); end it if it is gone already."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG of linux/prctl.h
    if os.getppid() != parent:
        os._exit(75)


def end_at_signals(advice: str) -> None:
    """From here on SIGNALS end this process with a message, 130 or 75; where a StopRequest is active, it acts."""
    def end(number: int, frame: FrameType | None) -> None:
        text = f"repro: stopped by {signal.Signals(number).name}; nothing that was saved is lost\n{advice}\n"
        with suppress(OSError):
            os.write(2, text.encode(errors="backslashreplace"))
        # without unwinding: within an import half a library would swallow an error, or abort
        os._exit(130 if number == signal.SIGINT else 75)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, end)


class StopRequest:
    """While active, `reason` says why to stop, or None. A second Ctrl-C stops at once, the last checkpoint intact."""

    def __init__(self, max_seconds: float | None = None):
        self.deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self.received: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # only there Python lets signals be handled
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self.previous[number] = signal.signal(number, self.receive)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the launcher blocks them until there is a handler
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def receive(self, number: int, frame: FrameType | None) -> None:
        if number == self.received == signal.SIGINT:
            for child in multiprocessing.active_children():  # of the launcher: one that hangs would not end by itself
                child.kill()
            os.write(2, b"\nstopped at once; the last checkpoint is intact\n")
            os._exit(130)
        self.received = number

    @property
    def reason(self) -> str | None:
        """Why to stop now."""
        if self.received is not None:
            return signal.Signals(self.received).name
        return "max_seconds" if self.deadline is not None and time.monotonic() >= self.deadline else None

    def seconds_left(self) -> float | None:
        """Seconds to the time limit, never quite 0; None without one."""
        return None if self.deadline is None else max(1e-3, self.deadline - time.monotonic())

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 75 for everything else."""
        return 130 if self.received == signal.SIGINT else 75
