"""What values a configuration may have, key by key, each with what is allowed. Never imports torch."""

import re
from typing import Any

from repro.errors import ConfigError
from repro.schema import (
    Architecture,
    Crop,
    DataConfig,
    Device,
    Family,
    LrPolicy,
    MomentumForm,
    Normalization,
    Precision,
    RunConfig,
    Split,
)

SYNTHETIC = "synthetic"  # data.name of the made images: no run of them is ever evidence about CIFAR-10
CIFAR10, IMAGENET = "cifar10", "imagenet"
DATA_SETS = (CIFAR10, SYNTHETIC, IMAGENET)
CLASSES = 1000  # of ImageNet, Sec. 4.1
TRAINING_IMAGES, VALIDATION_IMAGES = 1_281_167, 50_000  # of ILSVRC 2012; Sec. 4.1: 1.28 million and 50k
DEPTHS = {Family.plain: (18, 34), Family.residual: (18, 34, 50, 101, 152), Family.vgg: (16, 19)}  # Table 1, Sec. 3.3
Rule = tuple[str, Any, Any, str]  # key, value, whether it is good, what is allowed


def check_ranges(config: RunConfig) -> None:
    """Raise ConfigError naming the first field whose value is outside its range."""
    model, data, train, machine = config.model, config.data, config.train, config.machine
    rules: list[Rule] = [
        ("name", config.name, re.fullmatch(r"\w[\w.-]*", config.name), "letters, digits, _ - . (it names a folder)"),
        ("seed", config.seed, 0 <= config.seed < 2**32, "0 to 4294967295"),
        ("scale", config.scale, 0 < config.scale <= 1, "above 0, at most 1"),
        ("max_seconds", config.max_seconds, config.max_seconds is None or config.max_seconds > 0, "above 0"),
        ("devices", config.devices, config.devices is None or config.devices == -1 or 1 <= config.devices <= 4096,
         "1 to 4096, -1 or null"),
        *(imagenet_rules(config) if data.name == IMAGENET else cifar_rules(config)),
        ("model.batch_norm_eps", model.batch_norm_eps, model.batch_norm_eps > 0, "above 0"),
        ("model.batch_norm_momentum", model.batch_norm_momentum, 0 < model.batch_norm_momentum <= 1, "above 0, to 1"),
        ("data.name", data.name, data.name in DATA_SETS, " or ".join(DATA_SETS)),
        ("data.split", data.split.name, data.name == CIFAR10 or data.split is Split.full, "full without data=cifar10"),
        *channel_rules(data),
        ("train.mini_batch_size", train.mini_batch_size, 1 <= train.mini_batch_size <= 45000, "1 to 45000"),
        ("train.iterations", train.iterations, 1 <= train.iterations <= 10**7, "1 to 10000000"),
        ("train.lr", train.lr, 0 < train.lr < float("inf"), "above 0"),
        ("train.lr_factor", train.lr_factor, 0 < train.lr_factor <= 1, "above 0, at most 1"),
        ("train.lr_drops", train.lr_drops, train.lr_drops == sorted(set(train.lr_drops)) and
         all(drop > 0 for drop in train.lr_drops), "rising positive iterations"),
        ("train.plateau_patience", train.plateau_patience, train.plateau_patience >= 1, "at least 1"),
        ("train.plateau_threshold", train.plateau_threshold, 0 <= train.plateau_threshold <= 100, "0 to 100 points"),
        ("train.plateau_drops", train.plateau_drops, 1 <= train.plateau_drops <= 20, "1 to 20"),
        ("train.warmup_lr", train.warmup_lr, 0 < train.warmup_lr < float("inf"), "above 0"),
        ("train.warmup_error", train.warmup_error, 0 < train.warmup_error <= 100, "above 0 to 100 percent"),
        ("train.warmup_window", train.warmup_window, train.warmup_window >= 1, "at least 1"),
        ("train.warmup_max", train.warmup_max, train.warmup_max >= 1, "at least 1"),
        ("train.momentum", train.momentum, 0 <= train.momentum < 1, "0 to below 1"),
        ("train.momentum", train.momentum, train.momentum > 0 or train.momentum_form is not MomentumForm.nesterov,
         "above 0 with train.momentum_form=nesterov"),
        ("train.weight_decay", train.weight_decay, 0 <= train.weight_decay < float("inf"), "at least 0"),
        ("train.batch_norm_group", train.batch_norm_group, train.batch_norm_group >= 2 and
         train.mini_batch_size % train.batch_norm_group == 0, f"at least 2, a divisor of {train.mini_batch_size}"),
        ("train.loss_scale", train.loss_scale, 0 < train.loss_scale < float("inf"), "above 0"),
        ("evaluation.interval", config.evaluation.interval, config.evaluation.interval >= 1, "at least 1"),
        ("evaluation.batch_norm_images", config.evaluation.batch_norm_images,
         config.evaluation.batch_norm_images >= 0, "at least 0"),
        ("evaluation.gradient_iterations", config.evaluation.gradient_iterations,
         all(iteration >= 1 for iteration in config.evaluation.gradient_iterations), "iterations from 1"),
        ("machine.threads", machine.threads, machine.threads is None or 1 <= machine.threads <= 1024, "1 to 1024"),
        ("machine.steps_per_graph", machine.steps_per_graph, machine.steps_per_graph is None or
         1 <= machine.steps_per_graph <= 1000, "1 to 1000"),
        ("machine.workers", machine.workers, machine.workers is None or 1 <= machine.workers <= 1024, "1 to 1024"),
        ("machine.timeout_seconds", machine.timeout_seconds, 1 <= machine.timeout_seconds <= 86400, "1 to 86400"),
        ("machine.evaluation_batch_size", machine.evaluation_batch_size, machine.evaluation_batch_size >= 1,
         "at least 1"),
        ("machine.checkpoint_seconds", machine.checkpoint_seconds, machine.checkpoint_seconds >= 0, "at least 0"),
    ]
    for name, value, good, allowed in rules:
        if not good:
            raise ConfigError(f"{name}={value}: allowed is {allowed}")
    if machine.precision is Precision.tf32 and machine.device in (Device.cpu, Device.mps):
        raise ConfigError(f"machine.precision=tf32: needs machine.device=cuda, not {machine.device.value}")


