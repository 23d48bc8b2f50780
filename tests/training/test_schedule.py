"""The schedule at every boundary, against tables written down from the paper."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.config import compose, scale_lengths
from repro.training.schedule import Schedule


def schedule(*overrides, experiment="cifar_resnet20"):
    return Schedule(compose([f"experiment={experiment}", *overrides]))


@pytest.mark.parametrize(("experiment", "words", "rates"), [
    ("cifar_resnet20", [], {0: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 63_999: 0.001}),
    ("cifar_resnet20", ["scale=0.0046875"], {0: 0.1, 149: 0.1, 150: 0.01, 224: 0.01, 225: 0.001}),
    ("imagenet_optB", [], {0: 0.1, 149_999: 0.1, 150_000: 0.01, 299_999: 0.01, 300_000: 0.001, 599_999: 0.001})])
def test_the_papers_rates(experiment, words, rates):
    found = schedule(*words, experiment=experiment)
    assert {iteration: found.rate(iteration) for iteration in rates} == rates


def test_the_papers_lengths_and_tests():
    full = schedule()
    points = [iteration for iteration in range(1, 64_001) if full.evaluates(iteration)]
    assert (full.iterations, full.drops, full.interval) == (64_000, [32_000, 48_000], 390)
    assert (points[:2], points[-2:], len(points)) == ([390, 780], [63_960, 64_000], 165)


def test_scale_shortens_every_length_alike_rounding_up():
    short = schedule("scale=0.01", experiment="cifar_resnet110")
    assert (short.iterations, short.drops, short.interval) == (640, [320, 480], 4)
    assert (short.warmup_window, short.warmup_max) == (1, 20)


@given(st.integers(1, 10**6), st.decimals("0.0001", "1", places=4))
def test_a_scaled_length_is_the_exact_ceiling(length, scale):
    exact = -(-length * int(scale * 10_000) // 10_000)
    assert scale_lengths(length, float(scale)) == max(1, exact)


def test_only_the_nets_of_110_layers_and_more_warm_up():
    nets = [schedule(experiment=f"cifar_{name}") for name in ("resnet56", "plain110", "resnet110", "resnet1202")]
    assert [net.warms_up for net in nets] == [False, True, True, True]
    assert {net.rate(0, warming=True) for net in nets} == {0.01}
    assert {net.rate(32_000) for net in nets} == {0.01}, "the drops count from iteration 0"


PLATEAU = schedule("train.lr_policy=plateau", "train.plateau_drops=20", experiment="imagenet_optB")


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), max_size=60), st.integers(1, 6), st.floats(0, 3))
def test_the_plateau_rule_is_that_of_torch(errors, patience, threshold):
    PLATEAU.train = replace(PLATEAU.train, plateau_patience=patience, plateau_threshold=threshold)
    PLATEAU.follow([])
    assert PLATEAU.rate(10**6) == 0.1, "nothing is known of the errors yet"
    PLATEAU.follow(enumerate(errors))
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience - 1,
                                                        threshold=threshold, threshold_mode="abs", eps=0)
    expected = []
    for iteration, error in enumerate(errors):
        before = optimizer.param_groups[0]["lr"]
        theirs.step(error)
        if optimizer.param_groups[0]["lr"] < before:
            expected.append(iteration)
    assert PLATEAU.drops == expected[:20]
    assert [PLATEAU.rate(drop) for drop in expected[:3]] == [0.01, 0.001, 0.0001][: len(expected)]
