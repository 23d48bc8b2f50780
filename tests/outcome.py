"""What a command of the line gave, and what its error message must be like."""

import subprocess
from typing import NamedTuple


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def says(outcome, code: int, *words: str) -> None:
    """Assert the exit code and that standard error is one message with these words and no traceback."""
    if isinstance(outcome, subprocess.CompletedProcess):
        outcome = Outcome(outcome.returncode, outcome.stdout, outcome.stderr)
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.err
    assert outcome.err.startswith("repro: ")
    assert outcome.err.count("repro: ") == 1
    assert not [word for word in words if word not in outcome.err], outcome.err
