"""`repro verify`: every check passes on what is here and finds what is made wrong; lines, JSON, exit codes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from torch.nn import functional as F

from repro import verification
from repro.config import compose, paper_config
from repro.data import cifar10_files, synthetic
from repro.errors import DataError
from repro.models import blocks
from repro.paper import published_dir
from repro.paths import reference_dir
from repro.schema import ShortcutOption
from repro.training.step import TrainStep
from repro.verification import Mismatch, Skipped
from tests.outcome import says


@pytest.fixture
def few_images(monkeypatch):
    """Fewer synthetic images, for their time."""
    for name in ("TRAIN_IMAGES", "TEST_IMAGES", "CHUNK"):
        monkeypatch.setattr(synthetic, name, 100)


def copied(folder: Path, monkeypatch, tmp_path: Path, name: str) -> Path:
    """A copy of a folder of facts, in whose place the checks look."""
    target = tmp_path / "copy"
    shutil.copytree(folder, target)
    monkeypatch.setattr(verification, name, lambda: target)
    return target


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


# ---- the command

def test_the_whole_list_from_the_command_line(few_images, direct):
    outcome = direct("verify", "data.root=somewhere")
    assert outcome.code == 0, outcome
    lines = outcome.out.splitlines()
    assert lines[0].startswith("ok       published numbers: 15 files in ")
    assert lines[2].startswith("ok       golden counts: layers, parameters and multiply-adds of 6 networks")
    assert lines[5].startswith("skipped  CIFAR-10 data: CIFAR-10 is not in somewhere; `repro data fetch cifar10 ")
    assert lines[-1].startswith("7 of 8 checks ok, 0 failed, 1 skipped, in ")


def fails():
    raise Mismatch([f"sum {number}: expected {number}, found 3" for number in range(8)])


def test_what_fails_is_shown_named_and_exits_4(direct, monkeypatch):
    monkeypatch.setattr(verification, "checks", lambda root: {"sums": fails, "broken": lambda: 1 // 0})
    outcome = direct("verify")
    says(outcome, 4, "this installation does not compute what it claims: sums, broken")
    lines = outcome.out.splitlines()
    assert lines[0].startswith("FAIL     sums: sum 0: expected 0, found 3; sum 1: ")
    assert lines[0].endswith("sum 4: expected 4, found 3; and 3 more  0.0 s")
    assert "FAIL     broken: broke down: ZeroDivisionError" in lines[1]
    outcome = direct("verify", "--json")
    content = json.loads(outcome.out)
    assert (outcome.code, content["ok"], content["failed"], content["skipped"]) == (4, 0, 2, 0)
    assert content["versions"]["torch"]


def test_a_misspelled_key(direct):
    says(direct("verify", "data.rot=x"), 2, "unknown key 'data.rot'; did you mean data.root?")


# ---- what is made wrong is found

@pytest.mark.parametrize(("expected", "found", "text"), [
    ({"a": 1}, {"a": 2}, "a: expected 1, found 2"), ({"a": 1}, {}, "a: expected 1, found nothing"),
    ({}, {"a": 1}, "a: expected nothing, found 1"), ({}, {}, "nothing to compare")])
def test_values_that_differ_or_are_missing(expected, found, text):
    with pytest.raises(Mismatch, match=f"^{text}$"):
        verification.compare(expected, found)


def test_a_published_number_that_was_edited(monkeypatch, tmp_path):
    folder = copied(published_dir(), monkeypatch, tmp_path, "published_dir")
    edit(folder / "table6.yaml", "8.75", "8.57")
    (folder / "table2.yaml").unlink()
    (folder / "table9.yaml").write_text("rows: []\n")
    with pytest.raises(Mismatch) as caught:
        verification.published_numbers()
    assert [one.partition(":")[0] for one in str(caught.value).split("; ")] == [
        "table2.yaml", "table6.yaml", "table9.yaml"]


def test_an_experiment_that_was_changed(monkeypatch):
    changed = compose(["experiment=cifar_resnet20", "model.batch_norm_eps=1e-3"])
    monkeypatch.setattr(verification, "paper_config", lambda name: changed if name == "cifar_resnet20"
                        else paper_config(name))
    with pytest.raises(Mismatch, match=r"^cifar_resnet20: expected ea1f1ecb1ebb, found "):
        verification.config_hashes()


def test_an_option_in_the_place_of_another(monkeypatch):
    original = blocks.make_shortcut
    monkeypatch.setattr(blocks, "make_shortcut", lambda i, o, stride, config, group: original(
        i, o, stride, replace(config, shortcut_option=ShortcutOption.B), group))
    with pytest.raises(Mismatch, match=r"^cifar10/resnet-110-A: expected \(110, 1727962, .*found \(110, 1730714, "):
        verification.counts()


def test_another_function_than_torchvisions(monkeypatch):
    monkeypatch.setattr(blocks.Bottleneck, "forward", lambda self, x: F.relu(self.shortcut(x)) if self.shortcut else x)
    with pytest.raises(Mismatch, match=r"^ResNet-50: outputs up to "):
        verification.torchvision_outputs()


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize("lost", ["momentum", "order"])
def test_a_resume_that_forgets_something(monkeypatch, lost):
    original = TrainStep.load_state

    def forget(step, state):
        original(step, state)
        if lost == "momentum":
            for buffer in step.optimizer.momentum:
                buffer.zero_()
        else:
            step.input.order.seed += 1

    monkeypatch.setattr(TrainStep, "load_state", forget)
    with pytest.raises(Mismatch, match=r"conv1\.weight: expected"):
        verification.exact_resume()


@pytest.mark.usefixtures("few_images")
def test_a_run_that_was_not_interrupted_is_no_evidence(monkeypatch):
    monkeypatch.setattr(verification, "STOP_AFTER", None)
    with pytest.raises(Mismatch, match="sessions: expected 2, found 1"):
        verification.exact_resume()


def test_the_real_and_the_damaged_data(real_cifar10, tmp_path):
    assert verification.cifar10_data(real_cifar10).startswith("50,000 training and 10,000 test images")
    (tmp_path / cifar10_files.NPZ).write_bytes(b"nothing")
    with pytest.raises(DataError, match="damaged"):
        verification.cifar10_data(tmp_path)


def test_committed_evidence_that_was_edited(monkeypatch, tmp_path):
    folder = copied(reference_dir(), monkeypatch, tmp_path, "reference_dir")
    monkeypatch.setattr(verification.tables, "committed_names", lambda: ["table6", "short_cifar_plain_vs_res"])
    edit(folder / "tables" / "table6.csv", "8.75", "8.76")
    (folder / "tables" / "short_cifar_plain_vs_res.tex").unlink()
    with pytest.raises(Mismatch) as caught:
        verification.committed_tables()
    assert [one.partition(":")[0] for one in str(caught.value).split("; ")] == [
        "table6.csv", "short_cifar_plain_vs_res.tex"]
    path, = (folder / "runs").glob("cifar_resnet20@*/seed0/history.csv")
    last = path.read_text().splitlines()[-1]
    edit(path, last, last.rpartition(",")[0] + ",1.23")
    with pytest.raises(Mismatch, match=r"^cifar_resnet20@\w+/seed0: "):
        verification.committed_records()


def test_an_installed_package_has_no_tables_and_may_have_no_records(monkeypatch, tmp_path):
    monkeypatch.setattr(verification, "in_tree", lambda: False)
    monkeypatch.setattr(verification, "reference_dir", lambda: tmp_path)
    with pytest.raises(Skipped, match="an installed package has no tables of its own"):
        verification.committed_tables()
    with pytest.raises(Skipped, match="no records in"):
        verification.committed_records()
