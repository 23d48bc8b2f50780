"""Table 6 and the table of the plain CIFAR-10 networks: published, reference and yours side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repro.paper import (
    PLAIN_NETS,
    PublishedRow,
    PublishedTable,
    published_figure,
    published_table,
    reproduced_rows,
    second_references,
)
from repro.reporting import evidence
from repro.reporting.evaluations import EvaluatedRuns
from repro.reporting.selection import REFERENCE, YOURS, RunSelection, RunSet, paper_runs, pools
from repro.reporting.statistics import FEW_RUNS, FEW_RUNS_STD, WIDTH, Verdict, spread, verdict
from repro.reporting.table import Table, TableRow

ERROR = "test_top1_error"
TITLES = {REFERENCE: "reference (committed)", YOURS: "yours"}


def column_titles(found: list[RunSet], suffix: str = "") -> dict[str, str]:
    """The columns of our own numbers: reference, then yours where a results folder was given."""
    return {pool.origin + suffix.replace(" ", "_"): TITLES[pool.origin] + suffix for pool in reversed(found)}


def table6(results: Path | None, reference: Path) -> Table:
    """Table 6: CIFAR-10 test error (percent) of the ResNets, with verdicts."""
    published = published_table("table6")
    found = pools(results, reference)
    experiments = reproduced_rows()
    rows, answers = [], []
    for row in published.rows:
        experiment = experiments.get(f"table6/{row.key}")
        own = [paper_runs(pool, experiment) for pool in found] if experiment else []
        rows.append(table6_row(row, own, published_std(published)))
        answers += own
    columns = {"net": "network", "layers": "layers", "published": "published (Table 6)", **column_titles(found),
               **{f"{origin}_averaged": f"{text}, averaged BN" for origin, text in column_titles(found).items()},
               "difference": "difference", "verdict": "verdict", "second_reference": "second references",
               "published_parameters": "parameters, published", "parameters": "parameters, counted"}
    title = f"Table 6 (p. {published.page}): {published.title}, {published.metric}"
    return Table("table6", title, columns, tuple(rows), tuple(table6_notes(published, answers)))


def published_std(published: PublishedTable) -> float:
    """The spread that the paper gives for its own runs: that of the row with a number of runs (ResNet-110)."""
    return next(row.std for row in published.rows if row.runs and row.std is not None)


def table6_row(row: PublishedRow, answers: list[RunSelection], s_ref: float) -> TableRow:
    """One row of Table 6, judged by yours where you have a run that counts, else by the reference."""
    cells = {"net": row.label, "layers": str(row.layers or "-"), "published_parameters": row.parameters or "-",
             "published": spread(row.values[ERROR], row.mean, row.std)}
    data: dict[str, Any] = {"published": {"test_top1_error": row.values[ERROR], "mean": row.mean, "std": row.std,
                                          "runs": row.runs, "parameters": row.parameters}}
    if not answers:
        return TableRow(row.key, cells | {"verdict": "published only"}, "published only", None, data)
    assert row.layers is not None
    cells["parameters"] = evidence.parameters(row.layers)
    cells["second_reference"] = evidence.second_reference(second_references(), row.key)
    for answer in answers:
        cells[answer.origin] = str(answer.summary()) if answer.runs else answer.status
        cells[f"{answer.origin}_averaged"] = evidence.averaged_statistics_error(answer)
        data[answer.origin] = evidence.answer_data(answer)
    judged = next((answer for answer in answers if answer.runs), None)
    if judged is None:
        status = open_status(answers)
        return TableRow(row.key, cells | {"verdict": status}, status, None, data)
    found = verdict(judged.summary(), row.compared(ERROR), s_ref)
    status = found.text if len(judged.runs) >= (row.runs or 1) else f"partial {len(judged.runs)}/{row.runs}"
    data |= {"judged": judged.origin, "difference": round(found.difference, 6), "z": round(found.z, 6)}
    cells |= {"difference": f"{found.difference:+.2f} ({judged.origin})",
              "verdict": verdict_text(found, status, judged.origin)}
    return TableRow(row.key, cells, status, found.text, data)


def open_status(answers: Sequence[RunSelection | EvaluatedRuns]) -> str:
    """The status of a row without a run that counts: the first origin that has anything to tell."""
    return next((answer.status for answer in answers if answer.status != "not run"), "not run")


def verdict_text(found: Verdict, status: str, origin: str) -> str:
    """The verdict with z and whose runs it judges; a partial number of seeds comes first."""
    text = f"{found.text} ({origin}, z = {found.z:+.2f})"
    return text if status == found.text else f"{status}: {text}"


def table6_notes(published: PublishedTable, answers: list[RunSelection]) -> list[str]:
    """How to read Table 6, whose runs stand in it, and what does not count."""
    return [
        f"published: {published.dataset} {published.split}, {published.protocol}; {'; '.join(published.notes)}",
        "reference and yours: test error after the last iteration of the paper's schedule, "
        "best (mean +- sample std) of k seeds; one value for one seed",
        "verdict: yours where you have runs that count, else the reference; mean of k seeds minus the published number "
        f"(its mean where one is given); reproduced if |difference| <= {WIDTH:g} sqrt(s^2 + s_ref^2) with s the sample "
        f"std of the runs ({FEW_RUNS_STD} if k < {FEW_RUNS}) and s_ref = {published_std(published)}",
        "partial: fewer seeds than the published number has",
        *evidence.averaged_notes(answers),
        *evidence.machine_notes(answers),
        *evidence.best_on_test_notes(answers),
        *evidence.second_reference_notes(second_references(), [row.key for row in published.rows]),
        *(note for answer in answers for note in answer.notes()),
    ]


def plain_nets(results: Path | None, reference: Path) -> Table:
    """The plain CIFAR-10 networks, which the paper publishes as curves only (Fig. 6): no number, so no verdict."""
    found = pools(results, reference)
    rows, answers = [], []
    for row, experiment in reproduced_rows().items():
        table, _, net = row.partition("/")
        if table == PLAIN_NETS:
            own = [paper_runs(pool, experiment) for pool in found]
            rows.append(plain_row(net, own))
            answers += own
    columns = {"net": "network", "published": "published",
               **column_titles(found, " training error"), **column_titles(found, " test error"),
               **{f"{origin}_averaged": f"{text}, averaged BN"
                  for origin, text in column_titles(found, " test error").items()},
               "second_reference": "second references: test error [training error]",
               "parameters": "parameters, counted", "status": "status"}
    notes = [
        "published: the plain networks stand in no table; Figure 6 (left) draws their curves",
        "reference and yours: errors (%) after the last iteration of the paper's schedule, best (mean +- sample std) "
        "of k seeds; the training error is the mean over the augmented mini-batches since the previous evaluation",
        *evidence.averaged_notes(answers),
        *evidence.machine_notes(answers),
        *evidence.best_on_test_notes(answers),
        *evidence.second_reference_notes(second_references(), [row.key for row in rows]),
        *(note for answer in answers for note in answer.notes()),
    ]
    return Table(PLAIN_NETS, "Plain networks on CIFAR-10: published as curves only, error (%)", columns, tuple(rows),
                 tuple(notes))


def plain_row(net: str, answers: list[RunSelection]) -> TableRow:
    """One plain network: training and test error of each origin beside what others measured."""
    cells = {"net": net, "published": plain_published(net), "parameters": evidence.parameters(evidence.layers_of(net)),
             "second_reference": evidence.second_reference(second_references(), net)}
    data: dict[str, Any] = {}
    for answer in answers:
        for kind, key in (("training", "train_top1_error"), ("test", "test_top1_error")):
            cells[f"{answer.origin}_{kind}_error"] = str(answer.summary(key)) if answer.runs else answer.status
        cells[f"{answer.origin}_test_error_averaged"] = evidence.averaged_statistics_error(answer)
        data[answer.origin] = evidence.answer_data(answer)
    status = "published as curves only" if any(answer.runs for answer in answers) else open_status(answers)
    return TableRow(net, cells | {"status": status}, status, None, data)


def plain_published(net: str) -> str:
    """What the paper says of a plain network: a bound in the text, or its curve."""
    fact = next((fact for fact in published_figure("figure6").facts if fact.net == net), None)
    return "curve only (Fig. 6)" if fact is None else f"stays above {fact.above:g} %, {fact.text}"
