"""Splits, the mean image, the order of the images; their augmentation against a plain loop and torchvision."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as transforms

from repro.config import compose
from repro.data.cifar10 import TrainingOrder, augment_batch, draw, on_device


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


def load(arrays, *words):
    return on_device(arrays, compose(["experiment=cifar_resnet20", *words]).data, torch.device("cpu"))


def test_full_is_all_training_images_and_the_test_set(arrays):
    data = load(arrays, "data.split=full")
    assert (len(data.train_images), data.evaluated_on, data.split, data.std) == (50_000, "test", "full", None)
    assert np.array_equal(data.eval_images.numpy(), arrays.test_images)
    exact = arrays.train_images.astype(np.float64).mean(0).astype(np.float32)
    assert np.array_equal(data.mean.numpy(), exact)


def test_45k_holds_the_last_5000_out_and_its_mean_never_saw_them(arrays):
    data = load(arrays, "data.split=45k")
    assert (len(data.train_images), data.evaluated_on, data.split) == (45_000, "val", "45k")
    assert np.array_equal(data.eval_images.numpy(), arrays.train_images[45_000:])
    assert np.array_equal(data.eval_labels.numpy(), arrays.train_labels[45_000:])
    assert np.allclose(data.mean.numpy(), arrays.train_images[:45_000].astype(np.float64).mean(0), atol=1e-5)
    assert not np.allclose(data.mean.numpy(), arrays.train_images.astype(np.float64).mean(0), atol=1e-5)


def test_each_image_is_tested_by_one_of_the_processes(arrays):
    data = load(arrays)
    for rank in range(3):
        images, labels = map(torch.cat, zip(*data.evaluation_batches(1000, rank, 3), strict=True))
        assert np.array_equal(images.numpy(), (data.eval_images[rank::3] - data.mean).numpy())
        assert np.array_equal(labels.numpy(), arrays.test_labels[rank::3])


def test_per_channel_takes_the_configured_numbers_in_pixels(arrays):
    data = load(arrays, "recipe=fb")
    assert data.mean.flatten().tolist() == pytest.approx([125.3, 123.0, 113.9], abs=1e-4)
    assert data.std.flatten().tolist() == pytest.approx([63.0, 62.1, 66.7], abs=1e-4)
    assert data.mean.shape == data.std.shape == (3, 1, 1)


# ---- the order

def order_of(images, batch, iterations, seed=0):
    """The image indices of all mini-batches of a run, as the training step reads them."""
    order = TrainingOrder(images, seed, torch.device("cpu"))
    batches = []
    for iteration in iterations:
        order.prepare(iteration * batch)
        batches.append(order.order[iteration * batch + torch.arange(batch) - order.start])
    return torch.cat(batches)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.data())
def test_batches_run_on_across_passes_without_replacement(images, data):
    batch = data.draw(st.integers(1, images))
    sequence = order_of(images, batch, range(3 * images // batch + 1))
    for start in range(0, len(sequence) - images + 1, images):
        assert torch.equal(sequence[start : start + images].sort().values, torch.arange(images))
    assert images < 9 or not torch.equal(sequence[:images], sequence[images : 2 * images])


def test_the_order_can_be_entered_anywhere():
    whole = order_of(100, 16, range(30), seed=9).reshape(30, 16)
    entered = [29, 3, 13, 12]
    assert torch.equal(order_of(100, 16, entered, seed=9).reshape(4, 16), whole[entered])


# ---- the augmentation

def marked_images(count):
    """uint8 images in which every pixel of an image has another value, as far as 256 values allow."""
    base = torch.arange(3 * 32 * 32).reshape(3, 32, 32)
    return torch.stack([(base * 7 + 13 * i) % 256 for i in range(count)]).to(torch.uint8)


@pytest.mark.parametrize(("padding", "flip"), [(4, True), (4, False), (0, True), (2, True)])
def test_a_batch_equals_the_plain_loop(padding, flip):
    images, mean = marked_images(40), torch.rand(3, 32, 32) * 255
    index, position = torch.randint(0, 40, (1500,)), torch.arange(1500) + 1000
    batch = augment_batch(images, mean, index, position, seed=5, padding=padding, flip=flip)
    down, right, mirrored = draw(position, 5, padding, flip)
    assert len(torch.stack([down, right, mirrored]).unique(dim=1).T) == (2 * padding + 1) ** 2 * (1 + flip), "all"
    for i in range(1500):
        padded = np.zeros((3, 32 + 2 * padding, 32 + 2 * padding), dtype=np.float32)
        padded[:, padding : padding + 32, padding : padding + 32] = (images[index[i]] - mean).numpy()
        crop = padded[:, down[i] : down[i] + 32, right[i] : right[i] + 32]
        assert np.array_equal(batch[i].numpy(), crop[:, :, ::-1] if mirrored[i] else crop)


@pytest.mark.parametrize("black", [True, False])
def test_per_channel_equals_torchvisions_transforms(black):
    """black: pad, crop, flip, then ToTensor and Normalize; else Normalize before the padding with zeros."""
    images = marked_images(20)
    means, stds = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    mean, std = (255 * torch.tensor(values).reshape(3, 1, 1) for values in (means, stds))
    index, position = torch.arange(20), torch.arange(20) + 7
    batch = augment_batch(images, mean, index, position, 3, 4, True, std, black)
    down, right, mirrored = draw(position, 3, 4, True)
    for i in range(20):
        image = images[i].float() / 255 if black else transforms.normalize(images[i].float() / 255, means, stds)
        crop = transforms.crop(transforms.pad(image, [4] * 4), int(down[i]), int(right[i]), 32, 32)
        crop = transforms.horizontal_flip(crop) if mirrored[i] else crop
        expected = transforms.normalize(crop, means, stds) if black else crop
        assert torch.allclose(batch[i], expected, atol=2e-6)


def test_all_81_offsets_and_both_flips_are_drawn_equally_often():
    down, right, mirrored = draw(torch.arange(162_000), 0, 4, True)
    counts = torch.bincount((down * 9 + right) * 2 + mirrored, minlength=162).double()
    assert counts.min() > 0
    assert 161 - 90 < float(((counts - 1000) ** 2 / 1000).sum()) < 161 + 90


def test_the_draw_depends_on_position_and_seed_alone():
    one = draw(torch.arange(1000), 3, 4, True)
    part = draw(torch.arange(500, 700), 3, 4, True)
    assert all(torch.equal(a[500:700], b) for a, b in zip(one, part, strict=True))
    assert not torch.equal(one[0], draw(torch.arange(1000), 4, 4, True)[0])
    assert [each[:4].tolist() for each in one] == [[0, 3, 8, 2], [3, 2, 0, 4], [False, True, False, False]]
