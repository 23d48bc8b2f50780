"""Claims: each kind of comparison, which runs count, and what is said where none does."""

import json
import math

import pytest

from repro.paper import ClaimTest
from repro.reporting.claims import evaluate, mean_error, measure
from repro.reporting.select import pools
from repro.runs import read_run
from tests.outcome import says
from tests.reporting.conftest import SHORT, write_run

PLAIN = "cifar-degradation"
PASS, FAIL, OPEN = "PASS", "FAIL", "not decidable"


def claim(name, results, reference):
    return next(result for result in evaluate(pools(results, reference)) if result.id == name)


def write_suite(root, errors, **options):
    for depth, error in zip((20, 32, 44, 56), errors, strict=True):
        write_run(root, f"cifar_plain{depth}", train=error, **options)


@pytest.mark.parametrize(("errors", "verdict"), [((1, 2, 3, 4), PASS), ((1, 2, 4, 3), FAIL), ((1, 1, 2, 3), FAIL)])
def test_training_error_rises_with_depth(results, reference, errors, verdict):
    write_suite(results, errors)
    result = claim(PLAIN, results, reference)
    assert (result.verdict, len(result.comparisons)) == (verdict, 3)
    assert result.comparisons[0].runs == ("cifar_plain20/seed0 (fp32)", "cifar_plain32/seed0 (fp32)")


def test_one_failure_is_enough_a_missing_run_leaves_it_open_and_seeds_are_judged_by_their_means(results, reference):
    write_run(results, "cifar_plain20", train=1)
    write_run(results, "cifar_plain32", train=2)
    assert claim(PLAIN, results, reference).verdict == OPEN
    write_run(results, "cifar_plain44", train=1)
    result = claim(PLAIN, results, reference)
    assert (result.verdict, [one.outcome for one in result.comparisons]) == (FAIL, [PASS, FAIL, OPEN])
    for seed, error in ((1, 5.0), (2, 6.0)):
        write_run(results, "cifar_plain20", seed, train=error)
    first = claim(PLAIN, results, reference).comparisons[0]
    assert (first.outcome, "plain-20 4 % (3 seeds)" in first.numbers) == (FAIL, True)


def test_both_sides_come_from_one_place_where_that_is_possible(results, reference):
    write_suite(reference, (1, 2, 3, 4))
    write_run(results, "cifar_plain20", train=9)
    result = claim(PLAIN, results, reference)
    assert (result.verdict, {one.origin for one in result.comparisons}) == (PASS, {"reference"})
    write_suite(results, (4, 3, 2, 1))
    assert claim(PLAIN, results, reference).verdict == FAIL, "yours come first"


def test_a_bound_of_the_paper(results, reference):
    write_run(results, "cifar_resnet1202", train=0.01, test=8.0)
    write_run(results, "cifar_resnet110", train=0.01, test=6.5)
    assert claim("over-1000-layers", results, reference).verdict == PASS
    write_run(results, "cifar_resnet1202", 1, train=3.0, test=8.0)
    assert claim("over-1000-layers", results, reference).comparisons[0].outcome == FAIL


def test_responses_are_means_over_the_layers(results, reference):
    write_run(results, "cifar_plain20", responses=[1.0, 1.0])
    write_run(results, "cifar_resnet20", responses=[0.5, 1.4])
    write_run(results, "cifar_plain56", responses=[1.0])
    folder = write_run(results, "cifar_resnet56", responses=[2.0])
    result = claim("responses-smaller", results, reference)
    assert [one.outcome for one in result.comparisons] == [PASS, FAIL]
    assert "ResNet-20 0.95" in result.comparisons[0].numbers
    (folder / "responses.csv").write_text("layer,name,channels,mean,std\n1,a,1,0,0.1\n")
    assert claim("responses-smaller", results, reference).comparisons[1].numbers == "cifar_resnet56 is not evaluated"


