"""Splits, the mean image, and the order in which training images come."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.config import compose
from repro.data.cifar10 import TrainingOrder, on_device


@dataclass
class Arrays:
    """As many images as CIFAR-10 has, tiny ones: 50,000 and 10,000 of 3x2x2 pixels."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    sha256: str = "made up"


@pytest.fixture(scope="module")
def arrays():
    random = np.random.default_rng(0)
    return Arrays(random.integers(0, 256, (50_000, 3, 2, 2), dtype=np.uint8), np.arange(50_000) % 10,
                  random.integers(0, 256, (10_000, 3, 2, 2), dtype=np.uint8), np.arange(10_000) % 10)


def load(arrays, split):
    config = compose(["experiment=cifar_resnet20", f"data.split={split}"]).data
    return on_device(arrays, config, torch.device("cpu"))


def test_full_is_all_training_images_and_the_test_set(arrays):
    data = load(arrays, "full")
    assert (len(data.train_images), len(data.eval_images)) == (50_000, 10_000)
    assert (data.evaluated_on, data.split) == ("test", "full")
    assert np.array_equal(data.eval_images.numpy(), arrays.test_images)
    exact = arrays.train_images.astype(np.float64).mean(0).astype(np.float32)
    assert data.std is None
    assert np.array_equal(data.mean.numpy(), exact)


def test_45k_holds_the_last_5000_out_and_its_mean_never_saw_them(arrays):
    data = load(arrays, "45k")
    assert (len(data.train_images), len(data.eval_images)) == (45_000, 5_000)
    assert (data.evaluated_on, data.split) == ("val", "45k")
    assert np.array_equal(data.eval_images.numpy(), arrays.train_images[45_000:])
    assert np.array_equal(data.eval_labels.numpy(), arrays.train_labels[45_000:])
    assert np.allclose(data.mean.numpy(), arrays.train_images[:45_000].astype(np.float64).mean(0), atol=1e-5)
    assert not np.allclose(data.mean.numpy(), arrays.train_images.astype(np.float64).mean(0), atol=1e-5)


def test_per_channel_takes_the_configured_numbers_in_pixels(arrays):
    config = compose(["experiment=cifar_resnet20", "recipe=fb"]).data
    data = on_device(arrays, config, torch.device("cpu"))
    assert data.mean.flatten().tolist() == pytest.approx([125.3, 123.0, 113.9], abs=1e-4)
    assert data.std is not None
    assert data.std.flatten().tolist() == pytest.approx([63.0, 62.1, 66.7], abs=1e-4)
    assert data.mean.shape == data.std.shape == (3, 1, 1)


def order_of(images, batch, iterations, seed=0):
    """The image indices of all mini-batches of a run, as the training step reads them."""
    order = TrainingOrder(images, seed, torch.device("cpu"))
    batches = []
    for iteration in range(iterations):
        order.prepare(iteration * batch)
        position = iteration * batch + torch.arange(batch)
        batches.append(order.order[position - order.start])
    return torch.cat(batches)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.data())
def test_batches_run_on_across_passes_without_replacement(images, data):
    batch = data.draw(st.integers(1, images))
    sequence = order_of(images, batch, 3 * images // batch + 1)
    for start in range(0, len(sequence) - images + 1, images):
        assert torch.equal(sequence[start : start + images].sort().values, torch.arange(images))
    assert images < 9 or not torch.equal(sequence[:images], sequence[images : 2 * images])


def test_the_order_can_be_entered_anywhere():
    whole = order_of(100, 16, 30, seed=9).reshape(30, 16)
    order = TrainingOrder(100, 9, torch.device("cpu"))
    for iteration in (29, 3, 13, 12):
        order.prepare(iteration * 16)
        assert torch.equal(order.order[iteration * 16 + torch.arange(16) - order.start], whole[iteration])
