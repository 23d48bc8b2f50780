"""What several commands need: the program's name, versions and folders."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from repro.errors import ConfigError

if TYPE_CHECKING:
    from repro.reporting.select import RunSet

Handler = Callable[[argparse.Namespace], int]


class Add(Protocol):
    """Adds a subcommand: its name, what it does in one line, and the function that does it."""

    def __call__(self, name: str, text: str, handler: Handler, /) -> argparse.ArgumentParser:
        """Return the subcommand's parser, for its arguments."""


def program() -> str:
    """How this program is called from here: by its name if it is on the PATH, else by its path."""
    import shutil

    called = Path(sys.argv[0])
    return str(called) if called.name == "repro" and not shutil.which("repro") else "repro"


def check_versions() -> None:
    """ConfigError naming the pair that is needed if Python, torch or torchvision is too old or they do not fit."""
    from repro.versions import version_problems

    problems = [problem for problem in version_problems() if problem.check in ("python", "torch", "torchvision")]
    if problems:
        raise ConfigError("\n".join(f"{problem.text}; {problem.next_step}" for problem in problems))


def results_of(setting: str | None = None) -> Path:
    """The user's results folder."""
    from repro.paths import results_dir

    return results_dir(setting)


def runs_of(reference: bool = False, results: Path | None = None) -> list["RunSet"]:
    """The user's runs, unless only the committed ones are asked for, and the committed ones."""
    from repro.paths import reference_dir
    from repro.reporting.select import pools

    return pools(None if reference else results or results_of(), reference_dir())


def output_folder(kind: str, reference: bool) -> Path:
    """Beside the committed runs for what comes from them alone, in a checkout; else in the user's results."""
    from repro.paths import in_tree, reference_dir

    return (reference_dir() if reference and in_tree() else results_of()) / kind
