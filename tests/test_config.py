"""Configurations: every experiment against the paper's recipe, errors that name the key, and what makes up identity."""

import re
import subprocess
import sys
from dataclasses import replace
from enum import Enum
from functools import reduce
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from repro import config as configuration
from repro.config import (
    compose,
    config_hash,
    deviations,
    paper_config,
    paper_hashes,
    scale_lengths,
    settings,
    with_precision,
)
from repro.errors import ConfigError
from repro.paths import data_dir
from repro.schema import FIELDS, Device, Precision, RunConfig, allowed_values

RESNET20 = "experiment=cifar_resnet20"
CIFAR = {20: 3, 32: 5, 44: 7, 56: 9, 110: 18, 1202: 200}  # layers: n (Sec. 4.2)
# Name: family, layers, option, rows (Sec. 4.1, Tables 2 to 4).
IMAGENET = {
    "imagenet_optA": ("residual", 34, "A", ["table2/resnet-34", "table3/resnet-34-a"]),
    "imagenet_optB": ("residual", 34, "B", ["table3/resnet-34-b", "table4/resnet-34-b"]),
    "imagenet_optC": ("residual", 34, "C", ["table3/resnet-34-c", "table4/resnet-34-c"]),
    "imagenet_plain18": ("plain", 18, "A", ["table2/plain-18"]),
    "imagenet_plain34": ("plain", 34, "A", ["table2/plain-34", "table3/plain-34"]),
    "imagenet_resnet18": ("residual", 18, "A", ["table2/resnet-18"]),
    "imagenet_resnet50": ("residual", 50, "B", ["table3/resnet-50", "table4/resnet-50"]),
    "imagenet_resnet101": ("residual", 101, "B", ["table3/resnet-101", "table4/resnet-101"]),
    "imagenet_resnet152": ("residual", 152, "B", ["table3/resnet-152", "table4/resnet-152"]),
}
# All that changes numbers and that the paper and its authors fix, or that we chose where they are silent (Sec. 4.2).
CIFAR_RECIPE = {
    "scale": 1.0, "machine.precision": "auto", "evaluation.interval": 390,
    "model.architecture": "cifar", "model.shortcut_option": "A", "model.zero_padding": "appended",
    "model.stride_in": "first_1x1", "model.conv_init": "fan_out", "model.fc_init": "uniform_zero_bias",
    "model.batch_norm_eps": 1e-5, "model.batch_norm_momentum": 0.1, "model.num_classes": 10,
    "data.name": "cifar10", "data.split": "full", "data.normalization": "per_pixel_mean", "data.channel_mean": None,
    "data.channel_std": None, "data.crop": "padded", "data.padding": 4, "data.padding_value": "mean",
    "data.crop_size": None, "data.shorter_side": None, "data.test_shorter_side": None, "data.flip": True,
    "data.color_noise_std": 0.0, "data.wiring_test": False,
    "train.mini_batch_size": 128, "train.iterations": 64000, "train.lr": 0.1, "train.lr_factor": 0.1,
    "train.lr_policy": "drops", "train.lr_drops": [32000, 48000], "train.plateau_patience": 5,
    "train.plateau_threshold": 0.1, "train.plateau_drops": 2, "train.warmup": "none", "train.warmup_lr": 0.01,
    "train.warmup_error": 80.0, "train.warmup_window": 100, "train.warmup_max": 2000, "train.momentum": 0.9,
    "train.momentum_form": "caffe", "train.weight_decay": 1e-4, "train.weight_decay_on": "all",
    "train.batch_norm_group": 128, "train.loss_scale": 128.0,
}
# What is another there (Sec. 3.4, 4.1).
IMAGENET_RECIPE = CIFAR_RECIPE | {
    "evaluation.interval": 5000, "model.architecture": "imagenet", "model.num_classes": 1000,
    "data.name": "imagenet", "data.crop": "shorter_side", "data.shorter_side": [256, 480], "data.crop_size": 224,
    "data.test_shorter_side": 256, "data.color_noise_std": 0.1, "data.padding": 0,
    "train.mini_batch_size": 256, "train.iterations": 600_000, "train.lr_drops": [150_000, 300_000],
    "train.batch_norm_group": 256,
}
NUMBERS = [key for key in FIELDS if re.search("int|float", str(FIELDS[key].type))]


def changed(*overrides: str, experiment: str = "cifar_resnet20") -> RunConfig:
    """An experiment with values changed and checked; like compose, without Hydra's 0.1 s."""
    depth = ["model.depth=null"] if experiment.startswith("cifar") else []
    node = OmegaConf.structured(paper_config(experiment))
    return configuration.to_run_config(OmegaConf.merge(node, OmegaConf.from_dotlist([*depth, *overrides])))


