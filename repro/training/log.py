"""What a run leaves behind and shows while it trains: rows, clocks, record, progress, checkpoints, TensorBoard."""

import csv
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

import msgspec
import torch
import yaml
from torch import Tensor
from torch.utils._pytree import tree_map_only

from repro import devices, files, runs
from repro.config import to_dict
from repro.data.loader import progress
from repro.errors import DivergedError, ImageError, InUseError, PeerError, StorageError
from repro.files import append_text, duration, utc_now
from repro.paths import display_path
from repro.runs import Images, Provenance, Record
from repro.schema import IMAGENET
from repro.stopping import StopRequest
from repro.training import checkpoint
from repro.training.distributed import Plan, first_line
from repro.training.step import Execution

logger = logging.getLogger(__name__)
# What bits depend on; a CPU's name tells its threads.
SURROUNDINGS = ("device", "python", "torch", "torchvision", "numpy", "commit", "engine", "devices")


class RunLog:
    """Rows, clocks, record and progress of a run that goes on from `before`; of all processes the main one writes."""

    def __init__(self, plan: Plan, execution: Execution, record: Record, before: dict[str, Any], stop: StopRequest):
        self.plan, self.execution, self.record, self.stop = plan, execution, record, stop
        self.step, self.world = execution.step, execution.step.world
        self.evaluated_on = self.step.data.evaluated_on
        self.first = execution.done  # of this session
        self.draws = self.world.is_main and plan.config.machine.tensorboard
        self.board: Any = None
        columns = {"history.csv": runs.history_columns(self.evaluated_on, plan.config.data.name == IMAGENET),
                   "timing.csv": runs.TIMING_COLUMNS}
        if plan.config.evaluation.gradient_iterations:
            columns["gradients.csv"] = runs.GRADIENT_COLUMNS
        # The CSV files as they are on disk, or would be if it were not full; the checkpoint knows of those until then.
        self.rows = {name: ",".join(names) + "\n" for name, names in columns.items()} | before.get("rows", {})
        if self.world.is_main:
            files.write_atomic(plan.folder / "config.yaml", yaml.safe_dump(to_dict(record.config), sort_keys=False))
            for name, text in self.rows.items():
                path = plan.folder / name
                if before and not (path.is_file() and path.read_bytes().startswith(text.encode())):
                    logger.warning(f"{display_path(path)} was not as this run had written it; restored")
                files.write_atomic(path, text)
        self.trained_before = record.train_seconds = before.get("train_seconds", 0.0)  # by earlier sessions
        record.evaluation_seconds = before.get("evaluation_seconds", 0.0)
        self.write()
        self.stack, self.note = ExitStack(), ""
        self.mark = self.saved = time.monotonic()  # mark: when the lap began that is not counted yet

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Around the updates: shows how far they are, and saves what can be saved of a run that can't go on."""
        self.show = self.stack.enter_context(progress(
            self.plan.title, self.record.iterations, self.first, self.world.is_main and sys.stderr.isatty(), "it"))
        try:
            yield
        except (StorageError, ImageError, PeerError) as error:
            # Input and output never fail within an update, so the state is whole: it is saved if that is possible.
            saved, done = "what was saved before stays", self.execution.done
            tested = f"\n{done}," in self.rows["history.csv"] or not self.step.schedule.evaluates(done)
            with suppress(StorageError, InUseError):
                self.write(status="interrupted", ended=utc_now())
                if self.world.size == 1 and tested:
                    self.save()
                    saved = f"saved at iteration {done}"
            raise type(error)(f"{error}\n{saved}; {self.plan.advice}") from error
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

    def goes_on(self) -> bool:
        """Whether another update follows, as all processes agree; a checkpoint every checkpoint_seconds."""
        done = self.execution.done
        if done >= self.record.iterations:
            return False
        due = time.monotonic() - self.saved >= self.plan.config.machine.checkpoint_seconds
        stops, saves = self.world.agree(self.stop.reason is not None, due, done, self.step.device)
        if saves and not stops and done > self.first:
            self.save()
            self.saved = time.monotonic()
        return not stops

    def advanced(self) -> None:
        """Note that one more update is done; DivergedError if it could not be made."""
        tests = self.step.schedule.evaluates(self.execution.done)
        if self.step.device.type == "cpu" or tests or self.execution.done in self.step.schedule.gradients:
            self.check_finite()  # elsewhere the host would have to wait
        self.show(1, self.note)
        if tests:
            devices.synchronize(self.step.device)
            self.lap("train_seconds")

    def check_finite(self) -> None:
        """Raise DivergedError if a loss or gradient was not finite; its update was not made."""
        if (at := int(self.step.failed_at)) >= 0:
            rate, last = float(self.step.learning_rate()), float(self.step.last_loss)
            self.write(status="diverged", iteration=at, ended=utc_now(),
                       diverged={"iteration": at, "learning_rate": rate, "last_finite_loss": last})
            raise DivergedError(f"{display_path(self.plan.folder)}: the loss or its gradient is not finite at iteration"
                                f" {at} (lr {rate:g}, last finite loss {last:g}); stopped before the update")

    def evaluated(self, row: dict[str, float]) -> None:
        """One more row of history.csv, timing.csv and TensorBoard."""
        done, trained, spent = self.execution.done, self.record.train_seconds, self.lap("evaluation_seconds")
        rate = (done - self.first) * self.execution.batch / max(1e-3, trained - self.trained_before)
        self.step.clear()
        self.note = (f"train error {row['train_top1_error']:.2f} %, {self.evaluated_on} error "
                     f"{row[f'{self.evaluated_on}_top1_error']:.2f} %, {rate:.0f} images/s")
        self.show(0, self.note)
        if not sys.stderr.isatty():
            logger.info(f"{self.plan.title}: iteration {done}/{self.record.iterations}, {self.note}")
        self.append("history.csv", [[*row.values()]])
        self.append("timing.csv", [[done, trained, round(spent, 3), round(rate, 1), utc_now()]])
        if not self.draws:
            return
        try:
            if self.board is None:
                from torch.utils.tensorboard import SummaryWriter

                # without the scalars of an earlier session past the iteration that it stopped at
                self.board = SummaryWriter(str(self.plan.folder / "tensorboard"), purge_step=self.first + 1)
            for name, value in list(row.items())[1:]:
                self.board.add_scalar(name, value, done)
            self.board.flush()
        except Exception as error:  # a full disk; whatever the import raises with a protobuf of another version
            self.draws = False
            logger.warning(f"no TensorBoard scalars from here on: {type(error).__name__}: {first_line(error)}")

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

    def write(self, kept: bool = False, **changes: Any) -> None:
        """Replace run.json by the record with these changes; `kept`: all updates until now are on disk."""
        if kept:
            session = self.record.sessions[-1]
            session.ended, session.to_iteration = utc_now(), self.execution.done
            changes["iteration"] = self.execution.done
        for name, value in changes.items():
            setattr(self.record, name, value)
        if self.step.device.type == "cuda":
            self.record.peak_memory_bytes = torch.cuda.max_memory_allocated(self.step.device)
        if self.world.is_main:
            files.write_json(self.plan.folder / "run.json", msgspec.to_builtins(self.record))

    def save(self) -> None:
        """Write the state as it is now as a checkpoint, and bring the record up to it."""
        self.check_finite()
        self.lap("train_seconds")
        state = self.step.state()  # all together
        meta = {"train_seconds": self.record.train_seconds, "evaluation_seconds": self.record.evaluation_seconds,
                "identity": self.plan.config_hash, "numbers": checkpoint.seed_and_settings(self.plan.config),
                "engine": self.execution.kind, "devices": self.world.size, "versions": devices.package_versions(),
                "utc": utc_now()}
        if self.world.is_main:  # the others need not wait: they would for a day if one hangs
            fetched = tree_map_only(Tensor, Tensor.cpu, state) | {"rows": self.rows}
            checkpoint.save(self.plan.folder, self.execution.done, fetched, meta)
        self.write(kept=True)

    def finish(self, measured: dict[str, Any]) -> None:
        """The finished record: the result is the last row; the lowest test error only as a labeled extra."""
        path = self.plan.folder / "history.csv"
        history = [row | {"iteration": int(row["iteration"])} for row in files.read_history(path)]
        test, result, warmup_end = f"{self.evaluated_on}_top1_error", history[-1], int(self.step.warmup_end)
        if self.evaluated_on == "test":
            best = min(history, key=lambda row: row[test])
            measured["best_on_test"] = {key: best[key] for key in ("iteration", test)}
        self.lap("evaluation_seconds")
        self.write(kept=True, status="finished", ended=utc_now(), result=result, history_sha256=files.file_sha256(path),
                   warmup_end=warmup_end if warmup_end >= 0 else None, **measured)
        logger.info(f"{self.plan.title}: {self.evaluated_on} error {result[test]:.2f} % after "
                    f"{duration(self.record.train_seconds)} of training; {display_path(self.plan.folder)}")


