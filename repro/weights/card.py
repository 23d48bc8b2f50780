"""The model card of exported weights, from their JSON: what they are, how good, how made, how to load them."""

from typing import Any

from repro.config import experiments, flat, override, paper_config, to_dict
from repro.evaluation.protocols import CENTER, LABELS, SINGLE_VIEW
from repro.evaluation.weight_files import SAFETENSORS
from repro.record import Record, Session
from repro.runs import Run
from repro.schema import IMAGENET

LICENSE = "MIT, as this project; the data set that they were trained on has its own terms"


def labels(run: Run) -> list[str]:
    """What must be read before any number of a run: why it is no result of the paper's; [] for a paper run."""
    assert run.record is not None
    found = []
    if run.synthetic:
        found.append("SYNTHETIC IMAGES: says nothing about CIFAR-10")
    if run.wiring_test:
        found.append("WIRING TEST: says nothing about ImageNet")
    full = paper_config(run.experiment).train.iterations if run.experiment in experiments() else 0
    if run.record.iterations < full:
        found.append(f"SHORT RUN: {run.record.iterations:,} of {full:,} iterations")
    if not found and not run.is_paper_run:
        found.append("OTHER SETTINGS than the paper's: see the deviations")
    return found


def model_card(facts: dict[str, Any], record: Record) -> str:
    """The card as Markdown."""
    lines = [f"# {heading(facts, record)}: weights of {facts['run']}", ""]
    lines += [f"> **{label}**\n" for label in facts["labels"]]
    lines += ["| | |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in rows(facts, record)]
    lines += ["", "## Loading", "", "With this project installed, in the folder of these files:", "",
              "```python", *code(facts), "```", "",
              f"`repro eval {' '.join(words(facts))} weights={facts['file']}` tests them again.", ""]
    return "\n".join(lines)


def heading(facts: dict[str, Any], record: Record) -> str:
    """What the network is called: as its experiment is, unless it is another network than that."""
    name, network = facts["experiment"], facts["network"]
    if name and any(flat(to_dict(paper_config(name)))[key] != value for key, value in network.items()):
        return f"{network['model.family'].capitalize()} network of {network['model.depth']} layers"
    return record.config.description or record.experiment


def rows(facts: dict[str, Any], record: Record) -> list[tuple[str, str]]:
    """The facts of the card's table."""
    config, environment = record.config, record.environment
    session = record.sessions[-1] if record.sessions else Session()
    split, settings = facts["evaluated_on"], facts["settings"]
    way = LABELS[CENTER if config.data.name == IMAGENET else SINGLE_VIEW]
    mean = f"minus the mean image in {facts['mean']['file']}" if facts["mean"] else \
        f"scaled to 0..1, minus {settings['data.channel_mean']}, divided by {settings['data.channel_std']}"
    versions = {key: getattr(environment, key) for key in ("python", "torch", "torchvision", "numpy")}
    return [
        (f"{split} top-1 error", f"{(record.result or {})[f'{split}_top1_error']:.2f} % ({way}, last iteration)"),
        *averaged_error(record, split),
        ("data", f"{config.data.name}, split {config.data.split.name}, fingerprint "
         f"{record.data.sha256 if record.data else '?'}"),
        ("input", f"RGB pixels 0..255, {mean}"),
        ("protocol", f"{record.iterations:,} iterations, mini-batches of {config.train.mini_batch_size}, "
         f"learning rate {config.train.lr}, seed {facts['seed']}"),
        ("deviations from the paper", "; ".join(facts["deviations"]) or "none"),
        ("precision, device", f"{config.machine.precision.name}, {environment.device or '?'}"),
        ("versions", ", ".join(f"{key} {version}" for key, version in versions.items() if version) or "?"),
        ("commit", f"{session.commit or '?'}{' with uncommitted changes' if session.dirty else ''}"),
        ("run record", f"identity {facts['identity']}, run.json of SHA-256 {facts['record_sha256']}, whole in "
         f"{facts['file']}.json"),
        ("SHA-256", facts["sha256"]),
        ("license", LICENSE)]


def averaged_error(record: Record, split: str) -> list[tuple[str, str]]:
    """The error with plainly averaged statistics, which these weights do not hold, where the record has it."""
    found = record.recomputed_batch_norm or {}
    error = found.get(f"{split}_top1_error")
    return [] if error is None else [
        ("the same, BN statistics averaged plainly", f"{error:.2f} % ({found['images']:,} images; not in this file)")]


def words(facts: dict[str, Any]) -> list[str]:
    """The overrides that compose the network of the weights."""
    name = facts["experiment"]
    own = facts["network"] | {key: value for key, value in facts["settings"].items() if key.startswith("model.")}
    before = flat(to_dict(paper_config(name))) if name else {}
    wiring = ["data.wiring_test=true"] if facts["wiring_test"] else []
    return [f"experiment={name or 'NAME'}", *wiring,
            *(override(key, value) for key, value in own.items() if before.get(key) != value)]


def code(facts: dict[str, Any]) -> list[str]:
    """Lines of Python that load the weights and classify an image."""
    tensors = facts["file"].endswith(SAFETENSORS)
    size = facts["settings"]["data.crop_size"] or 32
    overrides = ", ".join(f'"{word}"' for word in words(facts))
    channels = ["255 * torch.tensor({}).reshape(3, 1, 1)".format(facts["settings"][f"data.channel_{name}"])
                for name in ("mean", "std")]
    mean, shown = (f'torch.from_numpy(numpy.load("{facts["mean"]["file"]}")["mean"])', "pixels - mean") \
        if facts["mean"] else (channels[0], f"(pixels - mean) / ({channels[1]})")
    load = f'load_file("{facts["file"]}")' if tensors else f'torch.load("{facts["file"]}", weights_only=True)'
    return [*(["import numpy"] if facts["mean"] else []), "import torch",
            *(["from safetensors.torch import load_file"] if tensors else []),
            "from repro.config import compose", "from repro.models import build_model", "",
            f"network = build_model(compose([{overrides}]).model).eval()",
            f"network.load_state_dict({load})",
            f"mean = {mean}",
            f"pixels = torch.full((1, 3, {size}, {size}), 128.0)  # RGB, 0..255",
            f"print(network({shown}).softmax(1))"]
