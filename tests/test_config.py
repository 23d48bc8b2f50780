"""Configurations: every experiment against the paper's recipe, errors that name the key, and what makes up identity."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from repro import config as configuration
from repro.config import (
    NOT_HASHED,
    compose,
    config_hash,
    deviations,
    experiments,
    flat,
    hashed_settings,
    keys,
    paper_config,
    paper_hashes,
    quote,
    quote_paths,
    to_dict,
    with_config_dir,
    with_precision,
)
from repro.errors import ConfigError
from repro.schema import Device, Precision, RunConfig

RESNET20 = "experiment=cifar_resnet20"
# Name of the experiment, family, n, layers, warm-up, row (Sec. 4.2, Table 6).
EXPERIMENTS = [
    ("cifar_plain20", "plain", 3, 20, "none", "plain_nets/plain-20"),
    ("cifar_plain32", "plain", 5, 32, "none", "plain_nets/plain-32"),
    ("cifar_plain44", "plain", 7, 44, "none", "plain_nets/plain-44"),
    ("cifar_plain56", "plain", 9, 56, "none", "plain_nets/plain-56"),
    ("cifar_plain110", "plain", 18, 110, "error80", "plain_nets/plain-110"),
    ("cifar_resnet20", "residual", 3, 20, "none", "table6/resnet-20"),
    ("cifar_resnet32", "residual", 5, 32, "none", "table6/resnet-32"),
    ("cifar_resnet44", "residual", 7, 44, "none", "table6/resnet-44"),
    ("cifar_resnet56", "residual", 9, 56, "none", "table6/resnet-56"),
    ("cifar_resnet110", "residual", 18, 110, "error80", "table6/resnet-110"),
    ("cifar_resnet1202", "residual", 200, 1202, "error80", "table6/resnet-1202"),
]
# Name, family, layers, option, rows (Sec. 4.1, Tables 2 to 4).
IMAGENET_EXPERIMENTS = [
    ("imagenet_optA", "residual", 34, "A", ["table2/resnet-34", "table3/resnet-34-a"]),
    ("imagenet_optB", "residual", 34, "B", ["table3/resnet-34-b", "table4/resnet-34-b"]),
    ("imagenet_optC", "residual", 34, "C", ["table3/resnet-34-c", "table4/resnet-34-c"]),
    ("imagenet_plain18", "plain", 18, "A", ["table2/plain-18"]),
    ("imagenet_plain34", "plain", 34, "A", ["table2/plain-34", "table3/plain-34"]),
    ("imagenet_resnet18", "residual", 18, "A", ["table2/resnet-18"]),
    ("imagenet_resnet50", "residual", 50, "B", ["table3/resnet-50", "table4/resnet-50"]),
    ("imagenet_resnet101", "residual", 101, "B", ["table3/resnet-101", "table4/resnet-101"]),
    ("imagenet_resnet152", "residual", 152, "B", ["table3/resnet-152", "table4/resnet-152"]),
    ("imagenet_vgg16", "vgg", 16, "A", []),
    ("imagenet_vgg19", "vgg", 19, "A", []),
]
IMAGENET_RECIPE = {
    "model.architecture": "imagenet", "model.stride_in": "first_1x1", "model.num_classes": 1000,
    "data.name": "imagenet", "data.normalization": "per_pixel_mean", "data.crop": "shorter_side",
    "data.shorter_side": [256, 480], "data.crop_size": 224, "data.test_shorter_side": 256, "data.flip": True,
    "data.color_noise_std": 0.1, "data.padding": 0, "data.wiring_test": False,
    "train.mini_batch_size": 256, "train.iterations": 600_000, "train.lr": 0.1, "train.lr_factor": 0.1,
    "train.lr_policy": "drops", "train.lr_drops": [150_000, 300_000], "train.warmup": "none", "train.momentum": 0.9,
    "train.momentum_form": "caffe", "train.weight_decay": 1e-4, "train.weight_decay_on": "all",
    "train.batch_norm_group": 256,
}
# What the paper and its authors fix for all of them, and our choices where they are silent (recipe.md).
RECIPE = {
    "model.shortcut_option": "A", "model.conv_init": "fan_out", "model.batch_norm_eps": 1e-5,
    "model.batch_norm_momentum": 0.1, "model.num_classes": 10, "model.zero_padding": "appended",
    "model.fc_init": "uniform_zero_bias", "data.normalization": "per_pixel_mean", "data.channel_mean": None,
    "data.channel_std": None, "data.padding_value": "mean",
    "data.name": "cifar10", "data.split": "full", "data.padding": 4, "data.flip": True,
    "train.mini_batch_size": 128, "train.iterations": 64000, "train.lr": 0.1, "train.lr_factor": 0.1,
    "train.lr_drops": [32000, 48000], "train.warmup_lr": 0.01, "train.warmup_error": 80.0, "train.warmup_window": 100,
    "train.warmup_max": 2000, "train.momentum": 0.9, "train.momentum_form": "caffe", "train.weight_decay": 1e-4,
    "train.weight_decay_on": "all", "train.batch_norm_group": 128, "train.loss_scale": 128.0,
    "evaluation.interval": 390, "scale": 1.0,
    "model.architecture": "cifar", "model.stride_in": "first_1x1", "data.crop": "padded", "data.crop_size": None,
    "data.shorter_side": None, "data.test_shorter_side": None, "data.color_noise_std": 0.0, "data.wiring_test": False,
    "train.lr_policy": "drops", "train.plateau_patience": 5, "train.plateau_threshold": 0.1,
    "train.plateau_drops": 2,
}
# Every key that changes a run's numbers, with another value for it. A new key must be put here or into NOT_IDENTITY.
CHANGES_NUMBERS = {
    "data.name": "synthetic",
    "scale": "0.5", "model.family": "plain", "model.blocks_per_stage": "4", "model.shortcut_option": "B",
    "model.conv_init": "fan_in", "model.batch_norm_eps": "1e-4", "model.batch_norm_momentum": "0.2",
    "model.num_classes": "11", "data.split": "45k", "data.padding": "3", "data.flip": "false",
    "train.mini_batch_size": "256", "train.iterations": "63999", "train.lr": "0.2", "train.lr_factor": "0.2",
    "train.lr_drops": "[32000]", "train.warmup": "fixed400", "train.warmup_lr": "0.02", "train.warmup_error": "70",
    "train.warmup_window": "50", "train.warmup_max": "1000", "train.momentum": "0.8", "train.momentum_form": "torch",
    "train.weight_decay": "0", "train.weight_decay_on": "weights", "train.batch_norm_group": "64",
    "train.loss_scale": "64", "evaluation.interval": "391", "machine.precision": "bf16",
    "model.zero_padding": "both_sides", "model.fc_init": "msra", "data.padding_value": "black",
    "train.plateau_patience": "3", "train.plateau_threshold": "0.2", "train.plateau_drops": "3",
    "model.stride_in": "conv3x3",
}
# The same for keys that only ImageNet's networks and images have.
IMAGENET_CHANGES_NUMBERS = {
    "model.depth": "18", "data.crop_size": "192", "data.shorter_side": "[256,320]", "data.test_shorter_side": "288",
    "data.color_noise_std": "0", "data.wiring_test": "true", "train.lr_policy": "plateau",
    "model.stride_in": "conv3x3", "train.batch_norm_group": "32", "model.shortcut_option": "A",
}
# Given with others: crop with shorter_side, architecture with everything else.
IMAGENET_TOGETHER = ("data.crop", "model.architecture")
# Keys that are given together: per_channel with both of its lists.
PER_CHANNEL = {"data.normalization": "per_channel", "data.channel_mean": "[0.5,0.4,0.3]",
               "data.channel_std": "[0.2,0.25,0.3]"}
# Keys that say where and how a run happens, with another value for each.
KEEPS_NUMBERS = {
    "description": "other", "reproduces": "[]", "seed": "7", "max_seconds": "60", "resume": "never",
    "results": "elsewhere", "data.root": "elsewhere", "machine.channels_last": "true", "machine.threads": "1",
    "machine.deterministic": "true", "machine.evaluation_batch_size": "10", "machine.checkpoint_seconds": "1",
    "machine.tensorboard": "false", "evaluation.batch_norm_images": "0", "evaluation.responses": "false",
    "evaluation.gradient_iterations": "[]", "engine": "eager", "machine.steps_per_graph": "4",
    "machine.activation_checkpointing": "true", "devices": "2", "machine.timeout_seconds": "60",
    "machine.loader": "threads", "machine.workers": "3",
}


def fp32(*overrides: str) -> RunConfig:
    """ResNet-20 with overrides, its precision resolved unless they name another."""
    config = compose([RESNET20, *overrides])
    return with_precision(config, Precision.fp32) if config.machine.precision is Precision.auto else config


@pytest.fixture(scope="module")
def resnet20() -> RunConfig:
    return fp32("machine.device=cpu", "results=null")


@pytest.fixture(scope="module")
def changed(resnet20):
    """`changed("key=value")`: ResNet-20 in fp32 with one value changed; like compose, without its 0.1 s."""
    node = OmegaConf.structured(resnet20)
    node.model.depth = None

    def change(override: str) -> RunConfig:
        return configuration.to_run_config(OmegaConf.merge(node, OmegaConf.from_dotlist([override])))
    return change


# ---- the experiments

def test_the_golden_table_has_every_experiment_in_natural_order():
    assert experiments() == [row[0] for row in (*EXPERIMENTS, *IMAGENET_EXPERIMENTS)]


@pytest.mark.parametrize(("name", "family", "n", "layers", "warmup", "row"), EXPERIMENTS, ids=lambda value: str(value))
def test_an_experiment_follows_the_recipe(name, family, n, layers, warmup, row):
    found = flat(to_dict(paper_config(name)))
    own = {"name": name, "model.family": family, "model.blocks_per_stage": n, "model.depth": layers,
           "train.warmup": warmup, "reproduces": [row]}
    assert {key: found[key] for key in own} == own
    assert {key: found[key] for key in RECIPE} == RECIPE
    assert (found["seed"], found["max_seconds"], found["resume"], found["results"], found["data.root"]) == (
        0, None, "auto", None, None)
    assert (found["machine.device"], found["machine.precision"]) == ("auto", "auto")


@pytest.mark.parametrize(("name", "family", "layers", "option", "rows"), IMAGENET_EXPERIMENTS,
                         ids=lambda value: str(value))
def test_an_imagenet_experiment_follows_the_recipe(name, family, layers, option, rows):
    found = flat(to_dict(paper_config(name)))
    own = {"name": name, "model.family": family, "model.depth": layers, "model.blocks_per_stage": None,
           "model.shortcut_option": option, "reproduces": rows}
    assert {key: found[key] for key in own} == own
    assert {key: found[key] for key in IMAGENET_RECIPE} == IMAGENET_RECIPE


@pytest.mark.parametrize(("rows", "varied"), [
    (EXPERIMENTS, {"model.family", "model.blocks_per_stage", "train.warmup"}),
    (IMAGENET_EXPERIMENTS, {"model.family", "model.depth", "model.shortcut_option"})], ids=["cifar", "imagenet"])
def test_experiments_differ_only_in_what_the_paper_varies(rows, varied):
    common = [{k: v for k, v in hashed_settings(to_dict(paper_config(row[0]))).items() if k not in varied}
              for row in rows]
    assert all(other == common[0] for other in common)


def test_the_values_stand_in_conf_and_not_in_the_schema():
    """What a paper fixes has no default in code: without its file a key is missing."""
    defaults = OmegaConf.structured(RunConfig)
    assert {key for key in RECIPE if key != "scale"} <= OmegaConf.missing_keys(defaults)


def test_machine_files_have_the_same_keys_and_differ_in_device_and_precision():
    cpu, gpu, auto = (to_dict(compose([RESNET20, f"machine={name}"])) for name in ("cpu", "gpu", "auto"))
    assert (gpu["machine"]["precision"], auto["machine"]["precision"]) == ("auto", "auto")
    assert cpu["machine"] | {"precision": "auto"} == gpu["machine"] | {"device": "cpu"} == auto["machine"]


def test_machine_gpu_asks_for_cuda(monkeypatch):
    monkeypatch.delenv("REPRO_DEVICE")
    assert compose([RESNET20, "machine=gpu"]).machine.device is Device.cuda
    assert compose([RESNET20, "machine=cpu"]).machine.device is Device.cpu


# ---- what is wrong is named

@pytest.mark.fault(1)
@pytest.mark.parametrize(("override", "key", "meant"), [
    ("train.lrr=1", "train.lrr", "train.lr"), ("trian.lr=1", "trian.lr", "train.lr"), ("sede=1", "sede", "seed"),
    ("model.shortcutt_option=B", "model.shortcutt_option", "model.shortcut_option"),
    ("+train.nesterov=true", "train.nesterov", ""), ("lr=1", "lr", "train.lr"),
    ("exprmnt=cifar_resnet20", "exprmnt", "experiment"),
])
def test_a_misspelt_key_is_named_with_the_nearest(override, key, meant):
    with pytest.raises(ConfigError) as caught:
        compose([RESNET20, override])
    assert f"unknown key {key!r}" in str(caught.value)
    assert caught.value.exit_code == 2
    if meant:
        assert f"did you mean {meant}?" in str(caught.value)


@pytest.mark.fault(2, 5)
@pytest.mark.parametrize(("overrides", "words"), [
    (["experiment=cifar_resnet21"], ["no experiment 'cifar_resnet21'", "did you mean cifar_resnet", "cifar_plain110"]),
    ([], ["experiment", "cifar_resnet20"]),
    ([RESNET20, "cifar_plain20"], ["'cifar_plain20' is not key=value", "experiment=cifar_plain20"]),
    ([RESNET20, "seed"], ["'seed' is not key=value"]),
    ([RESNET20, "train.lr="], ["train.lr"]),
    ([RESNET20, "model=plian"], ["model/plian", "plain", "residual"]),
    ([RESNET20, "machine=gpuu"], ["machine/gpuu"]),
    ([RESNET20, "~train.lr"], ["train.lr"]),
    ([RESNET20, "train.lr=???"], ["no value for train.lr"]),
    ([RESNET20, "train.lr=${train.lrr}"], ["train.lrr"]),
    ([RESNET20, "train.lr=[1"], ["[1"]),
    ([RESNET20, "train.lr=0.1,0.2"], ["train.lr=0.1,0.2"]),
    ([RESNET20, "model.depth=20", "model.blocks_per_stage=3"], ["model.depth", "model.blocks_per_stage"]),
])
def test_a_wrong_command_line_is_named(overrides, words):
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.fault(3)
@pytest.mark.parametrize("override", [
    "train.lr=abc", "train.lr=[1]", "seed=1.5", "train.lr_drops=3", "train.lr_drops=[a]", "data.flip=perhaps",
    "model.shortcut_option=D", "machine.device=gpu", "data.split=50k", "train=5",
])
def test_a_wrong_type_is_named(override):
    key, _, value = override.partition("=")
    with pytest.raises(ConfigError) as caught:
        compose([RESNET20, override])
    assert key in str(caught.value)
    assert value.strip("[]") in str(caught.value)


@pytest.mark.fault(3, 46)
@pytest.mark.parametrize("override", [
    "seed=-1", f"seed={2**32}", "scale=0", "scale=-0.1", "scale=1.01", "scale=nan", "max_seconds=0", "max_seconds=nan",
    "model.depth=21", "model.depth=2", "model.depth=-4", "model.depth=0", "model.blocks_per_stage=0",
    "model.num_classes=9", "model.batch_norm_eps=0", "model.batch_norm_momentum=0", "model.batch_norm_momentum=1.1",
    "data.name=mnist", "data.padding=-1", "data.padding=17", "train.mini_batch_size=0", "train.mini_batch_size=45001",
    "train.iterations=0", "train.iterations=10000001", "train.lr=0", "train.lr=-0.1", "train.lr=nan", "train.lr=inf",
    "train.lr=-inf", "train.lr_factor=0", "train.lr_factor=1.5", "train.lr_factor=nan", "train.lr_drops=[5,5]",
    "train.lr_drops=[9,5]", "train.lr_drops=[0,5]", "train.warmup_lr=0", "train.warmup_lr=inf", "train.warmup_error=0",
    "train.warmup_error=101", "train.warmup_window=0", "train.warmup_max=0", "train.momentum=1", "train.momentum=-0.1",
    "train.momentum=nan", "train.weight_decay=-1", "train.weight_decay=inf", "train.weight_decay=nan",
    "train.batch_norm_group=1", "train.batch_norm_group=0", "train.batch_norm_group=48", "train.batch_norm_group=256",
    "train.loss_scale=0", "train.loss_scale=inf", "evaluation.interval=0", "machine.threads=0",
    "machine.evaluation_batch_size=0", "machine.checkpoint_seconds=-1", "machine.checkpoint_seconds=nan",
    "machine.precision=tf32", "name=../elsewhere", "name=a/b", "name=.hidden", "name=two@one",
])
def test_a_value_out_of_range_is_named_with_what_is_allowed(override, changed):
    key, _, value = override.partition("=")
    with pytest.raises(ConfigError) as caught:
        changed(override)
    text = str(caught.value)
    assert text.startswith(f"{key}=")
    assert value.replace(",", ", ") in text
    assert any(word in text for word in ("allowed is", "must be", "needs"))


@pytest.mark.fault(3, 46)
@pytest.mark.parametrize("override", ["seed=-1", "train.lr=nan", "train.mini_batch_size=0", "model.depth=21"])
def test_compose_checks_the_ranges(override):
    with pytest.raises(ConfigError, match=override):
        compose([RESNET20, override])


@pytest.mark.parametrize("override", ["seed=4294967295", "scale=1e-9", "model.depth=8", "train.mini_batch_size=45000",
                                      "train.lr_drops=[]", "data.padding=0", "train.weight_decay=0", "train.momentum=0",
                                      "max_seconds=0.5", "data.split='45k'", "model.depth=1202"])
def test_the_edges_of_the_ranges_are_allowed(override):
    group = "train.batch_norm_group=45000" if "45000" in override else "train.batch_norm_group=64"
    key, _, value = override.partition("=")
    found = flat(to_dict(compose([RESNET20, group, override])))[key]
    assert str(found) == value.strip("'") or found == float(value)


# ---- a user's own files

OWN = """\
# @package _global_
defaults:
  - override /model: residual
