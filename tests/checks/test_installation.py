"""`repro check` passes on what is here and finds what is made wrong; versions that don't work stop every command."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import namedtuple
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from repro import checks, models
from repro.checks import FAIL, OK, SKIPPED, WARNING, check_versions, installation
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


def test_what_fails_is_shown_named_and_exits_4(direct, monkeypatch, tmp_path):
    for name in ("device", "golden_counts", "torchvision_outputs", "committed_tables", "exact_resume"):
        monkeypatch.setattr(installation, name, lambda: (OK, ""))
    monkeypatch.setattr(installation, "versions", lambda: 1 // 0)
    (tmp_path / "file").touch()
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "file" / "results"))
    says(direct("check"), 4, "checks that fail: versions, disk")
    outcome = direct("check", "--json")
    assert [one["status"] for one in json.loads(outcome.out)] == [FAIL, OK, FAIL, SKIPPED, OK, OK, OK, OK]
    assert perform(tmp_path)[0].text.startswith("broke down: ZeroDivisionError: ")


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
    assert (status, (lost if lost == "interruption" else "conv1.weight") in text) == (FAIL, True)


def test_a_committed_table_that_was_edited(monkeypatch, tmp_path):
    shutil.copytree(reference_dir(), tmp_path / "copy")
    monkeypatch.setattr(installation, "reference_dir", lambda: tmp_path / "copy")
    monkeypatch.setattr(installation.tables, "committed_names", lambda: ["table6"])
    table = tmp_path / "copy" / "tables" / "table6.csv"
    table.write_text(table.read_text().replace("8.75", "8.76"))
    table.with_suffix(".tex").unlink()
    assert installation.committed_tables() == (FAIL, "table6.csv; table6.tex")


@pytest.mark.fault(8)
def test_a_device_that_is_not_here_or_does_not_compute(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device()[0] == WARNING
    monkeypatch.setenv("REPRO_DEVICE", "cuda")
    with pytest.raises(ConfigError, match=r"machine\.device=cpu runs anywhere"):
        device()
    for name, value in {"is_available": lambda: True, "device_count": lambda: 2,
                        "get_device_name": lambda at: "NVIDIA H200"}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "ones", lambda size, device: torch.tensor([1.0, float(device.index == 0)]))
    assert device() == (FAIL, "cuda:1 does not compute")


@pytest.mark.fault(39)
def test_a_disk_that_is_full_or_cant_be_written_and_data_that_is_there(monkeypatch, tmp_path):
    for megabytes, status in ((499, WARNING), (500, OK)):
        usage = namedtuple("Usage", "free")(megabytes * 10**6)
        monkeypatch.setattr(installation.shutil, "disk_usage", lambda path, usage=usage: usage)
        assert disk()[0] == status
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert disk()[0] == FAIL
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert cifar10(tmp_path)[0] == OK


# ---- versions

@pytest.mark.fault(48)
@pytest.mark.parametrize(("torch", "torchvision", "pin", "text"), [
    ("2.11.0+cu128", "0.26.0+cu128", "torch==2.11.0", ""),
    ("2.16.0.dev2027+cpu", "0.30.0.dev2027", "torch>=2.14.0", ""),
    ("2.13.0", "0.28.0", "torch==2.12.0 ; extra == 'never'", ""),
    ("2.10.0", "0.26.0", "numpy", "torch 2.10.0 is installed: >=2.11 is needed"),
    ("2.11.0", "0.25.0", "torch==2.10.0", "torchvision 0.25.0 is installed: >=0.26 is needed; torch 2.11.0 is "
     "installed: ==2.10.0 is needed by the installed torchvision"),
    (None, "0.26.0", "numpy", "torch (none) is installed: >=2.11 is needed"),
    ("2.11.0", None, "numpy", "torchvision (none) is installed: >=0.26 is needed")])
def test_pairs_that_do_not_fit_are_named_with_those_that_do(monkeypatch, torch, torchvision, pin, text):
    def version(name: str) -> str:
        found = {"torch": torch, "torchvision": torchvision}[name]
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: [pin])
    if not text:
        check_versions()
        return
    with pytest.raises(ConfigError) as error:
        check_versions()
    assert str(error.value).startswith(f"{text}; install a pair that fits: ")
    assert "torch 2.11 with torchvision 0.26" in str(error.value)


def test_versions_are_those_of_the_project():
    check_versions()
    project = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
    assert set(checks.NEEDED) <= set(project["dependencies"])
    assert project["requires-python"] == ">=3.11"


@pytest.mark.fault(48)
@pytest.mark.parametrize(("change", "words"), [
    ("sys.version_info = (3, 10, 12, 'final', 0)", ["Python 3.11 to 3.14"]),
    ("import importlib.metadata as m; old = m.version; m.version = lambda n: '2.10.0' if n == 'torch' else old(n)",
     ["torch 2.10.0 is installed: >=2.11 is needed", "torch 2.11 with torchvision 0.26"])])
def test_a_command_stops_before_it_imports_torch(tmp_path, change, words):
    code = f"import sys; {change}; sys.modules['torch'] = None; from repro.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, "run", "experiment=cifar_resnet20"], capture_output=True,
                          text=True, check=False, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(TREE)})
    says(done, 2, *words)
    assert list(tmp_path.iterdir()) == []
