"""Every key of a run's configuration: type, range, whether it changes numbers. Values stand in conf/. No torch here."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum, EnumType
from math import inf
from typing import Any

from omegaconf import MISSING

CIFAR10, IMAGENET = "cifar10", "imagenet"
SYNTHETIC = "synthetic"  # data.name of the made images: no run of them is ever evidence about CIFAR-10
CLASSES = 1000  # of ImageNet, Sec. 4.1
TRAINING_IMAGES, VALIDATION_IMAGES = 1_281_167, 50_000  # of ILSVRC 2012; Sec. 4.1: 1.28 million and 50k
HELD_OUT = 5_000  # of CIFAR-10's training images, Sec. 4.2: a 45k/5k train/validation split

Architecture = Enum("Architecture", {"cifar": "cifar", "imagenet": "imagenet"})  # 6n+2 layers (Sec. 4.2), or Table 1's
Family = Enum("Family", {"plain": "plain", "residual": "residual"})  # with or without shortcut connections
ShortcutOption = Enum("ShortcutOption", {"A": "A", "B": "B", "C": "C"})  # Sec. 4.1: where dimensions grow
# Of a bottleneck that subsamples. `first_1x1`: the authors', and Table 1's multiply-adds; `conv3x3`: most other code's.
StrideIn = Enum("StrideIn", {"first_1x1": "first_1x1", "conv3x3": "conv3x3"})
ConvInit = Enum("ConvInit", {"fan_out": "fan_out", "fan_in": "fan_in"})  # what the MSRA initialization divides by
ZeroPadding = Enum("ZeroPadding", {"appended": "appended", "both_sides": "both_sides"})  # of option A's channels
# `uniform_zero_bias`, `uniform` (bias too): in +-1/sqrt(fan_in); `msra`: variance 2/fan_in, bias as `uniform`.
FcInit = Enum("FcInit", {"uniform_zero_bias": "uniform_zero_bias", "uniform": "uniform", "msra": "msra"})
Split = Enum("Split", {"full": "full", "45k": "45k"})
# `per_pixel_mean`: the training images' mean image is subtracted; `per_channel`: given mean and std.
Normalization = Enum("Normalization", {"per_pixel_mean": "per_pixel_mean", "per_channel": "per_channel"})
PaddingValue = Enum("PaddingValue", {"mean": "mean", "black": "black"})  # zeros after the normalization, or before it
# `padded`: of the image with a border (Sec. 4.2). `shorter_side`: of one whose shorter side is random (Sec. 3.4).
Crop = Enum("Crop", {"padded": "padded", "shorter_side": "shorter_side"})
WarmUp = Enum("WarmUp", {"none": "none", "error80": "error80"})  # error80: Sec. 4.2's rule for the 110-layer net
LrPolicy = Enum("LrPolicy", {"drops": "drops", "plateau": "plateau"})  # at lr_drops, or when the error stays (Sec. 3.4)
# `caffe`: v = m v + lr g; `torch`: v = m v + g, scaled by lr when it is applied; `nesterov`: torch's form with g + m v.
MomentumForm = Enum("MomentumForm", {"caffe": "caffe", "torch": "torch", "nesterov": "nesterov"})
DecayOn = Enum("DecayOn", {"all": "all", "weights": "weights"})  # weights: no biases, no batch normalization
Device = Enum("Device", {"auto": "auto", "cpu": "cpu", "cuda": "cuda", "mps": "mps"})  # auto: cuda, else mps, else cpu
# `auto`: tf32 on CUDA, fp32 elsewhere.
Precision = Enum("Precision", {"auto": "auto", "fp32": "fp32", "tf32": "tf32", "bf16": "bf16", "fp16": "fp16"})
# `graph`: the whole update captured in a CUDA graph and replayed. `auto`: that on one CUDA device, eager elsewhere.
Engine = Enum("Engine", {"auto": "auto", "eager": "eager", "graph": "graph"})
Resume = Enum("Resume", {"auto": "auto", "never": "never"})  # never: an earlier run is put aside

Range = tuple[str, Callable[[Any], Any]]  # what a key may hold, in words and as a test
DEPTHS = {Family.plain: (18, 34), Family.residual: (18, 34, 50, 101, 152)}  # Table 1
# What these data sets leave no choice in: what is not applied there must not be set.
OF_IMAGENET = {"model.architecture": Architecture.imagenet, "model.blocks_per_stage": None, "data.split": Split.full,
               "data.crop": Crop.shorter_side, "data.padding": 0, "evaluation.responses": False}
OF_CIFAR = {"model.architecture": Architecture.cifar, "data.crop": Crop.padded, "data.crop_size": None,
            "data.shorter_side": None, "data.test_shorter_side": None, "data.color_noise_std": 0,
            "data.wiring_test": False}


def above(low: float, most: float = inf) -> Range:
    words = f"above {low}" + (f", at most {most}" if most < inf else "")
    return words, lambda value: low < value <= most and value < inf


def within(low: float, high: float = inf) -> Range:
    words = f"{low} to {high}" if high < inf else f"at least {low}"
    return words, lambda value: low <= value <= high and value < inf


ANYTHING: Range = ("anything of the type", lambda value: True)
PRINTABLE: Range = ("one line of characters that can be printed", str.isprintable)  # no record with others is read
BLOCKS: Range = ("1 to 1000, a model.depth of 8 to 6002", lambda blocks: 1 <= blocks <= 1000)
MEANS: Range = ("three numbers of 0 to 1", lambda means: len(means) == 3 and all(0 <= mean <= 1 for mean in means))
STDS: Range = ("three numbers above 0, at most 1", lambda stds: len(stds) == 3 and all(0 < std <= 1 for std in stds))
SIDES: Range = ("[from, to] of 32 to 4096 pixels", lambda side: len(side) == 2 and 32 <= side[0] <= side[1] <= 4096)
RISING: Range = ("rising positive iterations", lambda drops: drops == sorted(set(drops)) and min(drops, default=1) > 0)


def key(allowed: Range = ANYTHING, default: Any = MISSING, *, changes_numbers: bool = True, **earlier: Any) -> Any:
    """A key with its range. `earlier`: what runs did that were recorded before it was there, left out of identities."""
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
    num_classes: int = key(within(2))


@dataclass
class DataConfig:
    """The data set, its split and the augmentation of its training images."""
    name: str = key(("cifar10, synthetic or imagenet", lambda name: name in (CIFAR10, SYNTHETIC, IMAGENET)))
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
    plateau_patience: int = key(within(1), earlier=5)  # tests in a row without a better error before a drop
    plateau_threshold: float = key(within(0, 100), earlier=0.1)  # points by which the error must fall to be better
    plateau_drops: int = key(within(1, 20), earlier=2)  # at most so many drops
    warmup: WarmUp = key()
    warmup_lr: float = key(above(0))
    warmup_error: float = key(above(0, 100))  # percent
    warmup_window: int = key(within(1))
    warmup_max: int = key(within(1))
    momentum: float = key(("at least 0, below 1", lambda value: 0 <= value < 1))
    momentum_form: MomentumForm = key()
    weight_decay: float = key(within(0))
    weight_decay_on: DecayOn = key()
    batch_norm_group: int = key(within(2))  # images that share batch statistics; divides the mini-batch
    loss_scale: float = key(above(0))  # static, used with fp16 only


@dataclass
class EvaluationConfig:
    """When the network is tested during training, and what else is measured of it; changes no result."""
    interval: int = key(within(1))
    batch_norm_images: int = key(within(0), changes_numbers=False)  # averaged over at the end; 0: none
    responses: bool = key(changes_numbers=False)  # write responses.csv (Fig. 7) after the last iteration
    # Whose norms go into gradients.csv.
    gradient_iterations: list[int] = key(("from 1", lambda numbers: min(numbers, default=1) > 0), changes_numbers=False)


@dataclass
class MachineConfig:
    """Where and in what precision the computation is executed; only `precision` changes its numbers."""
    device: Device = key(changes_numbers=False)
    precision: Precision = key()
    channels_last: bool | None = key(default=None, changes_numbers=False)  # None: on CPUs, and on GPUs but in fp32
    threads: int | None = key(within(1, 1024), None, changes_numbers=False)  # None: torch's default
    deterministic: bool = key(default=False, changes_numbers=False)
    timeout_seconds: float = key(within(1, 86400), 120.0, changes_numbers=False)  # after which a process counts as lost
    workers: int | None = key(within(1, 1024), None, changes_numbers=False)  # threads that read; None: by the cores
    evaluation_batch_size: int = key(within(1), changes_numbers=False)
    checkpoint_seconds: float = key(within(0), changes_numbers=False)
    tensorboard: bool = key(default=True, changes_numbers=False)


@dataclass
class RunConfig:
    """One training run."""
    name: str = key(("letters, digits, _ - .", lambda name: re.fullmatch(r"\w[\w.-]*", name)), changes_numbers=False)
    description: str = key(PRINTABLE, "", changes_numbers=False)
    reproduces: list[str] = field(default_factory=list, metadata={
        "allowed": (f"lists of {PRINTABLE[0]}", lambda rows: "".join(rows).isprintable()), "changes_numbers": False})
    seed: int = key(within(0, 2**32 - 1), 0, changes_numbers=False)  # seeds are repetitions of one run
    scale: float = key(above(0, 1), 1.0)
    max_seconds: float | None = key(above(0), None, changes_numbers=False)
    resume: Resume = key(default=Resume.auto, changes_numbers=False)
    results: str | None = key(default=None, changes_numbers=False)
    engine: Engine = key(default=Engine.auto, changes_numbers=False)
    # Processes that share every mini-batch; -1: as many as there are devices.
    devices: int | None = key(("1 to 4096, -1, null", lambda n: n == -1 or 1 <= n <= 4096), None, changes_numbers=False)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)


SECTIONS: dict[str, Any] = {entry.name: entry.type for entry in fields(RunConfig) if is_dataclass(entry.type)}
FIELDS = {entry.name: entry for entry in fields(RunConfig) if entry.name not in SECTIONS} | {
    f"{name}.{entry.name}": entry for name, section in SECTIONS.items() for entry in fields(section)}


def allowed_values(key: str) -> str | None:
    """What the type of a key admits, as `float`, `int | null` or an enum's names; None if there is no such key."""
    hint: Any = FIELDS[key].type if key in FIELDS else None
    if isinstance(hint, EnumType):
        return " or ".join(hint.__members__)
    return hint and (hint.__name__ if isinstance(hint, type) else str(hint).replace("None", "null"))


