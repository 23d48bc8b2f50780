"""The recorded configuration: whether this version could have run it, whose run it is, and where it belongs."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from repro.checks import FAIL, WARNING
from repro.config import (
    REMOVED,
    config_hash,
    deviations,
    experiments,
    flat,
    paper_config,
    paper_hashes,
    suggest,
)
from repro.record import Record, parse_record
from repro.records.reading import Problems, Refused, cut, format_value
from repro.records.submission import Submission
from repro.schema import Device, RunConfig

# What a finished run has written into its record.
REQUIRED = ("deviations", "evaluated_on", "iteration", "parameters", "data", "environment", "started", "ended",
            "train_seconds", "evaluation_seconds", "result", "history_sha256")
REQUIRED_OF_SESSION = ("started", "from_iteration", "device")


def read_record(raw: dict[str, Any]) -> Record:
    """The record in a mapping, held to the types and ranges of this version; Refused with what is wrong."""
    try:
        record = parse_record(raw)
    except ValueError as error:
        raise Refused(str(error)) from error
    name = record.experiment
    if name not in experiments():
        raise Refused(f"there is no experiment {cut(name)}{suggest(cut(name), experiments())}; see `repro status`")
    wrong = list(lost_values(raw, msgspec.to_builtins(record)))
    wrong += [f"no {key}" for key in REQUIRED if raw.get(key) is None]
    wrong += [] if record.sessions else ["no sessions"]
    wrong += [f"session {number} has no {key}" for number, session in enumerate(record.sessions, 1)
              for key in REQUIRED_OF_SESSION if getattr(session, key) is None]
    wrong += ["machine.device=auto: a run records what that was"] * (record.config.machine.device is Device.auto)
    if wrong:
        raise Refused("; ".join(wrong))
    return record


def lost_values(sent: Any, read: Any, path: str = "") -> Iterator[str]:
    """What was sent and is no part of the record that was read from it: unknown keys, values of another kind."""
    if isinstance(sent, dict) and isinstance(read, dict):
        for key, value in sent.items():
            inner = f"{path}.{key}".lstrip(".")
            if value and key not in read and inner.removeprefix("config.") not in REMOVED:
                yield f"unknown key {cut(inner)}"
            elif key in read:
                yield from lost_values(value, read[key], inner)
    elif isinstance(sent, list) and isinstance(read, list):
        for number, (one, other) in enumerate(zip(sent, read, strict=True)):
            yield from lost_values(one, other, f"{path}[{number}]")
    elif not is_same(sent, read):
        yield f"{path}: {format_value(sent)} is recorded, which a run would record as {format_value(read)}"


def is_same(left: Any, right: Any) -> bool:
    """Whether two plain values are the same, of the same types."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


def check_yaml(written: dict[str, Any] | None, recorded: dict[str, Any]) -> Problems:
    """config.yaml against the configuration in run.json, key by key."""
    if written is None:
        yield FAIL, "config.yaml can't be compared with run.json"
        return
    first, second = flat(written), flat(recorded)
    for key in sorted({*first, *second}):
        left, right = first.get(key, "nothing"), second.get(key, "nothing")
        if not is_same(left, right):
            yield FAIL, f"config.yaml says {cut(key)}: {format_value(left)}, run.json {format_value(right)}"


def check_identity(sent: Submission) -> Problems:
    """Experiment, seed, identity and precision of the record against its configuration."""
    record, config = sent.record, sent.config
    precision = record.environment.precision
    for key, said, due in (("experiment", record.experiment, config.name), ("seed", record.seed, config.seed),
                           ("identity", record.identity, config_hash(config)),
                           ("environment.precision", precision, config.machine.precision.name)):
        if said != due:
            yield FAIL, f"the recorded {key} is {format_value(said)}, that of the recorded configuration is {due}"
    for key, path in (("data.root", config.data.root), ("results", config.results)):
        if path is not None:
            yield WARNING, f"{key} names a folder of the sender's machine; a record has null there"


def check_deviations(sent: Submission) -> Problems:
    """The recorded deviations against those that the configuration has."""
    own, recorded = deviations(sent.config), sent.record.deviations or []
    for text in [text for text in own if text not in recorded]:
        yield FAIL, f"not among the recorded deviations: {text}"
    for text in [text for text in recorded if text not in own]:
        yield FAIL, f"recorded as a deviation, but is none: {cut(text, 100)}"


def check_place(sent: Submission) -> Problems:
    """The names of the folder and of the one above it, where they are those of a run."""
    place, record = sent.folder.resolve(), sent.record
    if place.name.startswith("seed") and place.name != f"seed{record.seed}":
        yield FAIL, f"the folder is called {place.name}, the record is of seed {record.seed}"
    experiment, separator, own = place.parent.name.partition("@")
    if experiment not in experiments():
        return
    if experiment != record.experiment:
        yield FAIL, f"it lies in a folder of {experiment}, the record is of {record.experiment}"
    elif separator and own != record.identity:
        yield FAIL, f"it lies in a folder of identity {own}, the record has {record.identity}"
    elif not separator and record.identity not in paper_hashes(experiment):
        yield FAIL, f"it lies in the folder of the paper's runs of {experiment}, and is none"


def rows_of_paper(config: RunConfig) -> Iterator[tuple[str, str]]:
    """(table, row) that a run of this experiment answers, as conf/experiment says."""
    for row in paper_config(config.name).reproduces:
        table, _, key = row.partition("/")
        yield table, key
