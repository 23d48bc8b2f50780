"""Train one configuration: the whole of it reads top to bottom in `train`.

`run` decides what to do with the run's folder (new, go on, finished already, somebody else's) and handles faults.
"""

import shlex
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import torch

from repro import provenance, runs
from repro.config import deviations, identity, numbers, paper_identities, to_dict, with_added
from repro.data.cifar10 import DeviceData, on_device
from repro.data.sources import load_arrays
from repro.devices import describe, place, resolve, set_up, synchronise
from repro.errors import ConfigError, DivergedError, OutOfMemoryError, Stopped, StorageError
from repro.evaluation.responses import gradient_norms
from repro.models import build_model
from repro.places import shown
from repro.runs import Run, read_run, run_folder, utc_now
from repro.schema import Precision, Resume, RunConfig
from repro.sizes import parse_size, size_text
from repro.training import checkpoint
from repro.training.background import Snapshot, Writer
from repro.training.execution import Execution
from repro.training.measurements import final_measurements
from repro.training.memory import Memory, needed, shortage
from repro.training.progress import Progress, Stopwatch, duration
from repro.training.recorder import Recorder
from repro.training.schedule import Schedule
from repro.training.step import TrainStep
from repro.training.stopping import StopRequest

Say = Callable[[str], None]


def run(config: RunConfig, command: list[str] | None = None, say: Say = print) -> Run:
    """Train a configuration to its end, or go on where it stopped, and return its run.

    `command` is what a person types to go on; it is shown when the run stops early. Raises Stopped (75 or 130) after
    saving, DivergedError (6), InUseError (7), OutOfMemoryError (8), StorageError (5), DataError (3), ConfigError (2).
    """
    with StopRequest(config.max_seconds) as stop:
        stepwise = run_stepwise(config, stop, command, say)
        while True:
            try:
                next(stepwise)
            except StopIteration as ended:
                result: Run = ended.value
                return result


def run_stepwise(config: RunConfig, stop: StopRequest, command: list[str] | None = None, say: Say = print,
                 jobs: int = 1) -> Generator[None, None, Run]:
    """`run` as a generator that yields whenever updates have been queued, so that several runs can take turns.

    `jobs` runs share the device; the record says so, since each of them then takes longer. Raises what `run` raises.
    """
    asked_precision = config.machine.precision
    config = resolve(config)
    folder = run_folder(config)
    with runs.locked(folder) as note:
        if note:
            say(f"{shown(folder)}: {note}")
        if config.resume is Resume.never:
            put_aside(folder, say)
        earlier = read_run(folder)
        check_same(earlier, config, asked_precision)
        check_not_lost(earlier)
        if earlier.finished:
            checkpoint.remove_all(folder)
            say(f"{runs.title(config)} is finished: {shown(folder)} (resume=never runs it again)")
            return earlier
        go_on = [word for word in command or ["repro", "run", f"experiment={config.name}"]
                 if not word.startswith("resume=")]
        try:
            yield from train(config, folder, earlier, stop, go_on, say, jobs)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
                raise OutOfMemoryError(no_memory_message(error, config)) from error
            raise
        return read_run(folder)


