"""`repro table`, and `--strict`, on runs that are missing, unfinished, failed, foreign or doubled."""

import json
import shutil

import pytest

from repro import paths
from tests.outcome import says


@pytest.fixture
def table6(direct, reference, monkeypatch):
    """`table6("--strict")`: the command on the made-up results and no committed runs."""
    monkeypatch.setattr(paths, "reference_dir", lambda: reference)
    return lambda *flags: direct("table", "table6", *flags)


def rows(table6) -> dict[str, dict]:
    outcome = table6("--json")
    assert (outcome.code, outcome.err) == (0, "")
    return {row["key"]: row for row in json.loads(outcome.out)["rows"]}


@pytest.mark.fault(41)
def test_no_runs_at_all(table6):
    assert {row["cells"]["yours"] for row in rows(table6).values() if row["status"] != "published only"} == {"not run"}
    says(table6("--strict"), 4, "table6: rows that lack runs: resnet-20: not run")


@pytest.mark.fault(41)
def test_runs_that_do_not_count_are_told_and_a_table_of_them_is_0_and_strictly_4(table6, results, make_run):
    for seed in (0, 1):
        make_run(results, "cifar_resnet110", seed, test=6.5 + seed / 100)
    make_run(results, "cifar_resnet20", 0, status="diverged")
    make_run(results, "cifar_resnet32", 0, change={"schema": 99})
    torn = make_run(results, "cifar_resnet44", 0)
    (torn / "run.json").write_text('{"experiment": "cifar_resnet44", "se')
    make_run(results, "cifar_resnet56", 0, test=6.9)
    shutil.copytree(results / "runs" / "cifar_resnet56" / "seed0", results / "runs" / "cifar_resnet56" / "seed7")
    found = rows(table6)
    assert found["resnet-110"]["status"] == "partial 2/5"
    assert [found[f"resnet-{layers}"]["status"] for layers in (20, 32, 44)] == ["incomplete"] * 3
    assert [one["seed"] for one in found["resnet-56"]["data"]["yours"]["seeds"]] == [0], "the copy counts once"
    text = table6().out
    for word in ("diverged", "schema 99", "unreadable run.json", "seed7"):
        assert word in text
    says(table6("--strict"), 4, "resnet-20: incomplete", "resnet-32: incomplete", "resnet-44: incomplete",
         "resnet-110: partial 2/5", "resnet-1202: not run")
    assert "resnet-56" not in table6("--strict").err


@pytest.mark.fault(41)
def test_a_table_that_lacks_nothing_and_has_nothing_worse_is_0_strictly_too(table6, results, make_run):
    for layers, error in ((20, 8.75), (32, 7.51), (44, 7.17), (56, 6.97), (1202, 7.93)):
        make_run(results, f"cifar_resnet{layers}", 0, test=error)
    for seed in range(5):
        make_run(results, "cifar_resnet110", seed, test=6.59 + seed / 100)
    assert table6("--strict").code == 0
    make_run(results, "cifar_resnet20", 0, test=12.0)
    says(table6("--strict"), 4, "table6: worse than published: resnet-20")
