"""Do the paper's statements hold in the runs that are there? The tests are data (experiments/published/claims.yaml).

PASS and FAIL come from runs of the paper's settings only. Short runs are looked at apart and never decide; runs on
synthetic images never count.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from msgspec import structs

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
UNITS = {"training_error": " %", "convergence_area": " %", "final_error": " %", "responses": ""}
WINDOW = 1_000  # iterations at the end whose mean training error counts


@dataclass(frozen=True)
class Comparison:
    """One comparison of a claim: what was compared, the outcome, the numbers, and whose runs they are."""

    text: str
    outcome: str  # PASS, FAIL, not decidable; of short runs: holds so far, does not hold so far
    numbers: str
    runs: tuple[str, ...]
    origin: str


@dataclass(frozen=True)
class ClaimResult:
    """A statement of the paper, whether it holds, and what decided that; `short`, of short runs, decides nothing."""

    id: str
    statement: str
    source: str
    verdict: str
    reason: str
    comparisons: tuple[Comparison, ...]
    short: tuple[Comparison, ...] = ()


@dataclass(frozen=True)
class Sample:
    """A measure of one experiment's runs, one value for each seed; without values the reason why."""

    experiment: str
    values: tuple[float, ...]
    runs: tuple[str, ...]
    origin: str
    reason: str = ""

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return Summary(self.values).mean

    @property
    def few_runs_std(self) -> float:
        """The spread (points) that runs of this experiment are taken to have below FEW_RUNS seeds."""
        return IMAGENET_STD if select.data_set(self.experiment) == "ImageNet" else FEW_RUNS_STD

    def error(self) -> float:
        """The standard error of the mean; below FEW_RUNS seeds from the fixed spread."""
        std, count = Summary(self.values).std, len(self.values)
        return (std if std is not None and count >= FEW_RUNS else self.few_runs_std) / math.sqrt(count)


def evaluate(found: Sequence[RunSet], suite_name: str | None = None) -> list[ClaimResult]:
    """Every claim, or those of a suite, judged by your runs where you have all that a comparison needs, else by the
    committed ones. ConfigError for an unknown suite.
    """
    wanted = None if suite_name is None else suite(suite_name).claims
    return [judge(claim, found) for claim in claims() if wanted is None or claim.id in wanted]


def judge(claim: Claim, found: Sequence[RunSet]) -> ClaimResult:
    """One claim: FAIL if a comparison fails, PASS if all pass, else not decidable."""
    comparisons = tuple(
        one for test in claim.tests for one in compare(test, [
            [sample(test, select.paper_runs(pool, name), pool.origin) for name in test.experiments] for pool in found]))
    outcomes = {one.outcome for one in comparisons}
    verdict = FAIL if FAIL in outcomes else UNDECIDED if UNDECIDED in outcomes else PASS
    reasons = dict.fromkeys(part for one in comparisons if one.outcome == UNDECIDED for part in one.numbers.split("; "))
    return ClaimResult(claim.id, claim.statement, claim.source, verdict,
                       "; ".join(reasons) if verdict == UNDECIDED else "", comparisons,
                       tuple(short_comparisons(claim, found)) if UNDECIDED in outcomes else ())


def short_comparisons(claim: Claim, found: Sequence[RunSet]) -> list[Comparison]:
    """The same comparisons on short runs, as far as there are any; they decide nothing."""
    presets = [select.preset_of(select.SHORT, base) for base in ("table", "figure7")]
    sides: list[tuple[str, dict[str, RunSelection]]] = []
    for pool in found:
        chosen = [select.short_runs(pool, preset) for preset in presets]
        origin = ", ".join([pool.origin, *dict.fromkeys(name for name, _ in chosen if name)])
        sides.append((origin, {answer.experiment: answer for _, own in chosen for answer in own}))
    comparisons: list[Comparison] = []
    for test in claim.tests:
        if test.relation not in ("below", "close"):  # these are about the end of the schedule
            names = [name for name in test.experiments if any(name in answers for _, answers in sides)]
            comparisons += compare(structs.replace(test, experiments=tuple(names)), [
                [sample(test, answers[name], origin) for name in names] for origin, answers in sides])
    return [replace(one, outcome=SO_FAR[one.outcome]) for one in comparisons if one.outcome in SO_FAR]