def test_the_imagenet_claims_allow_2_standard_errors_where_the_paper_says_close_or_not_worse(results, reference):
    errors = {"plain18": (31.5, 30.2), "plain34": (33.0, 31.0), "resnet18": (31.0, 30.0), "optA": (26.5, 27.5),
              "optB": (26.3, 27.2), "optC": (26.1, 27.4), "resnet50": (22.0, 24.7), "resnet101": (20.0, 23.6),
              "resnet152": (19.0, 23.0)}
    for name, (train, test) in errors.items():
        write_run(results, f"imagenet_{name}", train=train, test=test)
    found = {result.id: result for result in evaluate(pools(results, reference))}
    wanted = ("imagenet-degradation", "imagenet-depth-helps", "eighteen-layers", "shortcut-options", "bottleneck-depth")
    assert {name: found[name].verdict for name in wanted} == dict.fromkeys(wanted, PASS)
    assert "standard error 0.21" in found["shortcut-options"].comparisons[0].numbers
    limit = 2 * math.sqrt(2) * 0.15
    write_run(results, "imagenet_optC", train=26.1, test=27.21 + limit)
    write_run(results, "imagenet_resnet101", train=20.0, test=24.8)
    write_run(results, "imagenet_resnet18", train=36.0, test=30.19 - limit)
    found = {result.id: result for result in evaluate(pools(results, reference))}
    assert [one.outcome for one in found["shortcut-options"].comparisons] == [FAIL, PASS, PASS, PASS, PASS]
    assert [one.outcome for one in found["bottleneck-depth"].comparisons] == [PASS, FAIL]
    assert [one.outcome for one in found["eighteen-layers"].comparisons] == [FAIL, FAIL]


@pytest.mark.parametrize("overrides", [SHORT, ("data=synthetic",)])
def test_short_synthetic_and_unfinished_runs_never_count(results, reference, overrides):
    write_suite(results, (1, 2, 3, 4), overrides=overrides)
    write_run(results, "cifar_plain32", status="interrupted")
    found = claim(PLAIN, results, reference).comparisons[0]
    assert (found.outcome, found.numbers) == (OPEN, "cifar_plain20 is not run; cifar_plain32 is incomplete")


def test_the_mean_over_a_window_is_that_over_its_iterations():
    rows = [{"iteration": 10.0, "train_top1_error": 8.0}, {"iteration": 30.0, "train_top1_error": 2.0},
            {"iteration": 40.0, "train_top1_error": 1.0}]
    for window, mean in (((0, 40), 130 / 40), ((5, 25), 70 / 20), ((29, 31), 1.5), ((35, 40), 1)):
        assert mean_error(rows, *window) == pytest.approx(mean)
    with pytest.raises(ValueError, match="no training error"):
        mean_error(rows, 40, 50)


def test_the_end_and_the_part_before_the_first_drop_are_measured(results):
    run = read_run(write_run(results, "imagenet_optA", train=26.0, test=27.0))
    rows = run.history()
    assert measure(ClaimTest("training_error", "rising", ()), run) == rows[-1]["train_top1_error"], "a row of 5,000"
    before = [row["train_top1_error"] for row in rows if row["iteration"] <= 150_000]
    assert measure(ClaimTest("convergence_area", "rising", ()), run) == pytest.approx(sum(before) / len(before))


def test_the_command(direct, results):
    outcome = direct("claims", "cifar_responses")
    assert outcome.code == 0
    assert "2 claims: 0 PASS, 0 FAIL, 2 not decidable" in outcome.out
    found = json.loads(direct("claims", "--json").out)
    assert (len(found), {one["verdict"] for one in found}) == (10, {OPEN})
    says(direct("claims", "cifar_response"), 2, "did you mean cifar_responses")
    write_suite(results, (4, 3, 2, 1))
    assert "FAIL: training error: plain-20 < plain-32" in direct("claims").out
    assert direct("claims", "--strict").code == 4
