"""Table 1, the edges of ImageNet's verdicts, and which ensembles stand in Table 5."""

import json
import shutil
from pathlib import Path

import pytest

from repro.reporting import tables
from repro.reporting.select import pools
from tests.outcome import says
from tests.reporting.conftest import statuses, write_ensemble, write_evaluation

OURS = "resnet-ilsvrc15"


@pytest.mark.parametrize(("error", "status"), [
    (25.45, "reproduced"), (24.61, "reproduced"), (25.46, "worse than published"), (24.60, "better than published")])
def test_the_verdict_at_its_edges(results: Path, reference: Path, make_run, error: float, status: str):
    """2 sqrt(0.15^2 + 0.15^2) = 0.424 points around 25.03."""
    write_evaluation(make_run(results, "imagenet_optA", test=28.0), "ten_crop", error)
    assert statuses(tables.build("table2", pools(results, reference)))["resnet-34"] == status


def test_table1_holds_counted_beside_published(reference: Path):
    table = tables.build("table1", pools(None, reference))
    assert statuses(table) == {
        "resnet-18": "agrees", "resnet-34": "agrees", "resnet-50": "agrees if cut, not rounded", "resnet-101": "agrees",
        "resnet-152": "agrees", "plain-34": "agrees", "vgg-16": "published only", "vgg-19": "published only"}
    assert [row.cells["counted"] for row in table.rows if row.key == "resnet-50"] == ["3.858e9"]


@pytest.mark.parametrize(("change", "member", "reason"), [
    ({"images": 200}, {}, "has images=200"), ({"wiring_test": True}, {}, "has wiring_test=True"),
    ({"val_top5_error": 3.57}, {}, "says 3.57 % for 2000 errors"),
    ({"protocol": "ten_crop"}, {}, "members and protocol"), ({"members": None}, {}, "members and protocol"),
    ({}, {"identity": "bf16"}, "its imagenet_resnet101/seed0 is no run, or no test"),
    ({}, {"precision": "bf16"}, "its imagenet_resnet101/seed0 is no run, or no test")])
def test_another_ensemble_does_not_count(results: Path, reference: Path, change: dict, member: dict, reason: str):
    content = json.loads(write_ensemble(results).read_text())
    content["members"][3] |= member
    write_ensemble(results, **{"members": content["members"]} | change)
    table = tables.build("table5", pools(results, reference))
    assert statuses(table)[OURS] == "not counted"
    assert any(reason in note for note in table.notes)


def test_an_ensemble_of_other_weights_does_not_count(results: Path, reference: Path, make_run):
    content = json.loads(write_ensemble(results).read_text())
    content["members"][3]["weights_sha256"] = "a" * 64
    write_ensemble(results, members=content["members"])
    folder = make_run(results, "imagenet_resnet101", test=23.0)
    for change, status in (({"weights_sha256": "a" * 64}, "no verdict: validation, not the test server"),
                           ({"weights_sha256": "b" * 64}, "not counted")):
        write_evaluation(folder, "multi_scale", **change)
        assert statuses(tables.build("table5", pools(results, reference)))[OURS] == status
    (folder / "evaluations" / "multi_scale.json").unlink()
    assert statuses(tables.build("table5", pools(results, reference)))[OURS] == "not counted", "trained anew"


def test_publish_fills_the_reference_column_of_table5(direct, monkeypatch, tmp_path, make_run):
    results, reference = tmp_path / "results", tmp_path / "reference"
    for module in ("repro.runs", "repro.paths"):
        monkeypatch.setattr(f"{module}.reference_dir", lambda: reference)
        monkeypatch.setattr(f"{module}.in_tree", lambda: True)
    says(direct("publish", "ensembles/table5"), 2, "repro ensemble table5")
    says(direct("publish", "ensembles/table6"), 2, "did you mean table5")
    write_ensemble(results)
    folder = make_run(reference, "imagenet_resnet50", test=24.0)
    write_evaluation(folder, "multi_scale", weights_sha256="b" * 64)
    says(direct("publish", "ensembles/table5"), 2, "imagenet_resnet50/seed0 (reference)")
    assert not (reference / "ensembles").exists()
    shutil.rmtree(folder)
    assert direct("publish", "ensembles/table5").code == 0
    (row,) = (row for row in tables.build("table5", pools(None, reference)).rows if row.key == OURS)
    assert row.cells["reference_top5_error"] == "4.00"
