"""Compose, check and identify the configuration of a run, alone or in Hydra's sweeps. Never imports torch.

Hydra calls whatever a `_target_` or its configuration of the logging names. A configuration from elsewhere must not run
code, so that few of Hydra's own settings can be set, and on the command line only.
"""

import argparse
import functools
import hashlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from fractions import Fraction
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any

import hydra
import msgspec
import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException, MissingConfigException
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from hydra.plugins.config_source import ConfigResult
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException, ValidationError

from repro.errors import ConfigError, Stopped, suggest
from repro.paths import conf_dir, results_dir
from repro.schema import FIELDS, SECTIONS, Family, Precision, RunConfig, ShortcutOption, allowed_values, rules

ConfigStore.instance().store(name="schema", node=RunConfig)

ANY = object()
GROUPS = ("dataset_recipe", "data", "model", "experiment", "recipe", "machine")  # as conf/config.yaml lists them
# Keys that are newer than the first records: what these runs did, left out of the identity there.
ADDED_LATER = {key: field.metadata["earlier"] for key, field in FIELDS.items() if "earlier" in field.metadata}
# Keys of earlier records that are gone: all of their values, or the one that is named, changed no number.
REMOVED = {"part_size": ANY, "machine.decoder": ANY, "machine.loader": ANY, "machine.steps_per_graph": ANY,
           "machine.activation_checkpointing": ANY, "data.on_bad": "fail"}
PAPER_PRECISIONS = (Precision.fp32, Precision.tf32)
EXACT = [precision.name for precision in PAPER_PRECISIONS]  # in which a test of a paper run may be
ENVIRONMENT = {"REPRO_DATA": "data.root", "REPRO_RESULTS": "results", "REPRO_DEVICE": "machine.device"}
PATHS = ("data.root", "results")
# Hydra's flags that are passed on; not those that name another main file or unpickle an earlier job.
FLAGS = ("-m", "--multirun", "-c", "--cfg", "-i", "--info", "-p", "--package", "--resolve")
# Of Hydra's own settings; not a sweeper's params: they would be overrides that nothing here looks at.
ADMITTED = re.compile(r"hydra/(sweeper|launcher)=[\w,]+|hydra\.(sweeper(?!.*param)|launcher|sweep)\.(?!.*_target_).+|"
                      r"hydra\.(verbose|mode)=.+|hydra\.searchpath=\['user://([^'\\]|\\.)*'\]", re.DOTALL)
# A package, key or entry of the defaults list in a user's file: files of its folder or ours, nothing of Hydra's.
ADMITTED_IN_FILES = re.compile(r"(override )?/?(?!.*hydra)\w[\w.-]*(/\w[\w.-]*)*")
# A value of the environment or of a function, ${oc.env:NAME}; within another it may make up the function's name.
CALL = re.compile(r"(?<!\\)(\\\\)*\$\{[^}]*(:|\$\{).*")


