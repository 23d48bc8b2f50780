"""Train one configuration: the whole of it reads top to bottom in `train`.

`run` decides what to do with the run's folder (new, go on, finished already, somebody else's) and handles faults.
"""

import logging
import shlex
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from repro import provenance, runs
from repro.config import config_hash, deviations, fill_added_settings, hashed_settings, to_dict, without_removed
from repro.data import imagenet_statistics
from repro.data.cifar10 import DeviceData, on_device
from repro.data.imagenet import ImageNetData
from repro.data.sources import load_arrays
from repro.devices import (
    describe,
    is_out_of_memory,
    peak_memory,
    place,
    resolve,
    restore_settings,
    set_up,
    synchronize,
)
from repro.errors import CaptureError, ConfigError, DivergedError, ImageError, OutOfMemoryError, Stopped
from repro.evaluation.analysis import gradient_norms
from repro.models import build_model
from repro.paths import data_dir, display_path
from repro.runs import Run, read_run, run_folder, utc_now
from repro.schema import IMAGENET, Engine, RunConfig
from repro.stopping import StopRequest, command_to_go_on
from repro.training import checkpoint, cost, launcher
from repro.training.background import Snapshot, Writer
from repro.training.distributed import World, join, rank_from_environment, with_devices
from repro.training.endings import no_memory, save_on_failure
from repro.training.execution import Execution
from repro.training.folder import (
    changed_surroundings,
    check_same_data,
    check_trainable,
    difference_text,
    hold_lock,
    previous_evaluations,
    previous_run,
)
from repro.training.images import load_images
from repro.training.inputs import Data
from repro.training.measurements import final_measurements
from repro.training.progress import Progress, Stopwatch
from repro.training.recorder import Recorder, check_board, restore_csv
from repro.training.schedule import Schedule
from repro.training.step import TrainStep
from repro.training.sync_batch_norm import batch_norm_group, check_shares, sync_batch_norm
from repro.wording import duration

logger = logging.getLogger(__name__)
_loaded: dict[object, DeviceData] = {}  # the latest of `load_data`


@restore_settings()
def run(config: RunConfig, command: list[str] | None = None) -> Run:
    """Train a configuration to its end, or go on where it stopped, and return its run.

    `command` is what a person types to go on; it is shown when the run stops early. Raises Stopped (75 or 130) after
    saving, DivergedError (6), InUseError (7), OutOfMemoryError (8), StorageError (5), DataError (3), ConfigError (2).
    With several devices this starts a process for each and waits for them, unless it was started as one of several.
    Where CUDA graphs can't be captured, a fresh process does the run operation by operation.
    """
    config = with_devices(config)
    check_shares(resolve(config), config.devices or 1)
    if config.devices != 1 and rank_from_environment() is None:
        return launcher.launch(run, config, command)
    with StopRequest(config.max_seconds) as stop:
        stepwise = run_stepwise(config, stop, command)
        try:
            while True:
                next(stepwise)
        except StopIteration as ended:
            result: Run = ended.value
            return result
        except CaptureError as error:
            if stop.reason is not None:
                raise Stopped(f"{error}\nstopped by {stop.reason} before anything was trained\ngo on with: "
                              + shlex.join(go_on_command(config, command)), stop.exit_code) from error
            logger.warning(f"{error}\ngoing on in a fresh process, engine=eager")
            left = stop.seconds_left()
    return launcher.launch(run, replace(config, engine=Engine.eager, devices=1, max_seconds=left), command)


def run_stepwise(config: RunConfig, stop: StopRequest, command: list[str] | None = None, jobs: int = 1
                 ) -> Generator[None, None, Run]:
    """`run` as a generator that yields whenever updates have been queued, so that several runs can take turns.

    `jobs` runs share the device; the record says so, since each of them then takes longer. Raises what `run` raises.
    """
    asked_precision = config.machine.precision
    config = resolve(with_devices(config))
    check_trainable(config)
    world = join(config)
    folder = run_folder(config)
    with hold_lock(folder, world):
        earlier = world.from_main(lambda: previous_run(folder, config, asked_precision))
        if earlier.finished:
            return earlier
        world.from_main(lambda: check_board(config))
        try:
            yield from train(config, folder, earlier, stop, go_on_command(config, command), jobs, world)
        except ImageError as error:
            raise ImageError(f"{error}\n`repro data verify imagenet` with the same data.root names every bad "
                             "image") from error
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise OutOfMemoryError(no_memory(error, config)) from error
            if (gone := world.peer_error(error)) is None:
                raise
            raise gone from error
        return read_run(folder)


