"""What a run leaves behind and shows while it trains: rows, clocks, record, progress, checkpoints, TensorBoard."""

import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import torch
import yaml

from repro import files, provenance, runs
from repro.config import to_dict
from repro.data.loader import progress
from repro.devices import describe, is_out_of_memory, peak_memory, synchronize
from repro.errors import ConfigError, DivergedError, ImageError, InUseError, LostProcessError, StorageError
from repro.files import append_text, utc_now
from repro.paths import display_path
from repro.record import SCHEMA, Diverged, Environment, Images, Record, Session
from repro.runs import GRADIENT_COLUMNS, TIMING_COLUMNS, history_columns
from repro.schema import IMAGENET
from repro.stopping import StopRequest
from repro.training import checkpoint
from repro.training.execution import Execution
from repro.training.plan import Plan
from repro.training.resume import seed_and_settings
from repro.wording import duration

logger = logging.getLogger(__name__)
# What bits depend on; a CPU's name tells its threads.
SURROUNDINGS = ("device", "python", "torch", "torchvision", "numpy", "commit", "engine", "devices")
NO_SCALARS = "no TensorBoard scalars from here on"


class RunLog:
    """Rows are appended and flushed, everything else is replaced atomically; of several processes one writes.

    Around the updates (`with log`) it saves as much as can be saved of a run that can't go on. `before` is what
    `restore` has found.
    """

    def __init__(self, plan: Plan, execution: Execution, record: Record, before: dict[str, Any], stop: StopRequest):
        self.plan, self.execution, self.record, self.stop = plan, execution, record, stop
        self.step, self.done, self.on = execution.step, execution.done, execution.step.data.evaluated_on
        self.world, self.schedule = self.step.world, self.step.schedule
        self.row_began = self.done - self.done % self.schedule.interval  # of the interval of training errors
        self.columns = history_columns(self.on, plan.config.data.name == IMAGENET)
        self.rows: dict[str, str] = {}  # the CSV files as they are on disk, or would be if it were not full
        self.board: Board | None = None
        if self.world.is_main:
            self.begin_files(before.get("rows", {}))
        history = self.world.from_main(lambda: files.read_history(plan.folder / "history.csv"))
        self.errors = [(int(row["iteration"]), row[f"{self.on}_top1_error"]) for row in history]
        self.trained_before = before.get("train_seconds", 0.0)  # by earlier sessions
        self.mark = time.monotonic()  # when the lap began that is not counted yet
        self.write(iteration=self.done, train_seconds=self.trained_before,
                   evaluation_seconds=before.get("evaluation_seconds", 0.0))
        self.writer, self.stack, self.note = checkpoint.Writer(), ExitStack(), ""
        self.bar = self.world.is_main and sys.stderr.isatty()
        self.show = self.stack.enter_context(progress(plan.title, self.schedule.iterations, self.done, self.bar, "it"))
        self.first, self.shown, self.saved = self.done, self.mark, self.mark
        self.stopping, self.saves = self.world.agree(stop.reason is not None, False)

    def begin_files(self, known: dict[str, str]) -> None:
        """The configuration, TensorBoard, and the CSV files with what the checkpoint knows of them."""
        folder, config = self.plan.folder, self.plan.config
        files.write_atomic(folder / "config.yaml", yaml.safe_dump(to_dict(self.record.config), sort_keys=False))
        tables = {"history.csv": self.columns, "timing.csv": TIMING_COLUMNS}
        if config.evaluation.gradient_iterations:
            tables["gradients.csv"] = GRADIENT_COLUMNS
        for name, columns in tables.items():
            path, header = folder / name, ",".join(columns)
            text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
            if name not in known:  # a new run or file, or a checkpoint of the first ones, which kept no rows
                rows = [line for line in text[: text.rfind("\n") + 1].splitlines()[1:]
                        if (at := line.partition(",")[0]).isdigit() and int(at) <= self.done]
                self.rows[name] = "\n".join([header, *rows]) + "\n"
            else:
                self.rows[name] = known[name]
                if not text.startswith(known[name]):
                    logger.warning(f"{display_path(path)} was not as this run had written it; restored from the "
                                   "checkpoint")
            files.write_atomic(path, self.rows[name])
        if config.machine.tensorboard:
            self.board = Board(folder / "tensorboard", self.done)

    def __enter__(self) -> "RunLog":
        self.mark = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Where an input or output failed, which is never within an update, the updates that are done are saved.

        Memory may run out within one, so that the state is not whole: then the last checkpoint stays.
        """
        try:
            if isinstance(error, (StorageError, ImageError, LostProcessError)):
                saved = self.save_what_is_done()
                with suppress(StorageError, InUseError):
                    self.write(status="interrupted", ended=utc_now())
                raise type(error)(f"{error}\n{saved}; {self.plan.advice}") from error
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                with suppress(StorageError, InUseError):
                    self.write(status=runs.OUT_OF_MEMORY, ended=utc_now())
        finally:
            self.stack.close()
            self.writer.pool.shutdown()
            if self.board is not None:
                self.board.close()

    @property
    def images(self) -> int:
        """Images that were trained on since the last row."""
        return (self.done - self.row_began) * self.execution.batch

    def advanced(self, done: int) -> None:
        """Note that so many updates are done, and agree with the other processes what to do after them.

        DivergedError if the loss or gradient of one was not finite.
        """
        updates, self.done, device = done - self.done, done, self.step.device
        now, due = time.monotonic(), self.plan.config.machine.checkpoint_seconds
        self.stopping, self.saves = self.world.agree(
            self.stop.reason is not None,
            now - self.saved >= due and done < self.schedule.iterations and not self.writer.busy(), done, device)
        shows = self.bar and now - self.shown >= 1
        evaluates = self.schedule.evaluates(done)
        if device.type == "cpu" or evaluates or done in self.schedule.gradients or (shows and self.world.size == 1):
            self.check_finite()
        if shows:
            self.shown = now
            error = 100 * int(self.step.error_count) / self.images
            self.note = f"train error {error:.2f} %, {self.rate():.0f} images/s"
        self.show(updates, self.note)
        if evaluates:
            synchronize(device)
            self.lap("train_seconds")

    def check_finite(self) -> None:
        """Raise DivergedError if a loss or gradient was not finite; its update was not made."""
        step = self.step
        at = int(step.failed_at)
        if at < 0:
            return
        self.writer.finish()
        rate, last = float(step.learning_rate()), float(step.last_loss)
        self.write(status="diverged", iteration=at, ended=utc_now(), diverged=Diverged(at, rate, last))
        raise DivergedError(f"{display_path(self.plan.folder)}: loss {float(step.bad_loss):g} or its gradient is not "
                            f"finite at iteration {at} (lr {rate:g}, last finite loss {last:g}); stopped before the "
                            "update")

    def gradients(self, norms: list[tuple[int, str, float]]) -> None:
        """The gradient norms (layer, name, norm) that led to the last update."""
        self.append({"gradients.csv": [[self.done, *entry] for entry in norms]})

    def evaluated(self, row: dict[str, float]) -> None:
        """One more row of history.csv, timing.csv and TensorBoard."""
        spent, rate, test = self.lap("evaluation_seconds"), self.rate(), row[f"{self.on}_top1_error"]
        self.step.clear()
        self.row_began = self.done
        text = f"train error {row['train_top1_error']:.2f} %, {self.on} error {test:.2f} %, {rate:.0f} images/s"
        if self.bar:
            self.note = text
            self.show(0, text)
        else:  # only the main process speaks
            left = (self.schedule.iterations - self.done) * self.execution.batch / rate
            logger.info(f"{self.plan.title}: iteration {self.done}/{self.schedule.iterations}, "
                        f"lr {row['learning_rate']:g}, {text}, {duration(left)} left")
        times = [self.done, self.record.train_seconds, round(spent, 3), round(rate, 1), utc_now()]
        self.append({"history.csv": [[row[name] for name in self.columns]], "timing.csv": [times]})
        if self.board is not None:
            values = {name: row[name] for name in self.columns[1:]} | {"images_per_second": rate}
            self.board.add(step=self.done, summary={"value": [
                {"tag": name, "simple_value": value} for name, value in values.items()]})
        self.errors.append((self.done, test))

    def rate(self) -> float:
        """Training images per second of this session, evaluations left out."""
        seconds: float = self.record.train_seconds - self.trained_before + time.monotonic() - self.mark
        return (self.done - self.first) * self.execution.batch / max(1e-9, seconds)

    def lap(self, name: str) -> float:
        """Count the seconds since the last lap as train_seconds or evaluation_seconds, and return them."""
        last, self.mark = self.mark, time.monotonic()
        setattr(self.record, name, round(getattr(self.record, name) + self.mark - last, 3))
        return self.mark - last

    def append(self, rows: dict[str, list[list[Any]]]) -> None:
        """Add rows to CSV files by their name. If that fails (StorageError), `self.rows` has all of them."""
        if not self.world.is_main:
            return
        lines = {name: "".join(",".join(map(str, row)) + "\n" for row in added) for name, added in rows.items()}
        self.rows |= {name: self.rows[name] + text for name, text in lines.items()}
        for name, text in lines.items():
            append_text(self.plan.folder / name, text)

    def write(self, **changes: Any) -> None:
        """Replace run.json with the record and these changes."""
        for name, value in changes.items():
            setattr(self.record, name, value)
        if self.world.is_main:
            runs.write_record(self.plan.folder, self.record)

    def save_if_due(self) -> None:
        """A checkpoint in the background every checkpoint_seconds."""
        if self.saves:
            self.lap("train_seconds")
            self.writer.start(self.save(self.done))
            self.saved = time.monotonic()

    def save(self, done: int) -> Callable[[], None]:
        """Copy the state as it is now; what is returned writes it as a checkpoint and brings the record up to it.

        A state whose update failed is never written: the checkpoint before it stays.
        """
        at, device, rows, state = utc_now(), self.step.device, dict(self.rows), self.step.state()  # all together
        if not self.world.is_main:
            return lambda: None
        fetch = checkpoint.snapshot(state, device)
        spent = {name: getattr(self.record, name) for name in ("train_seconds", "evaluation_seconds")}
        meta = {**spent, "identity": self.plan.config_hash, "numbers": seed_and_settings(self.plan.config),
                "engine": self.execution.kind, "devices": self.world.size, "versions": provenance.package_versions(),
                "utc": at}

        def write() -> None:
            fetched = fetch()
            if int(fetched["counters"]["failed_at"]) >= 0:
                return  # the loop will see it at its next look
            checkpoint.save(self.plan.folder, done, fetched | {"rows": rows}, meta)
            session = self.record.sessions[-1]
            session.ended, session.to_iteration = at, done
            self.write(iteration=done, **peak_memory(device))
        return write

    def finish_or_save(self) -> bool:
        """After the loop: whether the last iteration is done; a run that is stopped before is saved."""
        synchronize(self.step.device)
        self.lap("train_seconds")
        self.stack.close()
        self.check_finite()
        self.writer.finish()
        if self.done >= self.schedule.iterations:
            return True
        self.world.from_main(self.save(self.done))  # nobody leaves before it is written
        self.write(status="interrupted", ended=utc_now())
        return False

    def finish(self, measured: dict[str, Any]) -> None:
        """The finished record: the result is the last row; the lowest test error only as a labeled extra."""
        path = self.plan.folder / "history.csv"
        history = [row | {"iteration": int(row["iteration"])} for row in files.read_history(path)]
        test, result, ended = f"{self.on}_top1_error", history[-1], int(self.step.warmup_end)
        if self.on == "test":
            best = min(history, key=lambda row: row[test])
            measured["best_on_test"] = {key: best[key] for key in ("iteration", test)}
        self.lap("evaluation_seconds")
        session = self.record.sessions[-1]
        session.ended, session.to_iteration = utc_now(), self.done
        self.write(iteration=self.done, **peak_memory(self.step.device), ended=session.ended, **measured,
                   warmup_end=ended if ended >= 0 else None, status="finished", result=result,
                   history_sha256=files.file_sha256(path))
        logger.info(f"{self.plan.title}: {self.on} error {result[test]:.2f} %, train error "
                    f"{result['train_top1_error']:.2f} % at iteration {self.done}, "
                    f"{duration(self.record.train_seconds)} of training; {display_path(self.plan.folder)}")

    def save_what_is_done(self) -> str:
        """Where an error ends the run: what is saved, in words."""
        at = int(self.step.iteration)
        owed = self.schedule.evaluates(at) and f"\n{at}," not in self.rows.get("history.csv", "")  # its test failed
        with suppress(StorageError, InUseError):
            self.writer.finish()
        with suppress(StorageError, InUseError):
            if self.world.size == 1 and not owed:
                self.save(at)()
                return f"saved at iteration {at}"
        return "what was saved before stays"


class Board:
    """TensorBoard's file of scalars, written at once; the training goes on without it where that fails.

    torch's SummaryWriter writes by a thread, whose error nobody can catch.
    """

    def __init__(self, folder: Path, iteration: int):
        self.event, session, writer = board_parts()
        self.file: Any = None
        try:
            folder.mkdir(exist_ok=True)
            name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
            self.file = writer((folder / name).open("wb"))
        except OSError as error:
            logger.warning(f"{NO_SCALARS}: {error}")
        self.add(step=iteration + 1, file_version="brain.Event:2")
        # What an earlier session wrote past this iteration is dropped.
        self.add(step=iteration + 1, session_log=session(status=session.START))

    def add(self, **event: Any) -> None:
        """Add an event."""
        if self.file is not None:
            try:
                self.file.write(self.event(wall_time=time.time(), **event).SerializeToString())
                self.file.flush()
            except OSError as error:
                self.close()
                logger.warning(f"{NO_SCALARS}: {error}")

    def close(self) -> None:
        """Let go of the file."""
        if self.file is not None:
            with suppress(OSError):
                self.file.close()
        self.file = None


def board_parts() -> tuple[Any, Any, Any]:
    """TensorBoard's event, its session and what writes them; ConfigError where they can't be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tensorboard's own dependencies
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.summary.writer.record_writer import RecordWriter
    except Exception as error:  # ImportError, and whatever a protobuf of another version raises
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"TensorBoard can't be imported ({type(error).__name__}: {reason}); "
                          "machine.tensorboard=false trains without it, with the same numbers") from error
    return Event, SessionLog, RecordWriter


