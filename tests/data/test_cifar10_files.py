"""CIFAR-10 counts only if it agrees with the published SHA-256; its download, what goes wrong with it, repair."""

import os
import socket
import threading

import numpy as np
import pytest
from filelock import FileLock

from repro.data import cifar10_files as files
from repro.data.cifar10_files import FOLDER, fetch
from repro.errors import DataError, StorageError
from tests.data.conftest import ARRAYS


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def left(root):
    """What is in the folder, but for the lock."""
    return sorted(path.name for path in root.iterdir() if path.name != ".cifar10.lock")


def test_loads_from_the_root_or_the_folder_itself(made, tmp_path):
    folder = made.write(tmp_path)
    for root in (tmp_path, folder):
        loaded = files.load(root)
        assert made.same(loaded)
        assert files.folder_in(root) == folder
    assert [getattr(loaded, name).dtype.name for name in ARRAYS] == ["uint8", "int64"] * 2


@pytest.mark.fault(9, 10, 11)
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "empty"])
def test_a_missing_or_damaged_batch_is_named_with_what_to_do(made, tmp_path, damage):
    path = made.write(tmp_path) / "data_batch_2"
    data = path.read_bytes()
    bad = {"cut": data[:-1], "flipped": data[:3000] + bytes([data[3000] ^ 1]) + data[3001:]}.get(damage, b"")
    path.write_bytes(bad)
    if damage == "missing":
        path.unlink()
    with pytest.raises(DataError) as caught:
        files.load(tmp_path)
    words = ([f"no {path}", "170 MB", "official site", "REPRO_DATA", f"data.root={tmp_path}"] if damage == "missing"
             else [f"{path} is damaged ({len(bad)} bytes)", made.hashes[path.name]])
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


# ---- the download

def test_fetched_once_from_the_official_site(made, site, root, caplog, capsys):
    (root / ".cifar10-fetch" / "of one that was killed").mkdir(parents=True)
    fetch(root)
    assert made.same(files.load(root))
    assert left(root) == [FOLDER]
    asked = site.asked
    fetch(root)
    assert (site.asked, left(root)) == (asked, [FOLDER])
    assert "nothing to fetch" in caplog.messages[-1]
    assert capsys.readouterr() == ("", ""), "a bar without a terminal"


def no_name(*args, **kwargs):
    raise socket.gaierror(-2, "Name or service not known")


@pytest.mark.fault(12, 13, 14, 15)
@pytest.mark.parametrize(("mode", "words"), [("404", "404"), ("silent", "timed out"), ("html", "corrupted"),
                                             ("cut", "corrupted"), ("no name", "Name or service")])
def test_a_site_that_does_not_deliver_is_named_and_the_next_call_begins_again(made, site, root, mode, words):
    site.mode = mode
    with pytest.MonkeyPatch.context() as patch:
        if mode == "no name":
            patch.setattr(socket, "getaddrinfo", no_name)
        with pytest.raises(DataError) as caught:
            fetch(root)
    assert caught.value.exit_code == 3
    for part in (words, site.url, str(root / FOLDER), "REPRO_DATA"):
        assert part in str(caught.value)
    assert left(root) == []
    site.mode = "good"
    fetch(root)
    assert made.same(files.load(root))


@pytest.mark.fault(14)
def test_an_archive_whose_content_is_another_gets_no_final_name(made, site, root, monkeypatch):
    monkeypatch.setattr(files, "BATCHES", made.hashes | {"test_batch": "0" * 64})
    with pytest.raises(DataError, match=r"test_batch is damaged .* should be 0000"):
        fetch(root)
    assert left(root) == []


@pytest.mark.fault(10, 11)
def test_damaged_files_are_set_aside_and_replaced(made, site, root):
    path = made.write(root) / "data_batch_2"
    path.write_bytes(b"damaged")
    fetch(root)
    assert path.read_bytes() == made.files["data_batch_2"]
    assert path.with_name("data_batch_2.corrupt").read_bytes() == b"damaged"
    assert left(root) == [FOLDER]


@pytest.mark.fault(17)
def test_a_folder_that_may_not_be_written_is_named(made, site, open_folder, as_user):
    with as_user(), pytest.raises(StorageError, match=str(open_folder)) as caught:
        fetch(open_folder)
    assert caught.value.exit_code == 5


@pytest.mark.fault(18)
def test_a_full_disk_ends_it(made, site, root, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("torchvision.datasets.utils.download_url", full)
    with pytest.raises(StorageError, match=r"No space left on device.*500 MB"):
        fetch(root)


def test_two_at_a_time_download_once(made, site, root):
    root.mkdir()
    with FileLock(root / ".cifar10.lock"):
        second = threading.Thread(target=fetch, args=(root,))
        second.start()
        second.join(0.1)
        assert second.is_alive()
        made.write(root)
    second.join(60)
    assert not site.asked
    assert made.same(files.load(root))
