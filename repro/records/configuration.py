"""The recorded configuration: whether this version could have run it, whose run it is, and where it belongs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repro.config import (
    ADDED_LATER,
    NOT_HASHED,
    config_hash,
    deviations,
    experiments,
    flat,
    from_record,
    hash_settings,
    paper_config,
    paper_hashes,
    suggest,
    to_dict,
    without_removed,
)
from repro.errors import ConfigError
from repro.records.reading import ERROR, WARNING, Problems, Refused, cut, format_value
from repro.schema import Architecture, Device, Precision, RunConfig

LONGEST_LIST = 100  # Choice: entries of a list in a configuration
MOST_UNKNOWN = 5  # keys that are named


def read_configuration(content: dict[str, Any]) -> RunConfig:
    """The configuration of a record, held to the types and ranges of this version; Refused with all that is wrong.

    Keys that are newer than the record have the value that its run had.
    """
    name, recorded = content["experiment"], without_removed(content["config"])
    if name not in experiments():
        raise Refused(f"there is no experiment {cut(name)}"
                      f"{suggest(cut(name), experiments())}; `repro list` names all")
    wrong: list[str] = []
    values = fill_section(recorded, to_dict(paper_config(name)), "", wrong)
    wrong += [f"{key}: a list of {len(value)} entries; at most {LONGEST_LIST} are admitted"
              for key, value in flat(values).items() if isinstance(value, list) and len(value) > LONGEST_LIST]
    if wrong:
        raise Refused("; ".join(wrong))
    try:
        config = from_record(content | {"config": values})
    except (ConfigError, OverflowError, TypeError) as error:
        raise Refused(str(error).removeprefix(f"the record of {name} seed {content['seed']}: ")) from error
    read = flat(to_dict(config))
    wrong += [f"{key}: {format_value(value)} is recorded, which a run would record as {format_value(read.get(key))}"
              for key, value in flat(values).items() if not is_same(value, read.get(key))]
    if config.model.architecture is Architecture.imagenet and "depth" not in recorded["model"]:
        wrong.append("no value for model.depth")  # part of the identity there
    wrong += [f"{key}=auto: a run records what that was" for key, left in (
        ("machine.device", config.machine.device is Device.auto),
        ("machine.precision", config.machine.precision is Precision.auto)) if left]
    if wrong:
        raise Refused("; ".join(wrong))
    return config


def fill_section(given: dict[str, Any], base: dict[str, Any], prefix: str, wrong: list[str]) -> dict[str, Any]:
    """A recorded section with the keys that it lacks, as its run had them; `wrong` gets what can't be."""
    unknown = [key for key in given if key not in base]
    wrong += [f"unknown key {prefix}{cut(key)}{suggest(cut(key), list(base))}" for key in unknown[:MOST_UNKNOWN]]
    result: dict[str, Any] = {}
    for key, standard in base.items():
        path = f"{prefix}{key}"
        if isinstance(standard, dict):
            section = given.get(key)
            if isinstance(section, dict):
                result[key] = fill_section(section, standard, f"{path}.", wrong)
            else:
                wrong.append(f"{path}: {format_value(section)} is no section of settings")
        elif key in given:
            result[key] = given[key]
            if isinstance(given[key], dict):
                wrong.append(f"{path}: a mapping where one value is due")
        elif path in ADDED_LATER or path in NOT_HASHED:
            result[key] = ADDED_LATER.get(path, standard)
        else:
            wrong.append(f"no value for {path}")
    return result


def is_same(left: Any, right: Any) -> bool:
    """Whether two plain values are the same, of the same types."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


def check_yaml(written: dict[str, Any] | None, content: dict[str, Any]) -> Problems:
    """config.yaml against the configuration in run.json, key by key."""
    if written is None:
        yield ERROR, "config.yaml can't be compared with run.json"
        return
    first, second = flat(written), flat(content["config"])
    for key in sorted({*first, *second}):
        left, right = first.get(key, "nothing"), second.get(key, "nothing")
        if not is_same(left, right):
            yield ERROR, f"config.yaml says {cut(key)}: {format_value(left)}, run.json {format_value(right)}"


def check_identity(content: dict[str, Any], config: RunConfig) -> Problems:
    """Experiment, seed and identity of the record against its configuration."""
    for key, value in (("name", content["experiment"]), ("seed", content["seed"])):
        if not is_same(content["config"].get(key), value):
            yield ERROR, (f"the record is of {key} {format_value(value)}, its configuration of "
                          f"{format_value(content['config'].get(key))}")
    own = hash_settings(content["config"])
    if own != content["identity"]:
        yield ERROR, f"the recorded identity is {content['identity']}, that of the recorded configuration is {own}"
    elif config_hash(config) != own:
        yield ERROR, f"the identity {own} is not that of the configuration as this version reads it"
    if content["environment"]["precision"] != config.machine.precision.name:
        yield ERROR, (f"the environment names precision {content['environment']['precision']}, the configuration "
                      f"{config.machine.precision.name}")
    for key in ("data.root", "results"):
        if flat(content["config"]).get(key) is not None:
            yield WARNING, f"{key} names a folder of the sender's machine; a record has null there"


def check_deviations(content: dict[str, Any], config: RunConfig) -> Problems:
    """The recorded deviations against those that the configuration has."""
    own, recorded = deviations(config), content["deviations"]
    for text in [text for text in own if text not in recorded]:
        yield ERROR, f"not among the recorded deviations: {text}"
    for text in [text for text in recorded if text not in own]:
        yield ERROR, f"recorded as a deviation, but is none: {cut(text, 100)}"


def check_place(folder: Path, content: dict[str, Any]) -> Problems:
    """The names of the folder and of the one above it, where they are those of a run."""
    place = folder.resolve()
    if place.name.startswith("seed") and place.name != f"seed{content['seed']}":
        yield ERROR, f"the folder is called {place.name}, the record is of seed {content['seed']}"
    experiment, separator, own = place.parent.name.partition("@")
    if experiment not in experiments():
        return
    if experiment != content["experiment"]:
        yield ERROR, f"it lies in a folder of {experiment}, the record is of {content['experiment']}"
    elif separator and own != content["identity"]:
        yield ERROR, f"it lies in a folder of identity {own}, the record has {content['identity']}"
    elif not separator and content["identity"] not in paper_hashes(experiment):
        yield ERROR, f"it lies in the folder of the paper's runs of {experiment}, and is none"


def rows_of_paper(config: RunConfig) -> Iterator[tuple[str, str]]:
    """(table, row) that a run of this experiment answers, as conf/experiment says."""
    for row in paper_config(config.name).reproduces:
        table, _, key = row.partition("/")
        yield table, key
