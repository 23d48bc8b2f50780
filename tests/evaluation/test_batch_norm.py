"""Plainly averaged BN statistics against brute force."""

import pytest
import torch

from repro.evaluation.batch_norm import with_averaged_statistics
from repro.models import build_model
from tests.made import tiny_config

MODEL = tiny_config().model


def batches(count: int, size: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [30 * torch.randn(size, 3, 32, 32, generator=generator) * (1 + number) for number in range(count)]


@pytest.mark.parametrize("group", [0, 4])
def test_the_first_layer_gets_the_average_of_each_batch(group):
    """Means and unbiased variances, averaged with equal weights over mini-batches (or over their groups)."""
    model = build_model(MODEL, batch_norm_group=group)
    images = batches(3)
    averaged = with_averaged_statistics(model, iter(images))
    with torch.no_grad():
        parts = [part for batch in images for part in torch.split(model.conv1(batch).double(), group or len(batch))]
    mean = torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0)
    variance = torch.stack([part.var((0, 2, 3)) for part in parts]).mean(0)
    assert torch.allclose(averaged.bn1.running_mean.double(), mean, rtol=1e-4, atol=1e-4)
    assert torch.allclose(averaged.bn1.running_var.double(), variance, rtol=1e-4)


def test_the_model_itself_is_left_alone():
    model = build_model(MODEL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    averaged = with_averaged_statistics(model, batches(2))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.bn1.momentum == 0.1
    assert not torch.equal(averaged.bn1.running_mean, model.bn1.running_mean)
    assert all(torch.equal(a, b) for a, b in zip(averaged.parameters(), model.parameters(), strict=True))


def test_it_is_no_moving_average():
    """The order of the batches does not matter, as it would with a momentum of 0.1."""
    model, images = build_model(MODEL), batches(4)
    forwards, backwards = (with_averaged_statistics(model, order) for order in (images, images[::-1]))
    assert torch.allclose(forwards.bn1.running_mean, backwards.bn1.running_mean, rtol=1e-4, atol=1e-4)
    assert torch.allclose(forwards.bn1.running_var, backwards.bn1.running_var, rtol=1e-4)
