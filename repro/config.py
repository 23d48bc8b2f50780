"""Compose, check and identify the configuration of a run. Never imports torch.

`compose(["experiment=cifar_resnet20", "seed=1"])` is the public entry.
"""

import functools
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from difflib import SequenceMatcher
from enum import Enum
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import msgspec
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException, ValidationError
from yaml import YAMLError

from repro import hydra_cli
from repro.errors import ConfigError
from repro.paths import conf_dir, results_dir
from repro.schema import FIELDS, Architecture, Family, Precision, RunConfig, ShortcutOption, allowed_values, rules

ConfigStore.instance().store(name="schema", node=RunConfig)

ANY = object()
GROUPS = ("dataset_recipe", "data", "model", "experiment", "recipe", "machine")  # as conf/config.yaml lists them
NOT_HASHED = {key for key, field in FIELDS.items() if not field.metadata["changes_numbers"]}
# Keys that are newer than the first records: what these runs did, left out of the identity there.
ADDED_LATER = {key: field.metadata["earlier"] for key, field in FIELDS.items() if "earlier" in field.metadata}
# Keys of earlier records that are gone: all of their values, or the one that is named, changed no number.
REMOVED = {"part_size": ANY, "machine.decoder": ANY, "machine.steps_per_graph": ANY, "data.on_bad": "fail"}
PAPER_PRECISIONS = (Precision.fp32, Precision.tf32)
ENVIRONMENT = {"REPRO_DATA": "data.root", "REPRO_RESULTS": "results", "REPRO_DEVICE": "machine.device"}
PATHS = ("data.root", "results")
# A path as it is typed: Hydra's grammar has no bare ~, comma, bracket or letter beyond ASCII. Not one that is quoted
# already, null, or holds an interpolation.
BARE_PATH = re.compile(r"(data\.root|results)=(?!null$|['\"])(?!.*\$\{)(.+)", re.DOTALL)


def experiments() -> list[str]:
    """Names of all experiments in conf/experiment, in natural order (plain20 before plain110)."""
    names = [path.stem for path in (conf_dir() / "experiment").glob("*.yaml")]
    return sorted(names, key=lambda name: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", name)])


def suggest(word: str, known: Sequence[str]) -> str:
    """'; did you mean ...?' with the known name that holds a misspelled word, is like it, or like its end; or ''."""
    def likeness(known_name: str) -> tuple[float, bool]:
        typed, name = word.casefold(), known_name.casefold()
        ends = typed.rpartition(".")[2], name.rpartition(".")[2]
        ratio = max(SequenceMatcher(None, *pair).ratio() for pair in ((typed, name), ends))
        return (len(typed) > 2 and typed in name) + ratio, typed[:3] == name[:3]  # of equals, the one that begins alike

    best = max(known, key=likeness, default="")
    return f"; did you mean {best}?" if likeness(best)[0] >= 0.6 else ""


def override(key: str, value: Any) -> str:
    """A setting as a person types it: key=value, with null, true, [1,2]."""
    plain = value.name if isinstance(value, Enum) else value
    text = str(plain) if isinstance(plain, str | float) else json.dumps(plain, separators=(",", ":"))
    return f"{key}={text}"


# ---- from the command line and conf/

def compose(overrides: Sequence[str] = ()) -> RunConfig:
    """Compose one run from conf/ and Hydra overrides, check it, and return it as a RunConfig.

    $REPRO_DATA, $REPRO_RESULTS and $REPRO_DEVICE stand in for data.root, results and machine.device; an override of
    the same key wins. Raises ConfigError (exit 2) for anything wrong, naming the key or file. `auto` values stay as
    they are: see `repro.devices.resolve`.
    """
    with one_line_errors():
        return to_run_config(compose_node(overrides))


def compose_node(overrides: Sequence[str], environment: bool = True) -> DictConfig:
    """What Hydra composes, its own section included, not checked yet. Raises ConfigError."""
    check_override_keys(overrides)
    others = get_gh_backup()  # a notebook or hydra.main may have a Hydra of its own
    GlobalHydra.instance().clear()
    words = [*(environment_overrides() if environment else []), *quote_paths(overrides)]
    try:
        with one_line_errors(), initialize_config_dir(str(conf_dir()), version_base="1.3"):
            node = hydra_compose("config", words, return_hydra_config=True)
            if hydra_cli.own_folders(overrides):
                plain = [hydra_cli.PLAIN, *(one for one in overrides if one.lstrip("+~").startswith("hydra"))]
                hydra_cli.refuse_code(node, hydra_compose("config", plain, return_hydra_config=True))
    finally:
        restore_gh_from_backup(others)
    return node


def sweep(words: Sequence[str], run: Callable[[RunConfig], None]) -> None:
    """Let Hydra run a command line that has flags of its own (-m, --cfg ...); each of its jobs calls `run`."""
    overrides = [word for word in words if not word.startswith("-") and ("=" in word or word.startswith("~"))]
    flags = [word for word in words if word not in overrides]
    check_override_keys(overrides)
    results = [word.partition("=")[2].strip("'\"") for word in overrides if word.startswith("results=")]
    stamp = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}"
    folder = results_dir(results[-1] if results else None) / "sweeps" / stamp  # for multirun.yaml
    with one_line_errors():
        quoted = hydra_cli.write_globs_out(quote_paths(overrides))
        for composition in hydra_cli.compositions(quoted) if hydra_cli.own_folders(overrides) else []:
            compose_node(composition)
        hydra_cli.call_hydra([*environment_overrides(), f"hydra.sweep.dir={quote(str(folder))}", *quoted], flags,
                   lambda node: run(to_run_config(node)))


