"""From image files to a record: counts, stopped and finished tests, weights of others, ensembles."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models, transforms

from repro import paper
from repro.data.cifar10_files import Cifar10Arrays
from repro.data.crops import open_rgb, resized
from repro.errors import ConfigError, DataError, Stopped, StorageError
from repro.evaluation import evaluate as module
from repro.evaluation.evaluate import combine, read_arrays
from repro.evaluation.metrics import error_counts
from repro.evaluation.protocols import Scorer
from repro.files import file_sha256
from repro.models import build_model
from repro.paths import results_dir
from repro.runs import Run
from repro.stopping import StopRequest
from repro.weights import compose_for, import_weights, read_weights
from tests.conftest import SHARED
from tests.evaluation.made import CLASSES, TINY, make_images, make_run, make_weights, tiny
from tests.made_weights import akamaster_net, checkpoint, trained_like


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """10 images of 5 classes."""
    return make_images(tmp_path_factory.mktemp("few"), images=10)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Random weights and a mean image beside them."""
    return make_weights(tmp_path_factory.mktemp("weights") / "mine.pt")


def evaluate(root: Path, weights: Path, protocol: str = "center", *overrides: str):
    return module.evaluate(tiny(root, *overrides), protocol, weights)


def record_at(protocol: str = "center") -> Path:
    """Where the record of weights of no run lies."""
    record, = results_dir().glob(f"evaluations/*/{protocol}.json")
    return record


def brute_force(root: Path, weights: Path, ten: bool) -> tuple[np.ndarray, int, int]:
    """Probabilities (N, K) and errors, one view at a time in float64, cropped by torchvision."""
    model = build_model(tiny(root).model).double().eval()
    model.load_state_dict(torch.load(weights))
    mean = torch.from_numpy(np.load(weights.parent / "mean.npz")["mean"])
    files = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    labels = [sorted({path.parent.name for path in files}).index(path.parent.name) for path in files]
    scores = []
    for path in files:
        picture = torch.from_numpy(resized(open_rgb(root / path), 37)).permute(2, 0, 1)
        views = transforms.TenCrop(32)(picture) if ten else [transforms.CenterCrop(32)(picture)]
        with torch.no_grad():
            scores.append(model(torch.stack([view.double() - mean for view in views])).softmax(1).mean(0))
    ranks = [int((row > row[label]).sum()) for row, label in zip(scores, labels, strict=True)]
    return torch.stack(scores).numpy(), sum(r >= 1 for r in ranks), sum(r >= 5 for r in ranks)


@pytest.mark.parametrize("protocol", ["center", "ten_crop"])
def test_counts_and_probabilities_equal_brute_force(few, weights, protocol):
    text, record = evaluate(few, weights, protocol)
    wanted, top1, top5 = brute_force(few, weights, protocol == "ten_crop")
    rows, labels = read_arrays(record_at(protocol), record)
    assert (rows.shape, rows.dtype, labels.shape) == ((10, CLASSES), np.float16, (10,))
    np.testing.assert_allclose(rows, wanted, atol=2e-3 if protocol == "ten_crop" else 0.03)  # 1 gray level
    assert (record["top1_errors"], record["top5_errors"], record["images"]) == (top1, top5, 10)
    assert 0 <= top5 < top1 < 10
    assert f"top-1 {10 * top1:.2f} %, top-5 {10 * top5:.2f} %" in text


def test_errors_are_counted_before_the_probabilities_are_rounded(few, weights, monkeypatch):
    rising = torch.linspace(0.2, 0.20001, CLASSES)
    monkeypatch.setattr(Scorer, "__call__", lambda self, views: rising.repeat(len(views), 1))
    record = evaluate(few, weights)[1]
    rows, labels = read_arrays(record_at(), record)
    assert len(np.unique(rows)) == 1, "equal, so that the first class would be the answer"
    assert record["top1_errors"] == (labels != CLASSES - 1).sum() != (labels != 0).sum()


