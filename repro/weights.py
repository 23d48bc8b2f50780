"""Files of weights: those of runs, of others (torchvision, akamaster/pytorch_resnet_cifar10), and ours to give away.

Only tensors and plain values are read from any file (weights_only); nothing in it is executed.
"""

import io
import pickle
import re
import warnings
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from repro.config import compose, deviations, difference, experiments, flat, override, override_keys, to_dict
from repro.errors import ConfigError, StorageError
from repro.files import file_sha256, open_plain, write_atomic
from repro.models import build_model
from repro.paper import second_references
from repro.paths import display_path, escape
from repro.runs import Run, read_run, title
from repro.schema import DEPTHS, IMAGENET, Family, Normalization, RunConfig

ATTRIBUTE = "repro"  # of the state_dict in a file of ours: its `Facts`, which others overlook
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
Plain = bool | int | float | str | list[float] | None


class Facts(msgspec.Struct):
    """What goes along with weights."""

    run: str  # whose weights they are
    experiment: Plain
    network: dict[str, Plain]  # the values of NETWORK
    settings: dict[str, Plain]  # and of SETTINGS
    deviations: list[str] = []  # from the paper's settings
    source: dict[str, str] = {}  # of others: layout, file, sha256, and the error that its authors state

    def __post_init__(self) -> None:
        # No pattern in `Plain`: of a union of such a str and a list msgspec 0.22 crashes in garbage collection.
        for value in (self.experiment, *self.network.values(), *self.settings.values()):
            if isinstance(value, str) and not re.fullmatch(r"\w[\w.-]*", value):
                raise ValueError(f"{value!r} is no plain name")  # a ValidationError of what converts it

    @property
    def note(self) -> str:
        """Where the weights come from, in a line."""
        if self.source:
            return escape(f"weights of others: {', '.join(f'{key} {value}' for key, value in self.source.items())}")
        return escape(f"weights of {self.run}; deviations from the paper: {'; '.join(self.deviations) or 'none'}")


def read_state(path: Path, foreign: bool = False) -> dict[str, Tensor]:
    """The state_dict in a file, or (foreign) in what trainers of others save; StorageError in a line for all else."""
    try:
        open_plain(path).close()
        with warnings.catch_warnings(), torch.serialization.safe_globals(HARMLESS):
            warnings.simplefilter("ignore")  # about files of old forms; either they can be read or they can't
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise StorageError(f"{display_path(path)}: no file of tensors and plain values alone; nothing in it was "
                           "executed. Where its code is, save its state_dict() alone") from error
    except Exception as error:  # what torch raises for damaged bytes depends on them: RuntimeError, IndexError, ...
        reason = error.strerror if isinstance(error, OSError) else f"truncated or damaged ({type(error).__name__})"
        raise StorageError(f"can't read {display_path(path)}: {reason}") from error
    for wrapper in ("state_dict", "model") if foreign else ():  # of akamaster's and timm's, and torchvision's trainers
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not state or not isinstance(state, dict) or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise StorageError(f"{display_path(path)}: no state_dict (a dict of tensors); `repro weights import` reads "
                           "checkpoints of others")
    for key, value in state.items():
        if value.layout is not torch.strided or value.is_complex() or not value.float().isfinite().all():
            raise StorageError(f"{display_path(path)}: {key} is no dense tensor of finite real numbers")
    return state


def run_of_weights(path: Path) -> Run | None:
    """The run whose weights.pt this is; None for any other file."""
    run = read_run(path.absolute().parent)
    return run if path.name == "weights.pt" and run.record is not None else None


def read_weights(path: Path) -> tuple[dict[str, Tensor], Facts | None]:
    """The state_dict in a file and what goes along with it, if anything does; StorageError if the run's was changed."""
    state = read_state(path)
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
    return put_weights(model, read_weights(path)[0], path)


