"""What is measured of a trained network once, after its last iteration: for the record, never for the result."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from repro import files, runs
from repro.config import compose
from repro.data.cifar10 import DeviceData, load_arrays, on_device
from repro.devices import (
    autocast,
    code_version,
    describe,
    memory_format,
    package_versions,
    place,
    resolve,
    restore_settings,
    set_tf32,
    set_up,
)
from repro.errors import ConfigError
from repro.evaluation.analysis import layer_responses, with_averaged_statistics
from repro.models import build_model
from repro.paths import display_path
from repro.runs import RESPONSE_COLUMNS, Provenance, Run
from repro.schema import IMAGENET, Precision, RunConfig
from repro.training.step import TrainStep
from repro.weights import load_weights

logger = logging.getLogger(__name__)


def final_measurements(step: TrainStep, config: RunConfig, folder: Path) -> dict[str, Any]:
    """For the record: the error with plainly averaged BN statistics, and what responses.csv and gradients.csv hold."""
    measured: dict[str, Any] = {}
    data, size = step.data, config.train.mini_batch_size
    if batches := config.evaluation.batch_norm_images // size:
        with autocast(step.device, config.machine.precision):
            averaged = with_averaged_statistics(step.model, step.coming_batches(batches))
        outcome = step.evaluate(averaged)
        logger.info(f"{runs.title(config)}: {data.evaluated_on} error {outcome.top1_error:.2f} % with BN statistics "
                    f"averaged over {batches * size} training images")
        measured["recomputed_batch_norm"] = {
            "images": batches * size, f"{data.evaluated_on}_loss": outcome.loss, **outcome.errors_on(data.evaluated_on)}
    if step.world.is_main and config.evaluation.responses:
        assert isinstance(data, DeviceData)
        measured["responses"] = measure_responses(step.model, data, config, folder)
    if step.world.is_main and config.evaluation.gradient_iterations:
        measured["gradients_sha256"] = files.file_sha256(folder / "gradients.csv")
    return measured


def measure_responses(model: nn.Module, data: DeviceData, config: RunConfig, folder: Path) -> Provenance:
    """Write responses.csv (Fig. 7) of a trained network on the images that it is evaluated on; what the record says.

    Choice: in fp32 whatever the run was trained in, so that the figure compares networks and not roundings.
    """
    batches = (images.contiguous(memory_format=memory_format(config.machine))
               for images, _ in data.evaluation_batches(config.machine.evaluation_batch_size))
    with restore_settings():
        set_tf32(False)
        found = layer_responses(model, batches)
    lines = [",".join(map(str, row)) + "\n" for row in (RESPONSE_COLUMNS, *found)]
    files.write_atomic(folder / "responses.csv", "".join(lines))
    return Provenance(images=len(data.eval_images), evaluated_on=data.evaluated_on, precision="fp32",
                     sha256=files.file_sha256(folder / "responses.csv"))


@restore_settings()
def add_responses(run: Run, overrides: list[str]) -> None:
    """Measure the responses of a finished run of CIFAR-10 from its weights.pt and put them beside its record."""
    if not run.finished or run.record is None or run.record.config.data.name == IMAGENET:
        raise ConfigError(f"{display_path(run.folder)}: layer responses are measured of finished runs of CIFAR-10")

    here = compose([f"experiment={run.record.experiment}", *overrides])  # this machine's device and data folder
    config = resolve(replace(run.record.config, machine=replace(here.machine, precision=Precision.fp32),
                             data=replace(run.record.config.data, root=here.data.root)))
    device = set_up(config)
    with files.hold_lock(run.folder):
        model = place(load_weights(build_model(config.model), run.folder / "weights.pt"), config, device)
        data = on_device(load_arrays(config.data), config.data, device)
        measured = measure_responses(model, data, config, run.folder)
        where = {"device": describe(device), **code_version(), **package_versions(), "utc": files.utc_now()}
        run.record.responses = msgspec.convert(msgspec.to_builtins(measured) | where, Provenance)
        runs.write_record(run.folder, run.record)
    logger.info(f"{runs.title(config)}: responses of its layers in {display_path(run.folder / 'responses.csv')}")
