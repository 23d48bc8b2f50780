"""Results of checks, and the one that commands begin with: do torch and torchvision fit? Never imports torch."""

from contextlib import suppress
from typing import NamedTuple

from repro.errors import ConfigError

OK, WARNING, FAIL, SKIPPED = "ok", "warning", "FAIL", "skipped"
NEEDED = ("torch>=2.11", "torchvision>=0.26")  # as in pyproject.toml


class CheckResult(NamedTuple):
    """What was checked, how it is, and what was found, in one line."""

    check: str
    status: str
    text: str

    def __str__(self) -> str:
        return f"{self.status:<7}  {self.check}" + (f": {self.text}" if self.text else "")


def check_versions() -> None:
    """Raise ConfigError if torch or torchvision is missing, too old, or not made for the other one."""
    from importlib.metadata import PackageNotFoundError, requires, version  # late: it takes 20 ms

    from packaging.requirements import Requirement

    needed, wrong = [(text, "") for text in NEEDED], list[str]()
    with suppress(PackageNotFoundError):
        needed += [(text, " by the installed torchvision") for text in requires("torchvision") or []]
    for text, by in needed:
        one, there = Requirement(text), None
        if one.name not in ("torch", "torchvision") or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        with suppress(PackageNotFoundError):
            there = version(one.name)
        if there is None or not one.specifier.contains(there, prereleases=True):
            wrong.append(f"{one.name} {there or '(none)'} is installed: {one.specifier} is needed{by}")
    if wrong:
        raise ConfigError(f"{'; '.join(wrong)}; install a pair that fits: `python -m pip install --upgrade torch "
                          "torchvision`, as torch 2.11 with torchvision 0.26, 2.12 with 0.27, 2.13 with 0.28")
