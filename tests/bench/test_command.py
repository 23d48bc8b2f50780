"""`repro bench` on made-up measurements: what it prints, writes and refuses."""

import json

import pytest

from repro.bench import bench as bench_module
from tests.bench.synthetic import Made
from tests.outcome import says


@pytest.fixture
def made(monkeypatch):
    one = Made()
    monkeypatch.setattr(bench_module, "fresh_process", one)
    monkeypatch.setattr(bench_module, "measure_here", one)
    return one


def test_a_quick_bench_is_labeled_everywhere(made, direct, tmp_path):
    outcome = direct("bench", "--quick")
    assert (outcome.code, outcome.err) == (0, "")
    folder = tmp_path / "results" / "bench"
    name = "bench_made-r-gpu-2-threads_fp32_quick"
    assert {path.name for path in folder.iterdir()} == {f"{name}.{suffix}" for suffix in ("json", "md", "csv")}
    assert "# quick, no evidence: Training speed on Made (R) GPU, 2 threads, fp32" in outcome.out
    assert (folder / f"{name}.md").read_text() in outcome.out
    assert json.loads((folder / f"{name}.json").read_text())["quick"] is True
    assert f"written: results/bench/{name}.json" in outcome.out
    assert made.asked == ["rates", *["repro", "dataloader"] * 2]


def test_json_is_the_record_and_nothing_else(made, direct, tmp_path):
    outcome = direct("bench", "--json", "nets=20", "rounds=1", "contenders=repro")
    record = json.loads(outcome.out)
    assert record == json.loads((tmp_path / "results/bench/bench_made-r-gpu-2-threads_fp32.json").read_text())
    assert "round 1 of 1: ResNet-20 repro: 4.00 ms/step" in outcome.err
    assert record["quick"] is False


def test_evidence_is_of_five_rounds_and_not_quick(made, direct, monkeypatch, tmp_path):
    says(direct("bench", "--quick", "--reference"), 2, "--quick")
    says(direct("bench", "rounds=4", "--reference"), 2, "5 rounds or more")
    monkeypatch.setattr("repro.commands.output_folder",
                        lambda kind, reference: tmp_path / ("reference" if reference else "own") / kind)
    assert direct("bench", "--reference", "nets=20").code == 0
    assert [path.name for path in sorted((tmp_path / "reference" / "bench").iterdir())] == [
        f"bench_made-r-gpu-2-threads_fp32.{suffix}" for suffix in ("csv", "json", "md")]
    assert made.asked[:2] == ["rates", "repro"]


def test_what_is_wrong_is_said_before_anything_runs(made, direct):
    says(direct("bench", "nets=21"), 2, "6n+2")
    says(direct("bench", "contenders=eager"), 2, "no contender 'eager'")
    says(direct("bench", "machine.precision=tf32"), 2, "tf32")
    assert made.asked == []