def experiments() -> list[str]:
    """Names of all experiments in conf/experiment, in natural order (plain20 before plain110)."""
    names = [path.stem for path in (conf_dir() / "experiment").glob("*.yaml")]
    return sorted(names, key=lambda name: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", name)])


def override(key: str, value: Any) -> str:
    """A setting as a person types it: key=value, with null, true, [1,2]."""
    plain = value.name if isinstance(value, Enum) else value
    text = str(plain) if isinstance(plain, str | float) else json.dumps(plain, separators=(",", ":"))
    return f"{key}={text}"


def override_keys(overrides: Sequence[str]) -> set[str]:
    """The keys that overrides name, as in key=value, +key=value, ~key."""
    return {word.partition("=")[0].lstrip("+~") for word in overrides}


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Raise what Hydra, OmegaConf and YAML raise as a ConfigError, with what is allowed where a type is wrong."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise ConfigError(one_message(error)) from error


def one_message(error: BaseException) -> str:
    """The text of a Hydra, OmegaConf or YAML error and of its cause, without repetition."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"no {group} {name!r}{suggest(name, error.options)}\nthere are: {', '.join(error.options)}"
    lines = f"{error}\n{error.__cause__ or ''}".splitlines()
    wrong: BaseException | None = error
    while wrong is not None and not isinstance(wrong, ValidationError):
        wrong = wrong.__cause__ or wrong.__context__
    key = (wrong.full_key or "").split("[")[0] if wrong else ""
    if allowed := allowed_values(key):
        where = lines[0].removeprefix("Error merging override ")
        return f"{where if key in where else f'{where} {key}'}: allowed is {allowed}"
    said = (line.strip() for line in lines if not re.match(r"\s*(object_type|reference_type|$)", line))
    return "\n  ".join(dict.fromkeys(said))


def compose(overrides: Sequence[str] = ()) -> RunConfig:
    """One run from conf/, REPRO_* variables and Hydra overrides, checked; ConfigError names what is wrong."""
    return to_run_config(compose_node(overrides))


@one_line_errors()
def compose_node(overrides: Sequence[str], environment: bool = True) -> DictConfig:
    """What Hydra composes, its own section included, not checked yet. Raises ConfigError."""
    check_override_keys(overrides)
    others = get_gh_backup()  # a notebook or hydra.main may have a Hydra of its own
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            words = [*(environment_overrides() if environment else []), *quote_paths(overrides)]
            return hydra.compose("config", words, return_hydra_config=True)
    finally:
        restore_gh_from_backup(others)


def files_of(overrides: Sequence[str]) -> list[Path]:
    """The configuration files that a run is composed of, in the order in which they win: the last one last."""
    runtime = compose_node(overrides).hydra.runtime
    folders = [Path(source.path) for source in runtime.config_sources if source.schema in ("file", "user")]
    names = ["config.yaml", *(f"{group}/{runtime.choices[group]}.yaml" for group in GROUPS)]
    return [next(folder / name for folder in folders if (folder / name).is_file()) for name in names]


def environment_overrides() -> list[str]:
    """The REPRO_* variables as overrides, quoted for Hydra's grammar."""
    return [f"{key}={quote(os.environ[name])}" for name, key in ENVIRONMENT.items() if os.environ.get(name)]


def quote(text: str) -> str:
    """Text as one quoted value of Hydra's override grammar."""
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # OmegaConf reads ${ as the start of an interpolation
    escaped = re.sub(r"(\\+)(?='|\Z)", r"\1\1", literal).replace("'", "\\'")
    return f"'{escaped}'"


def quote_paths(overrides: Sequence[str]) -> list[str]:
    """The overrides with paths quoted as they are typed: Hydra's grammar has no bare ~, comma, bracket or umlaut."""
    split = [(one, *one.partition("=")[::2]) for one in overrides]
    return [f"{key}={quote(path)}" if key in PATHS and path != "null" and not re.match(r"$|['\"]|.*\$\{", path) else one
            for one, key, path in split]


def check_override_keys(overrides: Sequence[str]) -> None:
    """Raise ConfigError for a key that the schema does not have, with the nearest one, and for what could run code."""
    known = [*GROUPS, *SECTIONS, *FIELDS]
    for override in overrides:
        name, equals, value = override.partition("=")
        key = name.lstrip("+~")
        if not equals and not override.startswith("~"):
            hint = f"; did you mean experiment={override}?" if override in experiments() else ""
            raise ConfigError(f"{override!r} is not key=value{hint}")
        if key.startswith("hydra"):
            if not ADMITTED.fullmatch(override.lstrip("+~")):
                raise ConfigError(f"{override}: of Hydra's own settings only sweeper, launcher and sweep can be set")
            continue
        if key not in known:
            raise ConfigError(f"unknown key {key!r}{suggest(key, known)}")
        if override.startswith("~"):
            raise ConfigError(f"{override}: a run needs {key}; give it another value instead")
        if key in GROUPS and re.search(r"^\[|\bnull\b|\.\.", value, re.IGNORECASE):
            raise ConfigError(f"{override}: one name is allowed; {key}=A,B with -m sweeps over two")
        check_interpolations(override)
    if {"model.depth", "model.blocks_per_stage"} <= override_keys(overrides):
        raise ConfigError("model.depth and model.blocks_per_stage say the same thing twice; give one of them")


def check_interpolations(text: str, where: str = "") -> None:
    """ConfigError for a value of the environment or of a function: what a configuration holds is recorded."""
    if found := CALL.search(text):
        raise ConfigError(f"{where}{found[0]}: would record a value of the environment; write it out")


def with_config_dir(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments with `--config-dir DIR` turned into the override that adds it to Hydra's search path."""
    words, rest = [], iter(arguments)
    for word in rest:
        flag, given, folder = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            folder = folder if given else next(rest, "")
            if not folder or not Path(folder).is_dir():
                raise ConfigError(f"--config-dir {folder}: no such folder")
            names = [Path("hydra"), *(path.relative_to(conf_dir()) for path in conf_dir().rglob("*.yaml"))]
            if taken := [name for name in names if Path(folder, name).exists()]:
                raise ConfigError(f"{Path(folder, taken[0])}: this is a name of ours; give yours another one")
            word = f"hydra.searchpath=[{quote('user://' + str(Path(folder).absolute()))}]"
        words.append(word)
    return words


class UserFiles(FileConfigSource):
    """A folder of the user's, user://FOLDER in Hydra's search path: every file of it is read here, and here alone."""

    @staticmethod
    def scheme() -> str:
        return "user"

    def load_config(self, config_path: str) -> ConfigResult:
        """What a file holds. ConfigError for one that could run code or tell the environment, and for an alias."""
        path = Path(self.path, self._normalize_file_name(config_path))
        try:
            for event in yaml.parse(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader):
                if isinstance(event, yaml.AliasEvent):  # a few of them can stand for more values than fit into memory
                    raise ConfigError(f"{path}: has an alias (*name); write the value out")
                check_interpolations(getattr(event, "value", ""), f"{path}: ")
        except (ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: {error}") from error
        result = super().load_config(config_path)
        content: Any = OmegaConf.to_container(result.config, resolve=False)
        words = [config_path.removesuffix(".yaml"), result.header["package"], *content]
        defaults = content.get("defaults") if isinstance(content, dict) else None  # Hydra refuses what is no mapping
        for entry in defaults if isinstance(defaults, list) else []:
            words += chain(*entry.items()) if isinstance(entry, dict) else [entry]
        if wrong := [word for word in words if not ADMITTED_IN_FILES.fullmatch(str(word))]:
            raise ConfigError(f"{path}: {wrong[0]} could run code; Hydra's own settings go on the command line")
        return result


SourcesRegistry.instance().register(UserFiles)


@one_line_errors()
def sweep(words: Sequence[str], run: Callable[[RunConfig], None]) -> None:
    """Let hydra.main run a command line that has flags of its own (-m, --cfg ...); each of its jobs calls `run`."""
    overrides = [word for word in words if not word.startswith("-") and ("=" in word or word.startswith("~"))]
    flags = [word for word in words if word not in overrides]
    if refused := [flag for flag in flags if flag.startswith("-") and flag.split("=")[0] not in FLAGS]:
        raise ConfigError(f"no flag {refused[0]!r}\nof Hydra's there are: {', '.join(FLAGS)}, --config-dir")
    check_override_keys(overrides)
    results = [word.partition("=")[2].strip("'\"") for word in overrides if word.startswith("results=")]
    this_process = os.getpid()
    stamp = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{this_process}"
    folder = results_dir(results[-1] if results else None) / "sweeps" / stamp  # for multirun.yaml

    def job(node: DictConfig) -> None:
        try:
            run(to_run_config(node))
        except Stopped as error:
            if os.getpid() != this_process:  # a launcher's, which hands exceptions over
                raise
            raise SystemExit from error  # after an Exception Hydra would go on with the next job

    # Python 3.14 checks help texts; Hydra 1.3.8 has objects in their place
    argparse.ArgumentParser._check_help = lambda *_: None  # type: ignore[attr-defined]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us as exceptions instead of exit code 1
    arguments, handlers = sys.argv, logging.root.handlers[:]
    try:
        given = [f"hydra.sweep.dir={quote(str(folder))}", *write_globs_out(quote_paths(overrides))]
        sys.argv = ["repro run", *environment_overrides(), *given, *flags]  # argparse wants all overrides in one row
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    except SystemExit as end:
        if end.__cause__:
            raise end.__cause__ from None
        sys.exit(2 if end.code else 0)  # Hydra said what is wrong in a line of its own
    finally:
        sys.argv, logging.root.handlers[:] = arguments, handlers  # Hydra's own write to the stream of today


def write_globs_out(overrides: Sequence[str]) -> list[str]:
    """The overrides with glob(...) as the names that it matches, the user's too; ConfigError if a sweep has no job."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    folders = [conf_dir(), *(Path(str(one.value()[0]).removeprefix("user://")) for one in parsed  # type: ignore[index]
                             if one.key_or_group == "hydra.searchpath")]
    words = []
    for word, one in zip(overrides, parsed, strict=True):
        value = one.value()
        if isinstance(value, Glob):
            names = {path.stem for folder in folders for path in (folder / one.key_or_group).glob("*.yaml")}
            choices = value.filter(sorted(names))
            word = f"{one.get_key_element()}={','.join(choices)}"
        else:
            choices = list(one.sweep_string_iterator()) if one.is_discrete_sweep() else [word]
        if not choices:
            raise ConfigError(f"{one.input_line}: matches nothing, so there is nothing to run")
        words.append(word)
    return words


@one_line_errors()
def to_run_config(node: DictConfig) -> RunConfig:
    """A composed node as a configuration: no value missing, depth resolved, all ranges checked."""
    with open_dict(node):
        node.pop("hydra", None)
    if missing := OmegaConf.missing_keys(node):
        raise ConfigError(f"no value for {', '.join(sorted(missing))}")
    return checked(OmegaConf.to_object(node))


def checked(given: Any) -> RunConfig:
    """The configuration with its depth resolved; ConfigError for the first value that can't be or does not go."""
    config = with_depth(given)
    values = {key: functools.reduce(getattr, key.split("."), config) for key in FIELDS}
    for key, value in values.items():
        words, holds = FIELDS[key].metadata["allowed"]
        if value is not None and not holds(value):
            raise ConfigError(f"{override(key, value)}: allowed is {words}")
    for key, good, words in rules(values):
        if not good:
            raise ConfigError(f"{override(key, values[key])}: allowed is {words}")
    return config


def with_depth(config: RunConfig) -> RunConfig:
    """The configuration with blocks_per_stage and depth = 6n+2 agreeing (CIFAR-10); a given depth wins."""
    model = config.model
    blocks, depth = model.blocks_per_stage, model.depth
    if model.architecture.name == "cifar":
        if depth is not None and (depth < 8 or (depth - 2) % 6):
            raise ConfigError(f"model.depth={depth}: allowed is 6n+2, as 20, 32, 44, 56, 110, 1202")
        blocks = blocks if depth is None else (depth - 2) // 6
        depth = None if blocks is None else 6 * blocks + 2
    # without shortcuts their option can't make two nets differ
    option = model.shortcut_option if model.family is Family.residual else ShortcutOption.A
    return replace(config, model=replace(model, shortcut_option=option, blocks_per_stage=blocks, depth=depth))


def read_config(recorded: Any) -> RunConfig:
    """The configuration that a record holds, with what its run did where a key is newer; ConfigError names the key."""
    try:
        values = dict(ADDED_LATER)
        for name, value in msgspec.convert(recorded, dict[str, Any]).items():
            values |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        for key, field in FIELDS.items():
            if key not in values and (field.metadata["changes_numbers"] or field.default == MISSING):
                raise ConfigError(f"no config.{key}")
        if values.get("engine") == "compile":  # of earlier versions; it changed no number
            values["engine"] = "auto"
        sections: dict[str, Any] = {name: {} for name in SECTIONS}
        for key, value in values.items():
            section, _, name = key.rpartition(".")
            if key in FIELDS:
                (sections[section] if section else sections)[name] = value
            elif REMOVED.get(key, values) not in (ANY, value):
                raise ConfigError(f"unknown key config.{key}{suggest(key, list(FIELDS))}")
        return checked(msgspec.convert(sections, RunConfig))
    except msgspec.ValidationError as error:
        raise ConfigError(f"config: {error}".replace("$.", "config.")) from error


def to_dict(config: Any) -> dict[str, Any]:
    return dict(msgspec.to_builtins(config))


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict as {dotted key: value}."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return result


def settings(config: RunConfig) -> dict[str, Any]:
    """The dotted keys and plain values of everything that changes a run's numbers (the seed aside)."""
    values = flat(to_dict(config))
    imagenet = config.model.architecture.name == "imagenet"  # its depth says which network it is; else it is 6n+2
    return {key: value for key, value in values.items()
            if FIELDS[key].metadata["changes_numbers"] or (imagenet and key == "model.depth")}


def difference(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys in which two flat mappings of settings differ, each with the old and the new value."""
    return {key: (old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)}


def config_hash(config: RunConfig) -> str:
    """Twelve hexadecimal digits of the SHA-256 of all that changes the numbers but the seed. `auto` is an error."""
    if config.machine.precision is Precision.auto:
        raise ConfigError("machine.precision=auto: resolve it before asking for the identity of a run")
    hashed = {key: value + 0.0 if isinstance(value, float) else value  # -0.0 and 0.0 are one
              for key, value in settings(config).items() if key not in ADDED_LATER or value != ADDED_LATER[key]}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:12]


def with_precision(config: RunConfig, precision: Precision) -> RunConfig:
    return replace(config, machine=replace(config.machine, precision=precision))


@functools.cache
def paper_config(experiment: str) -> RunConfig:
    """The experiment as it stands in conf/, without overrides or environment."""
    return to_run_config(compose_node([f"experiment={experiment}"], environment=False))


@functools.cache
def paper_hashes(experiment: str) -> frozenset[str]:
    """Identities whose runs may enter a paper table: the experiment in fp32 or TF32; none if it is not of conf/."""
    ours = experiment in experiments()
    return frozenset(config_hash(with_precision(paper_config(experiment), p)) for p in PAPER_PRECISIONS if ours)


def deviations(config: RunConfig) -> list[str]:
    """What this run changes of its experiment, as 'key: paper's value -> this value'; empty for a paper run."""
    if config.name not in experiments():
        return [f"{config.name}: an experiment of your own"]
    paper = paper_config(config.name)
    if config.machine.precision in PAPER_PRECISIONS:
        paper = with_precision(paper, config.machine.precision)
    return [f"{key}: {old} -> {new}" for key, (old, new) in difference(settings(paper), settings(config)).items()]


def scale_lengths(length: int, scale: float) -> int:
    """A length in iterations, shortened; rounded up in exact arithmetic, at least 1."""
    return max(1, ceil(length * Fraction(str(scale))))
