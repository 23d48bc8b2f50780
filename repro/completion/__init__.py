"""Completion scripts for bash and zsh, made from the argument parser, the configuration's schema and experiments/.

A script is static: it knows the names of the moment in which it was made, and pressing Tab starts no Python.
"""

import argparse
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from repro import paper
from repro.completion.shell import BASH, FILES, FUNCTIONS, ZSH
from repro.config import GROUPS, PATHS, experiments
from repro.paper import PROTOCOLS
from repro.places import conf_dir
from repro.reporting.figure_data import names as figure_names
from repro.reporting.tables import names as table_names
from repro.schema import RunConfig

KEY_VALUE = "key=value"  # in the metavar of arguments that take overrides
EXTRA_KEYS = {  # what these commands read beside the configuration
    "suite": ("preset", "seeds", "jobs_per_device"), "eval": ("weights", "protocol"),
    "predict": ("weights",), "pending": ("jobs_per_device",),
    "bench": ("nets", "contenders", "rounds", "steps")}


@dataclass(frozen=True)
class Command:
    """What can follow a subcommand: flags (with the values of those that take one) and arguments by position."""

    name: str
    flags: tuple[str, ...]
    flag_values: dict[str, tuple[str, ...]]
    arguments: tuple[tuple[str, ...], ...]  # candidates for each position; the last one stands for all later ones
    overrides: bool  # whether key=value may follow


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """The completion script for `bash` or `zsh`, to be evaluated by it."""
    commands = [read_command(name, command) for name, command in subcommands(parser).items()]
    configuration = config_values()
    values = configuration | extra_values()
    functions = FUNCTIONS.format(
        top=words([*flags_of(parser), *(command.name for command in commands)]),
        commands="\n".join(command_case(command) for command in commands),
        value_flags="|".join(f"'{command.name} {flag}'" for command in commands for flag in command.flag_values)
        or "'none'",
        keys=words(f"{key}=" for key in configuration),
        values="\n".join(f"    {shlex.quote(key)}) {printed(found)} ;;" for key, found in values.items() if found))
    return functions + (BASH if shell == "bash" else ZSH)


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of all subcommands by name."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= action.choices
    return found


def flags_of(parser: argparse.ArgumentParser) -> list[str]:
    """The flags of a parser, the long form where there is one."""
    return [max(action.option_strings, key=len) for action in parser._actions if action.option_strings]


def read_command(name: str, parser: argparse.ArgumentParser) -> Command:
    """A subcommand as its parser describes it."""
    with_value = {flag: tuple(map(str, action.choices or ())) or (FILES,)
                  for action in parser._actions if action.nargs != 0 for flag in action.option_strings}
    positional = [action for action in parser._actions if not action.option_strings]
    return Command(name, tuple(flags_of(parser)), with_value,
                   tuple(argument_candidates(name, action) for action in positional),
                   any(KEY_VALUE in str(action.metavar) for action in positional))


def argument_candidates(command: str, action: argparse.Action) -> tuple[str, ...]:
    """What can stand in the place of a positional argument, overrides apart."""
    metavar = str(action.metavar)
    if action.choices:
        return tuple(map(str, action.choices))
    if action.dest == "name":
        return named(command)
    if KEY_VALUE in metavar:
        return (FILES,) if "RUN" in metavar or "IMAGE" in metavar else ()
    return (f"{metavar.partition('=')[0]}=",) if "=" in metavar else (FILES,)


def named(command: str) -> tuple[str, ...]:
    """The names that a command's argument `name` can take."""
    if command in ("suite", "cost"):
        return tuple(paper.suites())
    if command == "ensemble":
        return tuple(paper.ensembles())
    if command == "table":
        return (*table_names(), "all")
    return (*figure_names(), "all") if command == "figure" else ()


def config_values() -> dict[str, tuple[str, ...]]:
    """Every key that an override can give, configuration groups first, with its values where they can be listed."""
    groups = {group: group_names(group) for group in GROUPS}
    return groups | schema_values(RunConfig)


def group_names(group: str) -> tuple[str, ...]:
    """The files of one configuration group."""
    if group == "experiment":
        return tuple(experiments())
    return tuple(sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")))


def schema_values(node: Any, prefix: str = "") -> dict[str, tuple[str, ...]]:
    """The keys of a section of the schema, sections themselves left out, with the values of enums and booleans."""
    types = get_type_hints(node)
    found: dict[str, tuple[str, ...]] = {}
    for entry in fields(node):
        key, kind = prefix + entry.name, types[entry.name]
        if is_dataclass(kind):
            found |= schema_values(kind, f"{key}.")
        else:
            found[key] = (FILES,) if key in PATHS else listed(kind)
    return found


def listed(kind: Any) -> tuple[str, ...]:
    """All values of a type; empty for numbers, texts and lists."""
    if get_origin(kind) is UnionType:
        inner = [value for part in get_args(kind) for value in listed(part)]
        return (*inner, "null") if inner else ()
    if isinstance(kind, type) and issubclass(kind, Enum):
        return tuple(kind.__members__)
    return ("true", "false") if kind is bool else ()


def extra_values() -> dict[str, tuple[str, ...]]:
    """The values of the keys that single commands read beside the configuration."""
    presets = {name for suite in paper.suites() for name in paper.suite(suite).presets}
    return {"preset": tuple(sorted({"auto", "paper", *presets})), "weights": (FILES,), "protocol": PROTOCOLS}


def command_case(command: Command) -> str:
    """The branch of the shell's `case` for one subcommand."""
    lines = [f"    {command.name})"]
    if command.flag_values:
        cases = " ".join(f"{flag}) {printed(found)}; return ;;" for flag, found in command.flag_values.items())
        lines.append(f"      case $3 in {cases} esac")
    lines.append(f"      case $4 in -*) {printed(command.flags)}; return ;; esac")
    positions = [f"{index}) {printed(found)} ;;" for index, found in enumerate(command.arguments[:-1]) if found]
    if command.arguments and command.arguments[-1]:
        positions.append(f"*) {printed(command.arguments[-1])} ;;")
    if positions:
        lines.append(f"      case $2 in {' '.join(positions)} esac")
    if command.overrides:
        extra = [f"{key}=" for key in EXTRA_KEYS.get(command.name, ())]
        first = len(command.arguments) - 1
        lines.append(f"      if [ $2 -ge {first} ]; then _repro_keys; {printed(extra) if extra else ':'}; fi")
    return "\n".join([*lines, "      ;;"])


def printed(found: Iterable[str]) -> str:
    """Shell code that prints each candidate on a line."""
    return f"printf '%s\\n' {words(found)}"


def words(found: Iterable[str]) -> str:
    """Candidates as words of a shell command."""
    return " ".join(shlex.quote(word) for word in found)
