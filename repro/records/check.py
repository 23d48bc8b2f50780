"""Check a record that somebody else sends: a run's folder without weights. Never imports torch.

`check_record(folder)` is the public entry. What it finds says whether the record agrees with itself, with this
version's experiments and with what is known of networks and images. It can't say that a run took place.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from repro.config import deviations, paper_identities
from repro.paper import PLAIN_NETS, published_table
from repro.ranges import IMAGENET
from repro.records import configuration, evaluations, history, layers, origin, plausibility, timing
from repro.records.finding import ERROR, OK, Finding, Problems, Refused, finding
from repro.records.known import Record
from repro.records.reading import Sent, json_of, read_folder, yaml_of
from repro.records.rows import rows_of
from repro.records.shape import wrong_record
from repro.reporting.evaluations import TABLES
from repro.training.recorder import TIMING_COLUMNS

COUNTS_AS = "counts as"
RUN, YAML, HISTORY, TIMING = "run.json", "config.yaml", history.NAME, timing.NAME
MOST = 20  # findings of one check; a forged history has one for every row
Check = Callable[[Record], Problems]


def check_record(folder: Path, references: Sequence[Path] = ()) -> list[Finding]:
    """All findings about the record in a folder; the last one (`counts as`) says what it would be, were it taken.

    references: folders of other records, whose numbers it must not share. ConfigError (2) if there is no such
    folder, StorageError (5) if a file of it can't be read; whatever the files hold gives findings, never an error.
    """
    sent, problems = read_folder(folder)
    found = collected("files", "known plain files only, of a record's size", problems)
    content, written, wrong = read_contents(sent)
    found += wrong
    if content is None:
        return [*found, verdict(found, "run.json can't be used, so nothing else was checked")]
    try:
        config = configuration.configured(content)
    except Refused as refused:
        found += collected("configuration", "", [(ERROR, str(refused))])
        return [*found, verdict(found, "its configuration can't be used, so nothing else was checked")]
    found += collected("configuration", "every key, type and range is one of this version", [])
    record = with_rows(Record(folder, sent.files, content, config))
    for name, text, check in checks(written, files_of(references, folder)):
        found += collected(name, text.format(**summary(record)), check(record))
    return [*found, verdict(found, meaning(record))]


def checks(written: dict[str, Any] | None,
           others: Mapping[str, Mapping[str, bytes]]) -> Iterator[tuple[str, str, Check]]:
    """(name, what is said if it finds nothing, check) of every check of a record that can be read."""
    own = configuration
    yield "config.yaml", "agrees with run.json", lambda record: own.check_yaml(written, record.content)
    yield "identity", "{identity}, as the configuration gives it", lambda record: own.check_identity(
        record.content, record.config)
    yield "deviations", "those of the configuration: {deviations}", lambda record: own.check_deviations(
        record.content, record.config)
    yield "folder", "its name fits", lambda record: own.check_place(record.folder, record.content)
    yield "history", "{rows} tests, every one once, with numbers that can be", history.check_history
    yield "schedule", "every learning rate is that of the schedule", history.check_schedule
    yield "result", "the last row of the unchanged history", history.check_result
    yield "timing", "durations, speeds and times fit each other", timing.check_timing
    yield "sessions", "{sessions}, from iteration 0 to {iterations} without a hole", timing.check_sessions
    yield "code", "every session has its commit, without uncommitted changes", origin.check_code
    yield "parameters", "{parameters:,}, the golden count", origin.check_parameters
    yield "data", "{data}", origin.check_data
    yield "layers", "responses and gradients agree with the record", layers.check_layers
    yield "evaluations", "{tests} of finished tests", evaluations.check_evaluations
    yield "plausibility", "nothing unusual", lambda record: plausibility.check_plausible(record, others)


def collected(check: str, good: str, problems: Iterable[tuple[str, str]]) -> list[Finding]:
    """The findings of one check: its problems, the first of very many, or that all is well."""
    found = [finding(check, word, text) for word, text in problems]
    if len(found) > MOST:
        errors = any(one.verdict == ERROR for one in found[MOST:])
        found = [*found[:MOST], finding(check, ERROR if errors else found[MOST].verdict,
                                        f"and {len(found) - MOST} more of this check")]
    return found or [finding(check, OK, good)]


def read_contents(sent: Sent) -> tuple[dict[str, Any] | None, dict[str, Any] | None, list[Finding]]:
    """What run.json and config.yaml hold, None for one that can't be used, and the findings about their form."""
    read: dict[str, dict[str, Any]] = {}
    wrong: list[tuple[str, str]] = []
    for name, parse in ((RUN, json_of), (YAML, yaml_of)):
        try:
            read[name] = parse(sent.files[name])
        except Refused as refused:
            wrong.append((ERROR, f"{name}: {refused}"))
        except KeyError:
            wrong.append((ERROR, f"{name}: was not sent, or not as a plain file"))
    shape = [(ERROR, f"{RUN}: {text}") for text in wrong_record(read[RUN])] if RUN in read else []
    found = collected("schema", "every key is known and of its kind, and nothing could be run", [*wrong, *shape])
    return None if shape else read.get(RUN), read.get(YAML), found


