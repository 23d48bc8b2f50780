"""Every way of evaluating against loops over single images and views, torchvision's crops, and float64."""

import copy

import numpy as np
import pytest
import torch
from torchvision import transforms

from repro.config import compose
from repro.data.imagenet import ImageStatistics, statistics_path, write_statistics
from repro.devices import resolve
from repro.errors import DataError, DivergedError, OutOfMemoryError, StorageError
from repro.evaluation.protocols import Scorer, dense_logits, read_mean, ten_crops
from repro.models import build_model
from repro.paths import results_dir
from tests.evaluation.made import TINY
from tests.made_weights import trained_like

SIDES = (32, 37, 55)
MEAN = torch.from_numpy(np.random.default_rng(0).uniform(90, 150, (3, 32, 32)).astype(np.float32))


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.mark.parametrize(("height", "width"), [(37, 37), (37, 52), (51, 38), (32, 33)])
@pytest.mark.parametrize("size", [32, 31])
def test_ten_crops_are_torchvisions(height, width, size):
    pixels, = pictures((height, width))
    ours = torch.from_numpy(ten_crops(pixels, size)).permute(0, 3, 1, 2)
    theirs = torch.stack(transforms.TenCrop(size)(torch.from_numpy(pixels).permute(2, 0, 1)))
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, theirs.flip(0)), "their order matters"


@pytest.mark.parametrize(("protocol", "words", "sides"), [
    ("center", [], [256]), ("ten_crop", [], [256]), ("multi_scale", [], [224, 256, 384, 480, 640]),
    ("multi_scale", ["data.crop_size=112", "data.test_shorter_side=128"], [112, 128, 192, 240, 320])])
def test_the_papers_lengths(model, protocol, words, sides):
    config = compose(["experiment=imagenet_optB", *words])
    assert Scorer(model, protocol, config, torch.zeros(3, 1, 1)).shorter_sides == sides


@pytest.fixture(scope="module")
def model():
    return trained_like(build_model(compose(TINY).model), "fc", 64, inputs=60)


@pytest.fixture(scope="module")
def exact(model):
    """The same network in float64."""
    return copy.deepcopy(model).double()


def scorer(model, protocol, *overrides, mean=MEAN, sides=(37,)) -> Scorer:
    made = Scorer(model, protocol, resolve(compose([*TINY, *overrides])), mean)
    made.shorter_sides = sides
    return made


def as_input(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1).double()


@torch.no_grad()
def test_ten_crops_flip_first_and_subtract_the_mean_image_then(model, exact):
    images = pictures((37, 49), (45, 37), (37, 37))
    found = scorer(model, "ten_crop")(np.stack([ten_crops(picture, 32) for picture in images])).numpy()
    wanted, mean_flipped = [], []
    for picture in images:
        views = transforms.TenCrop(32)(as_input(picture))
        wanted.append(sum(exact((view - MEAN)[None]).softmax(1)[0] for view in views) / 10)
        mean_flipped.append(sum(exact((view - (MEAN.flip(2) if number >= 5 else MEAN))[None]).softmax(1)[0]
                                for number, view in enumerate(views)) / 10)
    np.testing.assert_allclose(found, torch.stack(wanted).numpy(), atol=1e-5)
    assert np.abs(found - torch.stack(mean_flipped).numpy()).max() > 1e-4, "the mean image is not mirrored"


def whole_images(sizes, sides=SIDES) -> np.ndarray:
    """Images at several scales, (images, scales) objects; how they are resized does not matter here."""
    images = np.empty((len(sizes), len(sides)), object)
    for number, (h, w) in enumerate(sizes):
        for scale, side in enumerate(sides):
            images[number, scale], = pictures((round(h * side / min(h, w)), round(w * side / min(h, w))))
    return images


@torch.no_grad()
def brute_force(exact, scales: np.ndarray) -> np.ndarray:
    """(scales, K) float64: every window and flip by itself, the mean of each scale."""
    mean, means = MEAN.mean((1, 2), keepdim=True), []
    for picture in scales:
        for flipped in (False, True):
            x = as_input(picture) - mean
            features = exact.features((x.flip(2) if flipped else x)[None])[0]
            windows = [exact.fc(features[:, r, c]).softmax(0)  # a 32x32 crop has a map of 1x1
                       for r in range(features.shape[1]) for c in range(features.shape[2])]
            means.append(torch.stack(windows).mean(0))
    return torch.stack(means).reshape(len(scales), 2, -1).mean(1).numpy()