def train(config: RunConfig, folder: Path, earlier: Run, stop: StopRequest, command: list[str], say: Say,
          jobs: int) -> Iterator[None]:
    """The training loop of one run, from its newest checkpoint or from the start, to its end or to a stop."""
    device = set_up(config)
    data = load_data(config, device)
    schedule = Schedule.of(config)
    model = place(build_model(config.model, config.seed, batch_norm_group(config)), config, device)
    memory = needed(model, data, config)
    step = TrainStep(model, data, config, schedule)
    done, watch, before = restore(step, folder, config, device, say)
    if (text := shortage(memory, device, config)) is not None:
        say(f"{runs.title(config)}: {text}")
    execution = Execution(step, config, say)
    say_start(config, schedule, done, folder, data, execution, memory, before, say)
    recorder = Recorder(folder, config, data.evaluated_on,
                        facts(config, schedule, data, execution, memory, earlier, done, jobs))
    recorder.begin(done)
    recorder.write(iteration=done, **watch.values())

    batch = config.train.mini_batch_size
    progress = Progress(runs.title(config), done, schedule.iterations, batch, watch, bar=jobs == 1)
    point = done // schedule.interval * schedule.interval  # where the current interval of training errors began
    saved = time.monotonic()
    model.train()
    watch.lap()
    with Writer() as writer:
        while done < schedule.iterations and stop.reason is None:
            updates = min(execution.block, schedule.next_event(done) - done)
            execution.advance(updates)
            done += updates
            evaluates, shows, notes = schedule.evaluates(done), progress.due(), done in schedule.gradients
            saves = (time.monotonic() - saved >= config.machine.checkpoint_seconds and done < schedule.iterations
                     and not writer.busy())
            if device.type == "cpu" or evaluates or shows or notes:
                check_finite(step, recorder, writer)
            if notes:
                recorder.gradients(done, gradient_norms(model))
            if shows:
                progress.show(done, 100 * int(step.error_count) / ((done - point) * batch))
            if evaluates:
                synchronise(device)
                watch.lap_train()
                row = evaluate(execution, schedule, done, (done - point) * batch)
                spent = watch.lap_evaluation()
                progress.evaluated(done, row, data.evaluated_on)
                recorder.row(row, {"iteration": done, "train_seconds": round(watch.train, 3), "utc": utc_now(),
                                   "evaluation_seconds": round(spent, 3),
                                   "images_per_second": round(progress.rate(done), 1)})
                step.clear()
                point = done
            if saves:
                watch.lap_train()
                writer.start(save(execution, recorder, folder, done, watch))
                saved = time.monotonic()
            yield
        synchronise(device)
        watch.lap_train()
        progress.close()
        check_finite(step, recorder, writer)
        writer.finish()
        advice = f"go on with: {shlex.join(command)}"
        if done < schedule.iterations:
            save(execution, recorder, folder, done, watch)()
            recorder.write(status="interrupted", ended=utc_now())
            recorder.close()
            raise Stopped(f"stopped by {stop.reason} at iteration {done} of {schedule.iterations}; saved in "
                          f"{shown(folder)}\n{advice}", stop.exit_code)
        finish(execution, recorder, folder, watch, say)
    if stop.received is not None:
        raise Stopped(f"stopped by {stop.reason}; the run in {shown(folder)} had just finished\n{advice}",
                      stop.exit_code)


def restore(step: TrainStep, folder: Path, config: RunConfig, device: torch.device,
            say: Say) -> tuple[int, Stopwatch, str | None]:
    """Put the newest whole checkpoint into the step: iterations done, seconds spent, and the engine until then.

    0, none and None without a checkpoint.
    """
    found = checkpoint.load_newest(folder, device)
    if found is None:
        return 0, Stopwatch(), None
    state, meta, notes = found
    for note in notes:
        say(note)
    own = seed_and_numbers(config)
    recorded = with_added(meta["numbers"])
    if recorded != own:
        raise ConfigError(f"{shown(folder)}: the checkpoint is of another configuration: "
                          + differing(recorded, own) + "; resume=never starts over")
    step.load_state(state)
    return int(meta["iteration"]), Stopwatch(meta["train_seconds"], meta["evaluation_seconds"]), meta.get("engine")


def seed_and_numbers(config: RunConfig) -> dict[str, Any]:
    """All that a checkpoint's run must share with the run that goes on from it."""
    return {"seed": config.seed, **numbers(to_dict(config))}


