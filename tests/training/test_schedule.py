"""The schedule at every boundary, against tables written down from the paper."""

import functools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.config import compose, scale_lengths
from repro.training.schedule import Schedule, plateau_drops

PAPER = [(0, 0.1), (1, 0.1), (31_999, 0.1), (32_000, 0.01), (32_001, 0.01), (47_999, 0.01), (48_000, 0.001),
         (63_999, 0.001)]


def schedule(*overrides):
    return Schedule.of(compose(["experiment=cifar_resnet20", *overrides]))


@pytest.mark.parametrize(("iteration", "rate"), PAPER)
def test_the_papers_rates(iteration, rate):
    assert schedule().rate(iteration) == rate


def test_the_papers_lengths():
    assert (schedule().iterations, schedule().drops, schedule().interval) == (64_000, (32_000, 48_000), 390)


@pytest.mark.parametrize(("iteration", "rate"), [(0, 0.1), (149, 0.1), (150, 0.01), (224, 0.01), (225, 0.001)])
def test_the_short_versions_rates(iteration, rate):
    short = schedule("scale=0.0046875")
    assert short.iterations == 300
    assert short.rate(iteration) == rate


def test_scale_shortens_every_length_alike_rounding_up():
    short = Schedule.of(compose(["experiment=cifar_resnet110", "scale=0.01"]))
    assert (short.iterations, short.drops, short.interval) == (640, (320, 480), 4)
    assert (short.warmup_window, short.warmup_max) == (1, 20)
    assert Schedule.of(compose(["experiment=cifar_resnet110", "scale=0.01", "train.warmup=fixed400"])).warmup_max == 4


@given(st.integers(1, 10**6), st.decimals("0.0001", "1", places=4))
def test_scaled_is_the_exact_ceiling(length, scale):
    exact = -(-length * int(scale * 10_000) // 10_000)
    assert scale_lengths(length, float(scale)) == max(1, exact)


def test_evaluates_at_every_interval_and_at_the_end():
    full = schedule()
    points = [i for i in range(1, 64_001) if full.evaluates(i)]
    assert points[:2] == [390, 780]
    assert points[-2:] == [63_960, 64_000]
    assert len(points) == 165


@pytest.mark.parametrize(("experiment", "warms"), [
    ("cifar_resnet20", False), ("cifar_resnet56", False), ("cifar_plain56", False), ("cifar_plain110", True),
    ("cifar_resnet110", True), ("cifar_resnet1202", True)])
def test_only_the_nets_of_110_layers_and_more_warm_up(experiment, warms):
    assert (Schedule.of(compose([f"experiment={experiment}"])).warmup.name == "error80") is warms


@pytest.mark.parametrize(("done", "error", "over"), [
    (99, 10.0, False), (100, 80.0, False), (100, 79.99, True), (1999, 85.0, False), (2000, 85.0, True)])
def test_the_error80_warmup_ends_below_80_percent_or_at_the_cap(done, error, over):
    assert schedule("train.warmup=error80").warmup_ends(done, error) is over


@pytest.mark.parametrize(("done", "error", "over"), [(399, 1.0, False), (400, 99.0, True)])
def test_the_fixed_warmup_ends_after_400_iterations_whatever_the_error(done, error, over):
    assert schedule("train.warmup=fixed400").warmup_ends(done, error) is over


def test_the_warmup_rate_and_the_drops_count_from_iteration_0():
    warm = schedule("train.warmup=error80")
    assert warm.rate(0, warming=True) == 0.01
    assert warm.rate(400) == 0.1
    assert warm.rate(32_000) == 0.01


# ---- drops at plateaus

IMAGENET = [(0, 0.1), (149_999, 0.1), (150_000, 0.01), (299_999, 0.01), (300_000, 0.001), (599_999, 0.001)]


@pytest.mark.parametrize(("iteration", "rate"), IMAGENET)
def test_the_rates_on_imagenet(iteration, rate):
    found = Schedule.of(compose(["experiment=imagenet_optB"]))
    assert found.rate(iteration) == rate
    assert (found.iterations, found.after([(1, 50.0)] * 100)) == (600_000, found)


def plateau(*overrides):
    return Schedule.of(compose(["experiment=imagenet_optB", "train.lr_policy=plateau", *overrides]))


def test_the_rate_drops_where_the_error_no_longer_falls():
    found = plateau("train.plateau_patience=2", "train.plateau_threshold=0.5")
    errors = [60, 50, 49.6, 49.5, 40, 40, 39.6, 39, 39, 39, 39, 39]
    after = found.after((5_000 * (n + 1), error) for n, error in enumerate(errors))
    assert after.drops == (20_000, 35_000)
    assert [after.rate(i) for i in (0, 19_999, 20_000, 34_999, 35_000, 10**6)] == [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    assert found.rate(10**6) == 0.1, "nothing is known of the errors yet"


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), max_size=60), st.integers(1, 6), st.floats(0, 3))
def test_the_plateau_rule_is_that_of_torch(errors, patience, threshold):
    import torch

    rule = compose_rule(patience, threshold)
    drops = plateau_drops(list(enumerate(errors)), rule)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience - 1,
                                                        threshold=threshold, threshold_mode="abs", eps=0)
    expected = []
    for iteration, error in enumerate(errors):
        before = optimizer.param_groups[0]["lr"]
        theirs.step(error)
        if optimizer.param_groups[0]["lr"] < before:
            expected.append(iteration)
    assert list(drops) == expected[:20]


def compose_rule(patience, threshold):
    base = compose_once()
    return replace(base, plateau_patience=patience, plateau_threshold=threshold, plateau_drops=20)


@functools.cache
def compose_once():
    return compose(["experiment=imagenet_optB", "train.lr_policy=plateau"]).train
