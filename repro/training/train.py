"""Train one run: the whole of it reads top to bottom in `train`."""

import logging
from contextlib import ExitStack, closing
from typing import Any

import torch

from repro.devices import out_of_memory, place, restore_settings, set_up
from repro.errors import OutOfMemoryError, Stopped
from repro.evaluation.analysis import gradient_norms
from repro.files import hold_lock
from repro.models import build_model
from repro.paths import display_path
from repro.runs import Run, read_run
from repro.schema import Device
from repro.stopping import StopRequest
from repro.training import checkpoint
from repro.training.distributed import (
    Plan,
    World,
    first_line,
    join,
    launch,
    naming_lost_peer,
    rank_from_environment,
)
from repro.training.inputs import load_data
from repro.training.log import RunLog, begin_record, say_start
from repro.training.measurements import final_measurements
from repro.training.step import Execution, TrainStep, batch_norm_group

logger = logging.getLogger(__name__)


def run(plan: Plan) -> Run:
    """Train a run to its end, or go on where it stopped, by as many processes as it wants; the run on disk."""
    if plan.devices > 1 and rank_from_environment() is None:
        return launch(plan, train_here)
    with StopRequest(plan.config.max_seconds) as stop:
        return train_here(plan, stop)


@restore_settings()
def train_here(plan: Plan, stop: StopRequest) -> Run:
    """Train a run to its end by this process, alone or as one of several, or go on where it stopped; the run on disk.

    Raises Stopped (75, 130), DivergedError (6), InUseError (7), OutOfMemoryError (8), StorageError, DataError,
    ConfigError.
    """
    world = join(plan.config)
    with naming_lost_peer(), ExitStack() as stack:
        if note := world.from_main(lambda: stack.enter_context(hold_lock(plan.folder))):
            logger.warning(f"{display_path(plan.folder)}: {note}")
        earlier = world.from_main(lambda: checkpoint.previous_run(plan))
        if earlier.finished:
            return earlier
        try:
            train(plan, world, stop, earlier)
        except RuntimeError as error:
            if (full := out_of_memory(error)) is None:
                raise
            machine = plan.config.machine
            free, total = torch.cuda.mem_get_info() if machine.device is Device.cuda else (0, 0)
            used = f" ({(total - free) / 1e9:.1f} GB used, {free / 1e9:.1f} GB free)" if total else ""
            raise OutOfMemoryError(
                f"{plan.title}: no memory left on {machine.device.name}{used} for mini-batches of "
                f"{plan.config.train.mini_batch_size}: {first_line(full)}\nmachine.activation_checkpointing=true, "
                "devices=N and a smaller machine.evaluation_batch_size need less and give the same numbers; "
                f"{plan.advice}") from error
        return read_run(plan.folder)


def train(plan: Plan, world: World, stop: StopRequest, earlier: Run) -> None:
    """From its newest checkpoint, or from the start, to its end or to a stop (Sec. 3.4, 4.2)."""
    execution, log = prepare(plan, world, stop, earlier)
    step, schedule = execution.step, execution.step.schedule
    with closing(step.input), log, naming_lost_peer():
        while log.done < schedule.iterations and not log.stopping:
            execution.advance(1)
            log.advanced(1)  # stops before an update whose loss is not finite
            if log.done in schedule.gradients:  # those that led to the last update
                log.append("gradients.csv", [[log.done, *norm] for norm in gradient_norms(step.model)])
            if schedule.evaluates(log.done):
                log.evaluated(evaluate(execution, log))
                step.follow(log.errors)  # lr_policy=plateau: a drop may follow from this test
            log.save_if_due()
        if not log.finish_or_save():
            reason = stop.reason or ("max_seconds" if plan.config.max_seconds else "another process")
            raise Stopped(f"stopped by {reason} at iteration {log.done} of {schedule.iterations}; saved in "
                          f"{display_path(plan.folder)}\n{plan.advice}", stop.exit_code)
        finish(plan, execution, log)
    if stop.received is not None:
        raise Stopped(f"stopped by {stop.reason}; the run in {display_path(plan.folder)} had just finished\n"
                      f"{plan.advice}", stop.exit_code)


def prepare(plan: Plan, world: World, stop: StopRequest, earlier: Run) -> tuple[Execution, RunLog]:
    """Data, network, step and log of a run, as its newest checkpoint left them; what it is has been said."""
    config, device = plan.config, set_up(plan.config)
    data = load_data(config, device, world, stop)
    model = place(build_model(config.model, config.seed, batch_norm_group(config, world.size)), config, device)
    step = TrainStep(model, data, config, world)
    before = checkpoint.restore(step, plan)
    checkpoint.check_same_data(earlier, data.sha256, int(step.iteration), world)
    execution = Execution(step)
    record = begin_record(plan, execution, earlier.record if before else None)
    say_start(plan, record)
    log = RunLog(plan, execution, record, before, stop)
    step.follow(log.errors)
    step.model.train()
    return execution, log


def evaluate(execution: Execution, log: RunLog) -> dict[str, float]:
    """One row of history.csv: training loss and error over the mini-batches since the last row, and a test."""
    step, split = execution.step, execution.step.data.evaluated_on
    outcome = step.evaluate(step.model)
    ended, images = int(step.warmup_end), (log.done - log.row_began) * execution.batch
    warming = step.schedule.warms_up and (ended < 0 or log.done - 1 < ended)
    return {"iteration": log.done, "learning_rate": step.schedule.rate(log.done - 1, warming),
            "train_loss": float(step.loss_sum) * execution.batch / images,
            "train_top1_error": 100 * int(step.error_count) / images,
            f"{split}_loss": outcome.loss, **outcome.errors_on(split)}


def finish(plan: Plan, execution: Execution, log: RunLog) -> None:
    """Write the final weights and what is measured of them, then the finished record, then drop the checkpoints."""
    step, config, measured = execution.step, execution.step.config, dict[str, Any]()
    extras = config.evaluation.responses or config.evaluation.batch_norm_images >= config.train.mini_batch_size
    if extras:  # may take minutes: the trained state is safe before
        log.save()
    execution.graph = None  # what is measured next needs its memory
    if step.world.is_main:
        measured["weights_sha256"] = checkpoint.write_weights(plan.folder / "weights.pt", step.model, config)
        if (statistics := getattr(step.data, "statistics", None)) is not None:  # what its images were normalized with
            from repro.data import imagenet_statistics

            imagenet_statistics.write(plan.folder / imagenet_statistics.BESIDE, statistics, config.data.crop_size)
    if extras:
        measured |= final_measurements(step, config, plan.folder)
    if step.world.is_main:
        log.finish(measured)
        checkpoint.remove_all(plan.folder)