name: mine
model: {blocks_per_stage: 4}
train:
  lr: 0.05
"""


@pytest.fixture
def own(tmp_path):
    """`own(text)` composes a user's experiment file of this text, as `--config-dir` does."""
    def compose_own(text: str, *overrides: str) -> RunConfig:
        folder = tmp_path / "own files, (mine)" / "experiment"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mine.yaml").write_text(text)
        return compose(with_config_dir(["--config-dir", str(folder.parent), "experiment=mine", *overrides]))
    return compose_own


def test_an_experiment_in_a_users_folder_composes_and_is_no_paper_run(own):
    config = with_precision(own(OWN, "seed=3"), Precision.fp32)
    assert (config.name, config.model.depth, config.train.lr, config.seed) == ("mine", 26, 0.05, 3)
    assert config.train.iterations == 64000
    assert config_hash(config) not in paper_hashes("mine")
    assert deviations(config)


@pytest.mark.fault(4, 5)
@pytest.mark.parametrize(("old", "new", "words"), [
    ("lr: 0.05", "lrr: 0.05", ["experiment/mine", "train.lrr"]),
    ("name: mine", "nam: mine", ["experiment/mine", "nam"]),
    ("train:", "trian:", ["experiment/mine", "trian"]),
    ("name: mine", "name: mine\nname: other", ["mine.yaml", "line 5", "duplicate key name"]),
    ("blocks_per_stage: 4", "blocks_per_stage: 4, blocks_per_stage: 5", ["mine.yaml", "duplicate key"]),
    ("lr: 0.05", "lr: [", ["mine.yaml", "line 8"]),
    ("lr: 0.05", "lr: abc", ["train.lr", "abc"]),
    ("blocks_per_stage: 4", "blocks_per_stage: '???'", ["no value for model.blocks_per_stage"]),
    ("name: mine\n", "", ["no value for name"]),
    ("model: {blocks_per_stage: 4}\n", "", ["no value for model.blocks_per_stage"]),
    ("model: residual", "model: residul", ["model/residul"]),
    ("lr: 0.05", "lr: -1", ["train.lr=-1", "allowed"]),
    ("lr: 0.05", "n: 5", ["experiment/mine"]),  # a bare n is a boolean in YAML 1.1
])
def test_a_mistake_in_a_users_file_is_named(own, old, new, words):
    assert old in OWN
    with pytest.raises(ConfigError) as caught:
        own(OWN.replace(old, new, 1))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_an_unknown_experiment_beside_a_users_folder_lists_both(own):
    own(OWN)
    with pytest.raises(ConfigError) as caught:
        own(OWN, "experiment=zzz")
    assert all(word in str(caught.value) for word in ("zzz", "mine", "cifar_resnet20"))