def files_of(overrides: Sequence[str]) -> list[Path]:
    """The configuration files that a run is composed of, in the order in which they win: the last one last."""
    runtime = compose_node(overrides).hydra.runtime
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    names = ["config.yaml", *(f"{group}/{runtime.choices[group]}.yaml" for group in GROUPS)]
    return [next(folder / name for folder in folders if (folder / name).is_file()) for name in names]


def with_config_dir(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments with `--config-dir DIR` turned into the override that adds it to Hydra's search path."""
    words, rest = [], iter(arguments)
    for word in rest:
        flag, given, folder = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            folder = folder if given else next(rest, "")
            if not folder or not Path(folder).is_dir():
                raise ConfigError(f"--config-dir {folder}: no such folder")
            word = f"hydra.searchpath=[{quote('file://' + str(Path(folder).absolute()))}]"
        words.append(word)
    return words


def environment_overrides() -> list[str]:
    """The REPRO_* variables as overrides, quoted for Hydra's grammar."""
    return [f"{key}={quote(os.environ[name])}" for name, key in ENVIRONMENT.items() if os.environ.get(name)]


def quote(text: str) -> str:
    """Text as one quoted value of Hydra's override grammar."""
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # OmegaConf reads ${ as the start of an interpolation
    escaped = re.sub(r"(\\+)(?='|\Z)", r"\1\1", literal).replace("'", "\\'")
    return f"'{escaped}'"


def quote_paths(overrides: Sequence[str]) -> list[str]:
    """The overrides with bare paths quoted for Hydra's grammar."""
    return [BARE_PATH.sub(lambda path: f"{path[1]}={quote(path[2])}", one) if BARE_PATH.fullmatch(one) else one
            for one in overrides]


def check_override_keys(overrides: Sequence[str]) -> None:
    """Raise ConfigError for a key that the schema does not have, with the nearest one, and for two depths."""
    known = [*GROUPS, *dict.fromkeys(key.split(".")[0] for key in FIELDS), *FIELDS]
    own_files = any("hydra.searchpath=" in override for override in overrides)  # Hydra then knows more experiments
    given = set()
    for override in overrides:
        key, _, value = override.partition("=")
        bare = key.lstrip("+~").split("@")[0]
        given.add(bare)
        if "=" not in override and not override.startswith("~"):
            hint = f"; did you mean experiment={override}?" if override in experiments() else ""
            raise ConfigError(f"{override!r} is not key=value{hint}")
        if re.match(r"hydra\b", bare):
            with one_line_errors():
                hydra_cli.check_key(override)
        elif bare in REMOVED:
            raise ConfigError(f"{bare} is no setting any more; leave it out")
        elif bare not in known:
            raise ConfigError(f"unknown key {bare!r}{suggest(bare, known)}")
        elif override.startswith("~"):
            raise ConfigError(f"{override}: a run needs {bare}; give it another value instead")
        else:
            hydra_cli.check_interpolations(override)
        if bare in GROUPS and re.search(r"(?<!\()\[|(?:^|[,(])\s*null\s*(?:[,)]|$)", value, re.IGNORECASE):
            raise ConfigError(f"{override}: one name is allowed; {bare}=A,B with -m sweeps over two")
        if bare == "experiment" and value not in experiments() and not own_files and not re.search(r"[,?(]", value):
            raise ConfigError(f"no experiment {value!r}{suggest(value, experiments())}\n"
                              f"there are: {', '.join(experiments())}")
    if {"model.depth", "model.blocks_per_stage"} <= given:
        raise ConfigError("model.depth and model.blocks_per_stage say the same thing twice; give one of them")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Raise what Hydra, OmegaConf and YAML raise as a ConfigError, with what is allowed where a type is wrong."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        raise ConfigError(one_message(error)) from error


def one_message(error: BaseException) -> str:
    """The text of a Hydra, OmegaConf or YAML error and of its cause, without repetition."""
    wrong: BaseException | None = error
    while wrong is not None and not isinstance(wrong, ValidationError):
        wrong = wrong.__cause__ or wrong.__context__
    key = (wrong.full_key or "").split("[")[0] if wrong else ""
    value = re.search(r"'([^']*)'|value: (.*)", str(wrong))
    if value and (allowed := allowed_values(key)):
        file, given = re.match(r"In '([^']*)'", str(error)), re.match(r"Error merging override (.*)", str(error))
        said = given[1] if given else f"{key}={value[1] or value[2]}"
        return f"{file[1] + ': ' if file else ''}{said}: allowed is {allowed}"
    cause = str(error.__cause__ or "").strip()
    lines = [line.strip() for line in (str(error) if cause in str(error) else f"{error}\n{cause}").splitlines()]
    return "\n  ".join(line for line in lines if line and not line.startswith(("object_type", "reference_type")))


def to_run_config(node: DictConfig) -> RunConfig:
    """A composed node as a configuration: no value missing, depth resolved, all ranges checked."""
    if "hydra" in node:
        with open_dict(node):
            del node["hydra"]
    if missing := OmegaConf.missing_keys(node):
        raise ConfigError(f"no value for {', '.join(sorted(missing))}")
    return checked(OmegaConf.to_object(node))


def checked(given: Any) -> RunConfig:
    """The configuration with its depth resolved; ConfigError for the first value that can't be or does not go."""
    config = with_depth(given)
    values = {key: functools.reduce(getattr, key.split("."), config) for key in FIELDS}
    for key, value in values.items():
        allowed = FIELDS[key].metadata["allowed"]
        if allowed and value is not None and not allowed.holds(value):
            raise ConfigError(f"{override(key, value)}: allowed is {allowed.words}")
    for key, good, words in rules(config):
        if not good:
            raise ConfigError(f"{override(key, values[key])}: allowed is {words}")
    return config


def with_depth(config: RunConfig) -> RunConfig:
    """The configuration with blocks_per_stage and depth = 6n+2 agreeing (CIFAR-10); a given depth wins."""
    model = config.model
    blocks, depth = model.blocks_per_stage, model.depth
    if model.architecture is Architecture.cifar:
        if depth is not None:
            if depth < 8 or (depth - 2) % 6:
                raise ConfigError(f"model.depth={depth}: allowed is 6n+2, as 20, 32, 44, 56, 110, 1202")
            blocks = (depth - 2) // 6
        depth = None if blocks is None else 6 * blocks + 2
    # without shortcuts their option can't make two nets differ
    option = model.shortcut_option if model.family is Family.residual else ShortcutOption.A
    return replace(config, model=replace(model, shortcut_option=option, blocks_per_stage=blocks, depth=depth))


# ---- from a record

def read_config(recorded: Any) -> RunConfig:
    """The configuration that a record holds; a key that is newer than the record has the value that its run used.

    ConfigError names a key that is unknown or missing, or whose value can't be.
    """
    try:
        return checked(msgspec.convert(fill_section(recorded, RunConfig, "config."), RunConfig))
    except msgspec.ValidationError as error:
        raise ConfigError(str(error).replace("$.", "config.")) from error


def fill_section(recorded: Any, section: Any, prefix: str) -> dict[str, Any]:
    """A recorded section with the keys that are newer than the record, without those that are gone."""
    if not isinstance(recorded, dict):
        raise ConfigError(f"{prefix[:-1]} is no section of settings")
    result: dict[str, Any] = {}
    for entry in fields(section):
        if is_dataclass(entry.type):
            result[entry.name] = fill_section(recorded.get(entry.name, {}), entry.type, f"{prefix}{entry.name}.")
        elif entry.name in recorded:
            result[entry.name] = recorded[entry.name]
        elif "earlier" in entry.metadata:
            result[entry.name] = entry.metadata["earlier"]
        elif entry.metadata["changes_numbers"] or entry.default == MISSING:
            raise ConfigError(f"no {prefix}{entry.name}")
    for name in recorded.keys() - {entry.name for entry in fields(section)}:
        key = f"{prefix}{name}".removeprefix("config.")
        if REMOVED.get(key, recorded) not in (ANY, recorded[name]):
            raise ConfigError(f"unknown key config.{key}{suggest(key, list(FIELDS))}")
    if result.get("engine") == "compile":  # of earlier versions; it changed no number
        result["engine"] = "auto"
    return result


# ---- what it says

def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as nested plain values (enums by name), for YAML and JSON."""
    plain: dict[str, Any] = msgspec.to_builtins(config)
    return plain


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict as {dotted key: value}."""
    result: dict[str, Any] = {}
    for key, value in config.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return result


def settings(config: RunConfig) -> dict[str, Any]:
    """The dotted keys and plain values of everything that changes a run's numbers (the seed aside)."""
    values = flat(to_dict(config))
    imagenet = config.model.architecture is Architecture.imagenet  # its depth says which network it is; else it is 6n+2
    return {key: value for key, value in values.items() if key not in NOT_HASHED or (imagenet and key == "model.depth")}


def difference(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys in which two flat mappings of settings differ, each with the old and the new value."""
    return {key: (old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)}


def config_hash(config: RunConfig) -> str:
    """Twelve hexadecimal digits of the SHA-256 of everything that changes the numbers but the seed.

    `auto` must be resolved: raises ConfigError on precision auto.
    """
    if config.machine.precision is Precision.auto:
        raise ConfigError("machine.precision=auto: resolve it before asking for the identity of a run")
    hashed = {key: value + 0.0 if isinstance(value, float) else value  # -0.0 and 0.0 are one
              for key, value in settings(config).items() if key not in ADDED_LATER or value != ADDED_LATER[key]}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:12]


def with_precision(config: RunConfig, precision: Precision) -> RunConfig:
    """The same run in another precision."""
    return replace(config, machine=replace(config.machine, precision=precision))


@functools.cache
def paper_config(experiment: str) -> RunConfig:
    """The experiment as it stands in conf/, without overrides or environment."""
    return to_run_config(compose_node([f"experiment={experiment}"], environment=False))


@functools.cache
def paper_hashes(experiment: str) -> frozenset[str]:
    """Identities whose runs may enter a paper table: the experiment as it stands, in fp32 or TF32.

    None for an experiment that is not in conf/experiment (one of the user's, see `with_config_dir`).
    """
    if experiment not in experiments():
        return frozenset()
    return frozenset(config_hash(with_precision(paper_config(experiment), p)) for p in PAPER_PRECISIONS)


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
