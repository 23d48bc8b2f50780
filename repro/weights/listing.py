"""`repro weights list`: the weights that are here, committed, exported, imported, and of runs."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repro.errors import ConfigError, StorageError
from repro.evaluation.evaluate import SCHEMA
from repro.evaluation.weight_files import Carried, facts_path, read_weights
from repro.files import file_sha256, read_json
from repro.paths import display_path
from repro.runs import Run, scan
from repro.wording import escape

NONE_COMMITTED = "no weights are committed: no full-length run is yet"
WEIGHTS = ("*.pt", "*.safetensors")


@dataclass(frozen=True)
class Entry:
    """One file of weights: where from, which network, its error in words, its SHA-256 ('' where it can't be read)."""

    name: str
    network: str
    error: str
    source: str
    sha256: str
    path: str


def entries(results: Path, reference: Path) -> list[Entry]:
    """All weights in these two folders."""
    found = [exported_entry(path, "committed") for path in files(reference / "weights")]
    found += [exported_entry(path, "exported") for path in files(results / "exported")]
    found += [imported_entry(path, results) for path in files(results / "imported")]
    found += [run_entry(run) for run in scan(results / "runs") if (run.folder / "weights.pt").is_file()]
    return found


def files(folder: Path) -> list[Path]:
    """The files of weights in a folder."""
    return sorted(path for pattern in WEIGHTS for path in folder.glob(pattern))


def exported_entry(path: Path, source: str) -> Entry:
    """An exported file by its JSON."""
    try:
        carried = read_weights(path)[1]
    except (StorageError, ConfigError) as error:
        return unreadable(path, source, error)
    if carried is None or not carried.source:
        return Entry(path.name, "?", "?", f"{source}, without its JSON", file_sha256(path), str(path))
    try:
        facts = read_json(facts_path(path))
        labeled = f" ({'; '.join(facts['labels'])})" if facts["labels"] else ""
        found = error_of(facts["record"]["result"], facts["evaluated_on"]) + labeled
        return Entry(path.name, network(carried), found, f"{source}, {facts['run']}", facts["sha256"], str(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return unreadable(path, source, error)


def imported_entry(path: Path, results: Path) -> Entry:
    """An imported file by what it carries, with its error as tested here, else as its authors state it."""
    try:
        carried = read_weights(path)[1]
    except (StorageError, ConfigError) as error:
        return unreadable(path, "imported", error)
    digest = file_sha256(path)
    if carried is None or not carried.of_others:
        return Entry(path.name, "?", "?", "no imported file", digest, str(path))
    stated = f"{carried.source['stated']}, stated" if carried.source.get("stated") else "not stated"
    tests = measured_errors(results / "imported" / f"{path.stem}-{digest[:12]}")
    return Entry(path.name, network(carried), "; ".join(tests) or f"not measured here; {stated}",
                 f"{carried.label}, {carried.source.get('file')}", digest, str(path))


def measured_errors(folder: Path) -> list[str]:
    """The finished tests of weights of others, each in words."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = read_json(path)
            split = "val" if "val_top1_error" in record else "test"
            if record["schema"] == SCHEMA and record["finished"]:
                found.append(f"{record[f'{split}_top1_error']:.2f} {split} ({path.stem})")
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def run_entry(run: Run) -> Entry:
    """The weights of a run."""
    path = run.folder / "weights.pt"
    if run.record is None or not run.finished:
        return Entry(run.name, "?", "?", f"run: {run.problem or run.status}", file_sha256(path), str(path))
    settings = "" if run.is_paper_run else " (other settings)"
    error = error_of(run.record.result or {}, run.record.evaluated_on or run.tested_on)
    error += f" ({run.no_evidence})" if run.no_evidence else settings
    model = run.record.config.model
    return Entry(run.name, f"{model.family.name}, {model.depth} layers", error, "run", file_sha256(path), str(path))


def error_of(result: dict[str, Any], split: str) -> str:
    """The error of a result in words."""
    found = result.get(f"{split}_top1_error")
    return "?" if found is None else f"{found:.2f} {split}"


def network(carried: Carried) -> str:
    """The network of a file in words."""
    return f"{carried.network['model.family']}, {carried.network['model.depth']} layers"


def unreadable(path: Path, source: str, error: Exception) -> Entry:
    """A file that can't be read, with the reason in the place of the source."""
    return Entry(path.name, "?", "?", f"{source}, unusable: {error}", "", str(path))


def listing(found: list[Entry]) -> str:
    """The list for a person; the committed ones, or why there are none, first."""
    lines = [] if any(one.source.startswith("committed") for one in found) else [NONE_COMMITTED]
    if not found:
        return "\n".join([*lines, "none in your results either: `repro weights import`, `repro weights export`"])
    table = [("name", "network", "error (%)", "source", "SHA-256"),
             *(tuple(map(escape, (one.name, one.network, one.error, one.source, one.sha256[:12]))) for one in found)]
    widths = [max(len(row[column]) for row in table) for column in range(5)]
    return "\n".join([*lines, *("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
                                for row in table)])


def as_values(found: list[Entry]) -> dict[str, Any]:
    """The list as plain values."""
    committed = any(one.source.startswith("committed") for one in found)
    return {"weights": [asdict(one) | {"path": display_path(Path(one.path))} for one in found],
            "note": None if committed else NONE_COMMITTED}