@pytest.mark.parametrize("arguments", [["--config-dir", "/no/such"], ["--config-dir=/no/such"], ["--config-dir"]])
def test_a_config_dir_that_is_not_there(arguments):
    with pytest.raises(ConfigError, match="no such folder"):
        with_config_dir(arguments)


# ---- environment variables and paths

def test_the_command_line_wins_over_the_environment_and_that_over_conf(monkeypatch, tmp_path):
    monkeypatch.setenv("REPRO_DEVICE", "mps")
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "data of, {mine} 'ü'"))
    monkeypatch.setenv("REPRO_RESULTS", "")
    config = compose([RESNET20])
    assert config.machine.device is Device.mps
    assert config.data.root == str(tmp_path / "data of, {mine} 'ü'")
    assert config.results is None, "an empty variable counts as none"
    config = compose([RESNET20, "machine.device=cpu", "data.root=other", "results=there"])
    assert (config.machine.device, config.data.root, config.results) == (Device.cpu, "other", "there")
    assert compose([RESNET20, "machine=cpu"]).machine.device is Device.mps


def test_a_wrong_device_in_the_environment_is_named(monkeypatch):
    monkeypatch.setenv("REPRO_DEVICE", "tpu")
    with pytest.raises(ConfigError, match="tpu"):
        compose([RESNET20])


