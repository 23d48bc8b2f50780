"""What a run leaves behind while it trains: history.csv, timing.csv, config.yaml, run.json and TensorBoard scalars."""

import csv
import io
import logging
import threading
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from repro import runs
from repro.config import config_hash, deviations, to_dict
from repro.errors import ConfigError
from repro.paths import display_path
from repro.schema import IMAGENET, RunConfig

logger = logging.getLogger(__name__)
GRADIENT_COLUMNS = ("iteration", "layer", "name", "norm")
RESPONSE_COLUMNS = ("layer", "name", "channels", "mean", "std")
CSV_FILES = {"history.csv", "timing.csv", "gradients.csv"}
TIMING_COLUMNS = ("iteration", "train_seconds", "evaluation_seconds", "images_per_second", "utc")


def history_columns(evaluated_on: str, top5: bool = False) -> tuple[str, ...]:
    """Columns of history.csv; errors in percent, `evaluated_on` is test or val."""
    columns = ("iteration", "learning_rate", "train_loss", "train_top1_error", f"{evaluated_on}_loss",
               f"{evaluated_on}_top1_error")
    return (*columns, f"{evaluated_on}_top5_error") if top5 else columns


class Recorder:
    """Writes one run's folder. Rows are appended and flushed; everything else is replaced atomically.

    Of several processes that train together one `writes`; the recorders of the others do nothing.
    """

    def __init__(self, folder: Path, config: RunConfig, evaluated_on: str, facts: dict[str, Any], writes: bool = True):
        self.folder, self.config, self.evaluated_on, self.writes = folder, config, evaluated_on, writes
        self.columns = history_columns(evaluated_on, config.data.name == IMAGENET)
        self.record: dict[str, Any] = {
            "schema": runs.RECORD_SCHEMA, "experiment": config.name, "seed": config.seed,
            "identity": config_hash(config),
            "status": "running", "config": recorded_config(config), "deviations": deviations(config),
            "evaluated_on": evaluated_on, **facts}
        self.board: Any = None
        self.board_failed = False
        self.rows: dict[str, str] = {}  # the CSV files as they are on disk, or would be if it were not full

    def begin(self, iteration: int) -> None:
        """Keep the rows up to this iteration (the checkpoint's) and write the configuration."""
        if not self.writes:
            return
        runs.write_atomic(self.folder / "config.yaml", yaml.safe_dump(self.record["config"], sort_keys=False))
        kept = {"history.csv": self.columns, "timing.csv": TIMING_COLUMNS}
        if self.config.evaluation.gradient_iterations:
            kept["gradients.csv"] = GRADIENT_COLUMNS
        for name, columns in kept.items():
            self.rows[name] = keep_rows(self.folder / name, columns, iteration)
        if self.config.machine.tensorboard:
            self.open_board(iteration)

    def open_board(self, iteration: int) -> None:
        """TensorBoard's writer; scalars that an earlier session wrote past this iteration are dropped."""
        writer = board_writer()
        self.go_on_without_board()
        try:
            self.board = writer(str(self.folder / "tensorboard"), purge_step=iteration + 1)
        except OSError as error:
            self.no_board(error)

    def go_on_without_board(self) -> None:
        """Training goes on where a thread that writes TensorBoard's file fails; said once, without its trace."""
        others, before = threading.enumerate(), threading.excepthook

        def hook(failed: threading.ExceptHookArgs) -> None:
            if failed.thread in others or not isinstance(failed.exc_value, OSError):
                before(failed)
            else:
                self.no_board(failed.exc_value)
        threading.excepthook = hook

    def no_board(self, error: OSError) -> None:
        """Do without TensorBoard from here on."""
        first, self.board, self.board_failed = not self.board_failed, None, True  # two threads may come here
        if first:
            logger.warning(f"no TensorBoard scalars from here on: {error}")

    def row(self, values: dict[str, float], timing: dict[str, Any]) -> None:
        """Append one evaluation to history.csv, timing.csv and TensorBoard."""
        if not self.writes:
            return
        self.append({"history.csv": [[values[name] for name in self.columns]],
                     "timing.csv": [[timing[name] for name in TIMING_COLUMNS]]})
        board = self.board  # its thread may fail meanwhile
        if board is None:
            return
        try:
            for name in self.columns[1:]:
                board.add_scalar(name, values[name], int(values["iteration"]))
            board.add_scalar("images_per_second", timing["images_per_second"], int(values["iteration"]))
        except OSError as error:
            self.no_board(error)

    def has_row(self, iteration: int) -> bool:
        """Whether history.csv has the row of this iteration, or would have it if it could be written."""
        return f"\n{iteration}," in self.rows["history.csv"]

    def gradients(self, iteration: int, norms: list[tuple[int, str, float]]) -> None:
        """Append the gradient norms (layer, name, norm) that led to this update to gradients.csv."""
        if self.writes:
            self.append({"gradients.csv": [[iteration, *entry] for entry in norms]})

    def append(self, rows: dict[str, list[list[Any]]]) -> None:
        """Add rows to CSV files by their name. If that fails (StorageError), `self.rows` has all of them."""
        lines = {name: csv_lines(added) for name, added in rows.items()}
        for name, text in lines.items():
            self.rows[name] += text
        for name, text in lines.items():
            append_text(self.folder / name, text)

    def write(self, **changes: Any) -> None:
        """Replace run.json with the record and these changes."""
        self.record |= changes
        if self.writes:
            runs.write_json(self.folder / "run.json", self.record)

    def finish(self) -> dict[str, Any]:
        """The result: the last row of history.csv; the lowest test error only as a labeled extra."""
        history = [whole_iteration(row) for row in runs.read_history(self.folder / "history.csv")]
        extra = {}
        if self.evaluated_on == "test":
            best = min(history, key=lambda row: row["test_top1_error"])
            extra["best_on_test"] = {key: best[key] for key in ("iteration", "test_top1_error")}
        return {"status": "finished", "result": history[-1], "history_sha256": runs.file_sha256(
            self.folder / "history.csv"), **extra}

    def close(self) -> None:
        """Let go of the TensorBoard file."""
        if self.board is not None:
            with suppress(OSError):
                self.board.close()


