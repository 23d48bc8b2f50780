"""Verdicts at and around their boundaries."""

import math
import statistics

import pytest

from repro.reporting.statistics import BETTER, REPRODUCED, WORSE, Summary, verdict

LIMIT = 2 * math.hypot(0.25, 0.16)


def test_summary_of_one_run_and_of_several():
    assert (str(Summary((8.314,))), Summary((8.314,)).std) == ("8.31", None)
    summary = Summary((6.43, 6.61, 6.79))
    assert summary.as_json() == {"k": 3, "best": 6.43, "mean": pytest.approx(6.61), "std": pytest.approx(0.18)}
    assert str(summary) == "6.43 (6.61 +- 0.18), 3 seeds"


@pytest.mark.parametrize(("values", "own"), [((6.9, 7.1), 0.25), ((6.9, 7.0, 7.1), statistics.stdev([6.9, 7.0, 7.1]))])
def test_spread_of_few_runs_is_replaced(values: tuple[float, ...], own: float):
    assert verdict(Summary(values), 6.5, 0.16, 0.25)[:2] == pytest.approx((0.5, 0.5 / math.hypot(own, 0.16)))


@pytest.mark.parametrize(("difference", "expected"), [
    (LIMIT, REPRODUCED), (-LIMIT, REPRODUCED), (LIMIT + 0.001, WORSE), (-LIMIT - 0.001, BETTER)])
def test_boundaries(difference: float, expected: str):
    assert verdict(Summary((8.75 + difference,)), 8.75, 0.16, 0.25)[2] == expected