def go_on_command(config: RunConfig, command: list[str] | None) -> list[str]:
    """What a person types to go on with a run; without a command the shortest that there is."""
    return command_to_go_on(command or ["repro", "run", f"experiment={config.name}"])


def train(config: RunConfig, folder: Path, earlier: Run, stop: StopRequest, command: list[str], jobs: int,
          world: World) -> Iterator[None]:
    """The training loop of one run, from its newest checkpoint or from the start, to its end or to a stop.

    Of several processes (`world`) every one goes through it at the same pace; the leader writes.
    """
    device = set_up(config)
    config, format_times = world.from_main(lambda: decide_memory_format(config, earlier, device))
    data = (load_images(config, device, world, stop) if config.data.name == IMAGENET
            else load_data(config, device))
    schedule = Schedule.of(config)
    model = place(build_model(config.model, config.seed, batch_norm_group(config, world.size)), config, device)
    step = TrainStep(sync_batch_norm(model, config, world.size), data, config, schedule, world)
    done, watch, before = restore(step, folder, config, device)
    check_same_data(earlier, data.sha256, done, world)
    tests = world.from_main(lambda: previous_evaluations(folder, data.evaluated_on, done))
    schedule = schedule.after(tests)
    step.follow(schedule)
    execution = Execution(step, config)
    log_start(config, schedule, done, folder, data, execution, before)
    recorder = Recorder(folder, config, data.evaluated_on,
                        facts(config, schedule, data, execution, earlier, done, jobs, format_times), world.is_main)
    if done and (changed := changed_surroundings(*recorder.record["sessions"][-2:])):
        logger.warning(f"  {changed}: the numbers go on equal within rounding, not bit for bit")
    recorder.begin(done)
    recorder.write(iteration=done, **watch.values())

    batch = config.train.mini_batch_size
    progress = Progress(runs.title(config), done, schedule.iterations, batch, watch, jobs == 1 and world.is_main)
    point = done // schedule.interval * schedule.interval  # where the current interval of training errors began
    saved = time.monotonic()
    model.train()
    watch.lap()
    stopping, _ = world.agree_on_stop(stop.reason is not None, False)
    advice = f"go on with: {shlex.join(command)}"

    def save_now() -> int | None:
        at = int(step.iteration)
        if schedule.evaluates(at) and not recorder.has_row(at):
            return None  # the test of this iteration failed: it is still owed, and a resume from here would not do it
        save(execution, recorder, folder, at, watch)()
        return at

    with (Writer() as writer, closing(step.input),
          save_on_failure(recorder, writer, save_now if world.size == 1 else None, advice)):
        while done < schedule.iterations and not stopping:
            updates = min(execution.block, schedule.next_event(done) - done)
            execution.advance(updates)
            done += updates
            evaluates, shows, notes = schedule.evaluates(done), progress.due(), done in schedule.gradients
            saves = (time.monotonic() - saved >= config.machine.checkpoint_seconds and done < schedule.iterations
                     and not writer.busy())
            if world.agrees_after(done, device):
                stopping, saves = world.agree_on_stop(stop.reason is not None, saves)
            elif world.size > 1:
                saves = False
            if device.type == "cpu" or evaluates or notes or (shows and world.size == 1):
                check_finite(step, recorder, writer)
            if notes:
                recorder.gradients(done, gradient_norms(model))
            if shows:
                progress.show(done, 100 * int(step.error_count) / ((done - point) * batch))
            if evaluates:
                synchronize(device)
                watch.lap_train()
                row = evaluate(execution, schedule, done, (done - point) * batch)
                spent = watch.lap_evaluation()
                progress.show_evaluation(done, row, data.evaluated_on)
                step.clear()
                recorder.row(row, {"iteration": done, "train_seconds": round(watch.train, 3), "utc": utc_now(),
                                   "evaluation_seconds": round(spent, 3),
                                   "images_per_second": round(progress.rate(done), 1)})
                point = done
                tests.append((done, row[f"{data.evaluated_on}_top1_error"]))
                schedule = schedule.after(tests)
                step.follow(schedule)
            if saves:
                watch.lap_train()
                writer.start(save(execution, recorder, folder, done, watch))
                saved = time.monotonic()
            yield
        synchronize(device)
        watch.lap_train()
        progress.close()
        check_finite(step, recorder, writer)
        writer.finish()
        if done < schedule.iterations:
            world.from_main(save(execution, recorder, folder, done, watch))  # nobody leaves before it is written
            recorder.write(status="interrupted", ended=utc_now())
            recorder.close()
            reason = stop.reason or ("max_seconds" if config.max_seconds else "another process")
            raise Stopped(f"stopped by {reason} at iteration {done} of {schedule.iterations}; saved in "
                          f"{display_path(folder)}\n{advice}", stop.exit_code)
        finish(execution, recorder, folder, watch)
    if stop.received is not None:
        raise Stopped(f"stopped by {stop.reason}; the run in {display_path(folder)} had just finished\n{advice}",
                      stop.exit_code)


