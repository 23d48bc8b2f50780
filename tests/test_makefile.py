"""The Makefile: its help, the one command of each target, and what it says where Python or venv is missing."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from repro.cli import find_command
from repro.commands import COMMANDS
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
def commands(tmp_path):
    """`commands(*arguments)`: the words of each line that make would run, all being installed; each must parse."""
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    for name in ("bin/pip", ".ready", ".ready-dev"):
        (folder / name).touch()

    def call(*arguments: str, **environment: str) -> list[list[str]]:
        done = make("-n", f"VENV={folder}", *arguments, **environment)
        assert done.returncode == 0, done.stderr
        lines = [shlex.split(line.removeprefix(f"{folder}/bin/")) for line in done.stdout.splitlines()]
        for program, *words in lines:
            if program == "repro" and words[0] != "run":
                name = find_command(words)
                COMMANDS[name].parse_intermixed_args(words[len(name.split()):])
        return [line[1:] if line[0] == "repro" else line for line in lines]
    return call


def test_make_alone_lists_every_target_with_a_text():
    done = make()
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines() if line.startswith("  make ")]
    assert [line[1] for line in lines] == TARGETS
    assert all(len(line) == 3 for line in lines)
    phony = re.findall(r"^\.PHONY:(.*)$", MAKEFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert " ".join(phony).split() == TARGETS


def test_the_oldest_torch_runs_tests_that_exist():
    computing, = re.findall("^COMPUTING := (.+)", MAKEFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in computing.split() if not (TREE / name).exists()] == []


def test_targets_are_commands_that_parse(commands):
    assert commands("cifar-plain-vs-res", "cifar-very-deep", "imagenet-wiring", "pending", "bench", "data", "tables",
                    "check", "status", "claims", "report", "figures", "responses", "demo") == [
        ["suite", "cifar_plain_vs_res", "preset=auto", "seeds=1"], ["suite", "cifar_very_deep", "preset=auto"],
        ["run", "experiment=imagenet_optB", "machine=smoke"], ["suite", "pending"], ["bench"],
        ["data", "fetch", "cifar10"], ["table", "all"], ["check"], ["status"], ["claims"], ["report"],
        ["figure", "all"], ["suite", "cifar_responses", "preset=auto", "seeds=1"], ["suite", "demo"], ["report"]]


def test_settings_of_make_go_into_the_commands(commands):
    given = ["DATA=it's, ü (1)", "PRESET=paper", "SEEDS=5"]
    data = "data.root=it's, ü (1)"
    assert commands(*given, "imagenet-plain-vs-res", "imagenet-options", "imagenet-deeper", "cifar-plain-vs-res",
                    "ARGS=machine=ddp devices=8") == [
        ["suite", name, "preset=paper", "seeds=5", data, "machine=ddp", "devices=8"] for name in
        ("imagenet_plain_vs_res", "imagenet_options", "imagenet_deeper", "cifar_plain_vs_res")]
    assert commands("data", "check", "DATA=/my data", "ARGS=--json") == [
        ["data", "fetch", "cifar10", "data.root=/my data"], ["check", "data.root=/my data", "--json"]]
    assert commands("pending", "ARGS=--max-seconds 60") == [["suite", "pending", "--max-seconds", "60"]]
    assert commands("cifar-very-deep", SEEDS="3", PRESET="paper") == [
        ["suite", "cifar_very_deep", "preset=paper", "seeds=3"]]


def fake_python(folder: Path, script: str) -> Path:
    """A program in the place of python3 that writes down what it is asked, beside the files that make looks at."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(TREE / name, folder)
    path = folder / "fakepython"
    path.write_text(f'#!/bin/sh\necho "$@" >> "{folder}/asked"\n{script}\nexit 0\n')
    path.chmod(0o755)
    return path


def test_a_first_call_makes_the_environment_and_says_so(tmp_path):
    """The set-up as far as it goes without a network."""
    python = fake_python(tmp_path, 'if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; '
                                   'cp "$0" "$3/bin/pip"; fi')
    done = make("setup", f"PYTHON={python}", "PIP_ARGS=--no-index", folder=tmp_path)
    assert (done.returncode, "Making a virtual environment in .venv" in done.stdout) == (0, True), done.stderr
    assert (tmp_path / "asked").read_text().splitlines()[-2:] == [
        "-m venv .venv", "-m pip install --quiet --no-index -e ."]
    assert "Installing" not in make("setup", f"PYTHON={python}", folder=tmp_path).stdout, "once"


@pytest.mark.parametrize(("script", "message"), [
    ('case "$2" in *version_info*) exit 1;; esac', "Python 3.11 or newer is needed; name one with PYTHON="),
    ('case "$2" in *ensurepip*) echo noise >&2; exit 1;; esac', "on Debian or Ubuntu: apt install python3-venv")])
def test_a_python_that_does_not_do_is_said_and_nothing_is_made(tmp_path, script, message):
    done = make("test", f"PYTHON={fake_python(tmp_path, script)}", folder=tmp_path)
    assert (done.returncode, message in done.stdout, "noise" in done.stderr) == (2, True, False)
    assert not (tmp_path / ".venv").exists()


def test_clean_removes_caches_and_never_data_results_or_the_environment(tmp_path):
    shutil.copy(MAKEFILE, tmp_path)
    kept = ["data/__pycache__/x", "results/runs/e/seed0/weights.pt", "results/build/x", ".venv/lib/__pycache__/x.pyc",
            "repro/cli.py", "tests/test_x.py", ".git/config"]
    gone = ["build/x", "dist/x.whl", ".pytest_cache/x", ".hypothesis/x", "repro/data/__pycache__/x.pyc"]
    for name in [*kept, *gone]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert make("clean", folder=tmp_path).returncode == 0
    assert [name for name in [*kept, *gone] if (tmp_path / name).exists()] == kept
