"""`repro eval` on ImageNet from image files to a record: stopped and finished tests, and what is not mixed."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import transforms

from repro.data.crops import open_rgb, resized
from repro.errors import ConfigError, DataError, Stopped, StorageError
from repro.evaluation import evaluate as module
from repro.evaluation.evaluate import read_arrays
from repro.evaluation.protocols import Scorer
from repro.evaluation.weights import training_note
from repro.models import build_model
from repro.runs import read_run
from repro.stopping import StopRequest
from tests.evaluation.made import CLASSES, make_images, make_run, make_weights, tiny


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """30 images of 5 classes."""
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """10 images of 5 classes."""
    return make_images(tmp_path_factory.mktemp("few"), images=10)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Random weights and a mean image beside them."""
    return make_weights(tmp_path_factory.mktemp("weights") / "mine.pt")


def evaluate(root: Path, weights: Path, results: Path, protocol: str = "center", *overrides: str):
    return module.evaluate(tiny(root, f"results={results}", *overrides), protocol, weights)


def record_at(results: Path, protocol: str = "center") -> Path:
    """Where the record lies."""
    record, = results.glob(f"evaluations/*/{protocol}.json")
    return record


def brute_force(root: Path, weights: Path, ten: bool) -> tuple[np.ndarray, int, int]:
    """Probabilities (N, K) and errors, one view at a time in float64, resized and cropped by torchvision."""
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


@pytest.mark.parametrize(("protocol", "images"), [("center", 30), ("ten_crop", 10)])
def test_counts_and_probabilities_equal_brute_force(root, few, weights, tmp_path, protocol, images):
    root = root if images == 30 else few
    text, record = evaluate(root, weights, tmp_path, protocol)
    wanted, top1, top5 = brute_force(root, weights, protocol == "ten_crop")
    rows, labels = read_arrays(record_at(tmp_path, protocol), record)
    assert (rows.shape, rows.dtype, labels.shape) == ((images, CLASSES), np.float16, (images,))
    np.testing.assert_allclose(rows, wanted, atol=2e-3 if protocol == "ten_crop" else 0.03)  # 1 gray level
    assert (record["top1_errors"], record["top5_errors"], record["images"]) == (top1, top5, images)
    assert 0 < top5 < top1 < images
    assert f"top-1 {100 * top1 / images:.2f} %, top-5 {100 * top5 / images:.2f} %" in text


def test_the_record_says_what_was_done_and_that_it_is_a_wiring_test(few, weights, tmp_path):
    text, record = evaluate(few, weights, tmp_path, "multi_scale")
    assert json.loads(record_at(tmp_path, "multi_scale").read_text()) == record
    expected = {"schema": 1, "protocol": "multi_scale", "experiment": "imagenet_resnet18", "seed": None, "split": "val",
                "identity": None, "images": 10, "precision": "fp32", "wiring_test": True,
                "finished": True}
    assert record | expected == record
    assert record["settings"]["shorter_sides"] == [32, 37, 55, 69, 91]
    assert "WIRING TEST, says nothing about ImageNet" in text
    assert record["definition"] in text
    assert str(record_at(tmp_path, "multi_scale")) in text
    assert {"torch", "python"} <= set(record["versions"])


def stop_after(monkeypatch, batches: int, stop) -> None:
    """Call `stop` in the place of the batch that follows so many."""
    original, count = Scorer.__call__, []

    def scored(self, loaded):
        count.append(1)
        if len(count) == batches + 1:
            stop()
        return original(self, loaded)
    monkeypatch.setattr(Scorer, "__call__", scored)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_stops_a_test_and_nothing_of_it_stays(few, weights, tmp_path, monkeypatch, number, code):
    stop_after(monkeypatch, 1, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Stopped, match="after 8 of 10 images; the same command begins this test again") as caught:
        evaluate(few, weights, tmp_path)
    assert caught.value.exit_code == code
    assert not list(tmp_path.rglob("center*"))


def test_a_test_that_is_part_of_a_whole_obeys_its_request_alone(few, weights, tmp_path, monkeypatch):
    """A signal during the last batch finishes the test, and the whole knows of it."""
    stop_after(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with StopRequest() as stop:
        _, record = module.evaluate(tiny(few, f"results={tmp_path}"), "center", weights, stop)
        assert record["finished"]
        assert stop.reason == "SIGTERM"
        with pytest.raises(Stopped, match="after 1 of 10 images"):
            module.evaluate(tiny(few, f"results={tmp_path}"), "ten_crop", weights, stop)


def test_a_finished_test_is_read_and_not_done_again(few, weights, tmp_path, monkeypatch):
    first = evaluate(few, weights, tmp_path)
    monkeypatch.setattr(module, "score", None)
    assert evaluate(few, weights, tmp_path) == first
    with pytest.raises(TypeError):
        evaluate(few, weights, tmp_path, "center", "resume=never")


def test_processes_read_the_same_as_threads(few, weights, tmp_path):
    kept = [evaluate(few, weights, tmp_path / kind, "multi_scale", f"machine.loader={kind}")[1]
            for kind in ("threads", "processes")]
    assert kept[0] | {"utc": None} == kept[1] | {"utc": None}


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 2}'])
def test_a_record_that_can_not_be_read_is_replaced(few, weights, tmp_path, caplog, content):
    first = evaluate(few, weights, tmp_path)[1]
    record_at(tmp_path).write_text(content)
    assert evaluate(few, weights, tmp_path)[1] | {"utc": None} == first | {"utc": None}
    assert "center.json" in caplog.text
    assert "begins anew" in caplog.text


@pytest.mark.parametrize("suffix", [".npy", ".labels.npy"])
@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_bytes(b"other")],
                         ids=["lost", "changed"])
