"""`repro weights import`: a public checkpoint as a file of our own names, with the settings that its network needs."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repro.config import flat, paper_config, to_dict
from repro.errors import ConfigError, StorageError
from repro.evaluation.weight_files import (
    NETWORK,
    SAFETENSORS,
    SCHEMA,
    check_tensors,
    is_state_dict,
    read_plain,
    read_safetensors,
)
from repro.files import file_sha256, utc_now, write_atomic
from repro.models import build_model
from repro.paths import display_path
from repro.weights.layouts import KEYS, PREFIXES, Found, find_network

# Where a checkpoint keeps its state_dict: akamaster's trainer and timm's, torchvision's.
WRAPPERS = ("state_dict", "model")
COUNTER = "num_batches_tracked"  # of updates; torch before 0.4.1 did not keep it, and no test reads it


def import_file(file: Path, form: str, output: Path | None, folder: Path) -> tuple[str, dict[str, Any]]:
    """Map a checkpoint of this layout onto our network and write it; in words and as values.

    Without an output it is a file in `folder` named after the network and the layout.

    StorageError (5) if the file can't be read or holds anything but finite dense tensors, ConfigError (2) naming the
    key if it is not of that layout, and if `output` is there and is no imported file.
    """
    content = read_safetensors(file) if file.suffix == SAFETENSORS else read_plain(file)
    state, others = state_of(content, file)
    sha256 = file_sha256(file)
    try:
        found = find_network(form, state, sha256)
        weights = map_tensors(state, found, form)
    except ConfigError as error:
        raise ConfigError(f"{display_path(file)}: {error}") from error
    output = output or folder / f"{found.name}-{form}.pt"
    check_output(file, output)
    source: dict[str, Any] = {
        "form": form, "file": file.name, "sha256": sha256, "network": found.name,
        "types": sorted({str(value.dtype).removeprefix("torch.") for value in state.values() if value.dim()}),
        "left_out": [key for key in others if isinstance(key, str)], "stated": found.stated}
    network = flat(to_dict(found.config))
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA, "weights": weights, "experiment": found.experiment,
                "network": {key: network[key] for key in NETWORK}, "settings": found.needed, "source": source,
                "utc": utc_now()}, buffer)
    write_atomic(output, buffer.getvalue())
    values = {"output": str(output), "experiment": found.experiment, "settings": found.needed, "source": source}
    return format_result(values, found, len(weights), output), values


def check_output(file: Path, output: Path) -> None:
    """ConfigError if the output is the source itself or anything but an imported file."""
    if output.suffix == SAFETENSORS:
        raise ConfigError(f"{display_path(output)}: an imported file is one of torch.save; call it .pt")
    if not output.exists():
        return
    try:
        content = None if output.resolve() == file.resolve() else read_plain(output)
    except StorageError:
        content = None
    if not isinstance(content, dict) or not {"schema", "weights", "source"} <= content.keys():
        raise ConfigError(f"{display_path(output)} is there already and is no imported file; give another --output")


def state_of(content: Any, file: Path) -> tuple[dict[str, Tensor], list[Any]]:
    """The state_dict of a checkpoint without the prefixes of wrapped networks, and what else the checkpoint holds.

    StorageError if there is none, or a tensor of it is sparse, quantized, complex or not finite.
    """
    others: list[Any] = []
    if isinstance(content, dict):
        wrapper = next((key for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if wrapper is not None:
            others, content = [key for key in content if key != wrapper], content[wrapper]
    if not is_state_dict(content) or not content:
        raise StorageError(f"{display_path(file)}: no state_dict (a dict of tensors), nor one under "
                           + " or ".join(WRAPPERS))
    state: dict[str, Tensor] = content
    check_tensors(file, state)
    while prefix := next((one for one in PREFIXES if all(key.startswith(one) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state, others


def map_tensors(state: Mapping[str, Tensor], found: Found, form: str) -> dict[str, Tensor]:
    """The tensors under our names, as float32; ConfigError naming the first key that lacks, is unknown or differs."""
    with torch.device("meta"):
        own = build_model(found.config.model).state_dict()
    names = {KEYS[form](key): key for key in own}
    missing = [name for name in names if name not in state and not name.endswith(COUNTER)]
    unknown = [name for name in state if name not in names]
    shaped = [name for name in names if name in state and state[name].shape != own[names[name]].shape]
    problems = [*(f"no {name} {tuple(own[names[name]].shape)}" for name in missing[:1]),
                *(f"an unknown {name} {tuple(state[name].shape)}" for name in unknown[:1]),
                *(f"{name} is {tuple(state[name].shape)}, not {tuple(own[names[name]].shape)}" for name in shaped[:1])]
    if problems:
        counts = f"{len(missing)} missing, {len(unknown)} unknown, {len(shaped)} of another shape"
        raise ConfigError(f"not {form}'s {found.name}: {'; '.join(problems)} ({counts})")
    result = {}
    for name, key in names.items():
        value = state[name] if name in state else torch.zeros((), dtype=torch.int64)
        result[key] = value.to(own[key].dtype).clone().contiguous()
    return result


def format_result(values: dict[str, Any], found: Found, tensors: int, output: Path) -> str:
    """What was imported and how to test it."""
    source = values["source"]
    experiment, depth = f"experiment={found.experiment}", found.config.model.depth
    if depth != paper_config(found.experiment).model.depth:
        experiment += f" model.depth={depth}"
    lines = [f"{found.name} ({source['form']}): {tensors} tensors of {source['file']}, SHA-256 "
             f"{source['sha256'][:12]}, {', '.join(source['types'])}"]
    if source["left_out"]:
        lines.append(f"  left out: {', '.join(source['left_out'])}")
    lines += [f"  settings that go along: {' '.join(f'{key}={value}' for key, value in found.needed.items())}",
              f"  stated by its authors, not measured here: {found.stated}" if found.stated else
              "  no error is known to be stated for this file",
              f"written: {display_path(output)}",
              f"test it with: repro eval {experiment} weights={display_path(output)}"]
    return "\n".join(lines)
