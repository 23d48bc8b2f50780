"""How a check ends: every way of failing is a FAIL, nothing that was not compared is ok, and lines say what differs."""

import numpy as np
import pytest

from repro.errors import DataError
from repro.verification.check import Check, Difference, Mismatch, Skipped, agreement, perform, same


def ended(look):
    return perform(Check("sums", look))


def raising(error):
    def look():
        raise error
    return look


def test_a_check_that_finds_nothing_wrong():
    outcome = ended(lambda: "3 sums")
    assert (outcome.status, outcome.text, outcome.differences) == ("ok", "3 sums", ())
    assert outcome.line().startswith("ok       sums: 3 sums  0.0 s")


def test_what_differs_is_shown_and_the_rest_counted():
    outcome = ended(raising(Mismatch([Difference(f"sum {n}", n, n + 1) for n in range(8)])))
    lines = outcome.line().splitlines()
    assert lines[0].startswith("FAIL     sums: sum 0: expected 0, found 1  ")
    assert [line.strip() for line in lines[1:]] == [*(f"sum {n}: expected {n}, found {n + 1}" for n in range(1, 5)),
                                                    "and 3 more"]
    assert outcome.plain()["differences"][7] == {"what": "sum 7", "expected": "7", "found": "8"}


@pytest.mark.parametrize(("error", "status", "text"), [
    (Skipped("no data"), "skipped", "no data"), (DataError("two\nlines"), "FAIL", "two lines"),
    (RuntimeError("no kernel"), "FAIL", "broke down: RuntimeError: no kernel")])
def test_other_ends(error, status, text):
    outcome = ended(raising(error))
    assert (outcome.status, outcome.text) == (status, text)


def test_same_counts_and_collects():
    assert same([Difference("a", 1, 1), Difference("b", [2], [2])]) == 2
    with pytest.raises(Mismatch, match=r"^b: expected 2, found 3$"):
        same([Difference("a", 1, 1), Difference("b", 2, 3)])


def test_no_comparison_is_no_success():
    with pytest.raises(Mismatch, match="comparisons: expected some, found none"):
        same([])


@pytest.mark.parametrize(("expected", "found", "good"), [
    ([1.0, 2.0], [1.0, 2.0], True), ([1.0, 200.0], [1.0, 200.1], True), ([1.0, 2.0], [1.0, 2.1], False),
    ([1.0, 2.0], [1.0, np.nan], False), ([1.0, np.nan], [1.0, np.nan], False), ([1.0], [1.0, 1.0], False)])
def test_arrays_agree_within_the_tolerance(expected, found, good):
    one = agreement("values", np.array(expected), np.array(found), 1e-3)
    assert (one.expected == one.found) is good


def test_without_a_tolerance_every_bit_counts():
    one = agreement("values", np.array([1.0]), np.array([np.nextafter(1.0, 2.0)]))
    assert one.expected != one.found
