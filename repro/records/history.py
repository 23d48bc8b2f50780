"""history.csv against the schedule, against itself and against the recorded result. Errors are in percent."""

import hashlib
import math
from typing import Any

from repro.checks import FAIL
from repro.records.reading import Problems, format_value
from repro.records.submission import Submission
from repro.schema import IMAGENET, WarmUp

NAME = "history.csv"
CLOSE = 1e-9  # of a recorded number to the one that it is computed to be: both are double precision
FAR = 5.0  # Choice: points between a result and the same weights' with averaged statistics; measured: at most 0.3
SETTLED = 100  # Choice: iterations after which running statistics no longer know how they began
LOSS_SLACK = 0.01  # Choice: share of the smallest possible loss that rounding may take away; 16-bit sums are coarse
# A wrong answer leaves the true class at most 1/2, one that is not among the first five at most 1/6.
LEAST_LOSS = {"top1_error": math.log(2), "top5_error": math.log(6)}


def check_history(sent: Submission) -> Problems:
    """Every evaluation once, in order, and finite errors that can be of so many images."""
    rows, last = sent.history, sent.schedule.iterations
    for key in ("iterations", "iteration"):
        if (said := getattr(sent.record, key)) != last:
            yield FAIL, f"run.json says {key} {said}; the configuration trains {last}"
    if sent.record.status != "finished":
        yield FAIL, f"the run is not finished: its status is {format_value(sent.record.status)}"
    if sent.record.evaluated_on != sent.tested_on:
        yield FAIL, (f"evaluated on {sent.record.evaluated_on}; this configuration is tested on "
                      f"{sent.tested_on}")
    if not rows:
        yield FAIL, f"{NAME}: {sent.unread}"
        return
    problem = misplaced_row(sent)
    if problem is not None:
        yield FAIL, problem
        return
    done = 0
    for row in rows:
        yield from wrong_numbers(row, (row["iteration"] - done) * sent.config.train.mini_batch_size, sent)
        done = row["iteration"]


def misplaced_row(sent: Submission) -> str | None:
    """The first row that is not the evaluation that the schedule asks for; None if all are."""
    interval, last = sent.schedule.interval, sent.schedule.iterations
    before = 0
    for row in sent.history:
        here, due = row["iteration"], min(before + interval, last)
        if here == before:
            return f"{NAME} has iteration {here} twice"
        if before == last or here < due:
            return f"{NAME} has iteration {here}, where the schedule has no test (every {interval}, and at {last})"
        if here > due:
            return f"{NAME} lacks iteration {due}: every {interval} iterations and at {last} there is a test"
        before = here
    return None if before == last else f"{NAME} ends at iteration {before} of {last}"


def wrong_numbers(row: dict[str, Any], trained: int, sent: Submission) -> Problems:
    """What is wrong with the losses and errors of a row; trained: images since the row before."""
    split, where = sent.tested_on, f"{NAME}, iteration {row['iteration']}:"
    for part, images in (("train", trained), (split, sent.tested_images)):
        loss = row[f"{part}_loss"]
        if loss < 0:
            yield FAIL, f"{where} {part}_loss {loss} is below 0"
        for name, least in LEAST_LOSS.items():
            error = row.get(f"{part}_{name}")
            if error is None:
                continue
            if (text := wrong_error(f"{part}_{name}", error, images)) is not None:
                yield FAIL, f"{where} {text}"
            if loss >= 0 and loss < error / 100 * least * (1 - LOSS_SLACK):
                yield FAIL, (f"{where} {part}_loss {loss:.6g} is less than {error:.6g} % of errors can have "
                              f"({error / 100 * least:.6g})")
    if row.get(f"{split}_top5_error", 0) > row[f"{split}_top1_error"]:
        yield FAIL, f"{where} {split}_top5_error is above {split}_top1_error"


def wrong_error(name: str, error: float, images: int | None) -> str | None:
    """Why an error (percent) can't be of so many images; None if it can, or if nobody knows how many they were."""
    if not 0 <= error <= 100:
        return f"{name} {error} is no percentage"
    if images is None:
        return None
    count = round(error * images / 100)
    if math.isclose(error, 100 * count / images, rel_tol=CLOSE, abs_tol=CLOSE):
        return None
    return f"{name} {error} is no whole number of errors among {images} images (next: {100 * count / images})"


