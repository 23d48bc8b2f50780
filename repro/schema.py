"""The configuration of one run: every key with its type, its range, and whether it changes a run's numbers.

Values stand in conf/, beside the section of the paper that they come from; MISSING is what a file must say. No torch
here, so that a wrong value is reported before it is imported.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import Field, dataclass, field, fields, is_dataclass
from enum import Enum
from math import inf
from types import NoneType, UnionType
from typing import Any, NamedTuple, get_args, get_origin

from omegaconf import MISSING

CIFAR10, IMAGENET = "cifar10", "imagenet"
SYNTHETIC = "synthetic"  # data.name of the made images: no run of them is ever evidence about CIFAR-10
CLASSES = 1000  # of ImageNet, Sec. 4.1
TRAINING_IMAGES, VALIDATION_IMAGES = 1_281_167, 50_000  # of ILSVRC 2012; Sec. 4.1: 1.28 million and 50k
PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
SEVERAL = {int: "whole numbers", float: "numbers", str: "texts"}

# `cifar`: 6n+2 layers (Sec. 4.2). `imagenet`: a network of Table 1, or VGG, which it is compared with.
Architecture = Enum("Architecture", {"cifar": "cifar", "imagenet": "imagenet"})
# With or without shortcut connections; `vgg`: VGG-16 or VGG-19, for tests of imported weights only.
Family = Enum("Family", {"plain": "plain", "residual": "residual", "vgg": "vgg"})
# Sec. 4.1: what a shortcut does where dimensions grow.
ShortcutOption = Enum("ShortcutOption", {"A": "A", "B": "B", "C": "C"})
# Which convolution of a bottleneck that subsamples has the stride 2. `first_1x1` is the authors' (their README), and
# only it gives the multiply-adds of Table 1; `conv3x3` is what most other code does ("v1.5").
StrideIn = Enum("StrideIn", {"first_1x1": "first_1x1", "conv3x3": "conv3x3"})
# Which fan the MSRA initialization of the convolutions divides by.
ConvInit = Enum("ConvInit", {"fan_out": "fan_out", "fan_in": "fan_in"})
# Where option A puts the zero channels: after the old ones, or half before and half after them.
ZeroPadding = Enum("ZeroPadding", {"appended": "appended", "both_sides": "both_sides"})
# Of the fully-connected layer. `uniform_zero_bias` and `uniform` (its bias too): in +-1/sqrt(fan_in); `msra`: normal
# with variance 2/fan_in, bias as `uniform`.
FcInit = Enum("FcInit", {"uniform_zero_bias": "uniform_zero_bias", "uniform": "uniform", "msra": "msra"})
Split = Enum("Split", {"full": "full", "45k": "45k"})
# `per_pixel_mean`: the training images' mean image is subtracted; `per_channel`: given mean and std.
Normalization = Enum("Normalization", {"per_pixel_mean": "per_pixel_mean", "per_channel": "per_channel"})
# `mean`: zeros after the normalization; `black`: pixels of 0 before it.
PaddingValue = Enum("PaddingValue", {"mean": "mean", "black": "black"})
# Of a training image. `padded`: from the image with a border (Sec. 4.2). `shorter_side`: from the image resized so that
# its shorter side is a random length (Sec. 3.4).
Crop = Enum("Crop", {"padded": "padded", "shorter_side": "shorter_side"})
# `error80`: Sec. 4.2's rule for the 110-layer net; `fixed400`: arXiv 1603.05027's 400 iterations.
WarmUp = Enum("WarmUp", {"none": "none", "error80": "error80", "fixed400": "fixed400"})
# When the rate drops: at `train.lr_drops`, or (`plateau`) when the validation error no longer falls.
LrPolicy = Enum("LrPolicy", {"drops": "drops", "plateau": "plateau"})
# `caffe`: v = m v + lr g; `torch`: v = m v + g, scaled by lr when it is applied; `nesterov`: torch's form with g + m v.
MomentumForm = Enum("MomentumForm", {"caffe": "caffe", "torch": "torch", "nesterov": "nesterov"})
# `weights`: only convolution and fully-connected weights, not biases or batch normalization.
DecayOn = Enum("DecayOn", {"all": "all", "weights": "weights"})
# `auto`: cuda, else mps, else cpu.
Device = Enum("Device", {"auto": "auto", "cpu": "cpu", "cuda": "cuda", "mps": "mps"})
# `auto`: tf32 on CUDA, fp32 elsewhere.
Precision = Enum("Precision", {"auto": "auto", "fp32": "fp32", "tf32": "tf32", "bf16": "bf16", "fp16": "fp16"})
# How updates are executed. `eager`: operation by operation. `graph`: the whole update captured in a CUDA graph and
# replayed. `auto`: graph on CUDA with one device, eager elsewhere.
Engine = Enum("Engine", {"auto": "auto", "eager": "eager", "graph": "graph"})
# What reads images ahead of the updates: threads of this process, or processes of their own.
Loader = Enum("Loader", {"auto": "auto", "threads": "threads", "processes": "processes"})
# `never` puts an earlier run in the same folder aside and starts over.
Resume = Enum("Resume", {"auto": "auto", "never": "never"})

DEPTHS = {Family.plain: (18, 34), Family.residual: (18, 34, 50, 101, 152), Family.vgg: (16, 19)}  # Table 1, Sec. 3.3


class Range(NamedTuple):
    """What a key may hold, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def above(low: float, most: float = inf) -> Range:
    """Above `low`, at most `most`."""
    words = f"above {low}" + (f", at most {most}" if most < inf else "")
    return Range(words, lambda value: low < value <= most and value < inf)


