"""What Hydra offers on the command line works or says why not, and a configuration from elsewhere runs no code."""

import pytest

from repro.config import UserFiles, compose, deviations, with_config_dir
from repro.errors import ConfigError
from repro.runs import scan
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
CALLED = "{_target_: pathlib.Path.touch, self: MARK}"  # Hydra would create the file MARK
# What stands in OWN, what would stand there for Hydra to call something, and what is said.
CALLS = {
    "callback": ("name: mine", f"name: mine\nhydra: {{callbacks: {{x: {CALLED}}}}}", "hydra could run code"),
    "logging": ("name: mine", "name: mine\nhydra: {job_logging: {handlers: {x: {(): pathlib.Path.touch, self: MARK}}}}",
                "hydra could run code"),
    "package": ("# @package _global_", f"# @package hydra.callbacks\nx: {CALLED}", "hydra.callbacks could run code"),
    "override": ("override /model: residual", "override /hydra/launcher: joblib", "hydra/launcher could run code"),
    "package in the defaults": ("override /model: residual", "/extra@hydra.callbacks: bad", "could run code"),
    "folder above": ("override /model: residual", "override /model: ../extra/bad", "../extra/bad could run code"),
    "absolute path": ("override /model: residual", "//tmp: bad", "//tmp could run code"),
    "interpolation": ("override /model: residual", "/extra: ${name}", "could run code"),
    "target": ("lr: 0.05", "_target_: pathlib.Path.touch", "_target_"),
    "yaml": ("name: mine", "name: !!python/object/apply:pathlib.Path.touch [MARK]", "python/object"),
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
    (["experiment=cifar_plain20", "seed=range(2)"], [("cifar_plain20", 0), ("cifar_plain20", 1)]),
    (["experiment=glob(cifar_*20)"], [("cifar_plain20", 0), ("cifar_resnet20", 0)])])
def test_a_sweep_has_a_job_for_each_combination(here, launched, words, expected):
    outcome = here("run", "-m", *words)
    assert (outcome.code, launched) == (0, expected), outcome.err


@pytest.mark.parametrize("word", ["experiment=glob(cifar_nope*)", "seed=range(3,3)"])
def test_a_sweep_over_nothing_is_an_error(here, launched, word):
    says(here("run", "-m", "experiment=cifar_plain20", word), 2, word, "matches nothing")
    assert launched == []


def test_a_sweep_takes_a_users_files_by_glob_too_and_writes_where_it_is_told(here, own, launched, tmp_path):
    place = own(OWN)[:2]
    words = ["experiment=glob([cifar_resnet20,mi*])", "hydra.sweep.dir=there", "hydra/launcher=basic"]
    assert here("run", "-m", *place, *words).code == 0
    assert launched == [("cifar_resnet20", 0), ("mine", 0)]
    assert (tmp_path / "there" / "multirun.yaml").is_file()
    assert not (tmp_path / "results").exists()


def test_the_joblib_launcher_runs_the_jobs(here, own, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="hydra-joblib-launcher is not installed")
    words = [word for word in TINY if "iterations" not in word and "experiment" not in word]
    outcome = here("run", "-m", *own(OWN), *words, "data=synthetic", "train.iterations=2", "train.lr_drops=[]",
                   "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert outcome.code == 0, outcome.err
    assert [run.finished for run in scan(tmp_path / "results" / "runs")] == [True, True]


@pytest.mark.parametrize(("words", "printed"), [
    (["--cfg", "hydra"], "sweeper:"), (["-c", "all", "--resolve"], "lr: 0.1"), (["--info"], "train:"),
    (["--cfg", "job", "--package", "model"], "family: residual"),
    (["--cfg", "job", "machine=cpu", "++seed=3"], "precision: fp32"),
    (["--cfg", "job", "description=lr ${train.lr}", "--resolve"], "description: lr 0.1")])
def test_hydras_own_flags(here, words, printed):
    outcome = here("run", "experiment=cifar_resnet20", *words)
    assert (outcome.code, outcome.err) == (0, "")
    assert printed in outcome.out


def test_what_does_not_work_says_so_and_is_2(here):
    for words, said in ((["--cfg", "nope"], "invalid choice: 'nope'"), (["-m", "+seed=5"], "remove + prefix: 'seed=5'"),
                        (["-m", "hydra/launcher=submitit"], "no hydra/launcher 'submitit'")):
        outcome = here("run", "experiment=cifar_resnet20", *words)
        assert outcome.code == 2
        assert said in outcome.err


# ---- files of the user's

def test_an_experiment_in_a_users_folder_composes_and_is_no_paper_run(own):
    config = compose(with_config_dir([*own(OWN), "seed=3"]))
    assert (config.name, config.model.depth, config.train.lr, config.seed) == ("mine", 26, 0.05, 3)
    assert config.train.iterations == 64000
    assert deviations(config) == ["mine: an experiment of your own"]
    for wrong in (["--config-dir", "/no/such"], ["--config-dir=/no/such"], ["--config-dir"]):
        with pytest.raises(ConfigError, match="no such folder"):
            with_config_dir(wrong)


@pytest.mark.fault(3, 4, 5)
@pytest.mark.parametrize(("old", "new", "words"), [
    ("lr: 0.05", "lrr: 0.05", ["experiment/mine", "train.lrr"]),
    ("blocks_per_stage: 4", "blocks_per_stage: '???'", ["no value for model.blocks_per_stage"]),
    ("model: residual", "model: residul", ["no model 'residul'; did you mean residual?"]),
    ("lr: 0.05", "lr: -1", ["train.lr=-1", "allowed"]),
    ("0.05", "abc", ["experiment/mine", "train.lr: allowed is float"]),
    ("  lr:", "\tlr:", ["mine.yaml", "found character '\\t'", "line 7"]),
    ("lr: 0.05", "lr: 0.05\n  lr: 0.06", ["mine.yaml", "duplicate key lr", "line 8"]),
    ("mine\n", "\xe4\n", ["mine.yaml", "'utf-8' codec"])])
def test_a_mistake_in_a_users_file_is_named(own, old, new, words):
    assert old in OWN
    with pytest.raises(ConfigError) as caught:
        compose(with_config_dir(own(OWN.replace(old, new, 1).encode("latin-1"))))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.fault(51)
@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["run", "sweep"])
def test_a_users_file_with_a_name_of_ours_is_refused_by_name(here, own, tmp_path, flags):
    own(OWN)
    for name in ("experiment/cifar_resnet20.yaml", "data/cifar10.yaml", "config.yaml"):
        says(here("run", *own(OWN, name), *flags), 2, f"{name}: this is a name of ours")
        (tmp_path / "own files, (mine)" / name).unlink()
    says(here("run", *own("", "hydra/launcher/basic.yaml"), *flags), 2, "own files, (mine)/hydra")
    assert not (tmp_path / "results").exists()


