"""Do the paper's statements hold in the runs that are there? The tests are data (experiments/published/claims.yaml).

PASS and FAIL come from runs of the paper's settings only. Short runs are looked at apart and never decide; runs on
synthetic images never count.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from msgspec import structs

from repro.paper import Claim, ClaimTest, claims, published_figure, suite
from repro.reporting.claim_measures import UNITS, measure
from repro.reporting.selection import (
    SYNTHETIC,
    WIRING_TEST,
    RunSelection,
    RunSet,
    data_set,
    paper_runs,
    pools,
    precision,
    run_name,
    short_runs,
)
from repro.reporting.statistics import FEW_RUNS, FEW_RUNS_STD, IMAGENET_STD, WIDTH, Summary
from repro.reporting.table import Table, TableRow
from repro.reporting.variants import LAYER_SUITES, SHORT, SUITES, net_name, schedule_text

PASS, FAIL, UNDECIDED = "PASS", "FAIL", "not decidable"
SO_FAR, NOT_SO_FAR = "holds so far", "does not hold so far"


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
        return IMAGENET_STD if data_set(self.experiment) == "ImageNet" else FEW_RUNS_STD

    def error(self) -> float:
        """The standard error of the mean; below FEW_RUNS seeds from the fixed spread."""
        std, count = Summary(self.values).std, len(self.values)
        return (std if std is not None and count >= FEW_RUNS else self.few_runs_std) / math.sqrt(count)


def evaluate(results: Path | None, reference: Path, suite_name: str | None = None) -> list[ClaimResult]:
    """Every claim, or those of a suite, judged by your runs where you have all that a comparison needs, else by the
    committed ones. ConfigError for an unknown suite.
    """
    wanted = None if suite_name is None else suite(suite_name).claims
    found = pools(results, reference)
    return [judge(claim, found) for claim in claims() if wanted is None or claim.id in wanted]


def judge(claim: Claim, found: list[RunSet]) -> ClaimResult:
    """One claim: FAIL if a comparison fails, PASS if all pass, else not decidable."""
    comparisons = [one for test in claim.tests for one in compare(test, paper_samples(test, found))]
    outcomes = {one.outcome for one in comparisons}
    verdict = FAIL if FAIL in outcomes else UNDECIDED if UNDECIDED in outcomes else PASS
    reasons = dict.fromkeys(part for one in comparisons if one.outcome == UNDECIDED for part in one.numbers.split("; "))
    result = ClaimResult(claim.id, claim.statement, claim.source, verdict,
                         "; ".join(reasons) if verdict == UNDECIDED else "", tuple(comparisons))
    return replace(result, short=short_comparisons(claim, found)) if UNDECIDED in outcomes else result


def paper_samples(test: ClaimTest, found: list[RunSet]) -> list[list[Sample]]:
    """For each origin, the samples of a test's experiments from runs of the paper's settings."""
    return [[sample(test, paper_runs(pool, name), name, pool.origin) for name in test.experiments] for pool in found]


def short_comparisons(claim: Claim, found: list[RunSet]) -> tuple[Comparison, ...]:
    """The same comparisons on short runs, as far as there are any; they decide nothing."""
    presets = [suite(name).preset(SHORT) for name in dict.fromkeys((SUITES[SHORT], LAYER_SUITES[SHORT]))]
    answers: list[dict[str, RunSelection]] = []
    origins: list[str] = []
    for pool in found:
        chosen_runs = [short_runs(pool, preset) for preset in presets]
        answers.append({answer.experiment: answer for _, own in chosen_runs for answer in own})
        origins.append(", ".join([pool.origin, *dict.fromkeys(name for name, _ in chosen_runs if name)]))
    comparisons: list[Comparison] = []
    for test in claim.tests:
        if test.relation in ("below", "close"):
            continue  # about the end of the schedule
        names = [name for name in test.experiments if any(name in of_pool for of_pool in answers)]
        samples = [[sample(test, of_pool[name], name, origin) for name in names]
                   for origin, of_pool in zip(origins, answers, strict=True)]
        comparisons += compare(structs.replace(test, experiments=tuple(names)), samples)
    words = {PASS: SO_FAR, FAIL: NOT_SO_FAR}
    return tuple(replace(one, outcome=words[one.outcome]) for one in comparisons if one.outcome in words)


def sample(test: ClaimTest, answer: RunSelection, name: str, origin: str) -> Sample:
    """What a test measures of one experiment's runs."""
    values, runs, reasons = [], [], []
    for run in answer.runs:
        try:
            values.append(measure(test, run))
            runs.append(f"{run_name(run)} ({precision(run)})")
        except (ValueError, KeyError, TypeError) as error:
            reasons.append(f"{run_name(run)}: {error}")
    if values:
        return Sample(name, tuple(values), tuple(runs), origin)
    never = {entry.status for entry in answer.excluded}
    why = (f" (synthetic images say nothing about {data_set(name)})" if SYNTHETIC in never else
           f" (a wiring test says nothing about {data_set(name)})" if WIRING_TEST in never else "")
    reasons.append(f"{name} is {answer.status}{why}")
    return Sample(name, (), (), origin, reasons[0])


