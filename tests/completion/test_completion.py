"""`repro completion`: the scripts in real bash and zsh, called as functions and with keys typed on a terminal."""

import argparse
import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from repro.cli import build_parser
from repro.completion import schema_values, script, subcommands
from repro.config import experiments, keys
from repro.paper import ensembles, suites
from repro.reporting.tables import names as table_names

BASH, ZSH = shutil.which("bash"), shutil.which("zsh")
needs_bash = pytest.mark.skipif(BASH is None, reason="needs bash")
needs_zsh = pytest.mark.skipif(ZSH is None, reason="needs zsh")
SHELLS = [pytest.param("bash", marks=needs_bash), pytest.param("zsh", marks=needs_zsh)]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> dict[str, Path]:
    """The script of each shell as a file."""
    folder = tmp_path_factory.mktemp("completion")
    parser = build_parser()[0]
    for shell in ("bash", "zsh"):
        (folder / shell).write_text(script(shell, parser))
    return {shell: folder / shell for shell in ("bash", "zsh")}


@pytest.fixture(params=[":=", " "], ids=["= cuts words", "= does not"])
def bash(request, scripts, tmp_path):
    """`bash("run", "experiment=cifar_r")`: COMPREPLY for the last word, in both settings of COMP_WORDBREAKS."""
    def call(*words: str) -> list[str]:
        cut = [part for word in ("repro", *words)
               for part in ([p for p in re.split("(=)", word) if p] or [""] if request.param == ":=" else [word])]
        code = ('source "$1"; COMP_WORDBREAKS="$2"; shift 2; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
                'COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; _repro; for reply in "${COMPREPLY[@]}"; do '
                'printf "%s\\n" "$reply"; done')
        done = subprocess.run(["bash", "--norc", "-c", code, "bash", str(scripts["bash"]), request.param, *cut],
                              capture_output=True, text=True, check=True, cwd=tmp_path)
        assert done.stderr == ""
        key, separator, _ = words[-1].partition("=")
        prefix = f"{key}=" if separator and request.param == ":=" else ""  # what readline leaves in place
        return [prefix + reply for reply in done.stdout.splitlines()]
    return call


# ---- bash, the function

@needs_bash
def test_subcommands(bash):
    parser, names = build_parser()
    assert bash("") == [f"{word} " for word in ("--help", "--version", *names)]
    assert bash("su") == ["suite "]
    assert bash("comp") == [f"{name} " for name in names if name.startswith("comp")]
    assert bash("nothing-like-it") == []
    assert parser.prog == "repro"


@needs_bash
def test_every_flag_of_every_subcommand(bash):
    commands = subcommands(build_parser()[0])
    assert list(commands) == build_parser()[1]
    for name in ("table", "doctor", "run", "complexity"):
        flags = {flag for action in commands[name]._actions for flag in action.option_strings if flag.startswith("--")}
        assert set(bash(name, "-")) == {f"{flag} " for flag in flags}
    assert bash("table", "table6", "--st") == ["--strict "]


@needs_bash
def test_experiments(bash):
    assert bash("run", "exp") == ["experiment="]
    assert bash("run", "experiment=") == [f"experiment={name} " for name in experiments()]
    assert bash("run", "experiment=cifar_res") == [
        f"experiment={name} " for name in experiments() if name.startswith("cifar_res")]
    assert bash("run", "-m", "experiment=cifar_plain20,cifar_plain5") == ["experiment=cifar_plain20,cifar_plain56 "]
    assert bash("run", "experiment=cifar_plain20", "seed=0", "experiment=zzz") == []


@needs_bash
def test_keys_and_their_values(bash):
    assert bash("run", "train.lr") == ["train.lr=", "train.lr_factor=", "train.lr_policy=", "train.lr_drops="]
    assert bash("run", "experiment=cifar_plain20", "model.sh")[0] == "model.shortcut_option="
    assert bash("run", "model.shortcut_option=") == ["model.shortcut_option=A ", "model.shortcut_option=B ",
                                                     "model.shortcut_option=C "]
    assert bash("eval", "data.split=4") == ["data.split=45k "]
    assert bash("suite", "cifar_very_deep", "machine.deterministic=") == [
        "machine.deterministic=true ", "machine.deterministic=false "]
    assert bash("run", "machine.channels_last=n") == ["machine.channels_last=null "]
    assert bash("run", "model=") == ["model=imagenet_plain ", "model=imagenet_residual ", "model=imagenet_vgg ",
                                      "model=plain ", "model=residual "]
    assert bash("run", "train.lr=") == []
    assert bash("run", "no.such.key=") == []


@needs_bash
def test_names_at_their_place(bash):
    assert bash("table", "tab") == [f"{name} " for name in table_names() if name.startswith("tab")]
    assert bash("table", "a") == ["all "]
    assert bash("figure", "short_figure6") == ["short_figure6 "]
    for command in ("suite", "cost"):
        assert bash(command, "") == [f"{name} " for name in suites()]
    assert bash("ensemble", "") == [f"{name} " for name in ensembles()]
    assert "preset=" in bash("suite", "demo", "pre")
    assert bash("suite", "demo", "preset=pap") == ["preset=paper "]
    assert "preset=" not in bash("cost", "demo", "")
    assert bash("data", "") == ["fetch ", "verify ", "path "]
    assert bash("data", "fetch", "") == ["cifar10 ", "imagenet "]
    assert bash("data", "fetch", "cifar10", "") == ["data.root="]
    assert bash("completion", "") == ["bash ", "zsh "]
    assert bash("eval", "wei") == ["weights="]
    assert bash("eval", "protocol=t") == ["protocol=ten_crop "]
    assert bash("run", "--cfg", "") == ["job ", "hydra ", "all "]


