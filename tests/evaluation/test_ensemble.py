"""Ensembles: the mean of kept probabilities against numpy, and what is missing or does not fit."""

import json

import numpy as np
import pytest
import torch

from repro.config import compose
from repro.devices import resolve
from repro.errors import ConfigError, DataError, StorageError
from repro.evaluation import ensemble
from repro.evaluation.evaluate import save
from repro.evaluation.metrics import error_counts
from repro.files import file_sha256
from repro.paper import Ensemble, Member
from repro.paper import ensemble as read_ensemble
from repro.paper import ensembles as names
from repro.paths import results_dir
from repro.runs import Run, run_folder
from tests.evaluation.made import TINY, make_run

OVERRIDES = [*TINY[1:], "train.iterations=1", "train.lr_drops=[]", "evaluation.interval=1"]
PAIR = Ensemble("pair", "Two networks", "ten_crop", (Member("imagenet_resnet18"), Member("imagenet_resnet18", 1)),
                "table5/resnet-ilsvrc15")
IMAGES, CLASSES = 2345, 7
LABELS = np.random.default_rng(0).integers(0, CLASSES, IMAGES)


@pytest.fixture
def pair(monkeypatch) -> Ensemble:
    """An ensemble of two seeds in the place of those of experiments/ensembles."""
    monkeypatch.setattr(ensemble, "read_ensemble", lambda name: PAIR)
    return PAIR


def scores_of(seed: int) -> np.ndarray:
    """Probabilities that are right more often than not."""
    generator = np.random.default_rng(seed + 10)
    logits = generator.normal(size=(IMAGES, CLASSES)) + 1.2 * np.eye(CLASSES)[LABELS]
    return (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)


def make_member(seed: int, /, labels: np.ndarray = LABELS, **about) -> np.ndarray:
    """A finished run and its finished test; the probabilities."""
    folder = make_run(f"seed={seed}")
    scores = scores_of(seed)
    facts = {"protocol": "ten_crop", "definition": "ten crops", "experiment": "imagenet_resnet18", "seed": seed,
             "identity": folder.parent.name.partition("@")[2],
             "weights_sha256": file_sha256(folder / "weights.pt"), "data_fingerprint": "d",
             "split": "val", "settings": {}, "precision": "fp32", "wiring_test": True, "device": "one", "schema": 1,
             "images": IMAGES, "classes": CLASSES}
    errors = error_counts(torch.from_numpy(scores), torch.from_numpy(labels))
    save(folder / "evaluations" / "ten_crop.json", facts | about, labels, scores.astype(np.float16), errors)
    return scores


def test_an_ensemble_is_the_mean_of_its_members(pair):
    members = [make_member(seed) for seed in (0, 1)]
    text, values = ensemble.combine("pair", OVERRIDES)
    mean = np.mean([scores.astype(np.float16).astype(np.float64) for scores in members], axis=0)
    ranks = (mean > mean[np.arange(IMAGES), LABELS][:, None]).sum(1)
    top1, top5 = int((ranks >= 1).sum()), int((ranks >= 5).sum())
    assert (values["top1_errors"], values["top5_errors"], values["images"]) == (top1, top5, IMAGES)
    assert values["val_top5_error"] == 100 * top5 / IMAGES
    alone = [member["val_top1_error"] for member in values["members"]]
    assert values["val_top1_error"] < min(alone), "members that err differently are better together"
    assert f"top-5 {values['val_top5_error']:.2f} %" in text
    assert "on the test server; this is the validation set" in text
    assert "3.57 %" in text
    assert "WIRING TEST" in text


def test_other_runs_than_the_papers_are_kept_apart(pair):
    for seed in (0, 1):
        make_member(seed)
    _, values = ensemble.combine("pair", OVERRIDES)
    path, = (results_dir() / "ensembles").iterdir()
    assert path.name.startswith("pair@")
    assert json.loads(path.read_text()) == values
    assert (values["paper_runs"], values["split"], values["reproduces"]) == (False, "val", "table5/resnet-ilsvrc15")


def test_missing_members_are_named_with_what_makes_them(pair):
    make_run("seed=1")
    with pytest.raises(DataError) as caught:
        ensemble.combine("pair", OVERRIDES)
    first, second = str(caught.value).splitlines()[1:]
    assert "seed 0: no finished run with weights; repro run experiment=imagenet_resnet18 seed=0" in first
    assert "seed 1: no finished ten_crop test; repro eval experiment=imagenet_resnet18 seed=1" in second
    assert second.endswith("protocol=ten_crop")
    assert not (results_dir() / "ensembles").exists()


@pytest.mark.parametrize("about", [{"data_fingerprint": "e"}, {"labels": LABELS[::-1].copy()}], ids=["files", "labels"])
def test_tests_on_different_images_are_not_averaged(pair, about):
    make_member(0)
    make_member(1, **about)
    with pytest.raises(DataError, match="different images"):
        ensemble.combine("pair", OVERRIDES)


def test_changed_probabilities_are_not_averaged(pair):
    for seed in (0, 1):
        make_member(seed)
    folder = run_folder(resolve(compose([*TINY, *OVERRIDES, "seed=1"])))
    rows = folder / "evaluations" / "ten_crop.npy"
    rows.write_bytes(rows.read_bytes()[:-1] + b"\x11")
    with pytest.raises(StorageError, match=r"changed after the test; test again with: repro eval .*"
                       r"experiment=imagenet_resnet18 seed=1 .*protocol=ten_crop resume=never"):
        ensemble.combine("pair", OVERRIDES)


@pytest.mark.parametrize(("about", "key"), [
    ({"seed": 0}, "seed"), ({"identity": "0" * 12}, "identity"), ({"weights_sha256": "w"}, "weights_sha256")], ids=str)
def test_tests_of_another_run_are_not_averaged(pair, about, key):
    make_member(0)
    make_member(1, **about)
    with pytest.raises(DataError, match=f"seed 1: its ten_crop test is of another {key}; .*resume=never"):
        ensemble.combine("pair", OVERRIDES)


@pytest.mark.parametrize(("precision", "papers"), [("fp32", True), ("tf32", True), ("bf16", False)])
def test_only_tests_in_the_papers_precision_make_the_papers_ensemble(pair, precision, papers, monkeypatch):
    monkeypatch.setattr(Run, "is_paper_run", True)
    for seed in (0, 1):
        make_member(seed, precision=precision)
    _, values = ensemble.combine("pair", OVERRIDES)
    assert values["paper_runs"] is papers
    path, = (results_dir() / "ensembles").iterdir()
    assert (path.name == "pair.json") is papers


@pytest.mark.parametrize("word", ["seed=1", "++seed=1", "experiment=imagenet_optB"])
def test_the_seeds_and_experiments_of_members_can_not_be_given(pair, word):
    with pytest.raises(ConfigError, match="names the experiments and seeds of its members"):
        ensemble.combine("pair", [*OVERRIDES, word])


def test_table_5_has_six_members_of_which_two_have_152_layers():
    assert names() == ["table5"]
    found = read_ensemble("table5")
    depths = [compose([f"experiment={member.experiment}"]).model.depth for member in found.members]
    assert sorted(depths) == [34, 34, 50, 101, 152, 152]
    assert len(set(found.members)) == 6
    assert (found.protocol, found.reproduces) == ("multi_scale", "table5/resnet-ilsvrc15")


def test_an_unknown_ensemble():
    with pytest.raises(ConfigError, match="did you mean table5"):
        read_ensemble("table6")
