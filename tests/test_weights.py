"""Weights: equal outputs with those of others, settings that go along, export and import again, refusals in a line."""

import os
import re
from argparse import Namespace
from fractions import Fraction
from functools import partial

import msgspec
import numpy as np
import pytest
import torch
from torchvision import models

from repro import weights
from repro.config import compose
from repro.errors import ConfigError, StorageError
from repro.files import file_sha256
from repro.models import build_model
from repro.paper import second_references
from repro.paths import TREE
from repro.schema import DEPTHS, Family
from repro.weights import compose_for, export_weights, import_weights, load_weights, read_weights
from tests.evaluation.made import make_run
from tests.made_weights import akamaster_net, checkpoint, train_tiny, trained_like

STATE = akamaster_net().state_dict()


@pytest.fixture
def out(tmp_path):
    """Where imported weights go."""
    return tmp_path / "out.pt"


def stated_errors():
    """What akamaster states of each network, with the SHA-256 of the file."""
    return next(source for source in second_references()["sources"] if source["key"] == "akamaster")["errors"]


def imported(net, out):
    """The file of an akamaster network as its trainer saves it, imported."""
    import_weights(checkpoint(out.with_name("net.th"), net.state_dict()), "akamaster", out)


def network_in(path):
    """Our network with the weights in a file, in float64."""
    return load_weights(build_model(compose_for([], path).model), path).double().eval()


def test_our_network_with_akamasters_weights_gives_its_outputs(out):
    net = akamaster_net(1)
    imported(net, out)
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = net.double()(x)
        assert float(expected.std()) > 0.5
        torch.testing.assert_close(network_in(out)(x), expected, rtol=0, atol=1e-10)
        plain = load_weights(build_model(compose(["experiment=cifar_resnet20", "model.depth=8"]).model), out)
        assert not torch.allclose(plain.double().eval()(x), expected, rtol=0, atol=1e-2), "zeros appended: another net"