def with_value(config: RunConfig, key: str, value: Any) -> RunConfig:
    section, _, name = key.rpartition(".")
    return (replace(config, **{section: replace(getattr(config, section), **{name: value})}) if section else
            replace(config, **{name: value}))


def holds(key: str, value: Any) -> bool:
    """Whether a key may have this value (in a list if it is one); a refusal must name both and what is allowed."""
    base = with_value(with_precision(paper_config("cifar_resnet20"), Precision.fp32), "model.depth", None)
    try:
        configuration.checked(with_value(base, key, [value] if "list" in str(FIELDS[key].type) else value))
    except ConfigError as error:
        return not re.match(rf"{key}=\S+: allowed is ", str(error))
    return True


def another(kind: Any, old: Any) -> Any:
    member = get_args(kind)[0] if type(None) in get_args(kind) else kind
    if get_origin(member) is list:
        return [7, 8]
    if issubclass(member, Enum):
        return next(value for value in reversed(member) if value is not old)
    return {bool: not old, str: "other"}.get(member, 2 * old + 1 if isinstance(old, int | float) else 1)


def fp32(*overrides: str) -> RunConfig:
    return with_precision(compose([RESNET20, *overrides]), Precision.fp32)


# ---- the experiments

def test_experiments_follow_the_recipe_and_differ_only_in_what_the_paper_varies():
    cifar = {f"cifar_{family}{layers}": (layers, n, f"{table}-{layers}") for family, table in (
        ("plain", "plain_nets/plain"), ("resnet", "table6/resnet")) for layers, n in CIFAR.items()}
    del cifar["cifar_plain1202"]
    assert configuration.experiments() == [*cifar, *IMAGENET], "in natural order"
    for name, (layers, n, row) in cifar.items():
        config = paper_config(name)
        assert settings(config) == CIFAR_RECIPE | {
            "model.family": "plain" if "plain" in name else "residual", "model.blocks_per_stage": n,
            "train.warmup": "error80" if n >= 18 else "none"}
        assert (config.name, config.model.depth, config.reproduces) == (name, layers, [row])
    for name, (family, layers, option, rows) in IMAGENET.items():
        config = paper_config(name)
        assert settings(config) == IMAGENET_RECIPE | {
            "model.family": family, "model.depth": layers, "model.blocks_per_stage": None,
            "model.shortcut_option": option}
        assert (config.name, config.reproduces) == (name, rows)


def test_the_values_stand_in_conf_and_not_in_the_schema():
    missing = OmegaConf.missing_keys(OmegaConf.structured(RunConfig))
    assert {key for key in FIELDS if key.startswith(("model.", "data.", "train.", "evaluation."))} - missing == {
        "model.depth", "data.root"}


# ---- what is wrong is named

@pytest.mark.fault(1)
def test_a_misspelled_key_is_named_with_the_nearest():
    for wrong, meant in (("trian.lr=1", "train.lr"), ("sede=1", "seed"), ("exprmnt=cifar_resnet20", "experiment")):
        with pytest.raises(ConfigError, match=f"unknown key '{wrong.partition('=')[0]}'; did you mean {meant}"):
            compose([RESNET20, wrong])


@pytest.mark.fault(2, 5)
@pytest.mark.parametrize(("overrides", "words"), [
    (["experiment=cifar_resnet21"], ["no experiment 'cifar_resnet21'", "did you mean cifar_resnet", "cifar_plain110"]),
    ([RESNET20, "seed"], ["'seed' is not key=value"]),
    ([RESNET20, "model=plian"], ["no model 'plian'; did you mean plain?", "residual"]),
    ([RESNET20, "train.lr=abc"], ["train.lr=abc: allowed is float"]),
    ([RESNET20, "~train.lr"], ["~train.lr: a run needs train.lr"]),
    ([RESNET20, "description='two\nlines'"], ["description=", "allowed is one line"]),
    ([RESNET20, "+train.nesterov=true"], ["unknown key 'train.nesterov'"]),
    ([RESNET20, "train.lr=[1"], ["[1"]),
    ([RESNET20, "model.depth=20", "model.blocks_per_stage=3"], ["model.depth", "model.blocks_per_stage"]),
])
def test_a_wrong_command_line_is_named(overrides, words):
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.fault(3)
def test_a_wrong_type_under_any_key_is_named_with_what_is_allowed():
    node = OmegaConf.structured(RunConfig)
    for key, field in FIELDS.items():
        wrong: Any = [1] if "str" in str(field.type) else ["zzz"] if "list" in str(field.type) else "zzz"
        if key != "reproduces":  # a list of texts takes anything
            said = rf"{key}: allowed is {re.escape(str(allowed_values(key)))}$"
            with pytest.raises(ConfigError, match=said), configuration.one_line_errors():
                OmegaConf.update(node, key, wrong)


