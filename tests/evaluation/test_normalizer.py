"""Which mean is subtracted: that beside the weights, else that of the data set, else as configured."""

import numpy as np
import pytest
import torch

from repro.config import compose
from repro.data.imagenet_statistics import ImageStatistics, store
from repro.errors import DataError, StorageError
from repro.evaluation.normalizer import Normalizer, normalizer_of
from repro.paths import results_dir
from tests.evaluation.made import TINY


def statistics(size: int) -> ImageStatistics:
    mean = np.random.default_rng(0).uniform(0, 255, (3, size, size)).astype(np.float32)
    return ImageStatistics(mean, np.eye(3), 1, "f")


@pytest.mark.parametrize(("size", "per_pixel"), [(224, True), (32, False)])
def test_the_mean_of_the_data_set_is_per_pixel_for_crops_of_224_only(tmp_path, size, per_pixel):
    config = compose([*TINY, f"data.crop_size={size}", "data.test_shorter_side=256"])
    with pytest.raises(DataError, match=r"no mean image for .*x\.pt"):
        normalizer_of(config, tmp_path / "x.pt", lambda: "f")
    found = statistics(224)
    store(results_dir() / "data", found, 256, 224)
    mean = normalizer_of(config, tmp_path / "x.pt", lambda: "f").mean.numpy()
    assert np.array_equal(mean, found.mean if per_pixel else found.channel_mean)
    with pytest.raises(DataError):
        normalizer_of(config, tmp_path / "x.pt", lambda: "another set")


def test_weights_alone_need_a_mean_and_not_the_data_set(tmp_path):
    def nowhere() -> str:
        raise DataError("ImageNet is not in data")
    with pytest.raises(DataError, match=r"no mean image for .*x\.pt.*data\.normalization=per_channel"):
        normalizer_of(compose(TINY), tmp_path / "x.pt", nowhere)


def test_the_mean_beside_the_weights_goes_first(tmp_path):
    store(results_dir() / "data", statistics(32), 37, 32)
    for mean in (np.ones((3, 32, 32), np.float32), np.ones((3, 1, 1), np.float32)):
        np.savez(tmp_path / "mean.npz", mean=mean)
        assert np.array_equal(normalizer_of(compose(TINY), tmp_path / "x.pt", lambda: "f").mean.numpy(), mean)


@pytest.mark.parametrize("mean", [np.ones((3, 31, 31)), np.ones(3), np.full((3, 1, 1), np.nan), None], ids=str)
def test_what_is_no_mean_is_an_error(tmp_path, mean):
    np.savez(tmp_path / "mean.npz", **({} if mean is None else {"mean": mean}))
    with pytest.raises(StorageError, match=r"mean\.npz"):
        normalizer_of(compose(TINY), tmp_path / "x.pt", lambda: "f")


def test_whole_images_subtract_the_mean_of_each_channel():
    mean = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    whole, crops = Normalizer(mean).whole(pixels), Normalizer(mean).crops(pixels)
    torch.testing.assert_close(whole, pixels.float() - mean.mean((1, 2))[:, None, None])
    assert not torch.equal(whole, crops), "even where the image happens to have the crop's size"


def test_the_same_numbers_have_the_same_hash():
    mean, std = torch.ones(3, 1, 1), torch.ones(3, 1, 1)
    assert Normalizer(mean).sha256 == Normalizer(mean.clone()).sha256
    assert len({Normalizer(mean).sha256, Normalizer(mean, std).sha256, Normalizer(2 * mean).sha256}) == 3