def at_least(low: float, below: float = inf) -> Range:
    """From `low` on, below `below`."""
    return Range(f"at least {low}" + (f", below {below}" if below < inf else ""), lambda value: low <= value < below)


def within(low: float, high: float) -> Range:
    """Between the two, both included."""
    return Range(f"{low} to {high}", lambda value: low <= value <= high)


NAME = Range("letters, digits, _ - . (it names a folder)", lambda name: bool(re.fullmatch(r"\w[\w.-]*", name)))
DATA_SET = Range(f"{CIFAR10} or {SYNTHETIC} or {IMAGENET}", lambda name: name in (CIFAR10, SYNTHETIC, IMAGENET))
DEVICES = Range("1 to 4096, -1 or null", lambda count: count == -1 or 1 <= count <= 4096)
BLOCKS = Range("1 to 1000, a model.depth of 8 to 6002", lambda blocks: 1 <= blocks <= 1000)
MEANS = Range("three numbers of 0 to 1", lambda means: len(means) == 3 and all(0 <= mean <= 1 for mean in means))
STDS = Range("three numbers above 0, at most 1", lambda stds: len(stds) == 3 and all(0 < std <= 1 for std in stds))
SIDES = Range("[from, to] of 32 to 4096 pixels", lambda side: len(side) == 2 and 32 <= side[0] <= side[1] <= 4096)
RISING = Range("rising positive iterations", lambda drops: drops == sorted(set(drops)) and min(drops, default=1) > 0)
ITERATIONS = Range("iterations from 1", lambda iterations: min(iterations, default=1) > 0)


def key(allowed: Range | None = None, default: Any = MISSING, *, changes_numbers: bool = True, **earlier: Any) -> Any:
    """A key of the configuration.

    allowed: the range of its values; None where the type says it all.
    changes_numbers: whether it is part of a run's identity.
    earlier: what the runs did that were recorded before the key was there; such a value leaves the identity as it was.
    """
    return field(default=default, metadata={"allowed": allowed, "changes_numbers": changes_numbers, **earlier})


@dataclass
class ModelConfig:
    """A 6n+2-layer CIFAR-10 network (Sec. 4.2; n is `blocks_per_stage`), or an ImageNet network of `depth` layers."""

    architecture: Architecture = key(earlier="cifar")
    family: Family = key()
    blocks_per_stage: int | None = key(BLOCKS)  # null: an ImageNet network, which its depth describes
    depth: int | None = key(default=None, changes_numbers=False)  # 6n+2, wins over blocks_per_stage; counts on ImageNet
    shortcut_option: ShortcutOption = key()
    zero_padding: ZeroPadding = key(earlier="appended")
    stride_in: StrideIn = key(earlier="first_1x1")  # of bottlenecks
    conv_init: ConvInit = key()
    fc_init: FcInit = key(earlier="uniform_zero_bias")
    batch_norm_eps: float = key(above(0))
    batch_norm_momentum: float = key(above(0, 1))
    num_classes: int = key(at_least(2))


