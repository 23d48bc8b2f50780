"""A configuration from elsewhere runs no code: neither a user's file nor an override makes Hydra call or import."""

import argparse
from pathlib import Path

import pytest

from repro.config import compose, config_hash, deviations, paper_hashes, to_dict, with_config_dir, with_precision
from repro.errors import ConfigError
from repro.hydra_cli import PLAIN, combinations, own_folders
from repro.schema import Precision
from tests.outcome import says

OWN = """\
# @package _global_
defaults:
  - override /model: residual
name: mine
model: {blocks_per_stage: 4}
train:
  lr: 0.05
"""
# What Hydra would call, each in its own way, if it were let: creates the file MARK.
CALLS = {
    "callback": "hydra: {callbacks: {x: {_target_: pathlib.Path.touch, self: MARK}}}",
    "logging": "hydra: {job_logging: {version: 1, handlers: {x: {(): pathlib.Path.touch, self: MARK}}}}",
    "hydra's logging": "hydra: {hydra_logging: {version: 1, handlers: {x: {(): pathlib.Path.touch, self: MARK}}}}",
    "launcher": "hydra: {launcher: {x: {_target_: pathlib.Path.touch, self: MARK}}}",
    "sweeper": "hydra: {sweeper: {params: {x: {_target_: pathlib.Path.touch, self: MARK}}}}",
    "environment": "hydra: {job: {env_set: {LD_PRELOAD: MARK}}}",
    "target": "_target_: pathlib.Path.touch",
    "inner target": "data: {_target_: pathlib.Path.touch}",
    "yaml": "description: !!python/object/apply:pathlib.Path.touch [MARK]",
}


@pytest.fixture
def own(tmp_path):
    """`own(text)` writes a user's experiment file; its folder's arguments come back."""
    def write(text: str | bytes, name: str = "experiment/mine.yaml") -> list[str]:
        path = tmp_path / "own files, (mine)" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return ["--config-dir", str(tmp_path / "own files, (mine)"), "experiment=mine"]
    return write


@pytest.mark.fault(4)
@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["run", "sweep"])
@pytest.mark.parametrize("call", CALLS)
def test_a_users_file_that_would_call_something_is_refused_and_nothing_is_called(direct, own, tmp_path, call, flags):
    mark = tmp_path / "executed"
    outcome = direct("run", *own(OWN + CALLS[call].replace("MARK", str(mark)) + "\n"), *flags)
    says(outcome, 2)
    assert any(word in outcome.err for word in ("could run code", "_target_", "python/object", "not in 'Basic"))
    assert not mark.exists()
    assert not (tmp_path / "results").exists()


@pytest.mark.fault(4)
def test_every_file_that_a_sweep_may_use_is_checked_before_it_begins(direct, own, tmp_path):
    words = own(OWN + CALLS["logging"].replace("MARK", str(tmp_path / "executed")) + "\n")[:2]
    for swept in (["experiment=cifar_resnet20,mine"], ["experiment=choice(cifar_resnet20, mine)"],
                  ["recipe=fb,paper", "experiment=mine", "seed=range(3)"]):
        says(direct("run", *words, *swept, "-m"), 2, "hydra.job_logging", "could run code")
    says(direct("run", *words, "experiment=glob(*)", "-m"), 2, "experiment=A,B")
    own("", "hydra/launcher/basic.yaml")
    says(direct("run", *words, "experiment=cifar_resnet20", "-m"), 2, "own files, (mine)/hydra")
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "results").exists()


def test_the_combinations_of_files_that_a_sweep_may_use():
    """Its own composition is without what is swept."""
    assert combinations(["experiment=a,b", "train.lr=1,2", "recipe=paper,fb", "seed=3"]) == [
        ["seed=3", experiment, *recipe] for experiment in ("experiment=a", "experiment=b", PLAIN)
        for recipe in (["recipe=paper"], ["recipe=fb"], [])]


@pytest.mark.fault(4)
def test_another_file_that_the_users_file_names_is_checked_too(direct, own, tmp_path):
    own(f"x: {{_target_: pathlib.Path.touch, self: {tmp_path / 'executed'}}}\n", "extra/bad.yaml")
    says(direct("run", *own(OWN.replace("defaults:\n", "defaults:\n  - /extra@hydra.callbacks: bad\n")), "-m"), 2,
         "hydra.callbacks", "could run code")
    assert not (tmp_path / "executed").exists()


@pytest.mark.fault(4)
def test_without_the_guard_hydra_would_have_called_it(direct, own, tmp_path, monkeypatch):
    """The control: the same file, with the check left out."""
    monkeypatch.setattr("repro.config.refuse_code", lambda node, plain: None)
    monkeypatch.setattr("repro.training.launch.run", lambda plan: None)
    mark = tmp_path / "executed"
    with pytest.warns(UserWarning, match="Callback NoneType"):
        direct("run", *own(OWN + CALLS["callback"].replace("MARK", str(mark)) + "\n"), "-m")
    assert mark.exists()