def test_the_paper_configuration_knows_no_environment(monkeypatch):
    paper_config.cache_clear()
    monkeypatch.setenv("REPRO_RESULTS", "/elsewhere")
    assert paper_config("cifar_resnet20").results is None
    assert compose([RESNET20]).results == "/elsewhere", "and puts the environment back"


AWKWARD = st.text(st.sampled_from("\\'\"${},()[]=:~#% \tab.ü雪?*!|&;@+-/\n"), max_size=12) | st.text(max_size=20)


def sayable(text: str) -> bool:
    """A path that an argument can hold: no NUL or lone surrogate, and not OmegaConf's mark of a missing value."""
    return text != "???" and "\0" not in text and not any(0xD800 <= ord(c) < 0xE000 for c in text)


@given(AWKWARD)
@example("")
@example("\\\n")
@example("\\${x}")
@example("\\\\${x}\\")
@example("a\\'b\\")
@example("/tmp/a, b/{c}/it's ${HOME}/ü\\")
def test_quoted_round_trips_any_path(text):
    assume(sayable(text))
    value = OverridesParser.create().parse_override(f"data.root={quote(text)}").value()
    assert OmegaConf.create({"root": value}).root == text


@pytest.mark.parametrize("path", ["~/cifar", "/tmp/ü", "/tmp/a,b", "/tmp/a b (c)", "/a=b", "/tmp/#1", "/tmp/it's",
                                  "C:\\data", "/tmp/{x}", "[x]", "null/x", "123", "true"])
