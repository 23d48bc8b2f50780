"""What is possible but unusual in a record. Each finding says what it compares; only a copied run is a failure."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from repro.config import paper_identities
from repro.errors import ConfigError
from repro.paper import PLAIN_NETS, golden_count, published_table
from repro.ranges import CIFAR10, IMAGENET
from repro.records.configuration import rows_of_paper
from repro.records.evaluations import read_evaluations
from repro.records.finding import ERROR, WARNING, Problems, Refused
from repro.records.history import NAME as HISTORY
from repro.records.history import chance_error
from repro.records.known import Record
from repro.records.layers import GRADIENTS, RESPONSES
from repro.records.reading import json_of
from repro.records.timing import latest_time
from repro.reporting.evaluations import ERRORS, TABLES

FAR = 3.0  # Choice: points from the published error; many times the spread of the paper's own five runs (Table 6)
EARLY = 2.0  # Choice: passes over the images after which nothing is said of how a run begins
SURPRISING = 0.25  # Choice: share of chance level, for the mean training error of these first passes
FASTEST = 5.0e15  # Choice: operations per second of one device; above the arithmetic of any device that is sold
LONG = 0.5  # Choice: share of the experiment's iterations from which a run is no short one
CLOCKS = timedelta(days=1)  # Choice: by which clocks may differ


def check_curves(record: Record) -> Problems:
    """The course of losses and errors."""
    rows, split = record.history, record.tested_on
    if not rows:
        return
    first, last = rows[0], rows[-1]
    if len(rows) > 1 and last["train_loss"] >= first["train_loss"]:
        yield WARNING, (f"the training loss does not fall: {first['train_loss']:.4g} in the first row, "
                        f"{last['train_loss']:.4g} in the last")
    passes = first["iteration"] * record.config.train.mini_batch_size / record.training_images
    if passes <= EARLY and first["train_top1_error"] < SURPRISING * chance_error(record):
        yield WARNING, (f"{first['train_top1_error']:.1f} % training error in the first {passes:.1f} passes over the "
                        f"images, where a network that knows nothing has {chance_error(record):.1f}")
    long_run = record.config.scale >= LONG and record.config.data.name == CIFAR10
    if long_run and last[f"{split}_top1_error"] < last["train_top1_error"]:
        yield WARNING, (f"it ends with a {split} error of {last[f'{split}_top1_error']:.2f} %, below its training "
                        f"error of {last['train_top1_error']:.2f}")
    losses = [row["train_loss"] for row in rows]
    if len(set(losses)) < len(losses):
        yield WARNING, "two rows have the same training loss in every digit"


def check_speed(record: Record) -> Problems:
    """The whole training against what no device reaches."""
    data = "imagenet" if record.config.data.name == IMAGENET else "cifar10"
    try:
        counts = golden_count(data, record.config.model.depth or 0).multiply_adds
    except ConfigError:
        return
    images = record.schedule.iterations * record.config.train.mini_batch_size
    devices = max(1, record.content["environment"].get("devices", 1))
    work = 3 * 2 * min(counts.values()) * images / devices  # a multiply-add is two, the backward pass twice as much
    if work > FASTEST * record.content["train_seconds"]:
        yield WARNING, (f"{images:,} images trained in {record.content['train_seconds']:g} s: more than {FASTEST:.0e} "
                        "operations per second on a device")


def check_times(record: Record) -> Problems:
    """Times that have not come yet."""
    latest = latest_time(record)
    if latest is not None and latest > datetime.now(UTC) + CLOCKS:
        yield WARNING, f"it names a time that has not come yet: {latest.isoformat()}"


def check_published(record: Record) -> Problems:
    """The errors of a run of the paper against the published ones."""
    if record.content["identity"] not in paper_identities(record.config.name):
        return
    found, _ = read_evaluations(record.files)
    for table, key in rows_of_paper(record.config):
        if table == PLAIN_NETS:
            continue
        row = published_table(table).row(key)
        errors = record.content["result"]
        if record.config.data.name == IMAGENET:
            errors = found.get(TABLES[table], {})
            errors = {column: errors[f"val_{column}"] for column in ERRORS if errors}
        for column, printed in row.values.items():
            error = errors.get(column)
            if type(error) in (int, float) and abs(error - printed) > FAR:
                word = "better" if error < printed else "worse"
                yield WARNING, (f"{column} {error:.2f} % is {abs(error - printed):.2f} points {word} than the "
                                f"{printed:.2f} of {row.label} in {table}: more than {FAR:g}")


def check_twins(record: Record, others: Mapping[str, Mapping[str, bytes]]) -> Problems:
    """The weights, histories or layer statistics of other records (their files by name): no two seeds share them."""
    for name, files in others.items():
        try:
            other = json_of(files.get("run.json", b""))
        except Refused:
            other = {}
        shared = [file for file in (HISTORY, RESPONSES, GRADIENTS)
                  if file in record.files and record.files[file] == files.get(file)]
        for what, columns in (("losses", (2, 4)), ("errors", (3, 5))):
            rows = columns_of(record.files, columns)
            equal = len(rows & columns_of(files, columns))
            if HISTORY not in shared and equal > len(rows) / 2:
                shared.append(f"the {what} of {equal} of {len(rows)} tests")
        if (own := record.content.get("weights_sha256")) and own == other.get("weights_sha256"):
            shared.append("the weights' SHA-256")
        if shared:
            copied = other.get("seed", record.content["seed"]) != record.content["seed"]
            yield ERROR if copied else WARNING, (f"it shares {', '.join(shared)} with {name}: the same run again, or a "
                                                 "copy under another name; no two seeds share them")


def columns_of(files: Mapping[str, bytes], columns: tuple[int, int]) -> set[tuple[bytes, ...]]:
    """The iteration and two columns of every row of a history, those of training and test, as they are written."""
    rows = [line.split(b",") for line in files.get(HISTORY, b"").splitlines()[1:]]
    return {(row[0], *(row[column] for column in columns)) for row in rows if len(row) > max(columns)}


def check_plausible(record: Record, others: Mapping[str, Mapping[str, bytes]]) -> Problems:
    """All of the above."""
    yield from check_curves(record)
    yield from check_speed(record)
    yield from check_times(record)
    yield from check_published(record)
    yield from check_twins(record, others)
