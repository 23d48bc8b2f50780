"""Do the paper's statements hold in the runs that are there? The tests are data (experiments/published/claims.yaml).

PASS and FAIL come from runs of the paper's settings only. Short runs are looked at apart and never decide; runs on
synthetic images never count.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from repro.config import scale_lengths
from repro.paper import Claim, ClaimTest, claims, published_figure, suite
from repro.reporting import select
from repro.reporting.figures import responses_of
from repro.reporting.select import RunSelection, RunSet
from repro.reporting.statistics import FEW_RUNS, FEW_RUNS_STD, IMAGENET_STD, WIDTH, Summary
from repro.reporting.table import Table, TableRow
from repro.runs import Run

PASS, FAIL, UNDECIDED = "PASS", "FAIL", "not decidable"
SO_FAR = {PASS: "holds so far", FAIL: "does not hold so far"}  # what short runs say
WINDOW = 1_000  # iterations at the end whose mean training error counts


@dataclass(frozen=True)
class Comparison:
    """One comparison of a claim: what was compared, the outcome, the numbers, and whose runs they are."""

    text: str
    outcome: str  # PASS, FAIL, not decidable; of short runs: holds so far, does not hold so far
    numbers: str
    runs: tuple[str, ...]
    origin: str

    def __str__(self) -> str:
        return f"{self.outcome}: {self.text} ({'; '.join(filter(None, (self.numbers, self.origin)))})"


@dataclass(frozen=True)
class ClaimResult:
    """A statement of the paper, whether it holds, and what decided that; `short`, of short runs, decides nothing."""

    id: str
    statement: str
    source: str
    verdict: str
    comparisons: Sequence[Comparison]
    short: Sequence[Comparison]


class Sample(NamedTuple):
    """A measure of one experiment's runs, one value for each seed; without values the reason why."""

    answer: RunSelection
    values: tuple[float, ...]
    reason: str


def evaluate(found: Sequence[RunSet], suite_name: str | None = None) -> list[ClaimResult]:
    """Every claim, or those of a suite; ConfigError for an unknown suite."""
    wanted = None if suite_name is None else suite(suite_name).claims
    return [judge(claim, found) for claim in claims() if wanted is None or claim.id in wanted]


def judge(claim: Claim, found: Sequence[RunSet]) -> ClaimResult:
    """One claim: FAIL if a comparison fails, PASS if all pass, else not decidable."""
    names = {name for test in claim.tests for name in test.experiments}
    sides = [{name: select.paper_runs(pool, name) for name in names} for pool in found]
    comparisons = [one for test in claim.tests for one in compare(test, sides)]
    outcomes = {one.outcome for one in comparisons}
    verdict = next((one for one in (FAIL, UNDECIDED) if one in outcomes), PASS)
    short: list[Comparison] = []
    if UNDECIDED in outcomes:  # the same on short runs, but for what is said of the schedule's end
        sides = [{answer.experiment: answer for base in ("table", "figure7")
                  for answer in select.preset_runs(pool, select.preset_of(select.SHORT, base))} for pool in found]
        short = [replace(one, outcome=SO_FAR[one.outcome]) for test in claim.tests
                 if test.relation not in ("below", "close") for one in compare(test, sides) if one.outcome in SO_FAR]
    return ClaimResult(claim.id, claim.statement, claim.source, verdict, comparisons, short)


def compare(test: ClaimTest, sides: Sequence[Mapping[str, RunSelection]]) -> Iterator[Comparison]:
    """The comparisons of a test: of each neighboring pair of experiments, or of each one with a bound.

    The samples are those of the first origin that has all of them, else of each experiment the first there are.
    """
    names = [name for name in test.experiments if name in sides[0]]
    samples = [{name: sample(test, side[name]) for name in names} for side in sides]
    for group in ([(name,) for name in names] if test.relation == "below" else pairwise(names)):
        rows = [[side[name] for name in group] for side in samples]
        whole = next((row for row in rows if all(one.values for one in row)), None)
        yield compare_group(test, whole or [next((one for one in column if one.values), column[0])
                                            for column in zip(*rows, strict=True)])


def sample(test: ClaimTest, answer: RunSelection) -> Sample:
    """What a test measures of one experiment's runs."""
    values, reason = [], f"{answer.experiment} is {answer.status}"
    for run in answer.runs:
        try:
            values.append(measure(test, run))
        except (ValueError, KeyError) as error:
            reason = f"{run.name}: {error}"
    return Sample(answer, tuple(values), reason)


def measure(test: ClaimTest, run: Run) -> float:
    """The test's measure of a finished run; ValueError or KeyError if the run does not have it."""
    record = select.record(run)
    if test.measure == "final_error":
        return float((record.result or {})[test.metric])
    if test.measure == "responses":
        return Summary(tuple(responses_of(run))).mean
    rows, scale = run.history(), record.config.scale
    if test.measure == "training_error":  # of a shortened schedule over as long a part
        last = int(rows[-1]["iteration"])
        return mean_error(rows, last - scale_lengths(WINDOW, scale), last)
    # convergence_area: before the first drop, the area under the curve divided by its length
    return mean_error(rows, 0, scale_lengths(record.config.train.lr_drops[0], scale))


