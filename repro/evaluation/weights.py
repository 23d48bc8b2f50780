"""`repro eval`: the error of a network with weights from a file."""

from pathlib import Path
from typing import Any

import torch

from repro.config import flat, to_dict
from repro.data.cifar10 import load_arrays, on_device
from repro.devices import describe, place, resolve, restore_settings, set_up
from repro.errors import ConfigError, StorageError
from repro.evaluation.metrics import Outcome, evaluate_on
from repro.evaluation.weight_files import SETTINGS, Carried, check_tensors, read_weights
from repro.files import file_sha256, utc_now, write_json
from repro.models import build_model
from repro.paths import display_path, results_dir, user_path
from repro.provenance import code_version, package_versions
from repro.runs import read_run, run_folder
from repro.schema import SYNTHETIC, RunConfig


@restore_settings()
def evaluate_file(config: RunConfig, path: Path) -> tuple[str, dict[str, Any]]:
    """Test the configuration's network with the weights in a file; one line and the same as values.

    Only tensors are read from the file (weights_only). The result of weights of others is recorded too, apart from all
    runs. StorageError (5) if the file can't be read, is no state_dict, or is one of another network.
    """
    config = resolve(config)
    device = set_up(config)
    carried = read_weights(path)[1]
    model = place(load_weights(build_model(config.model), path), config, device)
    data = on_device(load_arrays(config.data), config.data, device)
    outcome = evaluate_on(model, data, config)
    values = {"experiment": config.name, "weights": str(path), "protocol": "single view", "split": data.split,
              "evaluated_on": data.evaluated_on, "images": outcome.images, "errors": outcome.errors,
              f"{data.evaluated_on}_top1_error": outcome.top1_error, f"{data.evaluated_on}_loss": outcome.loss,
              "precision": config.machine.precision.name, "device": describe(device)}
    made = " on synthetic images" if config.data.name == SYNTHETIC else ""
    made += f" ({carried.label})" if carried and carried.label else ""
    text = (f"{config.name}{made}: {data.evaluated_on} error {outcome.top1_error:.2f} % ({outcome.errors} of "
            f"{outcome.images}, single view, split {data.split}, {config.machine.precision.name}){training_note(path)}")
    values |= carried_facts(carried)
    if carried is not None and carried.of_others:
        digest = file_sha256(path)
        kept = evaluations_of_file(config, path, digest) / evaluation_name(config, outcome)
        settings = {key: value for key, value in flat(to_dict(config)).items() if key in SETTINGS}
        write_json(kept, {"schema": 1, **values, "weights": path.name, "weights_sha256": digest, "settings": settings,
                          "data": {"name": config.data.name, "sha256": data.sha256},
                          "versions": package_versions(), **code_version(), "utc": utc_now(), "finished": True})
        text += f"\n  kept in {display_path(kept)}"
    return text, values


def carried_facts(carried: Carried | None) -> dict[str, Any]:
    """What a record says of weights that are not a run's own: whose they are, and which file they come from."""
    return {"weights_of": carried.label, "source": carried.source} if carried and carried.label else {}


def evaluations_of_file(config: RunConfig, path: Path, digest: str) -> Path:
    """Where tests of weights of others are kept: apart from all runs, by the file's name and SHA-256."""
    return results_dir(config.results) / "imported" / f"{path.stem}-{digest[:12]}"


def evaluation_name(config: RunConfig, outcome: Outcome) -> str:
    """A file for each data set, split and precision that weights of others are tested on."""
    data = config.data
    return f"single_view_{data.name}_{data.split.name}_{outcome.images}_{config.machine.precision.name}.json"


def weights_of(config: RunConfig, given: str | None) -> Path:
    """The weights file that is given, or that of the configuration's finished run; ConfigError if there is none."""
    if given:
        return user_path(given)
    run = read_run(run_folder(resolve(config)))
    path = run.folder / "weights.pt"
    if not run.finished or not path.is_file():
        found = run.problem if run.record is None else "no weights.pt" if run.finished else run.status
        raise ConfigError(f"no finished run in {display_path(run.folder)} ({found}): train it with `repro run`, or "
                          "give weights=FILE, a plain state_dict such as a run's weights.pt")
    return path


def mismatch(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> str:
    """Where a state_dict differs from a model's: how many keys, and the first of each kind."""
    own = model.state_dict()
    kinds = {"missing": [k for k in own if k not in state], "unknown": [k for k in state if k not in own],
             "of another shape": [k for k in own if k in state and own[k].shape != state[k].shape]}
    return ", ".join(f"{len(names)} tensors {kind} (e.g. {names[0]})" for kind, names in kinds.items() if names)


def training_note(path: Path) -> str:
    """How weights were trained, as their file says; '' where there is no file."""
    if not path.is_file():
        return ""
    carried = read_weights(path)[1]
    return f"\n  {carried.note if carried else 'the file does not say how its weights were trained'}"


def load_weights(model: torch.nn.Module, path: Path) -> torch.nn.Module:
    """Put a file's state_dict into a model; StorageError as `read_weights`, and for weights of another network."""
    state = read_weights(path)[0]
    check_tensors(path, state)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise StorageError(f"{display_path(path)}: weights of another network: {mismatch(model, state)}") from error
    return model
