"""Weights of ours to give away: both formats, the card and its code, and what it says of runs that are no result."""

import json
import re
import sys

import numpy as np
import pytest
import torch

from repro.config import compose
from repro.data.cifar10 import per_pixel_mean
from repro.evaluation.weight_files import facts_path, read_weights
from repro.evaluation.weights import load_weights
from repro.files import file_sha256
from repro.models import build_model
from repro.paths import results_dir
from repro.record import parse_record
from repro.runs import read_run
from tests.evaluation.made import CLASSES, make_images
from tests.evaluation.made import TINY as IMAGENET
from tests.evaluation.made import make_run as make_imagenet_run
from tests.made import tiny_data
from tests.made_cli import TINY
from tests.outcome import says


@pytest.fixture
def run(here, monkeypatch):
    """The folder of a finished run of 20 iterations on made-up data."""
    monkeypatch.setattr("repro.evaluation.protocols.load_arrays", lambda config: None)
    monkeypatch.setattr("repro.evaluation.protocols.on_device", lambda arrays, config, device: tiny_data())
    outcome = here("run", *TINY)
    assert outcome.code == 0, outcome.err
    folder, = (results_dir() / "runs").glob("*/seed0")
    return folder


def name_of(folder):
    return f"{folder.parent.name}/{folder.name}"


def python_of(card):
    """The code of a card."""
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_an_exported_file_is_the_runs_weights_and_gives_its_error(here, run, form):
    if form == "safetensors":
        pytest.importorskip("safetensors")
    outcome = here("weights", "export", name_of(run), "--format", form)
    assert outcome.code == 0, outcome.err
    stem = f"{run.parent.name}_seed0.{form}"
    folder = results_dir() / "exported"
    assert sorted(path.name for path in folder.iterdir()) == [stem, f"{stem}.json", f"{stem}.md", f"{stem}.mean.npz"]
    path = folder / stem
    state = read_weights(path)[0]
    expected = torch.load(run / "weights.pt", weights_only=True)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)
    if form == "pt":
        assert torch.load(path, weights_only=True).keys() == state.keys(), "a plain state_dict"
    assert np.array_equal(np.load(f"{path}.mean.npz")["mean"], per_pixel_mean(tiny_data().train_images).numpy())
    facts = json.loads(facts_path(path).read_text())
    assert facts["sha256"] == file_sha256(path)
    assert facts["mean"]["sha256"] == file_sha256(folder / facts["mean"]["file"])
    assert parse_record(facts["record"]) == read_run(run).record
    tested = here("eval", "experiment=cifar_resnet20", "model.blocks_per_stage=1", f"weights={path}", "--json")
    assert tested.code == 0, tested.err
    values = json.loads(tested.out)
    assert values["test_top1_error"] == facts["record"]["result"]["test_top1_error"]
    assert values["weights_of"] == "exported weights"
    assert not (results_dir() / "imported").exists()


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_the_code_of_the_card_loads_the_network(here, run, tmp_path, form, monkeypatch, capsys):
    if form == "safetensors":
        pytest.importorskip("safetensors")
    assert here("weights", "export", str(run), "--output", "given", "--format", form).code == 0
    card, = (tmp_path / "given").glob("*.md")
    code = python_of(card.read_text())
    assert "model.depth=8" in code
    monkeypatch.chdir(card.parent)
    found = {}
    exec(code, found)
    pixels = torch.full((1, 3, 32, 32), 128.0) - per_pixel_mean(tiny_data().train_images)
    config = compose(["experiment=cifar_resnet20", "model.depth=8"])
    network = load_weights(build_model(config.model), run / "weights.pt").eval()
    with torch.no_grad():
        expected = network(pixels).softmax(1)
        assert torch.equal(found["network"](found["pixels"] - found["mean"]).softmax(1), expected)
    assert f"{float(expected[0, 0]):.4e}"[:4] in capsys.readouterr().out


def test_the_card_says_what_the_weights_are(here, run):
    here("weights", "export", str(run), "--format", "pt")
    card = next((results_dir() / "exported").glob("*.md")).read_text()
    facts = json.loads(next((results_dir() / "exported").glob("*.json")).read_text())
    record = facts["record"]
    assert "> **SHORT RUN: 20 of 64,000 iterations**" in card.splitlines()[2]
    for words in (f"{record['result']['test_top1_error']:.2f} % (single view, last iteration)", facts["sha256"],
                  "train.iterations: 64000 -> 20", f"torch {record['environment']['torch']}",
                  "| precision, device | fp32", facts["identity"], "MIT",
                  facts["record_sha256"], record["sessions"][-1]["commit"] or "?"):
        assert words in card, words


@pytest.mark.fault(62)
def test_an_export_of_another_depth_is_called_by_it_and_tested_without_its_experiment(here, run):
    here("weights", "export", name_of(run), "--format", "pt")
    path = next((results_dir() / "exported").glob("*.pt"))
    card = next((results_dir() / "exported").glob("*.md")).read_text()
    assert card.startswith("# Residual network of 8 layers: weights of cifar_resnet20 seed 0\n")
    error = json.loads(facts_path(path).read_text())["record"]["result"]["test_top1_error"]
    for words in ([], ["model.depth=8"], ["model.blocks_per_stage=1"]):
        outcome = here("eval", *words, f"weights={path}", "--json")
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["test_top1_error"] == error
    says(here("eval", "model.depth=14", f"weights={path}"), 2, "model.depth=8 there, 14 here")
    alone = path.rename(path.with_name("alone.pt"))
    assert json.loads(here("eval", f"weights={alone}", "--json").out)["test_top1_error"] == error


