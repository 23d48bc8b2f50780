"""What the tests of claims measure of one run."""

import math

from repro.config import scale_lengths
from repro.paper import ClaimTest
from repro.reporting.layer_data import responses_of
from repro.reporting.selection import record
from repro.runs import Run

WINDOW = 1_000  # iterations at the end whose mean training error counts
UNITS = {"training_error": " %", "convergence_area": " %", "final_error": " %", "responses": ""}


def measure(test: ClaimTest, run: Run) -> float:
    """The test's measure of a finished run; ValueError or KeyError if the run does not have it."""
    if test.measure == "training_error":
        return end_error(run)
    if test.measure == "convergence_area":
        return error_before_the_drop(run)
    if test.measure == "responses":
        values = responses_of(run)[0]
        return sum(values) / len(values)
    result = record(run).result or {}
    if test.metric not in result:
        raise ValueError(f"its record has no {test.metric}")
    return float(result[test.metric])


def end_error(run: Run) -> float:
    """Mean training error (percent) over the last 1,000 iterations; of a shortened schedule over as long a part."""
    rows = run.history()
    last = int(rows[-1]["iteration"])
    return mean_error(rows, last - scale_lengths(WINDOW, record(run).config.scale), last)


def error_before_the_drop(run: Run) -> float:
    """Mean training error (percent) before the first drop: the area under the curve divided by its length."""
    config = record(run).config
    return mean_error(run.history(), 0, scale_lengths(config.train.lr_drops[0], config.scale))


def mean_error(rows: list[dict[str, float]], begin: int, end: int) -> float:
    """Mean of train_top1_error over the iterations begin+1..end; each row is the mean since the row before it."""
    total, length, previous = 0.0, 0.0, 0.0
    for row in rows:
        overlap = min(row["iteration"], end) - max(previous, begin)
        if overlap > 0:
            total += overlap * row["train_top1_error"]
            length += overlap
        previous = row["iteration"]
    if not length or not math.isfinite(total):
        raise ValueError("its history has no training error there")
    return total / length
