"""The configuration of one run: every key, its type and its allowed values.

Values are not here but in conf/, beside the section of the paper that they come from; MISSING marks what a
configuration file must say. No torch in this module, so that a wrong value is reported before torch is imported.
"""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING


class Architecture(Enum):
    """`cifar`: 6n+2 layers (Sec. 4.2). `imagenet`: a network of Table 1, or VGG, which it is compared with."""

    cifar = "cifar"
    imagenet = "imagenet"


class Family(Enum):
    """With or without shortcut connections; `vgg`: VGG-16 or VGG-19, for tests of imported weights only."""

    plain = "plain"
    residual = "residual"
    vgg = "vgg"


class ShortcutOption(Enum):
    """Sec. 4.1: what a shortcut does where dimensions grow."""

    A = "A"
    B = "B"
    C = "C"


class StrideIn(Enum):
    """Which convolution of a bottleneck that subsamples has the stride 2.

    `first_1x1` is the authors' (their README), and only it gives the multiply-adds of Table 1; `conv3x3` is what most
    other code does ("v1.5").
    """

    first_1x1 = "first_1x1"
    conv3x3 = "conv3x3"


class ConvInit(Enum):
    """Which fan the MSRA initialization of the convolutions divides by."""

    fan_out = "fan_out"
    fan_in = "fan_in"


class ZeroPadding(Enum):
    """Where option A puts the zero channels: after the old ones, or half before and half after them."""

    appended = "appended"
    both_sides = "both_sides"


class FcInit(Enum):
    """Initial values of the fully-connected layer, whose bias is uniform too where nothing is said of it.

    `uniform_zero_bias` and `uniform`: weights uniform in +-1/sqrt(fan_in); `msra`: normal with variance 2/fan_in.
    """

    uniform_zero_bias = "uniform_zero_bias"
    uniform = "uniform"
    msra = "msra"


Split = Enum("Split", {"full": "full", "45k": "45k"})


class Normalization(Enum):
    """`per_pixel_mean`: the training images' mean image is subtracted; `per_channel`: given mean and std."""

    per_pixel_mean = "per_pixel_mean"
    per_channel = "per_channel"


class PaddingValue(Enum):
    """`mean`: zeros after the normalization; `black`: pixels of 0 before it."""

    mean = "mean"
    black = "black"


class Crop(Enum):
    """How a training image is cropped.

    `padded`: from the image with a border (Sec. 4.2). `shorter_side`: from the image resized so that its shorter side
    is a random length (Sec. 3.4).
    """

    padded = "padded"
    shorter_side = "shorter_side"


class WarmUp(Enum):
    """`error80`: Sec. 4.2's rule for the 110-layer net; `fixed400`: arXiv 1603.05027's 400 iterations."""

    none = "none"
    error80 = "error80"
    fixed400 = "fixed400"


class LrPolicy(Enum):
    """When the rate drops: at `train.lr_drops`, or (`plateau`) when the validation error no longer falls."""

    drops = "drops"
    plateau = "plateau"


class MomentumForm(Enum):
    """`caffe`: v = m v + lr g; `torch`: v = m v + g, scaled by lr when it is applied.

    `nesterov`: torch's form with g + m v in the place of v.
    """

    caffe = "caffe"
    torch = "torch"
    nesterov = "nesterov"


class DecayOn(Enum):
    """`weights`: only convolution and fully-connected weights, not biases or batch normalization."""

    all = "all"
    weights = "weights"


