"""The synthetic images: the same everywhere, learnable, and not trivial."""

import numpy as np
import pytest
import torch
from torch import nn

from repro.config import compose
from repro.data import synthetic
from repro.data.cifar10 import load_arrays

SHA256 = "1edba07f846bfe50265370386c6f921ebd5f69fe4b080be074079a881c32029d"


@pytest.fixture(scope="module")
def arrays():
    return load_arrays(compose(["experiment=cifar_resnet20", "data=synthetic"]).data)


def test_the_images_are_the_same_on_every_machine(arrays):
    assert arrays.sha256 == SHA256
    assert arrays.train_images.shape == (10_000, 3, 32, 32)
    assert arrays.test_images.shape == (2_000, 3, 32, 32)
    assert arrays.train_images.dtype == np.uint8
    assert np.bincount(arrays.train_labels).tolist() == [1000] * 10
    assert np.bincount(arrays.test_labels).tolist() == [200] * 10


def test_a_chunk_does_not_depend_on_what_is_made_with_it(arrays):
    images, labels = synthetic.images_from(4_321, 7)
    assert np.array_equal(images.numpy(), arrays.train_images[4_321:4_328])
    assert labels.tolist() == [1, 2, 3, 4, 5, 6, 7]
    images, labels = synthetic.images_from(11_000, 7)  # of the test set, which follows the training set
    assert np.array_equal(images.numpy(), arrays.test_images[1_000:1_007])


def test_every_class_has_the_shape_of_its_name():
    """On the masks: all lie inside the square; frame and ring are hollow; bars and checks repeat."""
    number = torch.arange(200)
    disc, ring, square, frame, triangle, plus, cross, rows, columns, checks = (
        synthetic.shapes(number, torch.full_like(number, kind)) for kind in range(10))
    for shape in (disc, ring, frame, triangle, plus, cross, rows, columns, checks):
        assert (shape <= square).all()
        assert (shape.sum((1, 2)) < square.sum((1, 2))).all()
    assert (ring <= disc).all()
    assert torch.equal(rows, square & rows.any(2, keepdim=True)), "a bar goes from side to side"
    assert torch.equal(columns, square & columns.any(1, keepdim=True))
    assert torch.equal(checks, square & ~(rows ^ columns)), "checks: rows and columns both even or both odd"
    middle = 9 + synthetic.draw(number, 1, 14), 9 + synthetic.draw(number, 2, 14)
    for shape, filled in ((disc, True), (square, True), (triangle, True), (plus, True), (cross, True),
                          (ring, False), (frame, False)):
        assert (shape[number, middle[0], middle[1]] == filled).all()


def test_a_linear_classifier_gets_little_right(arrays):
    """Not trivial: ridge regression on the pixels stays far above the error of a small network."""
    images, labels = (torch.from_numpy(array) for array in (arrays.train_images, arrays.train_labels))
    tests, truth = (torch.from_numpy(array) for array in (arrays.test_images, arrays.test_labels))
    inputs = nn.functional.avg_pool2d(images.float() / 255, 2).flatten(1)
    mean = inputs.mean(0)
    inputs = inputs - mean
    weights = torch.linalg.solve(inputs.T @ inputs + 10 * torch.eye(inputs.shape[1]),
                                 inputs.T @ nn.functional.one_hot(labels, 10).float())
    guesses = ((nn.functional.avg_pool2d(tests.float() / 255, 2).flatten(1) - mean) @ weights).argmax(1)
    assert (guesses != truth).float().mean() > 0.6