@dataclass
class DataConfig:
    """The data set, its split and the augmentation of its training images."""

    name: str = key(DATA_SET)
    root: str | None = key(default=None, changes_numbers=False)
    split: Split = key()
    normalization: Normalization = key(earlier="per_pixel_mean")
    channel_mean: list[float] | None = key(MEANS, earlier=None)  # of red, green, blue, for pixels in 0..1
    channel_std: list[float] | None = key(STDS, earlier=None)
    crop: Crop = key(earlier="padded")
    padding: int = key(within(0, 16))  # pixels on each side before the random crop; 0 turns the crop off
    padding_value: PaddingValue = key(earlier="mean")
    crop_size: int | None = key(within(32, 1024), earlier=None)  # pixels of one side; null with crop=padded
    shorter_side: list[int] | None = key(SIDES, earlier=None)  # [from, to] in pixels, both included
    test_shorter_side: int | None = key(within(32, 4096), earlier=None)  # of the tested images and the mean image's
    flip: bool = key()
    color_noise_std: float = key(within(0, 10), earlier=0.0)  # along the principal components of the pixels; 0: none
    wiring_test: bool = key(earlier=False)  # takes any number of classes and one folder for both sets; never evidence


@dataclass
class TrainConfig:
    """Mini-batch SGD; every length is in iterations (updates done)."""

    mini_batch_size: int = key(within(1, 45_000))
    iterations: int = key(within(1, 10**7))
    lr: float = key(above(0))
    lr_factor: float = key(above(0, 1))
    lr_policy: LrPolicy = key(earlier="drops")
    lr_drops: list[int] = key(RISING)  # with lr_policy=drops
    plateau_patience: int = key(at_least(1), earlier=5)  # tests in a row without a better error before a drop
    plateau_threshold: float = key(within(0, 100), earlier=0.1)  # points by which the error must fall to be better
    plateau_drops: int = key(within(1, 20), earlier=2)  # at most so many drops
    warmup: WarmUp = key()
    warmup_lr: float = key(above(0))
    warmup_error: float = key(above(0, 100))  # percent
    warmup_window: int = key(at_least(1))
    warmup_max: int = key(at_least(1))
    momentum: float = key(at_least(0, below=1))
    momentum_form: MomentumForm = key()
    weight_decay: float = key(at_least(0))
    weight_decay_on: DecayOn = key()
    batch_norm_group: int = key(at_least(2))  # images that share batch statistics; divides the mini-batch
    loss_scale: float = key(above(0))  # static, used with fp16 only


@dataclass
class EvaluationConfig:
    """When the network is tested during training, and what else is measured of it; changes no result."""

    interval: int = key(at_least(1))
    batch_norm_images: int = key(at_least(0), changes_numbers=False)  # averaged over at the end; 0: none
    responses: bool = key(changes_numbers=False)  # write responses.csv (Fig. 7) after the last iteration
    gradient_iterations: list[int] = key(ITERATIONS, changes_numbers=False)  # whose norms go into gradients.csv


@dataclass
class MachineConfig:
    """Where and in what precision the computation is executed; only `precision` changes its numbers."""

    device: Device = key(changes_numbers=False)
    precision: Precision = key()
    channels_last: bool | None = key(default=None, changes_numbers=False)  # None: on CPUs, and on GPUs but in fp32
    threads: int | None = key(within(1, 1024), None, changes_numbers=False)  # None: torch's default
    deterministic: bool = key(default=False, changes_numbers=False)
    activation_checkpointing: bool = key(default=False, changes_numbers=False)  # less memory, the same numbers
    timeout_seconds: float = key(within(1, 86400), 120.0, changes_numbers=False)  # after which a process counts as lost
    loader: Loader = key(default=Loader.auto, changes_numbers=False)
    workers: int | None = key(within(1, 1024), None, changes_numbers=False)  # that read images; None: by the cores
    evaluation_batch_size: int = key(at_least(1), changes_numbers=False)
    checkpoint_seconds: float = key(at_least(0), changes_numbers=False)
    tensorboard: bool = key(default=True, changes_numbers=False)


@dataclass
class RunConfig:
    """One training run."""

    name: str = key(NAME, changes_numbers=False)
    description: str = key(default="", changes_numbers=False)
    reproduces: list[str] = field(default_factory=list, metadata={"allowed": None, "changes_numbers": False})
    seed: int = key(within(0, 2**32 - 1), 0, changes_numbers=False)  # seeds are repetitions of one run
    scale: float = key(above(0, 1), 1.0)
    max_seconds: float | None = key(above(0), None, changes_numbers=False)
    resume: Resume = key(default=Resume.auto, changes_numbers=False)
    results: str | None = key(default=None, changes_numbers=False)
    engine: Engine = key(default=Engine.auto, changes_numbers=False)
    devices: int | None = key(DEVICES, None, changes_numbers=False)  # processes that share every mini-batch
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)


