"""All tables by name, each from the runs of each origin (`select.pools`). Imports neither torch nor matplotlib."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from repro import paper
from repro.files import read_object
from repro.paper import PROTOCOL_LABELS, Column, PublishedRow, PublishedTable
from repro.reporting import claims, select, table
from repro.reporting.select import RunSelection, RunSet
from repro.reporting.table import Table, TableRow
from repro.schema import CIFAR10, IMAGENET

TITLES = {select.REFERENCE: "reference (committed)", select.YOURS: "yours"}
PUBLISHED_ONLY = "published only"  # context, not trained by the project
OTHERS_NOTE = ("second references (second_references.yaml): test error, akamaster's of the best epoch on the test set, "
               "apark263's of another network, the usual ones without these two; of the authors' weights top-1 / top-5")
SEEDS = "after the last iteration, best (mean +- sample std) of the seeds"


def names() -> list[str]:
    return list(BUILDERS)


def committed_names() -> list[str]:
    """Names of the tables that stand beside the committed runs: all but those of synthetic images."""
    return [name for name in BUILDERS if select.split_name(name)[0] != select.SYNTHETIC]


def build(name: str, found: Sequence[RunSet]) -> Table:
    """Build a table. ConfigError for an unknown name; a run that does not count is a note, never an error."""
    return paper.pick(name, BUILDERS, "table")(found)


def changed_files(tables: Iterable[str], reference: Path) -> list[str]:
    """Names of the files of committed tables that are not there or not what the committed runs give."""
    found = select.pools(None, reference)
    texts = {reference / "tables" / f"{name}.{suffix}": text for name in tables
             for suffix, text in build(name, found).forms.items()}
    return [path.name for path, text in texts.items() if not path.is_file() or path.read_text("utf-8") != text]


def paper_table(published: PublishedTable, columns: Mapping[str, str], rows: Sequence[TableRow],
                notes: Iterable[str]) -> Table:
    """A table of the paper with its number, page and title; columns in which no row has a cell are left out."""
    shown = {key: title for key, title in columns.items()
             if key in ("verdict", "status") or any(key in row.cells for row in rows)}
    return Table(published.name, f"Table {published.name[5:]} (p. {published.page}): {published.title}", shown, rows, [
        f"published: {published.dataset}, split: {published.split}, protocol: {published.protocol}",
        *published.notes, *notes])


def published_cells(row: PublishedRow, columns: Iterable[Column]) -> dict[str, str]:
    """What the paper prints of a row, with its decimals."""
    cells = {"net": row.label, "layers": str(row.layers or "-"), **({"note": row.note} if row.note else {})}
    for column in columns:
        if row.mean is not None:
            cells[column.key] = table.best_and_spread(row.values[column.key], row.mean, row.std)
        elif column.key in row.values:
            decimals = column.decimals if row.decimals is None else row.decimals
            cells[column.key] = f"{row.values[column.key] / column.unit:.{decimals}f}"
    return cells


def origin_columns(origins: Iterable[str], errors: Mapping[str, str]) -> dict[str, str]:
    return {f"{origin}_{key}": f"{TITLES[origin]} {title}" for origin in origins for key, title in errors.items()}


def others_of(net: str) -> dict[str, str]:
    """The cell with what others measured of a network, if any did."""
    found = paper.second_references()
    others = [f"{one['errors'][net]['test']:.2f} {one['key']}" for one in found["sources"] if net in one["errors"]]
    others += [f"usual {' to '.join(map(str, found['usual'][net]))}"] if net in found["usual"] else []
    others += [f"{one['top1_error']:.1f} / {one['top5_error']:.1f} ({one['protocol']})"
               for one in found["authors_weights"] if one["net"] == net]
    return {"others": "; ".join(others)} if others else {}


def errors_table(name: str, found: Sequence[RunSet]) -> Table:
    """Tables 2 to 4 and 6: published errors, ours, and the verdict on the first; 7 and 8, of detection: no runs."""
    published, protocol = paper.published_table(name), select.TABLES.get(name)
    cifar = published.dataset == "CIFAR-10"
    titles = {column.key: column.title for column in published.columns}
    # The spread of the paper's own runs is that of the row with a number of runs (ResNet-110). Choice: on ImageNet,
    # where it gives none, ours is taken.
    spreads = (next((row.std for row in published.rows if row.runs and row.std), table.IMAGENET_STD),
               table.FEW_RUNS_STD if cifar else table.IMAGENET_STD)
    rows, everything = [], []
    for row in published.rows:
        answers = select.answers_to(f"{name}/{row.key}", found)
        everything += answers
        cells = published_cells(row, published.columns)
        cells |= {"published_parameters": row.parameters} if row.parameters else {}
        cells |= {f"{answer.origin}_{key}": answer.cell(key) for answer in answers for key in titles}
        if answers:  # a plain network has the count of option A
            count = paper.golden_counts(CIFAR10 if cifar else IMAGENET)[row.layers or 0]
            cells |= others_of(row.key) | {"parameters": f"{count.parameters[row.shortcut_option or 'A']:,}"}
        rows.append(judged_row(row, answers, cells, list(titles), spreads))
    columns = {"net": "network", "layers": "layers", **{key: f"published {title}" for key, title in titles.items()},
               **origin_columns([pool.origin for pool in reversed(found)], titles),
               **{f"difference_{key}": f"difference of {title}" for key, title in titles.items()},
               "verdict": "verdict", "others": "second references", "published_parameters": "parameters, published",
               "parameters": "parameters, counted", "note": "note"}
    tested = f"{PROTOCOL_LABELS[protocol]}, " if protocol else ""
    return paper_table(published, columns, rows, [
        f"reference and yours: {tested}{SEEDS}",
        f"verdict, of the first error: reproduced if |mean - published| <= {table.WIDTH:g} sqrt(s^2 + {spreads[0]}^2), "
        f"s the std of the seeds, {spreads[1]} of fewer than {table.FEW_RUNS}",
        OTHERS_NOTE,
        *([f"not evaluated: a finished run without this test (`repro eval ... protocol={protocol}`)"] * bool(protocol)),
        *select.run_notes(everything)] if everything else ())


def judged_row(row: PublishedRow, answers: Sequence[RunSelection], cells: dict[str, str], errors: Sequence[str],
               spreads: tuple[float, float]) -> TableRow:
    """A row with our differences and the verdict; `spreads` are the stds of the paper's runs and of few of ours."""
    several = {} if row.mean is None else {"mean": row.mean, "std": row.std, "runs": row.runs}
    data: dict[str, Any] = {"published": row.values | several} | {one.origin: one.as_json() for one in answers}
    judged = next((answer for answer in answers if answer.runs), None)  # yours, else the reference
    if judged is None:  # the first origin that has anything to tell says why
        lacking = next((answer.status for answer in answers if answer.status != select.NOT_RUN), select.NOT_RUN)
        return TableRow(row.key, cells, PUBLISHED_ONLY if row.published_only else lacking, data)
    cells |= {f"difference_{key}": f"{judged.summary(key).mean - row.compared(key):+.2f} ({judged.origin})"
              for key in errors if key in row.values}
    difference, z, found = table.verdict(judged.summary(errors[0]), row.compared(errors[0]), *spreads)
    seeds = len(judged.runs)
    status = f"partial {seeds}/{row.runs}: {found}" if seeds < (row.runs or 1) else found
    data |= {"judged": judged.origin, "difference": round(difference, 6), "z": round(z, 6)}
    return TableRow(row.key, cells | {"verdict": f"{status} ({judged.origin}, z = {z:+.2f})"}, status, data)