def test_the_record_says_what_was_done_and_a_network_in_memory_gives_the_same(few, weights):
    text, record = evaluate(few, weights, "multi_scale")
    assert json.loads(record_at("multi_scale").read_text()) == record
    expected = {"schema": 1, "protocol": "multi_scale", "experiment": "imagenet_resnet18", "seed": None, "split": "val",
                "identity": None, "images": 10, "precision": "fp32", "wiring_test": True, "finished": True}
    assert record | expected == record
    assert record["settings"]["shorter_sides"] == [32, 37, 55, 69, 91]
    assert "WIRING TEST, says nothing about ImageNet" in text
    given = ["data.normalization=per_channel", "data.channel_mean=[0.485,0.456,0.406]",
             "data.channel_std=[0.229,0.224,0.225]"]
    model = build_model(tiny(few).model)
    model.load_state_dict(torch.load(weights))
    alone = module.evaluate(tiny(few, *given), "center", model)[1]
    _, kept = evaluate(few, weights, "center", *given)
    assert (alone["top1_errors"], alone["top5_errors"]) == (kept["top1_errors"], kept["top5_errors"])
    assert alone["weights_sha256"] is None


def stop_after(monkeypatch, batches: int, stop) -> None:
    """Call `stop` in the place of the batch that follows so many."""
    original, count = Scorer.__call__, []

    def scored(self, loaded):
        count.append(1)
        if len(count) == batches + 1:
            stop()
        return original(self, loaded)
    monkeypatch.setattr(Scorer, "__call__", scored)


def test_a_signal_stops_a_test_and_nothing_of_it_stays(few, weights, tmp_path, monkeypatch):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup ignores SIGINT
    stop_after(monkeypatch, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Stopped, match="after 8 of 10 images; the same command begins this test again") as caught:
        evaluate(few, weights)
    assert caught.value.exit_code == 130
    assert not list(tmp_path.rglob("center*"))


