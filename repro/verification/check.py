"""One check of `repro verify`: how it is carried out, what it may say, and how that is shown. Never imports torch."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from repro.errors import ReproError

OK, FAIL, SKIPPED = "ok", "FAIL", "skipped"
SHOWN = 5  # differences of one check that are shown


@dataclass(frozen=True)
class Difference:
    """What was compared, and the two values that should have been the same."""

    what: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        return f"{self.what}: expected {self.expected}, found {self.found}"


class Mismatch(Exception):
    """Raised by a check that found something wrong; it holds all that differs."""

    def __init__(self, differences: Sequence[Difference]):
        super().__init__("; ".join(map(str, differences)))
        self.differences = tuple(differences)


class Skipped(Exception):
    """Raised by a check that has nothing to look at here; its text says why, and what to do about it."""


@dataclass(frozen=True)
class Check:
    """A check by its name. `look` returns what was compared, in words; it raises Mismatch or Skipped."""

    name: str
    look: Callable[[], str]


@dataclass(frozen=True)
class Outcome:
    """How a check ended: ok, FAIL with what differs, or skipped."""

    name: str
    status: str
    text: str
    seconds: float
    differences: tuple[Difference, ...] = ()

    def line(self) -> str:
        """The outcome for a person: one line, and one more for each difference after the first."""
        others = [str(difference) for difference in self.differences[1:SHOWN]]
        left = len(self.differences) - 1 - len(others)
        others += [f"and {left} more"] if left > 0 else []
        return "\n".join([f"{self.status:<7}  {self.name}: {self.text}  {self.seconds:.1f} s",
                          *(f"{'':<7}  {'':<{len(self.name)}}  {text}" for text in others)])

    def plain(self) -> dict[str, Any]:
        """The outcome for JSON."""
        return {"check": self.name, "status": self.status, "text": self.text, "seconds": round(self.seconds, 3),
                "differences": [{"what": one.what, "expected": str(one.expected), "found": str(one.found)}
                                for one in self.differences]}


def perform(check: Check) -> Outcome:
    """Carry a check out. One that breaks down has failed: nothing that was not compared counts as compared."""
    began = time.monotonic()
    differences: tuple[Difference, ...] = ()
    try:
        status, text = OK, check.look()
    except Skipped as reason:
        status, text = SKIPPED, str(reason)
    except Mismatch as found:
        status, text, differences = FAIL, str(found.differences[0]), found.differences
    except ReproError as error:
        status, text = FAIL, str(error)
    except Exception as error:
        status, text = FAIL, f"broke down: {type(error).__name__}: {error}"
    return Outcome(check.name, status, " ".join(text.split()), time.monotonic() - began, differences)


def same(compared: Sequence[Difference]) -> int:
    """How many comparisons there were; Mismatch with those whose two values are not equal."""
    wrong = [one for one in compared if one.expected != one.found]
    if wrong:
        raise Mismatch(wrong)
    if not compared:
        raise Mismatch([Difference("comparisons", "some", "none")])
    return len(compared)


def agreement(what: str, expected: np.ndarray, found: np.ndarray, tolerance: float = 0.0) -> Difference:
    """Two arrays for `same`: equal if their shapes are, and no value is further off than the tolerance.

    The distance is measured in the largest of the expected values, or in ones where that is below 1.
    """
    if expected.shape != found.shape:
        return Difference(what, f"shape {expected.shape}", f"shape {found.shape}")
    wide = np.abs(expected.astype(np.float64)).max(initial=1.0)
    apart = float(np.abs(expected.astype(np.float64) - found.astype(np.float64)).max(initial=0.0) / wide)
    equal = "equal values" if tolerance == 0 else f"values equal within {tolerance:g}"
    return Difference(what, equal, equal if apart <= tolerance else f"values up to {apart:.3g} apart")
