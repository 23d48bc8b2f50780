"""Folders, data and environment variables."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from repro import doctor
from repro.data import cifar10_files
from repro.doctor import storage
from repro.doctor.check import NOTE, OK, PROBLEM, Check
from repro.errors import DataError
from tests.doctor.made import found


def disk(monkeypatch, megabytes: int) -> None:
    """So much free disk."""
    class Usage:
        free = megabytes * 10**6
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: Usage)


@pytest.mark.parametrize(("megabytes", "status"), [(19, PROBLEM), (20, NOTE), (499, NOTE), (500, OK)])
def test_disk_for_results(monkeypatch, megabytes, status):
    disk(monkeypatch, megabytes)
    assert found(storage.results(), "disk").status == status


def test_a_results_folder_that_is_a_file(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRO_RESULTS", "file/results")
    one, = storage.results()
    assert (one.status, one.text) == (PROBLEM, "file is no folder, so file/results can't be one")


def test_a_results_folder_that_can_not_be_written(monkeypatch, tmp_path):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storage.tempfile, "TemporaryFile", refuse)
    one, = storage.results()
    assert (one.status, one.text) == (PROBLEM, "can't write in .: Permission denied")
    assert "REPRO_RESULTS" in one.next_step


@pytest.mark.fault(39)
def test_permissions_as_another_user():
    """Without a stand-in: a folder of mode 555, looked at by a process that is not root."""
    code = ("import os\nfrom repro.doctor import storage\n"
            "if os.geteuid() == 0: os.setuid(65534)\nprint(storage.results()[0].status)")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        Path(folder).chmod(0o755)
        mine = Path(folder) / "mine"
        mine.mkdir(mode=0o555)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                              env=os.environ | {"REPRO_RESULTS": str(mine / "results")})
    assert done.stdout == "PROBLEM\n", done.stderr


def test_data_that_is_missing_there_or_damaged(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRO_DATA", "my data")
    assert (storage.data(False).status, "not in my data yet" in storage.data(False).text) == (NOTE, True)
    disk(monkeypatch, 349)
    assert (storage.data(True).status, "of which 349 are free" in storage.data(True).text) == (PROBLEM, True)
    (tmp_path / "my data").mkdir()
    (tmp_path / "my data" / "cifar10.npz").write_bytes(b"no zip")
    assert storage.data(False).status == OK
    assert "not verified now" in storage.data(False).text
    one = storage.data(True)
    assert (one.status, one.next_step) == (PROBLEM, "`repro data fetch cifar10` repairs it")
    assert "my data/cifar10.npz" in one.text
    assert str(tmp_path) not in one.text
    monkeypatch.setattr(cifar10_files, "verify", lambda root: ["whole", "and whole"])
    assert storage.data(True) == Check("data", OK, "whole; and whole")
    monkeypatch.setattr(cifar10_files, "find", lambda root: (_ for _ in ()).throw(DataError("bad")))
    assert storage.data(False).status == PROBLEM


@pytest.mark.parametrize(("name", "value", "status", "words"), [
    ("REPRO_DEVICE", "cuda", OK, "REPRO_DEVICE=cuda"), ("REPRO_DEVICE", "gpu", PROBLEM, "no such device"),
    ("REPRO_RESULT", "x", NOTE, "did you mean REPRO_RESULTS?"), ("CUDA_VISIBLE_DEVICES", "", NOTE, "hides every GPU"),
    ("CUDA_VISIBLE_DEVICES", "1", OK, "CUDA_VISIBLE_DEVICES=1"), ("OMP_NUM_THREADS", "four", NOTE, "no number"),
    ("OMP_NUM_THREADS", "4", OK, "OMP_NUM_THREADS=4"), ("REPRO_DEBUG", "1", OK, "REPRO_DEBUG=1")])
def test_environment_variables(monkeypatch, name, value, status, words):
    monkeypatch.setenv(name, value)
    one, = (one for one in storage.variables() if one.text.startswith(f"{name}="))
    assert (one.status, words in one.text) == (status, True)


def test_a_package_that_storage_needs_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "repro.doctor.storage", None)
    monkeypatch.delattr(doctor, "storage")
    one, = doctor.folders(False)
    assert (one.status, one.text.startswith("not looked at: ")) == (NOTE, True)
