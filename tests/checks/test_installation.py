"""`repro check` passes on what is here and finds what is made wrong; versions that don't work stop every command."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from repro import checks as versions
from repro import models
from repro.checks import FAIL, OK, SKIPPED, WARNING, check_versions, installation, version_problems
from repro.checks.installation import cifar10, device, disk, exact_resume, golden_counts, perform, torchvision_outputs
from repro.data import synthetic
from repro.errors import ConfigError
from repro.paths import TREE, reference_dir
from repro.schema import ShortcutOption
from repro.training.step import TrainStep
from tests.outcome import says


@pytest.fixture(autouse=True)
def little(monkeypatch):
    """Fewer synthetic images and networks, for their time."""
    monkeypatch.setattr(installation, "experiments", lambda: ["cifar_resnet110", "imagenet_resnet50"])
    for name in ("TRAIN_IMAGES", "TEST_IMAGES", "CHUNK"):
        monkeypatch.setattr(synthetic, name, 100)


# ---- the command

def test_this_machine_from_the_command_line(direct, tmp_path):
    outcome = direct("check", "data.root=somewhere")
    assert outcome.code == 0, outcome
    lines = outcome.out.splitlines()
    found = [line[:9].strip() + " " + line[9:].partition(":")[0] for line in lines[:-1]]
    assert found == ["ok versions", "warning device", "ok disk", "skipped CIFAR-10", "ok golden counts",
                     "ok torchvision", "ok exact resume", "ok committed tables"]
    assert f", torch {importlib.metadata.version('torch')}, " in lines[0]
    assert not list(tmp_path.iterdir()), "it leaves nothing behind"
    says(direct("check", "data.rot=x"), 2, "did you mean data.root?")


def test_what_fails_is_shown_named_and_exits_4(direct, monkeypatch):
    monkeypatch.setattr(installation, "checks", lambda root, full: {
        "sums": lambda: (FAIL, "1 is not 2"), "broken": lambda: 1 // 0, "good": lambda: (OK, "well")})
    outcome = direct("check", "--json")
    says(outcome, 4, "sums, broken")
    assert [(one["check"], one["status"]) for one in json.loads(outcome.out)["checks"]] == [
        ("sums", FAIL), ("broken", FAIL), ("good", OK)]


# ---- what is made wrong is found

def test_an_option_in_the_place_of_another(monkeypatch):
    original = models.make_shortcut
    monkeypatch.setattr(models, "make_shortcut", lambda i, o, stride, config, group: original(
        i, o, stride, replace(config, shortcut_option=ShortcutOption.B), group))
    status, text = golden_counts()
    assert (status, "cifar_resnet110 has 1730714 parameters, not 1727962" in text) == (FAIL, True)


def test_another_function_than_torchvisions(monkeypatch):
    monkeypatch.setattr(models.Bottleneck, "forward", lambda self, x: F.relu(self.shortcut(x)) if self.shortcut else x)
    status, text = torchvision_outputs()
    assert (status, text.partition(" up to ")[0]) == (FAIL, "ResNet-50: outputs")


@pytest.mark.parametrize("lost", ["momentum", "order", "interruption"])
def test_a_resume_that_forgets_something(monkeypatch, lost):
    original = TrainStep.load_state

    def forget(step, state):
        original(step, state)
        if lost == "momentum":
            for buffer in step.optimizer.momentum:
                buffer.zero_()
        else:
            step.input.order.seed += 1
    if lost == "interruption":  # then it is no evidence
        monkeypatch.setattr(installation.StopAfterThree, "looks", -100)
    else:
        monkeypatch.setattr(TrainStep, "load_state", forget)
    status, text = exact_resume()
    assert (status, ("sessions" if lost == "interruption" else "conv1.weight") in text) == (FAIL, True)


def test_a_committed_table_that_was_edited(monkeypatch, tmp_path):
    import shutil
    shutil.copytree(reference_dir(), tmp_path / "copy")
    monkeypatch.setattr(installation, "reference_dir", lambda: tmp_path / "copy")
    monkeypatch.setattr(installation.tables, "committed_names", lambda: ["table6", "short_cifar_plain_vs_res"])
    table = tmp_path / "copy" / "tables" / "table6.csv"
    table.write_text(table.read_text().replace("8.75", "8.76"))
    (tmp_path / "copy" / "tables" / "short_cifar_plain_vs_res.tex").unlink()
    status, text = installation.committed_tables()
    assert (status, text) == (FAIL, "table6.csv; short_cifar_plain_vs_res.tex")
    monkeypatch.setattr(installation, "in_tree", lambda: False)
    assert installation.committed_tables()[0] == SKIPPED


@pytest.mark.fault(8)
def test_a_device_that_is_not_here_or_does_not_compute(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device()[0] == WARNING
    monkeypatch.setenv("REPRO_DEVICE", "cuda")
    one = perform("device", device)
    assert (one.status, "machine.device=cpu runs anywhere" in one.text) == (FAIL, True)
    for name, value in {"is_available": lambda: True, "device_count": lambda: 2,
                        "get_device_name": lambda at: "NVIDIA H200"}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "ones", lambda size, device: torch.tensor([1.0, float(device.index == 0)]))
    assert device() == (FAIL, "cuda:1 does not compute")


@pytest.mark.fault(39)
def test_a_disk_that_is_full_and_a_results_folder_that_cant_be(monkeypatch, tmp_path):
    usage = namedtuple("Usage", "free")
    for megabytes, status in ((499, WARNING), (500, OK)):
        monkeypatch.setattr(installation.shutil, "disk_usage", lambda path, free=megabytes: usage(free * 10**6))
        assert disk()[0] == status
    (tmp_path / "file").touch()
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "file" / "results"))
    assert disk()[0] == FAIL
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert disk()[0] == FAIL


def test_data_that_is_missing_there_or_damaged(tmp_path, real_cifar10):
    assert cifar10(tmp_path, True)[0] == SKIPPED
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert cifar10(tmp_path, False)[0] == OK
    one = perform("CIFAR-10", lambda: cifar10(tmp_path, True))
    assert (one.status, "repro data fetch cifar10" in one.text) == (FAIL, True)
    assert cifar10(real_cifar10, True) == (OK, f"whole, in {real_cifar10 / 'cifar-10-batches-py'}")


# ---- versions

@pytest.fixture
def pretend(monkeypatch):
    """`pretend(torch="2.10.0", pin="torch==2.11.0")`: installed versions (None: absent), torchvision's requirement."""
    def call(pin: str | None = None, **found: str | None):
        real = importlib.metadata.version

        def version(name: str) -> str:
            if name in found and found[name] is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return found.get(name) or real(name)
        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["numpy", *([pin] if pin else [])])
    return call