def with_rows(record: Record) -> Record:
    """The record with the rows of history.csv and timing.csv, or why they can't be read."""
    rows: dict[str, list[dict[str, Any]]] = {HISTORY: [], TIMING: []}
    unread: dict[str, str] = {}
    for name, columns, texts in ((HISTORY, record.columns, ()), (TIMING, TIMING_COLUMNS, ("utc",))):
        try:
            rows[name] = rows_of(record.files[name], columns, texts)
        except Refused as refused:
            unread[name] = str(refused)
        except KeyError:
            unread[name] = "was not sent, or not as a plain file"
    return replace(record, history=rows[HISTORY], timing=rows[TIMING], unread=unread)


def files_of(references: Sequence[Path], folder: Path) -> dict[str, dict[str, bytes]]:
    """The files of other records, by the name of their folder; of these too only plain files are opened."""
    return {f"{other.parent.name}/{other.name}": read_folder(other)[0].files for other in references
            if other.resolve() != folder.resolve()}


def summary(record: Record) -> dict[str, Any]:
    """What is said of a record where nothing is wrong."""
    content, sessions = record.content, len(record.content["sessions"])
    tests = sum(name.startswith("evaluations/") for name in record.files)
    data = ("ImageNet; of its files no published hash is known, compare the fingerprint with other records: "
            f"{content['data']['sha256'][:12]}" if record.config.data.name == IMAGENET
            else "CIFAR-10, with the published SHA-256")
    return {"identity": content["identity"], "deviations": "; ".join(content["deviations"]) or "none",
            "rows": len(record.history), "sessions": "one session" if sessions == 1 else f"{sessions} sessions",
            "iterations": content["iterations"], "parameters": content["parameters"], "data": data,
            "tests": "no file" if not tests else "one file" if tests == 1 else f"{tests} files"}


def verdict(found: Sequence[Finding], text: str) -> Finding:
    """The last finding: what the record would count as; nothing while a check fails."""
    failed = list(dict.fromkeys(one.check for one in found if one.verdict == ERROR))
    if not failed:
        return finding(COUNTS_AS, OK, text)
    return finding(COUNTS_AS, ERROR, f"nothing while these checks fail: {', '.join(failed)}; without them: {text}")


def meaning(record: Record) -> str:
    """What a good record would be in the tables of the paper."""
    name, own = record.config.name, record.content["identity"]
    if own not in paper_identities(name):
        return f"not a paper run: {'; '.join(deviations(record.config))}"
    rows = [beside(table, key, record) for table, key in configuration.rows_of_paper(record.config)]
    return "a run of the paper: " + ("; ".join(rows) or "no row of a table, curves only")


def beside(table: str, key: str, record: Record) -> str:
    """One row that the record answers, with the published numbers that it would stand beside."""
    if table == PLAIN_NETS:
        return f"{key} in the table of plain networks: published as curves only"
    published = published_table(table)
    row = published.row(key)
    numbers = " / ".join(f"{row.values[column.key] / column.unit:.{column.decimals}f}"
                         for column in published.columns if column.key in row.values)
    text = f"row {row.label} in Table {table.removeprefix('table')}: would be shown beside {numbers} %"
    if table in TABLES and f"evaluations/{TABLES[table]}.json" not in record.files:
        text += f", once evaluations/{TABLES[table]}.json is sent too"
    return text
