"""`repro doctor`: what it finds on this machine, and on one where something is wrong."""

import json
import os
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from repro import doctor
from repro.checks import FAIL, OK, WARNING
from repro.doctor import check_data, check_devices, check_results, check_variables


def test_this_machine(direct, tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("REPRO_DEVICE", raising=False)
    outcome = direct("doctor", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    content = json.loads(outcome.out)
    assert content["environment"]["torch_version"] == torch.__version__
    assert content["problems"] == 0
    assert {one["check"] for one in content["checks"]} == {"repro", "device", "results", "data", "environment"}
    text = direct("doctor").out
    assert f"torch_version: {torch.__version__}\n" in text
    assert text.endswith("problems: 0; runs can start\n")
    assert not list(tmp_path.iterdir()), "it leaves nothing behind"


@pytest.fixture
def gpus(monkeypatch):
    """A machine with so many GPUs, all of which compute unless it is said otherwise."""
    def call(count, error=None):
        def ones(size, device):
            if error:
                raise RuntimeError(error)
            return torch.tensor([1.0, 1.0])
        for name, value in {"is_available": lambda: count > 0, "device_count": lambda: count,
                            "get_device_name": lambda at: "NVIDIA H200",
                            "mem_get_info": lambda at: (1 << 30, 2 << 30)}.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch, "ones", ones)
    return call


@pytest.mark.fault(8)
def test_gpus(gpus, monkeypatch):
    monkeypatch.setenv("REPRO_DEVICE", "cuda")
    gpus(0)
    one, = check_devices()
    assert (one.status, one.text) == (FAIL, "REPRO_DEVICE=cuda asks for a GPU that torch can't use here")
    monkeypatch.delenv("REPRO_DEVICE")
    assert [one.status for one in check_devices()] == [WARNING]
    gpus(2)
    assert [str(one) for one in check_devices()] == [
        f"ok       device: cuda:{index} NVIDIA H200, 1073 of 2147 MB free" for index in range(2)]
    gpus(1, "no kernel image is available")
    one, = check_devices()
    assert (one.status, one.text) == (FAIL, "cuda:0 does not compute: no kernel image is available")


@pytest.mark.fault(48)
def test_a_pair_that_does_not_import(direct, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setattr(doctor, "environment", dict)
    outcome = direct("doctor")
    assert outcome.code == 2
    assert "do not import: import of torchvision halted" in outcome.out
    assert "torch 2.11 with torchvision 0.26" in outcome.out
    assert outcome.out.endswith("problems: 1\n")


@pytest.mark.parametrize(("megabytes", "status"), [(19, FAIL), (20, WARNING), (499, WARNING), (500, OK)])
def test_disk(monkeypatch, megabytes, status):
    usage = namedtuple("Usage", "free")(megabytes * 10**6)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    assert check_results().status == status


def test_a_results_folder_that_is_a_file(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRO_RESULTS", "file/results")
    assert (check_results().status, check_results().text) == (FAIL, "can't write in file")


@pytest.mark.fault(39)
def test_permissions_as_another_user():
    """Without a stand-in: a folder of mode 555, looked at by a process that is not root and has no home."""
    code = ("import os\nfrom repro.doctor import check_results\ncheck_results()\n"  # all is loaded, as root
            "if os.geteuid() == 0: os.setuid(54321)\ndel os.environ['HOME']\nprint(check_results())")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        Path(folder).chmod(0o755)
        mine = Path(folder) / "mine"
        mine.mkdir(mode=0o555)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                              env=os.environ | {"REPRO_RESULTS": str(mine / "results")})
    assert done.stdout.startswith("FAIL     results: "), done.stderr


def test_data_that_is_missing_there_or_damaged(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRO_DATA", "my data")
    assert (check_data(True).status, "not in my data yet" in check_data(True).text) == (WARNING, True)
    (tmp_path / "my data").mkdir()
    (tmp_path / "my data" / "cifar10.npz").write_bytes(b"no zip")
    assert check_data(False).status == OK
    one = check_data(True)
    assert (one.status, one.next_step) == (FAIL, "`repro data fetch cifar10` repairs it")
    assert "my data/cifar10.npz" in one.text


@pytest.mark.parametrize(("name", "value", "status", "words"), [
    ("REPRO_DEVICE", "cuda", OK, "REPRO_DEVICE=cuda"), ("REPRO_DEVICE", "gpu", FAIL, "no such device"),
    ("REPRO_RESULT", "x", WARNING, "did you mean REPRO_RESULTS?")])
def test_environment_variables(monkeypatch, name, value, status, words):
    monkeypatch.setenv(name, value)
    one, = (one for one in check_variables() if one.text.startswith((f"{name}=", f"{name} ")))
    assert (one.status, words in one.text) == (status, True)
