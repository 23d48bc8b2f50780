"""Weights of others: equal outputs, equal counts of errors, settings that go along, and refusals in a line."""

import json
import os
import shutil
from argparse import Namespace
from dataclasses import replace
from fractions import Fraction
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np
import pytest
import torch

from repro.config import compose
from repro.evaluation.weight_files import read_plain, read_weights, with_carried_settings
from repro.evaluation.weights import load_weights
from repro.files import file_sha256
from repro.models import build_model
from repro.paths import results_dir
from repro.weights.layouts import AKAMASTER_FILES, akamaster_key
from tests.outcome import says
from tests.weights.made import (
    akamaster_net,
    checkpoint,
    errors,
    mostly_right,
    prefixed,
    small_cifar,
    trained_like,
)

AKAMASTER = ("--from", "akamaster")


@pytest.fixture
def small(monkeypatch):
    """CIFAR-10 is a few made images."""
    arrays = small_cifar()
    monkeypatch.setattr("repro.evaluation.weights.load_arrays", lambda config: arrays)
    return arrays


def imported(direct, tmp_path, net, *arguments, name="net.th", **others):
    """The output of `repro weights import` of a network as akamaster's trainer saves it."""
    file = checkpoint(tmp_path / name, prefixed(net.state_dict()), **others)
    outcome = direct("weights", "import", str(file), *AKAMASTER, "--output", "out.pt", *arguments)
    assert outcome.code == 0, outcome.err
    return tmp_path / "out.pt"


def test_our_network_with_akamasters_weights_gives_its_outputs(direct, tmp_path):
    net = akamaster_net(1).double()
    path = imported(direct, tmp_path, net.float())
    overrides = ["model.depth=8", "experiment=cifar_resnet20"]
    config = with_carried_settings(overrides, path)[0]
    ours = load_weights(build_model(config.model), path).double().eval()
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = net.double()(x)
        assert float(expected.std()) > 0.5
        assert torch.allclose(ours(x), expected, rtol=0, atol=1e-10)
        other = load_weights(build_model(compose(overrides).model), path).double().eval()
        assert not torch.allclose(other(x), expected, rtol=0, atol=1e-2), "zeros appended: another network"


def test_eval_gives_the_error_that_the_network_of_others_counts(direct, tmp_path, monkeypatch):
    """ResNet-20, no further flag: the input and the side of the zeros come with the file."""
    net = akamaster_net(3)
    small = mostly_right(net, small_cifar())
    monkeypatch.setattr("repro.evaluation.weights.load_arrays", lambda config: small)
    path = imported(direct, tmp_path, net, name="resnet20.th", best_prec1=91.73)
    wrong, guesses = errors(net, small.test_images, small.test_labels)
    assert len(set(guesses.tolist())) > 4
    assert 50 < wrong <= 75
    outcome = direct("eval", "experiment=cifar_resnet20", "weights=out.pt", "--json")
    assert outcome.code == 0, outcome.err
    assert "settings of out.pt: model.zero_padding=both_sides data.normalization=per_channel" in outcome.err
    assert outcome.err.count("\n") == 1
    values = json.loads(outcome.out)
    assert (values["errors"], values["images"]) == (wrong, 300)
    assert values["weights_of"] == "weights of others (akamaster)"
    kept, = (results_dir() / "imported").glob("out-*/*.json")
    record = json.loads(kept.read_text())
    assert record["settings"]["model.zero_padding"] == "both_sides"
    assert record["settings"]["data.channel_mean"] == [0.485, 0.456, 0.406]
    assert record["source"]["file"] == "resnet20.th"
    assert len(record["source"]["sha256"]) == len(record["weights_sha256"]) == 64
    assert not (results_dir() / "runs").exists()
    text = direct("eval", "weights=out.pt").out
    assert "weights of others (akamaster)" in text
    assert "stated by its authors" not in text
    assert f"({wrong} of 300" in text
    state = read_weights(path)[0]  # the same weights as a plain state_dict, fed as the paper's network is
    torch.save(state, "plain.pt")
    plain = json.loads(direct("eval", "experiment=cifar_resnet20", "weights=plain.pt", "--json").out)
    assert plain["errors"] > wrong + 50
    assert "weights_of" not in plain


