"""Records as they are read, and where runs lie."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repro import runs
from repro.config import compose, config_hash, paper_hashes, to_dict, with_precision
from repro.files import read_history
from repro.runs import read_run, run_folder, scan
from repro.schema import Precision
from tests.data.conftest import ordinary_user

HEADER = "iteration,learning_rate,train_top1_error,test_top1_error"
CONFIG = to_dict(compose(["experiment=cifar_resnet20", "train.iterations=20", "train.lr_drops=[]",
                          "evaluation.interval=10", "machine.precision=fp32"]))


@pytest.fixture
def finished(tmp_path) -> Path:
    """The folder of a finished run of two evaluations."""
    folder = tmp_path / "runs" / "cifar_resnet20" / "seed0"
    folder.mkdir(parents=True)
    result = {"iteration": 20, "learning_rate": 0.1, "train_top1_error": 60.5, "test_top1_error": 61.25}
    record = {"schema": 1, "experiment": "cifar_resnet20", "seed": 0, "identity": "0" * 12, "status": "finished",
              "config": CONFIG, "iterations": 20,
              "result": result}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "history.csv").write_text(f"{HEADER}\n10,0.1,80.0,82.5\n20,0.1,60.5,61.25\n")
    return folder


def rewrite(folder: Path, **changes: object) -> None:
    """Replace keys of a record; a value of `...` removes the key."""
    record = json.loads((folder / "run.json").read_text()) | changes
    (folder / "run.json").write_text(json.dumps({k: v for k, v in record.items() if v is not ...}))


# ---- reading records

def test_a_finished_run(finished):
    run = read_run(finished)
    assert run.finished
    assert run.problem is None
    assert (run.experiment, run.seed, run.status, run.identity) == ("cifar_resnet20", 0, "finished", "0" * 12)
    assert not run.is_paper_run
    assert run.history()[-1] == run.record.result


@pytest.mark.fault(40)
@pytest.mark.parametrize(("content", "word"), [
    ("", "truncated"), ("{", "truncated"), ("[]", "no mapping"), ("null", "no mapping"),
    ('{"experiment": "x"}', "config is no section"), ("\x00\x00", "malformed"), ('{"seed": NaN}', "malformed"),
    ('{"config": ' + "[" * 5000, "recursion"),
])
def test_a_torn_or_foreign_record_is_a_problem_and_no_exception(finished, content, word):
    (finished / "run.json").write_text(content)
    run = read_run(finished)
    assert run.record is None
    assert word in run.problem
    assert not run.finished
    assert not run.is_paper_run
    assert (run.experiment, run.seed, run.status) == ("cifar_resnet20", 0, "unreadable")


@pytest.mark.fault(40)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(cut=st.integers(0, 10**6), data=st.binary(max_size=8))
def test_no_damage_to_a_record_raises_or_passes_for_another_result(finished, cut, data):
    whole = (finished / "run.json").read_bytes()
    cut %= len(whole)
    (finished / "run.json").write_bytes(whole[:cut] + data)
    run = read_run(finished)
    (finished / "run.json").write_bytes(whole)
    assert run.problem or run.record == json.loads(whole)


@pytest.mark.parametrize("key", ["experiment", "seed", "identity", "status", "config", "iterations", "schema",
                                 "result"])
def test_a_record_without_one_of_its_keys_does_not_count(finished, key):
    rewrite(finished, **{key: ...})
    run = read_run(finished)
    assert not run.finished
    assert key in run.problem


@pytest.mark.parametrize("result", [None, [], "8.75", 3])
def test_a_finished_record_without_a_result_does_not_count(finished, result):
    rewrite(finished, result=result)
    assert read_run(finished).problem
    assert not read_run(finished).finished


def test_a_newer_records_schema_is_named_and_not_guessed_at(finished):
    rewrite(finished, schema=2, status={"new": "form"})
    run = read_run(finished)
    assert run.record is None
    assert run.problem == "unreadable run.json or history.csv (record of schema 2; this version reads up to 1)"


@pytest.mark.parametrize(("history", "word"), [
    (None, "does not reach"), ("", "does not reach"), (f"{HEADER}\n", "does not reach"),
    (f"{HEADER}\n10,0.1,80.0,82.5\n", "does not reach"),
    (f"{HEADER}\n10,0.1,80.0,82.5\n20,0.1,60.5,61.25", "does not reach"),  # torn: no end of line
    (f"{HEADER}\n10,0.1,80.0,82.5\n20,0.1,60.5,61.2\n", "differ"),
    (f"{HEADER}\n10,0.1,80.0,82.5\n20,0.1,60.5\n", "does not reach"),
    (f"{HEADER}\n10,0.1,80.0,82.5\n20,0.1,60.5,61.25\n30,0.1,1,1\n", "does not reach"),
])
def test_a_finished_record_must_agree_with_its_history(finished, history, word):
    (finished / "history.csv").unlink()
    if history is not None:
        (finished / "history.csv").write_text(history)
    run = read_run(finished)
    assert word in run.problem
    assert not run.finished


def test_history_that_is_no_text_is_a_problem(finished):
    (finished / "history.csv").write_bytes(b"\xff\xfe\n\x00\n")
    assert read_run(finished).problem


@pytest.mark.fault(40)
@pytest.mark.parametrize("tail", ["3", "30", "30,", "30,0.1", "30,0.1,60.5,61.2", "30,0.1,abc,1\n", "30,0.1\n", "\x00",
                                  "30,0.1,1,2,3\n"])
def test_a_torn_last_line_of_a_history_is_dropped(finished, tail):
    path = finished / "history.csv"
    whole = read_history(path)
    path.write_text(path.read_text() + tail)
    assert read_history(path) == whole


def test_an_interrupted_run_is_no_problem_but_not_finished(finished):
    rewrite(finished, status="interrupted", result=...)
    run = read_run(finished)
    assert (run.status, run.problem, run.finished) == ("interrupted", None, False)


def test_scan_finds_runs_by_experiment_and_seed_and_nothing_else(tmp_path, finished):
    root = tmp_path / "runs"
    for name in ("cifar_resnet20/seed10", "cifar_resnet20/seed2", "cifar_plain20@abc/seed0", "cifar_plain20/seed0",
                 "cifar_resnet20/seed0.old-1", "cifar_resnet20/seedx", "cifar_resnet20/tensorboard"):
        (root / name).mkdir(parents=True)
    (root / "stray.txt").write_text("")
    found = [str(run.folder.relative_to(root)) for run in scan(root)]
    assert found == ["cifar_plain20/seed0", "cifar_plain20@abc/seed0", "cifar_resnet20/seed0", "cifar_resnet20/seed2",
                     "cifar_resnet20/seed10"]
    assert [run.problem for run in scan(root)].count("no run.json") == 4
    assert scan(root)[1].experiment == "cifar_plain20"


@pytest.mark.fault(76)
def test_folders_that_cant_be_read_or_printed_are_said_to_be_left_out(capsys):
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        root = Path(name)
        root.chmod(0o755)
        for folder in ("closed/seed0", "own/seed0", "odd\x1b[2J/seed0"):
            (root / folder).mkdir(parents=True)
        (root / "closed").chmod(0)
        with ordinary_user():
            found = [run.folder.parent.name for run in (*scan(root), *scan(root))]
        (root / "closed").chmod(0o755)
        assert found == ["own", "own"]
        said = capsys.readouterr().err
        assert f"{root}/closed is left out: Permission denied\n" in said
        assert f"{root}/odd\\x1b[2J is left out: its name has characters that can't be printed\n" in said
        assert said.count("left out") == 2


def test_scan_of_a_folder_that_is_not_there(tmp_path):
    assert scan(tmp_path / "none") == []


# ---- where a run lies

@pytest.mark.parametrize("precision", [Precision.fp32, Precision.tf32])
def test_a_paper_run_has_its_experiments_plain_name(tmp_path, precision):
    config = with_precision(compose(["experiment=cifar_resnet20", "seed=3", f"results={tmp_path}"]), precision)
    assert run_folder(config) == tmp_path / "runs" / "cifar_resnet20" / "seed3"


@pytest.mark.parametrize("override", ["machine.precision=bf16", "scale=0.01", "data.split=45k", "train.lr=0.05"])
def test_any_other_run_has_its_identity_in_its_folders_name(tmp_path, override):
    config = compose(["experiment=cifar_resnet20", f"results={tmp_path}", "machine.precision=fp32", override])
    assert config_hash(config) not in paper_hashes("cifar_resnet20")
    assert run_folder(config) == tmp_path / "runs" / f"cifar_resnet20@{config_hash(config)}" / "seed0"


def test_results_setting_beats_the_environment_which_beats_the_default(tmp_path, monkeypatch):
    overrides = ["experiment=cifar_resnet20", "machine.precision=fp32"]
    assert run_folder(compose(overrides)).is_relative_to(tmp_path / "results")
    assert run_folder(compose([*overrides, "results='a b/ü'"])).is_relative_to(Path.cwd() / "a b" / "ü")
    monkeypatch.delenv("REPRO_RESULTS")
    assert run_folder(compose(overrides)).is_relative_to(runs.results_dir())
