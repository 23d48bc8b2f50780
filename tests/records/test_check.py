"""`check_record` on whole records and on forged ones: every forgery is found, in the check that it belongs to."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from repro.checks import FAIL, WARNING
from repro.paths import reference_dir
from repro.records.check import check_record
from tests.records.forgeries import FORGERIES, IMAGENET, MADE, RESNET, SHORTENED, TESTS, WARNINGS, change_seed
from tests.records.made import cell, consistent, edit, lines, objections, put, remove, write_record

COMMITTED = sorted((reference_dir() / "runs").glob("*/seed*"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """`whole(name)`: a record in which everything agrees, made once."""
    root = tmp_path_factory.mktemp("whole")
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = write_record(root / name, *MADE[name])
        return made[name]
    return get


@pytest.fixture
def record(whole, tmp_path):
    """`record(name)`: a copy of such a record, to be spoilt."""
    def get(name: str = RESNET) -> Path:
        source = whole(name)
        target = tmp_path / "sent" / source.parent.name / source.name
        shutil.copytree(source, target)
        return target
    return get


# ---- records that are as they should be

@pytest.mark.parametrize("folder", COMMITTED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_committed_record_passes(folder):
    """The committed evidence checks itself, warnings included."""
    assert len(COMMITTED) >= 5
    others = [other for other in COMMITTED if other != folder]
    assert objections(folder, *others) == []


@pytest.mark.parametrize("name", MADE)
def test_a_made_record_of_every_kind_passes(whole, name):
    """Negative control for every forgery below."""
    assert objections(whole(name)) == []


@pytest.mark.parametrize(("name", "words"), [
    (RESNET, "a run of the paper: row ResNet-20 in Table 6: would be shown beside 8.75 %"),
    ("plain", "a run of the paper: plain-56 in the table of plain networks: published as curves only"),
    (IMAGENET, "row ResNet-34 B in Table 3: would be shown beside 24.52 / 7.46 %; row ResNet-34 B in Table 4: would be "
               "shown beside 21.84 / 5.71 %"),
    (SHORTENED, "not a paper run: scale: 1.0 -> 0.01")])
def test_the_last_finding_says_what_it_would_count_as(whole, name, words):
    last = check_record(whole(name))[-1]
    assert (last.check, last.status) == ("counts as", "ok")
    assert words in last.text


def test_a_row_of_imagenet_names_the_test_that_was_not_sent(record):
    folder = record(IMAGENET)
    (folder / "evaluations" / "multi_scale.json").unlink()
    last = check_record(folder)[-1]
    assert last.status == "ok"
    assert "5.71 %, once evaluations/multi_scale.json is sent too" in last.text
    assert "7.46 %, once" not in last.text


def test_it_counts_as_nothing_while_a_check_fails(record):
    folder = record()
    put(folder, 1, "parameters")
    last = check_record(folder)[-1]
    assert last.status == FAIL
    assert last.text.startswith("nothing while these checks fail: parameters; without them: a run of the paper")


def test_extra_files_may_be_absent_where_the_record_does_not_name_them(record):
    folder = record()
    for name, key in (("responses.csv", "responses"), ("gradients.csv", "gradients_sha256")):
        (folder / name).unlink()
        remove(folder, key)
    assert objections(folder) == []


def test_every_check_is_reported_once_where_nothing_is_wrong(whole):
    names = [one.check for one in check_record(whole(RESNET))]
    assert len(set(names)) == len(names) == 16


# ---- forgeries

def assert_found(folder: Path, check: str, words: str, verdict: str, *references: Path) -> None:
    """Assert that a check says these words, and that the record is refused if they are an error."""
    findings = check_record(folder, references)
    texts = [one.text for one in findings if (one.check, one.status) == (check, verdict)]
    assert any(words in text for text in texts), [one for one in findings if one.status != "ok"]
    assert check not in [one.check for one in findings if one.status == "ok"]
    assert (findings[-1].status == FAIL) or verdict == WARNING


@pytest.mark.fault(72)
@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_found(record, name):
    kind, spoil, check, words = FORGERIES[name]
    folder = record(kind)
    spoil(folder)
    assert_found(folder, check, words, FAIL)


@pytest.mark.parametrize("name", TESTS)
def test_a_forged_test_is_found(record, name):
    spoil, words = TESTS[name]
    folder = record(IMAGENET)
    spoil(folder)
    assert_found(folder, "evaluations", words, FAIL)


def test_a_test_of_a_cifar_run_is_refused(record, whole):
    folder = record()
    shutil.copytree(whole(IMAGENET) / "evaluations", folder / "evaluations")
    assert_found(folder, "evaluations", "belongs to runs of ImageNet", FAIL)


@pytest.mark.parametrize(("words", "told"), [
    (("cifar_resnet20", "data=synthetic"), "synthetic images are no evidence about CIFAR-10"),
    (("imagenet_optB", "data.wiring_test=true"), "a wiring test is no evidence about ImageNet")])
def test_what_says_nothing_about_its_data_set_is_refused(tmp_path, words, told):
    folder = write_record(tmp_path, *words)
    assert_found(folder, "data", told, FAIL)


# ---- warnings

def copy_of(folder: Path, seed: int) -> Path:
    """A record under another seed, consistent in itself."""
    target = folder.with_name(f"seed{seed}")
    shutil.copytree(folder, target)
    change_seed(target, seed)
    return target


def test_a_copy_under_another_seed_is_recognized_by_its_history(record):
    first = record()
    second = copy_of(first, 1)
    assert objections(second) == []
    assert_found(second, "copies", "it shares history.csv, responses.csv, gradients.csv, the weights' SHA-256 with "
             "cifar_resnet20/seed0", FAIL, first)
    assert objections(first, first) == [], "not of itself"


@pytest.mark.fault(72)
def test_a_copy_is_recognized_by_whatever_it_still_shares(record):
    """A seed relabeled, one loss moved by 1e-9, other weights; then without the layers too."""
    first = record()
    second = copy_of(first, 1)
    value = json.loads((first / "run.json").read_text())["result"]["train_loss"]
    cell(second, -1, "train_loss", value + 1e-9)
    consistent(second)
    put(second, "e" * 64, "weights_sha256")
    assert_found(second, "copies", "it shares responses.csv, gradients.csv, the losses of 164 of 165 tests, the "
                 "errors of 165 of 165 tests with cifar_resnet20/seed0", FAIL, first)
    for name, key in (("responses.csv", "responses"), ("gradients.csv", "gradients_sha256")):
        (second / name).unlink()
        remove(second, key)
    assert_found(second, "copies", "it shares the losses of 164 of 165 tests, the errors of", FAIL, first)


def test_the_same_run_sent_again_is_a_warning(record, tmp_path):
    first = record()
    again = tmp_path / "again" / first.parent.name / first.name
    shutil.copytree(first, again)
    assert_found(again, "copies", "the same run again", WARNING, first)


@pytest.mark.parametrize("name", WARNINGS)
def test_a_warning_refuses_nothing(record, name):
    kind, spoil, check, words = WARNINGS[name]
    folder = record(kind)
    spoil(folder)
    assert_found(folder, check, words, WARNING)
    assert check_record(folder)[-1].status == "ok"


def test_an_old_record_without_newer_keys_keeps_the_values_that_its_run_had(record):
    """As the committed ones of 110 layers, which know nothing of paddings or of other recipes."""
    folder = record()

    def older(content):
        del content["config"]["model"]["zero_padding"], content["config"]["train"]["plateau_drops"]
        del content["config"]["engine"], content["peak_memory_bytes"]
        (folder / "config.yaml").write_text(yaml.safe_dump(content["config"]))
    edit(folder, older)
    assert objections(folder) == []


def test_all_rows_of_a_forged_history_do_not_fill_the_screen(record):
    folder = record()
    lines(folder, lambda found: found.__setitem__(slice(1, None), [
        ",".join([a, "5.0", *rest]) for a, _, *rest in (line.split(",") for line in found[1:])]))
    schedule = [one for one in check_record(folder) if one.check == "schedule"]
    assert len(schedule) == 21
    assert schedule[-1].text == "and 145 more of this check"
    assert schedule[-1].status == FAIL
