"""How our errors are summed up and judged against a published number; all in points of percent."""

import math
import statistics
from dataclasses import dataclass

REPRODUCED, BETTER, WORSE = "reproduced", "better than published", "worse than published"
FEW_RUNS = 3  # Choice: below this, the spread of our own runs is not a usable estimate
FEW_RUNS_STD = 0.25  # Choice: points; within the run-to-run std that others report (second_references.yaml)
# Choice: points; the same of ImageNet's validation error, over 50,000 images: a little more than the 0.12 that others
# report for five runs of ResNet-50 (arXiv 1706.02677, Table 1). The paper's own single runs are taken to scatter alike.
IMAGENET_STD = 0.15
WIDTH = 2.0  # Choice: in standard deviations of the difference; about 95 % of honest reruns fall inside
ROUNDING = 1e-9  # errors are multiples of 0.01 points; absorbs binary rounding at the boundary


@dataclass(frozen=True)
class Summary:
    """Errors of k seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean error."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """The sample standard deviation (divisor k - 1); None of one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def spread(self, few_runs_std: float) -> float:
        """The std to reckon with: that of the seeds, of fewer than FEW_RUNS the one that is taken instead."""
        return few_runs_std if self.std is None or len(self.values) < FEW_RUNS else self.std

    def as_json(self) -> dict[str, int | float | None]:
        """k, best (lowest), mean and std, rounded."""
        return {"k": len(self.values), "best": min(self.values), "mean": round(self.mean, 6),
                "std": None if self.std is None else round(self.std, 6)}

    def __str__(self) -> str:
        """Table 6's form: "best (mean +- std), k seeds", or one value."""
        seeds = f", {len(self.values)} seeds" if len(self.values) > 1 else ""
        return best_and_spread(min(self.values), self.mean, self.std) + seeds


def best_and_spread(best: float, mean: float | None, std: float | None) -> str:
    """"best (mean +- std)" as Table 6 prints it; only the first number where there is no other."""
    return f"{best:.2f}" if mean is None or std is None else f"{best:.2f} ({mean:.2f} +- {std:.2f})"


def verdict(ours: Summary, published: float, published_std: float, few_runs_std: float) -> tuple[float, float, str]:
    """Our mean minus the published number, in points and in standard deviations, and what that amounts to.

    Reproduced: |difference| <= 2 sqrt(s^2 + published_std^2), s the spread of our runs. Too low is flagged as well.
    """
    scale, difference = math.hypot(ours.spread(few_runs_std), published_std), ours.mean - published
    text = BETTER if difference < 0 else WORSE
    return difference, difference / scale, REPRODUCED if abs(difference) <= WIDTH * scale + ROUNDING else text