@pytest.mark.fault(3, 46)
def test_numbers_have_a_range_that_ends_where_it_should():
    for key in NUMBERS:
        wrong = [-2, *([float("nan"), float("inf")] if "float" in str(FIELDS[key].type) else [])]
        assert [value for value in wrong if holds(key, value)] == [], key
    assert {key for key in NUMBERS if holds(key, 0)} == {
        "seed", "data.padding", "data.color_noise_std", "train.plateau_threshold", "train.momentum",
        "train.weight_decay", "evaluation.batch_norm_images", "machine.checkpoint_seconds"}, "where it means something"
    for key, last, beyond in ENDS:
        assert holds(key, last), key
        assert not holds(key, beyond), key


ENDS = [
    ("seed", 2**32 - 1, 2**32), ("scale", 1, 1.01), ("scale", 1e-9, 0), ("devices", 4096, 4097), ("devices", -1, 0),
    ("model.depth", 8, 2), ("model.depth", 6002, 21), ("model.blocks_per_stage", 1000, 1001),
    ("model.batch_norm_momentum", 1, 1.1), ("model.num_classes", 10, 9), ("data.padding", 16, 17),
    ("train.iterations", 10**7, 10**7 + 1), ("train.mini_batch_size", 44_928, 45_056), ("train.lr_factor", 1, 1.5),
    ("train.plateau_drops", 20, 21), ("train.warmup_error", 100, 101), ("train.momentum", 0.99, 1),
    ("train.batch_norm_group", 2, 1), ("train.batch_norm_group", 64, 48), ("machine.timeout_seconds", 86400, 86401)]


@pytest.mark.parametrize(("experiment", "cases"), [
    ("cifar_resnet20", [
        "name=../elsewhere", "name=.hidden", "data.name=mnist", "data.crop=shorter_side",
        "data.crop_size=224", "data.shorter_side=[256,480]", "data.test_shorter_side=256", "data.color_noise_std=0.1",
        "data.wiring_test=true", "data.channel_mean=[0.5,0.4,0.3]",
        "train.lr_policy=plateau", "train.lr_drops=[5,5]", "train.lr_drops=[9,5]",
        "train.momentum=0 train.momentum_form=nesterov", "data.channel_mean=null data.normalization=per_channel",
        "data.channel_mean=[0.5,0.4] data.normalization=per_channel", "data.channel_mean=[125,123,114]",
        "data.channel_std=[1,0,1] data.normalization=per_channel data.channel_mean=[0.5,0.4,0.3]",
        "model.architecture=imagenet model.blocks_per_stage=null", "model.blocks_per_stage=null"]),
    ("imagenet_optB", [
        "model.architecture=cifar model.blocks_per_stage=3 model.depth=20", "model.blocks_per_stage=3",
        "model.depth=19", "model.num_classes=999", "data.crop=padded", "data.padding=4", "data.crop_size=31",
        "data.crop_size=null", "data.shorter_side=[200,480]", "data.shorter_side=[256,5000]", "data.shorter_side=null",
        "data.shorter_side=[256,480] data.crop_size=300", "data.test_shorter_side=200", "data.test_shorter_side=null",
        "data.color_noise_std=11", "data.split=45k", "evaluation.responses=true"]),
    ("imagenet_plain34", ["model.depth=50"])])
def test_values_that_do_not_go_together_are_named(experiment, cases):
    for case in cases:
        first, *others = case.split()
        with pytest.raises(ConfigError, match=f"^{first.partition('=')[0]}=.*: allowed is "):
            changed(*others, first, experiment=experiment)


def test_lengths_are_shortened_in_exact_arithmetic():
    assert [scale_lengths(48_000, scale) for scale in (0.07, 0.01, 1.0, 1e-9)] == [3360, 480, 48_000, 1]
    assert 48_000 * 0.07 > 3360, "floats would be rounded up"


# ---- environment variables and paths

def test_the_command_line_wins_over_the_environment_and_that_over_conf(monkeypatch, tmp_path):
    monkeypatch.setenv("REPRO_DEVICE", "mps")
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "data of, {mine} 'ü'"))
    monkeypatch.setenv("REPRO_RESULTS", "")
    config = compose([RESNET20])
    assert config.machine.device is Device.mps
    assert config.data.root == str(tmp_path / "data of, {mine} 'ü'")
    assert config.results is None, "an empty variable counts as none"
    paper_config.cache_clear()
    assert paper_config("cifar_resnet20").data.root is None, "the paper's configuration knows no environment"
    config = compose([RESNET20, "machine.device=cpu", "data.root=other", "results=there"])
    assert (config.machine.device, config.data.root, config.results) == (Device.cpu, "other", "there")
    assert data_dir(config.data.root) == Path("other").absolute(), "$REPRO_DATA is another"
    assert compose([RESNET20, "machine=cpu"]).machine.device is Device.mps


