"""`repro weights export`: the weights of a finished run as a plain file, with a model card and the same as JSON."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from repro.config import experiments, flat, to_dict
from repro.errors import ConfigError
from repro.evaluation.protocols import mean_of, own_mean
from repro.evaluation.weight_files import NETWORK, SAFETENSORS, SCHEMA, SETTINGS, facts_path, with_settings
from repro.evaluation.weights import load_weights
from repro.files import file_sha256, utc_now, write_atomic, write_json
from repro.models import build_model
from repro.paths import data_dir, display_path
from repro.runs import Run
from repro.schema import Device, Normalization, Precision, RunConfig
from repro.weights.card import labels, model_card

SUFFIXES = {"pt": ".pt", "safetensors": SAFETENSORS}
FORMATS = ("auto", *SUFFIXES)


def export(run: Run, folder: Path, form: str) -> tuple[str, dict[str, Any]]:
    """Write a run's weights into `folder` as FORMATS says, their mean image, the JSON and the card; what was written.

    ConfigError if the run is not finished, has no weights, or safetensors is asked for and not installed; StorageError
    if its weights are not those of its record; DataError if there is no mean image.
    """
    path = run.folder / "weights.pt"
    if not run.finished or run.record is None or not path.is_file():
        raise ConfigError(f"{display_path(run.folder)}: no finished run with weights "
                          f"({run.problem or (run.status if run.status != 'finished' else 'no weights.pt')})")
    config = on_cpu(run.record.config)
    state = load_weights(build_model(config.model), path).state_dict()
    suffix = SUFFIXES[choose_format(form)]
    target = folder / f"{run.name.replace('/', '_')}{suffix}"
    write_atomic(target, serialize(state, suffix, run.record.config))
    facts = export_facts(run, config, target) | {"mean": write_mean(config, path, target)}
    card = target.with_name(f"{target.name}.md")
    write_json(facts_path(target), facts)
    write_atomic(card, model_card(facts, run.record))
    written = [target, facts_path(target), card, *([own_mean(target)] if facts["mean"] else [])]
    values = {"written": [str(one) for one in written], **facts}
    return "\n".join(["written:", *(f"  {display_path(one)}" for one in written)]), values


def on_cpu(config: RunConfig) -> RunConfig:
    """A recorded configuration as it is here: on the CPU, with the data where they are now."""
    root = config.data.root
    known = root if root is not None and data_dir(root).is_dir() else None
    machine = replace(config.machine, device=Device.cpu, precision=Precision.fp32)
    return replace(config, machine=machine, data=replace(config.data, root=known))


def choose_format(form: str) -> str:
    """pt or safetensors; `auto` is safetensors where it is installed. ConfigError if it is asked for and is not."""
    if form == "pt":
        return form
    try:
        import safetensors.torch  # noqa: F401
    except ImportError as error:
        if form == "auto":
            return "pt"
        raise ConfigError("--format safetensors: the package safetensors is needed (extra `weights`)") from error
    return "safetensors"


def serialize(state: dict[str, Tensor], suffix: str, config: RunConfig) -> bytes:
    """A state_dict in the bytes of a file of this kind."""
    plain = with_settings(state, config)
    if suffix == SAFETENSORS:
        from safetensors.torch import save

        payload: bytes = save(plain, {"format": "pt"})
        return payload
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    return buffer.getvalue()


def export_facts(run: Run, config: RunConfig, target: Path) -> dict[str, Any]:
    """What the JSON says beside the mean: what the weights are, what they need, and the run's own record."""
    assert run.record is not None
    values = flat(to_dict(config))
    return {
        "schema": SCHEMA, "file": target.name, "format": target.suffix.removeprefix("."),
        "sha256": file_sha256(target), "bytes": target.stat().st_size, "run": f"{run.experiment} seed {run.seed}",
        "experiment": run.experiment if run.experiment in experiments() else None, "seed": run.seed,
        "identity": run.identity, "labels": labels(run), "deviations": run.record.deviations or [],
        "evaluated_on": run.record.evaluated_on or run.tested_on,
        "network": {key: values[key] for key in NETWORK}, "settings": {key: values[key] for key in SETTINGS},
        "wiring_test": run.wiring_test, "record_sha256": file_sha256(run.folder / "run.json"),
        "record": msgspec.to_builtins(run.record), "utc": utc_now()}


def write_mean(config: RunConfig, weights: Path, target: Path) -> dict[str, Any] | None:
    """Keep the mean image beside exported weights, under their name; its file and SHA-256. None for channel means."""
    if config.data.normalization is Normalization.per_channel:
        return None
    buffer = io.BytesIO()
    np.savez(buffer, mean=mean_of(config, weights).numpy())
    path = own_mean(target)
    write_atomic(path, buffer.getvalue())
    return {"file": path.name, "sha256": file_sha256(path)}
