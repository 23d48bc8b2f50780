"""What Hydra offers on the command line works or says why not, and a configuration from elsewhere runs no code."""

import argparse

import pytest

from repro.config import compose, config_hash, deviations, paper_hashes, to_dict, with_config_dir, with_precision
from repro.errors import ConfigError
from repro.hydra_cli import PLAIN, compositions
from repro.runs import scan
from repro.schema import Precision
from tests.made_cli import TINY
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
    "launcher": "hydra: {launcher: {x: {_target_: pathlib.Path.touch, self: MARK}}}",
    "sweeper": "hydra: {sweeper: {params: {x: {_target_: pathlib.Path.touch, self: MARK}}}}",
    "environment": "hydra: {job: {env_set: {LD_PRELOAD: MARK}}}",
    "target": "data: {_target_: pathlib.Path.touch}",
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


# ---- what a user of Hydra expects

@pytest.fixture
def launched(monkeypatch):
    """(experiment, seed) of the runs that would be done."""
    found = []
    monkeypatch.setattr("repro.training.train.run", lambda plan: found.append((plan.config.name, plan.config.seed)))
    return found


@pytest.mark.parametrize(("words", "expected"), [
    (["experiment=cifar_plain20,cifar_resnet20", "seed=1"], [("cifar_plain20", 1), ("cifar_resnet20", 1)]),
    (["experiment=cifar_plain20", "seed=range(3)"], [("cifar_plain20", seed) for seed in range(3)]),
    (["experiment=cifar_plain20", "seed=choice(4, 2)"], [("cifar_plain20", 4), ("cifar_plain20", 2)]),
    (["experiment=glob(cifar_*20)"], [("cifar_plain20", 0), ("cifar_resnet20", 0)]),
    (["experiment=cifar_plain20", "machine=auto,cpu", "+seed=5"], None)])
def test_a_sweep_has_a_job_for_each_combination(here, launched, words, expected):
    outcome = here("run", "-m", *words)
    if expected is None:
        says(outcome, 2, "remove + prefix: 'seed=5'")
    else:
        assert (outcome.code, launched) == (0, expected), outcome.err


@pytest.mark.parametrize("word", ["experiment=glob(cifar_nope*)", "seed=range(3,3)"])
def test_a_sweep_over_nothing_is_an_error(here, launched, word):
    says(here("run", "-m", "experiment=cifar_plain20", word), 2, word, "matches nothing")
    assert launched == []


def test_a_sweep_takes_a_users_files_by_glob_too_and_writes_where_it_is_told(here, own, launched, tmp_path):
    place = own(OWN)[:2]
    assert here("run", "-m", *place, "experiment=glob([cifar_resnet20,mi*])", "hydra.sweep.dir=there").code == 0
    assert launched == [("cifar_resnet20", 0), ("mine", 0)]
    assert (tmp_path / "there" / "multirun.yaml").is_file()
    assert not (tmp_path / "results").exists()