@pytest.mark.fault(60, 73)
def test_interpolations_read_values_of_the_configuration_and_nothing_else(here, own, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "a secret")
    own("a: &a 1\nb: *a\n", "docker-compose.yaml")  # which is no configuration of ours, so that nobody reads it
    assert compose(with_config_dir(own(OWN + "description: lr ${train.lr}\n"))).description == "lr 0.05"
    for wrong in ("${${name}:SECRET}", "${oc.env:SECRET}", "\\\\${oc.env:SECRET}", "${hydra:runtime.cwd}",
                  '"\\x24{oc.env:SECRET}"'):
        says(here("run", *own(OWN + f"description: {wrong}\n")), 2, "SECRET}" if "SEC" in wrong else "cwd", "record")
    says(here("run", "experiment=cifar_resnet20", "data.root=${oc.env:SECRET}"), 2, "${oc.env:SECRET}: would record")
    says(here("run", *own(OWN + "x: &x [1]\ny: [*x, *x]\n"), "-m"), 2, "mine.yaml: has an alias")
    assert not (tmp_path / "results").exists()


# ---- nothing is called

@pytest.mark.fault(4)
@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["run", "sweep"])
@pytest.mark.parametrize("call", CALLS)
def test_a_users_file_that_would_call_something_is_refused_and_nothing_is_called(here, own, tmp_path, call, flags):
    mark, (old, new, said) = tmp_path / "executed", CALLS[call]
    assert old in OWN
    own(f"x: {CALLED}\n".replace("MARK", str(mark)), "extra/bad.yaml")
    says(here("run", *own(OWN.replace(old, new).replace("MARK", str(mark))), *flags), 2, said)
    assert not mark.exists()
    assert not (tmp_path / "results").exists()


@pytest.mark.fault(4)
@pytest.mark.parametrize("swept", ["experiment=cifar_resnet20,mine", "experiment=glob([cifar_plain20,mi*])"])
def test_every_file_that_a_sweep_uses_is_read_before_it_begins(here, own, launched, swept):
    says(here("run", *own(OWN + "hydra: {callbacks: {}}\n")[:2], swept, "-m"), 2, "hydra could run code")
    assert launched == []


@pytest.mark.fault(4)
def test_without_the_guard_hydra_would_have_called_it(here, own, tmp_path, monkeypatch, launched):
    """The control: the same file, with the check left out."""
    monkeypatch.setattr(UserFiles, "load_config", UserFiles.__base__.load_config)
    mark, (old, new, _) = tmp_path / "executed", CALLS["callback"]
    with pytest.warns(UserWarning, match="Callback NoneType"):
        here("run", *own(OWN.replace(old, new).replace("MARK", str(mark))), "-m")
    assert mark.exists()


@pytest.mark.fault(4)
@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["run", "sweep"])
def test_an_override_that_could_run_code_is_refused_before_hydra_sees_it(here, tmp_path, monkeypatch, flags):
    monkeypatch.setattr("hydra.main", None)
    monkeypatch.setattr("hydra.compose", None)
    for override in (
            "+hydra.callbacks.x._target_=os.getcwd", "hydra/callbacks=x", "hydra/job_logging=default",
            "++hydra.job_logging.handlers.x={}", "hydra.job.env_set.LD_PRELOAD=x", "hydra.run.dir=x",
            "hydra.searchpath=[pkg://os]", "++hydra.searchpath=['user:///tmp',pkg://os]", "hydra.searchpath=[/tmp]",
            "+hydra.sweeper.params.experiment=a", "hydra.launcher._target_=os.getcwd", "hydra/launcher=../../x",
            "+hydra.sweeper.x={_target_:os.getcwd}", "+_target_=os.getcwd", "train._target_=os.getcwd",
            "+model@hydra.callbacks=mine", "model=../../x"):
        says(here("run", "experiment=cifar_resnet20", override, *flags), 2, override.lstrip("+").partition("=")[0])
    for flag in ("--experimental-rerun=x.pickle", "--config-path=/tmp", "-cp=/tmp", "--config-name=x",
                 "--experimental-re=x"):  # which unpickle or name another main file
        says(here("run", "experiment=cifar_resnet20", flag, *flags), 2, flag.partition("=")[0])
    assert not (tmp_path / "results").exists()


@pytest.mark.fault(58)
def test_a_group_takes_one_name(here, tmp_path):
    for words in (["machine=[auto,cpu]"], ["recipe=null"], ["-m", "recipe=choice(null, paper)"]):
        says(here("run", "experiment=cifar_resnet20", *words), 2, words[-1], "one name is allowed")
    assert not (tmp_path / "results").exists()
