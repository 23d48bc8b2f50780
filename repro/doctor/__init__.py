"""What `repro doctor` looks at: versions, devices, memory, disk, data, environment. Never imports torch itself."""

from repro.doctor import hardware, software
from repro.doctor.check import NOTE, OK, PROBLEM, Check

__all__ = ["NOTE", "OK", "PROBLEM", "Check", "examine"]


def examine(full: bool = False) -> list[Check]:
    """All checks in the order in which they are shown; `full` verifies the data byte for byte."""
    said, reason = software.probe()
    checks = [*software.versions(), *software.imports(said, reason), *hardware.devices(said, reason),
              hardware.memory(), *folders(full)]
    return [check.anonymous() for check in checks]


def folders(full: bool) -> list[Check]:
    """Results, data and environment variables, where what reads them is installed."""
    try:
        from repro.doctor import storage
    except ImportError as error:  # the package that is missing is a PROBLEM of its own
        return [Check("folders", NOTE, f"not looked at: {error}")]
    return [*storage.results(), storage.data(full), *storage.variables()]