@needs_bash
def test_files(bash, tmp_path):
    (tmp_path / "my weights.pt").touch()
    (tmp_path / "runs").mkdir()
    assert bash("eval", "weights=my") == ["weights=my weights.pt"]
    assert bash("run", "data.root=ru") == ["data.root=runs"]
    assert bash("run", "--config-dir", "ru") == ["runs"]
    assert bash("publish", "ru") == ["runs"]


# ---- both shells, on a terminal

@contextmanager
def terminal(shell: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An interactive shell without anybody's settings on a terminal of its own, behind pipes."""
    flags = ["--norc", "--noprofile", "-i"] if shell == "bash" else ["-f", "-i"]
    behind = [sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:])", shell, *flags]
    environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(folder), "PS1": "$ "}
    pipe = subprocess.PIPE
    with subprocess.Popen(behind, stdin=pipe, stdout=pipe, cwd=folder, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def typed(process: subprocess.Popen[bytes], text: str, until: str, seconds: float = 20.0) -> str:
    """What the terminal shows after this is typed, as soon as `until` is in it."""
    process.stdin.write(text.encode())
    process.stdin.flush()
    shown, end = "", time.monotonic() + seconds
    while until not in shown:
        if time.monotonic() > end:
            raise AssertionError(f"no {until!r} in {shown!r}")
        if select.select([process.stdout], [], [], 0.2)[0]:
            shown += os.read(process.stdout.fileno(), 65536).decode(errors="replace")
    return shown


LINES = [  # typed before Tab, and the arguments that the command then gets
    ("suit", "suite"),
    ("run experiment=cifar_resnet3", "run experiment=cifar_resnet32"),
    ("run train.lr_f", "run train.lr_factor="),
    ("run experiment=cifar_plain20 model.shortcut_option=", "run experiment=cifar_plain20 model.shortcut_option="),
    ("run data.split=4", "run data.split=45k"),
    ("run -m experiment=cifar_plain20,cifar_plain5", "run -m experiment=cifar_plain20,cifar_plain56"),
    ("table plain", "table plain_nets"),
    ("table table6 --str", "table table6 --strict"),
    ("suite cifar_very_deep pres", "suite cifar_very_deep preset="),
    ("suite cifar_very_deep preset=pa", "suite cifar_very_deep preset=paper"),
    ("data fe", "data fetch"),
    ("eval weights=file_of_", "eval weights=file_of_weights.pt"),
]


@pytest.mark.parametrize("shell", SHELLS)
def test_what_is_typed_is_completed(shell, scripts, tmp_path):
    (tmp_path / "file_of_weights.pt").touch()
    with terminal(shell, tmp_path) as process:
        typed(process, f"source '{scripts[shell]}'; repro() {{ echo \"GOT<$*>\"; }}; echo RE''ADY\n", "READY")
        for line, expected in LINES:
            shown = typed(process, f"repro {line}\t\n", ">\r\n")
            assert re.search(r"^GOT<(.*)>\r?$", shown, re.MULTILINE)[1] == expected, shown
        typed(process, "repro run experiment=cifar_resnet\t\t", "cifar_resnet1202")


# ---- where the script comes from

def test_it_is_printed_without_torch_and_at_once(repro):
    done = repro("completion", "bash")
    assert done.returncode == 0, done.stderr
    assert done.stdout == script("bash", build_parser()[0])
    bad = repro("completion", "fish")
    assert (bad.returncode, "fish" in bad.stderr) == (2, True)


def test_all_keys_of_the_schema_are_there_and_no_section():
    leaves = [key for key in keys() if not any(other.startswith(f"{key}.") for other in keys())]
    assert sorted(schema_values_of_run()) == sorted(leaves)


def schema_values_of_run() -> dict[str, tuple[str, ...]]:
    from repro.schema import RunConfig

    return schema_values(RunConfig)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_command_is_in_the_script_as_soon_as_it_is_in_the_parser(shell, tmp_path):
    """Flags with values and odd names, on a parser made here; the shell reads the script without complaint."""
    parser = argparse.ArgumentParser(prog="repro")
    commands = parser.add_subparsers()
    made = commands.add_parser("made")
    made.add_argument("--out", metavar="FILE")
    made.add_argument("--kind", choices=["it's", "b c"])
    made.add_argument("first", choices=["one", "two"])
    text = script(shell, parser)
    assert "--out" in text
    path = tmp_path / "script"
    path.write_text(text)
    done = subprocess.run([shell, "-c", 'eval "$(sed "/^complete/,\\$d; /^if ! ((/,\\$d" "$0")"; '
                           '_repro_candidates made 0 --kind ""; _repro_candidates made 0 "" ""; '
                           '_repro_takes_value made --out && echo takes', str(path)],
                          capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["it's", "b c", "one", "two", "takes"], done.stderr
    assert done.stderr == ""
