"""Files of weights: those of runs, of others (torchvision, akamaster/pytorch_resnet_cifar10), and ours to give away.

A file of ours is a plain state_dict; which network it is of and how that is fed goes along as an attribute of the dict,
which others overlook. Only tensors and plain values are read from any file (weights_only); nothing in it is executed.
"""

import io
import pickle
import re
import warnings
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from repro.config import compose, deviations, difference, experiments, flat, override, to_dict
from repro.errors import ConfigError, StorageError
from repro.files import file_sha256, open_plain, write_atomic
from repro.models import build_model
from repro.paper import second_references
from repro.paths import display_path, escape
from repro.runs import Run, read_run, title
from repro.schema import IMAGENET, Normalization, RunConfig

ATTRIBUTE = "repro"  # of the state_dict in a file of ours
NETWORK = ("model.depth", "model.architecture", "model.family", "model.num_classes")  # which network it is
# What beside its weights decides what a network answers.
SETTINGS = ("model.shortcut_option", "model.zero_padding", "model.stride_in", "model.batch_norm_eps", "data.split",
            "data.normalization", "data.channel_mean", "data.channel_std", "data.crop_size", "data.test_shorter_side",
            "data.wiring_test")
# What trainers of others save beside their tensors: a command's options, NumPy's numbers, also of other versions.
HARMLESS: list[Any] = [
    Namespace, np.dtype, *(type(np.dtype(kind)) for kind in "?bhilqBHILQefd"),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core"))]
TORCHVISION, AKAMASTER = "torchvision", "akamaster"
TORCHVISION_NETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vgg16", "vgg19")
# SHA-256 of the files that akamaster published, by depth; the file names begin so too (resnet20-12fca82f.th).
AKAMASTER_FILES = {
    20: "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8",
    32: "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850",
    44: "014dd6541728a1c700b1642ab640e211dc6eb8ed507d70697458dc8f8a0ae2e4",
    56: "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367",
    110: "1d1ed7c27571399c1fef66969bc4df68d6a92c8e6c41170f444e120e5354e3bc",
    1202: "f3b1deed382cd4c986ff8aa090c805d99a646e99d1f9227d7178183648844f62"}
Plain = bool | int | float | Annotated[str, msgspec.Meta(pattern=r"^\w[\w.-]*\Z")] | list[float] | None


class Facts(msgspec.Struct):
    """What goes along with weights. `network` and `settings` hold the values of NETWORK and SETTINGS."""

    run: str  # whose weights they are
    experiment: Plain
    network: dict[str, Plain]
    settings: dict[str, Plain]
    deviations: list[str] = []  # from the paper's settings
    source: dict[str, str] = {}  # of others: layout, file, sha256, and the error that its authors state

    @property
    def note(self) -> str:
        """Where the weights come from, in a line."""
        if self.source:
            return escape(f"weights of others: {', '.join(f'{key} {value}' for key, value in self.source.items())}")
        return escape(f"weights of {self.run}; deviations from the paper: {'; '.join(self.deviations) or 'none'}")


def read_plain(path: Path) -> Any:
    """What a file of torch.save holds: tensors and plain values. StorageError in a line if it is anything else."""
    try:
        open_plain(path).close()
        with warnings.catch_warnings(), torch.serialization.safe_globals(HARMLESS):
            warnings.simplefilter("ignore")  # about files of old forms; either they can be read or they can't
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)|<class '([\w.]+)'>", str(error))
        raise StorageError(f"{display_path(path)}: no file of tensors and plain values alone: it holds "
                           f"{named[1] or named[2] if named else 'something else'}; nothing in it was executed. Where "
                           "its code is, save its state_dict() alone") from error
    except Exception as error:  # what torch raises for damaged bytes depends on them: RuntimeError, IndexError, ...
        reason = error.strerror if isinstance(error, OSError) else f"truncated or damaged ({type(error).__name__})"
        raise StorageError(f"can't read {display_path(path)}: {reason}") from error


