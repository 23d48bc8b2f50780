"""Crop, flip and mean subtraction on marked images, against a plain per-image loop and torchvision."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from repro.data.augment import augment_batch, crop_and_flip, draw


def marked_images(count):
    """uint8 images in which every pixel of an image has another value, as far as 256 values allow."""
    base = torch.arange(3 * 32 * 32).reshape(3, 32, 32)
    return torch.stack([(base * 7 + 13 * i) % 256 for i in range(count)]).to(torch.uint8)


def by_hand(image, mean, down, right, mirrored, padding):
    """One image: subtract, pad with zeros, crop, mirror, in numpy."""
    centered = image.numpy().astype(np.float32) - mean.numpy()
    padded = np.zeros((3, 32 + 2 * padding, 32 + 2 * padding), dtype=np.float32)
    padded[:, padding : padding + 32, padding : padding + 32] = centered
    crop = padded[:, down : down + 32, right : right + 32]
    return crop[:, :, ::-1] if mirrored else crop


@pytest.mark.parametrize(("padding", "flip"), [(4, True), (4, False), (0, True), (2, True)])
def test_a_batch_equals_the_plain_loop(padding, flip):
    images, mean = marked_images(40), torch.rand(3, 32, 32) * 255
    index, position = torch.randperm(40)[:32], torch.arange(32) + 1000
    batch = augment_batch(images, mean, index, position, seed=5, padding=padding, flip=flip)
    down, right, mirrored = draw(position, 5, padding, flip)
    assert mirrored.any() == flip
    for i in range(32):
        expected = by_hand(images[index[i]], mean, int(down[i]), int(right[i]), bool(mirrored[i]), padding)
        assert np.array_equal(batch[i].numpy(), expected)


def test_every_offset_and_flip_against_torchvision():
    image = marked_images(1)[0].float()
    offsets = torch.arange(9)
    down, right = (grid.flatten() for grid in torch.meshgrid(offsets, offsets, indexing="ij"))
    padded = transforms.pad(image, [4, 4, 4, 4]).expand(81, 3, 40, 40)
    for mirrored in (False, True):
        ours = crop_and_flip(padded, down, right, torch.full((81,), mirrored), (32, 32))
        for i in range(81):
            crop = transforms.crop(padded[i], int(down[i]), int(right[i]), 32, 32)
            assert torch.equal(ours[i], transforms.horizontal_flip(crop) if mirrored else crop)


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
    assert (float(batch[:, 0].min()) == pytest.approx(-0.485 / 0.229, abs=1e-5)) or not black


@pytest.mark.parametrize(("black", "border"), [(False, 0.0), (True, -50.0)])
def test_the_border_is_the_mean_or_black(black, border):
    images, mean = torch.full((1, 3, 32, 32), 200, dtype=torch.uint8), torch.full((3, 32, 32), 50.0)
    batch = augment_batch(images, mean, torch.zeros(500, dtype=torch.int64), torch.arange(500), 0, 4, True, None, black)
    assert set(batch.unique().tolist()) == {border, 150.0}


def test_all_81_offsets_and_both_flips_are_drawn_equally_often():
    down, right, mirrored = draw(torch.arange(162_000), 0, 4, True)
    counts = torch.bincount((down * 9 + right) * 2 + mirrored, minlength=162).double()
    assert counts.min() > 0
    assert 161 - 90 < float(((counts - 1000) ** 2 / 1000).sum()) < 161 + 90


def test_the_draw_depends_on_position_and_seed_alone():
    one = draw(torch.arange(1000), 3, 4, True)
    part = draw(torch.arange(500, 700), 3, 4, True)
    other = draw(torch.arange(1000), 4, 4, True)
    assert all(torch.equal(a[500:700], b) for a, b in zip(one, part, strict=True))
    assert not torch.equal(one[0], other[0])
