"""What keys a record has and what kind of value each holds, as data: `run.json` and evaluations/PROTOCOL.json."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from repro.config import suggest
from repro.records.finding import LONGEST_VALUE, cut, told

MOST_UNKNOWN = 5  # keys that are named
FEWEST_DIGITS = 6  # Choice: different ones in a commit; of 1e16 real ones none is to be expected with fewer


@dataclass(frozen=True)
class Kind:
    """A kind of value in words, and whether a value is of it."""

    words: str
    holds: Callable[[Any], bool]


Shape = Mapping[str, "Kind | Shape"]  # a key that ends in ? may be absent


def kind_or_null(kind: Kind) -> Kind:
    """A kind whose value may be absent."""
    return Kind(f"{kind.words} or null", lambda value: value is None or kind.holds(value))


def one_of(*values: Any) -> Kind:
    """One of these values, of the same type."""
    return Kind(" or ".join(map(repr, values)), lambda value: any(
        type(value) is type(one) and value == one for one in values))


def is_number(value: Any) -> bool:
    """A finite number from 0, no truth value."""
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def time_of(text: Any) -> datetime | None:
    """A time as the recorder writes it, in UTC; None for anything else."""
    if not isinstance(text, str) or not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", text, re.ASCII):
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


TEXT = Kind("a text of at most 300 characters", lambda value: isinstance(value, str) and len(value) <= 300)
WHOLE = Kind("a whole number from 0", lambda value: type(value) is int and value >= 0)
NUMBER = Kind("a number from 0", is_number)
PERCENT = Kind("a number from 0 to 100", lambda value: is_number(value) and value <= 100)
FLAG = Kind("true or false", lambda value: type(value) is bool)
TIME = Kind("a time as 2015-12-10T00:00:00+00:00", lambda value: time_of(value) is not None)
HASH = Kind("64 hexadecimal digits", lambda value: isinstance(value, str) and
            re.fullmatch(r"[0-9a-f]{64}", value) is not None)
IDENTITY = Kind("12 hexadecimal digits", lambda value: isinstance(value, str) and
                re.fullmatch(r"[0-9a-f]{12}", value) is not None)
COMMIT = kind_or_null(Kind("the 40 hexadecimal digits of a commit", lambda value: isinstance(value, str) and
                           re.fullmatch(r"[0-9a-f]{40}", value) is not None and len(set(value)) >= FEWEST_DIGITS))
VERSION = kind_or_null(Kind("a version as 2.11.0", lambda value: isinstance(value, str) and
                            re.fullmatch(r"\d[\w.+!-]{0,60}", value, re.ASCII) is not None))
MAPPING = Kind("a mapping", lambda value: isinstance(value, dict))
TEXTS = Kind("a list of texts", lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value))
SIDES = Kind("a list of whole numbers", lambda value: isinstance(value, list) and all(map(WHOLE.holds, value)))
SPLIT = one_of("test", "val")
PRECISION = one_of("fp32", "tf32", "bf16", "fp16")

PACKAGES: Shape = dict.fromkeys(("python", "torch", "torchvision", "hydra-core", "omegaconf", "numpy"), VERSION)
CODE: Shape = {"repro": VERSION, "commit": COMMIT, "dirty": kind_or_null(FLAG)}
HOW: Shape = {"engine?": TEXT, "updates_per_graph?": WHOLE, "jobs_per_device?": WHOLE, "devices?": WHOLE,
              "memory_format_ms?": {"contiguous": NUMBER, "channels_last": NUMBER}}
ERRORS: Shape = {f"{split}_{name}?": PERCENT for split in ("test", "val") for name in ("top1_error", "top5_error")}
SESSION: Shape = {"started": TIME, "from_iteration": WHOLE, "device": TEXT, **HOW, **CODE, **PACKAGES, "ended?": TIME,
                  "to_iteration?": WHOLE, "slurm?": {"job_id": TEXT, "restarts": WHOLE}}
RECORD: Shape = {
    "schema": one_of(1), "experiment": TEXT, "seed": WHOLE, "identity": IDENTITY, "status": TEXT, "config": MAPPING,
    "deviations": TEXTS, "evaluated_on": SPLIT, "iterations": WHOLE, "memory_bytes?": WHOLE, "parameters": WHOLE,
    "data": {"name": TEXT, "split": TEXT, "sha256": HASH, "one_folder?": FLAG},
    "environment": {**PACKAGES, "system": TEXT, "architecture": TEXT, "cores": kind_or_null(WHOLE),
                    "interpreter": TEXT, "device": TEXT, "precision": PRECISION, "threads": WHOLE, **HOW},
    "started": TIME, "warmup_end": kind_or_null(WHOLE), "sessions": Kind("a list of sessions", lambda value:
                                                                        isinstance(value, list) and bool(value)),
    "iteration": WHOLE, "train_seconds": NUMBER, "evaluation_seconds": NUMBER, "ended": TIME, "weights_sha256?": HASH,
    "recomputed_batch_norm?": {"images": WHOLE, "test_loss?": NUMBER, "val_loss?": NUMBER, **ERRORS},
    "responses?": {"images": WHOLE, "evaluated_on": SPLIT, "precision": PRECISION, "sha256": HASH, "device?": TEXT,
                   "utc?": TIME, **{f"{key}?": kind for key, kind in {**CODE, **PACKAGES}.items()}},
    "gradients_sha256?": HASH, "result": MAPPING, "history_sha256": HASH,
    "best_on_test?": {"iteration": WHOLE, "test_top1_error": PERCENT}}
EVALUATION: Shape = {
    "schema": one_of(1), "protocol": TEXT, "definition": TEXT, "experiment": TEXT, "seed": kind_or_null(WHOLE),
    "identity": kind_or_null(IDENTITY), "deviations": kind_or_null(TEXTS), "weights_sha256": HASH,
    "data_fingerprint": HASH, "split": TEXT, "wiring_test": FLAG, "one_folder": FLAG,
    "model": MAPPING, "settings": {"shorter_sides": SIDES, "crop_size": WHOLE, "normalisation_sha256": HASH},
    "precision": PRECISION, "versions": PACKAGES, **CODE, "device": TEXT, "images": WHOLE,
    "classes": WHOLE, "images_done": WHOLE, "top1_errors": WHOLE, "top5_errors": WHOLE, "finished": FLAG,
    "val_top1_error": PERCENT, "val_top5_error": PERCENT, "probabilities_sha256": HASH, "labels_sha256": HASH,
    "utc": TIME}


def wrong_shape(value: Any, shape: Shape, where: str = "") -> Iterator[str]:
    """What is missing in a mapping, unknown, or not of its kind, one line each."""
    if not isinstance(value, dict):
        yield f"{where.rstrip('.')}: {told(value)} is no mapping"
        return
    known = {key.rstrip("?"): kind for key, kind in shape.items()}
    yield from unknown_keys(value, list(known), where)
    for key, kind in shape.items():
        name = key.rstrip("?")
        if name not in value:
            if not key.endswith("?"):
                yield f"{where}{name} is missing"
        elif not isinstance(kind, Kind):
            yield from wrong_shape(value[name], kind, f"{where}{name}.")
        elif not kind.holds(value[name]):
            yield f"{where}{name}: {told(value[name])} is not {kind.words}"


def unknown_keys(value: Mapping[str, Any], known: list[str], where: str = "") -> Iterator[str]:
    """The keys that are not known, with the nearest one; of very many only the first."""
    unknown = [key for key in value if key not in known]
    for key in unknown[:MOST_UNKNOWN]:
        yield f"unknown key {where}{cut(key, LONGEST_VALUE)}{suggest(cut(key, LONGEST_VALUE), known)}"
    if len(unknown) > MOST_UNKNOWN:
        yield f"and {len(unknown) - MOST_UNKNOWN} more unknown keys"


def wrong_record(content: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the keys of run.json and of its sessions."""
    yield from wrong_shape(content, RECORD)
    sessions = content.get("sessions")
    for number, session in enumerate(sessions if isinstance(sessions, list) else ()):
        yield from wrong_shape(session, SESSION, f"sessions.{number}.")
