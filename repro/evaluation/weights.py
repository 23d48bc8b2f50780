"""`repro eval`: the error of a network with weights from a file."""

import pickle
from pathlib import Path
from typing import Any

import torch

from repro.data.cifar10 import on_device
from repro.data.sources import load_arrays
from repro.devices import describe, place, resolve, set_up
from repro.errors import ConfigError, StorageError
from repro.evaluation.protocols import evaluate_on
from repro.models import build_model
from repro.places import shown
from repro.ranges import SYNTHETIC
from repro.runs import Run, read_run, run_folder
from repro.schema import RunConfig


def evaluate_file(config: RunConfig, path: Path) -> tuple[str, dict[str, Any]]:
    """Test the configuration's network with the plain state_dict in a file; one line and the same as values.

    Only tensors are read from the file (weights_only). StorageError (5) if it can't be read, is no state_dict, or is
    one of another network.
    """
    config = resolve(config)
    device = set_up(config)
    model = place(load_weights(build_model(config.model), path), config, device)
    data = on_device(load_arrays(config.data), config.data, device)
    outcome = evaluate_on(model, data, config)
    values = {"experiment": config.name, "weights": str(path), "protocol": "single view", "split": data.split,
              "evaluated_on": data.evaluated_on, "images": outcome.images, "errors": outcome.errors,
              f"{data.evaluated_on}_top1_error": outcome.top1_error, f"{data.evaluated_on}_loss": outcome.loss,
              "precision": config.machine.precision.name, "device": describe(device)}
    made = " on synthetic images" if config.data.name == SYNTHETIC else ""
    text = (f"{config.name}{made}: {data.evaluated_on} error {outcome.top1_error:.2f} % ({outcome.errors} of "
            f"{outcome.images}, single view, split {data.split}, {config.machine.precision.name}){training_note(path)}")
    return text, values


def weights_of(config: RunConfig, given: str | None) -> Path:
    """The weights file that is given, or that of the configuration's finished run; ConfigError if there is none."""
    if given:
        return Path(given).expanduser()
    run = read_run(run_folder(resolve(config)))
    path = run.folder / "weights.pt"
    if not run.finished or not path.is_file():
        found = run.problem if run.record is None else "no weights.pt" if run.finished else run.status
        raise ConfigError(f"no finished run in {shown(run.folder)} ({found}): train it with `repro run`, or give "
                          "weights=FILE, a plain state_dict such as a run's weights.pt")
    return path


def mismatch(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> str:
    """Where a state_dict differs from a model's: how many keys, and the first of each kind."""
    own = model.state_dict()
    kinds = {"missing": [k for k in own if k not in state], "unknown": [k for k in state if k not in own],
             "of another shape": [k for k in own if k in state and own[k].shape != state[k].shape]}
    return ", ".join(f"{len(names)} tensors {kind} (e.g. {names[0]})" for kind, names in kinds.items() if names)


def run_beside(weights: Path) -> Run | None:
    """The run whose weights.pt this is; None for any other file."""
    run = read_run(weights.absolute().parent)
    return run if weights.name == "weights.pt" and run.record is not None else None


def training_note(path: Path) -> str:
    """How the weights of a run were trained: its deviations; '' for any other file."""
    run = run_beside(path)
    if run is None or run.record is None:
        return ""
    changes = "; ".join(run.record.get("deviations", [])) or "none"
    return f"\n  weights of {run.experiment} seed {run.seed}; deviations from the paper: {changes}"


def load_weights(model: torch.nn.Module, path: Path) -> torch.nn.Module:
    """Put a file's state_dict into a model."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise StorageError(f"no file {shown(path)}; a run of yours has weights.pt when it is finished") from error
    except pickle.UnpicklingError as error:
        raise StorageError(f"{shown(path)}: not a plain state_dict of tensors; nothing in it was executed") from error
    except (OSError, EOFError, RuntimeError, KeyError, ValueError) as error:
        raise StorageError(f"{shown(path)}: unreadable ({type(error).__name__})") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise StorageError(f"{shown(path)}: not a plain state_dict (a dict of tensors)")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise StorageError(f"{shown(path)}: weights of another network: {mismatch(model, state)}") from error
    return model