def table5(found: Sequence[RunSet]) -> Table:
    """Table 5: top-5 error of ensembles; ours is on validation, not the test server, so without a verdict."""
    published, wanted = paper.published_table(select.ENSEMBLE), paper.ensemble(select.ENSEMBLE)
    ours = {pool.origin: read_object(pool.root / select.ENSEMBLE_FILE) for pool in reversed(found)}
    problems = {pool.origin: select.ensemble_problem(ours[pool.origin], pool) for pool in reversed(found)}
    titles = {"top5_error": "validation top-5 error (%)", "top1_error": "validation top-1 error (%)"}
    rows = []
    for row in published.rows:
        cells, status = published_cells(row, published.columns), PUBLISHED_ONLY
        data: dict[str, Any] = {"published": row.values}
        if not row.published_only:
            data |= {origin: one for origin, one in ours.items() if one and not problems[origin]}
            status = ("no verdict: validation, not the test server" if len(data) > 1 else
                      "not counted" if any(ours.values()) else select.NOT_RUN)
            cells |= {f"{origin}_{key}": f"{one[f'val_{key}']:.2f}" if origin in data else
                      "not counted" if one else select.NOT_RUN for origin, one in ours.items() for key in titles}
        rows.append(TableRow(row.key, cells, status, data))
    members = ", ".join(f"{one.experiment}/seed{one.seed}" for one in wanted.members)
    return paper_table(published, {"net": "ensemble", "top5_error": "published (test server) top-5 error (%)",
                                   **origin_columns(ours, titles), "status": "status"}, rows, [
        f"reference and yours: {PROTOCOL_LABELS[wanted.protocol]}, mean of the probabilities of {members} "
        f"(`repro ensemble {select.ENSEMBLE}`)",
        *(f"not counted ({origin}): {problem}" for origin, problem in problems.items() if problem)])


