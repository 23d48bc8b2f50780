"""Runs on synthetic images: named so everywhere, and no data set is needed."""

import json

import pytest

from repro.runs import read_run, scan
from repro.training import inputs
from tests.made_cli import TINY, made_data
from tests.outcome import says


def test_every_line_of_a_synthetic_run_says_so(direct, monkeypatch, tmp_path):
    """On few images, so that it is quick; the name of the data set is what counts."""
    monkeypatch.setattr(inputs, "load_arrays", lambda config: None)
    monkeypatch.setattr(inputs, "on_device", lambda arrays, config, device: made_data(config))
    outcome = direct("run", *TINY, "data=synthetic")
    assert outcome.code == 0, outcome.err
    lines = [line for line in outcome.out.splitlines() if line.startswith("cifar_resnet20")]
    assert len(lines) >= 6
    assert all("(synthetic images)" in line for line in lines)
    folder, = (tmp_path / "results" / "runs").glob("*/seed0")
    assert folder.parent.name.startswith("cifar_resnet20@")
    run = read_run(folder)
    assert run.no_evidence == "synthetic images"
    says(direct("publish", str(folder)), 2, "is no evidence: synthetic images")
    assert "data.name: cifar10 -> synthetic" in run.record.deviations
    assert "is finished" in direct("run", *TINY, "data=synthetic").out
    table = json.loads(direct("table", "table6", "--json").out)
    row = next(row for row in table["rows"] if row["key"] == "resnet-20")
    assert row["cells"]["yours"] == "not run"


def test_the_demonstration_runs_on_synthetic_images_only(here, tmp_path):
    says(here("suite", "demo", "preset=paper"), 2, "no preset in suite demo named 'paper'", "synthetic")
    outcome = here("suite", "demo", *TINY[1:], "train.iterations=5", "train.lr_drops=[3,4]",
                   "machine.precision=fp32", "scale=1")
    assert outcome.code == 0, outcome.err
    runs = scan(tmp_path / "results" / "runs")
    assert sorted(run.experiment for run in runs) == [
        "cifar_plain20", "cifar_plain56", "cifar_resnet20", "cifar_resnet56"]
    assert all(run.no_evidence == "synthetic images" and run.finished for run in runs)
    assert (tmp_path / "results" / "tables" / "synthetic_demo.md").is_file()


@pytest.mark.slow
def test_synthetic_images_need_no_data(direct, tmp_path):
    """The real generator, no folder, no download."""
    outcome = direct("run", *TINY, "data=synthetic", f"data.root={tmp_path / 'nowhere'}", "train.iterations=2")
    assert outcome.code == 0, outcome.err
    folder, = (tmp_path / "results" / "runs").glob("*/seed0")
    record = read_run(folder).record
    assert record.data.name == "synthetic"
    assert len(record.data.sha256) == 64
    weights = f"weights={folder / 'weights.pt'}"
    evaluated = direct("eval", *TINY, "data=synthetic", weights)
    assert evaluated.code == 0, evaluated.err
    assert "synthetic images" in evaluated.out