def test_a_finished_test_stands_without_its_probabilities_and_says_so(few, weights, tmp_path, caplog, suffix, change):
    first = evaluate(few, weights, tmp_path)
    change(path := record_at(tmp_path).with_suffix(suffix))
    with pytest.raises(StorageError, match=path.name):
        read_arrays(record_at(tmp_path), first[1])
    assert evaluate(few, weights, tmp_path) == first
    assert "the errors of the finished test stand; resume=never tests again" in caplog.text


def test_other_weights_have_a_place_of_their_own(few, weights, tmp_path):
    other = make_weights(tmp_path / "other" / "mine.pt", seed=1)
    _, one = evaluate(few, weights, tmp_path / "results")
    _, two = evaluate(few, other, tmp_path / "results")
    assert one["weights_sha256"] != two["weights_sha256"]
    assert len(list((tmp_path / "results" / "evaluations").glob("*/center.npy"))) == 2
    assert one["probabilities_sha256"] != two["probabilities_sha256"]


def test_other_images_are_another_test(weights, tmp_path):
    root = make_images(tmp_path / "images", images=10)
    evaluate(root, weights, tmp_path)
    next((root / "val").rglob("*.png")).unlink()
    with pytest.raises(ConfigError, match=r"finished test: data_fingerprint: .*; images: 10, now 9; resume=never"):
        evaluate(root, weights, tmp_path)
    _, record = evaluate(root, weights, tmp_path, "center", "resume=never")
    assert record["images"] == 9


def test_one_file_of_weights_in_two_networks_is_two_tests(few, weights, tmp_path):
    _, one = evaluate(few, weights, tmp_path)
    _, two = evaluate(few, weights, tmp_path, "center", "model.zero_padding=both_sides")
    assert one["model"] | {"zero_padding": "both_sides"} == two["model"] != one["model"]
    assert len(list(tmp_path.glob("evaluations/*/center.npy"))) == 2
    assert evaluate(few, weights, tmp_path, "center", "model.fc_init=msra")[1] == one, "of training only"


def test_a_finished_test_in_tf32_is_read_where_the_precision_is_left_open(few, weights, tmp_path):
    _, record = evaluate(few, weights, tmp_path)
    path = record_at(tmp_path)
    path.write_text(json.dumps(record | {"precision": "tf32"}))
    text, found = evaluate(few, weights, tmp_path)
    assert found["precision"] == "tf32"
    assert "center crop, tf32)" in text
    with pytest.raises(ConfigError, match="precision: tf32, now fp32; resume=never"):
        evaluate(few, weights, tmp_path, "center", "machine.precision=fp32")


def test_one_folder_for_both_sets_is_said(few, weights, tmp_path):
    text, record = evaluate(few, weights, tmp_path)
    assert record["one_folder"] is True
    assert "WIRING TEST, says nothing about ImageNet) tested on the training images" in text
    both = make_images(tmp_path / "both", images=5)
    (both / "train").symlink_to(both / "val")
    text, record = evaluate(both, weights, tmp_path / "results")
    assert record["one_folder"] is False
    assert "training images" not in text


def test_only_weights_pt_is_said_to_be_of_the_run_beside_it(tmp_path):
    folder = make_run()
    assert "weights of imagenet_resnet18 seed 0" in training_note(folder / "weights.pt")
    assert training_note(folder / "imported.pt") == ""


def test_a_bad_image_is_named(weights, tmp_path):
    root = make_images(tmp_path / "images", images=10)
    bad = sorted(root.rglob("*.png"))[8]
    bad.write_bytes(b"no image")
    with pytest.raises(DataError, match=bad.name):
        evaluate(root, weights, tmp_path)


def test_weights_without_a_mean_need_one(few, tmp_path):
    path = make_weights(tmp_path / "imported.pt", mean=False)
    with pytest.raises(DataError, match=r"mean\.npz.*data\.normalization=per_channel"):
        evaluate(few, path, tmp_path)
    given = ["data.normalization=per_channel", "data.channel_mean=[0.485,0.456,0.406]",
             "data.channel_std=[0.229,0.224,0.225]"]
    _, record = evaluate(few, path, tmp_path, "center", *given)
    assert record["finished"]
    (tmp_path / "mean.npz").write_bytes(b"PK")
    with pytest.raises(StorageError, match=r"mean\.npz"):
        evaluate(few, path, tmp_path)


def test_weights_of_a_run_are_tested_as_they_were_trained(few, tmp_path):
    folder = make_run("seed=3")
    weights = folder / "weights.pt"
    _, found = evaluate(few, weights, tmp_path / "elsewhere")
    assert (found["seed"], found["identity"]) == (3, read_run(folder).identity)
    assert (folder / "evaluations" / "center.npy").is_file()
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(ConfigError, match=r"data\.test_shorter_side=40 here, 37 there"):
        evaluate(few, weights, tmp_path, "center", "data.test_shorter_side=40")
    with pytest.raises(ConfigError, match=r"model\.shortcut_option=B here, A there"):
        evaluate(few, weights, tmp_path, "center", "model.shortcut_option=B")


def test_more_classes_than_outputs_are_refused(few, weights, tmp_path):
    with pytest.raises(ConfigError, match="images of 5 classes"):
        evaluate(few, weights, tmp_path, "center", "model.num_classes=4")


def test_vgg_takes_its_own_crop_only(few, weights, tmp_path):
    from repro.config import compose
    config = compose(["experiment=imagenet_vgg16", "data.crop_size=192", f"data.root={few}", "machine.device=cpu"])
    with pytest.raises(ConfigError, match="VGG takes 224"):
        module.evaluate(config, "center", weights)
