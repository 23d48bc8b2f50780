"""Augmentation, order, errors, ten crops: each check passes, and finds what is made wrong."""

import numpy as np
import pytest
import torch

from repro.data import augment, cifar10
from repro.evaluation import protocols, scores
from repro.evaluation.protocols import Outcome
from repro.verification import evaluations, training_images
from repro.verification.check import Mismatch


@pytest.mark.parametrize("look", [training_images.augmentation, training_images.order, evaluations.errors,
                                  evaluations.crops])
def test_what_is_here_agrees(look):
    assert look()


def changed_crop(change):
    original = augment.crop_and_flip
    return lambda padded, down, right, mirrored, size: original(padded, *change(down, right, mirrored), size)


@pytest.mark.parametrize("change", [
    lambda down, right, mirrored: (down, (right + 1).clamp(max=8), mirrored),
    lambda down, right, mirrored: (right, down, mirrored),
    lambda down, right, mirrored: (down, right, ~mirrored),
    lambda down, right, mirrored: (down[:1].expand_as(down), right[:1].expand_as(right), mirrored)])
def test_a_wrong_crop(monkeypatch, change):
    monkeypatch.setattr(augment, "crop_and_flip", changed_crop(change))
    with pytest.raises(Mismatch, match="64 cropped and flipped images"):
        training_images.augmentation()


def test_the_mean_subtracted_after_the_padding(monkeypatch):
    original = augment.augmented_batch
    monkeypatch.setattr(training_images, "augmented_batch", lambda *arguments: original(*arguments, black=True))
    with pytest.raises(Mismatch, match="64 cropped and flipped images"):
        training_images.augmentation()


@pytest.mark.parametrize("change", [lambda down, right, mirrored: (down.clamp(max=7), right, mirrored),
                                    lambda down, right, mirrored: (down, right, mirrored & False)])
def test_a_draw_that_never_comes(monkeypatch, change):
    original = augment.draw
    for module in (augment, training_images):
        monkeypatch.setattr(module, "draw", lambda *arguments: change(*original(*arguments)))
    with pytest.raises(Mismatch, match="crops and flips that are drawn: expected 162"):
        training_images.augmentation()


@pytest.mark.parametrize(("order", "text"), [
    (lambda images, seed, epoch, device: torch.randint(images, (images,)), "images of pass 0"),
    (lambda images, seed, epoch, device: torch.arange(images).roll(seed), "orders of two passes with two seeds"),
    (lambda images, seed, epoch, device: torch.arange(images).roll(epoch), "orders of two passes with two seeds")])
def test_a_wrong_order(monkeypatch, order, text):
    monkeypatch.setattr(cifar10, "permutation", order)
    with pytest.raises(Mismatch, match=text):
        training_images.order()


def incomplete(model, images, labels, *others):
    """A test that leaves the last partial batch out."""
    whole = len(images) // others[1] * others[1]
    return protocols.single_view(model, images[:whole], labels[:whole], *others)


def padded(model, images, labels, *others):
    """A test that counts the first images once more, as a padded sampler does."""
    return protocols.single_view(model, torch.cat([images, images[:5]]), torch.cat([labels, labels[:5]]), *others)


def of_batches(model, images, labels, mean, batch):
    """A mean of the batches' means."""
    parts = [protocols.single_view(model, *part, mean, batch) for part in
             zip(torch.split(images, batch), torch.split(labels, batch), strict=True)]
    return Outcome(sum(one.errors for one in parts), len(images), sum(one.loss for one in parts) / len(parts))


@pytest.mark.parametrize(("test", "text"), [
    (incomplete, "CIFAR-10 test with ties, images: expected 103, found 100"),
    (padded, "CIFAR-10 test with ties, images: expected 103, found 108"),
    (of_batches, "CIFAR-10 test with ties, loss")])
def test_a_test_that_counts_wrongly(monkeypatch, test, text):
    monkeypatch.setattr(evaluations, "single_view", test)
    with pytest.raises(Mismatch, match=text):
        evaluations.errors()


def test_ties_that_count_as_hits(monkeypatch):
    monkeypatch.setattr(evaluations, "count_errors", lambda found, labels: (
        int((found[np.arange(len(labels)), labels] < found.max(1)).sum()), scores.count_errors(found, labels)[1]))
    with pytest.raises(Mismatch, match=r"^top-1 and top-5 errors of scores with ties: expected"):
        evaluations.errors()


def test_a_top_4_error(monkeypatch):
    monkeypatch.setattr(scores, "TOP", 4)
    with pytest.raises(Mismatch, match=r"^top-1 and top-5 errors of scores with ties: .*; top-1 and top-5 errors of"):
        evaluations.errors()


def test_an_imagenet_test_that_loses_images_of_a_process(monkeypatch):
    original = protocols.center_view
    monkeypatch.setattr(evaluations, "center_view", lambda model, data, config, rank, size: original(
        model, data, config, 0, size))
    with pytest.raises(Mismatch, match=r"^ImageNet test by 2 processes, images: expected 103, found 104"):
        evaluations.errors()


@pytest.mark.parametrize("crops", [((0, 1, 2, 3, 4), (0, 1, 2, 3, 5)), ((0, 1, 2, 3, 4), (1, 0, 3, 2, 4)),
                                   ((4, 0, 1, 2, 3), (1, 0, 3, 2, 5))])
def test_other_crops(monkeypatch, crops):
    monkeypatch.setattr(scores, "TEN_CROPS", crops)
    with pytest.raises(Mismatch, match="crops of"):
        evaluations.crops()
