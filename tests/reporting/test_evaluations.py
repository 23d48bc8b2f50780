"""Which ImageNet runs, and which tests of them, count: each way in which a record can be of something else."""

import json
from pathlib import Path

import pytest

from repro.reporting.figures import gather
from repro.reporting.select import RunSet, count_problem, median_run, paper_runs, pools
from repro.runs import read_run
from tests.reporting.conftest import write_evaluation

OPT_B = "imagenet_optB"


def pool(root: Path) -> RunSet:
    """Your runs below a folder."""
    return pools(root, root / "none")[0]


def test_a_run_that_was_tested_on_val_counts(results: Path, make_run):
    for seed, error in enumerate((30.0, 29.0, 31.5)):
        make_run(results, OPT_B, seed, test=error)
    found = paper_runs(pool(results), OPT_B)
    assert found.summary().values == (30.0, 29.0, 31.5)
    assert min(found.summary("top5_error").values) == pytest.approx(29 / 3)
    assert median_run(found).seed == 0


def test_figure_4_draws_training_and_validation_errors_of_the_median(results: Path, make_run):
    for seed, error in enumerate((30.0, 28.0, 29.0)):
        make_run(results, "imagenet_optA", seed, test=error)
    make_run(results, "imagenet_plain34", test=31.0)
    _, panels, notes = gather("figure4", [pool(results)]) or ("", [], [])
    assert [sorted(line.id for line in panel.lines) for panel in panels] == [
        ["plain-34-training", "plain-34-validation"], ["resnet-34-training", "resnet-34-validation"]]
    assert any("imagenet_optA/seed2 of 3 seeds" in note for note in notes)


def test_errors_of_another_split_are_no_result(results: Path, make_run):
    folder = make_run(results, OPT_B, test=30.0)
    for file in ("run.json", "history.csv"):
        (folder / file).write_text((folder / file).read_text().replace("val_top1_error", "test_top1_error"))
    assert "no training and test error" in paper_runs(pool(results), OPT_B).excluded[0][2]


@pytest.mark.parametrize("own", [True, False])
def test_a_wiring_test_never_counts_whatever_its_identity_is(results: Path, make_run, own: bool):
    folder = make_run(results, OPT_B, test=1.0, overrides=() if own else ("machine=smoke",))
    record = json.loads((folder / "run.json").read_text())
    record["config"]["data"]["wiring_test"] = True
    (folder / "run.json").write_text(json.dumps(record))
    assert read_run(folder).finished
    found = paper_runs(pool(results), OPT_B)
    assert (found.runs, found.excluded[0][1]) == ((), "stale" if own else "other configuration")


def test_a_test_of_the_run_counts(results: Path, make_run):
    write_evaluation(make_run(results, OPT_B, test=30.0), "ten_crop", 24.52, 7.46)
    found = paper_runs(pool(results), OPT_B, "ten_crop")
    assert (found.status, found.excluded) == ("finished", ())
    assert (str(found.summary("top1_error")), str(found.summary("top5_error"))) == ("24.52", "7.46")
    other = paper_runs(pool(results), OPT_B, "multi_scale")
    assert (other.status, other.runs) == ("not evaluated", ())


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
    ({"val_top5_error": float("nan")}, "can be read"),
    ({"split": "\x1b[2J"}, "has split=\\x1b[2J"),
])
def test_a_test_of_anything_else_does_not_count(results: Path, make_run, change: dict, reason: str):
    folder = make_run(results, OPT_B, test=30.0, change={"weights_sha256": "0" * 64})
    write_evaluation(folder, "ten_crop")
    assert paper_runs(pool(results), OPT_B, "ten_crop").status == "finished", "as it is, it counts"
    write_evaluation(folder, "ten_crop", **change)
    found = paper_runs(pool(results), OPT_B, "ten_crop")
    assert found.status == "not evaluated"
    assert reason in found.excluded[0][2]


def test_rounding_within_half_an_image_is_no_contradiction():
    content = {"wiring_test": False, "finished": True, "split": "val", "images": 50_000, "top1_errors": 12_345,
               "top5_errors": 0, "val_top1_error": 24.69, "val_top5_error": 0.0}
    assert count_problem(content, {}) is None
    assert count_problem(content | {"val_top1_error": 24.69 + 0.0011}, {}) is not None


def test_of_several_seeds_those_that_are_tested_stand(results: Path, make_run):
    for seed, error in ((0, 24.0), (1, 25.0), (2, 26.0)):
        folder = make_run(results, OPT_B, seed, test=30.0 + seed)
        if seed < 2:
            write_evaluation(folder, "ten_crop", error)
    found = paper_runs(pool(results), OPT_B, "ten_crop")
    assert str(found.summary("top1_error")) == "24.00 (24.50 +- 0.71), 2 seeds"
    assert [(run.seed, status) for run, status, _ in found.excluded] == [(2, "not evaluated")]