@pytest.mark.slow
def test_counts_are_equal_on_real_test_images(direct, real_cifar10, tmp_path, monkeypatch):
    from repro.data.cifar10_files import load

    net = akamaster_net(1)
    imported(direct, tmp_path, net)
    arrays = load(real_cifar10)
    arrays = replace(arrays, test_images=arrays.test_images[:2000], test_labels=arrays.test_labels[:2000])
    arrays = mostly_right(net, arrays)
    monkeypatch.setattr("repro.evaluation.weights.load_arrays", lambda config: arrays)
    wrong, guesses = errors(net, arrays.test_images, arrays.test_labels)
    assert len(set(guesses.tolist())) > 4
    values = json.loads(direct("eval", "experiment=cifar_resnet20", "model.depth=8", "weights=out.pt",
                               "--json").out)
    assert (values["errors"], values["images"]) == (wrong, 2000)


def test_an_override_that_contradicts_the_file_is_refused(direct, small, tmp_path):
    imported(direct, tmp_path, akamaster_net(3))
    words = ["eval", "experiment=cifar_resnet20", "weights=out.pt"]
    says(direct(*words, "model.zero_padding=appended"), 2, "model.zero_padding=appended contradicts out.pt",
         "model.zero_padding=both_sides")
    says(direct(*words, "data.channel_std=[1,1,1]"), 2, "data.channel_std=[1.0,1.0,1.0]", "[0.229,0.224,0.225]")
    assert direct(*words, "data.normalization=per_channel", "recipe=akamaster").code == 0, "agrees"


def test_a_file_of_another_experiment_is_refused_with_both_depths(direct, small, tmp_path):
    imported(direct, tmp_path, akamaster_net(3))
    says(direct("eval", "experiment=cifar_resnet32", "weights=out.pt"), 2, "model.depth=20 there, 32 here",
         "cifar_resnet32")
    says(direct("eval", "experiment=imagenet_resnet18", "weights=out.pt"), 2, "model.depth=20 there, 18 here")
    says(direct("eval", "experiment=cifar_plain20", "weights=out.pt"), 2, "model.family=residual there, plain here")


def test_weights_of_others_in_a_runs_folder_do_not_become_the_runs(direct, small, tmp_path):
    path = imported(direct, tmp_path, akamaster_net(3))
    folder = results_dir() / "runs" / "cifar_resnet20" / "seed0"
    folder.mkdir(parents=True)
    shutil.copy(path, folder / "weights.pt")
    outcome = direct("eval", f"weights={folder / 'weights.pt'}")
    assert outcome.code == 0, outcome.err
    assert "weights of others (akamaster)" in outcome.out
    assert not (folder / "evaluations").exists()
    (folder / "run.json").write_text("{}")
    says(direct("weights", "import", str(tmp_path / "net.th"), *AKAMASTER, "--output", str(folder / "run.json")), 2,
         "run.json is there already")
    assert (folder / "run.json").read_text() == "{}"


# ---- forms of files that are taken

def as_saved(state, kind, path):
    """The same weights in another form of file."""
    if kind == "bare":
        torch.save(state, path)
    elif kind == "without prefix":
        checkpoint(path, state)
    elif kind == "half":
        checkpoint(path, {key: value.half() if value.is_floating_point() else value for key, value in state.items()})
    elif kind == "no counters":
        checkpoint(path, {key: value for key, value in state.items() if "num_batches" not in key})
    elif kind == "legacy":
        torch.save({"state_dict": prefixed(state)}, path, _use_new_zipfile_serialization=False)
    elif kind == "others":
        checkpoint(path, prefixed(state), epoch=200, best_prec1=torch.tensor(91.7), optimizer={"state": {0: {}}})
    elif kind == "parameters":
        checkpoint(path, {key: torch.nn.Parameter(value) if value.is_floating_point() else value
                          for key, value in state.items()})
    else:
        from safetensors.torch import save_file

        save_file(state, path)
    return path


