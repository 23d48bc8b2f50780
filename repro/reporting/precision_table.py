"""The table that decides which precisions may enter a table of the paper: an equivalence test of their test errors."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from repro.config import PAPER_PRECISIONS, identity, paper_config, with_precision
from repro.paper import second_references, suite
from repro.reporting import evidence
from repro.reporting.selection import Answer, Pool, identity_of_folder, pools, select
from repro.reporting.statistics import CONFIDENCE, Interval, welch
from repro.reporting.table import Table, TableRow
from repro.reporting.variants import net_name
from repro.schema import Precision

SUITE = "cifar_precision"
# Choice: these need no evidence (fp32 is the paper's arithmetic, TF32 what PyTorch makes of it in convolutions on
# CUDA), and the others are held against one of them: the one with more seeds, the first of equals.
EXACT = (Precision.tf32, Precision.fp32)
PRECISIONS = (Precision.fp32, Precision.tf32, Precision.fp16, Precision.bf16)
# Choice: points; within the std that others report between runs of one recipe (second_references.yaml), so that the
# mean of a precision that enters is off by no more than one more seed moves a single run. 16 against 16 runs with a
# std of as much give an interval of +-0.18, so that they can decide.
MARGIN = 0.25
ENTERS, STAYS_OUT, OPEN = "may enter", "may not enter", "not decided"
BASIS, NO_EVIDENCE = "the others are held against it", "enters without evidence"
COLUMNS = {"precision": "precision", "origin": "origin", "seeds": "finished seeds", "test": "test error (%)",
           "train": "training error (%), mean", "difference": "difference of mean test errors",
           "interval": f"its {100 * CONFIDENCE:g} % interval", "decision": "decision",
           "admitted": "admitted now"}


def precision_table(results: Path | None, reference: Path) -> Table:
    """Test and training error (percent) of one network by precision, and what may enter the paper's tables."""
    found = suite(SUITE)
    (experiment,) = found.experiments
    needed = found.seeds_of(experiment)
    rows: list[TableRow] = []
    answers: list[Answer] = []
    for pool in reversed(pools(results, reference)):
        own = {precision: precision_answer(pool, experiment, precision, needed) for precision in PRECISIONS}
        exact = max(EXACT, key=lambda precision: len(own[precision].runs))
        rows += [precision_row(precision, own, exact, needed) for precision in PRECISIONS]
        answers += own.values()
    title = f"Which precisions may enter a table of the paper: {net_name(experiment)} on CIFAR-10, {needed} seeds each"
    return Table("precision", title, COLUMNS, tuple(rows), (
        *rule_notes(experiment, needed), *evidence.machine_notes(answers, lambda run: f"seed {run.seed}"),
        *(note for answer in answers for note in answer.notes())))


def precision_answer(pool: Pool, experiment: str, precision: Precision, needed: int) -> Answer:
    """The runs of an experiment as it stands but for the precision; never more than needed, those of lowest seed."""
    own = {identity(with_precision(paper_config(experiment), precision))}
    answer = select(pool, experiment, own)
    excluded = tuple(entry for entry in answer.excluded if identity_of_folder(entry.run) in own)
    return replace(answer, runs=answer.runs[:needed], excluded=excluded)


def precision_row(precision: Precision, answers: Mapping[Precision, Answer], exact: Precision,
                  needed: int) -> TableRow:
    """One precision from one origin beside the one that it is held against."""
    answer, other = answers[precision], answers[exact]
    found = welch(answer.summary(), other.summary()) if precision is not exact else None
    decided = decision(precision, answers, exact, found, needed)
    cells = {"precision": precision.name, "origin": answer.origin, "seeds": f"{len(answer.runs)} of {needed}",
             "test": str(answer.summary()) if answer.runs else answer.status,
             "decision": decided, "admitted": "yes" if precision in PAPER_PRECISIONS else "no"}
    data: dict[str, Any] = {answer.origin: evidence.answer_data(answer), "against": exact.name, "margin": MARGIN}
    if answer.runs:
        cells["train"] = f"{answer.summary('train_top1_error').mean:.2f}"
    if found is not None:
        cells |= {"difference": f"{found.difference:+.2f} (against {exact.name})",
                  "interval": f"{found.low:+.2f} to {found.high:+.2f}"}
        data |= {"difference": round(found.difference, 6), "interval": [round(found.low, 6), round(found.high, 6)]}
    status = decided if answer.runs else answer.status
    return TableRow(f"{precision.name}/{answer.origin}", cells, status, None, data)


def decision(precision: Precision, answers: Mapping[Precision, Answer], exact: Precision, found: Interval | None,
             needed: int) -> str:
    """What the runs say of a precision; `found` is its difference from the exact one where there are runs enough."""
    if precision in EXACT:
        return BASIS if precision is exact else NO_EVIDENCE
    diverged = sum(entry.run.status == "diverged" for entry in answers[precision].excluded)
    if diverged:
        return f"{STAYS_OUT} ({diverged} diverged)"
    for one, whose in ((precision, ""), (exact, f" of {exact.name}")):
        if len(answers[one].runs) < needed:
            return f"{OPEN} ({len(answers[one].runs)} of {needed} seeds{whose})"
    assert found is not None
    if found.within(MARGIN):
        return ENTERS
    return STAYS_OUT if found.beyond(MARGIN) else f"{OPEN} (the interval reaches across {MARGIN:g} points)"


def rule_notes(experiment: str, needed: int) -> list[str]:
    """What counts, the rule, its margin, and what a decision changes."""
    low, high = second_references().run_to_run_std
    admitted = " and ".join(precision.name for precision in PAPER_PRECISIONS)
    names = " or ".join(precision.name for precision in EXACT)
    return [
        f"runs of {experiment} that differ from the experiment as it stands in nothing but the precision, the {needed} "
        f"of lowest seed of each (`repro suite {SUITE}`); a seed that is run in one of {names} is not run in the other",
        "errors after the last iteration of the paper's schedule; test error: best (mean +- sample std) of k seeds; "
        "training error: mean over the augmented mini-batches since the previous evaluation",
        f"fp16: static loss scale {paper_config(experiment).train.loss_scale:g}",
        f"difference: in points, minus the mean of {names} (the one with more seeds) of the same origin, with Welch's "
        "interval (t distribution, unequal variances)",
        f"rule, fixed before any run: {ENTERS} if {needed} seeds of both are there and the whole interval lies within "
        f"+-{MARGIN:g} points (an equivalence test: two one-sided tests at {50 * (1 - CONFIDENCE):.1f} % each); "
        f"{STAYS_OUT} if it lies wholly outside, on either side, or if a run diverged; else {OPEN}; "
        f"{' and '.join(precision.name for precision in EXACT)} need no evidence",
        f"the margin of {MARGIN:g} lies within the run-to-run std that others report ({low:g} to {high:g})",
        f"what the tables of the paper admit is PAPER_PRECISIONS in repro/config.py, now {admitted}; a commit that "
        "changes it cites this table",
    ]