def test_a_path_is_typed_as_it_is(path):
    overrides = OverridesParser.create().parse_overrides(quote_paths([f"data.root={path}", f"results={path}"]))
    assert [OmegaConf.create({"value": override.value()}).value for override in overrides] == [path, path]


def test_compose_takes_paths_as_they_are_typed():
    config = compose([RESNET20, "data.root=~/ü, (x)", "results=/tmp/it's"])
    assert (config.data.root, config.results) == ("~/ü, (x)", "/tmp/it's")


@pytest.mark.parametrize(("typed", "meant"), [
    ("'a, b'", "a, b"), ('"a"', "a"), ("null", None), ("${name}", "cifar_resnet20")])
def test_hydras_own_spelling_of_a_path_still_counts(typed, meant):
    assert compose([RESNET20, f"data.root={typed}"]).data.root == meant


# ---- identity

def test_every_key_is_classified():
    sections = {"model", "data", "train", "evaluation", "machine"}
    leaves = set(keys()) - sections
    classified = {*CHANGES_NUMBERS, *IMAGENET_CHANGES_NUMBERS, *IMAGENET_TOGETHER, *PER_CHANNEL, *KEEPS_NUMBERS, "name",
                  "model.depth", "machine.device"}
    assert sorted(classified) == sorted(leaves), "a new key: does it change a run's numbers?"
    assert set(NOT_HASHED) == {*KEEPS_NUMBERS, "name", "model.depth", "machine.device"}


