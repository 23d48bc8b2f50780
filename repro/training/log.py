"""What a run leaves behind and shows while it trains: rows, clocks, record, progress, checkpoints, TensorBoard."""

import csv
import logging
import os
import sys
import time
import warnings
from contextlib import ExitStack, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any

import msgspec
import torch
import yaml
from torch import Tensor
from torch.utils._pytree import tree_map_only

from repro import devices, files, runs
from repro.config import to_dict
from repro.data.loader import progress
from repro.devices import describe, out_of_memory, peak_memory, synchronize
from repro.errors import DivergedError, ImageError, InUseError, LostProcessError, StorageError
from repro.files import append_text, duration, utc_now
from repro.paths import display_path
from repro.runs import GRADIENT_COLUMNS, TIMING_COLUMNS, Images, Provenance, Record, history_columns
from repro.schema import IMAGENET
from repro.stopping import StopRequest
from repro.training import checkpoint
from repro.training.distributed import Plan, first_line
from repro.training.step import Execution

logger = logging.getLogger(__name__)
# What bits depend on; a CPU's name tells its threads.
SURROUNDINGS = ("device", "python", "torch", "torchvision", "numpy", "commit", "engine", "devices")


class RunLog:
    """Rows, clocks, record, progress and checkpoints of a run; of several processes the main one writes.

    Around the updates (`with log`) it saves what can be saved of a run that can't go on. `before`: see `restore`.
    """

    def __init__(self, plan: Plan, execution: Execution, record: Record, before: dict[str, Any], stop: StopRequest):
        self.plan, self.execution, self.record, self.stop = plan, execution, record, stop
        self.step, self.world, self.schedule = execution.step, execution.step.world, execution.step.schedule
        self.done = self.first = execution.done
        self.evaluated_on = self.step.data.evaluated_on
        self.row_began = self.done - self.done % self.schedule.interval  # of the interval of training errors
        self.columns = history_columns(self.evaluated_on, plan.config.data.name == IMAGENET)
        tables = {"history.csv": self.columns, "timing.csv": TIMING_COLUMNS}
        if plan.config.evaluation.gradient_iterations:
            tables["gradients.csv"] = GRADIENT_COLUMNS
        # The CSV files as they are on disk, or would be if it were not full; the checkpoint knows of those until then.
        self.rows = {name: before.get("rows", {}).get(name, ",".join(columns) + "\n")
                     for name, columns in tables.items()}
        self.board: Any = None
        self.draws = self.world.is_main and plan.config.machine.tensorboard
        if self.world.is_main:
            files.write_atomic(plan.folder / "config.yaml", yaml.safe_dump(to_dict(record.config), sort_keys=False))
            for name, text in self.rows.items():
                path = plan.folder / name
                if before and not (path.is_file() and path.read_bytes().startswith(text.encode())):
                    logger.warning(f"{display_path(path)} was not as this run had written it; restored from the "
                                   "checkpoint")
                files.write_atomic(path, text)
        self.trained_before = record.train_seconds = before.get("train_seconds", 0.0)  # by earlier sessions
        record.evaluation_seconds = before.get("evaluation_seconds", 0.0)
        self.write()
        self.stack, self.bar = ExitStack(), self.world.is_main and sys.stderr.isatty()
        self.show = self.stack.enter_context(progress(plan.title, self.schedule.iterations, self.done, self.bar, "it"))
        self.note = ""
        self.mark = self.saved = time.monotonic()  # mark: when the lap began that is not counted yet
        self.saves = False
        self.stopping, _ = self.world.agree(stop.reason is not None, False, 0, torch.device("cpu"))

    def __enter__(self) -> "RunLog":
        self.mark = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            if isinstance(error, (StorageError, ImageError, LostProcessError)):
                # Input and output never fail within an update, so the state is whole: it is saved if that is possible.
                saved, self.done = "what was saved before stays", int(self.step.iteration)
                tested = f"\n{self.done}," in self.rows["history.csv"] or not self.schedule.evaluates(self.done)
                with suppress(StorageError, InUseError):
                    if self.world.size == 1 and tested:
                        self.save()
                        saved = f"saved at iteration {self.done}"
                with suppress(StorageError, InUseError):
                    self.write(status="interrupted", ended=utc_now())
                raise type(error)(f"{error}\n{saved}; {self.plan.advice}") from error
            if out_of_memory(error):  # may be within an update
                with suppress(StorageError, InUseError):
                    self.write(status=runs.OUT_OF_MEMORY, ended=utc_now())
        finally:
            self.stack.close()
            if self.draws and self.board is not None:
                with suppress(OSError):
                    self.board.close()

    @property
    def errors(self) -> list[tuple[int, float]]:
        """(iteration, error in percent) of every test so far."""
        return [(int(row["iteration"]), float(row[f"{self.evaluated_on}_top1_error"]))
                for row in csv.DictReader(self.rows["history.csv"].splitlines())]

    def advanced(self, updates: int) -> None:
        """Note that so many updates are done, and agree with the other processes what to do next; DivergedError."""
        self.done += updates
        due = (time.monotonic() - self.saved >= self.plan.config.machine.checkpoint_seconds
               and self.done < self.schedule.iterations)
        self.stopping, self.saves = self.world.agree(self.stop.reason is not None, due, self.done, self.step.device)
        if (self.step.device.type == "cpu" or self.done in self.schedule.gradients
                or self.schedule.evaluates(self.done)):  # elsewhere the host would have to wait
            self.check_finite()
        self.show(updates, self.note)
        if self.schedule.evaluates(self.done):
            synchronize(self.step.device)
            self.lap("train_seconds")

    def check_finite(self) -> None:
        """Raise DivergedError if a loss or gradient was not finite; its update was not made."""
        at = int(self.step.failed_at)
        if at < 0:
            return
        rate, last = float(self.step.learning_rate()), float(self.step.last_loss)
        self.write(status="diverged", iteration=at, ended=utc_now(),
                   diverged={"iteration": at, "learning_rate": rate, "last_finite_loss": last})
        raise DivergedError(f"{display_path(self.plan.folder)}: the loss or its gradient is not finite at iteration "
                            f"{at} (lr {rate:g}, last finite loss {last:g}); stopped before the update")

    def evaluated(self, row: dict[str, float]) -> None:
        """One more row of history.csv, timing.csv and TensorBoard."""
        spent = round(self.lap("evaluation_seconds"), 3)
        trained = self.record.train_seconds
        rate = (self.done - self.first) * self.execution.batch / max(1e-3, trained - self.trained_before)
        self.step.clear()
        self.row_began = self.done
        self.note = (f"train error {row['train_top1_error']:.2f} %, {self.evaluated_on} error "
                     f"{row[f'{self.evaluated_on}_top1_error']:.2f} %, {rate:.0f} images/s")
        self.show(0, self.note)
        if not self.bar:
            logger.info(f"{self.plan.title}: iteration {self.done}/{self.schedule.iterations}, {self.note}")
        self.append("history.csv", [[row[name] for name in self.columns]])
        self.append("timing.csv", [[self.done, trained, spent, round(rate, 1), utc_now()]])
        if self.draws:
            try:
                self.draw(row)
            except Exception as error:  # a full disk; whatever the import raises with a protobuf of another version
                self.draws = False
                logger.warning(f"no TensorBoard scalars from here on: {type(error).__name__}: {first_line(error)}")

    def draw(self, row: dict[str, float]) -> None:
        """The row's scalars for TensorBoard, without those of an earlier session past the iteration it stopped at."""
        if self.board is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of tensorboard's own dependencies
                from torch.utils.tensorboard import SummaryWriter
            self.board = SummaryWriter(str(self.plan.folder / "tensorboard"), purge_step=self.first + 1)
        for name in self.columns[1:]:
            self.board.add_scalar(name, row[name], self.done)
        self.board.flush()

    def lap(self, name: str) -> float:
        """Count the seconds since the last lap as train_seconds or evaluation_seconds, and return them."""
        last, self.mark = self.mark, time.monotonic()
        setattr(self.record, name, round(getattr(self.record, name) + self.mark - last, 3))
        return self.mark - last

    def append(self, name: str, rows: list[list[Any]]) -> None:
        """Add rows to a CSV file. If that fails (StorageError), `self.rows` has them nevertheless."""
        text = "".join(",".join(map(str, row)) + "\n" for row in rows)
        self.rows[name] += text
        if self.world.is_main:
            append_text(self.plan.folder / name, text)

    def write(self, **changes: Any) -> None:
        """Replace run.json by the record with these changes."""
        for name, value in changes.items():
            setattr(self.record, name, value)
        if self.world.is_main:
            runs.write_record(self.plan.folder, self.record)

    def save_if_due(self) -> None:
        """A checkpoint every checkpoint_seconds."""
        if self.saves:
            self.lap("train_seconds")
            self.save()
            self.saved = time.monotonic()

    def save(self, wait: bool = False) -> None:
        """Write the state as it is now as a checkpoint, and bring the record up to it; with `wait` all wait for it."""
        state, at = self.step.state(), utc_now()  # all together
        meta = {"train_seconds": self.record.train_seconds, "evaluation_seconds": self.record.evaluation_seconds,
                "identity": self.plan.config_hash, "numbers": checkpoint.seed_and_settings(self.plan.config),
                "engine": self.execution.kind, "devices": self.world.size, "versions": devices.package_versions(),
                "utc": at}

        def write() -> None:
            fetched = tree_map_only(Tensor, Tensor.cpu, state)
            if int(fetched["counters"]["failed_at"]) >= 0:
                return  # the checkpoint before it stays, and the loop will see it at its next look
            checkpoint.save(self.plan.folder, self.done, fetched | {"rows": self.rows}, meta)
            session = self.record.sessions[-1]
            session.ended, session.to_iteration = at, self.done
            self.write(iteration=self.done, **peak_memory(self.step.device))

        if wait:
            self.world.from_main(write)
        elif self.world.is_main:  # the others need not wait: they would for a day if one hangs
            write()

    def finish_or_save(self) -> bool:
        """After the loop: whether the last iteration is done; a run that is stopped before is saved."""
        synchronize(self.step.device)
        self.lap("train_seconds")
        self.stack.close()
        self.check_finite()
        if self.done >= self.schedule.iterations:
            return True
        self.save(wait=True)  # nobody leaves before it is written
        self.write(status="interrupted", ended=utc_now())
        return False

    def finish(self, measured: dict[str, Any]) -> None:
        """The finished record: the result is the last row; the lowest test error only as a labeled extra."""
        path = self.plan.folder / "history.csv"
        history = [row | {"iteration": int(row["iteration"])} for row in files.read_history(path)]
        test, result, ended = f"{self.evaluated_on}_top1_error", history[-1], int(self.step.warmup_end)
        if self.evaluated_on == "test":
            best = min(history, key=lambda row: row[test])
            measured["best_on_test"] = {key: best[key] for key in ("iteration", test)}
        self.lap("evaluation_seconds")
        session = self.record.sessions[-1]
        session.ended, session.to_iteration = utc_now(), self.done
        self.write(iteration=self.done, **peak_memory(self.step.device), ended=session.ended, **measured,
                   warmup_end=ended if ended >= 0 else None, status="finished", result=result,
                   history_sha256=files.file_sha256(path))
        logger.info(f"{self.plan.title}: {self.evaluated_on} error {result[test]:.2f} %, train error "
                    f"{result['train_top1_error']:.2f} % at iteration {self.done}, "
                    f"{duration(self.record.train_seconds)} of training; {display_path(self.plan.folder)}")