def fields_by_key(section: Any = RunConfig, prefix: str = "") -> dict[str, Field[Any]]:
    """Every key of the configuration as {dotted key: its field}; the sections that hold them are not among them."""
    found: dict[str, Field[Any]] = {}
    for entry in fields(section):
        found |= (fields_by_key(entry.type, f"{prefix}{entry.name}.") if is_dataclass(entry.type)
                  else {prefix + entry.name: entry})
    return found


FIELDS = fields_by_key()
SECTIONS = tuple(entry.name for entry in fields(RunConfig) if is_dataclass(entry.type))


def allowed_values(key: str) -> str | None:
    """What the type of a key admits, in words; None if there is no such key."""
    if key in SECTIONS:
        return f"a section: set its keys, as {next(name for name in FIELDS if name.startswith(f'{key}.'))}"
    return type_name(FIELDS[key].type) if key in FIELDS else None


def type_name(hint: Any) -> str:
    """A type of the schema in words."""
    if isinstance(hint, UnionType):
        return " or ".join("null" if kind is NoneType else type_name(kind) for kind in get_args(hint))
    if get_origin(hint) is list:
        return f"a list of {SEVERAL[get_args(hint)[0]]}, as [1,2]"
    return " or ".join(hint.__members__) if issubclass(hint, Enum) else PLAIN[hint]


def rules(config: RunConfig) -> Iterator[tuple[str, bool, str]]:
    """What ties keys together: (key, whether its value goes with the others, what is allowed)."""
    model, data, train = config.model, config.data, config.train
    images = f"with data.name={data.name}"
    imagenet = data.name == IMAGENET
    architecture = Architecture.imagenet if imagenet else Architecture.cifar
    crop = Crop.shorter_side if imagenet else Crop.padded
    yield "model.architecture", model.architecture is architecture, f"{architecture.name} {images}"
    yield "data.crop", data.crop is crop, f"{crop.name} {images}"
    if imagenet:
        yield "model.blocks_per_stage", model.blocks_per_stage is None, f"null {images}: they follow from model.depth"
        size, sides, depths = data.crop_size or 0, data.shorter_side or [0], DEPTHS[model.family]
        yield "model.depth", model.depth in depths, " or ".join(map(str, depths)) + f" for {model.family.name}"
        yield "model.num_classes", model.num_classes == CLASSES or data.wiring_test, f"{CLASSES}, but in a wiring test"
        yield "data.padding", data.padding == 0, f"0 {images}"
        yield "data.crop_size", size > 0, f"32 to 1024 {images}"
        yield "data.shorter_side", sides[0] >= size, "[from, to] from data.crop_size to 4096 pixels"
        yield "data.test_shorter_side", (data.test_shorter_side or 0) >= size, "data.crop_size to 4096 pixels"
        yield "evaluation.responses", not config.evaluation.responses, "false: Figure 7 is about CIFAR-10"
    else:
        yield "model.blocks_per_stage", model.blocks_per_stage is not None, f"{BLOCKS.words} {images}"
        yield "model.family", model.family is not Family.vgg, f"plain or residual {images}"
        yield "model.num_classes", model.num_classes >= 10, "at least the data set's 10 classes"
        for name in ("crop_size", "shorter_side", "test_shorter_side"):
            yield f"data.{name}", getattr(data, name) is None, f"null {images}"
        yield "data.color_noise_std", data.color_noise_std == 0, f"0 {images}"
        yield "data.wiring_test", not data.wiring_test, f"false {images}"
        yield ("train.lr_policy", train.lr_policy is LrPolicy.drops or data.split is Split["45k"],
               "drops; plateau needs validation images (data.split=45k)")
    yield "data.split", data.split is Split.full or data.name == CIFAR10, f"full {images}"
    per_channel = data.normalization is Normalization.per_channel
    for name, values in (("channel_mean", data.channel_mean), ("channel_std", data.channel_std)):
        yield (f"data.{name}", (values is not None) is per_channel,
               f"{'three numbers' if per_channel else 'null'} with data.normalization={data.normalization.name}")
    yield ("train.momentum", train.momentum > 0 or train.momentum_form is not MomentumForm.nesterov,
           "above 0 with train.momentum_form=nesterov")
    yield ("train.batch_norm_group", train.mini_batch_size % train.batch_norm_group == 0,
           f"a divisor of train.mini_batch_size={train.mini_batch_size}")
    tf32 = config.machine.precision is Precision.tf32
    yield ("machine.precision", not tf32 or config.machine.device not in (Device.cpu, Device.mps),
           "tf32 with machine.device=cuda only")
