"""torchvision's ImageNet networks: equal outputs, its own preprocessing, its own metadata."""

import json
import re
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from repro.config import compose, flat, to_dict
from repro.evaluation.weight_files import read_weights, with_carried_settings
from repro.evaluation.weights import load_weights
from repro.models import build_model
from repro.paths import results_dir
from repro.weights.layouts import find_network, torchvision_key, weights_of
from tests.conftest import SHARED
from tests.outcome import says
from tests.weights.made import trained_like

NETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vgg16", "vgg19")
TORCHVISION = ("--from", "torchvision")


def save(net, path):
    torch.save(net.state_dict(), path)
    return path


def published_hash(weights):
    """What the SHA-256 of a published file begins with, by its name."""
    return re.search(r"-([0-9a-f]+)\.pth", weights.url)[1]


@pytest.mark.parametrize("name", NETS)
def test_every_network_has_our_keys_shapes_and_settings(name):
    with torch.device("meta"):
        theirs = getattr(models, name)().state_dict()
    found = find_network("torchvision", theirs, "")
    assert found.name == name
    with torch.device("meta"):
        ours = build_model(found.config.model).state_dict()
    assert {torchvision_key(key): value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items()}
    preset = models.get_model_weights(name).IMAGENET1K_V1.transforms()
    needed = found.needed
    assert (needed["data.channel_mean"], needed["data.channel_std"]) == (preset.mean, preset.std)
    assert ([needed["data.crop_size"]], [needed["data.test_shorter_side"]]) == (preset.crop_size, preset.resize_size)
    assert preset.interpolation.value == "bilinear"
    assert preset.antialias
    if name.startswith("resnet"):
        assert (needed["model.shortcut_option"], needed["model.stride_in"]) == ("B", "conv3x3")
    words = [f"experiment={found.experiment}"]
    assert flat(to_dict(compose(words)))["model.depth"] == flat(to_dict(found.config))["model.depth"]


@pytest.mark.parametrize("name", NETS)
def test_a_published_file_is_known_by_its_hash_and_fed_as_published(name):
    with torch.device("meta"):
        state = getattr(models, name)().state_dict()
    known = 0
    for weights in models.get_model_weights(name):
        if "num_params" not in weights.meta or "acc@1" not in weights.meta["_metrics"].get("ImageNet-1K", {}):
            continue
        sha256 = published_hash(weights) + "0" * 56
        assert weights_of(name, sha256) is weights
        if not np.isfinite(weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]):
            continue
        found = find_network("torchvision", state, sha256)
        assert found.needed["data.test_shorter_side"] == weights.transforms().resize_size[0]
        error = 100 - weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
        assert found.stated == f"{error:.2f} % for {weights}, center crop"
        known += 1
    assert known
    assert find_network("torchvision", state, "f" * 64).stated == ""


@pytest.mark.parametrize(("name", "seed"), [("resnet18", 0), ("resnet50", 1)])
def test_our_network_with_imported_weights_gives_torchvisions_outputs(direct, tmp_path, name, seed):
    net = trained_like(getattr(models, name)(), "fc", 64, seed)
    save(net, tmp_path / "tv.pth")
    outcome = direct("weights", "import", "tv.pth", *TORCHVISION, "--output", "out.pt")
    assert outcome.code == 0, outcome.err
    config = with_carried_settings([], tmp_path / "out.pt")[0]
    assert config.name == f"imagenet_{name}"
    ours = load_weights(build_model(config.model), tmp_path / "out.pt").double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = net.double().eval()(x)
        assert float(expected.std()) > 0.5
        assert torch.allclose(ours(x), expected, rtol=0, atol=1e-10)


