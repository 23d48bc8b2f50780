"""The Makefile: its help, the one command of each target, and what it says where Python or venv is missing."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from repro.cli import build_parser
from repro.paths import TREE

MAKEFILE = TREE / "Makefile"
TARGETS = re.findall(r"^([a-z][a-z-]*):", MAKEFILE.read_text(encoding="utf-8"), re.MULTILINE)
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*arguments: str, folder: Path = TREE, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make with none of the caller's settings."""
    kept = {k: v for k, v in os.environ.items() if k not in
            {"PYTHON", "VENV", "PIP_ARGS", "PRESET", "SEEDS", "ARGS", "DATA", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    return subprocess.run(["make", *arguments], cwd=folder, env=kept | environment, capture_output=True, text=True,
                          timeout=240, check=False)


@pytest.fixture
def venv(tmp_path) -> str:
    """VENV=... of an environment in which everything is installed already, as far as make can see."""
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    for name in ("bin/pip", ".ready", ".ready-dev"):
        (folder / name).touch()
    return f"VENV={folder}"


def test_make_alone_lists_every_target_with_a_text():
    done = make()
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines() if line.startswith("  make ")]
    assert [line[1] for line in lines] == TARGETS
    assert all(len(line) == 3 and len(line[2]) > 10 for line in lines)
    assert all(name in done.stdout for name in ("PRESET=", "SEEDS=", "DATA=", "ARGS=", "PYTHON="))
    assert make("help").stdout == done.stdout


def test_every_target_is_phony():
    phony = re.findall(r"^\.PHONY:(.*)$", MAKEFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert " ".join(phony).split() == TARGETS


COMMANDS = [
    (["cifar-plain-vs-res"], ["suite", "cifar_plain_vs_res", "preset=auto", "seeds=1"]),
    (["cifar-plain-vs-res", "PRESET=paper", "SEEDS=5"], ["suite", "cifar_plain_vs_res", "preset=paper", "seeds=5"]),
    (["cifar-plain-vs-res", "DATA=/my data", "ARGS=scale=0.1 data.split=45k"],
     ["suite", "cifar_plain_vs_res", "preset=auto", "seeds=1", "data.root=/my data", "scale=0.1", "data.split=45k"]),
    (["cifar-plain-vs-res", "DATA=it's, ü (1)"],
     ["suite", "cifar_plain_vs_res", "preset=auto", "seeds=1", "data.root=it's, ü (1)"]),
    (["imagenet-plain-vs-res", "DATA=/images"],
     ["suite", "imagenet_plain_vs_res", "preset=auto", "data.root=/images"]),
    (["imagenet-options", "ARGS=machine=ddp devices=8"],
     ["suite", "imagenet_options", "preset=auto", "machine=ddp", "devices=8"]),
    (["imagenet-deeper", "SEEDS=3"], ["suite", "imagenet_deeper", "preset=auto", "seeds=3"]),
    (["imagenet-wiring", "DATA=/images"], ["run", "experiment=imagenet_optB", "machine=smoke", "data.root=/images"]),
    (["cifar-very-deep"], ["suite", "cifar_very_deep", "preset=auto"]),
    (["pending", "DATA=/my data", "ARGS=--max-seconds 60"], ["pending", "data.root=/my data", "--max-seconds", "60"]),
    (["bench", "ARGS=--quick"], ["bench", "--quick"]),
    (["cifar-very-deep", "SEEDS=2", "DATA=d", "ARGS=max_seconds=60"],
     ["suite", "cifar_very_deep", "preset=auto", "seeds=2", "data.root=d", "max_seconds=60"]),
    (["data"], ["data", "fetch", "cifar10"]),
    (["data", "DATA=/my data"], ["data", "fetch", "cifar10", "data.root=/my data"]),
    (["tables"], ["table", "all"]),
    (["check"], ["check"]),
    (["check", "DATA=/my data", "ARGS=--json"], ["check", "data.root=/my data", "--json"]),
]


@pytest.mark.parametrize(("arguments", "command"), COMMANDS, ids=lambda value: " ".join(value))
def test_a_target_is_one_repro_command(venv, arguments, command):
    done = make("-n", venv, *arguments)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1, lines
    program, *rest = shlex.split(lines[0])
    assert program == f"{venv.removeprefix('VENV=')}/bin/repro"
    assert rest == command
    build_parser().parse_args(rest)


def test_settings_come_from_the_environment_too(venv):
    line = make("-n", venv, "cifar-very-deep", SEEDS="3", DATA="/a b", PRESET="paper").stdout
    assert shlex.split(line)[1:] == ["suite", "cifar_very_deep", "preset=paper", "seeds=3", "data.root=/a b"]


@pytest.mark.parametrize(("target", "commands"), [
    ("test", [["python", "-m", "pytest", "-n", "auto", "-m", "not slow"]]),
    ("lint", [["ruff", "check", "--no-cache", "."], ["mypy"]]),
    ("setup", []),
])
def test_the_developers_targets(venv, target, commands):
    done = make("-n", venv, target)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("make: Nothing")]
    folder = venv.removeprefix("VENV=")
    assert [shlex.split(line) for line in lines] == [[f"{folder}/bin/{first}", *rest] for first, *rest in commands]


def test_the_oldest_torch_has_an_environment_of_its_own():
    done = make("-n", "test-oldest")
    assert "VENV=.venv-oldest" in done.stdout
    assert "torch==2.11.0 torchvision==0.26.0" in done.stdout


def test_a_first_call_makes_the_environment_and_says_so(tmp_path):
    """The set-up as far as it goes without a network: a Python that writes down what it is asked."""
    copied(tmp_path)
    python = fake_python(tmp_path, 'if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; '
                                   'cp "$0" "$3/bin/pip"; fi')
    done = make("setup", f"PYTHON={python}", "PIP_ARGS=--no-index", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Making a virtual environment in .venv" in done.stdout
    assert "Installing repro, torch and torchvision" in done.stdout
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[-2:] == ["-m venv .venv", "-m pip install --quiet --no-index -e ."]
    assert "Installing" not in make("setup", f"PYTHON={python}", folder=tmp_path).stdout, "once"


def copied(folder: Path) -> None:
    """The files that make looks at."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(TREE / name, folder)


def fake_python(folder: Path, script: str) -> Path:
    """A program in the place of python3."""
    path = folder / "fake python"
    path.write_text(f'#!/bin/sh\necho "$@" >> "{folder}/asked"\n{script}\nexit 0\n')
    path.chmod(0o755)
    link = folder / "fakepython"
    link.symlink_to(path)
    return link


@pytest.mark.parametrize(("script", "message"), [
    ('case "$2" in *version_info*) exit 1;; esac', "Python 3.11 or newer is needed; name one with PYTHON="),
    ('case "$2" in *ensurepip*) echo noise >&2; exit 1;; esac', "on Debian or Ubuntu: apt install python3-venv"),
])
def test_a_python_that_does_not_do_is_said_and_nothing_is_made(tmp_path, script, message):
    copied(tmp_path)
    python = fake_python(tmp_path, script)
    for target in ("cifar-plain-vs-res", "test"):
        done = make(target, f"PYTHON={python}", folder=tmp_path)
        assert done.returncode == 2
        assert message in done.stdout
        assert "noise" not in done.stderr
        assert not (tmp_path / ".venv").exists()


def test_no_python_at_all_is_said(tmp_path):
    copied(tmp_path)
    done = make("setup", "PYTHON=/no/such/python", folder=tmp_path)
    assert done.returncode == 2
    assert "Python 3.11 or newer is needed" in done.stdout


def test_clean_removes_caches_and_never_data_results_or_the_environment(tmp_path):
    copied(tmp_path)
    kept = ["data/cifar-10-batches-py/data_batch_1", "data/__pycache__/x", "results/runs/e/seed0/weights.pt",
            "results/reference/runs/e/seed0/run.json", "results/build/x", ".venv/lib/__pycache__/x.pyc",
            "repro/cli.py", "tests/test_x.py", "conf/config.yaml", "experiments/x.yaml", ".git/config"]
    gone = ["build/x", "dist/x.whl", ".pytest_cache/x", ".mypy_cache/x", ".ruff_cache/x", ".hypothesis/x",
            "repro/__pycache__/cli.pyc", "repro/data/__pycache__/x.pyc", "tests/__pycache__/x.pyc"]
    for name in [*kept, *gone]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    for _ in range(2):
        assert make("clean", folder=tmp_path).returncode == 0
        assert [name for name in kept if not (tmp_path / name).is_file()] == []
        assert [name for name in gone if (tmp_path / name).exists()] == []
