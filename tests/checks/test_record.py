"""`repro check record`: whole records pass, every forgery is found, and nothing that is hostile is run or followed."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repro.checks import FAIL
from repro.checks.record import CHECKS, LARGEST, check_record
from repro.errors import ConfigError
from repro.paths import reference_dir
from tests.checks.made import cell, consistent, lines, put, set_everywhere, write_record
from tests.outcome import says

COMMITTED = sorted((reference_dir() / "runs").glob("*/seed*"))
RESNET, IMAGENET, WARMUP, SHORT = "resnet", "imagenet", "warmup", "short"
KINDS = {RESNET: ("cifar_resnet20",), IMAGENET: ("imagenet_optB",), WARMUP: ("cifar_resnet110",),
         SHORT: ("cifar_resnet20", "scale=0.02", "evaluation.interval=16000"), "plain": ("cifar_plain56",),
         "plateau": ("cifar_resnet20", "data.split=45k", "train.lr_policy=plateau"),
         "recipe": ("cifar_resnet20", "recipe=fb")}
COUNTS_AS = {RESNET: "a run of the paper: table6/resnet-20", IMAGENET: "table3/resnet-34-b, table4/resnet-34-b",
             SHORT: "not a paper run: scale: 1.0 -> 0.02; evaluation.interval: 390 -> 16000"}


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """`whole(kind)`: a record in which everything agrees, made once."""
    root, made = tmp_path_factory.mktemp("whole"), {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = write_record(root / kind, *KINDS[kind])
        return made[kind]
    return get


@pytest.fixture
def record(whole, tmp_path):
    """`record(kind)`: a copy of such a record, to be spoilt."""
    def get(kind: str = RESNET) -> Path:
        source = whole(kind)
        return Path(shutil.copytree(source, tmp_path / "sent" / source.parent.name / source.name))
    return get


def objections(folder: Path, *others: Path) -> dict[str, str]:
    """{check: text} of what is not ok, the last result left out; every text is one line that moves no cursor."""
    results = check_record(folder, others)
    assert results[-1].check == "counts as"
    assert all(one.text.isprintable() and len(one.text) < 700 for one in results)
    json.dumps([one.text for one in results]).encode()
    assert (results[-1].status == FAIL) == any(one.status == FAIL for one in results[:-1])
    return {one.check: one.text for one in results[:-1] if one.status != "ok"}


# ---- records that are as they should be

@pytest.mark.parametrize("folder", COMMITTED, ids=lambda path: path.parent.name)
def test_every_committed_record_passes(folder):
    assert len(COMMITTED) >= 5
    assert objections(folder, *COMMITTED) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_of_every_kind_passes(whole, kind):
    """Negative control for every forgery below."""
    results = check_record(whole(kind))
    assert [one.check for one in results] == [*CHECKS, "counts as"]
    assert COUNTS_AS.get(kind, "") in results[-1].text
    assert objections(whole(kind)) == {}


def test_an_older_record_without_newer_keys_or_without_layers_is_as_good(record):
    folder = record()
    for name, key in (("responses.csv", "responses"), ("gradients.csv", "gradients_sha256")):
        (folder / name).unlink()
        put(folder, ..., key)
    for path in (("model", "zero_padding"), ("train", "plateau_drops"), ("engine",)):
        put(folder, ..., "config", *path)
    config = json.loads((folder / "run.json").read_text())["config"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert objections(folder) == {}


# ---- forgeries

def both(*changes):
    """Several changes one after the other."""
    return lambda folder: [change(folder) for change in changes]


TEN = "evaluations/ten_crop.json"
FORGERIES = {
    "an error changed in history.csv": (RESNET, lambda f: cell(f, 3, "test_loss", 1.5), "history", "was changed after"),
    "an error changed in run.json": (RESNET, lambda f: put(f, 8.0, "result", "test_top1_error"), "history", "differ"),
    "an error changed in both, as no number of images gives it": (
        RESNET, both(lambda f: cell(f, -1, "test_top1_error", 8.333), consistent), "history",
        "iteration 64000: test_top1_error 8.333 is no whole number of errors among 10000 images"),
    "a loss that is no number": (RESNET, both(lambda f: cell(f, 4, "test_loss", "nan"), consistent), "history",
                                 "iteration 1950: test_loss nan is no loss"),
    "a history without one of its rows": (RESNET, both(lambda f: lines(f, lambda x: x.pop(5)), consistent), "history",
                                          "has not every evaluation once"),
    "a history that is cut": (RESNET, both(lambda f: lines(f, lambda x: x.pop()), consistent), "history",
                              "has not every evaluation once"),
    "another split": (RESNET, lambda f: put(f, "val", "evaluated_on"), "history", "is tested on test"),
    "an unfinished run": (RESNET, lambda f: put(f, "interrupted", "status"), "history", "not finished: interrupted"),
    "the best error as the result": (RESNET, lambda f: put(f, 7.9, "best_on_test", "test_top1_error"), "history",
                                     "best_on_test is not"),
    "another learning rate": (RESNET, both(lambda f: cell(f, 100, "learning_rate", 0.1), consistent), "history",
                              "learning rate 0.1, the schedule gives 0.01"),
    "a warm-up that is too long": (WARMUP, lambda f: put(f, 2500, "warmup_end"), "history", "after 2000 at the latest"),
    "a setting changed under the old hash": (RESNET, lambda f: put(f, 0.2, "config", "train", "lr"), "configuration",
                                             "config.yaml is not what"),
    "a setting changed everywhere": (RESNET, lambda f: set_everywhere(f, 0.0005, "train", "weight_decay"),
                                     "configuration", "the recorded deviations is []"),
    "another seed in the record": (RESNET, lambda f: put(f, 3, "seed"), "configuration", "seed is 3, not 0"),
    "another seed everywhere": (RESNET, lambda f: set_everywhere(f, 3, "seed"), "configuration",
                                "its folder is cifar_resnet20/seed0, not cifar_resnet20/seed3"),
    "another hash": (SHORT, lambda f: put(f, "0" * 12, "identity"), "configuration", "the recorded identity is 000000"),
    "other parameters": (RESNET, lambda f: put(f, 269723, "parameters"), "network", "is 269723, not 269722"),
    "other images": (RESNET, lambda f: put(f, "0" * 64, "data", "sha256"), "data", "SHA-256 is 0000"),
    "one folder for both sets": (IMAGENET, lambda f: put(f, True, "data", "one_folder"), "data", "a wiring test"),
    "changed responses": (RESNET, lambda f: cell(f, 3, "std", 0.6, name="responses.csv"), "layers", "responses.csv"),
    "responses that were not sent": (RESNET, lambda f: (f / "responses.csv").unlink(), "layers", "not None"),
    "a commit made up": (RESNET, lambda f: put(f, "main", "sessions", 0, "commit"), "run.json", "sessions[0].commit"),
    "a key that is missing": (RESNET, lambda f: put(f, ..., "parameters"), "run.json", "no parameters"),
    "a setting out of its range": (RESNET, lambda f: put(f, 2, "config", "train", "momentum"), "run.json", "momentum="),
    "a test of other counts than its error": (IMAGENET, lambda f: put(f, 12000, "top1_errors", name=TEN), "tests",
                                              "says 25.0 % for 12000 errors"),
    "a test of other weights": (IMAGENET, lambda f: put(f, "0" * 64, "weights_sha256", name=TEN), "tests",
                                "has weights_sha256="),
    "a test of another run": (IMAGENET, lambda f: put(f, "0" * 12, "identity", name=TEN), "tests", "has identity=0000"),
}


@pytest.mark.fault(72)
@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_found(record, name):
    kind, spoil, check, words = FORGERIES[name]
    folder = record(kind)
    spoil(folder)
    assert words in objections(folder).get(check, ""), objections(folder)
    assert check_record(folder)[-1].text.startswith("nothing while these checks fail: ")


@pytest.mark.parametrize("words", [("cifar_resnet20", "data=synthetic"), ("imagenet_optB", "data.wiring_test=true")])
def test_what_says_nothing_about_its_data_set_is_refused(tmp_path, words):
    assert "no evidence" in objections(write_record(tmp_path, *words))["data"]


@pytest.mark.fault(72)
def test_a_copy_under_another_seed_is_recognized_by_whatever_it_still_shares(record, tmp_path):
    first, second = record(), tmp_path / "sent" / "cifar_resnet20" / "seed1"
    shutil.copytree(first, second)
    set_everywhere(second, 1, "seed")
    assert objections(second) == {}
    assert objections(second, first) == {"copies": "it shares responses.csv, gradients.csv, the loss of 165 tests, the "
                                         "top1_error of 165 tests with cifar_resnet20/seed0"}
    for row in range(165):
        cell(second, row, "train_loss", 2 - row / 100)
    consistent(second)
    for name, key in (("responses.csv", "responses"), ("gradients.csv", "gradients_sha256")):
        (second / name).unlink()
        put(second, ..., key)
    assert objections(second, first) == {"copies": "it shares the top1_error of 165 tests with cifar_resnet20/seed0"}
    for rows, found in ((range(82), {"copies": "it shares the top1_error of 83 tests with cifar_resnet20/seed0"}),
                        ([82], {})):  # as by chance a few may agree
        for row in rows:
            cell(second, row, "test_top1_error", 90.01)
        consistent(second)
        assert objections(second, first) == found
    assert objections(first, first, write_record(tmp_path / "other", seed=5)) == {}, "not of itself, or of another seed"


@pytest.mark.parametrize(("value", "key"), [(True, "dirty"), (None, "commit")])
def test_a_warning_refuses_nothing(record, value, key):
    folder = record()
    put(folder, value, "sessions", 0, key)
    assert list(objections(folder)) == ["code"]


# ---- records that are made to do harm

@pytest.mark.parametrize("name", ["weights.pt", "evaluations/ten_crop.npy", "a\x1b[2Jb\n"])
def test_unknown_files_are_refused_and_not_opened(record, name, monkeypatch):
    folder, opened, original = record(), [], open
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    monkeypatch.setattr("builtins.open", lambda *args, **named: opened.append(str(args[0])) or original(*args, **named))
    assert "is no file of a record" in objections(folder)["files"]
    assert str(path) not in opened


@pytest.mark.parametrize("name", ["run.json", "history.csv", "evaluations"])
def test_a_link_a_pipe_or_a_huge_file_is_refused_wherever_it_leads(record, tmp_path, name):
    folder = record()
    path, secret = folder / name, tmp_path / "secret"
    secret.write_text('{"secret": "hunter2"}')
    path.unlink(missing_ok=True)
    path.symlink_to(secret)
    assert "hunter2" not in repr(check_record(folder))
    assert name in objections(folder)["files"]
    path.unlink()
    os.mkfifo(path)
    assert name in objections(folder)["files"]
    path.unlink()
    if name != "evaluations":
        assert f"{name} is missing" in objections(folder)["files"]
        with path.open("xb") as file:
            file.truncate(2**40)
        assert f"{name} has {2**40} bytes; a record's has at most {LARGEST}" in objections(folder)["files"]


def test_a_folder_that_is_a_link_or_none(record, tmp_path):
    folder, link = record(), tmp_path / "link"
    link.symlink_to(folder)
    assert "symbolic link" in objections(link)["files"]
    for path in (tmp_path / "nothing", folder / "run.json"):
        with pytest.raises(ConfigError, match="no such folder"):
            check_record(path)


@pytest.mark.parametrize("text", [
    "a: !!python/object/apply:os.system [touch mark]\n", "a: &a [1]\nb: [*a, *a]\n", "a: " + "[" * 100_000,
    "_target_: os.system\n"])
def test_hostile_yaml_is_never_parsed(record, text, monkeypatch):
    folder = record()
    (folder / "config.yaml").write_text(text)
    monkeypatch.setattr("yaml.load", None)
    monkeypatch.setattr("yaml.parse", None)
    assert "config.yaml is not what" in objections(folder)["configuration"]


@pytest.mark.parametrize(("text", "words"), [
    ('{"a": NaN}', "JSON"), ('{"a": 1e999}', "JSON"), ('{"a": ' + "9" * 5000 + "}", "more than 18 digits"),
    ('{"a": ' + "[" * 100_000, ""), ('{"seed": 0, "seed": 1}', "given twice"), ("[1]", "no mapping"),
    ('{"a": [{"_target_": "os.system"}]}', "_target_"), ('{"a": "${oc.env:HOME}"}', "is Hydra's"),
    ('{"\\u001b[2J\\ud800": 1}', ""), ("", "Expecting value")])
def test_hostile_json_is_refused(record, text, words):
    folder = record()
    (folder / "run.json").write_text(text)
    found = objections(folder)
    assert list(found) == ["run.json"]
    assert words in found["run.json"]
    assert os.environ["HOME"] not in found["run.json"]


def test_a_history_of_anything_is_a_finding(record):
    folder = record()
    for filler in (b"," * 10**6, b"1" * 10**6, b"\xff\xfe\x00\x80"):
        (folder / "history.csv").write_bytes((folder / "history.csv").read_bytes() + filler)
        assert "history" in objections(folder)


def test_a_schedule_of_millions_of_tests_is_not_written_down(record):
    folder = record()
    put(folder, 10**7, "config", "train", "iterations")
    put(folder, 1, "config", "evaluation", "interval")
    assert {"configuration", "history"} <= set(objections(folder))


SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats() | st.text(max_size=8)
    | st.sampled_from(["auto", "???", "${x}", "bf16", "cifar_resnet32", "2026-05-01T00:00:00+00:00", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6)


def places(value, path=()):
    """The paths of everything inside nested lists and mappings."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*path, key)
        yield from places(inner, (*path, key))


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(data=st.data())
def test_any_value_anywhere_gives_findings_and_never_an_exception(whole, tmp_path_factory, data):
    folder = Path(shutil.copytree(whole(SHORT), tmp_path_factory.mktemp("edited") / "seed0"))
    content = json.loads((folder / "run.json").read_text())
    put(folder, data.draw(HOSTILE), *data.draw(st.sampled_from(list(places(content)))))
    objections(folder)


def test_good_and_bad_records_from_the_command_line(direct, record):
    folder = record()
    outcome = direct("check", "record", str(folder), str(COMMITTED[0]))
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines()[:2] == ["sent/cifar_resnet20/seed0", "  ok       files"]
    put(folder, "0" * 64, "data", "sha256")
    outcome = direct("check", "record", str(folder), str(COMMITTED[0]))
    says(outcome, 4, "records that fail: sent/cifar_resnet20/seed0")
    assert "  FAIL     data: the recorded SHA-256 is 000000000000" in outcome.out
    assert outcome.out.splitlines()[-1].startswith("  ok       counts as: not a paper run"), "the others are shown too"
    outcome = direct("check", "record", str(folder), "--json")
    assert outcome.code == 4
    assert json.loads(outcome.out)["sent/cifar_resnet20/seed0"][-1]["status"] == FAIL
    says(direct("check", "record", str(folder / "nowhere")), 2, "seed0/nowhere")
    says(direct("check", "record"), 2, "FOLDER")