def test_the_joblib_launcher_runs_the_jobs(here, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="hydra-joblib-launcher is not installed")
    words = [word for word in TINY if "iterations" not in word]
    outcome = here("run", "-m", *words, "data=synthetic", "train.iterations=2", "train.lr_drops=[]", "seed=0,1",
                   "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert outcome.code == 0, outcome.err
    assert [run.finished for run in scan(tmp_path / "results" / "runs")] == [True, True]


@pytest.mark.parametrize(("words", "printed"), [
    (["--cfg", "job"], "family: residual"), (["--cfg", "hydra"], "sweeper:"), (["-c", "all", "--resolve"], "lr: 0.1"),
    (["--cfg", "job", "-p", "train"], "lr: 0.1"), (["--cfg", "job", "--package", "model"], "family: residual"),
    (["--info"], "train:"), (["--cfg", "job", "machine=cpu", "++seed=3"], "precision: fp32"),
    (["--cfg", "job", "description=lr ${train.lr}", "--resolve"], "description: lr 0.1")])
def test_hydras_own_flags(here, words, printed):
    outcome = here("run", "experiment=cifar_resnet20", *words)
    assert (outcome.code, outcome.err) == (0, "")
    assert printed in outcome.out


@pytest.mark.parametrize(("words", "said"), [
    (["-p", "nope", "--cfg", "job"], "package 'nope' not found"), (["--cfg", "nope"], "invalid choice: 'nope'"),
    (["~seed"], "~seed: a run needs seed"), (["-cn", "mine"], "no flag '-cn'"),
    (["--multirun", "hydra/launcher=submitit"], "hydra/launcher/submitit")])
def test_what_does_not_work_says_so_and_is_2(here, words, said):
    outcome = here("run", "experiment=cifar_resnet20", *words)
    assert outcome.code == 2
    assert said in outcome.err


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


def test_hydras_flags_work_where_argparse_checks_help_texts(here, argparse_that_checks_help):
    from hydra._internal.utils import get_args_parser

    with pytest.raises(TypeError):
        get_args_parser()
    assert "family: residual" in here("run", "experiment=cifar_resnet20", "--cfg", "job").out


# ---- files of the user's

def test_an_experiment_in_a_users_folder_composes_and_is_no_paper_run(own):
    config = with_precision(compose(with_config_dir([*own(OWN), "seed=3"])), Precision.fp32)
    assert (config.name, config.model.depth, config.train.lr, config.seed) == ("mine", 26, 0.05, 3)
    assert config.train.iterations == 64000
    assert config_hash(config) not in paper_hashes("mine")
    assert deviations(config) == ["mine: an experiment of your own"]


@pytest.mark.fault(3, 4, 5)
@pytest.mark.parametrize(("old", "new", "words"), [
    ("lr: 0.05", "lrr: 0.05", ["experiment/mine", "train.lrr"]),
    ("blocks_per_stage: 4", "blocks_per_stage: '???'", ["no value for model.blocks_per_stage"]),
    ("model: residual", "model: residul", ["model/residul"]),
    ("lr: 0.05", "lr: -1", ["train.lr=-1", "allowed"]),
    ("0.05", "abc", ["experiment/mine: train.lr=abc: allowed is a number"]),
    ("  lr:", "\tlr:", ["mine.yaml", "found character '\\t'", "line 7"]),
    ("lr: 0.05", "lr: [", ["mine.yaml", "line 8"]),
    ("lr: 0.05", "lr: 0.05\n  lr: 0.06", ["mine.yaml", "duplicate key lr", "line 8"]),
    ("mine\n", "\xe4\n", ["mine.yaml", "no UTF-8"])])
def test_a_mistake_in_a_users_file_is_named(own, old, new, words):
    assert old in OWN
    with pytest.raises(ConfigError) as caught:
        compose(with_config_dir(own(OWN.replace(old, new, 1).encode("latin-1"))))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("arguments", [["--config-dir", "/no/such"], ["--config-dir=/no/such"], ["--config-dir"]])
def test_a_config_dir_that_is_not_there(arguments):
    with pytest.raises(ConfigError, match="no such folder"):
        with_config_dir(arguments)


@pytest.mark.fault(51)
@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["run", "sweep"])
def test_a_users_file_with_a_name_of_ours_is_refused_by_name(here, own, tmp_path, flags):
    own(OWN)
    for name in ("experiment/cifar_resnet20.yaml", "data/cifar10.yaml", "config.yaml"):
        says(here("run", *own(OWN, name), *flags), 2, f"{name}: {name.removesuffix('.yaml')} is a name of ours")
        (tmp_path / "own files, (mine)" / name).unlink()
    says(here("run", *own("", "hydra/launcher/basic.yaml"), *flags), 2, "own files, (mine)/hydra")
    assert not (tmp_path / "results").exists()


@pytest.mark.fault(60, 73)
def test_interpolations_read_values_of_the_configuration_and_nothing_else(here, own, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "a secret")
    assert compose(with_config_dir(own(OWN + "description: lr ${train.lr}\n"))).description == "lr 0.05"
    for wrong in ("${${name}:SECRET}", "${oc.env:SECRET}", "\\\\${oc.env:SECRET}", "${hydra:runtime.cwd}"):
        says(here("run", *own(OWN + f"description: {wrong}\n")), 2, wrong, "would be recorded")
    says(here("run", "experiment=cifar_resnet20", "data.root=${oc.env:SECRET}"), 2, "${oc.env:SECRET}: a")
    own("a: &a 1\nb: *a\n", "docker-compose.yaml")
    assert compose(with_config_dir(own(OWN))).train.lr == 0.05, "what is no configuration of ours is let be"
    says(here("run", *own(OWN + "x: &x [1]\ny: [*x, *x]\n"), "-m"), 2, "mine.yaml: has an alias")
    assert not (tmp_path / "results").exists()


# ---- nothing is called

