"""The synthetic images are the same everywhere."""

import numpy as np

from repro.config import compose
from repro.data.cifar10 import load_arrays


def test_the_images_are_the_same_on_every_machine():
    arrays = load_arrays(compose(["experiment=cifar_resnet20", "data=synthetic"]).data)
    assert arrays.sha256 == "1edba07f846bfe50265370386c6f921ebd5f69fe4b080be074079a881c32029d"
    assert (arrays.train_images.shape, arrays.train_images.dtype) == ((10_000, 3, 32, 32), np.uint8)
    assert np.bincount(arrays.train_labels).tolist() == [1000] * 10
    assert np.bincount(arrays.test_labels).tolist() == [200] * 10