def decide_memory_format(config: RunConfig, earlier: Run,
                         device: torch.device) -> tuple[RunConfig, dict[str, float] | None]:
    """The configuration with machine.channels_last decided, and the milliseconds per update that decided it, if any.

    A run that goes on where it began keeps the format that it has, so that it ends bit for bit like one left alone.
    """
    record = earlier.record or {}
    there = record.get("environment", {})
    if config.machine.channels_last is None and record.get("iteration") and there.get("device") == describe(device):
        before = bool(record["config"]["machine"]["channels_last"])
        return cost.with_channels_last(config, before), there.get("memory_format_ms")
    return cost.with_memory_format(config, config.devices or 1)


def restore(step: TrainStep, folder: Path, config: RunConfig, device: torch.device
            ) -> tuple[int, Stopwatch, str | None]:
    """Put the newest whole checkpoint into the step: iterations done, seconds spent, and the engine until then.

    0, none and None without a checkpoint.
    """
    world = step.world
    found = (checkpoint.load_newest(folder, device) if world.size == 1 else
             world.from_main(lambda: checkpoint.load_newest(folder, torch.device("cpu"))))
    if found is None:
        return 0, Stopwatch(), None
    state, meta, notes = found
    for note in notes:
        logger.warning(note)
    own = seed_and_numbers(config)
    recorded = fill_added_settings(without_removed(meta["numbers"]))
    if recorded != own:
        raise ConfigError(f"{display_path(folder)}: the checkpoint is of another configuration: "
                          + difference_text(recorded, own) + "; resume=never starts over")
    step.load_state(state)
    if world.is_main:
        restore_csv(folder, state.get("rows", {}))
    if meta.get("devices", 1) != world.size:
        logger.warning(f"  trained by {meta.get('devices', 1)} processes until now, by {world.size} from here on: the "
                       "numbers go on equal within rounding, not bit for bit")
    return int(step.iteration), Stopwatch(meta["train_seconds"], meta["evaluation_seconds"]), meta.get("engine")


def seed_and_numbers(config: RunConfig) -> dict[str, Any]:
    """All that a checkpoint's run must share with the run that goes on from it."""
    return {"seed": config.seed, **hashed_settings(to_dict(config))}


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


def check_finite(step: TrainStep, recorder: Recorder, writer: Writer) -> None:
    """Raise DivergedError if a loss or gradient was not finite; the update that it would have caused was not made."""
    at = int(step.failed_at)
    if at < 0:
        return
    writer.finish()
    rate, last = float(step.learning_rate()), float(step.last_loss)
    recorder.write(status="diverged", iteration=at, ended=utc_now(),
                   diverged={"iteration": at, "learning_rate": rate, "last_finite_loss": last})
    recorder.close()
    raise DivergedError(f"{display_path(recorder.folder)}: loss {float(step.bad_loss):g} or its gradient is not finite "
                        f"at iteration {at} (lr {rate:g}, last finite loss {last:g}); stopped before the update")


def save(execution: Execution, recorder: Recorder, folder: Path, done: int, watch: Stopwatch) -> Callable[[], None]:
    """Copy the state as it is now; what is returned writes it as a checkpoint and brings the record up to it.

    A state whose update failed is never written: the checkpoint before it stays.
    """
    config, spent, at = execution.config, watch.values(), utc_now()
    state = execution.step.state()  # all processes together
    if not execution.step.world.is_main:
        return lambda: None
    snapshot, rows = Snapshot(state, execution.step.device), dict(recorder.rows)

    def write() -> None:
        fetched = snapshot.fetch()
        if int(fetched["counters"]["failed_at"]) >= 0:
            return  # the loop will see it at its next look
        checkpoint.save(folder, done, fetched | {"rows": rows}, {
            **spent, "identity": config_hash(config), "numbers": seed_and_numbers(config), "engine": execution.kind,
            "devices": execution.step.world.size,
            "versions": provenance.package_versions(), "utc": at})
        recorder.record["sessions"][-1] |= {"ended": at, "to_iteration": done}
        recorder.write(iteration=done, **spent, **peak_memory(execution.step.device))

    return write


