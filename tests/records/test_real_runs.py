"""Records that the engine itself writes pass: what the checks expect is what runs leave behind."""

from dataclasses import replace
from pathlib import Path

import pytest

from repro.checks import FAIL, WARNING
from repro.data.cifar10_files import OFFICIAL
from repro.errors import Stopped
from repro.publishing import copy_record
from repro.stopping import StopRequest
from repro.training import train
from tests.made import run_config, tiny_config, tiny_data
from tests.records.made import cell, objections

TESTS = 100  # made images whose errors are also possible among the 10,000 of CIFAR-10


@pytest.fixture
def sent(monkeypatch, tmp_path):
    """`sent(*overrides)`: the published record of a run in two sessions, on made images under CIFAR-10's name."""
    data = replace(tiny_data(tests=TESTS), sha256=OFFICIAL.sha256)
    monkeypatch.setattr(train, "load_data", lambda *_: data)

    def make(*overrides: str) -> Path:
        config = tiny_config("evaluation.responses=false", "evaluation.gradient_iterations=[1,20]", *overrides)
        with monkeypatch.context() as patch:
            looks = iter(range(10**6))
            patch.setattr(StopRequest, "reason", property(lambda self: "SIGTERM" if next(looks) >= 24 else None))
            with pytest.raises(Stopped):
                run_config(config)
        run = run_config(config)
        target = tmp_path / "sent" / run.folder.parent.name / run.folder.name
        copy_record(run.folder, target)
        return target
    return make


@pytest.mark.parametrize("overrides", [("train.warmup=error80", "train.warmup_max=15", "train.warmup_window=5"),
                                       ("scale=0.9",)], ids=" ".join)
def test_a_run_in_two_sessions_leaves_a_record_in_which_everything_agrees(sent, overrides):
    folder = sent(*overrides)
    found = [one for one in objections(folder) if one.check != "code"]
    assert [(one.check, one.status) for one in found] == [("parameters", WARNING)], found
    assert "golden_counts.yaml does not have" in found[0].text


def test_what_is_changed_in_such_a_record_is_found(sent):
    """Negative control."""
    folder = sent()
    cell(folder, 1, "learning_rate", 0.01)
    assert {"schedule", "result"} <= {one.check for one in objections(folder) if one.status == FAIL}
