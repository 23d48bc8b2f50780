"""The learning-rate schedule as a pure function of the iteration and the state of the warm-up. Never imports torch."""

from collections.abc import Iterable

from repro.config import scale_lengths
from repro.schema import LrPolicy, RunConfig, WarmUp


class Schedule:
    """Of a run; all lengths in iterations (updates done), shortened by its `scale`."""

    def __init__(self, config: RunConfig):
        def scaled(length: int) -> int:
            return scale_lengths(length, config.scale)

        self.train = train = config.train
        self.iterations, self.interval = scaled(train.iterations), scaled(config.evaluation.interval)
        self.gradients = {scaled(iteration) for iteration in config.evaluation.gradient_iterations}  # norms recorded
        self.plateau = train.lr_policy is LrPolicy.plateau
        self.drops = [] if self.plateau else [scaled(drop) for drop in train.lr_drops]
        most = train.plateau_drops if self.plateau else len(self.drops)
        self.rates = [float(f"{train.lr * train.lr_factor**k:.12g}") for k in range(most + 1)]
        self.warms_up, self.warmup_window = train.warmup is not WarmUp.none, scaled(train.warmup_window)
        self.warmup_max = scaled(train.warmup_max)  # its cap

    def follow(self, errors: Iterable[tuple[int, float]]) -> None:
        """With lr_policy=plateau, let the rate drop as these tests (iteration, validation error in percent) say.

        Sec. 3.4: "when the error plateaus", here after `plateau_patience` tests in a row none of which was more than
        `plateau_threshold` points below the best one, `plateau_drops` times at most.
        """
        if not self.plateau:
            return
        best, waited, self.drops = float("inf"), 0, []
        for iteration, error in errors:
            waited += 1
            if error < best - self.train.plateau_threshold:
                best, waited = error, 0
            if waited >= self.train.plateau_patience and len(self.drops) < self.train.plateau_drops:
                self.drops.append(iteration)
                waited = 0

    def rate(self, iteration: int, warming: bool = False) -> float:
        """Learning rate of the update that follows `iteration` updates. The drops count from iteration 0."""
        return self.train.warmup_lr if warming else self.rates[sum(iteration >= drop for drop in self.drops)]

    def evaluates(self, done: int) -> bool:
        """Whether the network is tested after `done` updates: at every interval and at the end."""
        return done % self.interval == 0 or done == self.iterations
