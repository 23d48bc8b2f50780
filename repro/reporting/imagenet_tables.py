"""Tables 2 to 5: published, reference and yours side by side, from tests of finished ImageNet runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.config import PAPER_PRECISIONS, paper_hashes
from repro.paper import (
    PROTOCOL_LABELS,
    Column,
    PublishedRow,
    PublishedTable,
    ensemble,
    golden_count,
    published_table,
    reproduced_rows,
    second_references,
)
from repro.reporting import evidence
from repro.reporting.cifar_tables import TITLES, column_titles, open_status, verdict_text
from repro.reporting.evaluations import (
    TABLES,
    EvaluatedRuns,
    count_problem,
    definition_notes,
    evaluated_runs,
    evaluations_as_json,
    read,
)
from repro.reporting.selection import REFERENCE, YOURS, RunSet, pools, run_name
from repro.reporting.statistics import FEW_RUNS, IMAGENET_STD, WIDTH, verdict
from repro.reporting.table import Table, TableRow
from repro.runs import read_json

JUDGED = "top1_error"  # Choice: the verdict is that of the top-1 error, which every trained row has
ENSEMBLE = "table5"
CENTER_NOTE = "the error of the center crop stands in the run's record and in Figure 4"
NO_VERDICT = "no verdict: validation, not the test server"
TEST_SERVER = "published (test server)"


def imagenet_table(name: str, results: Path | None, reference: Path) -> Table:
    """Table 2, 3 or 4: validation error (percent) under the table's way of testing, with verdicts."""
    published, protocol = published_table(name), TABLES[name]
    found, experiments = pools(results, reference), reproduced_rows()
    rows: list[TableRow] = []
    entries: list[EvaluatedRuns] = []
    for row in published.rows:
        experiment = experiments.get(f"{name}/{row.key}")
        own = [evaluated_runs(pool, experiment, protocol) for pool in found] if experiment else []
        rows.append(imagenet_row(row, published.columns, own))
        entries += own
    columns = {"net": "network", "layers": "layers",
               **{column.key: f"published {column.title}" for column in published.columns},
               **{f"{origin}_{column.key}": f"{text} {column.title}" for origin, text in column_titles(found).items()
                  for column in published.columns},
               **{difference_key(column): f"difference of {column.title.removesuffix(' (%)')}"
                  for column in published.columns},
               "verdict": "verdict", "second_reference": "second references", "parameters": "parameters, counted",
               "note": "note"}
    shown = {key: text for key, text in columns.items()
             if key not in ("second_reference", "note") or any(key in row.cells for row in rows)}
    title = f"Table {name.removeprefix('table')} (p. {published.page}): {published.title}"
    return Table(name, title, shown, tuple(rows), tuple(imagenet_notes(published, protocol, entries, shown)))


def difference_key(column: Column) -> str:
    """The column of our differences from a published column."""
    return "difference" if column.key == JUDGED else f"difference_{column.key}"


def number(row: PublishedRow, column: Column) -> str:
    """A published number with the decimals of the paper; '-' where the paper has none."""
    if column.key not in row.values:
        return "-"
    decimals = column.decimals if row.decimals is None else row.decimals
    return f"{row.values[column.key] / column.unit:.{decimals}f}"


def published_cells(row: PublishedRow, columns: Sequence[Column]) -> dict[str, str]:
    """What the paper prints of a row."""
    cells = {"net": row.label, "layers": str(row.layers or "-")}
    return cells | {column.key: number(row, column) for column in columns} | ({"note": row.note} if row.note else {})


