"""Do the installed versions work together? Read from package metadata alone. Never imports torch."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

from repro import OLDEST_PYTHON
from repro.checks import FAIL, CheckResult
from repro.paths import TREE, in_tree

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "resnet-repro"
NEWEST_PYTHON = (3, 14)  # the test suite passes on this one, on OLDEST_PYTHON and on those between
NEW_PYTHON = "make an environment with another one: `make setup PYTHON=python3.12 VENV=.venv-new`"
PAIRS = {"2.11": "0.26", "2.12": "0.27", "2.13": "0.28", "2.14": "0.29"}  # as torchvision's own metadata pin torch
NEW_PAIR = ("install a pair that fits: `python -m pip install --upgrade torch torchvision`, or by name: "
            + ", ".join(f"torch {torch} with torchvision {vision}" for torch, vision in PAIRS.items())
            + ", later ones as torchvision's requirement says")
COMPUTING = ("torch", "torchvision")


def version_problems() -> list[CheckResult]:
    """What is missing, too old or doesn't fit, Python first; empty if everything that we require is there."""
    python = python_problem(sys.version_info[:2])
    if python is not None:
        return [python]
    found = [problem for requirement in requirements() if (problem := requirement_problem(requirement)) is not None]
    if not {problem.check for problem in found} & set(COMPUTING):
        found += pair_problems()
    return found


def python_problem(found: tuple[int, int]) -> CheckResult | None:
    """A Python that is too old; a newer one than the tested ones is no problem by itself."""
    if found >= OLDEST_PYTHON:
        return None
    return CheckResult("python", FAIL, f"Python {platform.python_version()} is too old: {python_range()} is needed",
                          NEW_PYTHON)


def python_range() -> str:
    """'3.11 to 3.14'."""
    return " to ".join(".".join(map(str, edge)) for edge in (OLDEST_PYTHON, NEWEST_PYTHON))


def requirements() -> list["Requirement"]:
    """What this package needs, from pyproject.toml in a checkout and else from its metadata, extras left out."""
    from packaging.requirements import Requirement

    if in_tree():
        import tomllib

        texts = tomllib.loads((TREE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        texts = requires(DISTRIBUTION) or []
    parsed = [Requirement(text) for text in texts]
    return [requirement for requirement in parsed
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})]


def requirement_problem(requirement: "Requirement") -> CheckResult | None:
    """A package that is not installed or not in a version that we require."""
    name, needed = requirement.name, str(requirement.specifier)
    next_step = NEW_PAIR if name in COMPUTING else f"`python -m pip install '{name}{needed}'`"
    found = installed_version(name)
    if found is None:
        return CheckResult(name, FAIL, f"{name} is not installed ({needed} is needed)", next_step)
    if not requirement.specifier.contains(found, prereleases=True):
        return CheckResult(name, FAIL, f"{name} {found} is not supported: {needed} is needed", next_step)
    return None


def pair_problems() -> list[CheckResult]:
    """A torch that the installed torchvision was not built for, by torchvision's own requirement."""
    from packaging.requirements import Requirement

    torch, torchvision = installed_version("torch"), installed_version("torchvision")
    if torch is None or torchvision is None:
        return []
    needed = [requirement.specifier for requirement in map(Requirement, requires("torchvision") or [])
              if requirement.name == "torch" and requirement.marker is None]
    return [CheckResult("torchvision", FAIL, f"torchvision {torchvision} needs torch {specifier}, and torch {torch} is "
                           "installed", NEW_PAIR)
            for specifier in needed if not specifier.contains(torch, prereleases=True)]


def installed_version(name: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
