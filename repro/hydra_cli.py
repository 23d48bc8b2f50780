"""What may reach Hydra from a command line or a user's file, and hydra.main for sweeps and Hydra's own flags.

Hydra calls whatever a `_target_` names (callbacks, arguments of launchers) and whatever its configuration of the
logging names, and imports what a pkg:// search path names; a configuration from elsewhere must not run code.
Never imports torch.
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain, product
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from repro.errors import ConfigError, Stopped
from repro.paths import conf_dir
from repro.schema import FIELDS

# Hydra's flags that are passed on; not those that name another main file or unpickle an earlier job.
FLAGS = ("-m", "--multirun", "-c", "--cfg", "--info", "-i", "-p", "--package", "--resolve", "--hydra-help")
# Not a sweeper's params: they would choose files that `combinations` does not see.
ADMITTED = (r"hydra/(sweeper|launcher)|hydra\.(sweeper(?!.*param)|launcher|sweep)\..+|"
            r"hydra\.(searchpath|verbose|mode)")
PLAIN = "experiment=cifar_resnet20"  # any of ours: its files leave Hydra's settings as they are


def check_key(override: str) -> None:
    """Raise ConfigError for an override of Hydra's own settings that could run code or that nothing here reads."""
    if not re.fullmatch(ADMITTED, override.partition("=")[0].lstrip("+~")) or "_target_" in override:
        raise ConfigError(f"{override}: of Hydra's own settings only sweeper, launcher, sweep and verbose can be set "
                          "here; where results go says results=FOLDER")
    for folder in own_folders([override]):
        check_files(folder)


def own_folders(overrides: Sequence[str]) -> list[Path]:
    """The user's folders of configuration files among the overrides; ConfigError for a search path of another kind."""
    found: list[Path] = []
    for override in overrides:
        if not override.lstrip("+").startswith("hydra.searchpath="):
            continue
        try:
            value = OverridesParser.create().parse_override(override).value()
        except HydraException as error:
            raise ConfigError(f"{override}: {error}") from error
        if not isinstance(value, list) or not all(str(entry).startswith("file://") for entry in value):
            raise ConfigError(f"{override}: folders alone can be searched for files; --config-dir FOLDER names one")
        found += [Path(str(entry).removeprefix("file://")) for entry in value]
    return found


def check_files(folder: Path) -> None:
    """Raise ConfigError for a user's file that Hydra would overlook, misread or take long over.

    It overlooks one that has the name of ours, skips the package of one with a byte order mark, and a few lines of
    aliases can stand for more values than fit into memory. Looked at are the folders that are named as our groups.
    """
    if (folder / "hydra").exists():
        raise ConfigError(f"{folder / 'hydra'}: Hydra's own settings can be given on the command line only")
    groups = [path.name for path in conf_dir().iterdir() if path.is_dir()]
    for path in sorted([*folder.glob("config.yaml"), *chain(*((folder / group).rglob("*.yaml") for group in groups))]):
        name = path.relative_to(folder)
        if (conf_dir() / name).is_file():
            raise ConfigError(f"{path}: {name.with_suffix('')} is a name of ours, and Hydra would take our file; give "
                              "yours another name")
        try:
            text = path.read_text(encoding="utf-8")
        except ValueError as error:
            raise ConfigError(f"{path}: no UTF-8 ({error})") from error
        if text.startswith("\N{ZERO WIDTH NO-BREAK SPACE}"):
            raise ConfigError(f"{path}: begins with a byte order mark; save it as UTF-8 without one")
        with suppress(yaml.YAMLError):  # Hydra says what is wrong, if it uses the file
            for event in yaml.parse(text, Loader=yaml.SafeLoader):
                if isinstance(event, yaml.AliasEvent):
                    line = event.start_mark.line + 1 if event.start_mark else "?"
                    raise ConfigError(f"{path}, line {line}: an alias (*{event.anchor}); write the value out")


def refuse_resolvers(node: Any, prefix: str = "") -> None:
    """Raise ConfigError if a value would come from outside of the configuration: the environment, a clock, code.

    `${train.lr}` is admitted, `${oc.env:NAME}` is not: what a configuration holds is recorded.
    """
    for key in range(len(node)) if OmegaConf.is_list(node) else list(node):
        if OmegaConf.is_interpolation(node, key):
            written = OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[index]
            # \${ is no interpolation, \\${ is one; one within another may make up the name of a function
            if re.search(r"(?<!\\)(\\\\)*\$\{[^}]*(:|\$\{)", str(written)):
                raise ConfigError(f"{prefix}{key}={written}: a value of the environment or of a function would be "
                                  "recorded; write the value out, or let your shell do it")
        elif not OmegaConf.is_missing(node, key) and OmegaConf.is_config(node[key]):
            refuse_resolvers(node[key], f"{prefix}{key}.")


def refuse_code(node: DictConfig, plain: DictConfig) -> None:
    """Raise ConfigError if a composed node has other settings of Hydra's than `plain`: they could run code."""
    sections: list[Any] = [OmegaConf.to_container(one.hydra, resolve=False) for one in (node, plain)]
    for section in sections:
        del section["runtime"], section["overrides"], section["job"]["override_dirname"]  # what was composed
    for key in sections[0]:
        if sections[0][key] != sections[1].get(key):
            raise ConfigError(f"a configuration file sets hydra.{key}, which could run code; take it out of the files "
                              "of --config-dir")


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of a composition for each combination of files that a sweep may use, its own composition too."""
    fixed, swept = [], []
    for word, parsed in zip(overrides, OverridesParser.create().parse_overrides(list(overrides)), strict=True):
        if not parsed.is_sweep_override():
            fixed.append(word)
        elif parsed.key_or_group not in FIELDS:
            if not parsed.is_choice_sweep() or isinstance(parsed.value(), Glob):
                raise ConfigError(f"{word}: name the files, as {parsed.key_or_group}=A,B")
            choices = [[f"{parsed.get_key_element()}={choice}"] for choice in parsed.sweep_string_iterator()]
            swept.append([*choices, [PLAIN] if parsed.key_or_group == "experiment" else []])
    return [[*fixed, *chain(*chosen)] for chosen in product(*swept)]


def call_hydra(overrides: Sequence[str], flags: Sequence[str], run: Callable[[DictConfig], None]) -> None:
    """Let hydra.main run a command line with its own flags; each of its jobs calls `run` with what it composed.

    A job that is stopped (a signal, max_seconds) ends the sweep. Raises what Hydra and `run` raise.
    """
    def job(node: DictConfig) -> None:
        try:
            run(node)
        except Stopped as error:
            raise SystemExit from error  # after an Exception Hydra would go on with the next job

    refused = [flag for flag in flags if flag.startswith("-") and flag.split("=")[0] not in FLAGS]
    if refused:
        raise ConfigError(f"no flag {refused[0]!r}\nof Hydra's there are: {', '.join(FLAGS)}, --config-dir")
    # Python 3.14 checks help texts; Hydra 1.3.8 has objects in their place
    argparse.ArgumentParser._check_help = lambda *_: None  # type: ignore[attr-defined]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us as exceptions instead of exit code 1
    arguments, handlers = sys.argv, logging.root.handlers[:]
    sys.argv = ["repro run", *overrides, *flags]  # argparse wants all overrides in one row
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    except SystemExit as end:
        raise (end.__cause__ or end) from None
    finally:
        sys.argv, logging.root.handlers[:] = arguments, handlers  # Hydra's own write to the stream of today
