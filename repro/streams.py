"""Standard streams that end no run (a closed one is opened, what can't be written goes nowhere), and what they show."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast

from repro.errors import StorageError


class Output:
    """Standard output or error. A failure to write is raised once, or with `goes_on` said once; then all is lost."""

    def __init__(self, stream: TextIO, goes_on: bool):
        self.stream, self.goes_on = stream, goes_on

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write the text, at once where the command goes on."""
        try:
            self.stream.write(text)
            if self.goes_on:
                self.stream.flush()
        except OSError as error:
            self.fail(error)
        return len(text)

    def flush(self) -> None:
        """Hand over what was written."""
        try:
            self.stream.flush()
        except OSError as error:
            self.fail(error)

    def fail(self, error: OSError) -> None:
        """Let all that follows go nowhere; StorageError, or BrokenPipeError where nobody reads, if that ends us."""
        with suppress(OSError, ValueError):  # a stream without a descriptor
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)
        if not self.goes_on:
            if isinstance(error, BrokenPipeError):
                raise error
            raise StorageError(f"can't write standard output: {error.strerror}") from error
        if sys.stderr is not self and not isinstance(error, BrokenPipeError):
            print(f"standard output can't be written ({error.strerror}): what follows is not shown", file=sys.stderr)


def open_streams() -> None:
    """Open the standard streams that were closed, also for the processes that this one starts, and watch the others.

    Without that the next file that is opened would take their place, and be written by whoever writes to them.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8")
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
    for output in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # not one of Python's own streams
            output.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.stdout, sys.stderr = cast(TextIO, Output(sys.stdout, False)), cast(TextIO, Output(sys.stderr, True))


def keep_on_without_output() -> None:
    """Let a run go on where what it prints has no reader any more (`| head`) or no room (the disk of its log)."""
    stream = sys.stdout
    sys.stdout = cast(TextIO, Output(stream.stream if isinstance(stream, Output) else stream, True))


class MessageHandler(logging.Handler):
    """Writes the bare message to `sys.stdout` or `sys.stderr`, as it is at that time."""

    def __init__(self, stream: str):
        super().__init__()
        self.stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message. Raises what the stream raises."""
        print(record.getMessage(), file=getattr(sys, self.stream), flush=True)


@contextmanager
def show_messages(stream: str = "stdout", level: int = logging.INFO) -> Iterator[None]:
    """Show what this package logs, as the command line does; the logger is then as it was before."""
    logger = logging.getLogger("repro")
    handlers, before, propagate = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [MessageHandler(stream)], False
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(before)
