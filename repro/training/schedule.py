"""The learning-rate schedule as a pure function of the iteration and the state of the warm-up. Never imports torch."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from repro.config import scale_lengths
from repro.schema import LrPolicy, RunConfig, TrainConfig, WarmUp


@dataclass(frozen=True)
class Schedule:
    """All lengths in iterations (updates done), already scaled."""

    iterations: int
    drops: tuple[int, ...]
    rates: tuple[float, ...]  # one more than there can be drops
    interval: int  # between evaluations
    warmup: WarmUp
    warmup_lr: float
    warmup_error: float  # percent
    warmup_window: int
    warmup_max: int  # fixed400: the length of the warm-up; error80: its cap
    gradients: frozenset[int] = frozenset()  # updates whose gradient norms are recorded
    plateau: TrainConfig | None = None  # its rule, where the drops follow from the validation error

    @classmethod
    def of(cls, config: RunConfig) -> "Schedule":
        """The schedule of a run, every length shortened by its `scale`."""
        train, scale = config.train, config.scale
        plateau = train.lr_policy is LrPolicy.plateau
        drops = () if plateau else tuple(scale_lengths(drop, scale) for drop in train.lr_drops)
        rates = [float(f"{train.lr * train.lr_factor**k:.12g}")
                 for k in range((train.plateau_drops if plateau else len(drops)) + 1)]
        longest = 400 if train.warmup is WarmUp.fixed400 else train.warmup_max  # arXiv 1603.05027: 400 iterations
        return cls(scale_lengths(train.iterations, scale), drops, tuple(rates),
                   scale_lengths(config.evaluation.interval, scale), train.warmup, train.warmup_lr, train.warmup_error,
                   scale_lengths(train.warmup_window, scale), scale_lengths(longest, scale),
                   frozenset(scale_lengths(iteration, scale) for iteration in config.evaluation.gradient_iterations),
                   train if plateau else None)

    def after(self, errors: Iterable[tuple[int, float]]) -> "Schedule":
        """The schedule with the drops that these tests (iteration, validation error in percent) lead to.

        Sec. 3.4: "when the error plateaus". A test is better if its error is more than `plateau_threshold` points below
        the best one; after `plateau_patience` tests in a row that are not, the rate drops, `plateau_drops` times at
        most.
        """
        if (rule := self.plateau) is None:
            return self
        best, waited, drops = float("inf"), 0, list[int]()
        for iteration, error in errors:
            if error < best - rule.plateau_threshold:
                best, waited = error, 0
            else:
                waited += 1
            if waited >= rule.plateau_patience and len(drops) < rule.plateau_drops:
                drops.append(iteration)
                waited = 0
        return replace(self, drops=tuple(drops))

    def rate(self, iteration: int, warming: bool = False) -> float:
        """Learning rate of the update that follows `iteration` updates. The drops count from iteration 0."""
        return self.warmup_lr if warming else self.rates[sum(iteration >= drop for drop in self.drops)]

    def next_event(self, done: int) -> int:
        """The next iteration after `done` at which the host has something to do: a test, gradient norms, the end."""
        test = (done // self.interval + 1) * self.interval
        return min(self.iterations, test, *(iteration for iteration in self.gradients if iteration > done))

    def evaluates(self, done: int) -> bool:
        """Whether the network is tested after `done` updates: at every interval and at the end."""
        return done % self.interval == 0 or done == self.iterations
