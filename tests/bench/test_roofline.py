"""The floors: passes counted by hand, the known multiply-adds, and rates that a real device gives."""

import pytest
import torch

from repro.bench import roofline
from repro.bench.plan import config_of
from repro.bench.roofline import Traffic, device_rates, fastest_seconds, traffic_of
from repro.devices import resolve, set_up
from repro.paper import golden_counts
from repro.schema import Precision
from tests.bench.synthetic import TINY

TB = 1e12
# Of a survey of the same networks with a mini-batch of 128 at 4.3 TB/s: ms of one update in 4 bytes and in 2.
SURVEY = {20: (0.34, 0.17), 56: (0.98, 0.49), 110: (1.93, 0.97)}


def traffic(depth, *overrides):
    return traffic_of(config_of(depth, overrides).model)


def by_hand_8(residual):
    """Elements of the 8-layer network: (X, Y) of each convolution, 3 X + 11 Y each, and 2 Y for each addition."""
    large, middle, small = 16 * 32 * 32, 32 * 16 * 16, 64 * 8 * 8
    convolutions = [(3 * 32 * 32, large), (large, large), (large, large), (large, middle), (middle, middle),
                    (middle, small), (small, small)]
    passes = sum(3 * x + 11 * y for x, y in convolutions) - convolutions[0][0]  # images need no gradient
    return passes + (2 * (large + middle + small) if residual else 0)


def test_the_passes_of_the_smallest_network_are_those_counted_by_hand():
    assert traffic(8).elements == by_hand_8(residual=True)
    assert traffic(8, "model=plain").elements == by_hand_8(residual=False)


@pytest.mark.parametrize("depth", SURVEY)
def test_the_byte_floor_is_near_that_of_a_survey(depth):
    one = traffic(depth)
    found = [1000 * one.byte_seconds(128, precision, 4.3 * TB) for precision in (Precision.tf32, Precision.fp16)]
    assert found == pytest.approx(SURVEY[depth], rel=0.06)


@pytest.mark.parametrize("depth", [20, 56, 110])
def test_multiply_adds_and_parameters_are_the_golden_ones(depth):
    golden = next(count for count in golden_counts().cifar10 if count.layers == depth)
    one = traffic(depth)
    assert one.multiply_adds == pytest.approx(golden.multiply_adds["A"], rel=1e-3)
    assert one.parameters == golden.parameters["A"]


def test_a_projection_counts_as_a_convolution():
    large, middle, small = 16 * 32 * 32, 32 * 16 * 16, 64 * 8 * 8
    more = traffic(8, "model.shortcut_option=B").elements - traffic(8).elements
    assert more == 3 * (large + middle) + 11 * (middle + small)


def test_seconds_follow_from_rates():
    one = Traffic(elements=1000, multiply_adds=500, parameters=10)
    assert one.byte_seconds(2, Precision.fp32, 8320.0) == 1.0  # 2 x 1000 x 4 + 8 x 4 x 10 bytes
    assert one.byte_seconds(2, Precision.bf16, 4320.0) == 1.0
    assert one.compute_seconds(2, 6000.0) == 1.0  # 3 x 2 x 500 x 2 operations


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rates_of_this_device_are_those_of_the_work_done(precision, monkeypatch):
    config = resolve(config_of(8, (*TINY, f"machine.precision={precision}")))
    monkeypatch.setitem(roofline.COPY_BYTES, "cpu", 2**22)
    monkeypatch.setitem(roofline.MATRIX, "cpu", 64)
    asked = []

    def one_second(work, device):
        asked.append(work().dtype)
        return 1.0
    monkeypatch.setattr(roofline, "fastest_seconds", one_second)
    assert device_rates(config, set_up(config)) == {"copy_bytes_per_second": 2 * 2**22,
                                                    "matrix_operations_per_second": 2 * 64**3}
    assert asked == [torch.float32, torch.bfloat16 if precision == "bf16" else torch.float32]


def test_the_fastest_series_counts_and_the_first_one_does_not(monkeypatch):
    clock = iter([0.0, 0.1, 1.0, 4.0, 5.0, 7.0, 8.0, 13.0])  # began, ended: 0.1, 3, 2 and 5 s
    monkeypatch.setattr(roofline.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(roofline, "REPEATS", 3)
    assert fastest_seconds(lambda: None, torch.device("cpu")) == 2.0