def test_synthetic_images_and_wiring_tests_are_named_at_the_top(direct):
    from repro.weights.card import labels

    folder = make_imagenet_run()
    run = read_run(folder)
    assert labels(run) == ["WIRING TEST: says nothing about ImageNet", "SHORT RUN: 1 of 600,000 iterations"]
    record = run.record
    data = record.config.data
    data.name, data.wiring_test = "synthetic", False
    assert labels(run)[0] == "SYNTHETIC IMAGES: says nothing about CIFAR-10"
    data.name, record.iterations = "imagenet", 600000
    assert labels(run) == ["OTHER SETTINGS than the paper's: see the deviations"]


def test_imagenet_weights_take_their_mean_along(direct, tmp_path):
    folder = make_imagenet_run()
    assert direct("weights", "export", str(folder), "--format", "pt").code == 0
    path, = (results_dir() / "exported").glob("*.pt")
    words = [f"data.root={make_images(tmp_path / 'images', 10)}", "--json"]
    own = json.loads(direct("eval", *IMAGENET, "train.iterations=1", "train.lr_drops=[]", "evaluation.interval=1",
                            *words).out)
    outcome = direct("eval", "data.wiring_test=true", f"model.num_classes={CLASSES}", "machine.workers=2",
                     f"weights={path}", *words)
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["settings"] == own["settings"], "the same mean, crop and resize"
    assert (found["top1_errors"], found["top5_errors"]) == (own["top1_errors"], own["top5_errors"])
    assert found["seed"] is None
    assert len(list((folder / "evaluations").glob("*.json"))) == 1, "the run's own"
    code = python_of(path.with_name(f"{path.name}.md").read_text())
    assert "data.wiring_test=true" in code


def test_what_can_not_be_exported_is_one_line(here, run):
    says(here("weights", "export", "cifar_resnet20/seed7"), 2, "cifar_resnet20/seed7")
    says(here("weights", "export", str(run), "--format", "onnx"), 2, "onnx", "safetensors")
    weights = torch.load(run / "weights.pt", weights_only=True)
    torch.save(weights | {"fc.bias": weights["fc.bias"] + 1}, run / "weights.pt")
    says(here("weights", "export", str(run)), 5, "was changed after the run")
    (run / "weights.pt").unlink()
    says(here("weights", "export", str(run)), 2, "no weights.pt")
    assert not (results_dir() / "exported").exists()


def test_an_exported_file_that_was_changed_is_refused(here, run):
    here("weights", "export", str(run), "--format", "pt")
    path, = (results_dir() / "exported").glob("*.pt")
    torch.save({"fc.bias": torch.zeros(10)}, path)
    words = ["eval", "experiment=cifar_resnet20", "model.depth=8", f"weights={path}"]
    says(here(*words), 5, "another SHA-256")
    facts_path(path).write_text("{}")
    says(here(*words), 5, ".json: unreadable (KeyError)")


def test_without_safetensors_auto_is_pt_and_asking_for_it_is_refused(here, run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    says(here("weights", "export", str(run), "--format", "safetensors"), 2, "safetensors", "extra `weights`")
    assert here("weights", "export", str(run)).code == 0
    assert [path.suffix for path in (results_dir() / "exported").glob("*seed0.*") if path.suffix == ".pt"] == [".pt"]
    (tmp_path / "x.safetensors").write_bytes(b"x")
    says(here("eval", "experiment=cifar_resnet20", "weights=x.safetensors"), 2, "safetensors", "extra `weights`")


def test_a_damaged_safetensors_file_is_one_line(direct, tmp_path):
    pytest.importorskip("safetensors")
    for content in (b"", b"garbage", b"\xff" * 64):
        (tmp_path / "x.safetensors").write_bytes(content)
        says(direct("eval", "experiment=cifar_resnet20", "weights=x.safetensors"), 5, "x.safetensors", "damaged")
    says(direct("eval", "experiment=cifar_resnet20", "weights=no.safetensors"), 5, "no file no.safetensors")


def test_weights_of_a_recipe_need_no_mean_image_and_carry_their_settings(here, tmp_path, monkeypatch):
    """Trained with akamaster's input: its mean and std stand in the code, and eval takes them from the JSON."""
    replaced = ("train.iterations", "train.lr_drops", "evaluation.interval")
    words = [word for word in TINY if not word.startswith(replaced)]
    assert here("run", *words, "recipe=akamaster", "train.iterations=4", "train.lr_drops=[]",
                "evaluation.interval=4").code == 0
    run, = (results_dir() / "runs").glob("*/seed0")
    assert here("weights", "export", str(run), "--format", "pt").code == 0
    path, = (results_dir() / "exported").glob("*.pt")
    assert not list(path.parent.glob("*.npz"))
    code = python_of(path.with_name(f"{path.name}.md").read_text())
    assert "model.zero_padding=both_sides" in code
    monkeypatch.chdir(path.parent)
    found = {}
    exec(code, found)
    assert torch.allclose(found["mean"].flatten(), 255 * torch.tensor([0.485, 0.456, 0.406]))
    test = ["eval", "experiment=cifar_resnet20", "model.depth=8", f"weights={path}"]
    outcome = here(*test)
    assert outcome.code == 0, outcome.err
    assert "data.normalization=per_channel" in outcome.err
    says(here(*test, "model.zero_padding=appended"), 2, "contradicts")
