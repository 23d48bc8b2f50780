"""`repro compare`: settings first, then errors and curves."""

import json

import pytest

from repro.reporting.compare import compare, thinned
from repro.runs import read_run

SYNTHETIC = ("data=synthetic", "scale=0.001875", "evaluation.interval=10240")


def test_differing_settings_and_errors(results, make_run):
    plain = read_run(make_run(results, "cifar_plain20", 0, test=9.6, train=1.0, device="one"))
    residual = read_run(make_run(results, "cifar_resnet20", 1, test=8.1, train=0.5, device="two"))
    found = compare(plain, residual)
    assert {entry["key"]: entry["values"] for entry in found["settings"]} == {
        "model.family": ["plain", "residual"], "seed": [0, 1], "device": ["one", "two"]}
    assert found["errors"]["test_top1_error"] == [9.6, 8.1]
    assert found["first_difference"] == 390
    assert found["curve"][0]["iteration"] == 390
    assert found["curve"][-1] == {"iteration": 64000, "train_top1_error": [1.0, 0.5], "test_top1_error": [9.6, 8.1]}
    assert len(found["curve"]) == 12


def test_the_first_difference_is_found_exactly(results, tmp_path, make_run):
    one = make_run(results, "cifar_plain20", 0)
    other = make_run(tmp_path / "other", "cifar_plain20", 0)
    assert compare(read_run(one), read_run(other))["first_difference"] is None
    lines = (other / "history.csv").read_text().splitlines()
    cells = lines[5].split(",")
    cells[3] = repr(float(cells[3]) + 1e-9)
    (other / "history.csv").write_text("\n".join([*lines[:5], ",".join(cells), *lines[6:]]) + "\n")
    assert compare(read_run(one), read_run(other))["first_difference"] == int(float(cells[0]))


def test_unfinished_and_synthetic_runs_are_labelled(results, make_run):
    stopped = read_run(make_run(results, "cifar_plain20", 0, status="interrupted"))
    made = read_run(make_run(results, "cifar_plain20", 0, overrides=SYNTHETIC, precision="fp32"))
    first, second = compare(stopped, made)["runs"]
    assert "interrupted at iteration" in first
    assert "synthetic images, scale 0.001875" in second


@pytest.mark.parametrize("count", [0, 1, 12, 13, 165])
def test_a_curve_keeps_its_ends(count):
    points = list(range(count))
    kept = thinned(points)
    assert len(kept) == min(count, 12)
    assert kept[:1] == points[:1]
    assert kept[-1:] == points[-1:]
    assert kept == sorted(set(kept))


def test_the_command(direct, results, make_run):
    folders = [make_run(results, "cifar_plain20", seed, test=9.0 + seed) for seed in (0, 1)]
    outcome = direct("compare", "cifar_plain20/seed0", str(folders[1]))
    assert outcome.code == 0, outcome.err
    assert outcome.out.index("differing settings") < outcome.out.index("errors at the end")
    drawn = results / "figures" / "compare_cifar_plain20-seed0_vs_cifar_plain20-seed1.svg"
    assert "cifar_plain20/seed1" in drawn.read_text()
    found = json.loads(direct("compare", "cifar_plain20/seed0", "cifar_plain20/seed1", "--json").out)
    assert found["common_points"] > 100
    assert direct("compare", "cifar_plain20/seed0", "cifar_plain20/seed7").code == 2
    (folders[1] / "run.json").write_text("{")
    broken = direct("compare", "cifar_plain20/seed0", "cifar_plain20/seed1")
    assert broken.code == 2
    assert "run.json" in broken.err