def check_board(config: RunConfig) -> None:
    """Raise ConfigError where TensorBoard is asked for and can't be imported."""
    if config.machine.tensorboard:
        board_writer()


def board_writer() -> Any:
    """The class that writes TensorBoard's files; ConfigError where it can't be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tensorboard's own dependencies
            from torch.utils.tensorboard import SummaryWriter
    except Exception as error:  # ImportError, and whatever a protobuf of another version raises
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"TensorBoard can't be imported ({type(error).__name__}: {reason}); "
                          "machine.tensorboard=false trains without it, with the same numbers") from error
    return SummaryWriter


def recorded_config(config: RunConfig) -> dict[str, Any]:
    """The resolved configuration as recorded: without this machine's paths."""
    values = to_dict(config)
    values["data"]["root"] = values["results"] = None
    return values


def whole_iteration(row: dict[str, float]) -> dict[str, float]:
    """The row with its iteration as an integer."""
    return row | {"iteration": int(row["iteration"])}


def append_text(path: Path, text: str) -> None:
    """Append to a file so that it survives a power cut; StorageError if that fails, InUseError as of `check_held`."""
    runs.check_held(path.parent)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            runs.sync(file.fileno(), path.parent)
    except OSError as error:
        raise runs.write_problem(path, len(text.encode()), error) from error


def csv_lines(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as lines of a CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def write_responses(folder: Path, responses: Iterable[Any]) -> str:
    """Write responses.csv (Fig. 7) from LayerResponse values; returns its SHA-256."""
    rows = [[getattr(entry, name) for name in RESPONSE_COLUMNS] for entry in responses]
    runs.write_atomic(folder / "responses.csv", csv_lines([RESPONSE_COLUMNS, *rows]))
    return runs.file_sha256(folder / "responses.csv")


def restore_csv(folder: Path, rows: dict[str, str]) -> None:
    """Make the CSV files what the checkpoint knows of them, where a crash or a hand has changed that."""
    for name in CSV_FILES & rows.keys():
        path = folder / name
        if not path.is_file() or not path.read_bytes().startswith(rows[name].encode()):
            runs.write_atomic(path, rows[name])
            logger.warning(f"{display_path(path)} was not as this run had written it; restored from the checkpoint")


def keep_rows(path: Path, columns: tuple[str, ...], iteration: int) -> str:
    """Rewrite a CSV with its header and the lines up to this iteration, as they stand; a torn last line goes.

    Returns what it holds now.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()[1:]
    kept = [line for line in lines if line.split(",")[0].isdigit() and int(line.split(",")[0]) <= iteration]
    text = "\n".join([",".join(columns), *kept]) + "\n"
    runs.write_atomic(path, text)
    return text