def sample(test: ClaimTest, answer: RunSelection, origin: str) -> Sample:
    """What a test measures of one experiment's runs."""
    name = answer.experiment
    values, runs, reasons = [], [], []
    for run in answer.runs:
        try:
            values.append(measure(test, run))
            runs.append(f"{run.name} ({select.precision(run)})")
        except (ValueError, KeyError, TypeError) as error:
            reasons.append(f"{run.name}: {error}")
    if values:
        return Sample(name, tuple(values), tuple(runs), origin)
    never = {entry.status for entry in answer.excluded}
    why = (f" (synthetic images say nothing about {select.data_set(name)})" if select.SYNTHETIC in never else
           f" (a wiring test says nothing about {select.data_set(name)})" if select.WIRING_TEST in never else "")
    return Sample(name, (), (), origin, [*reasons, f"{name} is {answer.status}{why}"][0])


def measure(test: ClaimTest, run: Run) -> float:
    """The test's measure of a finished run; ValueError or KeyError if the run does not have it."""
    if test.measure == "training_error":  # of a shortened schedule over as long a part
        last = int(run.history()[-1]["iteration"])
        return mean_error(run.history(), last - scale_lengths(WINDOW, select.record(run).config.scale), last)
    if test.measure == "convergence_area":  # before the first drop: the area under the curve divided by its length
        config = select.record(run).config
        return mean_error(run.history(), 0, scale_lengths(config.train.lr_drops[0], config.scale))
    if test.measure == "responses":
        values = responses_of(run)
        return sum(values) / len(values)
    if test.metric not in select.result(run):
        raise ValueError(f"its select.record has no {test.metric}")
    return float(select.result(run)[test.metric])


def mean_error(rows: list[dict[str, float]], begin: int, end: int) -> float:
    """Mean of train_top1_error over the iterations begin+1..end; each row is the mean since the row before it."""
    total, length, previous = 0.0, 0.0, 0.0
    for row in rows:
        overlap = min(row["iteration"], end) - max(previous, begin)
        if overlap > 0:
            total += overlap * row["train_top1_error"]
            length += overlap
        previous = row["iteration"]
    if not length or not math.isfinite(total):
        raise ValueError("its history has no training error there")
    return total / length


def compare(test: ClaimTest, samples: Sequence[Sequence[Sample]]) -> list[Comparison]:
    """The comparisons of a test: of each neighboring pair of its experiments, or of one with a bound."""
    places = range(len(test.experiments))
    groups = [(place,) for place in places] if test.relation == "below" else list(pairwise(places))
    return [compare_group(test, choose_samples([[row[place] for place in group] for row in samples]))
            for group in groups]


def choose_samples(rows: Sequence[Sequence[Sample]]) -> Sequence[Sample]:
    """The samples of the first origin that has all of them, else of each experiment the first there are."""
    whole = next((row for row in rows if all(one.values for one in row)), None)
    return whole or [next((one for one in column if one.values), column[0]) for column in zip(*rows, strict=True)]


