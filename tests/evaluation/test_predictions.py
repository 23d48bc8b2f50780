"""Scores of the three protocols against loops over single views, and error counts against brute force in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision import transforms

from repro.config import compose
from repro.devices import resolve
from repro.errors import DivergedError, OutOfMemoryError
from repro.evaluation.normalizer import Normalizer
from repro.evaluation.predictions import Scorer, count_errors
from repro.evaluation.views import Views, packed, six_crops
from repro.models import build_model
from tests.evaluation.made import TINY, scattered

SIDES = (32, 37, 55)


@pytest.fixture(scope="module")
def machine():
    return resolve(compose(TINY)).machine


@pytest.fixture(scope="module")
def model():
    return scattered(build_model(compose(TINY).model))


@pytest.fixture(scope="module")
def normalizer():
    mean = torch.from_numpy(np.random.default_rng(0).uniform(90, 150, (3, 32, 32)).astype(np.float32))
    return Normalizer(mean)


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def as_input(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1).double()


def test_center_crops_subtract_the_mean_image(model, machine, normalizer):
    crops = pictures(*[(32, 32)] * 5)
    found = Scorer(model, Views("center", (37,), 32), normalizer, machine)(np.stack(crops))
    exact = build_double(model)
    with torch.no_grad():
        wanted = [exact((as_input(crop) - normalizer.mean)[None]).softmax(1)[0] for crop in crops]
    np.testing.assert_allclose(found, torch.stack(wanted).numpy(), atol=1e-5)
    assert found.dtype == np.float32


def build_double(model):
    """The network in float64."""
    exact = build_model(compose(TINY).model).double().eval()
    exact.load_state_dict(model.state_dict())
    return exact


def test_ten_crops_flip_first_and_subtract_the_mean_image_then(model, machine, normalizer):
    images = pictures((37, 49), (45, 37), (37, 37))
    found = Scorer(model, Views("ten_crop", (37,), 32), normalizer, machine)(np.stack(
        [six_crops(picture, 32) for picture in images]))
    exact, wanted, mean_flipped = build_double(model), [], []
    for picture in images:
        views = transforms.TenCrop(32)(as_input(picture))
        with torch.no_grad():
            wanted.append(sum(exact((view - normalizer.mean)[None]).softmax(1)[0] for view in views) / 10)
            mirrored = normalizer.mean.flip(2)
            mean_flipped.append(sum(exact((view - (mirrored if number >= 5 else normalizer.mean))[None]).softmax(1)[0]
                                    for number, view in enumerate(views)) / 10)
    np.testing.assert_allclose(found, torch.stack(wanted).numpy(), atol=1e-5)
    assert np.abs(found - torch.stack(mean_flipped).numpy()).max() > 1e-4, "the mean image is not mirrored"


def whole_images(sizes, sides=SIDES) -> list[list[np.ndarray]]:
    """Images at several scales; how they are resized does not matter here."""
    return [pictures(*[(max(side, round(h * side / min(h, w))), max(side, round(w * side / min(h, w))))
                       for side in sides]) for h, w in sizes]


def brute_force(model, normalizer, scales: list[np.ndarray]) -> np.ndarray:
    """(scales, K) float64: every window and flip by itself, the mean of each scale."""
    exact, mean, means = build_double(model), normalizer.mean.mean((1, 2), keepdim=True), []
    with torch.no_grad():
        for picture in scales:
            for flipped in (False, True):
                x = as_input(picture) - mean
                features = exact.features((x.flip(2) if flipped else x)[None])[0]
                windows = [exact.fc(features[:, r, c]).softmax(0)  # a 32x32 crop has a map of 1x1
                           for r in range(features.shape[1]) for c in range(features.shape[2])]
                means.append(torch.stack(windows).mean(0))
    return torch.stack(means).reshape(len(scales), 2, -1).mean(1).numpy()


def test_multi_scale_is_the_mean_over_positions_flips_and_scales(model, machine, normalizer):
    images = whole_images([(50, 75), (41, 41), (50, 75)])
    scorer = Scorer(model, Views("multi_scale", SIDES, 32), normalizer, machine)
    found = scorer([packed(scales) for scales in images])
    wanted = np.stack([brute_force(model, normalizer, scales) for scales in images])
    np.testing.assert_allclose(found, wanted.mean(1), atol=1e-5)
    assert np.abs(found - wanted[:, :-1].mean(1)).max() > 1e-4, "every scale counts"


def test_the_size_of_a_forward_pass_does_not_matter(model, machine, normalizer):
    images = [packed(scales) for scales in whole_images([(50, 75)] * 5)]
    views = Views("multi_scale", SIDES, 32)
    one, many = (Scorer(model, views, normalizer, replace(machine, evaluation_batch_size=size))(images)
                 for size in (1, 1000))
    np.testing.assert_allclose(one, many, atol=1e-6)


def test_outputs_that_are_no_numbers_are_an_error_and_no_error_rate(model, machine):
    broken = Normalizer(torch.full((3, 1, 1), float("nan")))
    with pytest.raises(DivergedError, match="not finite"):
        Scorer(model, Views("center", (37,), 32), broken, machine)(np.zeros((2, 32, 32, 3), np.uint8))


def test_too_little_memory_is_told_with_what_to_do(model, machine, normalizer, monkeypatch):
    def full(batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB\nmore")

    scorer = Scorer(model, Views("center", (37,), 32), normalizer, machine)
    monkeypatch.setattr(model, "forward", full)
    with pytest.raises(OutOfMemoryError, match=r"1 TiB; have fewer with machine\.evaluation_batch_size=2"):
        scorer(np.zeros((2, 32, 32, 3), np.uint8))


@pytest.mark.parametrize("classes", [2, 5, 6, 1000])
def test_counts_equal_brute_force_on_float64_softmax(classes):
    generator = torch.Generator().manual_seed(classes)
    logits = 4 * torch.randn(400, classes, generator=generator)
    labels = torch.randint(0, classes, (400,), generator=generator)
    top1 = top5 = 0
    for row, label in zip(logits.double().softmax(1).tolist(), labels.tolist(), strict=True):
        better = sum(value > row[label] for value in row)
        top1, top5 = top1 + (better >= 1), top5 + (better >= 5)
    assert count_errors(logits.softmax(1).numpy(), labels.numpy()) == (top1, top5)
    assert top1 > 0
    assert (top5 > 0) == (classes > 5)


def test_equal_probabilities_count_in_the_order_of_the_classes():
    scores = np.full((7, 7), 1 / 7, np.float32)
    assert count_errors(scores, np.arange(7)) == (6, 2), "and not as seven hits"
