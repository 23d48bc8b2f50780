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
from hydra.core.override_parser.types import Glob, Override
from omegaconf import DictConfig, OmegaConf

from repro.errors import ConfigError, Stopped
from repro.paths import conf_dir
from repro.schema import FIELDS

# Hydra's flags that are passed on; not those that name another main file or unpickle an earlier job.
FLAGS = ("-m", "--multirun", "-c", "--cfg", "-i", "--info", "-p", "--package", "--resolve")
# Not a sweeper's params: they would choose files that `compositions` does not see.
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
    for override in parse([one for one in overrides if one.lstrip("+").startswith("hydra.searchpath=")]):
        entries = override.value()
        if not isinstance(entries, list) or not all(str(entry).startswith("file://") for entry in entries):
            raise ConfigError(f"{override.input_line}: folders alone can be searched; --config-dir FOLDER names one")
        found += [Path(str(entry).removeprefix("file://")) for entry in entries]
    return found


def check_files(folder: Path) -> None:
    """Raise ConfigError for a user's file that Hydra can't read, or overlooks because it has the name of ours.

    And for an alias: a few lines of them can stand for more values than fit into memory.
    """
    if (folder / "hydra").exists():
        raise ConfigError(f"{folder / 'hydra'}: Hydra's own settings can be given on the command line only")
    groups = [path.name for path in conf_dir().iterdir() if path.is_dir()]
    for path in [*folder.glob("config.yaml"), *chain(*((folder / group).rglob("*.yaml") for group in groups))]:
        name = path.relative_to(folder)
        if (conf_dir() / name).is_file():
            raise ConfigError(f"{path}: {name.with_suffix('')} is a name of ours, and Hydra would take our file; give "
                              "yours another name")
        try:
            text = path.read_text(encoding="utf-8")
        except ValueError as error:
            raise ConfigError(f"{path}: no UTF-8 ({error})") from error
        check_interpolations(text, f"{path}: ")
        with suppress(yaml.YAMLError):  # Hydra says what is wrong, if it uses the file
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
                raise ConfigError(f"{path}: has an alias (*name); write the value out")


def check_interpolations(text: str, where: str = "") -> None:
    """ConfigError for a value of the environment or of a function: what a configuration holds is recorded.

    `${train.lr}` is admitted, `${oc.env:NAME}` is not; one within another may make up the name of a function.
    """
    if found := re.search(r"(?<!\\)(\\\\)*\$\{[^}]*(:|\$\{).*", text):
        raise ConfigError(f"{where}{found[0]}: a value of the environment or of a function would be recorded; write "
                          "the value out, or let your shell do it")


def refuse_code(node: DictConfig, plain: DictConfig) -> None:
    """Raise ConfigError if a composed node has other settings of Hydra's than `plain`: they could run code."""
    sections: list[Any] = [OmegaConf.to_container(one.hydra, resolve=False) for one in (node, plain)]
    for section in sections:
        del section["runtime"], section["overrides"], section["job"]["override_dirname"]  # what was composed
    for key in sections[0]:
        if sections[0][key] != sections[1].get(key):
            raise ConfigError(f"a configuration file sets hydra.{key}, which could run code; take it out of the files "
                              "of --config-dir")


def parse(overrides: Sequence[str]) -> list[Override]:
    """The overrides as Hydra's grammar reads them."""
    return OverridesParser.create().parse_overrides(list(overrides))


def write_globs_out(overrides: Sequence[str]) -> list[str]:
    """The overrides with glob(...) as the names of the files that it matches, the user's too (Hydra takes ours alone).

    ConfigError for a sweep over nothing, of which Hydra would make no job and no error.
    """
    def write_out(word: str, override: Override) -> str:
        value, key = override.value(), override.get_key_element()
        if isinstance(value, Glob) and override.key_or_group not in FIELDS:
            names = {path.stem for folder in (conf_dir(), *own_folders(overrides))
                     for path in (folder / override.key_or_group).glob("*.yaml")}
            choices = value.filter(sorted(names))
            word = f"{key}={','.join(choices)}"
        else:
            choices = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else [word]
        if not choices:
            raise ConfigError(f"{override.input_line}: matches nothing, so there is nothing to run")
        return word

    return [write_out(word, override) for word, override in zip(overrides, parse(overrides), strict=True)]


def compositions(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each composition of files that a sweep uses: its own, without what is swept, and its jobs'."""
    parsed = parse(overrides)
    fixed = [override.input_line or "" for override in parsed if not override.is_sweep_override()]
    swept = [[f"{override.get_key_element()}={choice}" for choice in override.sweep_string_iterator()]
             for override in parsed if override.is_sweep_override() and override.key_or_group not in FIELDS]
    own = fixed if any(word.startswith("experiment=") for word in fixed) else [*fixed, PLAIN]
    return [own, *([*fixed, *chosen] for chosen in product(*swept))]


def call_hydra(overrides: Sequence[str], flags: Sequence[str], run: Callable[[DictConfig], None]) -> None:
    """Let hydra.main run a command line with its own flags; each of its jobs calls `run` with what it composed.

    A job that is stopped (a signal, max_seconds) ends the sweep. Raises what Hydra and `run` raise.
    """
    this_process = os.getpid()

    def job(node: DictConfig) -> None:
        try:
            run(node)
        except Stopped as error:
            if os.getpid() != this_process:  # a launcher's, which hands exceptions over
                raise
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
        if end.__cause__:
            raise end.__cause__ from None
        sys.exit(2 if end.code else 0)  # Hydra said what is wrong in a line of its own
    finally:
        sys.argv, logging.root.handlers[:] = arguments, handlers  # Hydra's own write to the stream of today
