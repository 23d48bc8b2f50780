"""Kept probabilities: what is saved is what goes on, and nothing of another test or of a damaged file does."""

import json

import numpy as np
import pytest

from repro.errors import ConfigError, StorageError
from repro.evaluation.predictions import count_errors
from repro.evaluation.saved_probabilities import (
    SavedProbabilities,
    json_path,
    labels_path,
    read_arrays,
    read_record,
    rows_path,
)

ABOUT = {"protocol": "center", "experiment": "x", "weights_sha256": "w", "data_fingerprint": "d", "split": "val",
         "settings": {"crop_size": 32}, "model": {"depth": 18, "stride_in": "first_1x1"}, "precision": "fp32",
         "wiring_test": True, "device": "one"}
LABELS = np.random.default_rng(0).integers(0, 9, 23)
SCORES = np.random.default_rng(1).dirichlet(np.ones(9), 23).astype(np.float32)


def keep(folder, images: int = 23, **about) -> SavedProbabilities:
    """A test that is stopped after so many images."""
    kept = SavedProbabilities(folder / "center", ABOUT | about, LABELS, 9)
    with kept:
        for begin in range(kept.done, images, 5):
            kept.add(SCORES[begin : min(begin + 5, images)])
        if images == len(LABELS):
            kept.finish()
    return kept


def test_a_finished_test_gives_its_rows_labels_and_counts(tmp_path):
    record = keep(tmp_path).record
    assert read_record(tmp_path / "center") == record
    rows, labels = read_arrays(tmp_path / "center", record)
    assert np.array_equal(rows, SCORES.astype(np.float16))
    assert np.array_equal(labels, LABELS)
    assert (record["top1_errors"], record["top5_errors"]) == count_errors(SCORES, LABELS)
    assert record["val_top1_error"] == 100 * record["top1_errors"] / 23
    again = SavedProbabilities(tmp_path / "center", ABOUT, LABELS, 9)
    assert again.finished
    assert not again.note


def test_a_stopped_test_goes_on_and_ends_like_one_left_alone(tmp_path):
    keep(tmp_path / "stopped", 10)
    assert not read_record(tmp_path / "stopped" / "center")["finished"]
    assert SavedProbabilities(tmp_path / "stopped" / "center", ABOUT, LABELS, 9).note == "goes on after 10 of 23 images"
    stopped, alone = keep(tmp_path / "stopped").record, keep(tmp_path / "alone").record
    assert stopped | {"utc": None} == alone | {"utc": None}


def test_rows_that_the_record_does_not_count_are_written_again(tmp_path):
    keep(tmp_path, 10)
    with rows_path(tmp_path / "center").open("ab") as file:
        file.write(b"torn")
    record = keep(tmp_path).record
    assert np.array_equal(read_arrays(tmp_path / "center", record)[0], SCORES.astype(np.float16))


@pytest.mark.parametrize("about", [{"weights_sha256": "v"}, {"data_fingerprint": "e"}, {"precision": "bf16"},
                                   {"settings": {"crop_size": 64}}, {"model": {"depth": 18, "stride_in": "conv3x3"}}],
                         ids=str)
def test_rows_of_another_test_are_not_mixed_in(tmp_path, about):
    keep(tmp_path, 10)
    other = SavedProbabilities(tmp_path / "center", ABOUT | about, LABELS, 9)
    assert other.done == 0
    assert next(iter(about)) in other.note


def test_another_device_goes_on_and_is_named(tmp_path):
    keep(tmp_path, 10)
    assert keep(tmp_path, device="two").record["device"] == "one; two"


@pytest.mark.parametrize("damage", ["cut", "no rows", "text", "a list", "no counts", "newer"])
def test_a_damaged_test_begins_anew_and_says_so(tmp_path, damage):
    record = keep(tmp_path, 10).record
    path = tmp_path / "center"
    if damage == "cut":
        rows_path(path).write_bytes(rows_path(path).read_bytes()[:-1])
    elif damage == "no rows":
        rows_path(path).unlink()
    else:
        content = {"text": "{", "a list": "[]", "no counts": json.dumps({k: v for k, v in record.items()
                                                                         if k != "top5_errors"}),
                   "newer": json.dumps(record | {"schema": 2})}[damage]
        json_path(path).write_text(content)
    again = SavedProbabilities(path, ABOUT, LABELS, 9)
    assert again.done == 0
    assert "anew" in again.note
    assert np.array_equal(read_arrays(path, keep(tmp_path).record)[0], SCORES.astype(np.float16))


@pytest.mark.parametrize(("about", "words"), [
    ({"precision": "tf32"}, "precision: fp32, now tf32; resume=never replaces it"),
    ({"model": {"depth": 18, "stride_in": "conv3x3"}}, "model.stride_in: first_1x1, now conv3x3;"),
    ({"data_fingerprint": "e"}, "data_fingerprint: d, now e;")], ids=str)
def test_a_finished_test_of_something_else_is_not_lost(tmp_path, about, words):
    record = keep(tmp_path).record
    with pytest.raises(ConfigError, match=f"holds a finished test: {words}"):
        SavedProbabilities(tmp_path / "center", ABOUT | about, LABELS, 9)
    assert read_record(tmp_path / "center") == record
    assert SavedProbabilities(tmp_path / "center", ABOUT | about, LABELS, 9, fresh=True).done == 0


def test_a_finished_test_in_the_papers_other_precision_answers_an_open_request(tmp_path):
    record = keep(tmp_path, precision="tf32").record
    again = SavedProbabilities(tmp_path / "center", ABOUT | {"device": "two"}, LABELS, 9, any_exact=True)
    assert again.record == record
    for about in ({"precision": "bf16"}, {"weights_sha256": "v"}):
        with pytest.raises(ConfigError, match="finished test"):
            SavedProbabilities(tmp_path / "center", ABOUT | about, LABELS, 9, any_exact=about != {"precision": "bf16"})


def test_an_unfinished_test_in_another_precision_answers_nothing(tmp_path):
    keep(tmp_path, 10, precision="tf32")
    assert SavedProbabilities(tmp_path / "center", ABOUT, LABELS, 9, any_exact=True).done == 0


@pytest.mark.parametrize("damage", ["no labels", "no rows", "altered rows"])
def test_a_finished_test_stands_without_its_probabilities_and_says_so(tmp_path, damage):
    record, path = keep(tmp_path).record, tmp_path / "center"
    if damage == "altered rows":
        rows_path(path).write_bytes(rows_path(path).read_bytes()[:-1] + b"\x7f")
    else:
        (labels_path if damage == "no labels" else rows_path)(path).unlink()
    again = SavedProbabilities(path, ABOUT, LABELS, 9)
    assert again.record == record
    assert (labels_path if damage == "no labels" else rows_path)(path).name in again.note
    assert "resume=never tests again" in again.note


def test_fresh_begins_anew(tmp_path):
    keep(tmp_path)
    assert SavedProbabilities(tmp_path / "center", ABOUT, LABELS, 9, fresh=True).done == 0


@pytest.mark.parametrize("path_of", [rows_path, labels_path])
def test_changed_arrays_are_not_used(tmp_path, path_of):
    record = keep(tmp_path).record
    path = path_of(tmp_path / "center")
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(StorageError, match="changed after the test"):
        read_arrays(tmp_path / "center", record)
    path.unlink()
    with pytest.raises(StorageError, match=path.name):
        read_arrays(tmp_path / "center", record)
