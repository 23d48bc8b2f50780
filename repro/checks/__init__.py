"""Results of checks, and the one that every command begins with: do the installed versions fit? Never imports torch."""

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from repro import OLDEST_PYTHON
from repro.errors import ConfigError
from repro.paths import TREE, in_tree

OK, WARNING, FAIL, SKIPPED = "ok", "warning", "FAIL", "skipped"
SHOWN = 5  # problems of one check
NEW_PAIR = ("install a pair that fits: `python -m pip install --upgrade torch torchvision`, as torch 2.11 with "
            "torchvision 0.26, 2.12 with 0.27, 2.13 with 0.28, 2.14 with 0.29")


@dataclass(frozen=True)
class CheckResult:
    """What was checked, how it is, what was found in one line, and how long it took."""

    check: str
    status: str
    text: str
    seconds: float | None = None

    def __str__(self) -> str:
        took = "" if self.seconds is None else f"  {self.seconds:.1f} s"
        home = os.path.expanduser("~")  # people paste this into issues
        return f"{self.status:<7}  {self.check}: {' '.join(self.text.split())}{took}".replace(f"{home}/", "~/")


def join(problems: Sequence[str]) -> str:
    """The first problems of a check in one line."""
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return "; ".join([*problems[:SHOWN], *more])


def check_versions(computes: bool = True) -> None:
    """ConfigError naming what is needed if Python (or what computes) is too old, or torch and torchvision don't fit."""
    if sys.version_info[:2] < OLDEST_PYTHON:
        raise ConfigError(f"Python {platform.python_version()} is too old: 3.11 to 3.14 is needed; make an environment "
                          "with another one: `make setup PYTHON=python3.12 VENV=.venv-new`")
    if not computes:
        return
    if wrong := [text for name, text in version_problems().items() if name in ("torch", "torchvision")]:
        raise ConfigError(f"{'; '.join(wrong)}; {NEW_PAIR}")


def version_problems() -> dict[str, str]:
    """{package: what is wrong} for each that is missing, or in a version that we or torchvision can't use."""
    import tomllib  # late: Python 3.10 has none, and is told before that it is too old
    from importlib.metadata import requires  # late: it takes 20 ms

    from packaging.requirements import Requirement

    if in_tree():
        ours = tomllib.loads((TREE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        ours = requires("resnet-repro") or []
    theirs = requires("torchvision") or [] if installed("torchvision") else []
    found: dict[str, str] = {}
    for by, text in [*(("", text) for text in ours), *((" by the installed torchvision", text) for text in theirs)]:
        needed = Requirement(text)
        if needed.name in found or (by and needed.name != "torch") or (
                needed.marker is not None and not needed.marker.evaluate({"extra": ""})):
            continue
        there = installed(needed.name)
        if there is None or not needed.specifier.contains(there, prereleases=True):
            found[needed.name] = f"{needed.name} {there or '(none)'} is installed: {needed.specifier} is needed{by}"
    return found


def installed(name: str) -> str | None:
    """The version of an installed package; None if it is not there."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None
