"""Which tests of ImageNet runs count: each way in which a record can be of something else, with its reason."""

import json
from pathlib import Path

import pytest

from repro.reporting.select import (
    RunSet,
    count_problem,
    evaluated_runs,
    evaluation_command,
    evaluation_problem,
    read_evaluation,
)
from repro.runs import read_run, scan
from tests.reporting.conftest import write_evaluation

OPT_B = "imagenet_optB"


def pool(root: Path) -> RunSet:
    """Your runs below a folder."""
    return RunSet("yours", tuple(scan(root / "runs")), root)


def test_a_test_of_the_run_counts(results: Path, make_run):
    folder = make_run(results, OPT_B, test=30.0)
    write_evaluation(folder, "ten_crop", 24.52, 7.46)
    found = evaluated_runs(pool(results), OPT_B, "ten_crop")
    assert (found.status, found.lacking) == ("finished", ())
    assert (str(found.summary("top1_error")), str(found.summary("top5_error"))) == ("24.52", "7.46")
    other = evaluated_runs(pool(results), OPT_B, "multi_scale")
    assert (other.status, other.tests) == ("not evaluated", ())
    assert "no multi-scale testing that can be read; `repro eval experiment=imagenet_optB protocol=" in other.notes()[0]


@pytest.mark.parametrize(("change", "reason"), [
    ({"identity": "0123456789ab"}, "has identity=0123456789ab"),
    ({"experiment": "imagenet_optC"}, "has experiment=imagenet_optC"),
    ({"seed": 1}, "has seed=1"),
    ({"protocol": "center"}, "has protocol=center"),
    ({"schema": 2}, "has schema=2"),
    ({"weights_sha256": "f" * 64}, "is of other weights"),
    ({"precision": "bf16"}, "has precision=bf16"),
    ({"wiring_test": True}, "has wiring_test=True"),
    ({"finished": False}, "has finished=False"),
    ({"split": "train"}, "has split=train"),
    ({"images": 200}, "has images=200, not 50000"),
    ({"top1_errors": None}, "has no counts of errors"),
    ({"top1_errors": 3000}, "has no counts of errors"),  # fewer than top-5 errors
    ({"top1_errors": 50_001}, "has no counts of errors"),
    ({"val_top1_error": 24.9}, "says 24.9 % for 12500 errors"),
    ({"val_top5_error": 8.002}, "says 8.002 % for 4000 errors"),
    ({"val_top5_error": float("nan")}, "can be read"),
])
def test_a_test_of_anything_else_does_not_count(results: Path, make_run, change: dict, reason: str):
    folder = make_run(results, OPT_B, test=30.0)
    (folder / "weights.pt").write_bytes(b"weights")
    write_evaluation(folder, "ten_crop")
    assert evaluated_runs(pool(results), OPT_B, "ten_crop").status == "finished", "as it is, it counts"
    write_evaluation(folder, "ten_crop", **change)
    found = evaluated_runs(pool(results), OPT_B, "ten_crop")
    assert found.status == "not evaluated"
    assert reason in found.lacking[0][1]
    assert evaluation_command(found.lacking[0][0], "ten_crop") in found.notes()[0]


@pytest.mark.parametrize(("recorded", "tested", "reason"), [
    (None, "f", None), ("a", "a", None), ("a", "f", "its 10-crop testing is of other weights")])
def test_without_the_weights_their_recorded_hash_is_compared(reference: Path, make_run, recorded, tested, reason):
    change = {"weights_sha256": 64 * recorded} if recorded else {}
    run = read_run(make_run(reference, OPT_B, test=30.0, change=change))
    write_evaluation(run.folder, "ten_crop", weights_sha256=64 * tested)
    assert evaluation_problem(run, "ten_crop", read_evaluation(run, "ten_crop")) == reason


def test_a_test_on_another_data_set_than_the_runs_is_noted(results: Path, make_run):
    folder = make_run(results, OPT_B, test=30.0)
    write_evaluation(folder, "ten_crop")
    assert evaluated_runs(pool(results), OPT_B, "ten_crop").notes() == []
    write_evaluation(folder, "ten_crop", data_fingerprint="e" * 64)
    found = evaluated_runs(pool(results), OPT_B, "ten_crop")
    assert found.notes() == ["tested on another data set than trained on (yours): imagenet_optB/seed0: fingerprint of "
                             "its files eeeeeeeeeeee, in training 0"]
    assert found.status == "finished", "a note, no exclusion_reason"


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 1}', ""])
def test_a_torn_record_is_no_test(results: Path, make_run, text: str):
    folder = make_run(results, OPT_B, test=30.0)
    write_evaluation(folder, "ten_crop").write_text(text)
    assert evaluated_runs(pool(results), OPT_B, "ten_crop").status == "not evaluated"


def test_rounding_within_half_an_image_is_no_contradiction():
    content = {"wiring_test": False, "finished": True, "split": "val", "images": 50_000, "top1_errors": 12_345,
               "top5_errors": 0, "val_top1_error": 24.69, "val_top5_error": 0.0}
    assert count_problem(content) is None
    assert count_problem(content | {"val_top1_error": 24.69 + 0.0011}) is not None


def test_of_several_seeds_those_that_are_tested_stand(results: Path, make_run):
    for seed, error in ((0, 24.0), (1, 25.0), (2, 26.0)):
        folder = make_run(results, OPT_B, seed, test=30.0 + seed)
        if seed < 2:
            write_evaluation(folder, "ten_crop", error)
    found = evaluated_runs(pool(results), OPT_B, "ten_crop")
    assert str(found.summary("top1_error")) == "24.00 (24.50 +- 0.71), 2 seeds"
    assert "imagenet_optB/seed2: no 10-crop testing" in found.notes()[0]
    assert "`repro eval experiment=imagenet_optB seed=2" in found.notes()[0]


def test_runs_that_do_not_count_are_not_looked_at(results: Path, make_run):
    folder = make_run(results, OPT_B, test=30.0, precision="bf16")
    write_evaluation(folder, "ten_crop")
    record = json.loads((folder / "run.json").read_text())
    assert record["identity"] in folder.parent.name
    found = evaluated_runs(pool(results), OPT_B, "ten_crop")
    assert (found.status, found.lacking) == ("not run", ())
    assert "machine.precision: bf16" in found.notes()[0]