def test_this_environment_has_no_problem():
    assert version_problems() == {}
    check_versions()


@pytest.mark.parametrize(("torch", "torchvision", "pin"), [
    ("2.11.0+cu128", "0.26.0+cu128", "torch==2.11.0"), ("2.16.0.dev2027+cpu", "0.30.0.dev2027", "torch>=2.14.0"),
    ("2.12.0", "0.27.0", None), ("2.13.0", "0.28.0", "torch==2.13.0 ; extra == 'never'")])
def test_pairs_that_fit(pretend, torch, torchvision, pin):
    pretend(pin, torch=torch, torchvision=torchvision)
    assert version_problems() == {}


@pytest.mark.fault(48)
@pytest.mark.parametrize(("torch", "torchvision", "pin", "text"), [
    ("2.10.0", "0.26.0", None, "torch 2.10.0 is installed: >=2.11 is needed"),
    ("2.11.0", "0.25.0", "torch==2.10.0", "torchvision 0.25.0 is installed: >=0.26 is needed; torch 2.11.0 is "
     "installed: ==2.10.0 is needed by the installed torchvision"),
    (None, "0.26.0", "torch==2.11.0", "torch (none) is installed: >=2.11 is needed"),
    ("2.11.0", None, None, "torchvision (none) is installed: >=0.26 is needed"),
    ("2.13.0", "0.29", "torch>=2.14.0", "torch 2.13.0 is installed: >=2.14.0 is needed by the installed torchvision")])
def test_pairs_that_do_not_fit_are_named_with_those_that_do(pretend, torch, torchvision, pin, text):
    pretend(pin, torch=torch, torchvision=torchvision)
    with pytest.raises(ConfigError) as error:
        check_versions()
    assert str(error.value).startswith(f"{text}; install a pair that fits: ")
    assert "torch 2.11 with torchvision 0.26" in str(error.value)


def test_another_package_that_is_missing_is_no_reason_to_stop(pretend):
    pretend(None, tqdm="4.1", matplotlib=None)
    assert list(version_problems()) == ["tqdm", "matplotlib"]
    assert perform("versions", installation.versions).status == FAIL
    check_versions()


def test_the_requirements_of_a_wheel_are_read_from_its_metadata(monkeypatch):
    monkeypatch.setattr(versions, "in_tree", lambda: False)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [
        "torch>=99", "ruff>=99; extra == 'dev'", "six>=99; python_version < '3'"] if name == "resnet-repro" else None)
    assert list(version_problems()) == ["torch"]


# What Python 3.10 lacks, taken from the one that runs the tests; its name for itself stays.
OLD_PYTHON = """
import datetime, sys
class Version(tuple):
    major, minor, micro, releaselevel, serial = 3, 10, 12, "final", 0
sys.version_info = Version((3, 10, 12, "final", 0))
del datetime.UTC
sys.modules["tomllib"] = None
from repro.cli import main
for line in sys.stdin.read().splitlines():
    print(main(line.split()), flush=True)
assert "torch" not in sys.modules
"""


@pytest.mark.fault(48)
def test_on_an_old_python_every_command_says_so(tmp_path):
    lines = ["run experiment=cifar_resnet20", "suite cifar_plain_vs_res", "status", "table table6", "check",
             "data verify cifar10", "eval experiment=cifar_resnet20 weights=x"]
    done = subprocess.run([sys.executable, "-c", OLD_PYTHON], input="\n".join(lines), capture_output=True, text=True,
                          cwd=tmp_path, check=False, env=os.environ | {"PYTHONPATH": str(TREE)})
    assert (done.returncode, done.stdout.split()) == (0, ["2"] * len(lines)), done.stderr
    assert done.stderr.count("is too old: 3.11 to 3.14 is needed; make an environment with another one") == len(lines)
    assert done.stderr.count("repro: ") == len(done.stderr.splitlines()) == len(lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(48)
def test_a_command_stops_before_it_imports_torch(tmp_path):
    """A real process, with another torch in the metadata."""
    fake = tmp_path / "fake" / "torch-2.10.0.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.10.0\n")
    (fake.parent / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    path = os.pathsep.join([str(fake.parent), str(TREE)])
    done = subprocess.run([sys.executable, "-m", "repro", "run", "experiment=cifar_resnet20"], capture_output=True,
                          text=True, check=False, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path})
    says(done, 2, "torch 2.10.0 is installed: >=2.11 is needed", "torch 2.11 with torchvision 0.26")
    assert not (tmp_path / "results").exists()
