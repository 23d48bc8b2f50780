"""Check a record that somebody else sends: a run's folder without weights. Never imports torch.

`check_record(folder)` is the public entry. What it finds says whether the record agrees with itself, with this
version's experiments and with what is known of networks and images. It can't say that a run took place.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from repro.config import deviations, paper_hashes
from repro.paper import PLAIN_NETS, published_table
from repro.ranges import IMAGENET
from repro.records import configuration, evaluations, history, layers, provenance
from repro.records.reading import ERROR, OK, CheckResult, Problems, Refused, csv_rows, json_of, read_folder, yaml_of
from repro.records.record import Record
from repro.records.schema import RunRecord, check_schema
from repro.reporting.select import TABLES

COUNTS_AS = "counts as"
RUN, YAML, HISTORY = "run.json", "config.yaml", history.NAME
MOST = 20  # problems of one check; a forged history has one for every row
Check = Callable[[Record], Problems]


def check_record(folder: Path, references: Sequence[Path] = ()) -> list[CheckResult]:
    """All results about the record in a folder; the last one (`counts as`) says what it would be, were it taken.

    references: folders of other records, whose numbers it must not share. ConfigError (2) if there is no such
    folder, StorageError (5) if a file of it can't be read; whatever the files hold gives results, never an error.
    """
    files, problems = read_folder(folder)
    found = results("files", "known plain files only, of a record's size", problems)
    content, written, wrong = read_contents(files)
    found += results("schema", "every key is known and of its kind, and nothing could be run", wrong)
    if content is None:
        return [*found, verdict(found, "run.json can't be used, so nothing else was checked")]
    try:
        config = configuration.read_configuration(content)
    except Refused as refused:
        found += results("configuration", "", [(ERROR, str(refused))])
        return [*found, verdict(found, "its configuration can't be used, so nothing else was checked")]
    found += results("configuration", "every key, type and range is one of this version", [])
    record = with_history(Record(folder, files, content, config))
    for name, text, check in checks(written, read_files(references, folder)):
        found += results(name, text.format(**summary(record)), check(record))
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
    yield "code", "every session has its commit, without uncommitted changes", provenance.check_code
    yield "parameters", "{parameters:,}, the golden count", provenance.check_parameters
    yield "data", "{data}", provenance.check_data
    yield "layers", "responses and gradients agree with the record", layers.check_layers
    yield "evaluations", "{tests} of finished tests", evaluations.check_evaluations
    yield "copies", "no other record shares its numbers", lambda record: provenance.check_copies(record, others)


def results(check: str, good: str, problems: Iterable[tuple[str, str]]) -> list[CheckResult]:
    """The results of one check: its problems, the first of very many, or that all is well."""
    found = [CheckResult.of(check, word, text) for word, text in problems]
    if len(found) > MOST:
        errors = any(one.verdict == ERROR for one in found[MOST:])
        found = [*found[:MOST], CheckResult.of(check, ERROR if errors else found[MOST].verdict,
                                               f"and {len(found) - MOST} more of this check")]
    return found or [CheckResult.of(check, OK, good)]


def read_contents(files: Mapping[str, bytes]) -> tuple[dict[str, Any] | None, dict[str, Any] | None,
                                                       list[tuple[str, str]]]:
    """What run.json and config.yaml hold, None for one that can't be used, and what is wrong with them."""
    read: dict[str, dict[str, Any]] = {}
    wrong = []
    for name, parse in ((RUN, json_of), (YAML, yaml_of)):
        try:
            content = parse(files[name])
            if name == RUN:
                check_schema(content, RunRecord)
            read[name] = content
        except Refused as refused:
            wrong.append((ERROR, f"{name}: {refused}"))
        except KeyError:
            wrong.append((ERROR, f"{name}: was not sent, or not as a plain file"))
    return read.get(RUN), read.get(YAML), wrong


def with_history(record: Record) -> Record:
    """The record with the rows of history.csv, or why they can't be read."""
    try:
        return replace(record, history=csv_rows(record.files[HISTORY], record.columns))
    except Refused as refused:
        return replace(record, unread=str(refused))
    except KeyError:
        return replace(record, unread="was not sent, or not as a plain file")


def read_files(references: Sequence[Path], folder: Path) -> dict[str, dict[str, bytes]]:
    """The files of other records, by the name of their folder; of these too only plain files are opened."""
    return {f"{other.parent.name}/{other.name}": read_folder(other)[0] for other in references
            if other.resolve() != folder.resolve()}


def summary(record: Record) -> dict[str, Any]:
    """What is said of a record where nothing is wrong."""
    content = record.content
    tests = sum(name.startswith("evaluations/") for name in record.files)
    data = ("ImageNet; of its files no published hash is known, compare the fingerprint with other records: "
            f"{content['data']['sha256'][:12]}" if record.config.data.name == IMAGENET
            else "CIFAR-10, with the published SHA-256")
    return {"identity": content["identity"], "deviations": "; ".join(content["deviations"]) or "none",
            "rows": len(record.history), "parameters": content["parameters"], "data": data,
            "tests": "no file" if not tests else "one file" if tests == 1 else f"{tests} files"}


def verdict(found: Sequence[CheckResult], text: str) -> CheckResult:
    """The last result: what the record would count as; nothing while a check fails."""
    failed = list(dict.fromkeys(one.check for one in found if one.verdict == ERROR))
    if not failed:
        return CheckResult.of(COUNTS_AS, OK, text)
    return CheckResult.of(COUNTS_AS, ERROR,
                          f"nothing while these checks fail: {', '.join(failed)}; without them: {text}")


def meaning(record: Record) -> str:
    """What a good record would be in the tables of the paper."""
    name, own = record.config.name, record.content["identity"]
    if own not in paper_hashes(name):
        return f"not a paper run: {'; '.join(deviations(record.config))}"
    rows = [describe_row(table, key, record) for table, key in configuration.rows_of_paper(record.config)]
    return "a run of the paper: " + ("; ".join(rows) or "no row of a table, curves only")


def describe_row(table: str, key: str, record: Record) -> str:
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
