"""What a command line or a user's file may say to Hydra: how to sweep and where, never what to import or to call.

Hydra itself would call whatever a `_target_` names (callbacks, arguments of launchers), whatever the configuration of
the logging names, and import what a pkg:// search path names; a configuration from elsewhere must not run code.
Never imports torch.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigSource
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from repro.errors import ConfigError
from repro.paths import conf_dir

# Hydra's flags that are passed on; not those that name another main file or unpickle an earlier job.
FLAGS = ("-m", "--multirun", "-c", "--cfg", "--info", "-i", "-p", "--package", "--resolve", "--hydra-help")
ADMITTED = r"hydra/(sweeper|launcher)|hydra\.(sweeper|launcher|sweep)\..+|hydra\.(searchpath|verbose|mode)"
# What a user's file must leave as it stands in conf/config.yaml and in Hydra.
FIXED = ("callbacks", "job_logging", "hydra_logging", "job.chdir", "job.env_set", "job.env_copy", "output_subdir")
# Hydra admits installed plugins alone here.
PLUGINS = ("hydra.launcher._target_", "hydra.sweeper._target_")


def check_key(override: str) -> None:
    """Raise ConfigError for an override of Hydra's own settings that could run code or that nothing here reads."""
    key = override.partition("=")[0].lstrip("+~")
    if not re.fullmatch(ADMITTED, key) or "_target_" in override:
        raise ConfigError(f"{override}: of Hydra's own settings only sweeper, launcher, sweep and verbose can be set "
                          "here; where results go says results=FOLDER")
    for folder in own_folders([override]):
        check_files(folder)


def check_files(folder: Path) -> None:
    """Raise ConfigError for a user's file that Hydra would overlook, since one of ours has its name, or take long over.

    Aliases are refused: a few lines of them can stand for more values than fit into memory. Looked at are the folders
    that are named as our groups; what else lies there is none of our business.
    """
    groups = sorted(path.name for path in conf_dir().iterdir() if path.is_dir())
    own = [path for group in groups for path in sorted((folder / group).rglob("*.yaml"))]
    for path in [*own, *folder.glob("config.yaml")]:
        name = path.relative_to(folder)
        if (conf_dir() / name).is_file():
            raise ConfigError(f"{path}: {name.with_suffix('')} is a name of ours, and Hydra would take our file; give "
                              "yours another name")
        with suppress(OSError, ValueError, YAMLError):  # what is wrong with it is said where it is used
            for event in yaml.parse(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader):
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
        entries = [str(entry) for entry in value] if isinstance(value, list) else [str(value)]
        if not isinstance(value, list) or not all(entry.startswith("file://") for entry in entries):
            raise ConfigError(f"{override}: folders alone can be searched for files; --config-dir FOLDER names one")
        found += [Path(entry.removeprefix("file://")) for entry in entries]
    return found


def not_utf8(overrides: Sequence[str]) -> list[Path]:
    """Which of the user's configuration files are no UTF-8."""
    found = []
    for path in (path for folder in own_folders(overrides) for path in sorted(folder.rglob("*.yaml"))):
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            found.append(path)
        except OSError:
            continue
    return found


@contextmanager
def guard_composition() -> Iterator[None]:
    """While active, whatever Hydra composes is checked before Hydra acts on it; files may have a byte order mark."""
    load, header = ConfigLoaderImpl.load_configuration, ConfigSource._get_header_dict

    def header_of(text: str) -> dict[str, str | None]:
        return header(text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}"))

    @functools.wraps(load)
    def load_checked(self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *rest: Any,
                     **named: Any) -> DictConfig:
        first = min(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))
        plain = load(self, config_name, [f"experiment={first}"], *rest, **named)
        node = load(self, config_name, overrides, *rest, **named)
        refuse_code(node, plain)
        return node

    ConfigLoaderImpl.load_configuration = load_checked  # type: ignore[method-assign]
    ConfigSource._get_header_dict = staticmethod(header_of)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = load  # type: ignore[method-assign]
        ConfigSource._get_header_dict = staticmethod(header)  # type: ignore[method-assign]


def refuse_code(node: DictConfig, plain: DictConfig) -> None:
    """Raise ConfigError if a composed node would make Hydra call or import something that `plain` does not."""
    for key in FIXED:
        if plain_value(node, f"hydra.{key}") != plain_value(plain, f"hydra.{key}"):
            raise ConfigError(f"a configuration file sets hydra.{key}, which could run code: only conf/config.yaml "
                              "may; take it out of the files of --config-dir")
    for path in keys_of(OmegaConf.to_container(node, resolve=False)):
        if path.split(".")[-1] == "_target_" and path not in PLUGINS:
            raise ConfigError(f"a configuration file sets {path}, which could run code; take it out of the files of "
                              "--config-dir")


def plain_value(node: DictConfig, key: str) -> Any:
    """A value of a node as plain containers, interpolations as they are written."""
    value = OmegaConf.select(node, key, throw_on_resolution_failure=False)
    return OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value


def keys_of(value: Any, prefix: str = "") -> Iterator[str]:
    """Dotted paths of all keys in nested containers, those inside lists too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{prefix}{key}"
            yield from keys_of(inner, f"{prefix}{key}.")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from keys_of(inner, f"{prefix}{index}.")
