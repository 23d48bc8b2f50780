"""Train one run: the whole of it reads top to bottom in `train`."""

from contextlib import closing
from dataclasses import replace
from typing import Any

import torch

from repro.devices import describe, is_out_of_memory, place, restore_settings, set_up
from repro.errors import ImageError, OutOfMemoryError, Stopped
from repro.evaluation.analysis import gradient_norms
from repro.models import build_model
from repro.paths import display_path
from repro.runs import Run, read_run
from repro.schema import Device, RunConfig
from repro.stopping import StopRequest
from repro.training import checkpoint
from repro.training.distributed import World, join
from repro.training.execution import Execution
from repro.training.inputs import load_data
from repro.training.log import RunLog, begin_record, board_parts, say_start
from repro.training.measurements import final_measurements
from repro.training.plan import Plan
from repro.training.resume import check_same_data, hold_lock, previous_run, restore
from repro.training.schedule import Schedule
from repro.training.step import TrainStep, batch_norm_group, sync_batch_norm
from repro.training.timing import with_channels_last, with_memory_format


@restore_settings()
def train_here(plan: Plan, stop: StopRequest) -> Run:
    """Train a run to its end by this process, alone or as one of several, or go on where it stopped; the run on disk.

    Raises Stopped (75 or 130) after saving, DivergedError (6), InUseError (7), OutOfMemoryError (8), StorageError (5),
    DataError (3), ConfigError (2), and CaptureError, after which this process can't go on.
    """
    world = join(plan.config)
    with world.naming_lost_peer(), hold_lock(plan.folder, world):
        earlier = world.from_main(lambda: previous_run(plan))
        if earlier.finished:
            return earlier
        try:
            train(plan, world, stop, earlier)
        except ImageError as error:
            raise ImageError(f"{error}\n`repro data verify imagenet` with the same data.root names every bad "
                             "image") from error
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(f"{no_memory(error, plan.config)}\nwhat was saved before stays; "
                                   f"{plan.advice}") from error
        return read_run(plan.folder)


def train(plan: Plan, world: World, stop: StopRequest, earlier: Run) -> None:
    """From its newest checkpoint, or from the start, to its end or to a stop (Sec. 3.4, 4.2).

    Of several processes every one goes through it at the same pace.
    """
    execution, schedule, log = prepare(plan, world, stop, earlier)
    step, done = execution.step, execution.done
    with closing(step.input), log, world.naming_lost_peer():
        while done < schedule.iterations and not log.stopping:
            updates = min(execution.block, schedule.next_event(done) - done)
            execution.advance(updates)
            done += updates
            log.advanced(done)  # stops before an update whose loss is not finite
            if done in schedule.gradients:
                log.gradients(gradient_norms(step.model))
            if schedule.evaluates(done):
                log.evaluated(evaluate(execution, schedule, done, log.images))
                schedule = schedule.after(log.errors)  # lr_policy=plateau: a drop may follow from this test
                step.follow(schedule)
            log.save_if_due()
        if not log.finish_or_save():
            reason = stop.reason or ("max_seconds" if plan.config.max_seconds else "another process")
            raise Stopped(f"stopped by {reason} at iteration {done} of {schedule.iterations}; saved in "
                          f"{display_path(plan.folder)}\n{plan.advice}", stop.exit_code)
        finish(plan, execution, log)
    if stop.received is not None:
        raise Stopped(f"stopped by {stop.reason}; the run in {display_path(plan.folder)} had just finished\n"
                      f"{plan.advice}", stop.exit_code)


