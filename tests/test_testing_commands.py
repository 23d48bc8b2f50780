"""`repro eval` of ImageNet, `repro ensemble` and `repro predict` on the command line, on small made-up images."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from repro.places import results_dir
from repro.runs import read_run
from tests.conftest import SHARED
from tests.evaluation.made import TINY, make_images, make_run
from tests.made_cli import TINY as CIFAR
from tests.outcome import says

SHORT = [*TINY, "train.iterations=1", "train.lr_drops=[]", "evaluation.interval=1"]


def test_eval_without_weights_takes_those_of_the_finished_run(direct, tmp_path):
    words = ["eval", *SHORT, f"data.root={make_images(tmp_path / 'images', 10)}"]
    says(direct(*words), 2, "no finished run", "no run.json", "weights=FILE")
    folder = make_run()
    outcome = direct(*words, "protocol=ten_crop", "--json")
    assert outcome.code == 0, outcome.err
    record = json.loads(outcome.out)
    assert json.loads((folder / "evaluations" / "ten_crop.json").read_text()) == record
    assert (record["protocol"], record["seed"], record["identity"]) == ("ten_crop", 0, read_run(folder).identity)
    text = direct(*words).out
    assert "centre crop" in text, "the data set's own protocol"
    assert "WIRING TEST" in text
    assert "deviations from the paper: a wiring test" in text
    says(direct(*words, "seed=1"), 2, "seed1")


@pytest.mark.parametrize(("arguments", "words"), [
    (["eval", *TINY, "protocol=tencrop"], ["tencrop", "did you mean ten_crop?", "center, ten_crop, multi_scale"]),
    (["eval", "experiment=cifar_resnet20", "protocol=center"], ["center", "single_view"]),
    (["eval", *TINY, "wieghts=x"], ["unknown key 'wieghts'"]),
    (["ensemble", "table6"], ["no ensemble named 'table6'", "table5"]),
    (["ensemble", "table5", "sed=1"], ["unknown key 'sed'", "seed"]),
    (["predict", "experiment=imagenet_optB"], ["name of an image file"]),
    (["predict", "a.jpg"], ["experiment"]),
    (["predict", "a.jpg", "experiment=imagenet_optB"], ["no finished run", "weights=FILE"]),
], ids=lambda words: words[-1])
def test_a_wrong_command_is_one_message_and_2(direct, arguments, words):
    says(direct(*arguments), 2, *words)


def test_an_ensemble_without_members_names_what_makes_them(direct):
    outcome = direct("ensemble", "table5")
    says(outcome, 3, "lacks 6 of 6 members", "repro run experiment=imagenet_resnet152 seed=1")
    assert not (results_dir() / "ensembles").exists()


def test_predict_names_five_classes_and_goes_on_after_garbage(direct, tmp_path):
    folder = make_run()
    images = sorted(make_images(tmp_path / "images", 2).rglob("*.png"))
    (tmp_path / "no=image.jpg").write_bytes(b"garbage")
    words = ["predict", str(images[0]), "no=image.jpg", str(images[1]), "nowhere.jpg", *TINY,
             f"weights={folder / 'weights.pt'}", "--json"]
    outcome = direct(*words)
    says(outcome, 3, "2 of 4 images", "no=image.jpg", "nowhere.jpg")
    first, second = json.loads(outcome.out)
    assert [first["image"], second["image"]] == [str(path) for path in images]
    probabilities = [entry["probability"] for entry in first["classes"]]
    assert len(probabilities) == 5
    assert probabilities == sorted(probabilities, reverse=True)
    assert first["classes"][0]["name"] == f"class {first['classes'][0]['class']}"
    assert first["classes"] != second["classes"]
    good = direct(*words[:2], *words[5:-1])
    assert (good.code, good.err) == (0, "")
    assert f"{images[0]} (WIRING TEST, says nothing about ImageNet)" in good.out
    assert f"{100 * probabilities[0]:6.2f} %  class" in good.out


def test_predict_of_cifar10_has_its_ten_names(here, tmp_path, monkeypatch):
    from repro.evaluation import predict
    from tests.made import tiny_data

    monkeypatch.setattr(predict, "load_arrays", lambda config: None)
    monkeypatch.setattr(predict, "on_device", lambda arrays, config, device: tiny_data())
    assert here("run", *CIFAR).code == 0
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / "grey.png")
    outcome = here("predict", "grey.png", *CIFAR)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0] == "grey.png"
    assert len(lines) == 6
    assert {line.split()[-1] for line in lines[1:]} < set(predict.CIFAR10_NAMES)


def test_predict_on_a_real_image_has_imagenets_names(direct, tmp_path):
    """Random weights of all 1000 classes: what is tested is reading and naming, not recognition."""
    import torch
    from torchvision.models import ResNet50_Weights

    from repro.config import compose
    from repro.models import build_model
    from tests.evaluation.made import scattered

    sample = next(iter(sorted(SHARED.glob("data/imagenet-sample/val/*/*.JPEG"))), None)
    if sample is None:
        pytest.skip("needs the shared sample images")
    shutil.copy(sample, tmp_path / "sample.JPEG")
    torch.save(scattered(build_model(compose(["experiment=imagenet_resnet18"]).model)).state_dict(), "w.pt")
    outcome = direct("predict", "sample.JPEG", "experiment=imagenet_resnet18", "weights=w.pt",
                     "data.normalization=per_channel", "data.channel_mean=[0.485,0.456,0.406]",
                     "data.channel_std=[0.229,0.224,0.225]", "--json")
    assert outcome.code == 0, outcome.err
    found, = json.loads(outcome.out)
    names = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    assert [names[entry["class"]] for entry in found["classes"]] == [entry["name"] for entry in found["classes"]]
    assert not found["wiring_test"]
