"""`repro complexity` on a few networks: output, files, `--check`."""

import json
from dataclasses import replace

import pytest

from repro.evaluation import analysis
from tests.outcome import says


@pytest.fixture
def few(monkeypatch):
    """Four networks in the place of all; returns their list, which a test may change."""
    chosen = [net for net in analysis.networks() if (net.key, net.shortcut_option and net.shortcut_option.name) in
              {("plain-20", None), ("resnet-50", "B"), ("vgg-16", None)}]
    assert len(chosen) == 4
    monkeypatch.setattr(analysis, "networks", lambda: iter(chosen))
    return chosen


def test_the_table_is_printed_and_written(few, direct, tmp_path):
    outcome = direct("complexity", "--check")
    assert (outcome.code, outcome.err) == (0, "")
    folder = tmp_path / "results" / "tables"
    assert outcome.out == ((folder / "complexity.md").read_text() + "\n"
                           "written: results/tables/complexity.md, results/tables/complexity.csv, "
                           "results/tables/complexity.json, results/tables/complexity.tex\n")
    assert "25,557,032" in outcome.out
    assert len((folder / "complexity.csv").read_text().splitlines()) == 5
    printed = direct("complexity", "--json").out
    assert printed.rstrip("\n") == (folder / "complexity.json").read_text().rstrip("\n")
    assert json.loads(printed)["rows"][0]["data"]["parameters"] == 269_722


def test_check_exits_4_for_a_count_that_differs(few, direct):
    few[0] = replace(few[0], model=replace(few[0].model, blocks_per_stage=8))
    says(direct("complexity", "--check"), 4, "golden_counts.yaml", "cifar10/plain-20: 50 layers instead of 20")
    outcome = direct("complexity")
    assert outcome.code == 0
    assert "not as in golden_counts.yaml: cifar10/plain-20" in outcome.out
