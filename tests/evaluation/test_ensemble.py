"""Ensembles: the mean of kept probabilities against numpy, and what is missing or does not fit."""

import json

import numpy as np
import pytest
import torch

from repro.config import compose
from repro.errors import ConfigError, DataError, StorageError
from repro.evaluation import ensemble
from repro.evaluation.evaluate import save
from repro.evaluation.metrics import error_counts
from repro.files import file_sha256
from repro.paper import Ensemble, Member
from repro.paper import ensemble as read_ensemble
from repro.paths import results_dir
from repro.runs import Run
from tests.evaluation.made import TINY, make_run

OVERRIDES = [*TINY[1:], "train.iterations=1", "train.lr_drops=[]", "evaluation.interval=1"]
IMAGES, CLASSES = 2345, 7
LABELS = np.random.default_rng(0).integers(0, CLASSES, IMAGES)


@pytest.fixture(autouse=True)
def pair(monkeypatch) -> None:
    """An ensemble of two seeds in the place of those of experiments/ensembles."""
    members = (Member("imagenet_resnet18"), Member("imagenet_resnet18", 1))
    monkeypatch.setattr(ensemble, "read_ensemble", lambda name: Ensemble(
        "pair", "Two networks", "ten_crop", members, "table5/resnet-ilsvrc15"))


def make_member(seed: int, /, labels: np.ndarray = LABELS, **about) -> np.ndarray:
    """A finished run and its finished test, right more often than not; the probabilities."""
    folder, generator = make_run(f"seed={seed}", weights=False), np.random.default_rng(seed + 10)
    logits = generator.normal(size=(IMAGES, CLASSES)) + 1.2 * np.eye(CLASSES)[LABELS]
    scores = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float16)
    top1, top5 = error_counts(torch.from_numpy(scores), torch.from_numpy(labels)).tolist()
    facts = {"protocol": "ten_crop", "experiment": "imagenet_resnet18", "seed": seed,
             "identity": folder.parent.name.partition("@")[2], "weights_sha256": file_sha256(folder / "weights.pt"),
             "data_fingerprint": "d", "precision": "fp32", "wiring_test": True, "schema": 1, "images": IMAGES,
             "val_top1_error": 100 * top1 / IMAGES, "val_top5_error": 100 * top5 / IMAGES,
             "finished": True}
    save(folder / "evaluations" / "ten_crop.json", facts | about, labels, scores)
    return scores


def test_an_ensemble_is_the_mean_of_its_members():
    members = [make_member(seed) for seed in (0, 1)]
    text, values = ensemble.combine("pair", OVERRIDES)
    mean = np.mean([scores.astype(np.float64) for scores in members], axis=0)
    ranks = (mean > mean[np.arange(IMAGES), LABELS][:, None]).sum(1)
    top1, top5 = int((ranks >= 1).sum()), int((ranks >= 5).sum())
    assert (values["top1_errors"], values["top5_errors"], values["images"]) == (top1, top5, IMAGES)
    assert values["val_top5_error"] == 100 * top5 / IMAGES
    alone = [member["val_top1_error"] for member in values["members"]]
    assert values["val_top1_error"] < min(alone), "members that err differently are better together"
    assert f"top-5 {values['val_top5_error']:.2f} %" in text
    assert "WIRING TEST" in text
    path, = (results_dir() / "ensembles").iterdir()
    assert path.name.startswith("pair@"), "other runs than the paper's are kept apart"
    assert json.loads(path.read_text()) == values
    assert (values["paper_runs"], values["split"], values["protocol"]) == (False, "val", "ten_crop")
    rows, = results_dir().glob("runs/*/seed1/evaluations/ten_crop.npy")
    rows.write_bytes(rows.read_bytes()[:-1] + b"\x11")
    with pytest.raises(StorageError, match=r"ten_crop\.npy was changed after the test.*resume=never"):
        ensemble.combine("pair", OVERRIDES)


def test_missing_members_are_named_with_what_makes_them():
    make_run("seed=1", weights=False)
    with pytest.raises(DataError) as caught:
        ensemble.combine("pair", OVERRIDES)
    first, second = str(caught.value).splitlines()[1:]
    assert "no finished run with weights: repro run experiment=imagenet_resnet18 seed=0" in first
    assert "no finished test of these weights: repro eval experiment=imagenet_resnet18 seed=1" in second
    assert "protocol=ten_crop" in second
    assert not (results_dir() / "ensembles").exists()


@pytest.mark.parametrize(("about", "message"), [
    ({"data_fingerprint": "e"}, "on other images"), ({"labels": LABELS[::-1].copy()}, "on other images"),
    ({"weights_sha256": "w"}, "seed=1 .*resume=never")], ids=["files", "labels", "weights"])
def test_tests_that_do_not_belong_together_are_not_averaged(about, message):
    make_member(0)
    make_member(1, **about)
    with pytest.raises(DataError, match=message):
        ensemble.combine("pair", OVERRIDES)


@pytest.mark.parametrize(("precision", "papers"), [("tf32", True), ("bf16", False)])
def test_only_tests_in_the_papers_precision_make_the_papers_ensemble(precision, papers, monkeypatch):
    monkeypatch.setattr(Run, "is_paper_run", True)
    for seed in (0, 1):
        make_member(seed, precision=precision)
    assert ensemble.combine("pair", OVERRIDES)[1]["paper_runs"] is papers
    path, = (results_dir() / "ensembles").iterdir()
    assert (path.name == "pair.json") is papers


@pytest.mark.parametrize("word", ["++seed=1", "experiment=imagenet_optB"])
def test_the_seeds_and_experiments_of_members_can_not_be_given(word):
    with pytest.raises(ConfigError, match="names the experiments and seeds of its members"):
        ensemble.combine("pair", [*OVERRIDES, word])


def test_table_5_has_six_members_of_which_two_have_152_layers():
    found = read_ensemble("table5")
    depths = [compose([f"experiment={member.experiment}"]).model.depth for member in found.members]
    assert sorted(depths) == [34, 34, 50, 101, 152, 152]
    assert len(set(found.members)) == 6
    assert (found.protocol, found.reproduces) == ("multi_scale", "table5/resnet-ilsvrc15")