def put_weights(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """Put what `read_weights` gave of a file into a model; StorageError for weights of another network."""
    if wrong := mismatches(model.state_dict(), state):
        raise StorageError(f"{display_path(path)}: weights of another network: {wrong}")
    model.load_state_dict(state)
    return model


def mismatches(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """How many tensors lack, are too many or have another shape, and the first of them; '' if none."""
    wrong = difference(*({key: tuple(value.shape) for key, value in one.items()} for one in (own, state)))
    return next((f"{len(wrong)} of its tensors differ, as {key}: {there or 'missing'}, not {here or 'there'}"
                 for key, (here, there) in wrong.items()), "")


def compose_for(overrides: Sequence[str], path: Path) -> RunConfig:
    """The configuration with what goes along with a file's weights; ConfigError if the overrides contradict that."""
    facts = read_weights(path)[1]
    if facts is None:
        return compose(overrides)
    given = override_keys(overrides)
    given |= {"model.depth"} if "model.blocks_per_stage" in given else set()  # another spelling
    words = [override(key, facts.settings[key]) for key in SETTINGS if key in facts.settings]
    if facts.experiment is not None and "experiment" not in given:
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
    torch.save(plain, buffer := io.BytesIO())
    return buffer.getvalue()


def import_weights(file: Path, layout: str, output: Path) -> Facts:
    """Map a checkpoint of torchvision or akamaster onto our network and write it; ConfigError names what differs."""
    state = read_state(file, foreign=True)
    # Of every key where the network was saved inside of torch.nn.DataParallel, or as torch.compile gave it, or both.
    while prefix := next((one for one in ("module.", "_orig_mod.") if all(key.startswith(one) for key in state)), ""):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    # Weighted layers, of which a network has as many as its name says; projections are not counted.
    depth = sum(value.dim() in (2, 4) and not re.search("downsample|shortcut", key) for key, value in state.items())
    sha256 = file_sha256(file)
    try:
        config, stated = (torchvision_config if layout == TORCHVISION else akamaster_config)(depth, sha256)
        with torch.device("meta"):
            own = build_model(config.model).state_dict()
        keys = {key: their_key(layout, key) for key in own}
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


def their_key(layout: str, key: str) -> str:
    """What torchvision or akamaster/pytorch_resnet_cifar10 calls one of our parameters."""
    if layout == AKAMASTER:
        return re.sub(r"^fc\.", "linear.", re.sub(r"^stage(\d)\.", r"layer\1.", key))
    key = re.sub(r"^conv(\d)_x\.", lambda found: f"layer{int(found[1]) - 1}.", key)
    return key.replace(".shortcut.conv.", ".downsample.0.").replace(".shortcut.bn.", ".downsample.1.")


def akamaster_config(depth: int, sha256: str) -> tuple[RunConfig, str]:
    """Of a 6n+2-layer network of option A, and its authors' error; the recipe says how it is fed and padded."""
    experiment = f"cifar_resnet{depth}" if f"cifar_resnet{depth}" in experiments() else "cifar_resnet20"
    config = compose([f"experiment={experiment}", f"model.depth={depth}", f"recipe={AKAMASTER}"])
    theirs = next(source for source in second_references()["sources"] if source["key"] == AKAMASTER)
    error = theirs["errors"].get(f"resnet-{depth}", {})
    published = error.get("sha256") == sha256  # of no other file the error is stated
    return config, f"{error['test']:.2f} % on CIFAR-10's test set ({theirs['protocol']})" if published else ""


def torchvision_config(depth: int, sha256: str) -> tuple[RunConfig, str]:
    """Of a network of Table 1 with option B, bottlenecks with the stride in the 3x3 ("v1.5"), and its error."""
    from torchvision.models import get_model_weights  # late: a run needs none of it

    name, known = f"resnet{depth}", DEPTHS[Family.residual]
    if depth not in known:
        raise ConfigError(f"it has the layers of {name}; there are those of {', '.join(map(str, known))}")
    # Names of published files hold the beginning of their hash. Choice: any other file is fed as its first weights are.
    every = get_model_weights(name)
    published = next((one for one in every if sha256.startswith(one.url.rpartition("-")[2].removesuffix(".pth"))), None)
    preset = (published or every["IMAGENET1K_V1"]).transforms()
    config = compose([
        f"experiment=imagenet_{'optB' if depth == 34 else name}", "model.shortcut_option=B", "model.stride_in=conv3x3",
        "data.normalization=per_channel", override("data.channel_mean", preset.mean),
        override("data.channel_std", preset.std), f"data.crop_size={preset.crop_size[0]}",
        f"data.test_shorter_side={preset.resize_size[0]}"])
    errors = published.meta["_metrics"]["ImageNet-1K"] if published else {}
    return config, f"{100 - errors['acc@1']:.2f} % for {published}, center crop" if errors else ""


def mean_path(weights: Path) -> Path:
    """Where the mean image of exported weights lies: beside the file, under its name."""
    return weights.with_name(f"{weights.name}.mean.npz")


def export_weights(run: Run, folder: Path) -> Path:
    """Write a finished run's weights, a card, and of ImageNet the mean image into a folder; the file of weights."""
    path, record = run.folder / "weights.pt", run.record
    if not run.finished or record is None or not path.is_file():
        raise ConfigError(f"{display_path(run.folder)}: no finished run with weights ({run.problem or run.status})")
    target, data = folder / f"{run.name.replace('/', '_')}.pt", record.config.data
    write_atomic(target, serialize(read_weights(path)[0], facts_of(record.config)))
    fed = "minus the mean image of the training images"
    if data.normalization is Normalization.per_channel:
        fed = f"scaled to 0..1, minus {data.channel_mean}, divided by {data.channel_std}"
    elif data.name == IMAGENET:
        write_atomic(mean_path(target), (run.folder / "mean.npz").read_bytes())
        fed += f" ({mean_path(target).name})"
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
