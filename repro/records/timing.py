"""timing.csv and the sessions of a run: whether the times can be those of this history. Seconds; times in UTC."""

from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any

from repro.records.finding import ERROR, WARNING, Problems, told
from repro.records.known import Record
from repro.records.shape import time_of

NAME = "timing.csv"
CLOCK = 5.0  # Choice: seconds by which a machine's clock may be set back, or the host be late with a line
ROUNDED = 0.001  # times of updates and tests are recorded to the millisecond
RATE_ROUNDED = 0.06  # images per second are recorded to a tenth


def check_timing(record: Record) -> Problems:
    """Iterations, durations, speeds and times of timing.csv."""
    rows, content = record.timing, record.content
    if not rows:
        yield ERROR, f"{NAME}: {record.unread[NAME]}"
        return
    marks = [row["iteration"] for row in rows]
    if record.history and marks != [row["iteration"] for row in record.history]:
        yield ERROR, f"the iterations of {NAME} and history.csv differ"
        return
    for row in rows:
        for name in ("train_seconds", "evaluation_seconds", "images_per_second"):
            if row[name] < 0 or (row[name] == 0 and name != "evaluation_seconds"):
                yield ERROR, f"{NAME}, iteration {row['iteration']}: {name} {row[name]:g} is not above 0"
        if time_of(row["utc"]) is None:
            yield ERROR, f"{NAME}, iteration {row['iteration']}: utc {told(row['utc'])} is no time in UTC"
    for first, second in pairwise(rows):
        if second["train_seconds"] < first["train_seconds"]:
            yield ERROR, (f"{NAME}, iteration {second['iteration']}: train_seconds fall from "
                          f"{first['train_seconds']:g} to {second['train_seconds']:g}")
    slack = ROUNDED * (len(rows) + len(content["sessions"]))
    if rows[-1]["train_seconds"] > content["train_seconds"] + slack:
        yield ERROR, (f"{NAME} ends with {rows[-1]['train_seconds']:g} s of training, run.json says "
                      f"{content['train_seconds']:g}")
    tests = sum(row["evaluation_seconds"] for row in rows)
    if tests > content["evaluation_seconds"] + slack:
        yield ERROR, f"the tests of {NAME} took {tests:.3f} s, run.json says {content['evaluation_seconds']:g}"


def check_sessions(record: Record) -> Problems:
    """The sessions follow each other without a hole, from 0 to the last iteration, and their times are in order."""
    content, sessions = record.content, record.content["sessions"]
    reached = 0
    for number, session in enumerate(sessions, 1):
        begun = session["from_iteration"]
        if begun > reached:
            yield ERROR, f"session {number} begins at iteration {begun}, the one before ended at {reached}: a hole"
        elif begun < reached:
            yield WARNING, (f"session {number} begins at iteration {begun}, before {reached}, where the one before "
                            "ended: was a checkpoint damaged?")
        reached = session.get("to_iteration", begun)
        if reached < begun:
            yield ERROR, f"session {number} goes from iteration {begun} back to {reached}"
    if reached != record.schedule.iterations:
        yield ERROR, f"the last session ends at iteration {reached} of {record.schedule.iterations}"
    if content["started"] != sessions[0]["started"]:
        yield ERROR, f"the run started {content['started']}, its first session {sessions[0]['started']}"
    yield from disorder(content)
    yield from strange_rows(record)
    spent = content["train_seconds"] + content["evaluation_seconds"]
    there = sum(max(0.0, seconds(session["started"], session["ended"])) for session in sessions if "ended" in session)
    if spent > there + CLOCK * len(sessions):
        yield ERROR, f"{spent:.0f} s of training and tests in sessions of {there:.0f} s"
    for key in ("device", "python", "torch"):
        if content["environment"][key] != sessions[-1][key]:
            yield ERROR, (f"the environment names {key} {told(content['environment'][key])}, the last session "
                          f"{told(sessions[-1][key])}")


def seconds(first: str, second: str) -> float:
    """From one recorded time to another."""
    begun, ended = time_of(first), time_of(second)
    assert begun is not None
    assert ended is not None
    return (ended - begun).total_seconds()


def disorder(content: dict[str, Any]) -> Problems:
    """Times of the sessions that go back."""
    marks = [(f"{kind} of session {number}", session[kind]) for number, session in enumerate(content["sessions"], 1)
             for kind in ("started", "ended") if kind in session]
    for (earlier, first), (later, second) in pairwise([*marks, ("the end of the run", content["ended"])]):
        if seconds(first, second) < -CLOCK:
            yield ERROR, f"{later} ({second}) lies before {earlier} ({first})"


def strange_rows(record: Record) -> Problems:
    """Rows of timing.csv that can't be of the session in which their iteration was done."""
    if any(time_of(row["utc"]) is None or row["images_per_second"] <= 0 for row in record.timing):
        return  # check_timing has said so
    before: dict[str, Any] = {"iteration": 0, "train_seconds": 0.0, "utc": None}
    for number, session, rows in by_session(record):
        begun = session["from_iteration"]
        earliest, latest = (0.0, 0.0) if begun == 0 else (before["train_seconds"], rows[0]["train_seconds"])
        last: str = session["started"]
        trained = before["train_seconds"]
        for row in rows:
            where = f"{NAME}, iteration {row['iteration']}:"
            if seconds(last, row["utc"]) < -CLOCK:
                yield ERROR, f"{where} its time {row['utc']} lies before {last}, in session {number}"
            elif "ended" in session and seconds(row["utc"], session["ended"]) < -CLOCK:
                yield ERROR, f"{where} its time {row['utc']} lies after the end of session {number}"
            elif row is not rows[0] or begun == 0:
                spent = row["train_seconds"] - trained + row["evaluation_seconds"]
                if spent > (passed := seconds(last, row["utc"])) + CLOCK:
                    yield ERROR, f"{where} {spent:.1f} s of training and a test in {passed:.0f} s"
            yield from wrong_rate(row, row["iteration"] - begun, earliest, latest, record)
            last, trained = row["utc"], row["train_seconds"]
        before = rows[-1]


def by_session(record: Record) -> Iterator[tuple[int, dict[str, Any], list[dict[str, Any]]]]:
    """(number, session, its rows of timing.csv) of every session that has any."""
    sessions = record.content["sessions"]
    rows: dict[int, list[dict[str, Any]]] = {}
    for row in record.timing:
        own = max((number for number, session in enumerate(sessions) if session["from_iteration"] < row["iteration"]),
                  default=0)
        rows.setdefault(own, []).append(row)
    for number in sorted(rows):
        yield number + 1, sessions[number], rows[number]


def wrong_rate(row: dict[str, Any], updates: int, earliest: float, latest: float, record: Record) -> Problems:
    """The speed of a row against its training time; at the start of its session that stood at earliest to latest."""
    images = updates * record.config.train.mini_batch_size
    rate = row["images_per_second"]
    least, most = row["train_seconds"] - latest - 2 * ROUNDED, row["train_seconds"] - earliest + CLOCK
    told_seconds = images / (rate + RATE_ROUNDED), images / max(rate - RATE_ROUNDED, 1e-9)
    if told_seconds[1] < least or told_seconds[0] > most:
        yield ERROR, (f"{NAME}, iteration {row['iteration']}: {rate:g} images/s do not fit {images} images in "
                      f"{row['train_seconds'] - earliest:.3f} s of training")


def latest_time(record: Record) -> datetime | None:
    """The latest time that the record names."""
    times = [time_of(record.content["started"]), time_of(record.content["ended"]),
             *(time_of(row["utc"]) for row in record.timing)]
    return max((time for time in times if time is not None), default=None)