AWKWARD = st.text(st.sampled_from("\\'\"${},()[]=:~#% \tab.ü雪?*!|&;@+-/\n"), max_size=12) | st.text(max_size=20)


@given(AWKWARD)
@example("\\\\${x}\\")
@example("/tmp/a, b/{c}/it's ${HOME}/ü\\")
def test_quoted_round_trips_any_path(text):
    # No NUL or lone surrogate, which no argument holds, and not OmegaConf's mark of a missing value.
    assume(text != "???" and "\0" not in text and not any(0xD800 <= ord(c) < 0xE000 for c in text))
    value = OverridesParser.create().parse_override(f"data.root={configuration.quote(text)}").value()
    assert OmegaConf.create({"root": value}).root == text


def test_a_path_is_typed_as_it_is():
    for path in ("~/cifar", "/tmp/ü", "/tmp/a,b", "/tmp/a b (c)", "/a=b", "/tmp/#1", "/tmp/it's", "C:\\data",
                 "/tmp/{x}", "[x]", "null/x", "123", "true"):
        words = configuration.quote_paths([f"data.root={path}", f"results={path}"])
        overrides = OverridesParser.create().parse_overrides(words)
        assert [OmegaConf.create({"value": override.value()}).value for override in overrides] == [path, path]
    for typed, meant in (("'a, b'", "a, b"), ("null", None), ("${name}", "cifar_resnet20")):  # Hydra's own spelling
        assert compose([RESNET20, f"data.root={typed}"]).data.root == meant


def test_settings_written_as_overrides_compose_to_themselves():
    wanted = settings(paper_config("imagenet_optB"))
    words = [configuration.override(key, value) for key, value in wanted.items() if key != "model.blocks_per_stage"]
    assert settings(compose(["experiment=imagenet_plain34", *words])) == wanted


# ---- identity

@pytest.mark.parametrize("experiment", ["cifar_resnet20", "imagenet_optB"])
def test_network_data_and_training_are_the_identity_and_where_a_run_happens_is_not(experiment):
    paper = with_precision(paper_config(experiment), Precision.fp32)
    for key, field in FIELDS.items():
        counts = key in ("scale", "evaluation.interval", "machine.precision") or (
            key.startswith(("model.", "data.", "train.")) and key != "data.root"
            and (key, experiment) != ("model.depth", "cifar_resnet20"))
        other = with_value(paper, key, another(field.type, reduce(getattr, key.split("."), paper)))
        assert other != paper
        assert (config_hash(other) != config_hash(paper)) is counts, key
        assert (config_hash(other) in paper_hashes(experiment)) is not counts, key
        if key not in ("name", "model.architecture"):  # which say that all is other
            assert [line.partition(":")[0] for line in deviations(other)] == [key] * counts


def test_two_spellings_of_one_run():
    assert fp32("model.depth=38") == fp32("model.blocks_per_stage=6")
    assert fp32("model.depth=20") == fp32()
    plain = "experiment=cifar_plain20"
    assert compose([plain, "model.shortcut_option=C"]) == compose([plain]), "without shortcuts it makes no difference"
    assert deviations(fp32("train.lr=0.05", "data.split=45k", "seed=9")) == [
        "data.split: full -> 45k", "train.lr: 0.1 -> 0.05"]


def test_a_paper_identity_is_fp32_or_tf32():
    with pytest.raises(ConfigError, match="precision=auto: resolve it"):
        config_hash(compose([RESNET20]))
    config = replace(paper_config("cifar_resnet20"), seed=4)
    ids = [config_hash(with_precision(config, Precision[name])) for name in ("fp32", "tf32", "bf16", "fp16")]
    assert paper_hashes("cifar_resnet20") == set(ids[:2])
    assert len(set(ids)) == 4
    assert deviations(with_precision(config, Precision.tf32)) == []
    assert deviations(with_precision(config, Precision.bf16)) == ["machine.precision: auto -> bf16"]


@pytest.mark.fault(43)
def test_an_identity_is_the_same_in_every_locale_and_needs_no_torch():
    code = ("import sys\nfrom repro.config import *\nfrom repro.schema import Precision\n"
            "print(config_hash(with_precision(compose(['experiment=cifar_resnet20']), Precision.fp32)))\n"
            "assert 'torch' not in sys.modules, 'torch was imported'")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           env={"PYTHONHASHSEED": "1", "LC_ALL": "C", "TZ": "Asia/Tokyo"}).stdout.strip()
    assert found == config_hash(fp32())
    assert re.fullmatch("[0-9a-f]{12}", found)