def check_state(path: Path, state: Any) -> None:
    """StorageError unless this is a state_dict of dense, finite tensors of real numbers."""
    if not state or not isinstance(state, dict) or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise StorageError(f"{display_path(path)}: no state_dict (a dict of tensors); `repro weights import` reads "
                           "checkpoints of others")
    for key, value in state.items():
        if value.layout is not torch.strided or value.is_complex() or not value.float().isfinite().all():
            raise StorageError(f"{display_path(path)}: {key} is no dense tensor of finite real numbers")


def run_of_weights(path: Path) -> Run | None:
    """The run whose weights.pt this is; None for any other file."""
    run = read_run(path.absolute().parent)
    return run if path.name == "weights.pt" and run.record is not None else None


def read_weights(path: Path) -> tuple[dict[str, Tensor], Facts | None]:
    """The state_dict in a file, and what goes along with it; None for a plain one of somebody else's.

    StorageError if it can't be read, holds anything else, or is not what the run beside it has recorded.
    """
    state = read_plain(path)
    check_state(path, state)
    content = getattr(state, ATTRIBUTE, None)
    if (run := run_of_weights(path)) is not None and run.record is not None:
        if run.record.weights_sha256 not in (None, file_sha256(path)):
            raise StorageError(f"{display_path(path)} was changed after the run: its SHA-256 is not the recorded one")
        content = content or facts_of(run.record.config)  # the weights of earlier runs have none
    try:
        return state, None if content is None else msgspec.convert(content, Facts)
    except msgspec.ValidationError as error:
        raise StorageError(f"{display_path(path)}: its settings are not those of weights ({error})") from error


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Put a file's state_dict into a model; StorageError as `read_weights`, and for weights of another network."""
    state = read_weights(path)[0]
    if wrong := mismatches(model.state_dict(), state):
        raise StorageError(f"{display_path(path)}: weights of another network: {wrong}")
    model.load_state_dict(state)
    return model


