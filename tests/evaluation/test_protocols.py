"""Every way of evaluating against loops over single images and views, torchvision's crops, and float64."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import transforms

from repro.config import compose, paper_config
from repro.data.imagenet import ImageStatistics, statistics_path, write_statistics
from repro.devices import resolve
from repro.errors import DataError, DivergedError, OutOfMemoryError, StorageError
from repro.evaluation.protocols import Scorer, dense_probabilities, read_mean, ten_crops
from repro.models import build_model
from repro.models.resnet import ImageNetNet, Vgg, imagenet_config
from repro.paths import results_dir
from tests.evaluation.made import TINY, scattered

SIDES = (32, 37, 55)


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(37, 37), (37, 52), (51, 38), (32, 33)])
@pytest.mark.parametrize("size", [32, 31])
def test_ten_crops_are_torchvisions(height, width, size):
    pixels = image(height, width)
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
    return scattered(build_model(compose(TINY).model))


@pytest.fixture(scope="module")
def exact(model):
    """The same network in float64."""
    exact = build_model(compose(TINY).model).double().eval()
    exact.load_state_dict(model.state_dict())
    return exact


MEAN = torch.from_numpy(np.random.default_rng(0).uniform(90, 150, (3, 32, 32)).astype(np.float32))


def scorer(model, protocol, *overrides, mean=MEAN, sides=(37,)) -> Scorer:
    made = Scorer(model, protocol, resolve(compose([*TINY, *overrides])), mean)
    made.shorter_sides = sides
    return made


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


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


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """ResNet-18 of 11 classes in float64, evaluation mode."""
    torch.manual_seed(0)
    return scattered(ImageNetNet(imagenet_config(18, num_classes=11))).double().eval()


def sliding(features: torch.Tensor, head, window: int) -> torch.Tensor:
    """The mean of head's softmax over all window x window parts of one image's feature map (C, h, w)."""
    _, height, width = features.shape
    parts = [features[:, top : top + window, left : left + window]
             for top in range(height - window + 1) for left in range(width - window + 1)]
    return torch.stack([head(part).softmax(0) for part in parts]).mean(0)


@pytest.mark.parametrize(("height", "width", "window"), [(225, 291, 7), (63, 97, 2), (95, 33, 1)])
@torch.no_grad()
def test_a_resnet_equals_sliding_windows_then_fc_and_softmax(resnet, height, width, window):
    images = 60 * torch.randn(1, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = dense_probabilities(resnet, images, window)
    wanted = torch.stack([sliding(features, lambda part: resnet.fc(part.mean((1, 2))), window)
                          for features in resnet.features(images)])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    crop = images[:, :, : 32 * window, : 32 * window]
    torch.testing.assert_close(dense_probabilities(resnet, crop, window), resnet(crop).softmax(1), rtol=1e-10, atol=0)
    pooled = resnet(images).softmax(1)  # one average over the whole map, as torchvision's networks do: not the paper's
    assert (found - pooled).abs().max() > 1e-6


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    """VGG-16's form in float64 with narrow fully-connected layers and a single convolution for a feature map."""
    torch.manual_seed(0)
    with torch.device("meta"):
        net = Vgg(paper_config("imagenet_vgg16").model)
    kinds = [type(layer).__name__ for layer in net.classifier]
    assert kinds == ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    net.features = nn.Sequential(nn.Conv2d(3, 6, 32, stride=32))
    net.classifier = nn.Sequential(nn.Linear(6 * 49, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 9), nn.ReLU(),
                                   nn.Dropout(), nn.Linear(9, 5))
    return net.double().eval()


@torch.no_grad()
def test_vggs_fully_connected_layers_become_convolutions(vgg):
    images = 3 * torch.randn(2, 3, 260, 331, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    wanted = torch.stack([sliding(features, lambda part: vgg.classifier(part.flatten()), 7)
                          for features in vgg.features(images)])
    torch.testing.assert_close(dense_probabilities(vgg, images), wanted, rtol=1e-10, atol=1e-12)
    crop = images[:, :, :224, :224]
    torch.testing.assert_close(dense_probabilities(vgg, crop), vgg(crop).softmax(1), rtol=1e-10, atol=1e-12)


def statistics(size: int) -> ImageStatistics:
    mean = np.random.default_rng(0).uniform(0, 255, (3, size, size)).astype(np.float32)
    return ImageStatistics(mean, np.eye(3))


@pytest.mark.parametrize(("size", "per_pixel"), [(224, True), (32, False)])
def test_the_mean_of_the_data_set_is_per_pixel_for_crops_of_224_only(tmp_path, size, per_pixel):
    config = compose([*TINY, f"data.crop_size={size}", "data.test_shorter_side=256"])
    with pytest.raises(DataError, match="no mean image: neither"):
        read_mean(config, tmp_path / "x.pt", "f")
    found = statistics(224)
    write_statistics(statistics_path(results_dir(), "f"), found)
    mean, std = read_mean(config, tmp_path / "x.pt", "f")
    assert np.array_equal(mean.numpy(), found.mean if per_pixel else found.mean_of_crops(32))
    assert std is None
    with pytest.raises(DataError):
        read_mean(config, tmp_path / "x.pt", "another set")


def test_the_mean_beside_the_weights_goes_first(tmp_path):
    write_statistics(statistics_path(results_dir(), "f"), statistics(224))
    for mean in (np.ones((3, 32, 32), np.float32), np.ones((3, 1, 1), np.float32)):
        np.savez(tmp_path / "mean.npz", mean=mean)
        assert np.array_equal(read_mean(compose(TINY), tmp_path / "x.pt", "f")[0].numpy(), mean)


@pytest.mark.parametrize("mean", [np.ones((3, 31, 31)), np.full((3, 1, 1), np.nan), None], ids=str)
def test_what_is_no_mean_is_an_error(tmp_path, mean):
    np.savez(tmp_path / "mean.npz", **({} if mean is None else {"mean": mean}))
    with pytest.raises(StorageError, match=r"mean\.npz"):
        read_mean(compose(TINY), tmp_path / "x.pt", "f")
