"""Standard streams: a closed one is opened, and messages that can't be written end no command."""

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO


def open_streams() -> None:
    """Open the standard streams that were closed, also for processes started here: a file would take their place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8")
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
    for output in (sys.stdout, sys.stderr):
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")


def silence(stream: TextIO) -> None:
    """Let what is written there, and what is still in its buffer, go nowhere."""
    with suppress(OSError, ValueError):  # a stream without a descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class MessageHandler(logging.StreamHandler[TextIO]):
    """Prints the bare message. Without a reader (`| head`) or room (the disk of a log) the command goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), OSError):
            raise
        silence(self.stream)


@contextmanager
def show_messages(stream: str = "stdout") -> Iterator[None]:
    """Show what this package logs, as the command line does; the logger is then as it was before."""
    logger = logging.getLogger("repro")
    before = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [MessageHandler(getattr(sys, stream))], False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers, level, logger.propagate = before
        logger.setLevel(level)