@pytest.mark.fault(4)
@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["run", "sweep"])
@pytest.mark.parametrize("call", CALLS)
def test_a_users_file_that_would_call_something_is_refused_and_nothing_is_called(here, own, tmp_path, call, flags):
    mark = tmp_path / "executed"
    outcome = here("run", *own(OWN + CALLS[call].replace("MARK", str(mark)) + "\n"), *flags)
    says(outcome, 2)
    assert any(word in outcome.err for word in ("could run code", "_target_", "python/object", "not in 'Basic"))
    assert not mark.exists()
    assert not (tmp_path / "results").exists()


@pytest.mark.fault(4)
def test_every_file_that_a_sweep_may_use_is_checked_before_it_begins(here, own, tmp_path):
    bad = CALLS["logging"].replace("MARK", str(tmp_path / "executed"))
    words = own(OWN + bad + "\n")[:2]
    for swept in (["experiment=cifar_resnet20,mine"], ["experiment=choice(cifar_resnet20, mine)"],
                  ["experiment=glob(mi*)"], ["recipe=fb,paper", "experiment=mine", "seed=range(3)"]):
        says(here("run", *words, *swept, "-m"), 2, "hydra.job_logging", "could run code")
    own(f"x: {{_target_: pathlib.Path.touch, self: {tmp_path / 'executed'}}}\n", "extra/bad.yaml")
    says(here("run", *own(OWN.replace("defaults:\n", "defaults:\n  - /extra@hydra.callbacks: bad\n")), "-m"), 2,
         "hydra.callbacks", "could run code")
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "results").exists()


def test_the_compositions_of_files_that_a_sweep_uses():
    assert compositions(["experiment=a,b", "train.lr=1,2", "recipe=paper,fb", "seed=3"]) == [["seed=3", PLAIN], *(
        ["seed=3", f"experiment={name}", f"recipe={recipe}"] for name in "ab" for recipe in ("paper", "fb"))]


@pytest.mark.fault(4)
def test_without_the_guard_hydra_would_have_called_it(here, own, tmp_path, monkeypatch, launched):
    """The control: the same file, with the check left out."""
    monkeypatch.setattr("repro.hydra_cli.refuse_code", lambda node, plain: None)
    mark = tmp_path / "executed"
    with pytest.warns(UserWarning, match="Callback NoneType"):
        here("run", *own(OWN + CALLS["callback"].replace("MARK", str(mark)) + "\n"), "-m")
    assert mark.exists()


@pytest.mark.fault(4)
@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["run", "sweep"])
def test_an_override_that_could_run_code_is_refused_before_hydra_sees_it(here, tmp_path, monkeypatch, flags):
    monkeypatch.setattr("hydra.main", None)
    monkeypatch.setattr("repro.config.hydra_compose", None)
    for override in (
            "+hydra.callbacks.x._target_=os.getcwd", "hydra/callbacks=x", "hydra/job_logging=default",
            "++hydra.job_logging.handlers.x={}", "hydra.job.env_set.LD_PRELOAD=x", "hydra.run.dir=x",
            "hydra.searchpath=[pkg://os]", "++hydra.searchpath=['file:///tmp',pkg://os]", "hydra.searchpath=pkg://os",
            "+hydra.sweeper.params.experiment=a", "hydra.launcher._target_=os.getcwd",
            "+hydra.sweeper.x={_target_:os.getcwd}", "+_target_=os.getcwd", "train._target_=os.getcwd"):
        says(here("run", "experiment=cifar_resnet20", override, *flags), 2, override.lstrip("+").partition("=")[0])
    for flag in ("--experimental-rerun=x.pickle", "--config-path=/tmp", "-cp=/tmp", "--config-name=x",
                 "--experimental-re=x"):  # which unpickle or name another main file
        says(here("run", "experiment=cifar_resnet20", flag, *flags), 2, flag.partition("=")[0])
    assert not (tmp_path / "results").exists()


def test_a_sweep_may_name_its_folder_sweeper_and_launcher():
    settings = ["hydra.sweep.dir=x", "hydra/launcher=basic", "hydra/sweeper=basic", "hydra.verbose=false"]
    assert to_dict(compose(["experiment=cifar_resnet20", *settings])) == to_dict(compose(["experiment=cifar_resnet20"]))


@pytest.mark.fault(58)
def test_a_group_takes_one_name(here, tmp_path):
    for words in (["machine=[auto,cpu]"], ["recipe=null"], ["-m", "recipe=choice(null, paper)"]):
        says(here("run", "experiment=cifar_resnet20", *words), 2, words[-1], "one name is allowed")
    assert not (tmp_path / "results").exists()
