"""Versions, and torch and torchvision in a process of their own."""

import sys
from pathlib import Path

import pytest

from repro import versions
from repro.doctor import hardware, software
from repro.doctor.check import NOTE, OK, PROBLEM
from tests.doctor.made import TORCH, found


def fake_torch(folder: Path, torch: str, torchvision: str = "") -> None:
    """Packages of these names that do as they are told."""
    (folder / "torch.py").write_text(torch)
    (folder / "torchvision.py").write_text(torchvision)


WHOLE = ("__version__ = '9.9'\n"
         "class version:\n    cuda = None\n    hip = None\n")


@pytest.mark.parametrize(("torch", "torchvision", "named", "words"), [
    ("raise ImportError('libcudart.so.13: cannot open shared object file')", "", "torch",
     "does not import: ImportError: libcudart.so.13: cannot open"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "", "torch", "killed by SIGILL"),
    ("import sys; sys.exit(3)", "", "torch", "exit code 3"),
    (WHOLE, "raise RuntimeError('operator torchvision::nms does not exist')", "torchvision",
     "does not import: RuntimeError: operator torchvision::nms does not exist"),
    (WHOLE, "import os; print('{cut'); os.abort()", "torchvision", "killed by SIGABRT")])
def test_an_import_that_fails_is_one_line(monkeypatch, tmp_path, torch, torchvision, named, words):
    fake_torch(tmp_path, torch, torchvision)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said, reason = software.probe()
    checks = software.imports(said, reason)
    assert [one.status for one in checks] == [OK] * (named == "torchvision") + [PROBLEM]
    assert words in found(checks, named).text
    assert "torch 2.11 with torchvision 0.26" in found(checks, named).next_step
    assert hardware.devices(said, reason) == []


def test_an_import_that_never_ends(monkeypatch, tmp_path):
    fake_torch(tmp_path, WHOLE, "import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(software, "SECONDS", 1.5)
    said, reason = software.probe()
    assert said == {"torch": {"version": "9.9", "cuda": None, "hip": None}}
    assert "no answer within 2 s" in found(software.imports(said, reason), "torchvision").text


def test_devices_that_can_not_be_told_are_a_problem():
    checks = hardware.devices({"torch": TORCH, "torchvision": {}}, "killed by SIGSEGV")
    assert (found(checks, "device").status, "SIGSEGV" in found(checks, "device").text) == (PROBLEM, True)


# ---- versions

@pytest.mark.fault(48)
def test_versions_that_do_not_work_are_problems(monkeypatch):
    problem = versions.VersionProblem("torchvision", "torchvision 0.26.0 needs torch ==2.11.0", "install a pair")
    monkeypatch.setattr(software, "version_problems", lambda: [problem])
    one = found(software.versions(), "torchvision")
    assert (one.status, one.text, one.next_step) == (PROBLEM, problem.text, "install a pair")


@pytest.mark.parametrize(("version", "status", "words"), [
    ((3, 11, 2), OK, ""), ((3, 14, 0), OK, ""), ((3, 15, 0), NOTE, "newer than the tested 3.11 to 3.14")])
def test_python(monkeypatch, version, status, words):
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setattr(software, "version_problems", list)
    one = found(software.versions(), "python")
    assert (one.status, words in one.text) == (status, True)


@pytest.mark.parametrize(("tree", "commit", "dirty", "status", "words"), [
    (True, "0123456789abcdef", False, OK, "commit 0123456789ab"), (True, "0123456789abcdef", True, NOTE, "uncommitted"),
    (True, None, None, NOTE, "commit unknown"), (False, None, None, OK, "an installed package")])
def test_the_code_and_its_commit(monkeypatch, tree, commit, dirty, status, words):
    monkeypatch.setattr(software, "in_tree", lambda: tree)
    monkeypatch.setattr(software, "code_version", lambda: {"repro": "0.1.0", "commit": commit, "dirty": dirty})
    one = software.code()
    assert (one.status, words in one.text) == (status, True)