@pytest.mark.parametrize("key", CHANGES_NUMBERS)
def test_a_key_that_changes_the_numbers_changes_the_identity(key, resnet20, changed):
    other = changed(f"{key}={CHANGES_NUMBERS[key]}")
    assert config_hash(other) != config_hash(resnet20)
    assert config_hash(other) not in paper_hashes("cifar_resnet20")
    found = deviations(other)
    assert any(line.startswith(f"{key}: ") for line in found), found
    assert len(found) == 1


@pytest.mark.parametrize("key", IMAGENET_CHANGES_NUMBERS)
def test_a_key_that_changes_the_numbers_on_imagenet_changes_the_identity(key):
    paper = with_precision(paper_config("imagenet_optB"), Precision.fp32)
    other = with_precision(compose(["experiment=imagenet_optB", f"{key}={IMAGENET_CHANGES_NUMBERS[key]}"]),
                           Precision.fp32)
    assert config_hash(other) != config_hash(paper)
    assert [line.split(":")[0] for line in deviations(other)] == [key]


def test_a_wrong_combination_of_network_and_images_is_named():
    for words, key in ((["model=imagenet_residual", "model.depth=34"], "model.blocks_per_stage"),
                       (["data=imagenet"], "model.architecture"),
                       (["data.crop_size=224"], "data.crop_size"), (["data.wiring_test=true"], "data.wiring_test"),
                       (["train.lr_policy=plateau"], "train.lr_policy"), (["model.family=vgg"], "model.family")):
        with pytest.raises(ConfigError, match=key):
            compose([RESNET20, *words])
    for words, key in ((["model.depth=19"], "model.depth"), (["model=imagenet_plain", "model.depth=50"], "model.depth"),
                       (["model.num_classes=999"], "model.num_classes"),
                       (["data.shorter_side=[200,480]"], "data.shorter_side"),
                       (["data.shorter_side=null"], "data.shorter_side"), (["data.crop=padded"], "data.crop"),
                       (["data.crop_size=300"], "data.shorter_side"), (["data.padding=4"], "data.padding"),
                       (["data.test_shorter_side=200"], "data.test_shorter_side"),
                       (["evaluation.responses=true"], "evaluation.responses"), (["data.split='45k'"], "data.split")):
        with pytest.raises(ConfigError, match=re.escape(key)):
            compose(["experiment=imagenet_optB", *words])