class Device(Enum):
    """`auto`: cuda, else mps, else cpu."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Precision(Enum):
    """`auto`: tf32 on CUDA, fp32 elsewhere."""

    auto = "auto"
    fp32 = "fp32"
    tf32 = "tf32"
    bf16 = "bf16"
    fp16 = "fp16"


class Engine(Enum):
    """How updates are executed.

    `eager`: operation by operation. `graph`: the whole update captured in a CUDA graph and replayed. `compile`: each
    block compiled by torch.compile, and captured too on CUDA. `auto`: graph on CUDA, eager elsewhere.
    """

    auto = "auto"
    eager = "eager"
    compile = "compile"
    graph = "graph"


class Loader(Enum):
    """What reads images ahead of the updates: threads of this process, or processes of their own."""

    auto = "auto"
    threads = "threads"
    processes = "processes"


class Resume(Enum):
    """`never` puts an earlier run in the same folder aside and starts over."""

    auto = "auto"
    never = "never"


@dataclass
class ModelConfig:
    """A 6n+2-layer CIFAR-10 network (Sec. 4.2; n is `blocks_per_stage`), or an ImageNet network of `depth` layers."""

    architecture: Architecture = MISSING
    family: Family = MISSING
    blocks_per_stage: int | None = MISSING  # null: an ImageNet network, which its depth describes
    depth: int | None = None  # 6n+2; wins over blocks_per_stage when it is given
    shortcut_option: ShortcutOption = MISSING
    zero_padding: ZeroPadding = MISSING
    stride_in: StrideIn = MISSING  # of bottlenecks
    conv_init: ConvInit = MISSING
    fc_init: FcInit = MISSING
    batch_norm_eps: float = MISSING
    batch_norm_momentum: float = MISSING
    num_classes: int = MISSING


@dataclass
class DataConfig:
    """The data set, its split and the augmentation of its training images."""

    name: str = MISSING
    root: str | None = None
    split: Split = MISSING
    normalization: Normalization = MISSING
    channel_mean: list[float] | None = MISSING  # of red, green, blue, for pixels in 0..1; with per_channel only
    channel_std: list[float] | None = MISSING
    crop: Crop = MISSING
    padding: int = MISSING  # pixels on each side before the random crop; 0 turns the crop off
    padding_value: PaddingValue = MISSING
    crop_size: int | None = MISSING  # pixels of one side; null with crop=padded
    shorter_side: list[int] | None = MISSING  # [from, to] in pixels, both included; with crop=shorter_side only
    test_shorter_side: int | None = MISSING  # of the image whose center is tested, and of the mean image's
    flip: bool = MISSING
    color_noise_std: float = MISSING  # along the principal components of the pixels; 0: none
    wiring_test: bool = MISSING  # takes any number of classes and one folder for both sets; never evidence


@dataclass
class TrainConfig:
    """Mini-batch SGD; every length is in iterations (updates done)."""

    mini_batch_size: int = MISSING
    iterations: int = MISSING
    lr: float = MISSING
    lr_factor: float = MISSING
    lr_policy: LrPolicy = MISSING
    lr_drops: list[int] = MISSING  # with lr_policy=drops
    plateau_patience: int = MISSING  # tests in a row without a better validation error before a drop
    plateau_threshold: float = MISSING  # points by which the validation top-1 error must fall to be better
    plateau_drops: int = MISSING  # at most so many drops
    warmup: WarmUp = MISSING
    warmup_lr: float = MISSING
    warmup_error: float = MISSING  # percent
    warmup_window: int = MISSING
    warmup_max: int = MISSING
    momentum: float = MISSING
    momentum_form: MomentumForm = MISSING
    weight_decay: float = MISSING
    weight_decay_on: DecayOn = MISSING
    batch_norm_group: int = MISSING  # images that share batch statistics; divides the mini-batch
    loss_scale: float = MISSING  # static, used with fp16 only


@dataclass
class EvaluationConfig:
    """When the network is tested during training, and what else is measured of it; changes no result."""

    interval: int = MISSING
    batch_norm_images: int = MISSING  # whose batch statistics are averaged after the last iteration; 0: none
    responses: bool = MISSING  # write responses.csv (Fig. 7) after the last iteration
    gradient_iterations: list[int] = MISSING  # updates whose gradient norms go into gradients.csv


@dataclass
class MachineConfig:
    """Where and in what precision the computation is executed; only `precision` changes its numbers."""

    device: Device = MISSING
    precision: Precision = MISSING
    channels_last: bool | None = None  # None: on where it is measured faster
    threads: int | None = None  # None: torch's default
    deterministic: bool = False
    steps_per_graph: int | None = None  # updates in one captured graph; None: by the depth of the network
    activation_checkpointing: bool = False  # forget activations and compute them again: less memory, same numbers
    timeout_seconds: float = 120.0  # after which a process that is waited for counts as lost
    loader: Loader = Loader.auto
    workers: int | None = None  # threads or processes that read images; None: by the cores of this machine
    evaluation_batch_size: int = MISSING
    checkpoint_seconds: float = MISSING
    tensorboard: bool = True


@dataclass
class RunConfig:
    """One training run."""

    name: str = MISSING
    description: str = ""
    reproduces: list[str] = field(default_factory=list)
    seed: int = 0
    scale: float = 1.0
    max_seconds: float | None = None
    resume: Resume = Resume.auto
    results: str | None = None
    engine: Engine = Engine.auto
    devices: int | None = None  # processes that share every mini-batch, a device each; see with_devices
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
