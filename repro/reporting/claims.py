"""Do the paper's statements hold in runs of its settings? The tests are data (experiments/published/claims.yaml)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from repro.paper import ClaimTest, claims, published_figure, suite
from repro.reporting import select
from repro.reporting.figures import responses_of
from repro.reporting.select import RunSet
from repro.reporting.table import FEW_RUNS, FEW_RUNS_STD, IMAGENET_STD, WIDTH, Summary, Table, TableRow
from repro.runs import Run

PASS, FAIL, UNDECIDED = "PASS", "FAIL", "not decidable"
WINDOW = 1_000  # iterations at the end whose mean training error counts


@dataclass(frozen=True)
class Comparison:
    """One comparison of a claim: what was compared, PASS, FAIL or not decidable, the numbers, and whose runs."""
    text: str
    outcome: str
    numbers: str
    runs: tuple[str, ...]
    origin: str

    def __str__(self) -> str:
        return f"{self.outcome}: {self.text} ({'; '.join(filter(None, (self.numbers, self.origin)))})"


@dataclass(frozen=True)
class ClaimResult:
    """A statement of the paper, whether it holds, and what decided that."""
    id: str
    statement: str
    source: str
    verdict: str
    comparisons: Sequence[Comparison]


def evaluate(found: Sequence[RunSet], suite_name: str | None = None) -> list[ClaimResult]:
    """Every claim, or those of a suite; ConfigError for an unknown suite."""
    wanted, results = None if suite_name is None else suite(suite_name).claims, []
    for claim in (one for one in claims() if wanted is None or one.id in wanted):
        comparisons = [compare(test, group, found) for test in claim.tests for group in (
            [(name,) for name in test.experiments] if test.relation == "below" else pairwise(test.experiments))]
        outcomes = {one.outcome for one in comparisons}  # one that fails is enough; PASS if all do
        verdict = next((one for one in (FAIL, UNDECIDED) if one in outcomes), PASS)
        results.append(ClaimResult(claim.id, claim.statement, claim.source, verdict, comparisons))
    return results


def compare(test: ClaimTest, experiments: Sequence[str], found: Sequence[RunSet]) -> Comparison:
    """Two neighbors of a test, or one experiment with a bound."""
    # The runs are those of the first origin that has all of them, else of each experiment the first there are.
    sides = [[select.with_data(select.paper_runs(pool, name), partial(measure, test)) for name in experiments]
             for pool in found]
    group = next((side for side in sides if all(one.runs for one in side)), None) or [
        next((one for one in column if one.runs), column[0]) for column in zip(*sides, strict=True)]
    names = [select.net_name(name) for name in experiments]
    limit = next((fact["below"] for fact in published_figure("figure6").facts  # the bound in Figure 6's text, percent
                  if fact["net"] == names[0].lower() and fact["error"] == "training" and "below" in fact), math.nan)
    sign = {"rising": " < ", "not_falling": " <= ", "close": " close to ", "below": f" < {limit:g}"}[test.relation]
    text = f"{test.measure.replace('_', ' ')}: " + (sign.join(names) if len(names) > 1 else names[0] + sign)
    runs = tuple(f"{run.name} ({select.precision(run)})" for one in group for run in one.runs)
    if lacking := [f"{one.experiment} is {one.status}" for one in group if not one.runs]:
        return Comparison(text, UNDECIDED, "; ".join(lacking), runs, "")
    summaries, unit = [Summary(one.results) for one in group], "" if test.measure == "responses" else " %"
    numbers = ", ".join(f"{name} {one.mean:.4g}{unit} ({len(one.values)} seed{'s' * (len(one.values) > 1)})"
                        for name, one in zip(names, summaries, strict=True))
    difference, error = summaries[-1].mean - summaries[0].mean, 0.0
    if test.relation in ("close", "not_falling"):
        taken = IMAGENET_STD if group[0].runs[0].tested_on == "val" else FEW_RUNS_STD
        error = math.hypot(*(one.spread(taken) / math.sqrt(len(one.values)) for one in summaries))
        numbers += f"; difference {difference:+.4g}, standard error {error:.2g}"
    passed = {"below": summaries[0].mean < limit, "rising": difference > 0, "not_falling": difference >= -WIDTH * error,
              "close": abs(difference) <= WIDTH * error}[test.relation]
    return Comparison(text, PASS if passed else FAIL, numbers, runs,
                      " and ".join(dict.fromkeys(one.origin for one in group)))


def measure(test: ClaimTest, run: Run) -> float:
    """The test's measure of a finished run; ValueError or KeyError if the run does not have it."""
    record = select.record(run)
    if test.measure == "final_error":
        return float((record.result or {})[test.metric])
    if test.measure == "responses":
        return Summary(tuple(responses_of(run))).mean
    rows = run.history()
    if test.measure == "training_error":
        return mean_error(rows, record.iterations - WINDOW, record.iterations)
    # convergence_area: before the first drop, the area under the curve divided by its length
    return mean_error(rows, 0, record.config.train.lr_drops[0])


def mean_error(rows: list[dict[str, float]], begin: int, end: int) -> float:
    """Mean of train_top1_error over the iterations begin+1..end; each row is the mean since the row before it."""
    parts = pairwise([0.0, *(row["iteration"] for row in rows)])
    lengths = [max(0.0, min(last, end) - max(first, begin)) for first, last in parts]
    total = sum(length * row["train_top1_error"] for length, row in zip(lengths, rows, strict=True))
    if not sum(lengths) or not math.isfinite(total):
        raise ValueError("its history has no training error there")
    return total / sum(lengths)


def claims_text(found: Sequence[ClaimResult]) -> str:
    """The claims for a person, and '10 claims: 3 PASS, 1 FAIL, 6 not decidable'."""
    lines = []
    for one in found:
        lines += [f"{one.verdict:13}  {one.statement}", f"{'':15}{one.id}; {one.source}"]
        lines += [f"{'':15}{part}" for part in one.comparisons]
    verdicts = [one.verdict for one in found]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in (PASS, FAIL, UNDECIDED))
    return "\n".join([*lines, "", f"{len(found)} claims: {counts}"])


def claims_table(found: Sequence[ClaimResult]) -> Table:
    rows = [TableRow(one.id, {"claim": one.statement, "source": one.source, "verdict": one.verdict,
                              "comparisons": "; ".join(map(str, one.comparisons))}, one.verdict) for one in found]
    columns = {key: key for key in ("claim", "source", "verdict", "comparisons")}
    return Table("claims", "The paper's claims and whether the runs bear them out", columns, rows, (
        "the tests were fixed before any run was looked at (experiments/published/claims.yaml, which defines them)",
        f"rising orders (<) are decided by the means; <= and close allow {WIDTH:g} standard errors, for fewer than "
        f"{FEW_RUNS} seeds with a spread of {FEW_RUNS_STD} points (ImageNet: {IMAGENET_STD})"))