def pictures(folder, count=8):
    """Images to be tested: those of the shared sample, else made ones, of several sizes."""
    found = sorted(SHARED.glob("data/imagenet-sample/val/*/*.JPEG"))[:: 200 // count][:count]
    generator = np.random.default_rng(0)
    paths = []
    for number in range(count):
        paths.append(folder / f"image{number}.png")
        coarse = Image.fromarray(generator.integers(0, 256, (6, 7, 3), dtype=np.uint8))
        made = coarse.resize((300 + 40 * number, 420), Image.Resampling.BILINEAR)
        image = Image.open(found[number]) if found else made
        image.convert("RGB").save(paths[-1])
    return paths


def favoring(net, images, classes=4):
    """The network with a bias by which it takes the images for some of its first classes; its probabilities."""
    preset = models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    batch = torch.stack([preset(Image.open(path)) for path in images])
    with torch.no_grad():
        net.eval().fc.bias[:classes] += 30 - net(batch)[:, :classes].mean(0)
        return net(batch).softmax(1)


def test_predictions_and_errors_are_those_of_torchvisions_own_preprocessing(direct, tmp_path):
    images = pictures(tmp_path)
    net = trained_like(models.resnet18(), "fc", 64)
    expected = favoring(net, images)
    save(net, tmp_path / "tv.pth")
    assert direct("weights", "import", "tv.pth", *TORCHVISION, "--output", "out.pt").code == 0
    guesses = expected.argmax(1).tolist()
    assert len(set(guesses)) > 1
    labels = []
    for number, (path, guess) in enumerate(zip(images, guesses, strict=True)):  # every second label is right
        label = guess if number % 2 else (guess + 1) % 4
        folder = tmp_path / "data" / "val" / f"n{label:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        labels.append(label)
        path.rename(folder / path.name)
    for label in range(4):
        (tmp_path / "data" / "val" / f"n{label:08d}").mkdir(exist_ok=True)
    used = sorted(path.name for path in (tmp_path / "data" / "val").iterdir() if any(path.iterdir()))
    assert len(used) == 4, "labels are the places of the folders"
    words = ["eval", "experiment=imagenet_resnet18", "weights=out.pt", "data.wiring_test=true", "data.root=data"]
    outcome = direct(*words, "--json")
    assert outcome.code == 0, outcome.err
    record = json.loads(outcome.out)
    assert (record["protocol"], record["top1_errors"], record["images"]) == ("center", 4, 8)
    assert record["weights_of"] == "weights of others (torchvision)"
    assert record["source"]["file"] == "tv.pth"
    kept, = (results_dir() / "imported").glob("out-*/center.json")
    assert json.loads(kept.read_text()) == record
    in_order = sorted(range(len(images)), key=lambda number: (labels[number], images[number].name))
    assert np.load(kept.with_suffix(".npy")) == pytest.approx(expected[in_order].numpy(), abs=0.03)
    assert [path.name for path in results_dir().iterdir()] == ["imported"]
    assert "weights of others (torchvision)" in direct(*words).out
    says(direct(*words, "data.test_shorter_side=300"), 2, "data.test_shorter_side=300 contradicts out.pt")


def test_networks_that_are_not_here_are_named(direct, tmp_path):
    for make, words in (
            (models.resnext50_32x4d, ["layer1.0.conv1.weight is (128, 64, 1, 1), not (64, 64, 1, 1)"]),
            (models.vgg11, ["VGG of 11 layers"]), (models.vgg16_bn, ["vgg16", "features.1.weight"]),
            (models.squeezenet1_1, ["no torchvision file", "features.0.weight"]),
            (partial(models.resnet18, num_classes=10), ["fc.weight is (10, 512), not (1000, 512)"])):
        path = tmp_path / "net.pth"
        with torch.device("meta"):
            shapes = {key: value.shape for key, value in make().state_dict().items()}
        torch.save({key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}, path)
        outcome = direct("weights", "import", path.name, *TORCHVISION, "--output", "out.pt")
        says(outcome, 2, path.name, *words)
        assert not (tmp_path / "out.pt").exists()


def test_the_checkpoint_of_torchvisions_trainer_is_taken(direct, tmp_path):
    net = models.resnet18()
    torch.save({"model": net.state_dict(), "optimizer": {}, "epoch": 3}, tmp_path / "tv.pth")
    assert direct("weights", "import", "tv.pth", *TORCHVISION, "--output", "out.pt").code == 0
    state, carried = read_weights(tmp_path / "out.pt")
    assert torch.equal(state["conv5_x.1.conv2.weight"], net.state_dict()["layer4.1.conv2.weight"])
    assert carried.source["left_out"] == ["optimizer", "epoch"]
