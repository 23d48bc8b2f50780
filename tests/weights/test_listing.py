"""`repro weights list`: committed, exported, imported weights and those of runs."""

import json

import pytest

from repro.files import file_sha256
from repro.paths import results_dir
from tests.made import tiny_data
from tests.made_cli import TINY
from tests.outcome import says
from tests.weights.made import akamaster_net, checkpoint


@pytest.fixture(autouse=True)
def nothing_committed(monkeypatch, tmp_path):
    monkeypatch.setattr("repro.paths.reference_dir", lambda: tmp_path / "reference")


def lines_of(outcome):
    assert outcome.code == 0, outcome.err
    return outcome.out.splitlines()


def test_with_nothing_there_it_says_why(direct):
    first, second = lines_of(direct("weights", "list"))
    assert first == "no weights are committed: no full-length run is yet"
    assert "repro weights import" in second
    assert json.loads(direct("weights", "list", "--json").out)["weights"] == []
    says(direct("weights"), 2, "import | export | list")


def test_every_kind_is_listed_with_its_error_and_hash(here, monkeypatch, tmp_path):
    monkeypatch.setattr("repro.evaluation.protocols.load_arrays", lambda config: None)
    monkeypatch.setattr("repro.evaluation.protocols.on_device", lambda arrays, config, device: tiny_data())
    assert here("run", *TINY).code == 0
    run, = (results_dir() / "runs").glob("*/seed0")
    here("weights", "export", str(run), "--format", "pt")
    here("weights", "export", str(run), "--format", "pt", "--output", str(tmp_path / "reference" / "weights"))
    file = checkpoint(tmp_path / "net.th", akamaster_net(3).state_dict())
    here("weights", "import", str(file), "--from", "akamaster")
    (results_dir() / "imported" / "bad.pt").write_bytes(b"<html>")
    found = json.loads(here("weights", "list", "--json").out)
    assert found["note"] is None
    entries = {entry["source"].split(",")[0]: entry for entry in found["weights"]}
    assert list(entries) == ["committed", "exported", "imported", "weights of others (akamaster)", "run"]
    record = json.loads((run / "run.json").read_text())
    error = f"{record['result']['test_top1_error']:.2f} test"
    assert entries["run"]["error"] == f"{error} (other settings)"
    assert entries["exported"]["error"] == f"{error} (SHORT RUN: 20 of 64,000 iterations)"
    assert entries["run"]["network"] == entries["exported"]["network"] == "residual, 8 layers"
    assert entries["run"]["sha256"] == file_sha256(run / "weights.pt")
    imported = entries["weights of others (akamaster)"]
    assert imported["error"] == "not measured here; not stated"
    assert "a web page" in entries["imported"]["source"]
    assert here("eval", f"weights={results_dir() / 'imported' / imported['name']}").code == 0
    text = lines_of(here("weights", "list"))
    assert text[0].split() == ["name", "network", "error", "(%)", "source", "SHA-256"]
    line, = (line for line in text if line.startswith("resnet20-akamaster.pt"))
    assert "test (single_view_cifar10_full_30_fp32)" in line
    assert "not measured" not in line
    assert line.endswith(imported["sha256"][:12])