def evaluate(execution: Execution, schedule: Schedule, done: int, images: int) -> dict[str, float]:
    """One row of history.csv: training loss and error over the mini-batches since the last row, and a test."""
    step, evaluated_on = execution.step, execution.step.data.evaluated_on
    outcome = execution.evaluate()
    ended = int(step.warmup_end)
    warming = step.warms_up and (ended < 0 or done - 1 < ended)
    return {"iteration": done, "learning_rate": schedule.rate(done - 1, warming),
            "train_loss": float(step.loss_sum) * execution.batch / images,
            "train_top1_error": 100 * int(step.error_count) / images,
            f"{evaluated_on}_loss": outcome.loss, f"{evaluated_on}_top1_error": outcome.top1_error}


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
    raise DivergedError(f"{shown(recorder.folder)}: loss {float(step.bad_loss):g} or its gradient is not finite at "
                        f"iteration {at} (lr {rate:g}, last finite loss {last:g}); stopped before the update")


def save(execution: Execution, recorder: Recorder, folder: Path, done: int, watch: Stopwatch) -> Callable[[], None]:
    """Copy the state as it is now; what is returned writes it as a checkpoint and brings the record up to it.

    A state whose update failed is never written: the checkpoint before it stays.
    """
    config, spent, at = execution.config, watch.values(), utc_now()
    snapshot = Snapshot(execution.step.state(), execution.step.device)

    def write() -> None:
        state = snapshot.fetched()
        if int(state["counters"]["failed_at"]) >= 0:
            return  # the loop will see it at its next look
        checkpoint.save(folder, done, state, {
            **spent, "identity": identity(config), "numbers": seed_and_numbers(config), "engine": execution.kind,
            "versions": provenance.package_versions(), "utc": at}, part_bytes(config))
        recorder.record["sessions"][-1] |= {"ended": at, "to_iteration": done}
        recorder.write(iteration=done, **spent)

    return write


def part_bytes(config: RunConfig) -> int | None:
    """The largest size of a checkpoint's files, in bytes; None for one file."""
    return None if config.part_size is None else parse_size(config.part_size)


def finish(execution: Execution, recorder: Recorder, folder: Path, watch: Stopwatch, say: Say) -> None:
    """Write the final weights and what is measured of them, then the finished record, then drop the checkpoints."""
    step, config = execution.step, execution.config
    done = int(step.iteration)
    extras = config.evaluation.responses or config.evaluation.batch_norm_images >= config.train.mini_batch_size
    if extras:  # may take minutes: the trained state is safe before
        save(execution, recorder, folder, done, watch)()
    execution.close()
    checkpoint.write_weights(folder / "weights.pt", step.model)
    measured = final_measurements(step, config, folder, say) if extras else {}
    watch.lap_evaluation()
    recorder.record["sessions"][-1] |= {"ended": utc_now(), "to_iteration": done}
    ended = int(step.warmup_end)
    recorder.write(iteration=done, **watch.values(), ended=utc_now(), warmup_end=ended if ended >= 0 else None,
                   **measured, **recorder.finish())
    recorder.close()
    checkpoint.remove_all(folder)
    result = recorder.record["result"]
    say(f"{runs.title(config)}: {recorder.evaluated_on} error "
        f"{result[f'{recorder.evaluated_on}_top1_error']:.2f} %, train error {result['train_top1_error']:.2f} % at "
        f"iteration {done}, {duration(watch.train)} of training; {shown(folder)}")


def facts(config: RunConfig, schedule: Schedule, data: DeviceData, execution: Execution, memory: Memory, earlier: Run,
          done: int, jobs: int) -> dict[str, Any]:
    """What the record says of a run beside its configuration and its numbers."""
    record = earlier.record if earlier.record and done else {}
    device = execution.step.device
    how = {"engine": execution.kind, "updates_per_graph": execution.block, "jobs_per_device": jobs}
    session = {"started": utc_now(), "from_iteration": done, "device": describe(device), **how,
               **provenance.code_version(), **provenance.package_versions()}
    return {"iterations": schedule.iterations, "memory_bytes": memory.total,
            "parameters": sum(p.numel() for p in execution.step.model.parameters()),
            "data": {"name": config.data.name, "split": data.split, "sha256": data.sha256},
            "environment": {**provenance.package_versions(), **provenance.machine(), "device": describe(device),
                            "precision": config.machine.precision.name, "threads": torch.get_num_threads(), **how},
            "started": record.get("started", session["started"]), "warmup_end": None,
            "sessions": [*record.get("sessions", []), session]}