def mismatches(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """How many tensors lack, are unknown or have another shape, with the first of each; '' if none."""
    found = {"missing": [f"{key} {tuple(own[key].shape)}" for key in own if key not in state],
             "unknown": [f"{key} {tuple(state[key].shape)}" for key in state if key not in own],
             "of another shape": [f"{key} {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
                                  for key in own if key in state and own[key].shape != state[key].shape]}
    return ", ".join(f"{len(keys)} {kind}: {keys[0]}" for kind, keys in found.items() if keys)


def compose_for(overrides: Sequence[str], path: Path) -> RunConfig:
    """The configuration with what goes along with a file's weights; without experiment=... it is the file's own.

    ConfigError if the weights are of another network, or need other settings; StorageError as `read_weights`.
    """
    facts = read_weights(path)[1]
    if facts is None:
        return compose(overrides)
    given = {word.partition("=")[0].lstrip("+") for word in overrides}
    words = [override(key, facts.settings[key]) for key in SETTINGS if key in facts.settings]
    if facts.experiment is not None and "experiment" not in given:
        given |= {"model.depth"} if "model.blocks_per_stage" in given else set()  # they say the same
        words += [f"experiment={facts.experiment}", *(override(key, facts.network[key]) for key in NETWORK
                                                      if key in facts.network.keys() - given)]
    config = compose([*words, *overrides])
    values, needed = flat(to_dict(config)), facts.network | facts.settings
    if wrong := difference({key: values.get(key) for key in needed}, needed):
        there, here = (" ".join(override(key, pair[at]) for key, pair in wrong.items()) for at in (1, 0))
        raise ConfigError(f"{display_path(path)}: its weights need {there}, not {here} (experiment={config.name})")
    return config


def facts_of(config: RunConfig) -> dict[str, Any]:
    """What goes along with the weights of a run, as plain values of `Facts`."""
    values = flat(to_dict(config))
    return {"run": f"{config.name} seed {config.seed}", "deviations": deviations(config),
            "experiment": config.name if config.name in experiments() else None,
            "network": {key: values[key] for key in NETWORK},
            "settings": {key: values[key] for key in SETTINGS if key != "data.wiring_test" or values[key]}}


def serialize(state: Mapping[str, Tensor], facts: dict[str, Any]) -> bytes:
    """The bytes of a file of weights: the state_dict on the CPU, contiguous, with these facts."""
    plain = OrderedDict((name, value.detach().cpu().contiguous()) for name, value in state.items())
    setattr(plain, ATTRIBUTE, facts)
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    return buffer.getvalue()


def import_weights(file: Path, layout: str, output: Path) -> Facts:
    """Map a checkpoint of others (torchvision, akamaster) onto our network and write it; what goes along with it.

    StorageError (5) if the file can't be read or holds anything but finite dense tensors, ConfigError (2) naming the
    key if it is not of that layout.
    """
    state = read_plain(file)
    for wrapper in ("state_dict", "model"):  # where akamaster's and timm's, and torchvision's trainers keep it
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    check_state(file, state)
    # Of every key where the network was saved inside of torch.nn.DataParallel, or as torch.compile gave it, or both.
    while prefix := next((one for one in ("module.", "_orig_mod.") if all(key.startswith(one) for key in state)), ""):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    # Weighted layers, of which a network has as many as its name says; projections are not counted.
    depth = sum(value.dim() in (2, 4) and not re.search("downsample|shortcut", key) for key, value in state.items())
    sha256 = file_sha256(file)
    try:
        if layout == TORCHVISION:
            config, stated = torchvision_config(f"{'vgg' if 'features.0.weight' in state else 'resnet'}{depth}", sha256)
        else:
            config, stated = akamaster_config(depth, sha256)
        with torch.device("meta"):
            own = build_model(config.model).state_dict()
        keys = {key: (torchvision_key if layout == TORCHVISION else akamaster_key)(key) for key in own}
        for key in keys.values():
            if key.endswith("num_batches_tracked"):  # torch before 0.4.1 did not keep it, and no test reads it
                state.setdefault(key, torch.zeros((), dtype=torch.int64))
        if wrong := mismatches({keys[key]: value for key, value in own.items()}, state):
            raise ConfigError(f"held against {depth} layers: {wrong}")
    except ConfigError as error:
        raise ConfigError(f"{display_path(file)}: not of {layout}'s layout: {error}") from error
    facts = facts_of(config) | {"run": file.name, "deviations": [], "source": {
        "layout": layout, "file": file.name, "sha256": sha256, "stated by its authors": stated or "nothing"}}
    write_atomic(output, serialize({key: state[keys[key]].to(value.dtype) for key, value in own.items()}, facts))
    return msgspec.convert(facts, Facts)


def akamaster_key(key: str) -> str:
    """akamaster/pytorch_resnet_cifar10's name of one of our parameters."""
    return re.sub(r"^fc\.", "linear.", re.sub(r"^stage(\d)\.", r"layer\1.", key))


def torchvision_key(key: str) -> str:
    """torchvision's name of one of our parameters."""
    key = re.sub(r"^conv(\d)_x\.", lambda found: f"layer{int(found[1]) - 1}.", key)
    return key.replace(".shortcut.conv.", ".downsample.0.").replace(".shortcut.bn.", ".downsample.1.")


def akamaster_config(depth: int, sha256: str) -> tuple[RunConfig, str]:
    """Of a 6n+2-layer network of option A, and its authors' error; the recipe says how it is fed and padded."""
    experiment = f"cifar_resnet{depth}" if f"cifar_resnet{depth}" in experiments() else "cifar_resnet20"
    config = compose([f"experiment={experiment}", f"model.depth={depth}", f"recipe={AKAMASTER}"])
    theirs = next(source for source in second_references()["sources"] if source["key"] == AKAMASTER)
    error = theirs["errors"].get(f"resnet-{depth}") if sha256 == AKAMASTER_FILES.get(depth) else None
    return config, f"{error['test']:.2f} % on CIFAR-10's test set ({theirs['protocol']})" if error else ""


def torchvision_config(name: str, sha256: str) -> tuple[RunConfig, str]:
    """Of a network of Table 1 with option B, bottlenecks with the stride in the 3x3 ("v1.5"), or a VGG; their error."""
    from torchvision.models import get_model_weights  # late: a run needs none of it

    if name not in TORCHVISION_NETS:
        raise ConfigError(f"it has the layers of {name}; there are {', '.join(TORCHVISION_NETS)}")
    # Names of published files hold the beginning of their hash. Choice: any other file is fed as its first weights are.
    every = get_model_weights(name)
    published = next((one for one in every if sha256.startswith(one.url.rpartition("-")[2].removesuffix(".pth"))), None)
    preset = (published or every["IMAGENET1K_V1"]).transforms()
    config = compose([
        f"experiment=imagenet_{'optB' if name == 'resnet34' else name}", "data.normalization=per_channel",
        override("data.channel_mean", preset.mean), override("data.channel_std", preset.std),
        f"data.crop_size={preset.crop_size[0]}", f"data.test_shorter_side={preset.resize_size[0]}",
        *([] if "vgg" in name else ["model.shortcut_option=B", "model.stride_in=conv3x3"])])
    errors = published.meta["_metrics"]["ImageNet-1K"] if published else {}
    return config, f"{100 - errors['acc@1']:.2f} % for {published}, center crop" if errors else ""


def mean_path(weights: Path) -> Path:
    """Where the mean image of exported weights lies: beside the file, under its name."""
    return weights.with_name(f"{weights.name}.mean.npz")


def export_weights(run: Run, folder: Path) -> Path:
    """Write the weights of a finished run, its mean image and a card into a folder; the file of weights.

    ConfigError if the run is not finished or has no weights, StorageError if they are not those of its record.
    """
    path, record = run.folder / "weights.pt", run.record
    if not run.finished or record is None or not path.is_file():
        raise ConfigError(f"{display_path(run.folder)}: no finished run with weights ({run.problem or run.status})")
    target, data = folder / f"{run.name.replace('/', '_')}.pt", record.config.data
    fed = f"scaled to 0..1, minus {data.channel_mean}, divided by {data.channel_std}"
    write_atomic(target, serialize(read_weights(path)[0], facts_of(record.config)))
    if data.normalization is not Normalization.per_channel:
        fed = f"minus the mean image in {mean_path(target).name}"
        if data.name == IMAGENET:
            mean = (run.folder / "mean.npz").read_bytes()
        else:
            from repro.data.cifar10 import load_arrays, on_device  # late: needed here alone

            np.savez(buffer := io.BytesIO(), mean=on_device(load_arrays(data), data, torch.device("cpu")).mean.numpy())
            mean = buffer.getvalue()
        write_atomic(mean_path(target), mean)
    split = record.evaluated_on or run.tested_on
    evidence = run.no_evidence or ("the paper's settings" if run.is_paper_run else "other settings than the paper's")
    write_atomic(target.with_name(f"{target.name}.md"), f"""\
# {target.name}: weights of {title(record.config)}

- {split} top-1 error: {(record.result or {})[f"{split}_top1_error"]:.2f} % ({evidence}; last iteration)
- input: RGB pixels 0..255 of {data.name}, split {data.split.name}, {fed}
- deviations from the paper: {"; ".join(record.deviations or []) or "none"}
- identity {record.identity}, SHA-256 {file_sha256(target)}
- license: MIT; the data have terms of their own

`repro eval weights={target.name}` tests them; `repro.load_model("{target.name}")` gives the network in Python.
""")
    return target
