"""Draws of the ImageNet augmentation: their distributions, and that they depend on seed and position alone."""

import math

import pytest
import torch

from repro.data.augmentation_draws import normals, training_draws

POSITIONS = torch.arange(200_000)
SAME = [[284, 340], [3156830691, 271862109], [29420226, 428093765], [True, True]]
SAME_NORMALS = [-0.619159, -1.328326, 0.385357]


def chi_square(values, outcomes):
    """Pearson's statistic of outcomes 0..outcomes-1 against equal chances, in standard deviations from its mean."""
    counts = torch.bincount(values, minlength=outcomes).double()
    assert len(counts) == outcomes
    expected = len(values) / outcomes
    return (float(((counts - expected) ** 2 / expected).sum()) - (outcomes - 1)) / math.sqrt(2 * (outcomes - 1))


@pytest.mark.parametrize("seed", [0, 1, 4294967295])
def test_the_shorter_side_is_uniform_with_both_ends(seed):
    side = training_draws(POSITIONS, seed, 256, 480).shorter_side
    assert (int(side.min()), int(side.max())) == (256, 480)
    assert abs(chi_square(side - 256, 225)) < 4


def test_the_test_of_uniformity_sees_an_end_that_is_left_out():
    side = training_draws(POSITIONS, 0, 256, 479).shorter_side
    assert chi_square(side - 256, 225) > 10


def test_a_range_of_one_length_is_that_length():
    assert (training_draws(POSITIONS[:100], 3, 256, 256).shorter_side == 256).all()


@pytest.mark.parametrize("seed", [0, 7])
def test_offsets_are_uniform_and_half_of_the_images_are_flipped(seed):
    drawn = training_draws(POSITIONS, seed, 256, 480)
    for bits in (drawn.top_bits, drawn.left_bits):
        assert int(bits.min()) >= 0
        assert int(bits.max()) < 2**32
        for offsets in (2, 33, 257):
            assert abs(chi_square((bits * offsets) >> 32, offsets)) < 4
    assert drawn.flip.dtype == torch.bool
    assert abs(chi_square(drawn.flip.long(), 2)) < 4


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


def test_seeds_and_positions_give_different_draws():
    first, second = training_draws(POSITIONS[:1000], 0, 256, 480), training_draws(POSITIONS[:1000], 1, 256, 480)
    assert not torch.equal(first.top_bits, second.top_bits)
    assert len(set(first.top_bits.tolist())) == 1000
    assert len(set(normals(POSITIONS[:1000], 0)[:, 0].tolist())) > 990


def test_the_values_never_change():
    """A change would change every run; these are the values of the first version."""
    assert [column.tolist() for column in training_draws(torch.tensor([0, 153_600_000 - 1]), 0, 256, 480)] == SAME
    assert normals(torch.tensor([12]), 0).tolist()[0] == pytest.approx(SAME_NORMALS, abs=1e-6)


def test_normals_are_standard_normal():
    """Mean, variance, skew and kurtosis, and the share of each of 40 intervals of equal chance."""
    drawn = normals(POSITIONS, 0)
    assert drawn.dtype == torch.float32
    assert drawn.shape == (len(POSITIONS), 3)
    count = len(POSITIONS)
    for column in drawn.double().T:
        assert abs(float(column.mean())) < 4 / math.sqrt(count)
        assert abs(float(column.var()) - 1) < 4 * math.sqrt(2 / count)
        assert abs(float((column**3).mean())) < 4 * math.sqrt(15 / count)
        assert abs(float((column**4).mean()) - 3) < 4 * math.sqrt(96 / count)
        share = (torch.special.ndtr(column) * 40).long().clamp(max=39)
        assert abs(chi_square(share, 40)) < 4
    assert float(drawn.abs().max()) < 6.7
