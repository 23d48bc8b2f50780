"""What a person sees while a run trains: a tqdm bar on a terminal, else one plain line per evaluation."""

import logging
import sys
import time

from tqdm import tqdm

from repro.wording import duration

logger = logging.getLogger(__name__)


class Stopwatch:
    """Seconds spent training and evaluating, over all sessions of a run."""

    def __init__(self, train: float = 0.0, evaluation: float = 0.0):
        self.train, self.evaluation = train, evaluation
        self.mark = time.monotonic()

    def lap_train(self) -> None:
        """Count the time since the last lap as training."""
        self.train += self.lap()

    def lap_evaluation(self) -> float:
        """Count the time since the last lap as evaluation, and return it."""
        seconds = self.lap()
        self.evaluation += seconds
        return seconds

    def training_seconds(self) -> float:
        """Seconds of training up to now, the lap that is under way included."""
        return self.train + time.monotonic() - self.mark

    def lap(self) -> float:
        """Seconds since the last lap."""
        last, self.mark = self.mark, time.monotonic()
        return self.mark - last

    def values(self) -> dict[str, float]:
        """As recorded, to the millisecond."""
        return {"train_seconds": round(self.train, 3), "evaluation_seconds": round(self.evaluation, 3)}


class Progress:
    """Shows iterations, errors, images/s and the time left."""

    def __init__(self, name: str, done: int, total: int, mini_batch_size: int, watch: Stopwatch, bar: bool = True):
        self.total, self.mini_batch_size, self.name = total, mini_batch_size, name
        self.bar = None
        if bar and sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=done, desc=name, unit="it", dynamic_ncols=True)
        self.first, self.began, self.shown = done, time.monotonic(), time.monotonic()
        self.watch, self.trained_before = watch, watch.train  # seconds of earlier sessions

    def due(self) -> bool:
        """Whether a second has passed since the bar's numbers were last read from the device."""
        return self.bar is not None and time.monotonic() - self.shown >= 1

    def show(self, done: int, train_error: float, other: str = "") -> None:
        """Put the current numbers on the bar."""
        assert self.bar is not None
        self.shown = time.monotonic()
        self.bar.n = done
        self.bar.set_postfix_str(f"train error {train_error:.2f} %{other}, {self.rate(done):.0f} images/s")

    def show_evaluation(self, done: int, row: dict[str, float], evaluated_on: str) -> None:
        """Show what an evaluation gave; its time must have been counted."""
        test = f"{evaluated_on} error {row[f'{evaluated_on}_top1_error']:.2f} %"
        if self.bar is not None:
            self.show(done, row["train_top1_error"], f", {test}")
            return
        left = (time.monotonic() - self.began) / max(1, done - self.first) * (self.total - done)
        logger.info(f"{self.name}: iteration {done}/{self.total}, lr {row['learning_rate']:g}, "
                    f"train error {row['train_top1_error']:.2f} %, {test}, {self.rate(done):.0f} images/s, "
                    f"{duration(left)} left")

    def rate(self, done: int) -> float:
        """Training images per second of this session, evaluations left out."""
        seconds = self.watch.training_seconds() - self.trained_before
        return (done - self.first) * self.mini_batch_size / max(1e-9, seconds)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()
