"""ImageNet: which runs, tests of them and ensembles count; the edges of verdicts; Table 5."""

import json

import pytest

from repro.reporting import tables
from repro.reporting.select import paper_runs, pools
from tests.outcome import says
from tests.reporting.conftest import statuses, write_ensemble, write_evaluation, write_run

OURS, OPT_B = "resnet-ilsvrc15", "imagenet_optB"


def opt_b(results, protocol=None):
    return paper_runs(pools(results, results / "none")[0], OPT_B, protocol)


def test_errors_of_another_split_are_no_result(results):
    folder = write_run(results, OPT_B, test=30.0)
    for file in ("run.json", "history.csv"):
        (folder / file).write_text((folder / file).read_text().replace("val_top1_error", "test_top1_error"))
    assert "no training and test error" in opt_b(results).excluded[0][2]


def test_a_wiring_test_never_counts_whatever_its_identity_is(results):
    folder = write_run(results, OPT_B, test=1.0)
    record = json.loads((folder / "run.json").read_text())
    record["config"]["data"]["wiring_test"] = True
    (folder / "run.json").write_text(json.dumps(record))
    found = opt_b(results)
    assert (found.runs, found.excluded[0][1:]) == ((), ("stale", "wiring test"))


def test_a_test_of_the_run_counts_of_several_seeds_those_that_have_one(results):
    for seed, error in ((0, 24.0), (1, 25.0), (2, 26.0)):
        folder = write_run(results, OPT_B, seed, test=30.0 + seed)
        if seed < 2:
            write_evaluation(folder, "ten_crop", error)
    found = opt_b(results, "ten_crop")
    assert (found.status, str(found.summary("top1_error"))) == ("finished", "24.00 (24.50 +- 0.71), 2 seeds")
    assert [(run.seed, status) for run, status, _ in found.excluded] == [(2, "not evaluated")]
    assert opt_b(results, "multi_scale").status == "not evaluated"


@pytest.mark.parametrize(("change", "reason"), [
    ({"identity": "0123456789ab"}, "has identity=0123456789ab"),
    ({"seed": 1}, "has seed=1"),
    ({"protocol": "center"}, "has protocol=center"),
    ({"weights_sha256": "f" * 64}, "has weights_sha256=ffff"),
    ({"precision": "bf16"}, "has precision=bf16"),
    ({"wiring_test": True}, "has wiring_test=True"),
    ({"finished": False}, "has finished=False"),
    ({"images": 200}, "has images=200, not 50000"),
    ({"top1_errors": None}, "25.0 % for None errors"),
    ({"val_top1_error": 24.9}, "says 24.9 % for 12500 errors"),
    ({"val_top1_error": 25.0011}, "says 25.0011 % for 12500 errors"),
    ({"val_top5_error": float("nan")}, "can be read"),
    ({"split": "\x1b[2J"}, "has split=\\x1b[2J"),
])
def test_a_test_of_anything_else_does_not_count(results, change: dict, reason: str):
    folder = write_run(results, OPT_B, test=30.0, change={"weights_sha256": "0" * 64})
    write_evaluation(folder, "ten_crop", val_top1_error=25.0009)  # rounded within half an image
    assert opt_b(results, "ten_crop").status == "finished", "as it is, it counts"
    write_evaluation(folder, "ten_crop", **change)
    found = opt_b(results, "ten_crop")
    assert found.status == "not evaluated"
    assert reason in found.excluded[0][2]


@pytest.mark.parametrize(("error", "status"), [
    (25.45, "reproduced"), (24.61, "reproduced"), (25.46, "worse than published"), (24.60, "better than published")])
def test_the_verdict_at_its_edges(results, reference, error: float, status: str):
    """2 sqrt(0.15^2 + 0.15^2) = 0.424 points around 25.03."""
    write_evaluation(write_run(results, "imagenet_optA", test=28.0), "ten_crop", error)
    assert statuses(tables.build("table2", pools(results, reference)))["resnet-34"] == status


@pytest.mark.parametrize(("change", "member", "reason"), [
    ({"images": 200}, {}, "has images=200"), ({"wiring_test": True}, {}, "has wiring_test=True"),
    ({"val_top5_error": 3.57}, {}, "says 3.57 % for 2000 errors"), ({"top5_errors": 10**400}, {}, "% for 1000"),
    ({}, {"identity": []}, "its imagenet_resnet101/seed0 is no run, or no test"),
    ({"protocol": "ten_crop"}, {}, "has protocol=ten_crop"), ({"members": None}, {}, "not of the members"),
    ({}, {"identity": "bf16"}, "its imagenet_resnet101/seed0 is no run, or no test"),
    ({}, {"precision": "bf16"}, "its imagenet_resnet101/seed0 is no run, or no test")])
def test_another_ensemble_does_not_count(results, reference, change: dict, member: dict, reason: str):
    content = json.loads(write_ensemble(results).read_text())
    content["members"][3] |= member
    write_ensemble(results, **{"members": content["members"]} | change)
    table = tables.build("table5", pools(results, reference))
    assert statuses(table)[OURS] == "not counted"
    assert any(reason in note for note in table.notes)


def test_an_ensemble_of_a_run_that_was_trained_anew_does_not_count(results, reference):
    write_ensemble(results)
    folder = write_run(results, "imagenet_resnet101", test=23.0)
    for weights, status in (("0" * 64, "no verdict: validation, not the test server"), ("b" * 64, "not counted")):
        write_evaluation(folder, "multi_scale", weights_sha256=weights)
        assert statuses(tables.build("table5", pools(results, reference)))[OURS] == status


def test_publish_fills_the_reference_column_of_table5(direct, monkeypatch, results, reference):
    for module in ("repro.runs", "repro.paths"):
        monkeypatch.setattr(f"{module}.reference_dir", lambda: reference)
        monkeypatch.setattr(f"{module}.in_tree", lambda: True)
    says(direct("publish", "ensembles/table5"), 2, "repro ensemble table5")
    says(direct("publish", "ensembles/table6"), 2, "did you mean table5")
    write_ensemble(results, wiring_test=True)
    says(direct("publish", "ensembles/table5"), 2, "has wiring_test=True")
    assert not (reference / "ensembles").exists()
    write_ensemble(results)
    assert direct("publish", "ensembles/table5").code == 0
    (row,) = (row for row in tables.build("table5", pools(None, reference)).rows if row.key == OURS)
    assert row.cells["reference_top5_error"] == "4.00"
