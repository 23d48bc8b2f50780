"""Records as they are read, where runs lie, and what is published of them."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repro import runs
from repro.config import compose, config_hash, paper_hashes, to_dict
from repro.errors import ConfigError
from repro.files import file_sha256
from repro.runs import EXTRA_FILES, PUBLISHED_FILES, publish, read_run, run_folder, scan
from tests.checks.made import put, write_record
from tests.outcome import says

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
              "config": CONFIG, "iterations": 20, "result": result}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "history.csv").write_text(f"{HEADER}\n10,0.1,80.0,82.5\n20,0.1,60.5,61.25\n")
    return folder


def test_a_finished_run_and_one_that_is_not(finished):
    run = read_run(finished)
    assert (run.experiment, run.seed, run.status, run.identity) == ("cifar_resnet20", 0, "finished", "0" * 12)
    assert (run.finished, run.problem, run.is_paper_run) == (True, None, False)
    assert run.history()[-1] == run.record.result
    put(finished, "interrupted", "status")
    run = read_run(finished)
    assert (run.status, run.problem, run.finished) == ("interrupted", None, False)


@pytest.mark.fault(40)
@pytest.mark.parametrize(("content", "word"), [
    ("{", "truncated"), ("[]", "no mapping"), ('{"experiment": "x"}', "Expected `object`"),
    ('{"seed": NaN}', "malformed"), ('{"config": ' + "[" * 5000, "recursion"),
])
def test_a_torn_or_foreign_record_is_a_problem_and_no_exception(finished, content, word):
    (finished / "run.json").write_text(content)
    run = read_run(finished)
    assert word in run.problem
    assert (run.record, run.finished, run.is_paper_run) == (None, False, False)
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


@pytest.mark.parametrize(("value", "path", "words"), [
    (2, ["schema"], "record of schema 2; this version reads up to 1"), (True, ["seed"], "got `bool` - at `seed`"),
    (1, ["paramters"], "`paramters`"), ("auto", ["config", "machine", "precision"], "machine.precision=auto"),
    (0.1, ["config", "train", "lrr"], "unknown key config.train.lrr; did you mean train.lr?"),
    ("8.75", ["result"], "at `result`"), ({}, ["result"], "differ"), ("main", ["sessions"], "at `sessions`"),
    (..., ["identity"], "identity"), (..., ["schema"], "schema"), (..., ["result"], "result")])
def test_a_record_of_another_form_is_named(finished, value, path, words):
    put(finished, value, *path)
    run = read_run(finished)
    assert (words in run.problem, run.finished) == (True, False)


@pytest.mark.parametrize("text", ["\x1b[31m", "\u202e", "\r"])
def test_a_record_with_a_text_that_moves_the_cursor_is_not_read(finished, text):
    put(finished, ['plain "ü" C:\\data \\"'], "deviations")
    assert read_run(finished).finished
    put(finished, [text], "deviations")
    assert read_run(finished).problem == "unreadable run.json or history.csv (a text that can't be printed)"


@pytest.mark.parametrize("history", [
    None, "", f"{HEADER}\n10,0.1,80.0,82.5\n", f"{HEADER}\n20,0.1,60.5,61.25\n",
    f"{HEADER}\n10,0.1,80.0,82.5\n20,0.1,60.5,61.25",  # torn: no end of line
    f"{HEADER}\n10,0.1,80.0,82.5\n20,0.1,60.5,61.2\n", f"null{HEADER}\n10,0.1,80.0,82.5\n20,0.1,60.5,61.25\n"])
def test_a_finished_record_must_agree_with_its_history(finished, history):
    (finished / "history.csv").unlink()
    if history is not None:
        (finished / "history.csv").write_text(history)
    run = read_run(finished)
    assert ("every evaluation" in run.problem or "differ" in run.problem, run.finished) == (True, False)


def test_a_history_that_was_changed_after_the_run_is_no_evidence(finished):
    history = finished / "history.csv"
    put(finished, file_sha256(history), "history_sha256")
    assert read_run(finished).finished
    history.write_text(history.read_text().replace("82.5", "82.4"))  # not the row that is the result
    run = read_run(finished)
    assert (run.problem, run.finished) == ("history.csv was changed after the run", False)


@pytest.mark.fault(76)
def test_scan_finds_runs_by_experiment_and_seed_and_nothing_else(tmp_path, finished):
    root = tmp_path / "runs"
    for name in ("cifar_resnet20/seed10", "cifar_resnet20/seed2", "cifar_plain20@abc/seed0", "cifar_plain20/seed0",
                 "cifar_resnet20/seed0.old-1", "cifar_resnet20/seedx", "odd\x1b[2J/seed0"):
        (root / name).mkdir(parents=True)
    (root / "stray.txt").write_text("")
    found = scan(root)
    assert [run.name for run in found] == [
        "cifar_plain20/seed0", "cifar_plain20@abc/seed0", "cifar_resnet20/seed0", "cifar_resnet20/seed2",
        "cifar_resnet20/seed10", "odd\\x1b[2J/seed0"], "as it can be printed"
    assert [run.problem for run in found].count("no run.json") == 5
    assert found[1].experiment == "cifar_plain20"
    assert scan(tmp_path / "none") == []


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_endless(folder: Path) -> None:
    put(folder, 2**62, "iterations")
    put(folder, 2**62, "config", "train", "iterations")
    put(folder, 1, "config", "evaluation", "interval")


@pytest.mark.fault(71)
def test_hostile_records_among_good_ones_stop_no_command(direct, tmp_path):
    root = tmp_path / "results" / "runs"
    folders = [write_record(root, seed=seed) for seed in range(7)]
    (folders[1] / "run.json").write_text('{"experiment": ' + "[" * 100_000)
    put(folders[2], None, "config", "data")
    make_endless(folders[3])
    make_pipe(folders[4] / "run.json")
    make_pipe(folders[5] / "history.csv")
    (folders[6] / "history.csv").write_text("1" * 200_000 + "\n")
    assert [run.finished for run in scan(root)] == [True] + 6 * [False]
    outcome = direct("table", "table6")
    assert outcome.code == 0
    assert "8.50" in outcome.out
    assert outcome.out.count(": incomplete: unreadable run.json") == 4
    assert outcome.out.count(": incomplete: history.csv") == 2
    assert direct("status").code == 0
    says(direct("show", str(folders[0]), "--against", str(folders[1])), 2, "unreadable run.json")


@pytest.mark.parametrize(("overrides", "paper"), [
    (["machine.precision=fp32"], True), (["machine.precision=bf16"], False),
    (["machine.precision=fp32", "scale=0.01"], False)])
def test_a_paper_run_has_its_experiments_plain_name_and_any_other_its_hash_too(tmp_path, overrides, paper):
    config = compose(["experiment=cifar_resnet20", "seed=3", f"results={tmp_path}", *overrides])
    name = "cifar_resnet20" if paper else f"cifar_resnet20@{config_hash(config)}"
    assert run_folder(config) == tmp_path / "runs" / name / "seed3"
    assert (config_hash(config) in paper_hashes("cifar_resnet20")) is paper


@pytest.fixture
def reference(tmp_path, monkeypatch) -> Path:
    """A folder in the place of results/reference."""
    monkeypatch.setattr(runs, "reference_dir", lambda: tmp_path / "reference")
    return tmp_path / "reference"


def test_a_record_is_copied_without_anything_heavy_and_another_one_stays(tmp_path, reference, capsys):
    folder = write_record(tmp_path / "results" / "runs")
    for name in ("weights.pt", "checkpoint-1.pt", "run.lock.soft"):
        (folder / name).write_text("x")
    timing = (folder / "timing.csv").rename(tmp_path / "timing.csv")
    with pytest.raises(FileNotFoundError):
        publish("cifar_resnet20/seed0", tmp_path / "results")
    assert not list((reference / "runs").glob("*/*/run.json"))
    timing.rename(folder / "timing.csv")
    target = publish("cifar_resnet20/seed0", tmp_path / "results")
    assert target == reference / "runs" / "cifar_resnet20" / "seed0"
    assert {path.name for path in target.iterdir()} == {*PUBLISHED_FILES, *EXTRA_FILES}
    assert read_run(target).record == read_run(folder).record
    assert publish(str(folder), tmp_path) == target, "the same run again"
    put(folder, 1.0, "train_seconds")
    with pytest.raises(ConfigError, match=r"holds a record already; .* delete the folder first"):
        publish(str(folder), tmp_path)


@pytest.mark.parametrize(("overrides", "value", "key", "words"), [
    ((), "interrupted", "status", "is not finished: interrupted"), ((), "0" * 12, "identity", "and identity differ"),
    (("data=synthetic",), "finished", "status", "is no evidence: synthetic images")])
def test_what_is_no_evidence_is_not_published(tmp_path, reference, overrides, value, key, words):
    folder = write_record(tmp_path, "cifar_resnet20", *overrides)
    put(folder, value, key)
    with pytest.raises(ConfigError, match=words):
        publish(str(folder), tmp_path)
    assert not reference.exists()
