"""Claims: each kind of comparison, which runs count, and what is said where none does."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.errors import ConfigError
from repro.paper import claims
from repro.reporting.claims import evaluate, mean_error
from repro.reporting.select import pools
from tests.reporting.conftest import SHORT

PLAIN, DEPTHS = "cifar-degradation", (20, 32, 44, 56)


def claim(name, results, reference, suite=None):
    return next(result for result in evaluate(pools(results, reference), suite) if result.id == name)


def write_suite(make_run, root, errors, kind="plain", **options):
    for depth, error in zip(DEPTHS, errors, strict=True):
        make_run(root, f"cifar_{kind}{depth}", train=error, **options)


def test_every_claim_has_a_test_and_none_is_decided_without_runs(results, reference):
    assert len(claims()) == 10
    for result in evaluate(pools(results, reference)):
        assert result.verdict == "not decidable"
        assert "is not run" in result.reason
        assert result.comparisons
        assert not result.short


@pytest.mark.parametrize(("errors", "verdict"), [
    ((1, 2, 3, 4), "PASS"), ((1, 2, 4, 3), "FAIL"), ((1, 1, 2, 3), "FAIL")])
def test_training_error_rises_with_depth(results, reference, make_run, errors, verdict):
    write_suite(make_run, results, errors)
    result = claim(PLAIN, results, reference)
    assert result.verdict == verdict
    assert len(result.comparisons) == 3
    assert result.comparisons[0].runs == ("cifar_plain20/seed0 (fp32)", "cifar_plain32/seed0 (fp32)")
    assert "by sign alone" in result.comparisons[0].numbers


def test_one_failure_is_enough_and_a_missing_run_leaves_it_open(results, reference, make_run):
    make_run(results, "cifar_plain20", train=1)
    make_run(results, "cifar_plain32", train=2)
    assert claim(PLAIN, results, reference).verdict == "not decidable"
    make_run(results, "cifar_plain44", train=1)
    result = claim(PLAIN, results, reference)
    assert [one.outcome for one in result.comparisons] == ["PASS", "FAIL", "not decidable"]
    assert result.verdict == "FAIL"


def test_several_seeds_are_judged_by_their_means(results, reference, make_run):
    write_suite(make_run, results, (1, 2, 3, 4))
    for seed, error in ((1, 5.0), (2, 6.0)):
        make_run(results, "cifar_plain20", seed, train=error)
    first = claim(PLAIN, results, reference).comparisons[0]
    assert first.outcome == "FAIL"
    assert "(3 seeds)" in first.numbers


def test_both_sides_come_from_one_place_where_that_is_possible(results, reference, make_run):
    write_suite(make_run, reference, (1, 2, 3, 4))
    make_run(results, "cifar_plain20", train=9)
    result = claim(PLAIN, results, reference)
    assert result.verdict == "PASS"
    assert {one.origin for one in result.comparisons} == {"reference"}
    write_suite(make_run, results, (4, 3, 2, 1))
    assert claim(PLAIN, results, reference).verdict == "FAIL", "yours come first"


def test_a_bound_of_the_paper(results, reference, make_run):
    make_run(results, "cifar_resnet1202", train=0.01, test=8.0)
    make_run(results, "cifar_resnet110", train=0.01, test=6.5)
    result = claim("over-1000-layers", results, reference)
    assert result.verdict == "PASS", result
    make_run(results, "cifar_resnet1202", 1, train=3.0, test=8.0)
    assert claim("over-1000-layers", results, reference).comparisons[0].outcome == "FAIL"


def test_responses_are_means_over_the_layers(results, reference, make_run):
    make_run(results, "cifar_plain20", responses=[1.0, 1.0])
    make_run(results, "cifar_resnet20", responses=[0.5, 1.4])
    make_run(results, "cifar_plain56", responses=[1.0])
    folder = make_run(results, "cifar_resnet56", responses=[2.0])
    result = claim("responses-smaller", results, reference)
    assert [one.outcome for one in result.comparisons] == ["PASS", "FAIL"]
    assert "ResNet-20 0.95" in result.comparisons[0].numbers
    (folder / "responses.csv").write_text("layer,name,channels,mean,std\n1,a,1,0,0.1\n")
    result = claim("responses-smaller", results, reference)
    assert result.verdict == "not decidable"
    assert "responses.csv is not the recorded one" in result.reason


def test_short_runs_decide_nothing(results, reference, make_run):
    for depth, error in ((20, 58), (56, 77)):
        make_run(results, f"cifar_plain{depth}", train=error, overrides=SHORT, precision="bf16")
    result = claim(PLAIN, results, reference)
    assert result.verdict == "not decidable"
    (one,) = result.short
    assert one.outcome == "holds so far"
    assert "plain-20 < plain-56" in one.text


def test_synthetic_and_unfinished_runs_never_count(results, reference, make_run):
    write_suite(make_run, results, (1, 2, 3, 4), overrides=("data=synthetic",))
    assert "synthetic images say nothing about CIFAR-10" in claim(PLAIN, results, reference).reason
    write_suite(make_run, results, (1, 2, 3, 4), status="interrupted")
    assert "cifar_plain20 is incomplete" in claim(PLAIN, results, reference).reason


def test_claims_of_a_suite(results, reference):
    found = evaluate(pools(results, reference), "cifar_responses")
    assert [result.id for result in found] == ["responses-smaller", "responses-depth"]
    with pytest.raises(ConfigError, match="did you mean cifar_responses"):
        evaluate(pools(results, reference), "cifar_response")


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 100)), min_size=1, max_size=20), st.data())
def test_the_mean_over_a_window_is_that_over_its_iterations(pieces, data):
    rows, single, done = [], [], 0
    for length, error in pieces:
        done += length
        rows.append({"iteration": float(done), "train_top1_error": error})
        single += [error] * length
    begin = data.draw(st.integers(0, done - 1))
    end = data.draw(st.integers(begin + 1, done))
    assert mean_error(rows, begin, end) == pytest.approx(sum(single[begin:end]) / (end - begin))


def test_the_command(direct):
    outcome = direct("claims", "cifar_responses")
    assert outcome.code == 0
    assert "2 claims: 0 PASS, 0 FAIL, 2 not decidable" in outcome.out
    assert len(json.loads(direct("claims", "--json").out)) == 10
    assert direct("claims", "nothing").code == 2