def mean_error(rows: list[dict[str, float]], begin: int, end: int) -> float:
    """Mean of train_top1_error over the iterations begin+1..end; each row is the mean since the row before it."""
    total, length, previous = 0.0, 0.0, 0.0
    for row in rows:
        overlap = max(0.0, min(row["iteration"], end) - max(previous, begin))
        total += overlap * row["train_top1_error"]
        length += overlap
        previous = row["iteration"]
    if not length or not math.isfinite(total):
        raise ValueError("its history has no training error there")
    return total / length


def compare_group(test: ClaimTest, group: Sequence[Sample]) -> Comparison:
    """One comparison and its outcome."""
    names = [select.net_name(one.answer.experiment) for one in group]
    limit = next((fact["below"] for fact in published_figure("figure6").facts  # the bound in Figure 6's text, percent
                  if fact["net"] == names[0].lower() and fact["error"] == "training" and "below" in fact), math.nan)
    sign = {"rising": " < ", "not_falling": " <= ", "close": " close to ", "below": f" < {limit:g}"}[test.relation]
    text = f"{test.measure.replace('_', ' ')}: " + (sign.join(names) if len(names) > 1 else names[0] + sign)
    runs = tuple(f"{run.name} ({select.precision(run)})" for one in group for run in one.answer.runs)
    if lacking := [one.reason for one in group if not one.values]:
        return Comparison(text, UNDECIDED, "; ".join(lacking), runs, "")
    origin = " and ".join(dict.fromkeys(one.answer.origin for one in group))
    summaries, unit = [Summary(one.values) for one in group], "" if test.measure == "responses" else " %"
    numbers = ", ".join(f"{name} {one.mean:.4g}{unit} ({len(one.values)} seed{'s' * (len(one.values) > 1)})"
                        for name, one in zip(names, summaries, strict=True))
    difference, error = summaries[-1].mean - summaries[0].mean, 0.0
    if test.relation in ("close", "not_falling"):
        taken = IMAGENET_STD if group[0].answer.runs[0].tested_on == "val" else FEW_RUNS_STD
        error = math.hypot(*(one.spread(taken) / math.sqrt(len(one.values)) for one in summaries))
        numbers += f"; difference {difference:+.4g}, standard error {error:.2g}"
    passed = {"below": summaries[0].mean < limit, "rising": difference > 0, "not_falling": difference >= -WIDTH * error,
              "close": abs(difference) <= WIDTH * error}[test.relation]
    return Comparison(text, PASS if passed else FAIL, numbers, runs, origin)


def short_label() -> str:
    """What is said before outcomes of short runs."""
    return f"short runs, {select.schedule_text(select.preset_of(select.SHORT, 'table'))}, not the paper's schedule"


def counts(found: Sequence[ClaimResult]) -> str:
    """'10 claims: 3 PASS, 1 FAIL, 6 not decidable'."""
    return f"{len(found)} claims: " + ", ".join(f"{sum(one.verdict == verdict for one in found)} {verdict}"
                                                for verdict in (PASS, FAIL, UNDECIDED))


def claims_text(found: Sequence[ClaimResult]) -> str:
    """The claims for a person."""
    lines = []
    for one in found:
        lines += [f"{one.verdict:13}  {one.statement}", f"{'':15}{one.id}; {one.source}"]
        lines += [f"{'':15}{part}" for part in one.comparisons]
        lines += [f"{'':15}{short_label()}; decides nothing:"] if one.short else []
        lines += [f"{'':17}{part}" for part in one.short]
    return "\n".join([*lines, "", counts(found)])


def claims_table(found: Sequence[RunSet]) -> Table:
    """All claims as a table."""
    rows = []
    for one in evaluate(found):
        runs = ", ".join(dict.fromkeys(run for part in one.comparisons for run in part.runs))
        rows.append(TableRow(one.id, {
            "claim": one.id, "statement": one.statement, "source": one.source, "verdict": one.verdict,
            "numbers": "; ".join(map(str, one.comparisons)), "runs": runs or "-",
            "short": "; ".join(map(str, one.short)) or "-"}, one.verdict))
    columns = {"claim": "claim", "statement": "statement", "source": "source", "verdict": "verdict",
               "numbers": "comparisons", "runs": "runs", "short": f"decides nothing: {short_label()}"}
    return Table("claims", "The paper's claims and whether the runs bear them out", columns, rows, (
        "the tests were fixed before any run was looked at (experiments/published/claims.yaml, which defines them)",
        f"rising orders (<) are decided by the means; <= and close allow {WIDTH:g} standard errors, for fewer than "
        f"{FEW_RUNS} seeds with a spread of {FEW_RUNS_STD} points (ImageNet: {IMAGENET_STD})"))