def rules(values: dict[str, Any]) -> Iterator[tuple[str, bool, str]]:
    """What ties keys together: (key, whether its value of `values` goes with the others, what is allowed)."""
    imagenet, size = values["data.name"] == IMAGENET, values["data.crop_size"] or 0
    for key, value in (OF_IMAGENET if imagenet else OF_CIFAR).items():
        words = value.name if isinstance(value, Enum) else json.dumps(value)
        yield key, values[key] == value, f"{words} with data.name={values['data.name']}"
    if imagenet:
        family, sides, classes = values["model.family"], values["data.shorter_side"] or [0], values["model.num_classes"]
        depths = DEPTHS[family]
        yield "model.depth", values["model.depth"] in depths, " or ".join(map(str, depths)) + f" for {family.name}"
        yield "model.num_classes", classes == CLASSES or values["data.wiring_test"], f"{CLASSES}, but in a wiring test"
        yield "data.crop_size", size > 0, "32 to 1024 on ImageNet"
        yield "data.shorter_side", sides[0] >= size, "[from, to] from data.crop_size to 4096 pixels"
        yield "data.test_shorter_side", (values["data.test_shorter_side"] or 0) >= size, "data.crop_size to 4096 pixels"
    else:
        yield "model.blocks_per_stage", values["model.blocks_per_stage"] is not None, f"{BLOCKS[0]} on CIFAR-10"
        yield "model.num_classes", values["model.num_classes"] >= 10, "at least the data set's 10 classes"
        yield ("train.lr_policy", values["train.lr_policy"] is LrPolicy.drops or values["data.split"] is Split["45k"],
               "drops; plateau needs validation images (data.split=45k)")
    if values["data.name"] == SYNTHETIC:
        yield "data.split", values["data.split"] is Split.full, "full with made images"
    given = values["data.normalization"] is Normalization.per_channel
    for key in ("data.channel_mean", "data.channel_std"):
        yield key, (values[key] is not None) is given, "three numbers with data.normalization=per_channel, else null"
    yield ("train.momentum", values["train.momentum"] > 0 or values["train.momentum_form"] is not MomentumForm.nesterov,
           "above 0 with train.momentum_form=nesterov")
    batch = values["train.mini_batch_size"]
    yield "train.batch_norm_group", batch % values["train.batch_norm_group"] == 0, f"a divisor of {batch}"
