"""Train one run: the whole of it reads top to bottom in `train`. Then what is measured of the trained network once."""

import logging
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from repro import devices, files, runs, weights
from repro.config import compose
from repro.errors import ConfigError, DataError, OutOfMemoryError, Stopped
from repro.evaluation import metrics
from repro.models import build_model
from repro.paths import display_path
from repro.runs import Provenance, Run, read_run
from repro.schema import IMAGENET, Precision, RunConfig
from repro.stopping import StopRequest
from repro.training import checkpoint, distributed
from repro.training.distributed import Plan, World, naming_lost_peer
from repro.training.inputs import load_data
from repro.training.log import RunLog, begin_record
from repro.training.step import Execution, TrainStep, batch_norm_group

logger = logging.getLogger(__name__)


def run(plan: Plan) -> Run:
    """Train a run to its end, or go on where it stopped, by as many processes as it wants; the run on disk."""
    if plan.devices > 1 and distributed.rank_from_environment() is None:
        return distributed.launch(plan, train_here)
    with StopRequest(plan.config.max_seconds) as stop:
        return train_here(plan, stop)


@devices.restore_settings()
def train_here(plan: Plan, stop: StopRequest) -> Run:
    """`run` by this process, alone or as one of several; also Stopped, DivergedError, InUseError, OutOfMemoryError."""
    world = distributed.join(plan.config)
    with naming_lost_peer(), ExitStack() as stack:
        if note := world.from_main(lambda: stack.enter_context(files.hold_lock(plan.folder))):
            logger.warning(f"{display_path(plan.folder)}: {note}")
        earlier = world.from_main(lambda: checkpoint.previous_run(plan))
        if earlier.finished:
            return earlier
        try:
            train(plan, world, stop, earlier)
        except RuntimeError as error:
            if (full := devices.out_of_memory(error)) is None:
                raise
            if world.is_main and (record := read_run(plan.folder).record):
                record.status, record.ended = runs.OUT_OF_MEMORY, files.utc_now()
                files.write_json(plan.folder / "run.json", msgspec.to_builtins(record))
            raise OutOfMemoryError(  # torch's line says how much there is and how much is free
                f"{plan.title}: no memory left on {plan.config.machine.device.name} for mini-batches of "
                f"{plan.config.train.mini_batch_size}: {distributed.first_line(full)}\ndevices=N and a smaller "
                f"machine.evaluation_batch_size need less and give the same numbers; {plan.advice}") from error
        return read_run(plan.folder)


def train(plan: Plan, world: World, stop: StopRequest, earlier: Run) -> None:
    """From its newest checkpoint, or from the start, to its end or to a stop (Sec. 3.4, 4.2)."""
    config, device = plan.config, devices.set_up(plan.config)
    data = load_data(config, device, world, stop)
    model = devices.place(build_model(config.model, config.seed, batch_norm_group(config, world.size)), config, device)
    step = TrainStep(model, data, config, world)
    before = checkpoint.restore(step, plan)
    if len(set(world.all_gather_object(data.sha256))) > 1:
        raise DataError("the processes do not have the same images")
    if before and earlier.record and earlier.record.data and earlier.record.data.sha256 != data.sha256:
        raise DataError(f"{display_path(plan.folder)}: trained on another set of images until iteration "
                        f"{before['iteration']}; put them back, or resume=never starts over")
    execution = Execution(step)
    log = RunLog(plan, execution, begin_record(plan, execution, earlier.record if before else None), before, stop)
    step.follow(log.errors)
    step.model.train()
    with closing(step.input), log.watch(), naming_lost_peer():
        while log.goes_on():
            execution.advance(1)
            log.advanced()  # stops before an update whose loss is not finite
            if execution.done in step.schedule.gradients:  # those that led to the last update
                norms = metrics.gradient_norms(step.model)
                log.append("gradients.csv", [[execution.done, *norm] for norm in norms])
            if step.schedule.evaluates(execution.done):
                log.evaluated(evaluate(execution))
                step.follow(log.errors)  # lr_policy=plateau: a drop may follow from this test
        log.stack.close()
        if execution.done < log.record.iterations:
            log.save()
            log.write(status="interrupted", ended=files.utc_now())
            world.all_gather_object(None)  # nobody leaves before it is written
            raise Stopped(f"stopped by {stop.reason or 'another process'} at iteration {execution.done} of "
                          f"{log.record.iterations}; saved in {display_path(plan.folder)}\n{plan.advice}",
                          stop.exit_code)
        finish(plan, execution, log)
    if stop.received is not None:
        raise Stopped(f"stopped by {stop.reason}; {plan.title} had just finished\n{plan.advice}", stop.exit_code)


