"""Verdicts at and around their boundaries."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.reporting.statistics import BETTER, REPRODUCED, WORSE, Summary, verdict

S_REF = 0.16
LIMIT = 2 * math.hypot(0.25, S_REF)
ERRORS = st.lists(st.floats(0.01, 99.0), min_size=1, max_size=6).map(tuple)


def test_summary_of_one_run_and_of_several():
    assert (str(Summary((8.314,))), Summary((8.314,)).std) == ("8.31", None)
    summary = Summary((6.43, 6.61, 6.79))
    assert summary.as_json() == {"k": 3, "best": 6.43, "mean": pytest.approx(6.61), "std": pytest.approx(0.18)}
    assert str(summary) == "6.43 (6.61 +- 0.18), 3 seeds"


@pytest.mark.parametrize(("values", "own"), [((6.9, 7.1), 0.25), ((6.9, 7.0, 7.1), statistics.stdev([6.9, 7.0, 7.1]))])
def test_spread_of_few_runs_is_replaced(values: tuple[float, ...], own: float):
    assert verdict(Summary(values), 6.5, S_REF, 0.25)[1] == pytest.approx(0.5 / math.hypot(own, S_REF))


@pytest.mark.parametrize(("difference", "expected"), [
    (LIMIT, REPRODUCED), (-LIMIT, REPRODUCED), (LIMIT + 0.001, WORSE), (-LIMIT - 0.001, BETTER)])
def test_boundaries(difference: float, expected: str):
    assert verdict(Summary((8.75 + difference,)), 8.75, S_REF, 0.25)[2] == expected


@given(ERRORS, st.floats(0.01, 99.0), st.floats(0.01, 1.0))
def test_verdict_follows_z(values: tuple[float, ...], published: float, s_ref: float):
    difference, z, text = verdict(Summary(values), published, s_ref, 0.25)
    assert difference == pytest.approx(statistics.fmean(values) - published, abs=1e-9)
    if abs(z) < 1.999:
        assert text == REPRODUCED
    if abs(z) > 2.001 and abs(difference) > 1e-6:
        assert text == (WORSE if difference > 0 else BETTER)