def test_a_test_that_is_part_of_a_whole_obeys_its_request_alone(few, weights, monkeypatch):
    """A signal during the last batch finishes the test, and the whole knows of it."""
    stop_after(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with StopRequest() as stop:
        assert module.evaluate(tiny(few), "center", weights, stop)[1]["finished"]
        with pytest.raises(Stopped, match="after 1 of 10 images") as caught:
            module.evaluate(tiny(few), "ten_crop", weights, stop)
    assert caught.value.exit_code == 75


def test_a_finished_test_is_read_and_one_that_can_not_be_read_is_replaced(few, weights, monkeypatch):
    first = evaluate(few, weights)
    for content in ("{", '{"schema": 2}'):
        record_at().write_text(content)
        first[1]["utc"] = (again := evaluate(few, weights))[1]["utc"]
        assert again == first
    monkeypatch.setattr(module, "score", None)
    assert evaluate(few, weights)[0] == first[0]
    with pytest.raises(TypeError):
        evaluate(few, weights, "center", "resume=never")


def test_a_finished_test_in_tf32_is_read_where_the_precision_is_left_open(few, weights):
    record = evaluate(few, weights)[1] | {"precision": "tf32"}
    record_at().write_text(json.dumps(record))
    assert "center crop, tf32)" in evaluate(few, weights)[0]
    with pytest.raises(ConfigError, match="precision: tf32, now fp32; resume=never"):
        evaluate(few, weights, "center", "machine.precision=fp32")


def test_other_weights_images_and_networks_are_other_tests(few, weights, tmp_path):
    root = make_images(tmp_path / "images", images=10)
    one = evaluate(root, weights)[1]
    two = evaluate(root, make_weights(tmp_path / "other" / "mine.pt", seed=1))[1]
    assert one["probabilities_sha256"] != two["probabilities_sha256"]
    assert len(list((results_dir() / "evaluations").glob("*/center.npy"))) == 2
    assert evaluate(root, weights, "center", "model.fc_init=msra")[1] == one, "of training only"
    with pytest.raises(ConfigError, match=r"model\.zero_padding: appended, now both_sides; resume=never"):
        evaluate(root, weights, "center", "model.zero_padding=both_sides")
    next((root / "val").rglob("*.png")).unlink()
    with pytest.raises(ConfigError, match=r"finished test: data_fingerprint: .*; images: 10, now 9; resume=never"):
        evaluate(root, weights)
    assert evaluate(root, weights, "center", "resume=never")[1]["images"] == 9


def test_what_can_not_be_tested_is_named(few, weights, tmp_path):
    with pytest.raises(ConfigError, match="images of 5 classes"):
        evaluate(few, build_model(tiny(few, "model.num_classes=4").model), "center", "model.num_classes=4")
    root = make_images(tmp_path / "images", images=10)
    bad = sorted(root.rglob("*.png"))[8]
    bad.write_bytes(b"no image")
    with pytest.raises(DataError, match=bad.name):
        evaluate(root, weights)
    alone = make_weights(tmp_path / "imported.pt", mean=False)
    with pytest.raises(DataError, match=r"mean\.npz.*data\.normalization=per_channel"):
        evaluate(few, alone)


# ---- weights of others: the same errors as their own networks count, fed in their own way


def test_the_error_on_cifar10_is_that_which_the_network_of_others_counts(tmp_path, monkeypatch):
    net, generator = akamaster_net(1), np.random.default_rng(3)
    images = generator.integers(0, 256, (300, 3, 4, 4), dtype=np.uint8).repeat(8, 2).repeat(8, 3)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():  # as torchvision's ToTensor and Normalize feed it
        guesses = net((torch.from_numpy(images).float() / 255 - mean) / std).argmax(1).numpy()
    labels = np.where(np.arange(300) % 4 == 0, generator.integers(0, 10, 300), guesses)  # most of them are right
    monkeypatch.setattr(module, "load_arrays", lambda config: Cifar10Arrays(images, labels, images, labels, "made up"))
    wrong = int((guesses != labels).sum())
    assert len(set(guesses.tolist())) > 4
    assert 50 < wrong <= 75
    out = tmp_path / "out.pt"
    import_weights(checkpoint(tmp_path / "net.th", net.state_dict()), "akamaster", out)
    text, values = module.evaluate(compose_for([], out), "", out)
    assert (values["errors"], values["images"]) == (wrong, 300)
    assert values["source"]["layout"] == "akamaster"
    assert "weights of others: layout akamaster" in text
    torch.save(dict(read_weights(out)[0]), tmp_path / "plain.pt")  # fed as the paper's network is
    plain = compose_for(["experiment=cifar_resnet20", "model.depth=8"], tmp_path / "plain.pt")
    assert module.evaluate(plain, "", tmp_path / "plain.pt")[1]["errors"] > wrong + 50


@pytest.mark.fault(77)
def test_probabilities_on_imagenet_are_those_of_torchvisions_own_preprocessing(tmp_path):
    found = sorted(SHARED.glob("data/imagenet-sample/val/*/*.JPEG"))[::25][:8]
    preset, net = models.ResNet18_Weights.IMAGENET1K_V1.transforms(), trained_like(models.resnet18(), "fc", 64).eval()
    generator = np.random.default_rng(0)
    images = []
    for number in range(8):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 7, 3), dtype=np.uint8))
        made = coarse.resize((300 + 40 * number, 420), Image.Resampling.BILINEAR)
        images.append((Image.open(found[number]) if found else made).convert("RGB"))
    with torch.no_grad():
        batch = torch.stack([preset(image) for image in images])
        net.fc.bias[:4] += 30 - net(batch)[:, :4].mean(0)  # so that it takes them for one of its first classes
        expected = net(batch).softmax(1)
    guesses = expected.argmax(1).tolist()
    assert len(set(guesses)) > 1
    labels = [guess if number % 2 else (guess + 1) % 4 for number, guess in enumerate(guesses)]  # every second is right
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "data" / "val" / f"n{label:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"image{number}.png")
    assert set(labels) == {0, 1, 2, 3}, "labels are the places of the folders"
    torch.save(net.state_dict(), tmp_path / "tv.pth")
    import_weights(tmp_path / "tv.pth", "torchvision", out := tmp_path / "out.pt")
    config = compose_for([f"data.root={tmp_path / 'data'}", "data.wiring_test=true", "machine.workers=2"], out)
    text, record = module.evaluate(config, "center", out)
    assert (record["top1_errors"], record["images"], record["source"]["layout"]) == (4, 8, "torchvision")
    assert "weights of others: layout torchvision" in text
    in_order = sorted(range(8), key=lambda number: (labels[number], number))
    assert np.load(record_at().with_suffix(".npy")) == pytest.approx(expected[in_order].numpy(), abs=0.03)