def check_schedule(sent: Submission) -> Problems:
    """The rate of every row against the schedule, and the end of the warm-up."""
    schedule, ended = sent.schedule, sent.record.warmup_end
    warms_up = schedule.warmup is not WarmUp.none
    if not warms_up and ended is not None:
        yield FAIL, f"warmup_end is {ended}, but the configuration has no warm-up"
    elif warms_up and (text := wrong_warmup(sent)) is not None:
        yield FAIL, text
    if not sent.history:
        yield FAIL, f"there is no readable {NAME} to compare it with"
    for row in sent.history:
        before = row["iteration"] - 1
        warming = warms_up and (ended is None or before < ended)
        due = schedule.rate(before, warming)
        if not math.isclose(row["learning_rate"], due, rel_tol=CLOSE):
            yield FAIL, (f"{NAME}, iteration {row['iteration']}: learning rate {row['learning_rate']:g}; the schedule "
                          f"gives {due:g}")


def wrong_warmup(sent: Submission) -> str | None:
    """Why the warm-up can't have ended where the record says so; None if it can."""
    schedule, ended = sent.schedule, sent.record.warmup_end
    longest = schedule.warmup_max
    if ended is None:
        return f"no warmup_end: the warm-up ends after {longest} iterations" if longest <= schedule.iterations else None
    first = min(schedule.warmup_window, longest) if schedule.warmup is WarmUp.error80 else longest
    if first <= ended <= min(longest, schedule.iterations):
        return None
    return f"warmup_end is {ended}; this warm-up can end from iteration {first} to {longest}"


def check_result(sent: Submission) -> Problems:
    """The result, the hash and the extras of run.json against history.csv: the result is the last row."""
    record, rows = sent.record, sent.history
    found = hashlib.sha256(sent.files[NAME]).hexdigest() if NAME in sent.files else None
    if found is not None and found != record.history_sha256:
        yield FAIL, (f"{NAME} was changed after the run: SHA-256 {found[:12]}, recorded "
                      f"{(record.history_sha256 or 'none')[:12]}")
    if not rows:
        yield FAIL, f"there is no readable {NAME} to compare it with"
    else:
        last = {name: rows[-1][name] for name in sent.columns}
        result = record.result or {}
        for key in sorted({*last, *result}):
            if key not in result or key not in last or result[key] != last[key]:
                yield FAIL, (f"the recorded result has {key[:60]} {format_value(result.get(key))}, the last row "
                              f"{format_value(last.get(key))}; the last iteration is the result, never the best one")
        yield from wrong_best(sent)
    if record.recomputed_batch_norm is not None:
        yield from wrong_averaged(record.recomputed_batch_norm, sent)


def wrong_best(sent: Submission) -> Problems:
    """What is wrong with best_on_test, which a run on the test set has as a labeled extra."""
    best = sent.record.best_on_test
    if sent.tested_on != "test":
        if best is not None:
            yield FAIL, "best_on_test is recorded, but the run was not tested on a test set"
        return
    lowest = min(sent.history, key=lambda row: row["test_top1_error"])
    due = {key: lowest[key] for key in ("iteration", "test_top1_error")}
    if best != due:
        yield FAIL, f"best_on_test is {format_value(best)}; the lowest test error of {NAME} is {format_value(due)}"


def wrong_averaged(averaged: dict[str, Any], sent: Submission) -> Problems:
    """What is wrong with the error that was measured with plainly averaged BN statistics."""
    size, split = sent.config.train.mini_batch_size, sent.tested_on
    images = sent.config.evaluation.batch_norm_images // size * size
    names = [f"{split}_top1_error", *([f"{split}_top5_error"] if sent.config.data.name == IMAGENET else [])]
    if set(averaged) != {"images", f"{split}_loss", *names}:
        yield FAIL, (f"recomputed_batch_norm has {', '.join(sorted(averaged))}; due are {split}_loss, "
                      f"{', '.join(names)}")
        return
    if averaged["images"] != images:
        yield FAIL, f"recomputed_batch_norm is of {averaged['images']} images; the configuration takes {images}"
    for name in names:
        if (text := wrong_error(name, averaged[name], sent.tested_images)) is not None:
            yield FAIL, f"recomputed_batch_norm: {text}"
        own = (sent.record.result or {}).get(name)
        if sent.schedule.iterations >= SETTLED and own is not None and abs(averaged[name] - own) > FAR:
            yield FAIL, (f"the recorded result has {name} {own:.2f} %, the same weights with averaged BN statistics "
                          f"{averaged[name]:.2f}: more than {FAR:g} points apart")
