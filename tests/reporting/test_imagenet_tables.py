"""Tables 1 to 5 from made-up records: what stands beside the published numbers, and why a cell has none."""

import json
import shutil
from pathlib import Path

import pytest

from repro.config import paper_hashes
from repro.paper import published_table
from repro.reporting import tables
from repro.reporting.select import pools
from tests.outcome import says
from tests.reporting.conftest import statuses, write_ensemble, write_evaluation

OPT_A, OPT_B = "imagenet_optA", "imagenet_optB"
TRAINED = {"table2": 4, "table3": 7, "table4": 5}


def row(table: tables.Table, key: str) -> tables.TableRow:
    """The row of this key."""
    return next(row for row in table.rows if row.key == key)


def notes(table: tables.Table) -> str:
    """All notes as one text."""
    return "\n".join(table.notes)


def test_without_runs_every_trained_row_is_not_run(results: Path, reference: Path):
    for name, count in TRAINED.items():
        table = tables.build(name, pools(results, reference))
        assert list(statuses(table).values()).count("not run") == count
        assert {row.key for row in table.rows if row.status == "published only"} == {
            row.key for row in published_table(name).rows if row.published_only}
        assert table.worse == []
        cells = row(table, {"table2": "resnet-34", "table3": "resnet-34-b", "table4": "resnet-34-b"}[name]).cells
        assert (cells["yours_top1_error"], cells["reference_top1_error"], cells["verdict"]) == ("not run",) * 3
    assert statuses(tables.build("table5", pools(results, reference)))["resnet-ilsvrc15"] == "not run"


def test_one_run_answers_rows_of_two_tables_by_two_tests(results: Path, reference: Path, make_run):
    folder = make_run(results, OPT_B, test=27.0)
    write_evaluation(folder, "ten_crop", 24.60, 7.50)
    third, fourth = (tables.build(name, pools(results, reference)) for name in ("table3", "table4"))
    found = row(third, "resnet-34-b")
    assert (found.cells["top1_error"], found.cells["top5_error"]) == ("24.52", "7.46")
    assert (found.cells["yours_top1_error"], found.cells["yours_top5_error"]) == ("24.60", "7.50")
    assert (found.cells["difference"], found.cells["difference_top5_error"]) == ("+0.08 (yours)", "+0.04 (yours)")
    assert found.cells["verdict"] == "reproduced (yours, z = +0.38)"
    assert found.cells["parameters"] == "21,797,672"
    assert "27.00" not in third.markdown(), "the center crop of training is another test"
    assert "10-crop: made-up definition of ten_crop" in notes(third)
    other = row(fourth, "resnet-34-b")
    assert (other.status, other.cells["yours_top1_error"], other.cells["reference_top1_error"]) == (
        "not evaluated", "not evaluated", "not run")
    assert "`repro eval experiment=imagenet_optB protocol=multi_scale`" in notes(fourth)
    write_evaluation(folder, "multi_scale", 21.9, 5.7)
    assert row(tables.build("table4", pools(results, reference)), "resnet-34-b").status == "reproduced"


@pytest.mark.parametrize(("error", "status"), [
    (25.03, "reproduced"), (25.45, "reproduced"), (24.61, "reproduced"), (25.46, "worse than published"),
    (24.60, "better than published")])
def test_the_verdict_at_its_edges(results: Path, reference: Path, make_run, error: float, status: str):
    """2 sqrt(0.15^2 + 0.15^2) = 0.424 points around 25.03."""
    write_evaluation(make_run(results, OPT_A, test=28.0), "ten_crop", error)
    table = tables.build("table2", pools(results, reference))
    assert statuses(table)["resnet-34"] == status
    assert table.worse == (["resnet-34"] if status.startswith("worse") else [])
    assert "top5_error" not in table.columns, "Table 2 prints no top-5 errors"


def test_yours_wins_over_the_reference_and_three_seeds_have_their_own_spread(results: Path, reference: Path, make_run):
    write_evaluation(make_run(reference, OPT_A, test=28.0), "ten_crop", 25.0)
    for seed, error in enumerate((25.0, 26.0, 27.0)):
        write_evaluation(make_run(results, OPT_A, seed, test=28.0 + seed), "ten_crop", error)
    found = row(tables.build("table2", pools(results, reference)), "resnet-34")
    assert (found.cells["reference_top1_error"], found.cells["yours_top1_error"]) == (
        "25.00", "25.00 (26.00 +- 1.00), 3 seeds")
    assert found.cells["verdict"].startswith("reproduced (yours, z = +0.96")
    alone = tables.build("table2", pools(None, reference))
    assert "yours_top1_error" not in alone.columns
    assert row(alone, "resnet-34").cells["verdict"].startswith("reproduced (reference")


def test_the_authors_weights_are_second_references(results: Path, reference: Path):
    table = tables.build("table4", pools(results, reference))
    assert row(table, "resnet-50").cells["second_reference"] == "22.9 / 6.7 (10-crop); 24.7 / 7.8 (center crop)"
    assert "second_reference" not in row(table, "resnet-34-b").cells
    assert row(table, "vgg-ilsvrc14").cells["note"] == "reported on the test set"
    assert not {"second_reference", "note"} & set(tables.build("table2", pools(results, reference)).columns)


