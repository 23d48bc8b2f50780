"""The mean image and the colors: exact against float64, whoever adds what up; what is kept of them, and damage."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.data import crops
from repro.data.imagenet_files import find
from repro.data.imagenet_statistics import Sums, cache_path, compute, read, write
from repro.data.loader import PART
from tests.conftest import SHARED

SIZE = 6
# What fb.resnet.torch adds to pixels of 0..1, and with it most others: eigenvalues, and eigenvectors as columns.
WELL_KNOWN = np.array([0.2175, 0.0188, 0.0045])
WELL_KNOWN_VECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


def made_crops(count: int, size: int = SIZE, seed: int = 0) -> np.ndarray:
    """(N, size, size, 3) uint8, the channels of each image related."""
    generator = np.random.default_rng(seed)
    gray = generator.integers(0, 200, (count, size, size, 1))
    return (gray + generator.integers(0, 56, (count, size, size, 3))).astype(np.uint8)


def summed(images: np.ndarray) -> Sums:
    sums = Sums(images.shape[1])
    for image in images:
        sums.add(image)
    return sums


def never() -> bool:
    return False


# ---- exactness

@pytest.mark.parametrize("size", [SIZE, 300])
def test_mean_and_covariance_agree_with_float64(size):
    images = made_crops(20, size)
    found = summed(images).finish()
    pixels = images.astype(np.float64)
    assert np.array_equal(found.mean, pixels.mean(0).transpose(2, 0, 1).astype(np.float32))
    assert found.covariance == pytest.approx(np.cov(pixels.reshape(-1, 3).T, bias=True), rel=1e-12)
    assert found.mean_of_crops(size) is found.mean
    channels = found.mean_of_crops(size + 1)
    assert (channels.shape, channels.dtype, found.mean.dtype) == ((3, 1, 1), np.float32, np.float32)
    assert channels.ravel() == pytest.approx(pixels.mean((0, 1, 2)), rel=1e-6)


def test_as_many_images_as_imagenet_has_overflow_nothing():
    sums = summed(np.full((1, 224, 224, 3), 255, np.uint8))
    black = summed(np.zeros((1, 224, 224, 3), np.uint8))
    for doubling in (sums, black):
        for _ in range(20):
            doubling.merge(doubling)
    assert np.all(sums.finish().covariance == 0)
    sums.merge(black)
    found = sums.finish()
    assert sums.images == 2**21 > 1_281_167
    assert np.all(found.mean == 127.5)
    assert np.all(found.covariance == 127.5**2)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=12, max_size=12), st.permutations(range(12)))
def test_neither_order_nor_division_changes_a_bit(owner, order):
    images = made_crops(12)
    parts = [summed(images[[i for i in order if owner[i] == k]]) for k in range(4)]
    total = Sums(SIZE)
    for part in reversed(parts):
        total.merge(pickle.loads(pickle.dumps(part)))  # as it comes from another process
    found, expected = total.finish(), summed(images).finish()
    assert np.array_equal(found.mean, expected.mean)
    assert np.array_equal(found.covariance, expected.covariance)


# ---- principal components

def test_principal_components_agree_with_a_singular_value_decomposition_of_the_pixels():
    images = made_crops(30)
    values, vectors = summed(images).finish().principal()
    pixels = images.reshape(-1, 3) / 255
    _, singular, rows = np.linalg.svd(pixels - pixels.mean(0), full_matrices=False)
    assert values / 255 == pytest.approx(singular**2 / len(pixels), rel=1e-9)
    assert np.abs((rows.T * vectors).sum(0)) == pytest.approx(1, abs=1e-9)
    assert np.all(np.diff(values) < 0)
    assert np.all(vectors[np.abs(vectors).argmax(0), range(3)] > 0)


def test_the_colors_of_the_sample_images_are_about_the_well_known_ones():
    """Which also shows that the well-known ones are eigenvalues of pixels in 0..1, not their square roots."""
    folder = SHARED / "data" / "imagenet-sample"
    if not folder.is_dir():
        pytest.skip("the sample images are not beside the checkout")
    files = find(folder, wiring_test=True)

    def crop(index: int) -> np.ndarray:
        return crops.center_crop(crops.open_rgb(files.train.path(index)), 256, 224)

    found = compute(crop, range(len(files.train)), 224, False, never).finish()
    values, vectors = found.principal()
    assert values / 255 == pytest.approx(WELL_KNOWN, rel=0.25)
    assert np.abs((vectors * WELL_KNOWN_VECTORS).sum(0)) == pytest.approx(1, abs=0.01)
    assert found.mean_of_crops(32).ravel() == pytest.approx([123.7, 116.3, 103.5], abs=10)  # torchvision's, times 255


# ---- the pass

@pytest.mark.parametrize("workers", [1, 3])
def test_a_pass_adds_up_each_of_its_images_once(workers):
    images = made_crops(3 * PART + 5)
    indices = range(1, len(images), 2)
    found = compute(lambda i: images[i], indices, SIZE, False, never, workers)
    expected = summed(images[1::2])
    assert found.images == len(indices)
    assert np.array_equal(found.pixels, expected.pixels)
    assert np.array_equal(found.products, expected.products)


def test_a_pass_stops_when_told_and_reads_no_further():
    images, seen = made_crops(2), []

    def crop(index: int) -> np.ndarray:
        seen.append(index)
        return images[index % 2]

    assert compute(crop, range(1000 * PART), SIZE, False, lambda: True, 2).images == PART
    assert len(seen) < 500 * PART


# ---- what is kept

def test_what_is_written_comes_back_and_what_is_damaged_is_named_and_not_used(tmp_path, caplog):
    path, found = cache_path(tmp_path, "a" * 64), summed(made_crops(4)).finish()
    assert read(path) is None
    write(path, found, SIZE)
    again = read(path)
    assert np.array_equal(again.mean, found.mean)
    assert np.array_equal(again.covariance, found.covariance)
    assert again.mean.dtype == np.float32
    assert read(cache_path(tmp_path, "b" * 64)) is None, "of another set"
    assert caplog.text == ""
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[flipped.index(found.mean.tobytes()) + 40] ^= 16
    for content in [*(whole[:length] for length in range(0, len(whole), 297)), whole[:-1], bytes(flipped)]:
        caplog.clear()
        path.write_bytes(content)
        assert read(path) is None
        assert f"{path.name} is damaged" in caplog.text


@pytest.mark.parametrize(("crop_size", "shape"), [(SIZE, (3, SIZE, SIZE)), (4, (3, 1, 1))])
def test_a_run_keeps_the_mean_that_it_subtracted(tmp_path, crop_size, shape):
    found = summed(made_crops(4)).finish()
    write(tmp_path / "mean.npz", found, crop_size)
    with np.load(tmp_path / "mean.npz") as arrays:
        assert sorted(arrays) == ["covariance", "mean"]
        assert (arrays["mean"].shape, arrays["mean"].dtype) == (shape, np.float32)
        assert arrays["mean"].mean() == pytest.approx(found.mean.mean())