def imagenet_row(row: PublishedRow, columns: Sequence[Column], entries: Sequence[EvaluatedRuns]) -> TableRow:
    """One row, judged by yours where you have a test that counts, else by the reference."""
    cells = published_cells(row, columns)
    data: dict[str, Any] = {"published": dict(row.values)}
    if not entries:
        status = "published only" if row.published_only else "not run"
        return TableRow(row.key, cells | {"verdict": status}, status, None, data)
    cells |= count_parameters(row) | second_reference(row.key)
    for entry in entries:
        for column in columns:
            cells[f"{entry.answer.origin}_{column.key}"] = (
                str(entry.summary(column.key)) if entry.found else entry.status)
        data[entry.answer.origin] = evaluations_as_json(entry)
    judged = next((entry for entry in entries if entry.found), None)
    if judged is None:
        status = open_status(entries)
        return TableRow(row.key, cells | {"verdict": status}, status, None, data)
    origin = judged.answer.origin
    cells |= {difference_key(column): f"{judged.summary(column.key).mean - row.values[column.key]:+.2f} ({origin})"
              for column in columns if column.key in row.values}
    found = verdict(judged.summary(JUDGED), row.compared(JUDGED), IMAGENET_STD, IMAGENET_STD)
    data |= {"judged": origin, "difference": round(found.difference, 6), "z": round(found.z, 6)}
    return TableRow(row.key, cells | {"verdict": verdict_text(found, found.text, origin)}, found.text, found.text, data)


def count_parameters(row: PublishedRow) -> dict[str, str]:
    """The exact parameter count of a row's network; a plain network has that of option A."""
    if row.layers is None:
        return {}
    return {"parameters": f"{golden_count('imagenet', row.layers).parameters[row.shortcut_option or 'A']:,}"}


def second_reference(net: str) -> dict[str, str]:
    """What the authors' released weights give: '22.9 / 6.7 (10-crop); ...', top-1 / top-5."""
    found = [f"{one.top1_error:.1f} / {one.top5_error:.1f} ({one.protocol})"
             for one in reversed(second_references().authors_weights) if one.net == net]
    return {"second_reference": "; ".join(found)} if found else {}


def imagenet_notes(published: PublishedTable, protocol: str, entries: Sequence[EvaluatedRuns],
                   columns: Mapping[str, str]) -> list[str]:
    """How to read the table, whose runs stand in it, and what does not count."""
    authors = ["second references: the authors' released weights, top-1 / top-5 error (%) on ImageNet validation "
               "(their repository's README)"] if "second_reference" in columns else []
    return [
        f"published: {published.dataset}, split: {published.split}, protocol: {published.protocol}", *published.notes,
        f"reference and yours: ImageNet validation error, {PROTOCOL_LABELS[protocol]}, of the weights after the last "
        f"iteration (`repro eval experiment=NAME protocol={protocol}`), best (mean +- sample std) of k seeds; one "
        f"value for one seed; {CENTER_NOTE}",
        *definition_notes(entries),
        "verdict: of the top-1 error; yours where you have a test that counts, else the reference; mean of k seeds "
        f"minus the published number; reproduced if |difference| <= {WIDTH:g} sqrt(s^2 + s_ref^2) with s the sample "
        f"std of the runs ({IMAGENET_STD} if k < {FEW_RUNS}) and s_ref = {IMAGENET_STD}; Choice: both, as the paper "
        "gives no spread (others report 0.12 for ResNet-50, arXiv 1706.02677)",
        "not run: no finished run; not evaluated: a finished run without this test; published only: context, not "
        "trained by the project",
        *evidence.machine_notes([entry.answer for entry in entries if entry.answer.runs]), *authors,
        *(note for entry in entries for note in entry.notes())]


def table5(results: Path | None, reference: Path) -> Table:
    """Table 5: top-5 error (percent) of ensembles; ours is on validation, not the test server, so without a verdict."""
    published = published_table(ENSEMBLE)
    roots = {REFERENCE: reference} | ({} if results is None else {YOURS: results})
    content = {origin: read_ensemble(root) for origin, root in roots.items()}
    reasons = {pool.origin: ensemble_problem(content[pool.origin], pool) for pool in pools(results, reference)}
    answered = str(ensemble(ENSEMBLE).reproduces).partition("/")[2]
    rows = [ensemble_row(row, published.columns, content, reasons) if row.key == answered else
            TableRow(row.key, published_cells(row, published.columns) | {"status": "published only"}, "published only",
                     None, {"published": dict(row.values)}) for row in published.rows]
    columns = {"net": "ensemble", **{column.key: f"{TEST_SERVER} {column.title}" for column in published.columns},
               **{f"{origin}_{key}": f"{TITLES[origin]}, ImageNet validation, {title}" for origin in roots
                  for key, title in (("top5_error", "top-5 error (%)"), ("top1_error", "top-1 error (%)"))},
               "status": "status"}
    title = f"Table 5 (p. {published.page}): {published.title}"
    return Table(ENSEMBLE, title, columns, tuple(rows), tuple(ensemble_notes(published, content, reasons)))


