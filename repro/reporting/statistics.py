"""How our errors are summed up and judged against a published number; all in points of percent."""

import math
import statistics
from dataclasses import dataclass
from typing import NamedTuple

REPRODUCED = "reproduced"
BETTER = "better than published"
WORSE = "worse than published"

FEW_RUNS = 3  # Choice: below this, the spread of our own runs is not a usable estimate
FEW_RUNS_STD = 0.25  # Choice: points; within the run-to-run std that others report (second_references.yaml)
# Choice: points; the same of ImageNet's validation error, over 50,000 images: a little more than the 0.12 that others
# report for five runs of ResNet-50 (arXiv 1706.02677, Table 1). The paper's own single runs are taken to scatter alike.
IMAGENET_STD = 0.15
WIDTH = 2.0  # Choice: in standard deviations of the difference; about 95 % of honest reruns fall inside
ROUNDING = 1e-9  # errors are multiples of 0.01 points; absorbs binary rounding at the boundary


@dataclass(frozen=True)
class Summary:
    """Errors of k seeds: the lowest, the mean, and the sample standard deviation (None for k = 1)."""

    values: tuple[float, ...]

    @property
    def k(self) -> int:
        """The number of seeds."""
        return len(self.values)

    @property
    def best(self) -> float:
        """The lowest error."""
        return min(self.values)

    @property
    def mean(self) -> float:
        """The mean error."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """The sample standard deviation (divisor k - 1)."""
        return statistics.stdev(self.values) if self.k > 1 else None

    def as_json(self) -> dict[str, int | float | None]:
        """k, best, mean and std, rounded."""
        return {"k": self.k, "best": self.best, "mean": round(self.mean, 6),
                "std": None if self.std is None else round(self.std, 6)}

    def __str__(self) -> str:
        """Table 6's form: "best (mean +- std), k seeds", or one value."""
        return spread(self.best, self.mean, self.std) + (f", {self.k} seeds" if self.k > 1 else "")


def spread(best: float, mean: float | None, std: float | None) -> str:
    """"best (mean +- std)" as Table 6 prints it; only the first number where there is no other."""
    return f"{best:.2f}" if mean is None or std is None else f"{best:.2f} ({mean:.2f} +- {std:.2f})"


class Verdict(NamedTuple):
    """Our mean minus the published number, in points and in standard deviations, and what that amounts to."""

    difference: float
    z: float
    text: str


def verdict(ours: Summary, published: float, published_std: float, few_runs_std: float = FEW_RUNS_STD) -> Verdict:
    """Judge our mean of k seeds against the published number.

    s is the sample std of our runs (few_runs_std below FEW_RUNS), published_std that of the paper's runs; reproduced
    if |difference| <= 2 sqrt(s^2 + published_std^2). Too low an error is flagged like too high a one.
    """
    own = ours.std if ours.std is not None and ours.k >= FEW_RUNS else few_runs_std
    scale, difference = math.hypot(own, published_std), ours.mean - published
    text = BETTER if difference < 0 else WORSE
    if abs(difference) <= WIDTH * scale + ROUNDING:
        text = REPRODUCED
    return Verdict(difference, difference / scale, text)
