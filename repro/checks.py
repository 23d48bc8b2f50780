"""The result of a check: of versions, of this machine, of what it computes, of a record. Never imports torch."""

import os
from dataclasses import dataclass

OK, WARNING, FAIL, SKIPPED = "ok", "warning", "FAIL", "skipped"


@dataclass(frozen=True)
class CheckResult:
    """What was checked, how it is, what was found in one line, what to do next if anything, and how long it took."""

    check: str
    status: str
    text: str
    next_step: str = ""
    seconds: float | None = None

    def __str__(self) -> str:
        text = f"{self.text}; next: {self.next_step}" if self.next_step else self.text
        took = "" if self.seconds is None else f"  {self.seconds:.1f} s"
        home = os.path.expanduser("~")  # people paste this into issues
        return f"{self.status:<7}  {self.check}: {' '.join(text.split())}{took}".replace(f"{home}/", "~/")
