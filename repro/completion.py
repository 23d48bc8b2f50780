"""Completion in the shell by argcomplete: `eval "$(register-python-argcomplete repro)"`. Never imports torch."""

import argparse
from collections.abc import Callable, Iterable
from typing import Any

import argcomplete
from argcomplete.completers import FilesCompleter

from repro import paper
from repro.config import GROUPS, PATHS
from repro.paper import PROTOCOLS
from repro.paths import conf_dir
from repro.reporting.figures import names as figure_names
from repro.reporting.tables import names as table_names
from repro.schema import FIELDS, allowed_values

NAMES: dict[str, Callable[[], list[str]]] = {
    "suite": paper.suites, "cost": paper.suites, "ensemble": paper.ensembles, "table": table_names,
    "figure": figure_names}
OWN_KEYS = {"eval": ("weights", "protocol", "what"), "suite": ("preset", "seeds"),
            "bench": ("nets", "contenders", "rounds", "steps")}


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell that asks by its environment, and end the process."""
    argcomplete.autocomplete(parser, default_completer=candidates)  # type: ignore[arg-type]  # any callable will do


def candidates(prefix: str, action: argparse.Action, parser: argparse.ArgumentParser, **_: Any) -> Iterable[str]:
    """Words for an argument without choices: keys of the configuration and their values, names, else files."""
    command = parser.prog.split()[-1]
    if action.dest == "name":
        return NAMES[command]()
    if "key=value" not in str(action.metavar):
        return FilesCompleter()(prefix)
    key, equals, value = prefix.partition("=")
    if equals:
        words = (FilesCompleter()(value) if key in (*PATHS, "weights") else
                 PROTOCOLS if (command, key) == ("eval", "protocol") else values(key))
        return [f"{key}={word}" for word in words]
    return [f"{key}=" for key in (*OWN_KEYS.get(command, ()), *GROUPS, *FIELDS)]


def values(key: str) -> list[str]:
    """The values of a key that has few: the files of a group of conf/, or the words that the schema admits."""
    if key in GROUPS:
        return sorted(path.stem for path in (conf_dir() / key).glob("*.yaml"))
    return [word for word in (allowed_values(key) or "").split(" or ") if word and " " not in word]