def test_normalization_per_channel_changes_the_identity_and_so_does_each_of_its_lists():
    given = [f"{key}={value}" for key, value in PER_CHANNEL.items()]
    other = fp32(*given)
    assert [line.partition(":")[0] for line in deviations(other)] == list(PER_CHANNEL)
    again = [fp32(*given, "data.channel_mean=[0.5,0.4,0.2]"), fp32(*given, "data.channel_std=[0.2,0.25,0.2]")]
    assert len({config_hash(config) for config in (fp32(), other, *again)}) == 4


@pytest.mark.parametrize(("overrides", "key"), [
    (["data.channel_mean=[0.5,0.4,0.3]"], "data.channel_mean"), (["data.channel_std=[1,1,1]"], "data.channel_std"),
    (["data.normalization=per_channel"], "data.channel_mean"),
    (["data.normalization=per_channel", "data.channel_mean=[0.5,0.4,0.3]"], "data.channel_std"),
    (["data.normalization=per_channel", "data.channel_mean=[0.5,0.4]", "data.channel_std=[1,1,1]"],
     "data.channel_mean"),
    (["data.normalization=per_channel", "data.channel_mean=[125,123,114]", "data.channel_std=[1,1,1]"],
     "data.channel_mean"),
    (["data.normalization=per_channel", "data.channel_mean=[0,0,0]", "data.channel_std=[1,0,1]"],
     "data.channel_std"),
    (["train.momentum_form=nesterov", "train.momentum=0"], "train.momentum"),
])
def test_keys_that_do_not_go_together_are_named(overrides, key):
    with pytest.raises(ConfigError, match=f"^{key}=.*allowed is"):
        compose([RESNET20, *overrides])