@pytest.mark.parametrize("kind", ["bare", "without prefix", "half", "no counters", "legacy", "others", "parameters",
                                  "safetensors"])
def test_each_usual_form_of_a_checkpoint_is_taken(direct, tmp_path, kind):
    if kind == "safetensors":
        pytest.importorskip("safetensors")
    state = akamaster_net().state_dict()
    file = as_saved(state, kind, tmp_path / ("net.safetensors" if kind == "safetensors" else "net.th"))
    outcome = direct("weights", "import", str(file), *AKAMASTER, "--output", "out.pt", "--json")
    assert outcome.code == 0, outcome.err
    found, carried = read_weights(tmp_path / "out.pt")
    assert {value.dtype for value in found.values()} == {torch.float32, torch.int64}
    for key, value in found.items():
        expected = state[akamaster_key(key)]
        if kind == "half" and value.is_floating_point():
            expected = expected.half().float()
        if kind == "no counters" and "num_batches" in key:
            expected = torch.tensor(0)
        assert torch.equal(value, expected), key
    source = json.loads(outcome.out)["source"]
    assert source == carried.source
    assert source["types"] == (["float16"] if kind == "half" else ["float32"])
    assert source["left_out"] == (["epoch", "best_prec1", "optimizer"] if kind == "others" else [])
    depth = with_carried_settings([], tmp_path / "out.pt")[0].model.depth
    assert depth == 8, "no experiment has 8 layers; the file says so"


@pytest.mark.fault(55)
@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoints_of_other_trainers_are_taken(direct, tmp_path, legacy):
    """What torchvision's and timm's trainers and torch.compile save: options, numbers of NumPy, paths, prefixes."""
    state = akamaster_net().state_dict()
    options = Namespace(lr=0.1, output_dir=PurePosixPath("out"), data=PureWindowsPath("c:/x"), milestones=[1, None])
    options.data_path = tmp_path
    numbers = {"best": np.float64(91.7), "epoch": np.int32(200), "done": np.bool_(True), "half": np.float16(1)}
    for wrapper, prefix in (("model", "module._orig_mod."), ("state_dict", "_orig_mod.module."), ("model", "")):
        content = {wrapper: {prefix + key: value for key, value in state.items()}, "args": options, **numbers}
        torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=not legacy)
        outcome = direct("weights", "import", "net.pth", *AKAMASTER, "--output", "out.pt", "--json")
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["source"]["left_out"] == ["args", *numbers]
        found = read_weights(tmp_path / "out.pt")[0]
        assert all(torch.equal(value, state[akamaster_key(key)]) for key, value in found.items())
    says(direct("eval", "experiment=cifar_resnet20", "weights=net.pth"), 5, "`repro weights import`")


@pytest.mark.fault(55)
def test_numbers_that_an_old_numpy_saved_are_read(tmp_path):
    """NumPy 1 calls the function that makes them by another name than NumPy 2."""
    torch.save({"weight": torch.ones(1), "best": np.float32(0.5)}, tmp_path / "net.th",
               _use_new_zipfile_serialization=False)
    content = (tmp_path / "net.th").read_bytes()
    old, new = b"numpy.core.multiarray", b"numpy._core.multiarray"
    other = content.replace(new, old) if new in content else content.replace(old, new)
    assert other != content
    (tmp_path / "net.th").write_bytes(other)
    assert read_plain(tmp_path / "net.th")["best"] == 0.5


@pytest.mark.fault(55)
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("value", "named"), [
    (Fraction(1, 2), "fractions.Fraction"), (os.mkdir, "posix.mkdir"), (np.ones(2), "multiarray._reconstruct")])
def test_any_other_type_is_named(direct, tmp_path, value, named, legacy):
    torch.save({"model": akamaster_net().state_dict(), "args": Namespace(value=value)}, tmp_path / "net.pth",
               _use_new_zipfile_serialization=not legacy)
    says(direct("weights", "import", "net.pth", *AKAMASTER), 5, named, "nothing in it was executed", "state_dict()")