def compare(test: ClaimTest, samples: list[list[Sample]]) -> list[Comparison]:
    """The comparisons of a test: of each neighboring pair of its experiments, or of one with a bound."""
    places = range(len(test.experiments))
    groups = [(place,) for place in places] if test.relation == "below" else list(pairwise(places))
    return [compare_group(test, choose_samples([[row[place] for place in group] for row in samples]))
            for group in groups]


def choose_samples(rows: Sequence[list[Sample]]) -> list[Sample]:
    """The samples of the first origin that has all of them, else of each experiment the first there are."""
    whole = next((row for row in rows if all(one.values for one in row)), None)
    if whole is not None:
        return whole
    return [next((one for one in column if one.values), column[0]) for column in zip(*rows, strict=True)]


def compare_group(test: ClaimTest, group: list[Sample]) -> Comparison:
    """One comparison and its outcome."""
    names = [net_name(one.experiment) for one in group]
    text = f"{test.measure.replace('_', ' ')}: " + {
        "rising": " < ".join(names), "not_falling": " <= ".join(names), "close": " close to ".join(names),
        "below": f"{names[0]} < {bound(group[0].experiment):g}" if test.relation == "below" else ""}[test.relation]
    runs = tuple(run for one in group for run in one.runs)
    origin = " and ".join(dict.fromkeys(one.origin for one in group if one.values))
    lacking = [one.reason for one in group if not one.values]
    if lacking:
        return Comparison(text, UNDECIDED, "; ".join(lacking), runs, origin)
    unit = UNITS[test.measure]
    values = ", ".join(f"{name} {one.mean:.4g}{unit} ({len(one.values)} seed{'s' * (len(one.values) > 1)})"
                       for name, one in zip(names, group, strict=True))
    if test.relation == "below":
        return Comparison(text, PASS if group[0].mean < bound(group[0].experiment) else FAIL, values, runs, origin)
    first, second = group
    difference = second.mean - first.mean
    error = math.hypot(first.error(), second.error())
    passed = {"rising": difference > 0, "not_falling": difference >= -WIDTH * error,
              "close": abs(difference) <= WIDTH * error}[test.relation]
    numbers = f"{values}; difference {difference:+.4g}"
    if test.relation != "rising":
        numbers += f", standard error {error:.2g}" + (
            "" if min(len(one.values) for one in group) >= FEW_RUNS else
            f" (spread {first.few_runs_std} for few seeds)")
    elif min(len(one.values) for one in group) >= FEW_RUNS:
        numbers += f", {difference / error if error else math.inf:+.1f} standard errors"
    else:
        numbers += f", fewer than {FEW_RUNS} seeds: by sign alone"
    return Comparison(text, PASS if passed else FAIL, numbers, runs, origin)


def bound(experiment: str) -> float:
    """The bound on a network's training error that Figure 6's text gives (percent)."""
    net = net_name(experiment).lower()
    return next(fact.below for fact in published_figure("figure6").facts
                if fact.net == net and fact.error == "training" and fact.below is not None)


def short_label() -> str:
    """What is said before outcomes of short runs."""
    return f"short runs, {schedule_text(suite(SUITES[SHORT]).preset(SHORT))}, not the paper's schedule"


def claims_table(results: Path | None, reference: Path) -> Table:
    """All claims as a table."""
    rows = []
    for result in evaluate(results, reference):
        lines = [f"{one.outcome}: {one.text} ({one.numbers})" for one in result.comparisons]
        short = [f"{one.outcome}: {one.text} ({one.numbers}; {one.origin})" for one in result.short]
        runs = dict.fromkeys(run for one in result.comparisons for run in one.runs)
        cells = {"claim": result.id, "statement": result.statement, "source": result.source,
                 "verdict": result.verdict, "numbers": "; ".join(lines), "runs": ", ".join(runs) or "-",
                 "short": "; ".join(short) or "-"}
        rows.append(TableRow(result.id, cells, result.verdict))
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
    return Table("claims", "The paper's claims and whether the runs bear them out", columns, tuple(rows), notes)
