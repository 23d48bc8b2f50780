"""What a check of a record says, in words that are safe to print: the record comes from elsewhere."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from repro.wording import visible

OK, WARNING, ERROR = "ok", "warning", "error"
LONGEST = 600  # characters of a finding's text
LONGEST_VALUE = 60  # characters of a recorded value in it


class Refused(Exception):
    """A file or value of a record that can't be what it should be; the message says why."""


@dataclass(frozen=True)
class Finding:
    """One check's outcome: its name, ok, warning or error, and what was found."""

    check: str
    verdict: str
    text: str


Problems = Iterator[tuple[str, str]]  # verdict and text


def finding(check: str, verdict: str, text: str) -> Finding:
    """A finding whose text is one line, not too long, and of characters that move no cursor."""
    return Finding(check, verdict, cut(visible(text), LONGEST))


def cut(text: str, longest: int) -> str:
    """The text, or its beginning with dots."""
    return text if len(text) <= longest else f"{text[:longest]}..."


def told(value: Any) -> str:
    """A recorded value for a message."""
    return cut(repr(value), LONGEST_VALUE)
