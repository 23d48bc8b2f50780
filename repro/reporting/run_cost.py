"""What runs of an experiment took, as far as it was measured, and what an ImageNet run costs, computed. No torch.

Measured are finished runs and committed benchmarks; `computed` says in every line that it is computed.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.config import paper_config
from repro.paper import costs, golden_count, read_yaml
from repro.places import conf_dir
from repro.ranges import CLASSES, IMAGENET
from repro.runs import Run, scan
from repro.schema import RunConfig

OPERATIONS = 3 * 2  # of one multiply-add in training: 2 operations, forward once and backward twice
FLOAT, HALF = 4, 2  # bytes of a number in fp32 and float16
COPIES = 3  # weights, gradients, momentum
MINI_BATCH = 256  # Sec. 3.4


def measured_times(experiment: str, identities: frozenset[str], iterations: int, *roots: Path) -> list[dict[str, Any]]:
    """Times of finished runs with one of these identities, in seconds, each with its machine and where it stands."""
    found = []
    for root in roots:
        for run in scan(root / "runs"):
            if run.experiment != experiment or not run.finished or run.identity not in identities:
                continue
            seconds, environment, content = seconds_of(run), environment_of(run), run.record or {}
            if seconds is None or "device" not in environment:
                continue
            together, devices = environment.get("jobs_per_device", 1), environment.get("devices", 1)
            found.append({"seconds": seconds, "kind": "run", "iterations": iterations, "devices": devices,
                          "device": device_text(environment) + (f", {together} runs at once" * (together > 1)),
                          "precision": content["config"]["machine"]["precision"],
                          "from": f"{run.folder.parent.name}/{run.folder.name}"})
    return found


def seconds_of(run: Run) -> float | None:
    """Seconds that a run trained and tested; None where its record does not say so."""
    content = run.record or {}
    train, tests = content.get("train_seconds"), content.get("evaluation_seconds")
    return None if train is None or tests is None else float(train) + float(tests)


def environment_of(run: Run) -> dict[str, Any]:
    """Where a run was executed, {} where its record does not say so."""
    return (run.record or {}).get("environment") or {}


def device_text(environment: Mapping[str, Any]) -> str:
    """'8 x NVIDIA H100', or the name of the only device."""
    devices = environment.get("devices", 1)
    return f"{devices} x {environment['device']}" if devices > 1 else str(environment["device"])


def benchmarks(experiment: str, reference: Path) -> list[dict[str, Any]]:
    """Committed estimates of the experiment as it stands: whole runs computed from a few measured updates."""
    found = []
    for path in sorted((reference / "bench").glob("cost_*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        found += [{"seconds": one["run_seconds"], "kind": "estimate", "iterations": one["iterations"],
                   "device": one["device"], "precision": one["precision"], "from": path.name}
                  for one in content["experiments"] if one["experiment"] == experiment]
    return found


def computed(config: RunConfig, counted: Mapping[str, Any]) -> dict[str, Any]:
    """What an ImageNet run costs before anything of it is measured; {} for another data set.

    counted: of `repro.reporting.settings.counts`. Operations of all updates, hours of a GPU of the assumed rate, bytes
    of memory in fp32 at the mini-batch of all devices, bytes on disk. A part that is not known of a changed network is
    left out.
    """
    if config.data.name != IMAGENET or config.data.wiring_test:
        return {}
    found, parameters = costs(), counted.get("parameters")
    result: dict[str, Any] = {"data_set_bytes": found.data_set_bytes,
                              "probabilities_bytes": HALF * CLASSES * found.images.validation}
    if "forward_multiply_adds" in counted:
        operations = OPERATIONS * counted["forward_multiply_adds"]
        result |= {"training_operations": operations, "assumed_flops_per_second": found.flops_per_second,
                   "gpu_hours": operations / found.flops_per_second / 3600}
    if parameters is not None:
        result |= {"weights_bytes": FLOAT * parameters, "training_bytes": COPIES * FLOAT * parameters,
                   "checkpoint_bytes": found.checkpoints * 2 * FLOAT * parameters}
    standing = paper_config(config.name) if config.name in found.experiments else None
    if standing is not None and (standing.model, standing.data.crop_size) == (config.model, config.data.crop_size):
        each = found.experiments[config.name].activation_bytes
        result["activation_bytes"] = each * config.train.mini_batch_size
    return result


def computed_lines(cost: Mapping[str, Any], mini_batch: int) -> list[str]:
    """What `computed` found, for a person."""
    lines = []
    if "training_operations" in cost:
        lines.append(f"  training: {cost['training_operations'] / 1e18:.3g} exaFLOP (computed: 3 x 2 x multiply-adds x "
                     "mini-batch x iterations)")
        if not cost.get("times"):
            lines.append(f"  time: {cost['gpu_hours']:.2g} GPU-hours, {assumption()} (repro bench input); not "
                         "measured")
    if "activation_bytes" in cost and "training_bytes" in cost:
        both = cost["training_bytes"] + cost["activation_bytes"]
        lines.append(f"  memory in fp32 at mini-batch {mini_batch}, all devices together: {gigabytes(both)} (computed: "
                     f"{gigabytes(cost['training_bytes'])} of weights, gradients and momentum on each device, "
                     f"{gigabytes(cost['activation_bytes'])} of activations)")
    if "data_set_bytes" in cost:
        own = (f"{gigabytes(cost['checkpoint_bytes'])} of checkpoints, {gigabytes(cost['weights_bytes'])} of weights, "
               if "checkpoint_bytes" in cost else "")
        lines.append(f"  disk: about {cost['data_set_bytes'] / 1e9:.0f} GB of data set (published), {own}"
                     f"{gigabytes(cost['probabilities_bytes'])} of probabilities for each way of testing (computed)")
    return lines


def gigabytes(count: float) -> str:
    """Bytes in GB: '8.5 GB', '0.09 GB'."""
    return f"{count / 1e9:.{1 if count >= 1e9 else 2}f} GB"


def assumption() -> str:
    """How GPU-hours are computed where nothing is measured."""
    return (f"computed at {costs().flops_per_second / 1e12:g} TFLOP/s sustained (assumed), without reading and "
            "decoding images")


def listed_cost(experiment: str, runs: Sequence[Run]) -> dict[str, Any] | None:
    """What `repro list` says an ImageNet experiment costs: a finished run's time, else what is computed; else None.

    hours: of one GPU, so those of a run on several count for each of them.
    """
    known = costs().experiments.get(experiment)
    if known is None:
        return None
    run = next((run for run in runs if run.folder.parent.name == experiment and run.finished
                and seconds_of(run) is not None and "device" in environment_of(run)), None)
    if run is not None:
        environment, wall = environment_of(run), (seconds_of(run) or 0.0) / 3600
        hours = wall * environment.get("devices", 1)
        several = f"{hours:.2g} GPU-hours measured ({device_text(environment)}, {wall:.2g} h; {run.folder.name})"
        one = f"{wall:.2g} h measured on {environment['device']} ({run.folder.name})"
        return {"exaflop": known.exaflop, "hours": hours, "measured": True,
                "text": several if environment.get("devices", 1) > 1 else one}
    hours = 1e18 * known.exaflop / costs().flops_per_second / 3600
    return {"exaflop": known.exaflop, "hours": hours, "measured": False,
            "text": f"{hours:.2g} GPU-hours{resources(experiment)}"}


def resources(experiment: str) -> str:
    """', 8.5 GB memory, 0.54 GB disk' of an ImageNet experiment as it stands, computed; see `listed_note`.

    Its file is read without composing the configuration, so that a list of all experiments takes no second more.
    """
    found = costs()
    model = read_yaml(conf_dir() / "experiment" / f"{experiment}.yaml")["model"]
    parameters = golden_count(IMAGENET, model["depth"]).parameters[model.get("shortcut_option", "A")]  # plain: as A
    memory = COPIES * FLOAT * parameters + found.experiments[experiment].activation_bytes * MINI_BATCH
    disk = (1 + 2 * found.checkpoints) * FLOAT * parameters + HALF * CLASSES * found.images.validation
    return f", {gigabytes(memory)} memory, {gigabytes(disk)} disk"


def listed_note() -> str:
    """What `repro list` says once of the costs that it lists."""
    found = costs()
    return (f"GPU-hours, memory and disk of ImageNet are {assumption()}, where a time is not said to be measured; "
            f"memory: in fp32 at mini-batch {MINI_BATCH}, all devices together; disk: beside the data set's "
            f"{found.data_set_bytes / 1e9:.0f} GB")


def gpu_hours(time: Mapping[str, Any]) -> str:
    """', 40 GPU-hours' of a run on several devices, else ''."""
    return f", {time['seconds'] * time['devices'] / 3600:.2g} GPU-hours" if time["devices"] > 1 else ""


def time_lines(times: list[dict[str, Any]], suite: str | None) -> list[str]:
    """The measured times for a person, each with its duration as `text`, or how to measure one."""
    if not times:
        return [f"  time: not measured: repro cost {suite or 'SUITE'}"]
    return [f"  time: {one['text']} on {one['device']}, {one['precision']} "
            + (f"(finished run {one['from']}{gpu_hours(one)})" if one["kind"] == "run"
               else f"(computed from measured updates, {one['from']})") for one in times]
