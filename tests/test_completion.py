"""Completion as the shell asks for it, by argcomplete's own protocol."""

import os
import subprocess
import sys

import pytest

from repro.cli import build_parser
from repro.completion import NAMES, OWN_KEYS, candidates


@pytest.mark.parametrize(("line", "found"), [
    ("repro run experiment=cifar_resnet3", ["experiment=cifar_resnet32 "]),
    ("repro run train.lr_f", ["train.lr_factor="]),
    ("repro eval protocol=t", ["protocol=ten_crop "]),
    ("repro table plain", ["plain_nets "]),
])
def test_a_shell_gets_its_answer_without_torch(line, found, tmp_path):
    assert ask(line, tmp_path) == found


@pytest.mark.parametrize(("command", "prefix", "found"), [
    ("run", "model.shortcut_option=", {f"model.shortcut_option={option}" for option in "ABC"}),
    ("run", "machine.channels_last=", {f"machine.channels_last={word}" for word in ("true", "false", "null")}),
    ("run", "data=", {"data=cifar10", "data=imagenet", "data=synthetic"}), ("run", "train.lr=", set()),
    ("eval", "weights=mine", {"weights=mine.pt"}), ("publish", "mi", {"mine.pt"})])
def test_values_and_files(command, prefix, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.pt").touch()
    commands, = (action.choices for action in build_parser()._actions if isinstance(action.choices, dict))
    action = next(action for action in commands[command]._actions if not action.option_strings)
    assert set(candidates(prefix, action, commands[command])) == found


def test_whatever_has_a_name_can_be_completed():
    commands, = (action.choices for action in build_parser()._actions if isinstance(action.choices, dict))
    named = {name for name, command in commands.items() for action in command._actions if action.dest == "name"}
    assert named - {"data"} == set(NAMES)
    assert set(OWN_KEYS) <= set(commands)


def ask(line, folder):
    """The answer of a real process, which must not import torch."""
    answer = folder / "answer"
    code = ("import os, sys; from repro import cli\nend = os._exit\n"
            "os._exit = lambda code: end(3 if 'torch' in sys.modules else code)\ncli.main()")
    environment = os.environ | {
        "_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": "bash", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_COMP_WORDBREAKS": " \n",
        "COMP_LINE": line, "COMP_POINT": str(len(line))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return answer.read_text().split("\n")