def evaluate(execution: Execution) -> dict[str, float]:
    """One row of history.csv: training loss and error over the mini-batches since the last row, and a test."""
    step, done, split = execution.step, execution.done, execution.step.data.evaluated_on
    outcome = step.evaluate(step.model)
    images = ((done - 1) % step.schedule.interval + 1) * execution.batch
    warmup_end = int(step.warmup_end)
    warming = step.schedule.warms_up and (warmup_end < 0 or done - 1 < warmup_end)
    return {"iteration": done, "learning_rate": step.schedule.rate(done - 1, warming),  # runs.history_columns
            "train_loss": float(step.loss_sum) * execution.batch / images,
            "train_top1_error": 100 * int(step.error_count) / images,
            f"{split}_loss": outcome.loss, **outcome.errors_on(split)}


def finish(plan: Plan, execution: Execution, log: RunLog) -> None:
    """Write the final weights and what is measured of them, then the finished record, then drop the checkpoints."""
    step, config, measured = execution.step, execution.step.config, dict[str, Any]()
    batches = config.evaluation.batch_norm_images // config.train.mini_batch_size
    if batches or config.evaluation.responses:  # may take minutes: the trained state is safe before
        log.save()
    execution.graph = None  # what is measured next needs its memory
    if batches:
        with devices.autocast(step.device, config.machine.precision):
            averaged = metrics.with_averaged_statistics(step.model, step.coming_batches(batches))
        outcome, split = step.evaluate(averaged), step.data.evaluated_on
        measured["recomputed_batch_norm"] = {"images": batches * config.train.mini_batch_size,
                                             f"{split}_loss": outcome.loss, **outcome.errors_on(split)}
    if step.world.is_main:
        path = plan.folder / "weights.pt"
        files.write_atomic(path, weights.serialize(step.model.state_dict(), weights.facts_of(config)))
        measured["weights_sha256"] = files.file_sha256(path)
        if (statistics := getattr(step.data, "statistics", None)) is not None:  # what its images were normalized with
            from repro.data import imagenet

            imagenet.write_statistics(plan.folder / imagenet.BESIDE, statistics, config.data.crop_size)
        if config.evaluation.responses:
            measured["responses"] = measure_responses(step.model, step.data, config, plan.folder)
        if config.evaluation.gradient_iterations:
            measured["gradients_sha256"] = files.file_sha256(plan.folder / "gradients.csv")
        log.finish(measured)
        checkpoint.remove_all(plan.folder)


def measure_responses(model: nn.Module, data: Any, config: RunConfig, folder: Path) -> dict[str, Any]:
    """Write responses.csv (Fig. 7) of a network on the images of CIFAR-10 that it is tested on; what to record."""
    batches = (images.contiguous(memory_format=devices.memory_format(config.machine))
               for images, _ in data.evaluation_batches(config.machine.evaluation_batch_size))
    with devices.restore_settings():  # Choice: in fp32 whatever the run was trained in, to compare no roundings
        devices.set_tf32(False)
        found = metrics.layer_responses(model, batches)
    path = folder / "responses.csv"
    files.write_atomic(path, "".join(",".join(map(str, row)) + "\n" for row in (runs.RESPONSE_COLUMNS, *found)))
    return {"images": len(data.eval_images), "evaluated_on": data.evaluated_on, "precision": "fp32",
            "sha256": files.file_sha256(path)}


@devices.restore_settings()
def add_responses(run: Run, overrides: list[str]) -> None:
    """Measure the responses of a finished run of CIFAR-10 from its weights.pt and put them beside its record."""
    if not run.finished or run.record is None or run.record.config.data.name == IMAGENET:
        raise ConfigError(f"{display_path(run.folder)}: layer responses are measured of finished runs of CIFAR-10")
    here = compose([f"experiment={run.record.experiment}", *overrides])  # this machine's device and data folder
    config = devices.resolve(replace(run.record.config, machine=replace(here.machine, precision=Precision.fp32),
                                     data=replace(run.record.config.data, root=here.data.root)))
    device = devices.set_up(config)
    with files.hold_lock(run.folder):
        network = weights.load_weights(build_model(config.model), run.folder / "weights.pt")
        data = load_data(config, device, World(), StopRequest())
        measured = measure_responses(devices.place(network, config, device), data, config, run.folder)
        run.record.responses = msgspec.convert(
            {**measured, "device": devices.describe(device), **devices.code_version(), **devices.package_versions(),
             "utc": files.utc_now()}, Provenance)
        files.write_json(run.folder / "run.json", msgspec.to_builtins(run.record))
    logger.info(f"{runs.title(config)}: responses of its layers in {display_path(run.folder / 'responses.csv')}")