def begin_record(plan: Plan, execution: Execution, earlier: Record | None) -> Record:
    """The record of a run that begins, or goes on from an earlier one."""
    config, step, device = plan.config, execution.step, describe(execution.step.device)
    files = getattr(step.data, "files", None)  # of ImageNet
    how = {**devices.package_versions(), "device": device, "engine": execution.kind, "devices": step.world.size}
    job, restarts = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_RESTART_COUNT") or 0
    session = msgspec.convert({**how, **devices.code_version(), "started": utc_now(), "from_iteration": execution.done,
                               "slurm": {"job_id": job, "restarts": int(restarts)} if job else None}, Provenance)
    environment = msgspec.convert({**how, **devices.machine(), "precision": config.machine.precision.name,
                                   "threads": torch.get_num_threads()}, Provenance)
    return Record(
        schema=runs.SCHEMA, experiment=config.name, seed=config.seed, identity=plan.config_hash, status="running",
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
    logger.info(f"{plan.title}: {record.iterations} iterations from {f'iteration {done}' if done else 'the start'}, "
                f"{f'{plan.devices} processes, each on ' if plan.devices > 1 else ''}{where.device}, "
                f"{where.precision}, engine {where.engine}, split {data.split} (tested on {record.evaluated_on}), "
                f"{display_path(plan.folder)}")
    if plan.deviations:
        logger.info("  not the paper's settings: " + "; ".join(plan.deviations))
    if done:
        before, now = record.sessions[-2:]
        changed = [f"{key} {old} until now, {getattr(now, key)} from here on" for key in SURROUNDINGS
                   if (old := getattr(before, key)) is not None and old != getattr(now, key)]
        if changed:
            logger.warning(f"  {'; '.join(changed)}: the numbers go on equal within rounding, not bit for bit")