def begin_record(plan: Plan, execution: Execution, earlier: Record | None,
                 format_times: dict[str, float] | None) -> Record:
    """The record of a run that begins, or goes on from an earlier one."""
    config, step, device = plan.config, execution.step, describe(execution.step.device)
    files = getattr(step.data, "files", None)  # of ImageNet
    how = {**provenance.package_versions(), "device": device, "engine": execution.kind,
           "updates_per_graph": execution.block, "devices": step.world.size, "memory_format_ms": format_times}
    session = msgspec.convert({**how, **provenance.code_version(), **provenance.slurm_job(), "started": utc_now(),
                               "from_iteration": execution.done}, Session)
    environment = msgspec.convert({**how, **provenance.machine(), "precision": config.machine.precision.name,
                                   "threads": torch.get_num_threads()}, Environment)
    return Record(
        schema=SCHEMA, experiment=config.name, seed=config.seed, identity=plan.config_hash, status="running",
        config=replace(config, results=None, data=replace(config.data, root=None)),  # no paths of this machine
        deviations=list(plan.deviations), evaluated_on=step.data.evaluated_on, iterations=step.schedule.iterations,
        iteration=execution.done, parameters=sum(p.numel() for p in step.model.parameters()),
        data=Images(config.data.name, step.data.split, step.data.sha256, bool(files and files.one_folder)),
        environment=environment, started=earlier.started if earlier else session.started,
        sessions=[*(earlier.sessions if earlier else ()), session])


def say_start(plan: Plan, record: Record) -> None:
    """Before the first update: what trains, where, how far it is, and what it departs from."""
    done, where, data = record.iteration, record.environment, record.data
    assert data is not None
    logger.info(f"{plan.title}: {record.iterations} iterations "
                f"{f'from iteration {done}' if done else 'from the start'}, "
                f"{f'{where.devices} processes, each on ' if plan.devices > 1 else ''}{where.device}, "
                f"{where.precision}, engine {where.engine}, split {data.split} (tested on {record.evaluated_on}), "
                f"{display_path(plan.folder)}")
    if plan.config.data.wiring_test:
        logger.info("  a wiring test: whether the network learns these images by heart; its errors say nothing about "
                    "ImageNet" + ("; tested on the training images" if data.one_folder else ""))
    if plan.deviations:
        logger.info("  not the paper's settings: " + "; ".join(plan.deviations))
    if done:
        before, now = record.sessions[-2:]
        changed = [f"{key} {old} until now, {getattr(now, key)} from here on" for key in SURROUNDINGS
                   if (old := getattr(before, key)) is not None and old != getattr(now, key)]
        if changed:
            logger.warning(f"  {'; '.join(changed)}: the numbers go on equal within rounding, not bit for bit")