def prepare(plan: Plan, world: World, stop: StopRequest, earlier: Run) -> tuple[Execution, Schedule, RunLog]:
    """Data, network, step and log of a run, as its newest checkpoint left them; what it is has been said."""
    if plan.config.machine.tensorboard:
        world.from_main(lambda: bool(board_parts()))  # ConfigError before anything is written
    device = set_up(plan.config)
    config, format_times = world.from_main(lambda: decide_memory_format(plan.config, earlier, device))
    plan = replace(plan, config=config)
    data = load_data(config, device, world, stop)
    schedule = Schedule.of(config)
    model = place(build_model(config.model, config.seed, batch_norm_group(config, world.size)), config, device)
    step = TrainStep(sync_batch_norm(model, config, world.size), data, config, schedule, world)
    before = restore(step, plan)
    check_same_data(earlier, data.sha256, int(step.iteration), world)
    execution = Execution(step, config)
    record = begin_record(plan, execution, earlier.record if before else None, format_times)
    say_start(plan, record)
    log = RunLog(plan, execution, record, before, stop)
    schedule = schedule.after(log.errors)
    step.follow(schedule)
    model.train()
    return execution, schedule, log


def decide_memory_format(config: RunConfig, earlier: Run,
                         device: torch.device) -> tuple[RunConfig, dict[str, float] | None]:
    """The configuration with machine.channels_last decided, and the milliseconds per update that decided it, if any.

    A run that goes on where it began keeps the format that it has, so that it ends bit for bit like one left alone.
    """
    record = earlier.record
    if (config.machine.channels_last is None and record is not None and record.iteration
            and record.environment.device == describe(device)):
        before = bool(record.config.machine.channels_last)
        return with_channels_last(config, before), record.environment.memory_format_ms
    return with_memory_format(config, config.devices or 1)


def evaluate(execution: Execution, schedule: Schedule, done: int, images: int) -> dict[str, float]:
    """One row of history.csv: training loss and error over the mini-batches since the last row, and a test."""
    step, evaluated_on = execution.step, execution.step.data.evaluated_on
    step.world.average_buffers(step.model)
    outcome = execution.evaluate()
    ended = int(step.warmup_end)
    warming = step.warms_up and (ended < 0 or done - 1 < ended)
    return {"iteration": done, "learning_rate": schedule.rate(done - 1, warming),
            "train_loss": float(step.loss_sum) * execution.batch / images,
            "train_top1_error": 100 * int(step.error_count) / images,
            f"{evaluated_on}_loss": outcome.loss, **outcome.errors_on(evaluated_on)}


def finish(plan: Plan, execution: Execution, log: RunLog) -> None:
    """Write the final weights and what is measured of them, then the finished record, then drop the checkpoints."""
    config, step, measured = plan.config, execution.step, dict[str, Any]()
    extras = config.evaluation.responses or config.evaluation.batch_norm_images >= config.train.mini_batch_size
    if extras:  # may take minutes: the trained state is safe before
        log.save(execution.done)()
    execution.close()
    if step.world.is_main:
        measured["weights_sha256"] = checkpoint.write_weights(plan.folder / "weights.pt", step.model, config)
        if (statistics := getattr(step.data, "statistics", None)) is not None:  # what its images were normalized with
            from repro.data import imagenet_statistics

            imagenet_statistics.write_beside(plan.folder, statistics, config.data.crop_size)
    if extras:
        measured |= final_measurements(step, config, plan.folder)
    if step.world.is_main:
        log.finish(measured)
        checkpoint.remove_all(plan.folder)


def no_memory(error: Exception, config: RunConfig) -> str:
    """What did not fit where, and what needs less memory without another number."""
    machine = config.machine
    where, less = machine.device.name, ["machine.evaluation_batch_size of less than "
                                        f"{machine.evaluation_batch_size}, if it was in a test"]
    if machine.device is Device.cuda:
        free, total = torch.cuda.mem_get_info()
        where += f" ({(total - free) / 1e9:.1f} GB used, {free / 1e9:.1f} GB free)"
        less.insert(0, "devices=N, which share each mini-batch")
    if not machine.activation_checkpointing:
        less.insert(0, "machine.activation_checkpointing=true")
    return (f"{config.name}: no memory left on {where} for mini-batches of {config.train.mini_batch_size}: "
            f"{str(error).splitlines()[0]}\nthese need less and give the same numbers: {'; '.join(less)}")
