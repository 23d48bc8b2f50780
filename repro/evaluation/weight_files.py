"""Files of weights: those of a run and imported ones, which carry their settings, exported ones with their JSON.

A state_dict of any other origin carries nothing.

Only tensors and plain values are ever read from a file (weights_only); whatever else is in it is not executed.
"""

import pickle
import re
import warnings
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.config import compose, deviations, difference, experiments, flat, override, paper_config, to_dict
from repro.errors import ConfigError, StorageError
from repro.files import file_sha256, open_plain, read_json
from repro.paths import display_path
from repro.runs import Run, read_run
from repro.schema import RunConfig
from repro.wording import escape

SCHEMA = 1
SAFETENSORS = ".safetensors"
CARRIED = "repro"  # attribute of the state_dict in a run's weights.pt
# What beside its weights decides what a network answers, and so goes along with them.
SETTINGS = ("model.shortcut_option", "model.zero_padding", "model.stride_in", "model.batch_norm_eps", "data.split",
            "data.normalization", "data.channel_mean", "data.channel_std", "data.crop_size", "data.test_shorter_side")
NETWORK = ("model.depth", "model.architecture", "model.family", "model.num_classes")  # which network it is
# What other trainers save beside their tensors and does nothing when it is read, some under the names of other
# versions: a command's options, NumPy's numbers, paths.
NUMBER = np.float64(0).__reduce__()[0]  # the function that makes any number of NumPy from its bytes
HARMLESS: list[Any] = [
    Namespace, np.dtype, *(type(np.dtype(kind)) for kind in "?bhilqBHILQefdU"),
    *((NUMBER, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((kind, f"{module}.{pure}{name}") for module in ("pathlib", "pathlib._local") for pure in ("", "Pure")
      for kind, name in ((PurePosixPath, "PosixPath"), (PureWindowsPath, "WindowsPath")))]


@dataclass(frozen=True)
class Carried:
    """What a file says of its weights beside the weights.

    experiment: whose network it is, None if that has no experiment; network, settings: dotted keys (NETWORK, SETTINGS)
    and plain values; of_others: whether the weights are not those of a run of ours; note: where they come from, in a
    line; source: the same as values, {} for the weights.pt of a run.
    """

    experiment: str | None
    network: dict[str, Any]
    settings: dict[str, Any]
    of_others: bool
    note: str
    source: dict[str, Any]

    @property
    def label(self) -> str:
        """What stands beside every number: whose weights these are; '' for those of a run."""
        if not self.source:
            return ""
        return f"weights of others ({self.source.get('form')})" if self.of_others else "exported weights"


def read_weights(path: Path) -> tuple[dict[str, Tensor], Carried | None]:
    """The state_dict in a file of any of the three kinds, and what the file carries.

    StorageError if it can't be read or holds anything else, ConfigError if safetensors is not installed.
    """
    if path.suffix == SAFETENSORS:
        return read_safetensors(path), export_facts(path)
    content = read_plain(path)
    if isinstance(content, dict) and is_state_dict(content.get("weights")):
        return content["weights"], import_facts(path, content)
    if not is_state_dict(content):
        raise StorageError(f"{display_path(path)}: not a plain state_dict (a dict of tensors); `repro weights import` "
                           "reads checkpoints of others")
    return content, export_facts(path) or run_facts(path, content)


def is_state_dict(value: Any) -> bool:
    """Whether this is a dict of names and tensors."""
    return isinstance(value, dict) and all(isinstance(key, str) and isinstance(tensor, Tensor)
                                           for key, tensor in value.items())


def check_tensors(path: Path, state: dict[str, Tensor]) -> None:
    """StorageError naming the first tensor that is sparse, quantized, complex or not finite."""
    for key, value in state.items():
        if value.layout is not torch.strided or value.is_quantized or value.is_complex() or value.is_meta:
            raise StorageError(f"{display_path(path)}: {key} is no dense tensor of real numbers")
        if not value.float().isfinite().all():
            raise StorageError(f"{display_path(path)}: {key} has values that are not finite")


def read_plain(path: Path) -> Any:
    """What a file of torch.save holds: tensors and plain values. StorageError in a line if it is anything else."""
    try:
        with open_plain(path) as file:
            head = file.read(64).lstrip()
    except FileNotFoundError as error:
        raise StorageError(f"no file {display_path(path)}; a finished run of yours has weights.pt") from error
    except OSError as error:
        raise StorageError(f"{display_path(path)}: unreadable ({error.strerror})") from error
    if not head:
        raise StorageError(f"{display_path(path)}: the file is empty")
    if head.startswith(b"<"):
        raise StorageError(f"{display_path(path)}: a web page, not weights: its download failed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files of old forms; either they can be read or they can't
            with torch.serialization.safe_globals(HARMLESS):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)|<class '([\w.]+)'>", str(error))
        found = f"it holds {named[1] or named[2]}" if named else "it holds something else"
        raise StorageError(f"{display_path(path)}: no file of tensors and plain values alone: {found}; nothing in it "
                           "was executed. Where its code is, save its state_dict() alone") from error
    except Exception as error:  # what torch raises for damaged bytes depends on them: RuntimeError, IndexError, ...
        raise StorageError(f"{display_path(path)}: unreadable, truncated or damaged "
                           f"({type(error).__name__})") from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ConfigError(f"{display_path(path)}: the package safetensors is needed (extra `weights`)") from error
    try:
        open_plain(path).close()
        state: dict[str, Tensor] = load_file(path)
    except FileNotFoundError as error:
        raise StorageError(f"no file {display_path(path)}") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise StorageError(f"{display_path(path)}: unreadable, truncated or damaged "
                           f"({type(error).__name__})") from error
    return state


def facts_path(path: Path) -> Path:
    """The JSON beside an exported file."""
    return path.with_name(f"{path.name}.json")


def import_facts(path: Path, content: dict[str, Any]) -> Carried:
    """What a file of `repro weights import` carries; StorageError if it is not of a form that this version knows."""
    if content.get("schema") != SCHEMA or not isinstance(content.get("source"), dict):
        raise StorageError(f"{display_path(path)}: an imported file of schema {content.get('schema')}; this version "
                           f"reads {SCHEMA}: import it again")
    source = content["source"]
    stated = f"; stated by its authors: {source['stated']}" if source.get("stated") else ""
    note = (f"weights of others ({source.get('form')}): {source.get('file')}, SHA-256 "
            f"{str(source.get('sha256'))[:12]}{stated}")
    return read_carried(path, content, True, note, source)


def export_facts(path: Path) -> Carried | None:
    """What the JSON beside a file of `repro weights export` says; None without one.

    StorageError if it can't be read or is of other weights.
    """
    try:
        content = read_json(facts_path(path))
        if content["schema"] != SCHEMA:
            raise StorageError(f"{display_path(facts_path(path))}: schema {content['schema']}; this version reads "
                               f"{SCHEMA}")
        if content["sha256"] != file_sha256(path):
            raise StorageError(f"{display_path(path)}: not the weights of {display_path(facts_path(path))}: another "
                               "SHA-256")
        note = training_summary(content)
        source = {key: content[key] for key in ("experiment", "seed", "identity", "sha256")}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{display_path(facts_path(path))}: unreadable ({type(error).__name__})") from error
    return read_carried(path, content, False, note, source)


def with_settings(state: dict[str, Tensor], config: RunConfig) -> OrderedDict[str, Tensor]:
    """A run's state_dict on the CPU, contiguous, to be saved, with its settings as an attribute.

    The attribute goes wherever the file goes; others overlook it.
    """
    values = flat(to_dict(config))
    plain = OrderedDict((name, value.detach().cpu().contiguous()) for name, value in state.items())
    setattr(plain, CARRIED, {
        "experiment": config.name if config.name in experiments() else None, "run": f"{config.name} seed {config.seed}",
        "deviations": deviations(config), "network": {key: values[key] for key in NETWORK},
        "settings": {key: values[key] for key in SETTINGS}})
    return plain


def run_facts(path: Path, state: dict[str, Tensor]) -> Carried | None:
    """What the weights of a run carry, or the record beside them says; None for a state_dict of somebody else's.

    StorageError if they are not those that the record beside them was written with.
    """
    run = run_of_weights(path)
    content = getattr(state, CARRIED, None)
    if run is not None and run.record is not None:
        if run.record.weights_sha256 not in (None, file_sha256(path)):
            raise StorageError(f"{display_path(path)} was changed after the run: its SHA-256 is not the recorded one")
        content = content or (getattr(with_settings({}, run.record.config), CARRIED)
                              | {"deviations": run.record.deviations})
    if content is None:
        return None
    if not isinstance(content, dict):
        raise StorageError(f"{display_path(path)}: its settings are not those of weights")
    return read_carried(path, content, False, training_summary(content), {})


def training_summary(content: dict[str, Any]) -> str:
    """How weights of ours were trained, in a line."""
    found = content.get("deviations")
    changes = "; ".join(map(str, found)) if isinstance(found, list) and found else "none"
    return escape(f"weights of {content.get('run')}; deviations from the paper: {changes}")


def run_of_weights(weights: Path) -> Run | None:
    """The run whose weights.pt this is; None for any other file."""
    run = read_run(weights.absolute().parent)
    return run if weights.name == "weights.pt" and run.record is not None else None


def read_carried(path: Path, content: dict[str, Any], of_others: bool, note: str, source: dict[str, Any]) -> Carried:
    """The parts of a file's content as Carried; StorageError for a key or value that no file of ours has."""
    experiment, network, settings = (content.get(key) for key in ("experiment", "network", "settings"))
    good = isinstance(network, dict) and set(network) == set(NETWORK) and isinstance(settings, dict) \
        and set(settings) <= set(SETTINGS) \
        and all(is_plain(value) for value in (*network.values(), *settings.values(), experiment))
    if not good or not isinstance(network, dict) or not isinstance(settings, dict):
        raise StorageError(f"{display_path(path)}: its settings are not those of weights")
    return Carried(experiment, network, settings, of_others, note, source)


def is_plain(value: Any) -> bool:
    """Whether this may stand in an override: a number, a word, null, or a list of numbers."""
    if isinstance(value, list):
        return all(isinstance(entry, (int, float)) for entry in value)
    return value is None or isinstance(value, (int, float)) or bool(isinstance(value, str) and re.fullmatch(
        r"\w[\w.-]*", value))


def with_carried_settings(overrides: Sequence[str], path: Path) -> tuple[RunConfig, str]:
    """The configuration with the settings that a weights file carries, and a line that says which; '' for none.

    Without experiment=... it is the file's own, with the file's depth. ConfigError if the file is of another network
    than the experiment, or an override contradicts it; StorageError as `read_weights`.
    """
    carried = read_weights(path)[1]
    if carried is None:
        return compose(overrides), ""
    words, given = list(overrides), {key_of(word) for word in overrides}
    if carried.experiment and "experiment" not in given:
        before = flat(to_dict(paper_config(carried.experiment)))
        words = [f"experiment={carried.experiment}",
                 *(override(key, value) for key, value in carried.network.items()
                   if before[key] != value and not given & {key, "model.blocks_per_stage"}), *words]
    own = [override(key, value) for key, value in carried.settings.items()]
    try:
        config = compose([*own, *words])
    except ConfigError:  # perhaps because the settings are those of another data set; then that is said
        check_network(path, carried, compose([word for word in words if key_of(word) not in carried.settings]))
        raise
    check_network(path, carried, config)
    values = flat(to_dict(config))
    if wrong := difference(carried.settings, {key: values[key] for key in carried.settings}):
        here, there = (" ".join(override(key, pair[at]) for key, pair in wrong.items()) for at in (1, 0))
        raise ConfigError(f"{here} contradicts {display_path(path)}, whose weights need {there}")
    before = flat(to_dict(paper_config(config.name))) if config.name in experiments() else {}
    changed = [word for word in own if before.get(key_of(word)) != carried.settings[key_of(word)]
               and key_of(word) not in given]
    return config, f"settings of {display_path(path)}: {' '.join(changed)}" if changed else ""


def check_network(path: Path, carried: Carried, config: RunConfig) -> None:
    """ConfigError naming what differs between the network of a file and that of a configuration, depths first."""
    values = flat(to_dict(config))
    if wrong := difference({key: carried.network[key] for key in NETWORK}, {key: values[key] for key in NETWORK}):
        words = "; ".join(f"{key}={there} there, {here} here" for key, (there, here) in wrong.items())
        raise ConfigError(f"{display_path(path)} is of another network than experiment={config.name}: {words}")


def key_of(word: str) -> str:
    """The key of an override."""
    return word.partition("=")[0].lstrip("+")