def compare_group(test: ClaimTest, group: Sequence[Sample]) -> Comparison:
    """One comparison and its outcome."""
    names = [select.net_name(one.experiment) for one in group]
    limit = bound(names[0]) if test.relation == "below" else math.nan
    text = f"{test.measure.replace('_', ' ')}: " + {
        "rising": " < ".join(names), "not_falling": " <= ".join(names), "close": " close to ".join(names),
        "below": f"{names[0]} < {limit:g}"}[test.relation]
    runs = tuple(run for one in group for run in one.runs)
    origin = " and ".join(dict.fromkeys(one.origin for one in group if one.values))
    lacking = [one.reason for one in group if not one.values]
    if lacking:
        return Comparison(text, UNDECIDED, "; ".join(lacking), runs, origin)
    numbers = ", ".join(f"{name} {one.mean:.4g}{UNITS[test.measure]} ({len(one.values)} seed"
                        f"{'s' * (len(one.values) > 1)})" for name, one in zip(names, group, strict=True))
    if test.relation == "below":
        return Comparison(text, PASS if group[0].mean < limit else FAIL, numbers, runs, origin)
    first, second = group
    difference = second.mean - first.mean
    error = math.hypot(first.error(), second.error())
    passed = {"rising": difference > 0, "not_falling": difference >= -WIDTH * error,
              "close": abs(difference) <= WIDTH * error}[test.relation]
    few = min(len(one.values) for one in group) < FEW_RUNS
    numbers += f"; difference {difference:+.4g}"
    if test.relation != "rising":
        numbers += f", standard error {error:.2g}" + f" (spread {first.few_runs_std} for few seeds)" * few
    elif few:
        numbers += f", fewer than {FEW_RUNS} seeds: by sign alone"
    else:
        numbers += f", {difference / error if error else math.inf:+.1f} standard errors"
    return Comparison(text, PASS if passed else FAIL, numbers, runs, origin)


def bound(net: str) -> float:
    """The bound on a network's training error that Figure 6's text gives (percent)."""
    return next(fact.below for fact in published_figure("figure6").facts
                if fact.net == net.lower() and fact.error == "training" and fact.below is not None)


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
        lines += [f"{'':15}{part.outcome}: {part.text}: {part.numbers}" + (f" [{part.origin}]" if part.origin else "")
                  for part in one.comparisons if part.outcome != UNDECIDED or one.verdict != UNDECIDED]
        lines += [f"{'':15}because {one.reason}"] if one.reason else []
        lines += [f"{'':15}{short_label()}; decides nothing:"] if one.short else []
        lines += [f"{'':17}{part.outcome}: {part.text}: {part.numbers} [{part.origin}]" for part in one.short]
    return "\n".join([*lines, "", counts(found)])


def claims_table(found: Sequence[RunSet]) -> Table:
    """All claims as a table."""
    rows = []
    for one in evaluate(found):
        numbers = "; ".join(f"{part.outcome}: {part.text} ({part.numbers})" for part in one.comparisons)
        short = "; ".join(f"{part.outcome}: {part.text} ({part.numbers}; {part.origin})" for part in one.short)
        runs = ", ".join(dict.fromkeys(run for part in one.comparisons for run in part.runs))
        cells = {"claim": one.id, "statement": one.statement, "source": one.source, "verdict": one.verdict,
                 "numbers": numbers, "runs": runs or "-", "short": short or "-"}
        rows.append(TableRow(one.id, cells, one.verdict))
    columns = {"claim": "claim", "statement": "statement", "source": "source", "verdict": "verdict",
               "numbers": "comparisons", "runs": "runs", "short": f"decides nothing: {short_label()}"}
    notes = ("the tests were fixed before any run was looked at (experiments/published/claims.yaml)",
             "training error: mean over the last 1,000 iterations; convergence area: mean training error before the "
             "first drop of the learning rate, which orders like the area under the curve; responses: mean over the "
             "layers of the std of their responses; final error: after the last iteration, on ImageNet of the center "
             "crop; several seeds: mean over seeds",
             f"rising orders (<) are decided by the means; <= and close allow {WIDTH:g} standard errors, for fewer "
             f"than {FEW_RUNS} seeds with a spread of {FEW_RUNS_STD} points (ImageNet: {IMAGENET_STD})",
             "not decidable: runs are missing")
    return Table("claims", "The paper's claims and whether the runs bear them out", columns, rows, notes)