def test_multi_scale_is_the_mean_over_positions_flips_and_scales(model, exact):
    images = whole_images([(50, 75), (41, 41), (50, 75), (37, 37), (41, 41)])  # by size is another order
    found = scorer(model, "multi_scale", sides=SIDES)(images)
    wanted = np.stack([brute_force(exact, scales) for scales in images])
    np.testing.assert_allclose(found.numpy(), wanted.mean(1), atol=1e-5)
    assert np.abs(found.numpy() - wanted[:, :-1].mean(1)).max() > 1e-4, "every scale counts"
    for size in (1, 1000):
        other = scorer(model, "multi_scale", f"machine.evaluation_batch_size={size}", sides=SIDES)(images)
        torch.testing.assert_close(other, found, rtol=0, atol=1e-6)


def test_outputs_that_are_no_numbers_and_too_little_memory_are_errors(model, monkeypatch):
    crops = np.zeros((2, 1, 32, 32, 3), np.uint8)
    with pytest.raises(DivergedError, match="not finite"):
        scorer(model, "center", mean=torch.full((3, 1, 1), float("nan")))(crops)

    def full(batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB\nmore")

    monkeypatch.setattr(model, "forward", full)
    with pytest.raises(OutOfMemoryError, match=r"machine\.evaluation_batch_size=2 needs less"):
        scorer(model, "center")(crops)


@pytest.mark.parametrize(("height", "width", "window"), [(225, 291, 7), (63, 97, 2), (95, 33, 1)])
@torch.no_grad()
def test_a_resnet_at_all_positions_equals_sliding_windows(exact, height, width, window):
    images = 60 * torch.randn(1, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found, features = dense_logits(exact, images, window), exact.features(images)
    for top in range(found.shape[2]):
        for left in range(found.shape[3]):
            part = features[:, :, top : top + window, left : left + window]
            torch.testing.assert_close(found[:, :, top, left], exact.fc(part.mean((2, 3))), rtol=1e-10, atol=1e-12)
    assert found.shape[2:] == (features.shape[2] - window + 1, features.shape[3] - window + 1)
    crop = images[:, :, : 32 * window, : 32 * window]
    torch.testing.assert_close(dense_logits(exact, crop, window)[:, :, 0, 0], exact(crop), rtol=1e-10, atol=1e-12)


def statistics(size: int) -> ImageStatistics:
    mean = np.random.default_rng(0).uniform(0, 255, (3, size, size)).astype(np.float32)
    return ImageStatistics(mean, np.eye(3))


@pytest.mark.parametrize(("size", "per_pixel"), [(224, True), (32, False)])
def test_the_mean_of_the_data_set_is_per_pixel_for_crops_of_224_only(tmp_path, size, per_pixel):
    config = compose([*TINY, f"data.crop_size={size}", "data.test_shorter_side=256"])
    found = statistics(224)
    write_statistics(statistics_path(results_dir(), "f"), found)
    mean, std = read_mean(config, tmp_path / "x.pt", "f")
    assert np.array_equal(mean.numpy(), found.mean if per_pixel else found.mean_of_crops(32))
    assert std is None
    with pytest.raises(DataError, match="no mean image: neither"):
        read_mean(config, tmp_path / "x.pt", "another set")


def test_the_mean_beside_the_weights_goes_first(tmp_path):
    write_statistics(statistics_path(results_dir(), "f"), statistics(224))
    for size in (1, 32):
        write_statistics(tmp_path / "mean.npz", found := statistics(size), size)
        assert np.array_equal(read_mean(compose(TINY), tmp_path / "x.pt", "f")[0].numpy(), found.mean)


@pytest.mark.parametrize("mean", [np.ones(3), np.full((3, 1, 1), np.nan), None], ids=str)
def test_what_is_no_mean_is_an_error(tmp_path, mean):
    np.savez(tmp_path / "mean.npz", covariance=np.eye(3), **({} if mean is None else {"mean": mean}))
    with pytest.raises(StorageError, match=r"mean\.npz holds no mean image"):
        read_mean(compose(TINY), tmp_path / "x.pt", "f")
