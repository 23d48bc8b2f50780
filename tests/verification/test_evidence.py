"""Resume, files and committed evidence: each check passes, and finds what is made wrong."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from repro.data import cifar10_files, synthetic
from repro.data.cifar10_files import Cifar10Arrays
from repro.errors import DataError
from repro.paper import published_dir
from repro.places import reference_dir
from repro.training.step import TrainStep
from repro.verification import committed, files, resuming
from repro.verification.check import Mismatch, Skipped


@pytest.fixture
def few_images(monkeypatch):
    """Fewer synthetic images, for their time."""
    for name in ("TRAIN_IMAGES", "TEST_IMAGES", "CHUNK"):
        monkeypatch.setattr(synthetic, name, 100)


@pytest.mark.usefixtures("few_images")
def test_an_interrupted_run_ends_alike():
    assert resuming.resume() == "8 updates, interrupted after 3: the same 44 tensors and history, bit for bit"


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize("lost", ["momentum", "order", "counters", "statistics"])
def test_a_resume_that_forgets_something(monkeypatch, lost):
    original = TrainStep.load_state

    def forgetful(step, state):
        original(step, state)
        if lost == "momentum":
            for buffer in step.optimizer.momentum:
                buffer.zero_()
        elif lost == "order":
            step.input.order.seed += 1
        elif lost == "counters":
            step.clear()
        else:
            step.model.bn1.running_mean.zero_()

    monkeypatch.setattr(TrainStep, "load_state", forgetful)
    with pytest.raises(Mismatch) as caught:
        resuming.resume()
    tensors = {one.what for one in caught.value.differences} - {"history.csv"}
    assert (not tensors) is (lost == "counters")


@pytest.mark.usefixtures("few_images")
def test_a_run_that_was_not_interrupted_is_no_evidence(monkeypatch):
    monkeypatch.setattr(resuming, "INTERRUPTED_AFTER", None)
    with pytest.raises(Mismatch, match="sessions of the interrupted run: expected 2, found 1"):
        resuming.resume()


@pytest.fixture
def published_copy(monkeypatch, tmp_path) -> Path:
    folder = tmp_path / "published"
    shutil.copytree(published_dir(), folder)
    monkeypatch.setattr(files, "published_dir", lambda: folder)
    return folder


def test_published_numbers_are_unchanged(published_copy):
    assert files.published().startswith("15 files")


def test_a_published_number_that_was_edited(published_copy):
    path = published_copy / "table6.yaml"
    path.write_text(path.read_text().replace("8.75", "8.57"))
    (published_copy / "table2.yaml").unlink()
    (published_copy / "table9.yaml").write_text("rows: []\n")
    with pytest.raises(Mismatch) as caught:
        files.published()
    assert [one.what for one in caught.value.differences] == [f"SHA-256 of table{n}.yaml" for n in (2, 6, 9)]


def made_arrays() -> Cifar10Arrays:
    """Images in the form of CIFAR-10, ten of each class."""
    images = np.random.default_rng(0).integers(0, 256, (100, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(100) % 10
    return Cifar10Arrays(images, labels, images[:20], labels[:20], "0" * 64, Path("made"))


@pytest.fixture
def made_cifar10(monkeypatch):
    """Made images in the place of CIFAR-10."""
    monkeypatch.setattr(cifar10_files, "find", lambda root: root)
    monkeypatch.setattr(cifar10_files, "load", lambda root: made_arrays())


@pytest.mark.usefixtures("made_cifar10")
def test_the_mean_image_is_numpys(tmp_path):
    assert files.cifar10(tmp_path).startswith("100 training and 20 test images")


@pytest.mark.usefixtures("made_cifar10")
@pytest.mark.parametrize(("mean", "text"), [
    (lambda images: images.double().mean((0, 2, 3), keepdim=True)[0].float(), r"\(3, 1, 1\) in"),
    (lambda images: images[1:].double().mean(0).float(), "values up to"),
    (lambda images: 3 * images.double().mean(0).float(), r"expected \(3, 32, 32\) in 0..255")])
def test_another_mean(monkeypatch, tmp_path, mean, text):
    monkeypatch.setattr(files, "per_pixel_mean", mean)
    with pytest.raises(Mismatch, match=text):
        files.cifar10(tmp_path)


@pytest.mark.usefixtures("made_cifar10")
def test_labels_that_are_not_balanced(monkeypatch, tmp_path):
    arrays = made_arrays()
    arrays.train_labels[0] = 1
    monkeypatch.setattr(cifar10_files, "load", lambda root: arrays)
    with pytest.raises(Mismatch, match="images of each class among the training images"):
        files.cifar10(tmp_path)


def test_the_real_data(real_cifar10):
    assert files.cifar10(real_cifar10).startswith("50,000 training and 10,000 test images")


def test_damaged_data(tmp_path):
    (tmp_path / cifar10_files.NPZ).write_bytes(b"nothing")
    with pytest.raises(DataError, match="damaged"):
        files.cifar10(tmp_path)


def test_data_that_is_not_there_is_skipped_with_the_command_that_fetches_it(tmp_path):
    with pytest.raises(Skipped, match=r"`repro data fetch cifar10 data\.root=.*` fetches it"):
        files.cifar10(tmp_path)
    with pytest.raises(Skipped, match=r"`repro data verify imagenet data\.root=FOLDER`"):
        files.imagenet(tmp_path)
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
    with pytest.raises(Skipped, match=r"^too large to read here; `repro data verify imagenet data\.root=/"):
        files.imagenet(tmp_path)


@pytest.fixture
def reference_copy(monkeypatch, tmp_path) -> Path:
    folder = tmp_path / "reference"
    shutil.copytree(reference_dir(), folder)
    monkeypatch.setattr(committed, "reference_dir", lambda: folder)
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_committed_tables_are_those_of_the_records(reference_copy, monkeypatch):
    assert committed.committed_tables().startswith("12 tables")
    monkeypatch.setattr(committed.tables, "committed", lambda: ["table6", "short_cifar_plain_vs_res"])
    edit(reference_copy / "tables" / "table6.csv", "8.75", "8.76")
    (reference_copy / "tables" / "short_cifar_plain_vs_res.tex").unlink()
    with pytest.raises(Mismatch) as caught:
        committed.committed_tables()
    assert [(one.what, one.found) for one in caught.value.differences] == [
        ("table6.csv", "another text"), ("short_cifar_plain_vs_res.tex", "no such file")]


def test_an_installed_package_has_no_tables(monkeypatch):
    monkeypatch.setattr(committed, "in_tree", lambda: False)
    with pytest.raises(Skipped, match="an installed package has no tables of its own"):
        committed.committed_tables()


def test_committed_records_hold(reference_copy):
    assert committed.committed_records().startswith("5 records")


def test_a_committed_record_that_was_edited(reference_copy):
    path, = (reference_copy / "runs").glob("cifar_resnet20@*/seed0/history.csv")
    last = path.read_text().splitlines()[-1]
    error = last.split(",")[-1]
    edit(path, last, last.removesuffix(error) + "1.23")
    with pytest.raises(Mismatch, match=r"^cifar_resnet20@\w+/seed0: .*: expected nothing to find, found "):
        committed.committed_records()


def test_no_records_are_no_success(reference_copy):
    shutil.rmtree(reference_copy / "runs")
    with pytest.raises(Skipped, match="no records in"):
        committed.committed_records()