def read_ensemble(root: Path) -> dict[str, Any]:
    """The record that `repro ensemble table5` wrote below a results folder; {} without a readable one."""
    try:
        found = read_json(root / "ensembles" / f"{ENSEMBLE}.json")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def ensemble_problem(found: Mapping[str, Any], pool: RunSet) -> str | None:
    """Why an ensemble's record does not count beside these runs; None if it does, or if there is none."""
    if not found:
        return None
    wanted = ensemble(ENSEMBLE)
    listed = found["members"] if isinstance(found.get("members"), list) else []
    members = [(one.get("experiment"), one.get("seed")) for one in listed if isinstance(one, dict)]
    if members != [(one.experiment, one.seed) for one in wanted.members] or found.get("protocol") != wanted.protocol:
        return "it is not of the members and protocol of experiments/ensembles/table5.yaml"
    exact = {precision.name for precision in PAPER_PRECISIONS}
    for one in listed:
        if one.get("identity") not in paper_hashes(one["experiment"]) or one.get("precision") not in exact:
            return f"its {one['experiment']} seed {one['seed']} is no run, or no test, of the paper's settings"
        if stale := other_test(one, wanted.protocol, pool):
            return stale
    trouble = count_problem(found)
    return trouble and f"it {trouble}"


def other_test(member: Mapping[str, Any], protocol: str, pool: RunSet) -> str | None:
    """Why a member of an ensemble is not the test of its run here; None if it is, or if the run is not here."""
    name = f"{member['experiment']}/seed{member['seed']}"
    run = next((run for run in pool.runs if run_name(run) == name), None)
    if run is None or read(run, protocol).get("weights_sha256") == member.get("weights_sha256"):
        return None
    return f"it is older than {PROTOCOL_LABELS[protocol]} testing of {name} ({pool.origin}), or that is missing"


def ensemble_row(row: PublishedRow, columns: Sequence[Column], content: Mapping[str, Mapping[str, Any]],
                 reasons: Mapping[str, str | None]) -> TableRow:
    """The paper's ensemble and ours."""
    cells = published_cells(row, columns)
    data: dict[str, Any] = {"published": dict(row.values)}
    for origin, found in content.items():
        good = bool(found) and reasons[origin] is None
        for key in ("top1_error", "top5_error"):
            cells[f"{origin}_{key}"] = f"{found[f'val_{key}']:.2f}" if good else "not counted" if found else "not run"
        data |= {origin: dict(found)} if good else {}
    there = any(origin in data for origin in content)
    status = NO_VERDICT if there else "not counted" if any(content.values()) else "not run"
    return TableRow(row.key, cells | {"status": status}, status, None, data)


def ensemble_notes(published: PublishedTable, content: Mapping[str, Mapping[str, Any]],
                   reasons: Mapping[str, str | None]) -> list[str]:
    """What is published, what ours is, of which networks, and what does not count."""
    wanted = ensemble(ENSEMBLE)
    members = ", ".join(f"{one.experiment}/seed{one.seed}" for one in wanted.members)
    return [
        f"published: {published.dataset}, split: {published.split}, protocol: {published.protocol}", *published.notes,
        "reference and yours: ImageNet validation (its labels are public, those of the test server are not), mean of "
        f"the class probabilities of {members} under {PROTOCOL_LABELS[wanted.protocol]} testing (`repro ensemble "
        f"{ENSEMBLE}`); another set of images than the published number's, so no verdict",
        *(f"not counted ({origin}): {reason}" for origin, reason in reasons.items() if reason)]