@pytest.mark.fault(52)
def test_an_error_is_stated_only_of_the_published_file(direct, tmp_path, monkeypatch):
    """No other file has the SHA-256 of the published one, so a made one takes its place."""
    file = checkpoint(tmp_path / "resnet20-12fca82f.th", akamaster_net(3).state_dict())
    command = ("weights", "import", str(file), *AKAMASTER, "--output", "out.pt")
    outcome = direct(*command)
    assert "no error is known to be stated for this file" in outcome.out
    assert "8.27" not in outcome.out
    assert read_weights(tmp_path / "out.pt")[1].note.endswith(file_sha256(file)[:12])
    monkeypatch.setitem(AKAMASTER_FILES, 20, file_sha256(file))
    assert "stated by its authors, not measured here: 8.27 % on CIFAR-10's test set (best epoch" in direct(*command).out
    assert "stated by its authors: 8.27 %" in read_weights(tmp_path / "out.pt")[1].note


def test_without_an_output_the_file_lies_among_the_results_and_is_replaced(direct, tmp_path):
    file = checkpoint(tmp_path / "net.th", akamaster_net(3).state_dict())
    for _ in range(2):
        outcome = direct("weights", "import", str(file), *AKAMASTER)
        assert outcome.code == 0, outcome.err
    assert [path.name for path in (results_dir() / "imported").iterdir()] == ["resnet20-akamaster.pt"]
    assert "repro eval experiment=cifar_resnet20 weights=" in outcome.out
    before = file.read_bytes()
    says(direct("weights", "import", str(file), *AKAMASTER, "--output", str(file)), 2, "net.th is there already")
    assert file.read_bytes() == before


# ---- files that are refused

