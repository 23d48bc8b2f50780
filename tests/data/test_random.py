"""The counter-based hash: bijective, uniform, independent between streams and seeds, the same wherever it runs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repro.data.random import MASK, mix, mix_int, permutation, uniform_bits

FIRST_VALUES = [4141071520, 1873299275, 247310176, 2993591231]
LAST_VALUE = [3181771821]
FIRST_ORDER = [2, 6, 7, 8, 9, 1, 5, 3, 4, 0]


def chi_square(counts):
    """Pearson's statistic against equal counts."""
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


@given(st.integers(0, MASK))
def test_tensor_and_python_mixers_agree(value):
    assert int(mix(torch.tensor(value))) == mix_int(value) <= MASK


def test_the_values_never_change():
    """A change of the hash would change every run; these are its values at the first commit."""
    assert uniform_bits(torch.arange(4), 0, 0).tolist() == FIRST_VALUES
    assert uniform_bits(torch.tensor([MASK]), 4294967295, 2).tolist() == LAST_VALUE
    assert permutation(10, 0, 0).tolist() == FIRST_ORDER


def test_mix_is_a_bijection_on_a_sample():
    values = mix(torch.arange(1 << 20))
    assert len(torch.unique(values)) == 1 << 20


@pytest.mark.parametrize(("seed", "stream"), [(0, 0), (1, 2), (123456789, 1)])
def test_every_byte_is_uniform(seed, stream):
    bits = uniform_bits(torch.arange(256_000), seed, stream)
    for shift in (0, 8, 16, 24):
        counts = torch.bincount((bits >> shift) & 255, minlength=256).double()
        assert 150 < chi_square(counts) < 400  # 255 degrees of freedom: 5 standard deviations are 113


def test_neighboring_counters_seeds_and_streams_are_uncorrelated():
    def centered(values):
        return values.double() / MASK - 0.5
    counter = torch.arange(100_000)
    base = centered(uniform_bits(counter, 0, 0))
    for other in (uniform_bits(counter + 1, 0, 0), uniform_bits(counter, 1, 0), uniform_bits(counter, 0, 1)):
        correlation = float((base * centered(other)).mean() * 12)
        assert abs(correlation) < 5 / 100_000**0.5


def test_two_seeds_are_not_one_sequence_in_another_order():
    """A single keyed round would give every seed the same set of values within an aligned block of counters."""
    counter = torch.arange(1 << 12)
    first, second = set(uniform_bits(counter, 0, 0).tolist()), set(uniform_bits(counter, 1, 0).tolist())
    assert len(first & second) < 10


def test_flipping_one_input_bit_flips_half_of_the_output_bits():
    counter = torch.arange(20_000)
    base = uniform_bits(counter, 0, 0)
    for bit in range(0, 32, 5):
        changed = base ^ uniform_bits(counter ^ (1 << bit), 0, 0)
        ones = sum(((changed >> place) & 1).double().mean() for place in range(32))
        assert 15.5 < ones < 16.5


@pytest.mark.parametrize("epoch", [0, 163])
def test_a_pass_is_a_permutation(epoch):
    assert torch.equal(permutation(5000, 3, epoch).sort().values, torch.arange(5000))


def test_passes_and_seeds_give_new_orders():
    orders = [permutation(1000, 0, 0), permutation(1000, 0, 1), permutation(1000, 1, 0)]
    for i, left in enumerate(orders):
        for right in orders[i + 1 :]:
            assert (left == right).sum() < 10  # one fixed point is expected


def test_each_image_is_equally_likely_at_each_place():
    counts = torch.zeros(20, 20)
    for epoch in range(2000):
        counts[torch.arange(20), permutation(20, 0, epoch)] += 1
    assert 250 < chi_square(counts.flatten().double()) < 560  # 361 degrees of freedom


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_the_gpu_gives_the_same_bits():
    counter = torch.arange(100_000)
    assert torch.equal(uniform_bits(counter.cuda(), 7, 2).cpu(), uniform_bits(counter, 7, 2))