@pytest.mark.fault(4)
@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["run", "sweep"])
def test_an_override_that_could_run_code_is_refused_before_hydra_sees_it(direct, tmp_path, monkeypatch, flags):
    monkeypatch.setattr("hydra.main", None)
    monkeypatch.setattr("repro.config.hydra_compose", None)
    for override in (
            "+hydra.callbacks.x._target_=os.getcwd", "hydra.callbacks={}", "hydra/callbacks=x",
            "hydra/job_logging=default", "++hydra.job_logging.handlers.x={}", "hydra.job.env_set.LD_PRELOAD=x",
            "hydra.run.dir=x", "hydra.output_subdir=x", "hydra.searchpath=[pkg://os]",
            "++hydra.searchpath=['file:///tmp',pkg://os]", "hydra.searchpath=pkg://os",
            "+hydra.sweeper.params.experiment=a", "+hydra.launcher.x._target_=os.getcwd",
            "hydra.launcher._target_=os.getcwd", "+hydra.sweeper.x={_target_:os.getcwd}", "+_target_=os.getcwd",
            "+train._target_=os.getcwd", "train._target_=os.getcwd", "+x._target_=os.getcwd", "hydrax=1"):
        says(direct("run", "experiment=cifar_resnet20", override, *flags), 2, override.lstrip("+").partition("=")[0])
    for flag in ("--experimental-rerun=x.pickle", "--config-path=/tmp", "-cp=/tmp", "--config-name=x",
                 "--experimental-re=x"):  # which unpickle or name another main file
        says(direct("run", "experiment=cifar_resnet20", flag, *flags), 2, flag.partition("=")[0])
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_may_still_name_its_folder_sweeper_and_launcher():
    settings = ["hydra.sweep.dir=x", "hydra/launcher=basic", "hydra/sweeper=basic", "hydra.verbose=false"]
    assert to_dict(compose(["experiment=cifar_resnet20", *settings])) == to_dict(compose(["experiment=cifar_resnet20"]))


def test_an_experiment_in_a_users_folder_composes_and_is_no_paper_run(own):
    config = with_precision(compose(with_config_dir([*own(OWN), "seed=3"])), Precision.fp32)
    assert (config.name, config.model.depth, config.train.lr, config.seed) == ("mine", 26, 0.05, 3)
    assert config.train.iterations == 64000
    assert config_hash(config) not in paper_hashes("mine")
    assert deviations(config)


@pytest.mark.fault(4, 5)
@pytest.mark.parametrize(("old", "new", "words"), [
    ("lr: 0.05", "lrr: 0.05", ["experiment/mine", "train.lrr"]),
    ("train:", "trian:", ["experiment/mine", "trian"]),
    ("blocks_per_stage: 4", "blocks_per_stage: '???'", ["no value for model.blocks_per_stage"]),
    ("name: mine\n", "", ["no value for name"]),
    ("model: residual", "model: residul", ["model/residul"]),
    ("lr: 0.05", "lr: -1", ["train.lr=-1", "allowed"]),
    ("lr: 0.05", "n: 5", ["experiment/mine"]),  # a bare n is a boolean in YAML 1.1
])
def test_a_mistake_in_a_users_file_is_named(own, old, new, words):
    assert old in OWN
    with pytest.raises(ConfigError) as caught:
        compose(with_config_dir(own(OWN.replace(old, new, 1))))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_an_unknown_experiment_beside_a_users_folder_lists_both(own):
    with pytest.raises(ConfigError) as caught:
        compose(with_config_dir([*own(OWN)[:2], "experiment=zzz"]))
    assert all(word in str(caught.value) for word in ("zzz", "mine", "cifar_resnet20"))


@pytest.mark.parametrize("arguments", [["--config-dir", "/no/such"], ["--config-dir=/no/such"], ["--config-dir"]])
def test_a_config_dir_that_is_not_there(arguments):
    with pytest.raises(ConfigError, match="no such folder"):
        with_config_dir(arguments)