def say_start(config: RunConfig, schedule: Schedule, done: int, folder: Path, data: DeviceData, execution: Execution,
              memory: Memory, before: str | None, say: Say) -> None:
    """Before the first step: what trains, where, how far it is, the memory it needs, and what it departs from."""
    where = f"from iteration {done}" if done else "from the start"
    say(f"{runs.title(config)}: {schedule.iterations} iterations {where}, {describe(execution.step.device)}, "
        f"{config.machine.precision.name}, engine {execution.kind}, about {size_text(memory.total)} for tensors "
        f"(computed), split {data.split} (tested on {data.evaluated_on}), {shown(folder)}")
    if before not in (None, execution.kind):
        say(f"  trained by engine {before} until now: the numbers go on equal within rounding, not bit for bit")
    if deviations(config):
        say("  not the paper's settings: " + "; ".join(deviations(config)))


def check_same(earlier: Run, config: RunConfig, asked: Precision) -> None:
    """Raise ConfigError if the folder holds another configuration's run.

    Only fp32 and TF32 share a folder: a finished run in either answers a request that left the precision open.
    """
    if earlier.record is None:
        return
    if earlier.seed != config.seed:
        raise ConfigError(f"{shown(earlier.folder)} holds the run of seed {earlier.seed}, not {config.seed}; "
                          "resume=never puts it aside")
    if earlier.identity == identity(config):
        return
    known = paper_identities(config.name)
    if earlier.finished and asked is Precision.auto and {earlier.identity, identity(config)} <= known:
        return
    raise ConfigError(f"{shown(earlier.folder)} holds a run of another configuration: "
                      + differing(numbers(earlier.record["config"]), numbers(to_dict(config)))
                      + "; go on with the recorded one, take another seed or results=FOLDER, or resume=never")


def check_not_lost(earlier: Run) -> None:
    """Raise StorageError where a run has come far and nothing is left to go on from: never silently from scratch."""
    if checkpoint.list_checkpoints(earlier.folder) or earlier.finished or earlier.status == "diverged":
        return
    begun = earlier.record["iteration"] > 0 if earlier.record else bool(earlier.history())
    if begun:
        raise StorageError(f"{shown(earlier.folder)}: {earlier.problem or 'its checkpoints are gone'}; "
                           "resume=never puts it aside and starts over")


def differing(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The keys in which two configurations differ, as 'key: old, now new'."""
    return "; ".join(f"{key}: {old.get(key)}, now {new.get(key)}" for key in sorted(old.keys() | new.keys())
                     if old.get(key) != new.get(key)) or "an older form of this one"


def put_aside(folder: Path, say: Say) -> None:
    """Move what an earlier run left in a folder into `<folder>.old-<k>` beside it."""
    content = [path for path in folder.iterdir() if path.name != runs.LOCK]
    if not content:
        return
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    aside.mkdir()
    for path in content:
        path.rename(aside / path.name)
    say(f"resume=never: the earlier run is now in {shown(aside)}")


def load_data(config: RunConfig, device: torch.device) -> DeviceData:
    """The configured data set on the device; DataError if it is not there or not the published one."""
    return on_device(load_arrays(config.data), config.data, device)


def batch_norm_group(config: RunConfig) -> int:
    """Images that share batch statistics, 0 where that is the whole mini-batch."""
    group = config.train.batch_norm_group
    return 0 if group == config.train.mini_batch_size else group


def no_memory_message(error: Exception, config: RunConfig) -> str:
    """One line that says what did not fit where."""
    return (f"{config.name}: no memory left on {config.machine.device.name} for mini-batches of "
            f"{config.train.mini_batch_size}: {str(error).splitlines()[0]}")
