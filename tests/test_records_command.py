"""`repro verify-record`: what it prints, its exit codes, and that it needs no torch."""

import json
import os
import shutil
from pathlib import Path

import pytest

from repro.paths import reference_dir
from tests.outcome import says
from tests.records.made import put, write_record

COMMITTED = sorted((reference_dir() / "runs").glob("*/seed*"))


@pytest.fixture
def record(tmp_path) -> Path:
    """A record of a run of the paper, in which everything agrees."""
    return write_record(tmp_path / "sent")


def test_a_good_record_is_shown_check_by_check_with_what_it_would_be(direct, record):
    outcome = direct("verify-record", str(record))
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0] == "sent/cifar_resnet20/seed0"
    assert lines[1] == "  ok       files: known plain files only, of a record's size"
    assert lines[-1] == ("  ok       counts as: a run of the paper: row ResNet-20 in Table 6: would be shown beside "
                         "8.75 %")


def test_all_committed_records_at_once(direct):
    outcome = direct("verify-record", *map(str, COMMITTED))
    assert outcome.code == 0
    assert outcome.out.count("counts as: ") == len(COMMITTED) >= 5
    assert "warning" not in outcome.out


def test_a_failed_check_is_exit_4_and_named(direct, record):
    put(record, "0" * 64, "data", "sha256")
    outcome = direct("verify-record", str(record), str(COMMITTED[0]))
    says(outcome, 4, "sent/cifar_resnet20/seed0: checks that fail: data")
    assert "  FAIL     data: the images have SHA-256 000000000000" in outcome.out
    assert outcome.out.splitlines()[-1].startswith("  ok       counts as: not a paper run"), "the others are shown too"


def test_a_warning_is_shown_and_exit_0(direct, record):
    put(record, True, "sessions", 0, "dirty")
    outcome = direct("verify-record", str(record))
    assert (outcome.code, outcome.err) == (0, "")
    assert "  warning  code: session 1: the tree had uncommitted changes" in outcome.out


def test_the_same_findings_as_json(direct, record):
    put(record, 1, "parameters")
    outcome = direct("verify-record", "--json", str(record))
    says(outcome, 4, "checks that fail: parameters")
    one, = json.loads(outcome.out)
    assert one["folder"] == "sent/cifar_resnet20/seed0"
    assert ("deviations", "ok", "those of the configuration: none") in [
        (found["check"], found["status"], found["text"]) for found in one["findings"]]
    assert one["findings"][-1]["check"] == "counts as"


def test_records_that_are_sent_together_and_committed_ones_are_compared(direct, record, tmp_path):
    twin = tmp_path / "twin" / "seed0"
    shutil.copytree(record, twin)
    outcome = direct("verify-record", str(record), str(twin))
    assert outcome.code == 0
    assert "it shares history.csv, responses.csv, gradients.csv, the weights' SHA-256 with twin/seed0" in outcome.out
    assert "the weights' SHA-256 with cifar_resnet20/seed0" in outcome.out
    copied = tmp_path / "copied" / "seed0"
    shutil.copytree(COMMITTED[0], copied)
    assert f" with {COMMITTED[0].parent.name}/seed0: the same run" in direct("verify-record", str(copied)).out


def test_what_is_no_folder_or_too_large_is_refused(direct, record):
    says(direct("verify-record", str(record / "nowhere")), 2, "seed0/nowhere")
    says(direct("verify-record"), 2, "FOLDER")
    for number in range(200):
        (record / f"x{number}").touch()
    says(direct("verify-record", str(record)), 5, "more than 100 entries")


def hostile(folder, kind):
    """Make a record of a run's folder one that does harm where it is read carelessly."""
    if kind == "nested":
        (folder / "run.json").write_text('{"experiment": ' + "[" * 100_000)
    elif kind == "null":
        put(folder, None, "config", "data")
    elif kind == "huge":
        put(folder, "1e9999999", "config", "scale")
    elif kind == "endless":
        put(folder, 2**62, "iterations")
        put(folder, 2**62, "config", "train", "iterations")
        put(folder, 1, "config", "evaluation", "interval")
        with (folder / "history.csv").open("a") as file:
            file.write(f"{2**62},0.1,1,1,1,1\n")
    elif kind == "long field":
        with (folder / "history.csv").open("a") as file:
            file.write("1" * 200_000 + "\n")
    elif kind == "binary tail":
        with (folder / "history.csv").open("ab") as file:
            file.write(b"\xff\x00\xfe\n")
    else:
        (folder / kind).unlink()
        os.mkfifo(folder / kind)


@pytest.mark.slow
@pytest.mark.fault(71, 76)
def test_hostile_records_among_good_ones_stop_no_command(direct, tmp_path):
    from repro.reporting.select import pools
    from repro.reporting.status import FINISHED, lacking

    kinds = ["nested", "null", "huge", "endless", "long field", "binary tail", "run.json", "history.csv"]
    results = tmp_path / "results"
    good = write_record(results / "runs")
    put(good, "$\\input{x}$ \x1b[31m", "environment", "device")
    for seed, kind in enumerate(kinds, 1):
        hostile(write_record(results / "runs", seed=seed), kind)
    (results / "runs" / "a\x1b[2J" / "seed0").mkdir(parents=True)
    (results / "exported").mkdir()
    os.mkfifo(results / "exported" / "a.pt")
    shown = [direct(*words) for words in (
        ["table", "all"], ["figure", "figure6"], ["status"], ["claims"], ["report"], ["weights", "list"],
        ["show", str(good), "--against", str(good)])]
    assert [outcome.code for outcome in shown] == [0] * len(shown), shown
    assert not [outcome for outcome in shown if "\x1b" in outcome.out + outcome.err]
    table = direct("table", "table6").out
    assert "8.50" in table
    assert table.count(": incomplete: unreadable run.json") == 5
    assert table.count(": incomplete: history.csv") == 3
    assert FINISHED in [one["state"] for one in lacking(*pools(results, tmp_path))]
    found = direct("verify-record", str(good), str(good.with_name("seed2")))
    says(found, 4, "checks that fail")
    assert "\x1b" not in found.out + found.err
    says(direct("show", str(good), "--against", str(good.with_name("seed1"))), 2, "unreadable run.json")
    assert r"$\input{x}$ \x1b[31m" in (results / "figures" / "figure6.svg").read_text()
