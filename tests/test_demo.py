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
    run, = scan(tmp_path / "results" / "runs")
    assert run.name.startswith("cifar_resnet20@")
    assert "data.name: cifar10 -> synthetic" in run.record.deviations
    says(direct("publish", run.name), 2, "is no evidence: synthetic images")
    assert "is finished" in direct("run", *TINY, "data=synthetic").out
    rows = json.loads(direct("table", "table6", "--json").out)["rows"]
    assert next(row for row in rows if row["key"] == "resnet-20")["cells"]["yours_test_top1_error"] == "not run"


def test_the_demonstration_runs_on_synthetic_images_only(here, tmp_path):
    says(here("suite", "demo", "preset=paper"), 2, "no preset in suite demo named 'paper'", "synthetic")
    outcome = here("suite", "demo", *TINY[1:], "train.iterations=5", "train.lr_drops=[3,4]",
                   "machine.precision=fp32", "scale=1")
    assert outcome.code == 0, outcome.err
    runs = scan(tmp_path / "results" / "runs")
    assert [(run.experiment, run.no_evidence, run.finished) for run in runs] == [
        (f"cifar_{net}", "synthetic images", True) for net in ("plain20", "plain56", "resnet20", "resnet56")]
    assert (tmp_path / "results" / "tables" / "synthetic_demo.md").is_file()


@pytest.mark.slow
def test_synthetic_images_need_no_data(direct, tmp_path):
    """The real generator, no folder, no download."""
    outcome = direct("run", *TINY, "data=synthetic", f"data.root={tmp_path / 'nowhere'}", "train.iterations=2")
    assert outcome.code == 0, outcome.err
    folder, = (tmp_path / "results" / "runs").glob("*/seed0")
    data = read_run(folder).record.data
    assert (data.name, len(data.sha256)) == ("synthetic", 64)
    evaluated = direct("eval", *TINY, "data=synthetic", f"weights={folder / 'weights.pt'}")
    assert (evaluated.code, "synthetic images" in evaluated.out) == (0, True), evaluated.err
