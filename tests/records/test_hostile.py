"""Records that are made to do harm: nothing is run, followed, filled or waited for, and there is never a traceback."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repro.checks import FAIL
from repro.errors import ConfigError, StorageError
from repro.records.check import check_record
from repro.records.reading import CSV_LIMIT, LIMITS, csv_rows
from tests.records.made import edit, lines, objections, put, write_record

FILES = ("run.json", "config.yaml", "history.csv", "timing.csv", "responses.csv", "gradients.csv")
# A record that is small, so that edits meet something that is looked at.
SMALL = ("cifar_resnet20", "scale=0.02", "evaluation.interval=16000")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write_record(tmp_path_factory.mktemp("whole"), *SMALL)


@pytest.fixture
def record(whole, tmp_path) -> Path:
    """A record to be spoilt."""
    target = tmp_path / whole.parent.name / whole.name
    shutil.copytree(whole, target)
    return target


def refused(folder: Path, check: str, *words: str) -> None:
    """Assert that one finding of a check has all these words, and is one line that moves no cursor."""
    findings = check_record(folder)
    texts = [one.text for one in findings if (one.check, one.status) == (check, FAIL)]
    assert any(all(word in text for word in words) for text in texts), findings
    assert findings[-1].status == FAIL
    assert all(one.text.isprintable() and len(one.text) < 700 for one in findings)


def test_the_record_that_these_tests_spoil_is_good(record):
    """Negative control."""
    assert objections(record) == []


# ---- files

class Runs:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["weights.pt", "checkpoint-00000001.json", "x.pickle",
                                  "evaluations/ten_crop.npy"])
def test_weights_and_pickles_are_refused_and_not_opened(record, tmp_path, name, monkeypatch):
    opened = []
    original = os.open
    path, mark = record / name, tmp_path / "mark"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(Runs(mark)))
    monkeypatch.setattr(os, "open", lambda target, *rest, **named: opened.append(str(target)) or original(
        target, *rest, **named))
    refused(record, "files", name, "was not opened", "send the record without weights")
    assert not mark.exists()
    assert opened
    assert str(path) not in opened
    pickle.loads(path.read_bytes())
    assert mark.exists(), "negative control: it would have left a mark"


@pytest.mark.parametrize("name", ["setup.py", "evaluations/run.json"])
def test_any_other_file_is_refused(record, name):
    (record / name).parent.mkdir(exist_ok=True)
    (record / name).write_text("x")
    refused(record, "files", name, "is no file of a record")


def test_a_folder_and_an_unreadable_name_are_refused(record):
    (record / "tensorboard").mkdir()
    (record / "deeper").mkdir()
    (record / "a\x1b[2Jb\n").write_text("x")
    refused(record, "files", "'tensorboard'")
    refused(record, "files", "'deeper'")
    refused(record, "files", "a\\x1b[2Jb\\n")


@pytest.mark.parametrize("name", ["run.json", "history.csv", "evaluations/center.json", "evaluations"])
def test_a_symbolic_link_is_refused_wherever_it_leads(record, tmp_path, name):
    target = tmp_path / "elsewhere"
    path = record / name
    if path.exists():
        path.rename(target)
    else:
        target.mkdir()
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(target)
    refused(record, "files", name, "is a symbolic link")


def test_no_link_leads_out_of_the_folder(record, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text('{"secret": "hunter2"}')
    (record / "run.json").unlink()
    (record / "run.json").symlink_to(secret)
    assert "hunter2" not in repr(check_record(record))


def test_a_folder_that_is_a_link_is_refused(record, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(record)
    refused(link, "files", "the folder is a symbolic link")


@pytest.mark.parametrize("name", ["run.json", "history.csv"])
def test_a_pipe_is_not_waited_for(record, name):
    (record / name).unlink()
    os.mkfifo(record / name)
    refused(record, "files", f"{name}: no plain file")


@pytest.mark.parametrize("name", ["run.json", "history.csv"])
def test_a_huge_file_is_not_read(record, name):
    with (record / name).open("ab") as file:
        file.truncate(2**40)
    refused(record, "files", f"{name}: {2**40} bytes", str(LIMITS.get(name, CSV_LIMIT)))


@pytest.mark.parametrize("name", FILES[:1])
def test_a_file_that_is_missing_or_a_folder_is_named(record, name):
    (record / name).unlink()
    refused(record, "files", f"{name} is missing")
    (record / name).mkdir()
    refused(record, "files", f"{name}: no plain file")


def test_thousands_of_entries_are_not_listed(record):
    for number in range(200):
        (record / f"x{number}").touch()
    with pytest.raises(StorageError, match="more than 100 entries"):
        check_record(record)


def test_what_is_no_folder_is_a_usage_error(record, tmp_path):
    for path in (tmp_path / "nothing", record / "run.json", record / "run.json" / "deeper", Path("a\0b")):
        with pytest.raises(ConfigError, match="folder"):
            check_record(path)


def test_what_cannot_be_read_is_an_error_of_storage(record, monkeypatch):
    original = os.open

    def denied(path, *rest, **named):
        if str(path).endswith("run.json"):
            raise PermissionError(13, "Permission denied")
        return original(path, *rest, **named)
    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(StorageError, match="Permission denied"):
        check_record(record)


# ---- what could be run

@pytest.mark.parametrize(("key", "path"), [("_target_", ()), ("_partial_", ("sessions", 0)),
                                           ("_args_", ("config", "evaluation", "gradient_iterations"))])
def test_keys_that_hydra_would_call_are_refused_anywhere_in_run_json(record, key, path):
    def change(content):
        for step in path:
            content = content[step]
        content.append({key: "os.system"}) if isinstance(content, list) else content.update({key: "os.system"})
    edit(record, change)
    refused(record, "schema", "run.json", key, "could run code")


def test_keys_that_hydra_would_call_are_refused_anywhere_in_config_yaml(record):
    with (record / "config.yaml").open("a") as file:
        file.write("extra: {deep: [1, {_target_: os.system}]}\n")
    refused(record, "schema", "config.yaml", "_target_", "could run code")


def test_interpolations_are_refused(record):
    value = "a${oc.env:HOME}b"
    put(record, value, "config", "description")
    refused(record, "schema", "run.json: config.description", "interpolation")
    written = yaml.safe_load((record / "config.yaml").read_text())
    (record / "config.yaml").write_text(yaml.safe_dump(written | {"description": value}))
    refused(record, "schema", "config.yaml: description", "interpolation")
    assert os.environ["HOME"] not in repr(check_record(record))


BOMB = "a: &a [1,2,3,4,5,6,7,8,9]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(("text", "words"), [
    (BOMB, "anchors and aliases"), ("a: !!python/object/apply:os.system [touch mark]\n", "tag"),
    ("a: " + "[" * 10_000 + "\n", "nested too deeply"), ("a: 1\na: 2\n", "given twice"),
    ("a: .nan\n", "no finite number"), ("a: " + "9" * 5000 + "\n", "no YAML"),
    ("a: " + "9" * 50 + "\n", "more than 63 bits"), ("a: 2015-12-10\n", "no text, number, list or mapping"),
    ("1: a\n", "key 1 is no text"), ("- 1\n", "no mapping")])
def test_yaml_that_grows_nests_or_makes_objects_is_refused(record, text, words):
    (record / "config.yaml").write_text(text)
    refused(record, "schema", "config.yaml: ", words)
    assert not (record / "mark").exists()


@pytest.mark.parametrize(("text", "words"), [
    ('{"a": NaN}', "NaN is no finite number"), ('{"a": 1e999}', "a: inf is no finite number"),
    ('{"a": ' + "9" * 5000 + "}", "no JSON"), ('{"a": ' + "9" * 50 + "}", "more than 63 bits"),
    ('{"a": ' + "[" * 100_000, "nested too deeply"), ('{"a": ' + "[" * 900 + "]" * 900 + "}", "nested too deeply"),
    ('{"seed": 0, "seed": 1}', "'seed' is given twice"), ("[1]", "no mapping"),
    ('{"\\u001b[2J\\ud800": 1}', "no Unicode")])
def test_json_that_is_none_or_nests_is_refused(record, text, words):
    (record / "run.json").write_text(text)
    refused(record, "schema", "run.json: ", words)


@pytest.mark.parametrize("name", ["run.json", "history.csv"])
def test_bytes_that_are_no_text_are_refused(record, name):
    (record / name).write_bytes(b"\xff\xfe\x00\x80")
    assert any("no UTF-8" in one.text for one in objections(record))


@pytest.mark.parametrize("cell", ["1_0", "inf", "\u0661", "9" * 500])
def test_a_cell_that_is_not_as_the_recorder_writes_it_is_refused(record, cell):
    def change(found):
        cells = found[1].split(",")
        found[1] = ",".join([*cells[:2], cell, *cells[3:]])
    text = (record / "history.csv").read_text().splitlines()
    change(text)
    (record / "history.csv").write_bytes(("\n".join(text) + "\n").encode())
    refused(record, "history", "line 2: train_loss", "no finite number")


def test_a_csv_of_commas_or_lines_without_end_is_refused(record):
    for filler in ("," * 10**6, "\n" * 10**6, "1" * 10**6):
        lines(record, lambda found, filler=filler: found.append(filler))
        refused(record, "history", "history.csv")


def test_a_schedule_of_millions_of_tests_is_not_written_down(record):
    """It takes no longer than any other record: the tests are counted, never listed."""
    def change(content):
        content["config"]["train"]["iterations"] = 10**7
        content["config"]["evaluation"]["interval"] = 1
        content["config"]["scale"] = 1.0
    edit(record, change)
    refused(record, "history", "iteration")


def test_numbers_that_overflow_are_findings(record):
    put(record, 2**62, "config", "train", "weight_decay")
    put(record, 1e308, "config", "train", "lr")
    put(record, 1e308, "train_seconds")
    put(record, 2**62, "iterations")
    refused(record, "schema", "train.weight_decay")


def test_what_is_shown_of_a_record_is_cut_and_cannot_be_obeyed(record):
    put(record, "x" * 100_000, "config", "description")
    put(record, ["\x1b]0;owned\x07\u202e" + "y" * 1000], "deviations")
    refused(record, "schema", "deviations[0]: '\\x1b]0;owned\\x07\\u202eyyy")


def test_rows_are_read_as_the_recorder_writes_them():
    """Negative control for the refused cells."""
    text = b"iteration,a,b\n1,0.5,-1e-05\n2,3,1.5e+300\n"
    assert csv_rows(text, ("iteration", "a", "b")) == [{"iteration": 1, "a": 0.5, "b": -1e-05},
                                                     {"iteration": 2, "a": 3.0, "b": 1.5e300}]


# ---- anything

SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
TOKENS = [b"null", b"{}", b"[]", b"true", b"-1", b"1e308", b"NaN", b'"\\ud800"', b"9" * 30, b"&a", b"*a", b"!!", b"\n",
          b",", b":", b"\x00", b"\xff", b"0", b'"', b"- ", b"{", b"]", b"${oc.env:HOME}", b"_target_"]


def unchanged(folder: Path) -> None:
    """Assert that the findings are well-formed whatever the files hold."""
    findings = check_record(folder)
    assert findings[-1].check == "counts as"
    assert {one.status for one in findings} <= {"ok", "warning", "FAIL"}
    assert all(one.text.isprintable() for one in findings)
    json.dumps([one.text for one in findings]).encode()


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(data=st.data())
def test_any_edited_bytes_give_findings_and_never_an_exception(whole, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("edited") / "seed0"
    shutil.copytree(whole, folder)
    path = folder / data.draw(st.sampled_from(FILES))
    content = path.read_bytes()
    for _ in range(data.draw(st.integers(1, 3))):
        begin = data.draw(st.integers(0, len(content)))
        end = min(len(content), begin + data.draw(st.integers(0, 12)))
        inserted = data.draw(st.sampled_from(TOKENS) | st.binary(max_size=6))
        content = content[:begin] + inserted + content[end:]
    path.write_bytes(content)
    unchanged(folder)


HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats() | st.text(max_size=8)
    | st.sampled_from(["auto", "???", "${x}", "bf16", "cifar_resnet32", "2026-05-01T00:00:00+00:00", "a" * 64,
                       10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6)


def places(value, path=()):
    """The paths of everything inside nested lists and mappings."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*path, key)
        yield from places(inner, (*path, key))


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(data=st.data())
def test_any_value_anywhere_in_run_json_gives_findings_and_never_an_exception(whole, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("edited") / "seed0"
    shutil.copytree(whole, folder)
    content = json.loads((folder / "run.json").read_text())
    path = data.draw(st.sampled_from(list(places(content))))
    put(folder, data.draw(HOSTILE), *path)
    if data.draw(st.booleans()):
        config = json.loads((folder / "run.json").read_text()).get("config")
        (folder / "config.yaml").write_text(json.dumps(config))
    unchanged(folder)
