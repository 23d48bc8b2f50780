"""The counter-based hash and the draws of ImageNet's augmentation: uniform, independent, the same wherever they run."""

import math

import pytest
import torch

from repro.data.random import MASK, mix, normals, permutation, training_draws, uniform_bits

POSITIONS = torch.arange(200_000)


def deviation(values, outcomes):
    """Pearson's statistic of outcomes 0..outcomes-1 against equal chances, in standard deviations from its mean."""
    counts = torch.bincount(values, minlength=outcomes).double()
    assert len(counts) == outcomes
    expected = len(values) / outcomes
    return (float(((counts - expected) ** 2 / expected).sum()) - (outcomes - 1)) / math.sqrt(2 * (outcomes - 1))


def test_mix_is_a_bijection_and_the_same_for_integers():
    values = mix(torch.arange(1 << 20))
    assert len(torch.unique(values)) == 1 << 20
    assert [mix(number) for number in range(0, 1 << 20, 9999)] == values[::9999].tolist()


def test_the_values_never_change():
    """A change of the hash or of the draws would change every run; these are the values of the first version."""
    assert uniform_bits(torch.arange(4), 0, 0).tolist() == [4141071520, 1873299275, 247310176, 2993591231]
    assert uniform_bits(torch.tensor([MASK]), 4294967295, 2).tolist() == [3181771821]
    assert permutation(10, 0, 0).tolist() == [2, 6, 7, 8, 9, 1, 5, 3, 4, 0]
    assert permutation(10, 0, 1).tolist() == [9, 3, 6, 1, 4, 8, 0, 5, 7, 2]
    assert [column.tolist() for column in training_draws(torch.tensor([0, 153_600_000 - 1]), 0, 256, 480)] == [
        [284, 340], [3156830691, 271862109], [29420226, 428093765], [True, True]]
    assert normals(torch.tensor([12]), 0).tolist()[0] == pytest.approx([-0.619159, -1.328326, 0.385357], abs=1e-6)


@pytest.mark.parametrize(("seed", "stream"), [(0, 0), (1, 2), (123456789, 1)])
def test_every_byte_is_uniform(seed, stream):
    bits = uniform_bits(torch.arange(256_000), seed, stream)
    for shift in (0, 8, 16, 24):
        assert abs(deviation((bits >> shift) & 255, 256)) < 5


def test_passes_and_seeds_give_new_orders():
    orders = [permutation(1000, 0, 0), permutation(1000, 0, 1), permutation(1000, 1, 0)]
    for i, left in enumerate(orders):
        assert torch.equal(left.sort().values, torch.arange(1000))
        for right in orders[i + 1 :]:
            assert (left == right).sum() < 10  # one fixed point is expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_the_gpu_gives_the_same_bits():
    counter = torch.arange(100_000)
    assert torch.equal(uniform_bits(counter.cuda(), 7, 2).cpu(), uniform_bits(counter, 7, 2))


@pytest.mark.parametrize("seed", [0, 1, 4294967295])
def test_sides_and_offsets_are_uniform_and_half_of_the_images_are_flipped(seed):
    side, top, left, flip = training_draws(POSITIONS, seed, 256, 480)
    assert (int(side.min()), int(side.max())) == (256, 480)
    assert abs(deviation(side - 256, 225)) < 4
    for bits in (top, left):
        assert int(bits.min()) >= 0
        assert int(bits.max()) < 2**32
        for offsets in (2, 33, 257):
            assert abs(deviation((bits * offsets) >> 32, offsets)) < 4
    assert flip.dtype == torch.bool
    assert abs(deviation(flip.long(), 2)) < 4


def test_the_draws_of_an_image_are_independent_of_each_other():
    drawn = training_draws(POSITIONS, 0, 256, 480)
    columns = [column.double() for column in (*drawn, *normals(POSITIONS, 0).T)]
    together = torch.corrcoef(torch.stack(columns))
    assert float((together - torch.eye(len(columns))).abs().max()) < 5 / math.sqrt(len(POSITIONS))


def test_draws_depend_on_the_position_and_not_on_the_mini_batch():
    def all_draws(position):
        return (*training_draws(position, 5, 256, 480), normals(position, 5))

    mixed = torch.tensor([95, 3, 3, 60])
    whole, part = all_draws(POSITIONS[:96]), all_draws(mixed)
    for all_of_them, some in zip(whole, part, strict=True):
        assert torch.equal(all_of_them[mixed], some)


def test_normals_are_standard_normal():
    drawn = normals(POSITIONS, 0)
    assert drawn.dtype == torch.float32
    assert drawn.shape == (len(POSITIONS), 3)
    count = len(POSITIONS)
    for column in drawn.double().T:
        assert abs(float(column.mean())) < 4 / math.sqrt(count)
        assert abs(float(column.var()) - 1) < 4 * math.sqrt(2 / count)
        share = (torch.special.ndtr(column) * 40).long().clamp(max=39)
        assert abs(deviation(share, 40)) < 4
    assert float(drawn.abs().max()) < 6.7
