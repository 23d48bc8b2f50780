"""GPUs, processor and memory of machines that are made up."""

import os

import pytest

from repro.doctor import hardware
from repro.doctor.check import NOTE, OK, PROBLEM, Check
from tests.doctor.made import DEVICES, H200, SAID, TORCH


def device(**changes) -> Check:
    """What is said of the GPU on a machine like DEVICES with these changes."""
    return hardware.devices(SAID | {"devices": DEVICES | changes}, "")[0]


@pytest.mark.fault(8)
def test_gpus(monkeypatch):
    monkeypatch.delenv("REPRO_DEVICE")
    monkeypatch.setattr(hardware, "nvidia_smi", lambda: [("NVIDIA H200", "580.1")])
    assert device(cuda=[H200]) == Check(
        "device", OK, "cuda:0 NVIDIA H200, 140.0 GiB memory, 100.0 GiB free, driver 580.1")
    broken = device(cuda=[H200 | {"error": "no kernel image is available"}])
    assert (broken.status, "cuda:0 does not compute: no kernel image" in broken.text) == (PROBLEM, True)
    old = device(warning="The NVIDIA driver on your system is too old (found version 11040)")
    assert old.status == NOTE
    assert "NVIDIA H200 (driver 580.1) is there, but The NVIDIA driver on your system is too old" in old.text
    assert "torch finds none it can use" in device().text
    without = hardware.devices(SAID | {"torch": TORCH | {"cuda": None}}, "")[0]
    assert "built without CUDA; runs use the CPU" in without.text
    monkeypatch.setattr(hardware, "nvidia_smi", list)
    assert (device(mps=True).status, device(mps=True).text) == (OK, "Apple GPU (mps)")
    assert (device().status, "runs use the CPU" in device().text) == (NOTE, True)


@pytest.mark.fault(8)
@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_device_that_is_asked_for_and_not_there(monkeypatch, kind):
    monkeypatch.setenv("REPRO_DEVICE", kind)
    monkeypatch.setattr(hardware, "nvidia_smi", list)
    checks = hardware.devices(SAID, "")
    assert [one.text for one in checks if one.status == PROBLEM] == [
        f"REPRO_DEVICE={kind} asks for a GPU that torch can't use here"]
    there = SAID | {"devices": DEVICES | {"cuda": [H200], "mps": True}}
    assert PROBLEM not in {one.status for one in hardware.devices(there, "")}


def test_nvidia_smi(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    tool.write_text("#!/bin/sh\necho 'NVIDIA A, big, 580.65.06'\n")
    tool.chmod(0o755)
    assert hardware.nvidia_smi() == [("NVIDIA A, big", "580.65.06")]
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed, no driver'\nexit 9\n")
    assert hardware.nvidia_smi() == []
    tool.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hardware.nvidia_smi() == []


@pytest.mark.parametrize(("quota", "threads", "status"), [
    ("max 100000", 1, OK), ("150000 100000", 1, OK), ("150000 100000", 2, NOTE), ("50000 100000", 1, OK),
    ("50000 100000", 2, NOTE)])
def test_more_threads_than_a_container_has_cores(monkeypatch, tmp_path, quota, threads, status):
    monkeypatch.setattr(hardware, "CGROUP", tmp_path)
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    one = hardware.processor(DEVICES | {"threads": threads})
    assert one.status == status
    assert (one.next_step == "machine.threads=1 or OMP_NUM_THREADS=1") == (status == NOTE)


def test_memory_and_the_limit_of_a_container(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "CGROUP", tmp_path)
    whole = hardware.memory_bytes()
    assert whole[0] > whole[1] > 0
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert hardware.memory_bytes()[0] == whole[0]
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    assert hardware.memory_bytes() == (2**30, 2**30 - 1000)
    assert (hardware.memory().status, "1.0 GiB" in hardware.memory().text) == (NOTE, True)
    monkeypatch.setattr(hardware, "memory_bytes", lambda: (None, None))
    assert hardware.memory().status == NOTE
    monkeypatch.setattr(hardware, "memory_bytes", lambda: (16.0 * 2**30, None))
    assert hardware.memory() == Check("memory", OK, "16.0 GiB")
