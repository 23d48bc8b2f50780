"""Verdicts at and around their boundaries."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.reporting.statistics import (
    BETTER,
    REPRODUCED,
    WORSE,
    Interval,
    Summary,
    t_distribution,
    t_quantile,
    verdict,
    welch,
)

S_REF = 0.16
ERRORS = st.lists(st.floats(0.01, 99.0), min_size=1, max_size=6).map(tuple)


def test_summary_of_one_run_is_its_value():
    assert str(Summary((8.314,))) == "8.31"
    assert Summary((8.314,)).std is None


def test_summary_of_several_runs():
    summary = Summary((6.43, 6.61, 6.79))
    assert (summary.k, summary.best) == (3, 6.43)
    assert summary.mean == pytest.approx(6.61)
    assert summary.std == pytest.approx(0.18)
    assert str(summary) == "6.43 (6.61 +- 0.18), 3 seeds"


@pytest.mark.parametrize(("values", "own"), [
    ((7.0,), 0.25), ((6.9, 7.1), 0.25), ((6.9, 7.0, 7.1), statistics.stdev([6.9, 7.0, 7.1]))])
def test_spread_of_few_runs_is_replaced(values: tuple[float, ...], own: float):
    assert verdict(Summary(values), 6.5, S_REF).z == pytest.approx(0.5 / math.hypot(own, S_REF))


LIMIT = 2 * math.hypot(0.25, S_REF)


@pytest.mark.parametrize(("difference", "expected"), [
    (0.0, REPRODUCED), (LIMIT, REPRODUCED), (-LIMIT, REPRODUCED), (LIMIT - 0.01, REPRODUCED), (LIMIT + 0.001, WORSE),
    (-LIMIT - 0.001, BETTER), (5.0, WORSE), (-5.0, BETTER)])
def test_boundaries(difference: float, expected: str):
    assert verdict(Summary((8.75 + difference,)), 8.75, S_REF).text == expected


@given(ERRORS, st.floats(0.01, 99.0), st.floats(0.01, 1.0))
def test_verdict_follows_z(values: tuple[float, ...], published: float, s_ref: float):
    found = verdict(Summary(values), published, s_ref)
    assert found.difference == pytest.approx(statistics.fmean(values) - published, abs=1e-9)
    assert math.copysign(1, found.z) == math.copysign(1, found.difference)
    if abs(found.z) < 1.999:
        assert found.text == REPRODUCED
    if abs(found.z) > 2.001 and abs(found.difference) > 1e-6:
        assert found.text == (WORSE if found.difference > 0 else BETTER)


@given(ERRORS, st.floats(0.01, 99.0))
def test_too_good_is_flagged_like_too_bad(values: tuple[float, ...], published: float):
    mirrored = tuple(2 * published - value for value in values)
    one, other = verdict(Summary(values), published, S_REF), verdict(Summary(mirrored), published, S_REF)
    assert one.z == pytest.approx(-other.z, abs=1e-6)
    if min(abs(abs(one.z) - 2), abs(one.difference)) > 1e-6:
        assert {one.text, other.text} in ({REPRODUCED}, {BETTER, WORSE})


# Printed tables of Student's t, e.g. NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2.
T_TABLE = {0.95: {1: 6.314, 2: 2.920, 5: 2.015, 10: 1.812, 15: 1.753, 30: 1.697, 100: 1.660},
           0.975: {1: 12.706, 2: 4.303, 3: 3.182, 5: 2.571, 10: 2.228, 15: 2.131, 30: 2.042, 60: 2.000, 100: 1.984},
           0.995: {1: 63.657, 2: 9.925, 5: 4.032, 10: 3.169, 30: 2.750, 100: 2.626}}


@pytest.mark.parametrize(("probability", "freedom", "printed"), [
    (probability, freedom, value) for probability, column in T_TABLE.items() for freedom, value in column.items()])
def test_quantiles_of_t_are_the_printed_ones(probability: float, freedom: int, printed: float):
    assert t_quantile(probability, freedom) == pytest.approx(printed, abs=5.1e-4)


def test_t_in_closed_form():
    """Cauchy for one degree of freedom, 1/2 + t / (2 sqrt(2 + t^2)) for two; near the normal distribution for many."""
    for value in (0.0, 0.3, 1.0, 4.0, 50.0):
        assert t_distribution(value, 1) == pytest.approx(0.5 + math.atan(value) / math.pi, abs=1e-9)
        assert t_distribution(value, 2) == pytest.approx(0.5 + value / (2 * math.sqrt(2 + value**2)), abs=1e-9)
        assert t_distribution(-value, 2) == pytest.approx(1 - t_distribution(value, 2), abs=1e-9)
    assert t_quantile(0.975, 10**6) == pytest.approx(statistics.NormalDist().inv_cdf(0.975), abs=1e-5)


@given(st.floats(0.5, 0.999), st.floats(1.0, 200.0))
def test_the_quantile_undoes_the_distribution(probability: float, freedom: float):
    assert t_distribution(t_quantile(probability, freedom), freedom) == pytest.approx(probability, abs=1e-8)


def test_welchs_interval_by_hand():
    """Equal spreads and numbers: 2 (k - 1) degrees of freedom. Unequal ones: computed with the printed t of 2."""
    found = welch(Summary((8.0, 8.2, 8.4)), Summary((7.9, 8.1, 8.3)))
    assert found is not None
    half = 2.776 * 0.2 * math.sqrt(2 / 3)  # t of 4
    assert (found.difference, found.low, found.high) == pytest.approx((0.1, 0.1 - half, 0.1 + half), abs=1e-3)
    one_sided = welch(Summary((8.0, 8.2, 8.4)), Summary((8.0, 8.0, 8.0)))
    assert one_sided is not None
    assert one_sided.high - one_sided.difference == pytest.approx(4.303 * 0.2 / math.sqrt(3), abs=1e-3)


def test_the_interval_of_too_few_or_equal_runs():
    assert welch(Summary((8.0,)), Summary((8.0, 8.1))) is None
    assert welch(Summary((8.0, 8.1)), Summary((8.0,))) is None
    assert welch(Summary((8.5, 8.5)), Summary((8.0, 8.0))) == Interval(0.5, 0.5, 0.5)


@given(ERRORS, ERRORS)
def test_the_interval_turns_round_with_its_sides(ours: tuple[float, ...], others: tuple[float, ...]):
    one, back = welch(Summary(ours), Summary(others)), welch(Summary(others), Summary(ours))
    assert (one is None) == (back is None) == (min(len(ours), len(others)) < 2)
    if one is not None and back is not None:
        assert (one.low, one.difference, one.high) == pytest.approx((-back.high, -back.difference, -back.low), abs=1e-6)
        assert one.low <= one.difference <= one.high


@pytest.mark.parametrize(("low", "high", "within", "beyond"), [
    (-0.25, 0.25, True, False), (-0.1, 0.2, True, False), (-0.26, 0.1, False, False), (0.1, 0.26, False, False),
    (-1.0, 1.0, False, False), (0.26, 0.5, False, True), (-0.5, -0.26, False, True), (0.25, 0.5, False, False)])
def test_where_an_interval_lies(low: float, high: float, within: bool, beyond: bool):
    found = Interval((low + high) / 2, low, high)
    assert (found.within(0.25), found.beyond(0.25)) == (within, beyond)
