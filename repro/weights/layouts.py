"""Two public layouts of checkpoints: how they call our parameters, which network they hold, and how it is tested."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torchvision import models

from repro.config import compose, experiments, flat, to_dict
from repro.errors import ConfigError
from repro.models.resnet import VGG_NAMES
from repro.paper import published_table, second_references
from repro.schema import DEPTHS, Family, RunConfig

AKAMASTER, TORCHVISION = "akamaster", "torchvision"
# Of every key where the network was saved inside torch.nn.DataParallel, or as torch.compile gave it; or both.
PREFIXES = ("module.", "_orig_mod.")
IMAGE_NET = "ImageNet-1K"  # torchvision's name of the data set in its weights' metadata
# SHA-256 of the files that akamaster published, by depth; the file names begin so too (resnet20-12fca82f.th).
AKAMASTER_FILES = {
    20: "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8",
    32: "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850",
    44: "014dd6541728a1c700b1642ab640e211dc6eb8ed507d70697458dc8f8a0ae2e4",
    56: "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367",
    110: "1d1ed7c27571399c1fef66969bc4df68d6a92c8e6c41170f444e120e5354e3bc",
    1202: "f3b1deed382cd4c986ff8aa090c805d99a646e99d1f9227d7178183648844f62"}


@dataclass(frozen=True)
class Found:
    """A network that a file holds: its name, our configuration of it, and its own or the nearest experiment.

    needed: the settings that its outputs depend on, dotted keys and plain values; stated: its authors' error in words,
    '' where nobody states one of exactly this file.
    """

    name: str
    experiment: str
    config: RunConfig
    needed: dict[str, Any]
    stated: str


def akamaster_key(key: str) -> str:
    """akamaster/pytorch_resnet_cifar10's name of one of our parameters."""
    return re.sub(r"^fc\.", "linear.", re.sub(r"^stage(\d)\.", r"layer\1.", key))


def torchvision_key(key: str) -> str:
    """torchvision's name of one of our parameters."""
    key = re.sub(r"^conv(\d)_x\.", lambda found: f"layer{int(found[1]) - 1}.", key)
    return key.replace(".shortcut.conv.", ".downsample.0.").replace(".shortcut.bn.", ".downsample.1.")


KEYS: dict[str, Callable[[str], str]] = {AKAMASTER: akamaster_key, TORCHVISION: torchvision_key}


def find_network(form: str, state: Mapping[str, Tensor], sha256: str) -> Found:
    """Which network a state_dict of this layout is of, its keys without prefix; ConfigError if it is none of ours."""
    return akamaster(state, sha256) if form == AKAMASTER else torchvision(state, sha256)


def akamaster(state: Mapping[str, Tensor], sha256: str) -> Found:
    """A 6n+2-layer network of option A, by the number of its blocks."""
    count = blocks(state, 1)
    if not count:
        raise ConfigError(f"no akamaster file: it has no layer1.0.conv1.weight, but {first_keys(state)}")
    depth = 6 * count + 2
    own = f"cifar_resnet{depth}"
    experiment = own if own in experiments() else "cifar_resnet20"
    # The recipe's file says, with its sources, how that network is fed and where its option A puts the zeros.
    config = compose([f"experiment={experiment}", f"model.depth={depth}", f"recipe={AKAMASTER}"])
    needed = chosen_settings(config, "model.shortcut_option", "model.zero_padding", "model.batch_norm_eps",
                    "data.normalization", "data.channel_mean", "data.channel_std")
    theirs = next(source for source in second_references().sources if source.key == AKAMASTER)
    error = theirs.errors.get(f"resnet-{depth}") if sha256 == AKAMASTER_FILES.get(depth) else None
    said = f"{error.test:.2f} % on CIFAR-10's test set ({theirs.protocol})" if error else ""
    return Found(f"resnet{depth}", experiment, config, needed, said)


def torchvision(state: Mapping[str, Tensor], sha256: str) -> Found:
    """A network of Table 1 with option B, bottlenecks with the stride in the 3x3 ("v1.5"); or a VGG."""
    family, depth = torchvision_depth(state)
    name = VGG_NAMES[depth] if family is Family.vgg else f"resnet{depth}"
    published = weights_of(name, sha256)
    # Choice: a file that torchvision did not publish is fed as its first weights are.
    preset = (published or models.get_model_weights(name).IMAGENET1K_V1).transforms()
    experiment = "imagenet_optB" if name == "resnet34" else f"imagenet_{name}"
    mean, std = (f"[{','.join(map(str, values))}]" for values in (preset.mean, preset.std))
    words = [f"experiment={experiment}", "data.normalization=per_channel", f"data.channel_mean={mean}",
             f"data.channel_std={std}", f"data.crop_size={preset.crop_size[0]}",
             f"data.test_shorter_side={preset.resize_size[0]}"]
    keys = ["data.normalization", "data.channel_mean", "data.channel_std", "data.crop_size", "data.test_shorter_side"]
    if family is Family.residual:
        words += ["model.shortcut_option=B", "model.stride_in=conv3x3"]
        keys = ["model.shortcut_option", "model.stride_in", "model.batch_norm_eps", *keys]
    config = compose(words)
    return Found(name, experiment, config, chosen_settings(config, *keys),
                 "" if published is None else stated_error(published))


def torchvision_depth(state: Mapping[str, Tensor]) -> tuple[Family, int]:
    """Family and weighted layers; ConfigError if it is none of the networks that we have."""
    if "features.0.weight" in state and "classifier.0.weight" in state:
        depth = sum(1 for key, value in state.items() if key.endswith(".weight") and value.dim() in (2, 4))
        family, text = Family.vgg, f"a VGG of {depth} layers"
    else:
        family, counts = Family.residual, [blocks(state, stage) for stage in range(1, 5)]
        kind = "bottleneck" if "layer1.0.conv3.weight" in state else "basic"
        rows = {(row.block, tuple(row.blocks)): row.layers for row in published_table("table1").rows if row.blocks}
        depth = rows.get((kind, tuple(counts))) or 0
        text = f"a network of {counts} {kind} blocks" if any(counts) else first_keys(state)
    if depth not in DEPTHS[family]:
        raise ConfigError(f"no torchvision file of a network that is here (resnet18, 34, 50, 101, 152, vgg16, vgg19): "
                          f"it has {text}")
    return family, depth


def blocks(state: Mapping[str, Tensor], stage: int) -> int:
    """How many blocks of layer<stage> have a first convolution."""
    return sum(1 for key in state if re.fullmatch(rf"layer{stage}\.\d+\.conv1\.weight", key))


def weights_of(name: str, sha256: str) -> Any:
    """The published weights of a network whose file this is; torchvision's file names hold the hash. None if none."""
    for one in models.get_model_weights(name):
        named = re.search(r"-([0-9a-f]{8,})\.pth$", one.url)
        if named and sha256.startswith(named[1]):
            return one
    return None


def stated_error(published: Any) -> str:
    """The top-1 error that torchvision's metadata state, in words."""
    return f"{100 - published.meta['_metrics'][IMAGE_NET]['acc@1']:.2f} % for {published}, center crop"


def chosen_settings(config: RunConfig, *keys: str) -> dict[str, Any]:
    """Some settings of a configuration as plain values."""
    values = flat(to_dict(config))
    return {key: values[key] for key in keys}


def first_keys(keys: Iterable[str]) -> str:
    """Some keys, for a message."""
    return ", ".join(list(keys)[:3]) or "nothing"