@pytest.mark.fault(73)
def test_interpolations_read_values_of_the_configuration_and_nothing_else(direct, own, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "a secret")
    assert compose(with_config_dir(own(OWN + "description: lr ${train.lr}\n"))).description == "lr 0.05"
    assert compose(with_config_dir(own(OWN + "description: \\${oc.env:SECRET}\n"))).description == "${oc.env:SECRET}"
    for wrong in ("${${name}:SECRET}", "${oc.env:SECRET}", "\\\\${oc.env:SECRET}", "${oc.decode:'1'}",
                  "${hydra:runtime.cwd}", "${eval:1}"):
        words = own(OWN + f"description: {wrong}\n")
        says(direct("run", *words, "machine.device=cpu"), 2, f"description={wrong}")
    says(direct("run", *own(OWN + "reproduces: ['${oc.env:SECRET}']\n")), 2, "reproduces.0=${oc.env:SECRET}")
    says(direct("run", "experiment=cifar_resnet20", "data.root=${oc.env:SECRET}"), 2, "data.root=${oc.env:SECRET}")
    assert not (tmp_path / "results").exists()


@pytest.mark.fault(73)
@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["run", "sweep"])
def test_aliases_are_refused_before_they_are_spread_out(direct, own, flags):
    own("a: &a 1\nb: *a\n", "docker-compose.yaml")
    assert compose(with_config_dir(own(OWN))).train.lr == 0.05, "what is no configuration of ours is let be"
    bomb = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9 if n else ['x'] * 9)}]\n" for n in range(12))
    says(direct("run", *own(OWN + bomb), *flags), 2, "mine.yaml, line 9: an alias (*a0)")


@pytest.mark.fault(51)
@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["run", "sweep"])
def test_a_users_file_with_a_name_of_ours_is_refused_by_name(direct, own, tmp_path, flags):
    own(OWN)
    for name in ("experiment/cifar_resnet20.yaml", "data/cifar10.yaml", "config.yaml"):
        says(direct("run", *own(OWN, name), *flags), 2, f"{name}: {name.removesuffix('.yaml')} is a name of ours")
        (tmp_path / "own files, (mine)" / name).unlink()
    assert not (tmp_path / "results").exists()


@pytest.mark.fault(4, 60)
@pytest.mark.parametrize(("content", "words"), [
    (b"\xef\xbb\xbf" + OWN.encode(), ["begins with a byte order mark"]),
    (OWN.replace("  lr:", "\tlr:"), ["found character '\\t'", "line 7"]),
    (OWN.encode() + b'description: "\xe4"\n', ["no UTF-8"]),
    ("\ufeff".encode("utf-16") + OWN.encode("utf-16"), ["no UTF-8"]),
    (b"\x00\x01", ["unacceptable character"]),
    (OWN.replace("lr: 0.05", "lr: ["), ["line 8"]),
    (OWN.replace("lr: 0.05", "lr: 0.05\n  lr: 0.06"), ["duplicate key lr", "line 8"]),
    (OWN + "name: other\n", ["duplicate key name", "line 8"])])
def test_a_file_that_is_no_yaml_is_named(direct, own, tmp_path, content, words):
    flags = ["-m"] if isinstance(content, bytes) else []
    says(direct("run", *own(content), *flags), 2, "mine.yaml", *words)
    assert not (tmp_path / "results").exists()


@pytest.mark.fault(3, 4)
def test_a_wrong_type_in_a_file_is_named_with_file_key_and_what_is_allowed(direct, own):
    says(direct("run", *own(OWN.replace("0.05", "abc"))), 2, "experiment/mine: train.lr=abc: allowed is a number")


def test_folders_are_read_from_the_search_path(tmp_path):
    assert own_folders(["seed=1", "hydra.searchpath=['file:///a, b/ü']"]) == [Path("/a, b/ü")]
    assert own_folders(["seed=1"]) == []


@pytest.mark.fault(58)
def test_a_group_takes_one_name(direct, tmp_path):
    for words in (["machine=[auto,cpu]"], ["recipe=null"], ["-m", "recipe=null,paper"],
                  ["-m", "machine=[auto,cpu],gpu"], ["-m", "recipe=choice(null, paper)"]):
        says(direct("run", "experiment=cifar_resnet20", *words), 2, words[-1], "one name is allowed")
    assert not (tmp_path / "results").exists()


@pytest.fixture
def argparse_that_checks_help(monkeypatch):
    """Like Python 3.14's, which expands every help text; Hydra has objects that are no texts."""
    monkeypatch.setattr(argparse.ArgumentParser, "_check_help", lambda self, action: action.help % {}, raising=False)
    real = argparse.ArgumentParser.add_argument

    def add_argument(self, *names, **settings):
        action = real(self, *names, **settings)
        self._check_help(action)
        return action
    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", add_argument)


def test_hydras_flags_work_where_argparse_checks_help_texts(direct, argparse_that_checks_help):
    from hydra._internal.utils import get_args_parser

    with pytest.raises(TypeError):
        get_args_parser()
    outcome = direct("run", "experiment=cifar_resnet20", "--cfg", "job")
    assert (outcome.code, outcome.err) == (0, "")
    assert "family: residual" in outcome.out