@pytest.mark.parametrize("key", KEEPS_NUMBERS)
def test_a_key_that_changes_no_number_keeps_the_identity(key, resnet20, changed):
    other = changed(f"{key}={KEEPS_NUMBERS[key]}")
    assert flat(to_dict(other))[key] != flat(to_dict(resnet20))[key]
    assert config_hash(other) == config_hash(resnet20)
    assert deviations(other) == []


def test_the_device_is_no_part_of_the_identity(resnet20):
    ids = {config_hash(replace(resnet20, machine=replace(resnet20.machine, device=device))) for device in Device}
    assert ids == {config_hash(resnet20)}


def test_depth_and_n_are_two_spellings_of_one_run():
    by_depth, by_n = fp32("model.depth=38"), fp32("model.blocks_per_stage=6")
    assert to_dict(by_depth) == to_dict(by_n)
    assert config_hash(by_depth) == config_hash(by_n)
    assert config_hash(fp32("model.depth=20")) == config_hash(fp32())


def test_a_plain_nets_shortcut_option_is_no_difference():
    plain = compose(["experiment=cifar_plain20"])
    assert to_dict(compose(["experiment=cifar_plain20", "model.shortcut_option=C"])) == to_dict(plain)


def test_identity_needs_the_precision_resolved():
    with pytest.raises(ConfigError, match="precision=auto"):
        config_hash(compose([RESNET20]))


@pytest.mark.parametrize("name", [row[0] for row in EXPERIMENTS])
def test_a_paper_identity_is_fp32_or_tf32(name):
    config = replace(paper_config(name), seed=4)
    ids = {precision: config_hash(with_precision(config, precision)) for precision in Precision
           if precision is not Precision.auto}
    assert paper_hashes(name) == {ids[Precision.fp32], ids[Precision.tf32]}
    assert len(set(ids.values())) == 4
    assert deviations(with_precision(config, Precision.tf32)) == []
    assert deviations(with_precision(config, Precision.bf16)) == ["machine.precision: auto -> bf16"]


def test_no_two_experiments_share_an_identity():
    assert len(frozenset.union(*(paper_hashes(name) for name in experiments()))) == 2 * len(experiments())


@pytest.mark.fault(43)
def test_an_identity_is_twelve_digits_and_the_same_in_every_process(resnet20):
    """Hash randomization, locale and time zone have no part in it."""
    code = ("from repro.config import *\nfrom repro.schema import Precision\n"
            "print(identity(with_precision(compose(['experiment=cifar_resnet20']), Precision.fp32)))")
    found = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                            env={"PYTHONHASHSEED": seed, "LC_ALL": "C", "TZ": "Asia/Tokyo"}).stdout.strip()
             for seed in ("1", "2")}
    assert found == {config_hash(resnet20)}
    assert len(config_hash(resnet20)) == 12
    int(config_hash(resnet20), 16)


def test_deviations_say_paper_and_own_value():
    assert deviations(fp32("train.lr=0.05", "data.split=45k", "seed=9")) == [
        "data.split: full -> 45k", "train.lr: 0.1 -> 0.05"]


def test_composing_and_identity_need_no_torch():
    code = ("import sys\nfrom repro.config import compose, deviations, paper_identities\n"
            "deviations(compose(['experiment=cifar_resnet20', 'machine.precision=bf16']))\n"
            "paper_identities('cifar_plain20')\nassert 'torch' not in sys.modules, 'torch was imported'\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_conf_folder_is_the_tests_own():
    """These tests are of this tree and not of an installed copy."""
    assert configuration.conf_dir() == Path(__file__).resolve().parents[1] / "conf"
