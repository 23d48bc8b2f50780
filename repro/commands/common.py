"""What several commands need: the program's name, versions and folders."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from repro.errors import ConfigError

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


def output_folder(kind: str, reference: bool) -> Path:
    """Beside the committed runs for what comes from them alone, in a checkout; else in the user's results."""
    from repro.paths import in_tree, reference_dir

    return (reference_dir() if reference and in_tree() else results_of()) / kind
