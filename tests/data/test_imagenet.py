"""ImageNet's folders: what is listed in which order, how each fault is answered; the mean image and the colors."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder

from repro.data import imagenet
from repro.data.imagenet import Sums, center_crops, find, read_statistics, statistics_path, sum_crops, write_statistics
from repro.data.loader import PART
from repro.errors import DataError, StorageError
from tests.conftest import SHARED
from tests.outcome import says

WNIDS = ("n00000010", "n00000020", "n00000030")
SIZE = 6
# What fb.resnet.torch adds to pixels of 0..1: eigenvalues, and eigenvectors as columns.
WELL_KNOWN = np.array([0.2175, 0.0188, 0.0045])
WELL_KNOWN_VECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


def fill(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode())


@pytest.fixture
def small(monkeypatch):
    """ImageNet has 3 classes, 6 training images and 3 validation images."""
    for name, number in (("CLASSES", 3), ("TRAINING_IMAGES", 6), ("VALIDATION_IMAGES", 3)):
        monkeypatch.setattr(imagenet, name, number)


@pytest.fixture
def root(small, tmp_path) -> Path:
    """A set of 3 classes with 2 training images and 1 validation image each; no file is a real image."""
    for wnid in reversed(WNIDS):
        fill(tmp_path / "set" / "train" / wnid, [f"{wnid}_2.JPEG", f"{wnid}_1.JPEG"])
        fill(tmp_path / "set" / "val" / wnid, [f"ILSVRC2012_val_{wnid}.JPEG"])
    return tmp_path / "set"


def fault(root: Path, *words: str, **options: bool) -> str:
    """Assert that `find` raises DataError with these words; returns the message, which is one line."""
    with pytest.raises(DataError) as caught:
        find(root, **options)
    message = str(caught.value)
    assert not [word for word in words if word not in message], message
    assert "\n" not in message
    return message


# ---- what is found

def test_images_are_sorted_by_class_and_name_and_labeled_by_the_place_of_the_wnid(root):
    found = find(root)
    assert (found.wnids, len(found.val), found.one_folder) == (WNIDS, 3, False)
    assert found.train.names.tolist() == [f"{w}/{w}_{k}.JPEG".encode() for w in WNIDS for k in (1, 2)]
    assert found.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.val.labels.tolist() == [0, 1, 2]
    assert found.train.path(3) == root / "train" / WNIDS[1] / f"{WNIDS[1]}_2.JPEG"


@pytest.mark.fault(77)
def test_val_alone_is_enough_where_nothing_is_taken_from_the_training_images(root):
    whole = find(root)
    shutil.rmtree(root / "train")
    found = find(root, val_alone=True)
    assert (found.val.names.tolist(), found.val.labels.tolist()) == (whole.val.names.tolist(), [0, 1, 2])
    assert (found.wnids, len(found.train), found.one_folder) == (WNIDS, 0, False)
    fault(root, "train/ or val/ is missing")
    (root / "val" / WNIDS[0] / f"ILSVRC2012_val_{WNIDS[0]}.JPEG").unlink()
    fault(root, "1 bad ", WNIDS[0], val_alone=True)


def test_the_fingerprint_follows_names_sizes_and_labels_but_not_the_place(root, tmp_path):
    first = find(root).fingerprint
    assert first.startswith("2371d498e3a55c26"), "it is in the records of runs"
    moved = root.rename(tmp_path / "elsewhere")
    assert find(moved).fingerprint == first
    image = moved / "train" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG"
    image.write_bytes(image.read_bytes() + b"!")
    longer = find(moved).fingerprint
    image.rename(image.with_name("renamed.JPEG"))
    renamed = find(moved).fingerprint
    for part in ("train", "val"):
        (moved / part / WNIDS[2]).rename(moved / part / "n00000001")
    assert len({first, longer, renamed, find(moved).fingerprint}) == 4


def test_links_are_followed_odd_names_found_hidden_files_and_others_passed_over(root, tmp_path):
    odd = os.path.join(os.fsencode(root), b"train", WNIDS[2].encode(), b"\xff\xfe \n.png")  # no text
    os.rename(root / "train" / WNIDS[2] / f"{WNIDS[2]}_2.JPEG", odd)
    plain = find(root)
    assert os.fsencode(plain.train.path(5)) == odd
    (tmp_path / "links" / "train").mkdir(parents=True)
    (tmp_path / "links" / "val").symlink_to(root / "val")
    for wnid in WNIDS:
        (tmp_path / "links" / "train" / wnid).symlink_to(root / "train" / wnid)
    image = root / "train" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG"
    image.rename(root / "kept.JPEG")
    image.symlink_to(root / "kept.JPEG")
    for folder in (root / "train", root / "train" / WNIDS[0], root / "val" / WNIDS[1]):
        fill(folder, [".DS_Store", f"._{WNIDS[0]}_1.JPEG", "notes.txt"])
    (root / "train" / ".cache").mkdir()
    assert find(tmp_path / "links").fingerprint == plain.fingerprint


def test_the_order_and_the_labels_are_those_of_imagefolder(root):
    fill(root / "train" / WNIDS[0], ["b.jpg", "A.png", "_.JPEG"])
    fill(root / "train" / WNIDS[1] / "deeper", ["c.jpg"])
    samples = ImageFolder(root / "train").samples
    found = find(root, wiring_test=True).train
    assert [(str(found.path(k)), int(found.labels[k])) for k in range(len(found))] == samples


@pytest.mark.parametrize("only", ["train", "val", ""])
def test_a_wiring_test_may_have_one_folder_for_both_sets(root, tmp_path, only):
    (tmp_path / "one").mkdir()
    folder = (root / "train").rename(tmp_path / "one" / (only or "any"))
    fill(folder / "cats", ["a.png"])
    found = find(folder if not only else tmp_path / "one", wiring_test=True)
    assert (found.one_folder, found.train.root, found.val.root) == (True, folder, folder)
    assert (len(found.val), found.wnids) == (7, ("cats", *WNIDS))


# ---- faults

@pytest.mark.fault(16)
def test_no_folder_or_set_says_where_what_and_how(root, tmp_path):
    for wiring_test in (False, True):
        fault(tmp_path / "nowhere", f"ImageNet is not in {tmp_path / 'nowhere'}: ", "ILSVRC2012_img_train.tar",
              "image-net.org", "train/<wnid>/", "REPRO_DATA", wiring_test=wiring_test)
    shutil.rmtree(root / "val")
    fault(root, "train/ or val/ is missing")
    fill(root / "val", ["ILSVRC2012_val_00000001.JPEG"])
    fault(root, "val holds no folders of classes", "val/<wnid>/*.JPEG", "valprep.sh")


@pytest.mark.fault(16)
def test_other_numbers_than_the_published_ones_are_named(root, monkeypatch):
    (root / "train" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG").unlink()
    assert "val, expected" not in fault(root, "5 good images in 3 classes in", "train, expected 6 in 3")
    monkeypatch.undo()
    fault(root, "5 good images in 3 classes in", "expected 1,281,167 in 1,000", "3 good images in 3 classes in",
          "expected 50,000 in 1,000", "data.wiring_test=true")


@pytest.mark.fault(16)
def test_classes_in_one_set_only_are_named(root):
    (root / "val" / WNIDS[1]).rename(root / "val" / "n00000099")
    for wiring_test in (False, True):
        fault(root, f"2 classes in one set only: {WNIDS[1]}, n00000099", wiring_test=wiring_test)


BAD = {
    "empty": ("n00000010/n00000010_1.JPEG", lambda folder: (folder / "n00000010_1.JPEG").write_bytes(b"")),
    "dangling": ("n00000010/a.JPEG", lambda folder: (folder / "a.JPEG").symlink_to("nothing")),
    "circle": ("n00000010/a.JPEG", lambda folder: (folder / "a.JPEG").symlink_to("a.JPEG")),
    "pipe": ("n00000010/a.JPEG", lambda folder: os.mkfifo(folder / "a.JPEG")),
    "no images": ("train/n00000010", lambda folder: [path.unlink() for path in folder.iterdir()]),
}


@pytest.mark.fault(16)
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_named_with_its_reason(root, kind):
    words, spoil = BAD[kind]
    spoil(root / "train" / WNIDS[0])
    fault(root, "1 bad ", words)
    assert "data.wiring_test" not in fault(root, "1 bad ", words, wiring_test=True)


@pytest.mark.fault(16)
def test_the_first_bad_files_are_named_and_all_are_counted(root):
    for number in reversed(range(25)):
        (root / "train" / WNIDS[1] / f"empty{number:02d}.JPEG").touch()
    (root / "train" / WNIDS[0] / "empty99.JPEG").touch()
    message = fault(root, "26 bad ")
    places = [message.index(f"empty{number}.JPEG") for number in ("99", "00", "01", "08")]
    assert places == sorted(places)
    assert "empty09" not in message


@pytest.mark.fault(16)
@pytest.mark.parametrize("closed", ["", "train", f"train/{WNIDS[0]}"])
def test_a_folder_that_cant_be_read_is_a_storage_error(small, open_folder, as_user, closed):
    for part in ("train", "val"):
        for wnid in WNIDS:
            fill(open_folder / "set" / part / wnid, ["a.JPEG"])
    (open_folder / "set" / closed).chmod(0)
    with as_user(), pytest.raises(StorageError, match=f"can't read .*{closed}.*Permission denied") as caught:
        find(open_folder / "set")
    assert caught.value.exit_code == 5


@pytest.mark.fault(16)
def test_verify_opens_every_image_and_counts_and_names_the_damaged_ones(direct, tmp_path):
    images, noise = tmp_path / "set", np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    for name, mode, kind in (("train/n00000001/1", "RGB", "JPEG"), ("train/n00000001/2", "L", "JPEG"),
                             ("train/n00000002/1", "CMYK", "JPEG"), ("train/n00000002/2", "RGB", "PNG"),
                             ("val/n00000001/1", "RGBA", "PNG"), ("val/n00000002/1", "RGB", "JPEG")):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).convert(mode).save(images / f"{name}.JPEG", kind)
    words = "data", "verify", "imagenet", f"data.root={images}", "data.wiring_test=true"
    says(direct(*words[:-1]), 3, "in 2 classes", "1,281,167 in 1,000")
    outcome = direct(*words)
    assert (outcome.code, outcome.err) == (0, "")
    assert "4 images in set/train and 2 images in set/val, 2 classes, fingerprint " in outcome.out
    assert "all 6 images can be read" in outcome.out
    cut = images / "train" / "n00000002" / "1.JPEG"
    cut.write_bytes(cut.read_bytes()[:-2000])
    (images / "val" / "n00000001" / "1.JPEG").write_bytes(b"<!DOCTYPE html>")
    says(direct(*words), 3, "2 of 6 images can't be read", "set/train/n00000002/1.JPEG: ",
         "set/val/n00000001/1.JPEG: ", "archives")
    for number in range(200):
        (images / "train" / "n00000001" / f"x{number:03d}.JPEG").write_bytes(b"no image")
    says(direct(*words), 3, "202 of 206 images can't be read", "x009.JPEG")
    (images / "train" / "n00000001" / "1.JPEG").write_bytes(b"")
    outcome = direct(*words)
    says(outcome, 3, "1 bad ", "train/n00000001/1.JPEG")
    assert outcome.out == "", "nothing was opened"


# ---- the mean image and the colors

def made_crops(count: int, size: int = SIZE) -> np.ndarray:
    """(N, size, size, 3) uint8, the channels of each image related."""
    generator = np.random.default_rng(0)
    gray = generator.integers(0, 200, (count, size, size, 1))
    return (gray + generator.integers(0, 56, (count, size, size, 3))).astype(np.uint8)


def summed(images: np.ndarray) -> Sums:
    sums = Sums(images.shape[1])
    sums.add(images)
    return sums


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
    total = Sums(SIZE)
    for k in range(4):
        total.merge(summed(images[[i for i in order if owner[i] == k]]))
    found, expected = total.finish(), summed(images).finish()
    assert np.array_equal(found.mean, expected.mean)
    assert np.array_equal(found.covariance, expected.covariance)


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
    crop = center_crops(files.train, 256, 224)
    found = sum_crops(crop, range(len(files.train)), 224, False, lambda: False, 2).finish()
    values, vectors = found.principal()
    assert values / 255 == pytest.approx(WELL_KNOWN, rel=0.25)
    assert np.abs((vectors * WELL_KNOWN_VECTORS).sum(0)) == pytest.approx(1, abs=0.01)
    assert found.mean_of_crops(32).ravel() == pytest.approx([123.7, 116.3, 103.5], abs=10)  # torchvision's, times 255


def test_a_pass_adds_up_each_of_its_images_once():
    images = made_crops(3 * PART + 5)
    indices = range(1, len(images), 2)
    found, expected = sum_crops(lambda i: images[i], indices, SIZE, False, lambda: False, 3), summed(images[1::2])
    assert found.images == len(indices)
    assert np.array_equal(found.pixels, expected.pixels)
    assert np.array_equal(found.products, expected.products)


def test_a_pass_stops_when_told_and_reads_no_further():
    images, seen = made_crops(2), []

    def crop(index: int) -> np.ndarray:
        seen.append(index)
        return images[index % 2]

    assert sum_crops(crop, range(1000 * PART), SIZE, False, lambda: True, 2).images == PART
    assert len(seen) < 500 * PART


def test_what_is_written_comes_back_and_what_is_damaged_is_named_and_not_used(tmp_path, caplog):
    path, found = statistics_path(tmp_path, "a" * 64), summed(made_crops(4)).finish()
    assert read_statistics(path) is None
    write_statistics(path, found, SIZE)
    again = read_statistics(path)
    assert np.array_equal(again.mean, found.mean)
    assert np.array_equal(again.covariance, found.covariance)
    assert again.mean.dtype == np.float32
    assert read_statistics(statistics_path(tmp_path, "b" * 64)) is None, "of another set"
    write_statistics(tmp_path / "mean.npz", found, SIZE - 2)  # of a run that subtracts each channel's mean
    assert np.array_equal(read_statistics(tmp_path / "mean.npz").mean, found.mean_of_crops(SIZE - 2))
    assert caplog.text == ""
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[flipped.index(found.mean.tobytes()) + 40] ^= 16
    for content in [*(whole[:length] for length in range(0, len(whole), 297)), whole[:-1], bytes(flipped)]:
        caplog.clear()
        path.write_bytes(content)
        assert read_statistics(path) is None
        assert f"{path.name} is damaged" in caplog.text