def begin_record(plan: Plan, execution: Execution, earlier: Record | None) -> Record:
    """The record of a run that begins, or goes on from an earlier one; says so, and what it departs from."""
    config, step, data = plan.config, execution.step, execution.step.data
    how = {**devices.package_versions(), "device": devices.describe(step.device), "engine": execution.kind,
           "devices": step.world.size}
    job, restarts = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_RESTART_COUNT") or 0
    session = msgspec.convert({**how, **devices.code_version(), "started": utc_now(), "from_iteration": execution.done,
                               "slurm": {"job_id": job, "restarts": int(restarts)} if job else None}, Provenance)
    environment = msgspec.convert({**how, **devices.machine(), "precision": config.machine.precision.name,
                                   "threads": torch.get_num_threads()}, Provenance)
    one_folder = getattr(getattr(data, "files", None), "one_folder", False)  # of ImageNet
    departs = f"\n  not the paper's settings: {'; '.join(plan.deviations)}" if plan.deviations else ""
    logger.info(f"{plan.title}: {step.schedule.iterations} iterations from "
                f"{f'iteration {execution.done}' if execution.done else 'the start'}, "
                f"{f'{plan.devices} processes, each on ' * (plan.devices > 1)}{session.device}, "
                f"{environment.precision}, engine {session.engine}, split {data.split} (tested on {data.evaluated_on}),"
                f" {display_path(plan.folder)}{departs}")
    if earlier and (changed := [f"{key} {old} until now, {getattr(session, key)} from here on" for key in SURROUNDINGS
                                if (old := getattr(earlier.sessions[-1], key)) not in (None, getattr(session, key))]):
        logger.warning(f"  {'; '.join(changed)}: the numbers go on equal within rounding, not bit for bit")
    return Record(
        schema=runs.SCHEMA, experiment=config.name, seed=config.seed, identity=plan.config_hash, status="running",
        config=replace(config, results=None, data=replace(config.data, root=None)),  # no paths of this machine
        deviations=list(plan.deviations), evaluated_on=data.evaluated_on, iterations=step.schedule.iterations,
        iteration=execution.done, parameters=sum(p.numel() for p in step.model.parameters()),
        data=Images(config.data.name, data.split, data.sha256, one_folder), environment=environment,
        started=earlier.started if earlier else session.started,
        sessions=[*(earlier.sessions if earlier else ()), session])