def finish(execution: Execution, recorder: Recorder, folder: Path, watch: Stopwatch) -> None:
    """Write the final weights and what is measured of them, then the finished record, then drop the checkpoints."""
    step, config, leader = execution.step, execution.config, execution.step.world.is_main
    done = int(step.iteration)
    measured: dict[str, Any] = {}
    extras = config.evaluation.responses or config.evaluation.batch_norm_images >= config.train.mini_batch_size
    if extras:  # may take minutes: the trained state is safe before
        save(execution, recorder, folder, done, watch)()
    execution.close()
    if leader:
        measured["weights_sha256"] = checkpoint.write_weights(folder / "weights.pt", step.model, config)
        if isinstance(step.data, ImageNetData) and step.data.statistics is not None:
            imagenet_statistics.write_beside(folder, step.data.statistics, step.data.crop_size)
    measured |= final_measurements(step, config, folder) if extras else {}
    if not leader:
        recorder.close()
        return
    watch.lap_evaluation()
    recorder.record["sessions"][-1] |= {"ended": utc_now(), "to_iteration": done}
    ended = int(step.warmup_end)
    recorder.write(iteration=done, **watch.values(), **peak_memory(step.device), ended=utc_now(),
                   warmup_end=ended if ended >= 0 else None, **measured, **recorder.finish())
    recorder.close()
    checkpoint.remove_all(folder)
    result = recorder.record["result"]
    logger.info(
        f"{runs.title(config)}: {recorder.evaluated_on} error "
        f"{result[f'{recorder.evaluated_on}_top1_error']:.2f} %, train error {result['train_top1_error']:.2f} % at "
        f"iteration {done}, {duration(watch.train)} of training; {display_path(folder)}")


def facts(config: RunConfig, schedule: Schedule, data: Data, execution: Execution, earlier: Run, done: int,
          jobs: int, format_times: dict[str, float] | None) -> dict[str, Any]:
    """What the record says of a run beside its configuration and its numbers."""
    record = earlier.record if earlier.record and done else {}
    device = execution.step.device
    how = {"engine": execution.kind, "updates_per_graph": execution.block, "jobs_per_device": jobs,
           "devices": execution.step.world.size,
           **({} if format_times is None else {"memory_format_ms": format_times})}
    session = {"started": utc_now(), "from_iteration": done, "device": describe(device), **how,
               **provenance.code_version(), **provenance.package_versions(), **provenance.slurm_job()}
    return {"iterations": schedule.iterations, "parameters": sum(p.numel() for p in execution.step.model.parameters()),
            "data": {"name": config.data.name, "split": data.split, "sha256": data.sha256, **about_files(data)},
            "environment": {**provenance.package_versions(), **provenance.machine(), "device": describe(device),
                            "precision": config.machine.precision.name, "threads": torch.get_num_threads(), **how},
            "started": record.get("started", session["started"]), "warmup_end": None,
            "sessions": [*record.get("sessions", []), session]}


def about_files(data: Data) -> dict[str, Any]:
    """For the record: that a wiring test is tested on its training images, and what was left out of ImageNet."""
    if not isinstance(data, ImageNetData):
        return {}
    return {"one_folder": True} if data.files.one_folder else {}


def log_start(config: RunConfig, schedule: Schedule, done: int, folder: Path, data: Data, execution: Execution,
              before: str | None) -> None:
    """Before the first step: what trains, where, how far it is, and what it departs from."""
    where = f"from iteration {done}" if done else "from the start"
    size = execution.step.world.size
    several = "" if size == 1 else f"{size} processes, each on "
    logger.info(
        f"{runs.title(config)}: {schedule.iterations} iterations {where}, {several}{describe(execution.step.device)}, "
        f"{config.machine.precision.name}, engine {execution.kind}, split {data.split} "
        f"(tested on {data.evaluated_on}), {display_path(folder)}")
    if before not in (None, execution.kind):
        logger.warning(f"  trained by engine {before} until now: the numbers go on equal within rounding, not bit for "
                       "bit")
    if config.data.wiring_test:
        logger.info("  a wiring test: whether the network learns these images by heart; its errors say nothing about "
                    "ImageNet" + ("; tested on the training images" if "one_folder" in about_files(data) else ""))
    if deviations(config):
        logger.info("  not the paper's settings: " + "; ".join(deviations(config)))


def load_data(config: RunConfig, device: torch.device) -> DeviceData:
    """The configured data set on the device; DataError if it is not there or not the published one.

    What was loaded last is kept: runs that share a process share their images.
    """
    key = repr(config.data), data_dir(config.data.root), device
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = on_device(load_arrays(config.data), config.data, device)
    return _loaded[key]
