"""Versions that don't work: what is said of them, by `repro doctor` and when a command starts."""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from repro import versions
from repro.commands import check_versions
from repro.errors import ConfigError
from tests.outcome import says


@pytest.fixture
def pretend(monkeypatch):
    """`pretend(torch="2.10.0", pin="torch==2.11.0")`: installed versions (None: absent), torchvision's requirement."""
    def call(pin: str | None = None, **found: str | None):
        real = versions.version

        def version(name: str) -> str:
            if name not in found:
                return real(name)
            if found[name] is None:
                raise PackageNotFoundError(name)
            return found[name]
        monkeypatch.setattr(versions, "version", version)
        monkeypatch.setattr(versions, "requires", lambda name: ["numpy", *([pin] if pin else [])])
    return call


def problems() -> list[tuple[str, str]]:
    return [(problem.check, problem.text) for problem in versions.version_problems()]


def test_this_environment_has_no_problem():
    assert versions.version_problems() == []
    check_versions()


@pytest.mark.parametrize(("torch", "torchvision", "pin"), [
    ("2.11.0", "0.26.0", "torch (==2.11.0)"), ("2.11.0+cu128", "0.26.0+cu128", "torch==2.11.0"),
    ("2.15.0", "0.29.2", "torch (>=2.14.0)"), ("2.16.0.dev20270101+cpu", "0.30.0.dev20270101", "torch>=2.14.0"),
    ("2.12.0", "0.27.0", None), ("2.13.0", "0.28.0", "torch==2.13.0 ; extra == 'never'")])
def test_pairs_that_fit(pretend, torch, torchvision, pin):
    pretend(pin, torch=torch, torchvision=torchvision)
    assert problems() == []


@pytest.mark.fault(48)
@pytest.mark.parametrize(("torch", "torchvision", "pin", "package", "text"), [
    ("2.10.0", "0.26.0", None, "torch", "torch 2.10.0 is not supported: >=2.11 is needed"),
    ("2.9.1", "0.26.0", "torch==2.11.0", "torch", "torch 2.9.1 is not supported: >=2.11 is needed"),
    ("2.11.0", "0.25.0", "torch==2.10.0", "torchvision", "torchvision 0.25.0 is not supported: >=0.26 is needed"),
    (None, "0.26.0", "torch==2.11.0", "torch", "torch is not installed (>=2.11 is needed)"),
    ("2.11.0", None, None, "torchvision", "torchvision is not installed (>=0.26 is needed)"),
    ("2.12.0", "0.26.0", "torch==2.11.0", "torchvision",
     "torchvision 0.26.0 needs torch ==2.11.0, and torch 2.12.0 is installed"),
    ("2.13.0", "0.29.2", "torch>=2.14.0", "torchvision",
     "torchvision 0.29.2 needs torch >=2.14.0, and torch 2.13.0 is installed")])
def test_pairs_that_do_not_fit_are_named_with_those_that_do(pretend, torch, torchvision, pin, package, text):
    pretend(pin, torch=torch, torchvision=torchvision)
    assert problems() == [(package, text)]
    with pytest.raises(ConfigError, match=r"torch 2\.11 with torchvision 0.26") as error:
        check_versions()
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_another_package_that_is_missing_is_a_problem_for_the_doctor_only(pretend):
    pretend(None, tqdm="4.1", matplotlib=None)
    assert problems() == [("tqdm", "tqdm 4.1 is not supported: >=4.66 is needed"),
                          ("matplotlib", "matplotlib is not installed (>=3.9 is needed)")]
    check_versions()


@pytest.mark.fault(48)
def test_an_old_python_comes_first_and_alone(pretend, monkeypatch):
    pretend(None, torch="2.10.0")
    monkeypatch.setattr(sys, "version_info", (3, 10, 12, "final", 0))
    monkeypatch.setattr(versions.platform, "python_version", lambda: "3.10.12")
    found, = versions.version_problems()
    assert found.text == "Python 3.10.12 is too old: 3.11 to 3.14 is needed"
    with pytest.raises(ConfigError, match=r"Python 3\.10\.12 is too old.*PYTHON=python3"):
        check_versions()


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
def test_on_an_old_python_every_command_says_so_but_help(tmp_path):
    lines = ["run experiment=cifar_resnet20", "suite cifar_plain_vs_res", "list", "status", "pending --dry-run",
             "table table6", "doctor", "data verify cifar10", "eval experiment=cifar_resnet20 weights=x"]
    done = subprocess.run([sys.executable, "-c", OLD_PYTHON], input="\n".join(lines), capture_output=True, text=True,
                          cwd=tmp_path, check=False, env=os.environ | {"PYTHONPATH": str(versions.TREE)})
    assert (done.returncode, done.stdout.split()) == (0, ["2"] * len(lines)), done.stderr
    assert done.stderr.count("is too old: 3.11 to 3.14 is needed; make an environment with another one") == len(lines)
    assert done.stderr.count("repro: ") == len(done.stderr.splitlines()) == len(lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("found", [(3, 11), (3, 14), (3, 15), (4, 0)])
def test_these_pythons_are_no_problem(found):
    assert versions.python_problem(found) is None


def test_the_requirements_of_a_wheel_are_read_from_its_metadata(monkeypatch):
    in_tree = versions.requirements()
    assert {"torch", "torchvision", "hydra-core"} <= {requirement.name for requirement in in_tree}
    monkeypatch.setattr(versions, "in_tree", lambda: False)
    monkeypatch.setattr(versions, "requires", lambda name: [
        "torch>=2.11", "ruff>=0.9; extra == 'dev'", "six; python_version < '3'"] if name == "resnet-repro" else None)
    assert versions.requirements() == [Requirement("torch>=2.11")]


@pytest.mark.fault(48)
def test_a_command_stops_before_it_imports_torch(tmp_path):
    """A real process, with another torch in the metadata."""
    fake = tmp_path / "fake" / "torch-2.10.0.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.10.0\n")
    (fake.parent / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    path = os.pathsep.join([str(fake.parent), str(Path(versions.TREE))])
    done = subprocess.run([sys.executable, "-m", "repro", "run", "experiment=cifar_resnet20"], capture_output=True,
                          text=True, check=False, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path})
    says(done, 2, "torch 2.10.0 is not supported", "torch 2.11 with torchvision 0.26")
    assert not (tmp_path / "results").exists()