@pytest.mark.parametrize(("name", "seed"), [("resnet18", 0), ("resnet50", 1)])
def test_our_network_with_torchvisions_weights_gives_its_outputs(out, name, seed):
    net = trained_like(getattr(models, name)(), "fc", 64, seed)
    torch.save({"model": net.state_dict(), "optimizer": {}, "epoch": 3}, out.with_name("tv.pth"))
    import_weights(out.with_name("tv.pth"), "torchvision", out)
    assert compose_for([], out).name == f"imagenet_{name}"
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = net.double().eval()(x)
        assert float(expected.std()) > 0.5
        torch.testing.assert_close(network_in(out)(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("depth", DEPTHS[Family.residual])
def test_every_network_of_torchvision_has_our_keys_and_is_fed_as_published(depth):
    name, (config, stated) = f"resnet{depth}", weights.torchvision_config(depth, "f" * 64)
    assert stated == ""
    with torch.device("meta"):
        theirs, ours = getattr(models, name)().state_dict(), build_model(config.model).state_dict()
    ours = {weights.their_key("torchvision", key): value for key, value in ours.items()}
    assert weights.mismatches(ours, theirs) == ""
    assert compose([f"experiment={config.name}"]).model.depth == config.model.depth
    for published in models.get_model_weights(name):
        error = 100 - published.meta["_metrics"]["ImageNet-1K"]["acc@1"]
        config, stated = weights.torchvision_config(depth, re.search(r"-([0-9a-f]+)\.pth", published.url)[1] + "0" * 56)
        preset = published.transforms()
        assert stated == f"{error:.2f} % for {published}, center crop"
        assert (config.data.channel_mean, config.data.channel_std) == (preset.mean, preset.std)
        assert ([config.data.crop_size], [config.data.test_shorter_side]) == (preset.crop_size, preset.resize_size)


@pytest.mark.fault(50, 62)
def test_settings_go_along_with_a_file_and_contradictions_are_refused(out):
    imported(akamaster_net(1), out)
    config = compose_for([], out)
    assert (config.name, config.model.depth, config.model.zero_padding.name) == ("cifar_resnet20", 8, "both_sides")
    assert config.data.normalization.name == "per_channel"
    for given in ([], ["experiment=cifar_resnet20"]):
        assert compose_for([*given, "model.blocks_per_stage=1"], out).model == config.model
    for words, message in ((["model.zero_padding=appended"], "need model.zero_padding=both_sides, not .*=appended"),
                           (["data.channel_std=[1,1,1]"], r"data.channel_std=\[0.229,0.224,0.225\], not"),
                           (["experiment=cifar_resnet32"], "need model.depth=8, not model.depth=32"),
                           (["experiment=cifar_plain20", "model.depth=8"], "model.family=residual, not .*=plain")):
        with pytest.raises(ConfigError, match=message):
            compose_for(words, out)


@pytest.mark.fault(55)
@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoints_of_other_trainers_are_taken(out, legacy):
    """What torchvision's, timm's and akamaster's trainers and torch.compile save: options, numbers, prefixes."""
    halved = {key: value.half() if value.is_floating_point() else value for key, value in STATE.items()}
    others = {"args": Namespace(lr=0.1, milestones=[1, None]), "best": np.float64(91.7), "epoch": np.int32(200),
              "half": np.float16(1), "optimizer": {"state": {0: {}}}}
    uncounted = {key: value for key, value in STATE.items() if "num_batches" not in key}
    for content in ({"model": {f"module._orig_mod.{key}": value for key, value in STATE.items()}, **others},
                    STATE, halved, uncounted):
        torch.save(content, out.with_name("net.pth"), _use_new_zipfile_serialization=not legacy)
        import_weights(out.with_name("net.pth"), "akamaster", out)
        for key, value in read_weights(out)[0].items():
            expected = (halved if content is halved else STATE)[weights.their_key("akamaster", key)]
            if content is uncounted and "num_batches" in key:
                expected = torch.tensor(0)
            assert torch.equal(value, expected.to(value.dtype)), key
            assert value.dtype in (torch.float32, torch.int64)


@pytest.mark.fault(52)
def test_an_error_is_stated_only_of_the_published_file(out, monkeypatch):
    """No other file has the SHA-256 of the published one, so a made one takes its place."""
    imported(akamaster_net(3), out)
    assert read_weights(out)[1].source["stated by its authors"] == "nothing"
    monkeypatch.setitem(stated_errors()["resnet-20"], "sha256", file_sha256(out.with_name("net.th")))
    imported(akamaster_net(3), out)
    assert "8.27 % on CIFAR-10's test set (best epoch" in read_weights(out)[1].note


class Evil:
    """A pickle that would make a folder."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


NO_WEIGHTS = {  # what a file holds, and what is said of it
    "malicious": ({"state_dict": Evil()}, "nothing in it was executed"),
    "a whole model": (torch.nn.Linear(2, 2), r"nothing in it was executed.*state_dict\(\)"),
    "another type": ({"model": STATE, "args": Namespace(value=Fraction(1, 2))}, "nothing in it was executed"),
    "numbers": ({"conv1.weight": 1.0}, "no state_dict"), "nothing": ({"state_dict": {}}, "no state_dict"),
    "not finite": (STATE | {"linear.bias": torch.full((10,), float("nan"))}, "linear.bias is no .*finite"),
    "complex": (STATE | {"linear.bias": torch.zeros(10, dtype=torch.complex64)}, "linear.bias is no dense"),
    "sparse": (STATE | {"linear.weight": torch.zeros(10, 64).to_sparse()}, "linear.weight is no dense"),
    "truncated": (STATE, "bad.th"), "garbage": (STATE, "bad.th"), "a folder": (None, "Is a directory"),
    "a pipe": (None, "no plain file"), "missing": (None, "No such file")}


def bad_file(kind, path):
    """A file that holds no plain weights."""
    if (content := NO_WEIGHTS[kind][0]) is not None:
        torch.save(content, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "garbage":
        path.write_bytes(bytes(range(1, 256)) * 40)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    return path


@pytest.mark.fault(28, 55, 75)
@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_a_file_without_plain_weights_is_one_line(out, monkeypatch, kind):
    monkeypatch.chdir(out.parent)
    file = bad_file(kind, out.with_name("bad.th"))
    for read in (partial(import_weights, file, "akamaster", out), partial(read_weights, file)):
        with pytest.raises(StorageError, match=r"bad\.th") as caught:
            read()
        assert "\n" not in str(caught.value)
        assert re.search(NO_WEIGHTS[kind][1], str(caught.value)) or read.func is read_weights
    assert not out.exists()
    assert not out.with_name("executed").exists()


def test_the_malicious_file_would_do_harm(out, monkeypatch):
    """Negative control: read without weights_only it is executed."""
    monkeypatch.chdir(out.parent)
    torch.load(bad_file("malicious", out), weights_only=False)
    assert out.with_name("executed").is_dir()


@pytest.mark.parametrize(("change", "words"), [
    ({"linear.weight": torch.zeros(100, 64)}, r"as linear.weight: \(100, 64\), not \(10, 64\)"),
    ({"layer2.0.shortcut.0.weight": torch.zeros(32, 16, 1, 1)}, r"1 of .*layer2.0.shortcut.0.weight: \(32, 16.*there"),
    ({"layer1.1.conv1.weight": torch.zeros(16, 16, 3, 3)}, "model.depth=9"),
    ({"bn1.running_var": None}, r"1 of .*bn1.running_var: missing, not \(16,\)"),
], ids=["shape", "option B", "one layer more", "missing"])
def test_weights_of_another_form_name_the_key_and_the_shapes(out, change, words):
    state = {key: value for key, value in (STATE | change).items() if value is not None}
    with pytest.raises(ConfigError, match=f"net.th.*akamaster.*{words}"):
        import_weights(checkpoint(out.with_name("net.th"), state), "akamaster", out)
    assert not out.exists()


@pytest.mark.parametrize(("make", "words"), [
    (models.resnext50_32x4d, r"layer1.0.conv1.weight: \(128, 64, 1, 1\), not \(64"),
    (models.vgg16, "layers of resnet16; there are those of 18, 34"),
    (partial(models.resnet18, num_classes=10), r"fc.weight: \(10, 512\), not \(1000, 512\)")],
    ids=["resnext50", "vgg16", "10 classes"])
def test_networks_that_are_not_here_are_named(out, make, words):
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in make().state_dict().items()}
    torch.save({key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}, out.with_name("net.pth"))
    with pytest.raises(ConfigError, match=f"net.pth.*{words}"):
        import_weights(out.with_name("net.pth"), "torchvision", out)


def test_garbage_collection_survives_what_was_read():
    assert "pattern='" not in repr(msgspec.inspect.type_info(weights.Facts)), "msgspec 0.22 crashes beside a list"


@pytest.mark.parametrize(("change", "error"), [
    ({"settings": {"train.lr": 1.0}}, ConfigError), ({"settings": {"model.zero_padding": "a b"}}, StorageError),
    ({"source": 3}, StorageError), ({"experiment": "x,y"}, StorageError)], ids=str)
def test_facts_that_were_changed_are_refused(out, change, error):
    config = compose(["experiment=cifar_resnet20", "model.depth=8"])
    out.write_bytes(weights.serialize(build_model(config.model).state_dict(), weights.facts_of(config) | change))
    with pytest.raises(error, match=r"its settings are not those of weights|need train.lr=1.0, not"):
        compose_for([], out)


# ---- weights of ours


@pytest.mark.fault(62)
@pytest.mark.parametrize("recipe", [(), ("recipe=akamaster", "train.warmup=none")], ids=["paper", "akamaster"])
def test_an_export_is_the_runs_weights_and_tells_how_they_are_fed(monkeypatch, tmp_path, recipe):
    run = train_tiny(monkeypatch, *recipe)
    path = export_weights(run, tmp_path / "exported")
    state, facts = read_weights(path)
    expected = weights.read_state(run.folder / "weights.pt")
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)
    config, own = compose_for([], path), run.record.config
    assert (config.model.depth, config.model.zero_padding) == (8, own.model.zero_padding)
    assert (config.data.normalization, config.data.channel_std) == (own.data.normalization, own.data.channel_std)
    assert facts.deviations == run.record.deviations
    card = path.with_name(f"{path.name}.md").read_text()
    for words in (f"test top-1 error: {run.record.result['test_top1_error']:.2f} % (other settings than the paper's",
                  file_sha256(path), "train.iterations: 64000 -> 4", f'repro.load_model("{path.name}")',
                  "divided by [0.229, 0.224, 0.225]" if recipe else "minus the mean image of the training images"):
        assert words in card, words


@pytest.mark.fault(65)
def test_changed_or_lost_weights_of_a_run_are_refused(monkeypatch, tmp_path):
    run = train_tiny(monkeypatch)
    path = run.folder / "weights.pt"
    state = read_weights(path)[0]
    path.write_bytes(weights.serialize(state | {"fc.bias": state["fc.bias"] + 1}, weights.facts_of(run.record.config)))
    for use in (partial(read_weights, path), partial(export_weights, run, tmp_path)):
        with pytest.raises(StorageError, match="was changed after the run"):
            use()
    path.unlink()
    with pytest.raises(ConfigError, match="no finished run with weights"):
        export_weights(run, tmp_path)


def test_weights_of_an_earlier_run_take_the_settings_of_the_record_beside_them():
    path = make_run("data.test_shorter_side=40", "model.shortcut_option=B") / "weights.pt"
    assert not hasattr(weights.read_state(path), "repro")
    config = compose_for([], path)
    assert (config.data.test_shorter_side, config.model.shortcut_option.name) == (40, "B")


@pytest.mark.fault(78)
def test_the_errors_that_the_readme_tells_are_the_stated_ones():
    rows = re.findall(r"^\| (akamaster|torchvision V1) \| (\S+) \| ([\d.]+) \| (.*) \|$",
                      (TREE / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == 4 + len(DEPTHS[Family.residual])
    for form, name, error, measured in rows:
        network, _, digest = name.removesuffix(".th").partition("-")
        if form == "akamaster":
            theirs = stated_errors()[network.replace("resnet", "resnet-")]
            assert float(error) == theirs["test"]
            assert theirs["sha256"].startswith(digest or "?")
            assert measured == f"{round(100 * float(error))} of 10,000"
        else:
            metrics = models.get_model_weights(network).IMAGENET1K_V1.meta["_metrics"]["ImageNet-1K"]
            assert float(error) == round(100 - metrics["acc@1"], 2)