class Evil:
    """A pickle that would make a folder."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def bad_file(kind, path):
    """A file that holds no plain weights."""
    net = akamaster_net()
    if kind == "malicious":
        torch.save({"state_dict": Evil()}, path)
    elif kind == "whole model":
        torch.save(torch.nn.Linear(2, 2), path)
    elif kind == "page":
        path.write_text("\n<!DOCTYPE html><html>404</html>")
    elif kind == "empty":
        path.touch()
    elif kind == "truncated":
        checkpoint(path, net.state_dict())
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "garbage":
        path.write_bytes(bytes(range(1, 256)) * 40)
    elif kind == "folder":
        path.mkdir()
    elif kind == "no dict":
        torch.save([torch.zeros(2)], path)
    elif kind == "numbers":
        checkpoint(path, {"conv1.weight": 1.0})
    elif kind == "nothing":
        checkpoint(path, {})
    elif kind == "not finite":
        checkpoint(path, net.state_dict() | {"linear.bias": torch.full((10,), float("nan"))})
    elif kind == "complex":
        checkpoint(path, net.state_dict() | {"linear.bias": torch.zeros(10, dtype=torch.complex64)})
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "sparse":
        checkpoint(path, net.state_dict() | {"linear.weight": torch.zeros(10, 64).to_sparse()})
    return path


@pytest.mark.fault(75)
@pytest.mark.parametrize(("kind", "words"), [
    ("malicious", ["nothing in it was executed"]), ("whole model", ["nothing in it was executed", "state_dict()"]),
    ("page", ["a web page"]), ("empty", ["the file is empty"]), ("truncated", ["truncated or damaged"]),
    ("garbage", ["bad.th"]), ("folder", ["Is a directory"]), ("no dict", ["no state_dict"]),
    ("numbers", ["no state_dict"]), ("nothing", ["no state_dict"]), ("not finite", ["linear.bias", "not finite"]),
    ("sparse", ["linear.weight", "no dense tensor"]), ("complex", ["linear.bias", "no dense tensor"]),
    ("pipe", ["no plain file"]), ("missing", ["no file bad.th"])])
def test_a_file_without_plain_weights_is_one_line_and_5(direct, tmp_path, kind, words):
    bad_file(kind, tmp_path / "bad.th")
    outcome = direct("weights", "import", "bad.th", *AKAMASTER, "--output", "out.pt")
    says(outcome, 5, *words)
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "out.pt").exists()
    if kind not in ("not finite", "sparse", "complex", "nothing"):  # what `repro eval` says of the same file
        says(direct("eval", "experiment=cifar_resnet20", "weights=bad.th"), 5, "bad.th")


@pytest.mark.fault(75)
def test_weights_that_are_no_finite_real_numbers_are_not_tested(direct, small, tmp_path):
    state = read_weights(imported(direct, tmp_path, akamaster_net()))[0]
    for change, words in ((float("nan"), "fc.bias has values that are not finite"), (1j, "fc.bias is no dense tensor")):
        torch.save(state | {"fc.bias": state["fc.bias"] * change}, "bad.pt")
        says(direct("eval", "experiment=cifar_resnet20", "model.depth=8", "weights=bad.pt"), 5, "bad.pt", words)


def test_the_malicious_file_would_do_harm(tmp_path, monkeypatch):
    """Negative control: read without weights_only it is executed."""
    monkeypatch.chdir(tmp_path)
    torch.load(bad_file("malicious", tmp_path / "bad.th"), weights_only=False)
    assert (tmp_path / "executed").is_dir()


@pytest.mark.parametrize(("change", "words"), [
    ({"linear.weight": torch.zeros(100, 64)}, ["linear.weight is (100, 64), not (10, 64)"]),
    ({"layer2.0.shortcut.0.weight": torch.zeros(32, 16, 1, 1)}, ["unknown layer2.0.shortcut.0.weight (32, 16, 1, 1)"]),
    ({"layer1.1.conv1.weight": torch.zeros(16, 16, 3, 3)}, ["resnet14", "no layer1.1.bn1.weight (16,)"]),
    ({"bn1.running_var": None}, ["no bn1.running_var (16,)"]),
    ({"bn1.num_batches_tracked": torch.zeros(2)}, ["bn1.num_batches_tracked is (2,), not ()"]),
], ids=["shape", "option B", "one block more", "missing", "counter"])
def test_weights_of_another_form_name_the_key_and_the_shapes(direct, tmp_path, change, words):
    state = {key: value for key, value in (akamaster_net().state_dict() | change).items() if value is not None}
    checkpoint(tmp_path / "net.th", prefixed(state))
    outcome = direct("weights", "import", "net.th", *AKAMASTER, "--output", "out.pt")
    says(outcome, 2, *words)
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "out.pt").exists()


def test_a_mixed_prefix_is_no_prefix(direct, tmp_path):
    state = akamaster_net().state_dict()
    checkpoint(tmp_path / "net.th", {**prefixed(state), "linear.bias": state["linear.bias"]})
    says(direct("weights", "import", "net.th", *AKAMASTER), 2, "no layer1.0.conv1.weight", "module.conv1.weight")


@pytest.mark.parametrize("change", [{"schema": 99}, {"settings": {"train.lr": 1.0}}, {"settings": {
    "model.zero_padding": "a b"}}, {"network": {}}, {"source": 3}], ids=str)
def test_an_imported_file_that_was_changed_is_refused(direct, small, tmp_path, change):
    path = imported(direct, tmp_path, akamaster_net(3))
    torch.save(torch.load(path) | change, path)
    says(direct("eval", "experiment=cifar_resnet20", "weights=out.pt"), 5, "out.pt")


def test_the_other_layout_is_refused(direct, tmp_path):
    import torchvision

    torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), tmp_path / "tv.pth")
    says(direct("weights", "import", "tv.pth", *AKAMASTER), 2, "tv.pth", "resnet14", "no linear.weight")
    checkpoint(tmp_path / "net.th", akamaster_net().state_dict())
    says(direct("weights", "import", "net.th", "--from", "torchvision"), 2, "net.th", "[1, 1, 1, 0] basic blocks")
    says(direct("weights", "import", "net.th", "--from", "caffe"), 2, "caffe", "akamaster")
    says(direct("weights", "import", "net.th"), 2, "--from")


def test_trained_like_values_are_nothing_special():
    """The comparisons can fail: statistics, scales and biases are not those of a new network."""
    net = trained_like(akamaster_net(), "linear", seed=1)
    assert all(float((value - default).abs().max()) > 0.1 for name, default in (("running_mean", 0), ("running_var", 1))
               for value in [net.bn1.get_buffer(name)])