def test_a_run_of_other_settings_and_a_wiring_test_never_enter(results: Path, reference: Path, make_run):
    write_evaluation(make_run(results, OPT_A, 0, overrides=("train.lr=0.05",)), "ten_crop")
    write_evaluation(make_run(results, OPT_A, 1, overrides=("machine=smoke",)), "ten_crop")
    table = tables.build("table2", pools(results, reference))
    assert statuses(table)["resnet-34"] == "not run"
    assert "seed0: other configuration: train.lr: 0.1 -> 0.05" in notes(table)
    assert "seed1: wiring test: it says nothing about ImageNet" in notes(table)


def test_table1_holds_counted_beside_published(reference: Path):
    table = tables.build("table1", pools(None, reference))
    verdicts = {row.key: row.verdict for row in table.rows}
    assert verdicts == {"resnet-18": "agrees", "resnet-34": "agrees", "resnet-50": "agrees if cut, not rounded",
                        "resnet-101": "agrees", "resnet-152": "agrees", "plain-34": "agrees", "vgg-16": None,
                        "vgg-19": None}
    assert row(table, "resnet-34").cells["others"] == (
        "option B 3.664e9 (agrees if cut, not rounded); option C 3.831e9 (differs)")
    assert row(table, "resnet-50").cells["others"] == "stride in the 3x3 (v1.5) 4.089e9 (differs)"
    assert row(table, "resnet-50").cells["counted"] == "3.858e9"
    assert statuses(table)["vgg-19"] == "published only"


def test_table5_is_validation_beside_the_test_server_and_has_no_verdict(results: Path, reference: Path):
    write_ensemble(results)
    table = tables.build("table5", pools(results, reference))
    found = row(table, "resnet-ilsvrc15")
    assert (found.cells["top5_error"], found.cells["yours_top5_error"], found.cells["yours_top1_error"]) == (
        "3.57", "4.00", "18.00")
    assert found.cells["reference_top5_error"] == "not run"
    assert (found.status, found.verdict) == ("no verdict: validation, not the test server", None)
    assert "ImageNet validation" in table.columns["yours_top5_error"]
    assert "test server" in table.columns["top5_error"]
    assert statuses(table)["vgg-v5"] == "published only"
    assert row(table, "vgg-v5").cells["top5_error"] == "6.8"


@pytest.mark.parametrize(("change", "reason"), [
    ({"images": 200}, "was on 200 images"), ({"wiring_test": True}, "is a wiring test"),
    ({"val_top5_error": 3.57}, "says 3.57 % for 2000 errors"), ({"protocol": "ten_crop"}, "members and protocol"),
    ({"members": []}, "members and protocol")])
def test_another_ensemble_does_not_count(results: Path, reference: Path, change: dict, reason: str):
    write_ensemble(results, **change)
    table = tables.build("table5", pools(results, reference))
    assert statuses(table)["resnet-ilsvrc15"] == "not counted"
    assert row(table, "resnet-ilsvrc15").cells["yours_top5_error"] == "not counted"
    assert reason in notes(table)


def test_an_ensemble_of_older_weights_does_not_count(results: Path, reference: Path, make_run):
    content = json.loads(write_ensemble(results).read_text())
    content["members"][3]["weights_sha256"] = "a" * 64
    write_ensemble(results, members=content["members"])
    folder = make_run(results, "imagenet_resnet101", test=23.0)
    for change, status in (({"weights_sha256": "a" * 64}, "no verdict: validation, not the test server"),
                           ({"weights_sha256": "b" * 64}, "not counted")):
        write_evaluation(folder, "multi_scale", **change)
        table = tables.build("table5", pools(results, reference))
        assert statuses(table)["resnet-ilsvrc15"] == status
    assert "older than multi-scale testing of imagenet_resnet101/seed0 (yours)" in notes(table)
    (folder / "evaluations" / "multi_scale.json").unlink()
    table = tables.build("table5", pools(results, reference))
    assert statuses(table)["resnet-ilsvrc15"] == "not counted", "trained anew"


def test_publish_fills_the_reference_column_of_table5(direct, monkeypatch, tmp_path, make_run):
    results, reference = tmp_path / "results", tmp_path / "reference"
    for module in ("repro.publishing", "repro.paths"):
        monkeypatch.setattr(f"{module}.reference_dir", lambda: reference)
        monkeypatch.setattr(f"{module}.in_tree", lambda: True)
    says(direct("publish", "ensembles/table5"), 2, "repro ensemble table5")
    says(direct("publish", "ensembles/table6"), 2, "did you mean table5")
    write_ensemble(results, wiring_test=True)
    says(direct("publish", "ensembles/table5"), 2, "no evidence: it is a wiring test")
    write_ensemble(results)
    folder = make_run(reference, "imagenet_resnet50", test=24.0)
    write_evaluation(folder, "multi_scale", weights_sha256="b" * 64)
    says(direct("publish", "ensembles/table5"), 2, "imagenet_resnet50/seed0 (reference)")
    assert not (reference / "ensembles").exists()
    shutil.rmtree(folder)
    assert direct("publish", "ensembles/table5").code == 0
    found = row(tables.build("table5", pools(None, reference)), "resnet-ilsvrc15")
    assert found.cells["reference_top5_error"] == "4.00"


@pytest.mark.parametrize("key", ["identity", "precision"])
def test_an_ensemble_of_other_runs_does_not_count(results: Path, reference: Path, key: str):
    content = json.loads(write_ensemble(results).read_text())
    content["members"][3][key] = "bf16"
    write_ensemble(results, members=content["members"])
    assert "bf16" not in paper_hashes("imagenet_resnet101")
    assert "its imagenet_resnet101 seed 0 is no run" in notes(tables.build("table5", pools(results, reference)))
