"""Check a record that somebody else sends: a run's folder without weights. Never imports torch.

`check_record(folder)` is the public entry. What it finds says whether the record agrees with itself, with this
version's experiments and with what is known of networks and images. It can't say that a run took place.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from repro.checks import FAIL, OK, CheckResult
from repro.config import deviations, paper_hashes
from repro.paper import PLAIN_NETS, published_table
from repro.record import Record
from repro.records import configuration, evaluations, history, layers, provenance
from repro.records.reading import Problems, Refused, csv_rows, json_of, make_result, read_folder, yaml_of
from repro.records.submission import Submission
from repro.reporting.select import TABLES
from repro.schema import IMAGENET

COUNTS_AS = "counts as"
RUN, YAML, HISTORY = "run.json", "config.yaml", history.NAME
MOST = 20  # problems of one check; a forged history has one for every row


def check_record(folder: Path, references: Sequence[Path] = ()) -> list[CheckResult]:
    """All results about the record in a folder; the last one (`counts as`) says what it would be, were it taken.

    references: folders of other records, whose numbers it must not share. ConfigError (2) if there is no such
    folder, StorageError (5) if a file of it can't be read; whatever the files hold gives results, never an error.
    """
    files, problems = read_folder(folder)
    found = results("files", "known plain files only, of a record's size", problems)
    record, raw, wrong = read_json_record(files.get(RUN))
    written, wrong_yaml = read_yaml(files.get(YAML))
    found += results("schema", "every key is known, of its kind and in its range, and nothing could be run",
                     [*wrong, *wrong_yaml])
    if record is None:
        return [*found, verdict(found, "run.json can't be used, so nothing else was checked")]
    sent = with_history(Submission(folder, files, record))
    others = {f"{other.parent.name}/{other.name}": read_folder(other)[0] for other in references
              if other.resolve() != folder.resolve()}
    for name, text, objections in checks(sent, raw, written, others):
        found += results(name, text, objections)
    return [*found, verdict(found, meaning(sent))]


def checks(sent: Submission, raw: dict[str, Any], written: dict[str, Any] | None,
           others: Mapping[str, Mapping[str, bytes]]) -> Iterator[tuple[str, str, Problems]]:
    """(name, what is said if it finds nothing, what it finds) of every check of a record that can be read."""
    record = sent.record
    tests = sum(name.startswith("evaluations/") for name in sent.files)
    yield YAML, "agrees with run.json", configuration.check_yaml(written, raw["config"])
    yield "identity", f"{record.identity}, as the configuration gives it", configuration.check_identity(sent)
    yield "deviations", f"those of the configuration: {'; '.join(record.deviations or []) or 'none'}", \
        configuration.check_deviations(sent)
    yield "folder", "its name fits", configuration.check_place(sent)
    yield "history", f"{len(sent.history)} tests, every one once, with numbers that can be", history.check_history(sent)
    yield "schedule", "every learning rate is that of the schedule", history.check_schedule(sent)
    yield "result", "the last row of the unchanged history", history.check_result(sent)
    yield "code", "every session has its commit, without uncommitted changes", provenance.check_code(sent)
    yield "parameters", f"{record.parameters:,}, the golden count", provenance.check_parameters(sent)
    yield "data", ("ImageNet; of its files no published hash is known, compare the fingerprint with other records: "
                   f"{record.data.sha256[:12] if record.data else '?'}" if sent.config.data.name == IMAGENET
                   else "CIFAR-10, with the published SHA-256"), provenance.check_data(sent)
    yield "layers", "responses and gradients agree with the record", layers.check_layers(sent)
    yield "evaluations", f"files of finished tests: {tests}", evaluations.check_evaluations(sent)
    yield "copies", "no other record shares its numbers", provenance.check_copies(sent, others)


def results(check: str, good: str, problems: Iterable[tuple[str, str]]) -> list[CheckResult]:
    """The results of one check: its problems, the first of very many, or that all is well."""
    found = [make_result(check, word, text) for word, text in problems]
    if len(found) > MOST:
        errors = any(one.status == FAIL for one in found[MOST:])
        found = [*found[:MOST], make_result(check, FAIL if errors else found[MOST].status,
                                               f"and {len(found) - MOST} more of this check")]
    return found or [make_result(check, OK, good)]


def read_json_record(data: bytes | None) -> tuple[Record | None, dict[str, Any], list[tuple[str, str]]]:
    """The record in run.json (None if it can't be used), what the file holds, and what is wrong with it."""
    raw: dict[str, Any] = {}
    try:
        if data is None:
            raise Refused("was not sent, or not as a plain file")
        raw = json_of(data)
        return configuration.read_record(raw), raw, []
    except Refused as refused:
        return None, raw, [(FAIL, f"{RUN}: {refused}")]


def read_yaml(data: bytes | None) -> tuple[dict[str, Any] | None, list[tuple[str, str]]]:
    """What config.yaml holds (None if it can't be used), and what is wrong with it."""
    try:
        if data is None:
            raise Refused("was not sent, or not as a plain file")
        return yaml_of(data), []
    except Refused as refused:
        return None, [(FAIL, f"{YAML}: {refused}")]


def with_history(sent: Submission) -> Submission:
    """The record with the rows of history.csv, or why they can't be read."""
    try:
        return replace(sent, history=csv_rows(sent.files[HISTORY], sent.columns))
    except Refused as refused:
        return replace(sent, unread=str(refused))
    except KeyError:
        return replace(sent, unread="was not sent, or not as a plain file")


def verdict(found: Sequence[CheckResult], text: str) -> CheckResult:
    """The last result: what the record would count as; nothing while a check fails."""
    failed = list(dict.fromkeys(one.check for one in found if one.status == FAIL))
    if not failed:
        return make_result(COUNTS_AS, OK, text)
    return make_result(COUNTS_AS, FAIL,
                          f"nothing while these checks fail: {', '.join(failed)}; without them: {text}")


def meaning(sent: Submission) -> str:
    """What a good record would be in the tables of the paper."""
    name, own = sent.config.name, sent.record.identity
    if own not in paper_hashes(name):
        return f"not a paper run: {'; '.join(deviations(sent.config))}"
    rows = [describe_row(table, key, sent) for table, key in configuration.rows_of_paper(sent.config)]
    return "a run of the paper: " + ("; ".join(rows) or "no row of a table, curves only")


def describe_row(table: str, key: str, sent: Submission) -> str:
    """One row that the record answers, with the published numbers that it would stand beside."""
    if table == PLAIN_NETS:
        return f"{key} in the table of plain networks: published as curves only"
    published = published_table(table)
    row = published.row(key)
    numbers = " / ".join(f"{row.values[column.key] / column.unit:.{column.decimals}f}"
                         for column in published.columns if column.key in row.values)
    text = f"row {row.label} in Table {table.removeprefix('table')}: would be shown beside {numbers} %"
    if table in TABLES and f"evaluations/{TABLES[table]}.json" not in sent.files:
        text += f", once evaluations/{TABLES[table]}.json is sent too"
    return text