def cifar_rules(config: RunConfig) -> list[Rule]:
    """What holds for the 6n+2-layer networks and their images only."""
    model, data = config.model, config.data
    return [
        ("model.architecture", model.architecture.name, model.architecture is Architecture.cifar,
         f"cifar with data.name={data.name}"),
        ("model.family", model.family.name, model.family is not Family.vgg, "plain or residual"),
        ("model.blocks_per_stage", model.blocks_per_stage, 1 <= (model.blocks_per_stage or 0) <= 1000,
         "1 to 1000, a model.depth of 8 to 6002"),
        ("model.num_classes", model.num_classes, model.num_classes >= 10, "at least the data set's 10 classes"),
        ("data.crop", data.crop.name, data.crop is Crop.padded, f"padded with data.name={data.name}"),
        ("data.padding", data.padding, 0 <= data.padding <= 16, "0 to 16 pixels"),
        *((f"data.{key}", value, value is None, f"null with data.name={data.name}") for key, value in (
            ("crop_size", data.crop_size), ("shorter_side", data.shorter_side),
            ("test_shorter_side", data.test_shorter_side))),
        ("data.color_noise_std", data.color_noise_std, data.color_noise_std == 0, f"0 with data.name={data.name}"),
        ("data.wiring_test", data.wiring_test, not data.wiring_test, f"false with data.name={data.name}"),
        ("train.lr_policy", config.train.lr_policy.name, config.train.lr_policy is LrPolicy.drops or
         data.split is Split["45k"], "drops; plateau needs validation images (data.split=45k)"),
    ]


def imagenet_rules(config: RunConfig) -> list[Rule]:
    """What holds for ImageNet only."""
    model, data, side = config.model, config.data, config.data.shorter_side
    size, tested = data.crop_size or 0, data.test_shorter_side or 0
    depths = DEPTHS[model.family]
    return [
        ("model.architecture", model.architecture.name, model.architecture is Architecture.imagenet,
         "imagenet with data.name=imagenet"),
        ("model.depth", model.depth, model.depth in depths,
         f"{', '.join(map(str, depths))} for model.family={model.family.name}"),
        ("model.num_classes", model.num_classes, model.num_classes == CLASSES or
         (data.wiring_test and model.num_classes >= 2), f"{CLASSES}, but in a wiring test"),
        ("data.crop", data.crop.name, data.crop is Crop.shorter_side, "shorter_side with data.name=imagenet"),
        ("data.padding", data.padding, data.padding == 0, "0 with data.name=imagenet"),
        ("data.crop_size", data.crop_size, 32 <= size <= 1024, "32 to 1024 pixels"),
        ("data.shorter_side", side, side is not None and len(side) == 2 and
         size <= side[0] <= side[1] <= 4096, "[from, to] from data.crop_size to 4096 pixels"),
        ("data.test_shorter_side", data.test_shorter_side, size <= tested <= 4096, "data.crop_size to 4096 pixels"),
        ("data.color_noise_std", data.color_noise_std, 0 <= data.color_noise_std <= 10, "0 to 10"),
        ("evaluation.responses", config.evaluation.responses, not config.evaluation.responses,
         "false: Figure 7 is about CIFAR-10"),
    ]


def channel_rules(data: DataConfig) -> list[Rule]:
    """The ranges of data.channel_mean and data.channel_std, which belong to per_channel and to nothing else."""
    wanted = data.normalization is Normalization.per_channel
    means, stds = data.channel_mean, data.channel_std
    if not wanted:
        only = "null without data.normalization=per_channel"
        return [("data.channel_mean", means, means is None, only), ("data.channel_std", stds, stds is None, only)]
    three = "three numbers of 0 to 1 with data.normalization=per_channel"
    return [
        ("data.channel_mean", means, means is not None and len(means) == 3 and all(0 <= m <= 1 for m in means), three),
        ("data.channel_std", stds, stds is not None and len(stds) == 3 and all(0 < s <= 1 for s in stds),
         f"{three}, none of them 0")]