def plain_nets(found: Sequence[RunSet]) -> Table:
    """The plain CIFAR-10 networks, which the paper publishes as curves only: no number, so no verdict."""
    groups = [select.answers_to(row, found) for row in paper.reproduced_rows() if row.startswith("plain_nets/")]
    return runs_table("plain_nets", "Plain networks on CIFAR-10: published as curves only (Fig. 6)", groups, [
        f"published: {fact['net']} stays above {fact['above']:g} %, {fact['text']}"
        for fact in paper.published_figure("figure6").facts if "above" in fact])


def preset_table(name: str, found: Sequence[RunSet]) -> Table:
    """The short runs, or those on synthetic images, of a preset: labeled, and never the paper's schedule."""
    synthetic = select.split_name(name)[0] == select.SYNTHETIC
    preset = select.preset_of(name)
    schedule = select.schedule_text(preset)
    title = f"Short runs: {schedule}; not the paper's schedule. Plain and residual networks on CIFAR-10"
    if synthetic:
        title = f"{select.NOT_CIFAR}: plain and residual networks, {schedule}"
        found = [pool for pool in found if pool.origin == select.YOURS]  # none is ever committed
    groups = [[select.preset_runs(pool, one, preset) for pool in found] for one in preset.experiments]
    return runs_table(name, title, groups, [
        "no number of the paper belongs beside these",
        f"they show {preset.shows}; they cannot show {preset.cannot_show}"])


def runs_table(name: str, title: str, groups: Sequence[Sequence[RunSelection]], notes: Sequence[str]) -> Table:
    """Errors of runs that no published number stands beside; a group has what each origin has of an experiment."""
    rows = []
    for group in groups:
        for answer in [one for one in group if one.status != select.NOT_RUN] or group[:1]:
            cells = {"net": select.net_name(answer.experiment), "origin": answer.origin,
                     "train": answer.cell("train_top1_error"), "test": answer.cell(),
                     "seconds": f"{fmean(map(select.seconds, answer.runs)):.0f}" if answer.runs else "-"}
            rows.append(TableRow(f"{answer.experiment}/{answer.origin}", cells, answer.status, answer.as_json()))
    columns = {"net": "network", "origin": "origin", "train": "training error (%)", "test": "test error (%)",
               "seconds": "wall time (s)"}
    return Table(name, title, columns, rows, [
        *notes, f"errors {SEEDS}; training error: mean since the evaluation before; wall time: mean of the seeds",
        *select.run_notes([answer for group in groups for answer in group])])


def table1(_: Sequence[RunSet]) -> Table:
    """Table 1: the multiply-adds that the paper prints beside those of golden_counts.yaml, whatever runs there are."""
    # Table 1 names no shortcut option. Choice: basic blocks are compared with option A, the one of Table 2 and at 34
    # layers the only one that rounds to what Table 1 prints; bottlenecks are option B (Table 3). Plain nets count as A.
    published = paper.published_table("table1")
    column, = published.columns
    rows = []
    for row in published.rows:
        printed, status = row.values[column.key], PUBLISHED_ONLY
        cells, data = published_cells(row, [column]), dict[str, Any](published=row.values)
        if not row.published_only:
            option = "B" if row.block == "bottleneck" else "A"
            counted = round(paper.golden_counts(IMAGENET)[row.layers or 0].multiply_adds[option])
            digits = 10**column.decimals / column.unit  # of what is printed
            exact, last = counted * digits, round(printed * digits)
            cut = "agrees if cut, not rounded" if math.floor(exact) == last else "differs"
            status, data = "agrees" if math.floor(exact + 0.5) == last else cut, data | {"counted": counted}
            cells |= {"shortcut": option if row.block else "plain", "counted": f"{counted / 1e9:.3f}e9",
                      "ratio": f"{counted / printed:.3f}"}
        rows.append(TableRow(row.key, cells, status, data))
    columns = {"net": "network", "layers": "layers",
               "multiply_adds": "published multiply-adds (1e9)", "shortcut": "counted with option",
               "counted": "counted multiply-adds", "ratio": "counted / published", "verdict": "verdict", "note": "note"}
    return paper_table(published, columns, rows, [
        "counted: multiply-adds of convolutions and fully-connected layers for one 224x224 image, the stride of a "
        "bottleneck in its first 1x1 (golden_counts.yaml); agrees: rounded to the digits printed"])


BUILDERS: dict[str, Callable[[Sequence[RunSet]], Table]] = {
    "table1": table1, **{name: partial(errors_table, name) for name in select.TABLES}, select.ENSEMBLE: table5,
    **{name: partial(errors_table, name) for name in ("table6", "table7", "table8")}, "plain_nets": plain_nets,
    **{name: partial(preset_table, name) for name in ("short_cifar_plain_vs_res", "synthetic_demo")},
    "claims": lambda found: claims.claims_table(claims.evaluate(found)),
}
