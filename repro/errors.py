"""Errors that a user can act on, each kind with its exit code; 0 is ok, 130 Ctrl-C with the state saved."""

from collections.abc import Sequence
from difflib import SequenceMatcher


class ReproError(Exception):
    """Base of all errors shown as one message without a traceback."""
    exit_code = 1  # unexpected


class ConfigError(ReproError):
    exit_code = 2  # a wrong key, value, experiment or command line


class DataError(ReproError):
    exit_code = 3  # a data set that is missing, incomplete or not the published one


class ImageError(DataError):
    """An image file that can't be read."""


class ComparisonError(ReproError):
    exit_code = 4  # a result or a committed file that does not agree with what it is compared to


class StorageError(ReproError):
    exit_code = 5  # a file or folder that can't be read or written, or a checkpoint that can't be used


class DivergedError(ReproError):
    exit_code = 6  # a loss or gradient that is not finite; training stopped before the update


class InUseError(ReproError):
    exit_code = 7  # a run folder that another process is writing to


class OutOfMemoryError(ReproError):
    exit_code = 8  # the device has no memory left for this run


class LostProcessError(ReproError):
    """One of several processes that work together is gone."""


class PeerError(LostProcessError):
    """What a process says that waited in vain for another one; the cause is elsewhere."""


class Stopped(ReproError):
    """The run stopped early with its state saved; the same command goes on."""

    def __init__(self, message: str, exit_code: int = 75):
        super().__init__(message)
        self.exit_code = exit_code


def suggest(word: str, known: Sequence[str]) -> str:
    """'; did you mean NAME?', the known name that holds the word or is like it or its end, capitals aside; or ''."""
    def likeness(known_name: str) -> tuple[float, bool]:
        typed, name = word.casefold(), known_name.casefold()
        ends = typed.rpartition(".")[2], name.rpartition(".")[2]
        ratio = max(SequenceMatcher(None, *pair).ratio() for pair in ((typed, name), ends))
        return (len(typed) > 2 and typed in name) + ratio, typed[:3] == name[:3]  # of equals, the one that begins alike

    best = max(known, key=likeness, default="")
    return f"; did you mean {best}?" if likeness(best)[0] >= 0.6 else ""