# ---- ensembles

OVERRIDES = [*TINY[1:], "train.iterations=1", "train.lr_drops=[]", "evaluation.interval=1"]
IMAGES = 2345
LABELS = np.random.default_rng(0).integers(0, CLASSES, IMAGES)


@pytest.fixture
def pair(monkeypatch) -> None:
    """An ensemble of two seeds in the place of those of experiments/ensembles."""
    members = (paper.Member("imagenet_resnet18"), paper.Member("imagenet_resnet18", 1))
    monkeypatch.setattr(paper, "ensemble", lambda name: paper.Ensemble("ten_crop", members))


def make_member(seed: int, /, labels: np.ndarray = LABELS, **about) -> np.ndarray:
    """A finished run and its finished test, right more often than not; the probabilities."""
    folder, generator = make_run(f"seed={seed}", weights=False), np.random.default_rng(seed + 10)
    logits = generator.normal(size=(IMAGES, CLASSES)) + 1.2 * np.eye(CLASSES)[LABELS]
    scores = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float16)
    top1, top5 = error_counts(torch.from_numpy(scores), torch.from_numpy(labels)).tolist()
    facts = {"protocol": "ten_crop", "experiment": "imagenet_resnet18", "seed": seed,
             "identity": folder.parent.name.partition("@")[2], "weights_sha256": file_sha256(folder / "weights.pt"),
             "data_fingerprint": "d", "precision": "fp32", "wiring_test": True, "schema": 1, "images": IMAGES,
             "val_top1_error": 100 * top1 / IMAGES, "val_top5_error": 100 * top5 / IMAGES, "finished": True}
    module.save(folder / "evaluations" / "ten_crop.json", facts | about, labels, scores)
    return scores


def test_an_ensemble_is_the_mean_of_its_members(pair):
    members = [make_member(seed) for seed in (0, 1)]
    text, values = combine("pair", OVERRIDES)
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
        combine("pair", OVERRIDES)


def test_missing_members_are_named_with_what_makes_them(pair):
    make_run("seed=1", weights=False)
    with pytest.raises(DataError) as caught:
        combine("pair", OVERRIDES)
    first, second = str(caught.value).splitlines()[1:]
    assert "no finished run with weights: repro run experiment=imagenet_resnet18 seed=0" in first
    assert "no finished test of these weights: repro eval experiment=imagenet_resnet18 seed=1" in second
    with pytest.raises(ConfigError, match="names the experiments and seeds of its members"):
        combine("pair", [*OVERRIDES, "++seed=1"])
    assert not (results_dir() / "ensembles").exists()


@pytest.mark.parametrize(("about", "message"), [
    ({"data_fingerprint": "e"}, "on other images"), ({"labels": LABELS[::-1].copy()}, "on other images"),
    ({"weights_sha256": "w"}, "seed=1 .*resume=never")], ids=["files", "labels", "weights"])
def test_tests_that_do_not_belong_together_are_not_averaged(pair, about, message):
    make_member(0)
    make_member(1, **about)
    with pytest.raises(DataError, match=message):
        combine("pair", OVERRIDES)


@pytest.mark.parametrize(("precision", "papers"), [("tf32", True), ("bf16", False)])
def test_only_tests_in_the_papers_precision_make_the_papers_ensemble(pair, precision, papers, monkeypatch):
    monkeypatch.setattr(Run, "is_paper_run", True)
    for seed in (0, 1):
        make_member(seed, precision=precision)
    assert combine("pair", OVERRIDES)[1]["paper_runs"] is papers
    path, = (results_dir() / "ensembles").iterdir()
    assert (path.name == "pair.json") is papers
