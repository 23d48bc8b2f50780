"""Errors that a user can act on; each kind has its own exit code.

Exit codes: 0 ok, 1 unexpected error, 2 usage or configuration, 3 data missing or corrupt, 4 comparison outside
tolerance, 5 input/output, 6 diverged, 7 run folder in use, 8 out of memory, 75 stopped with the state saved,
130 Ctrl-C with the state saved.
"""


class ReproError(Exception):
    """Base of all errors shown as one message without a traceback."""
    exit_code = 1


class ConfigError(ReproError):
    """A wrong key, value, experiment or command line."""
    exit_code = 2


class DataError(ReproError):
    """A data set that is missing, incomplete or not the published one."""
    exit_code = 3


class ImageError(DataError):
    """An image file that can't be read."""


class ComparisonError(ReproError):
    """A result or a committed file that does not agree with what it is compared to."""
    exit_code = 4


class StorageError(ReproError):
    """A file or folder that can't be read or written, or a checkpoint that can't be used."""
    exit_code = 5


class DivergedError(ReproError):
    """A loss or gradient that is not finite; training stopped before the update."""
    exit_code = 6


class InUseError(ReproError):
    """A run folder that another process is writing to."""
    exit_code = 7


class OutOfMemoryError(ReproError):
    """The device has no memory left for this run."""
    exit_code = 8


class LostProcessError(ReproError):
    """One of several processes that work together is gone."""


class PeerError(LostProcessError):
    """What a process says that waited in vain for another one; the cause is elsewhere."""


class Stopped(ReproError):
    """The run stopped early with its state saved; the same command goes on."""

    def __init__(self, message: str, exit_code: int = 75):
        super().__init__(message)
        self.exit_code = exit_code
