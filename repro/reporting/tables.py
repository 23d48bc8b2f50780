"""All tables by name, each from the runs of each origin (`select.pools`). Imports neither torch nor matplotlib."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from repro import paper
from repro.files import read_object
from repro.paper import PROTOCOL_LABELS, Column, PublishedRow, PublishedTable, golden_counts
from repro.reporting import select
from repro.reporting.claims import claims_table
from repro.reporting.select import RunSelection, RunSet
from repro.reporting.statistics import FEW_RUNS, FEW_RUNS_STD, IMAGENET_STD, WIDTH, Summary, best_and_spread, verdict
from repro.reporting.table import Table, TableRow

ERROR = "test_top1_error"
TITLES = {select.REFERENCE: "reference (committed)", select.YOURS: "yours"}
PUBLISHED_ONLY = "published only"  # context, not trained by the project
AVERAGED_NOTE = "averaged BN: an extra, with BN statistics averaged after the last iteration; results: moving averages"
OTHERS_NOTE = "second references (second_references.yaml): * best epoch on the test set, + another network"
SEEDS = "after the last iteration, best (mean +- sample std) of the seeds"


def names() -> list[str]:
    """Names of all tables: the paper's, then the project's own."""
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
    return [path.name for path, text in texts.items()
            if not path.is_file() or path.read_text(encoding="utf-8") != text]


# ---- what several tables show


def paper_table(published: PublishedTable, columns: Mapping[str, str], rows: Sequence[TableRow],
                notes: Iterable[str], more: str = "") -> Table:
    """A table of the paper with its number, page and title, and on what and how it was measured."""
    return Table(published.name, f"Table {published.name[5:]} (p. {published.page}): {published.title}{more}", columns,
                 rows, [f"published: {published.dataset}, split: {published.split}, protocol: {published.protocol}",
                        *published.notes, *notes])


def origin_columns(found: Sequence[RunSet], key: str = "", title: str = "") -> dict[str, str]:
    """A column for each origin: reference, then yours where a results folder was given."""
    return {pool.origin + key: TITLES[pool.origin] + title for pool in reversed(found)}


def verdict_note(few_runs_std: float, published_std: float) -> str:
    """How a verdict is found."""
    return (f"verdict: reproduced if |mean - published| <= {WIDTH:g} sqrt(s^2 + {published_std}^2), s the std of the "
            f"seeds, {few_runs_std} of fewer than {FEW_RUNS}")


def published_cells(row: PublishedRow, columns: Iterable[Column]) -> dict[str, str]:
    """What the paper prints of a row, with its decimals."""
    cells = {"net": row.label, "layers": str(row.layers or "-"), **({"note": row.note} if row.note else {})}
    for column in columns:
        if column.key in row.values:
            decimals = column.decimals if row.decimals is None else row.decimals
            cells[column.key] = f"{row.values[column.key] / column.unit:.{decimals}f}"
    return cells


def judged_row(row: PublishedRow, differences: Mapping[str, str], answers: Sequence[RunSelection],
               cells: dict[str, str], spreads: tuple[float, float]) -> TableRow:
    """A row with our differences, {cell: published column}, and the verdict on the first: of yours, else the reference.

    `spreads` are the stds of the paper's runs and of few of ours.
    """
    several = {"mean": row.mean, "std": row.std, "runs": row.runs} if row.mean is not None else {}
    data: dict[str, Any] = {"published": {**row.values, **several}}
    data |= {answer.origin: answer.as_json() for answer in answers}
    judged = next((answer for answer in answers if answer.runs), None)
    if judged is None:
        return TableRow(row.key, cells, PUBLISHED_ONLY if row.published_only else select.open_status(answers), data)
    for key, column in differences.items():
        if column in row.values:
            cells[key] = f"{judged.summary(column).mean - row.compared(column):+.2f} ({judged.origin})"
    first, seeds = differences["difference"], len(judged.runs)
    difference, z, found = verdict(judged.summary(first), row.compared(first), *spreads)
    status = f"partial {seeds}/{row.runs}: {found}" if seeds < (row.runs or 1) else found
    data |= {"judged": judged.origin, "difference": round(difference, 6), "z": round(z, 6)}
    return TableRow(row.key, cells | {"verdict": f"{status} ({judged.origin}, z = {z:+.2f})"}, status, data)


# ---- CIFAR-10: Table 6 and the plain networks, which the paper publishes as curves only


def table6(found: Sequence[RunSet]) -> Table:
    """Table 6: CIFAR-10 test error of the ResNets, with verdicts."""
    published = paper.published_table("table6")
    answers = {row.key: select.answers_to(f"table6/{row.key}", found) for row in published.rows}
    # The spread that the paper gives for its own runs: that of the row with a number of runs (ResNet-110).
    s_ref = next(row.std for row in published.rows if row.runs and row.std is not None)
    rows = [judged_row(row, {"difference": ERROR}, answers[row.key], {
        **published_cells(row, ()), **cifar_cells(row.key, answers[row.key]),
        "published": best_and_spread(row.values[ERROR], row.mean, row.std),
        "published_parameters": row.parameters or "-"}, (s_ref, FEW_RUNS_STD)) for row in published.rows]
    columns = {"net": "network", "layers": "layers", "published": "published (Table 6)", **origin_columns(found),
               **origin_columns(found, "_averaged", ", averaged BN"), "difference": "difference", "verdict": "verdict",
               "second_reference": "second references", "published_parameters": "parameters, published",
               "parameters": "parameters, counted"}
    return paper_table(published, columns, rows, [
        f"reference and yours: test error {SEEDS}", verdict_note(FEW_RUNS_STD, s_ref), AVERAGED_NOTE, OTHERS_NOTE,
        *select.run_notes(answers.values())], f", {published.metric}")


def plain_nets(found: Sequence[RunSet]) -> Table:
    """The plain CIFAR-10 networks: no number, so no verdict."""
    bounds = {fact["net"]: f"stays above {fact['above']:g} %, {fact['text']}"
              for fact in reversed(paper.published_figure("figure6").facts) if "above" in fact}
    answers = {name.partition("/")[2]: select.answers_to(name, found)
               for name in paper.reproduced_rows() if name.startswith("plain_nets/")}
    rows = []
    for net, own in answers.items():
        cells = {"net": net, "published": bounds.get(net, "curve only (Fig. 6)")} | cifar_cells(net, own)
        status = "published as curves only" if any(answer.runs for answer in own) else select.open_status(own)
        rows.append(TableRow(net, cells, status, {answer.origin: answer.as_json() for answer in own}))
    columns = {"net": "network", "published": "published",
               **origin_columns(found, "_training", " training error"), **origin_columns(found, "", " test error"),
               **origin_columns(found, "_averaged", " test error, averaged BN"),
               "second_reference": "second references: test error [training error]",
               "parameters": "parameters, counted", "status": "status"}
    return Table("plain_nets", "Plain networks on CIFAR-10: published as curves only, error (%)", columns, rows, [
        f"reference and yours: errors {SEEDS}; training error: mean since the evaluation before",
        AVERAGED_NOTE, OTHERS_NOTE, *select.run_notes(answers.values())])


def cifar_cells(net: str, answers: Sequence[RunSelection]) -> dict[str, str]:
    """Of a network that we train, 'resnet-20': our errors, its parameters (option A, or plain), others' test errors."""
    if not answers:
        return {}
    others = []
    for source in paper.second_references()["sources"]:
        if errors := source["errors"].get(net):
            train = f" [{errors['train']:.2f}]" if "train" in errors else ""
            marks = "*" * source.get("best_on_test", False) + "+" * (not source.get("same_network", True))
            others.append(f"{errors['test']:.2f}{train}{marks} {source['key']}")
    if usual := paper.second_references()["usual"].get(net):
        others.append("usual " + (f"{usual[0]} to {usual[1]}" if len(usual) == 2 else f"about {usual[0]}"))
    cells = {"parameters": f"{golden_counts('cifar10')[int(net.rpartition('-')[2])].parameters['A']:,}",
             "second_reference": "; ".join(others) or "-"}
    for answer in answers:
        cells |= {answer.origin: answer.cell(), f"{answer.origin}_training": answer.cell("train_top1_error"),
                  f"{answer.origin}_averaged": averaged_error(answer)}
    return cells


def averaged_error(answer: RunSelection) -> str:
    """The test error with plainly averaged BN statistics; '-' unless every run that counts has it."""
    values = [(select.record(run).recomputed_batch_norm or {}).get(ERROR, math.nan) for run in answer.runs]
    return "-" if not values or any(map(math.isnan, values)) else str(Summary(tuple(values)))


# ---- ImageNet: Tables 2 to 5, from tests of finished runs


def imagenet_table(name: str, found: Sequence[RunSet]) -> Table:
    """Table 2, 3 or 4: validation error under the table's way of testing, with verdicts; 7 or 8, of detection: no runs.

    Choice: the verdict is that of the top-1 error, which every trained row has.
    """
    published = paper.published_table(name)
    printed, protocol = published.columns, select.TABLES.get(name)
    differences = {"difference" + f"_{column.key}" * (column != printed[0]): column.key for column in printed}
    answers = {row.key: select.answers_to(f"{name}/{row.key}", found) for row in published.rows}
    rows = []
    for row in published.rows:
        cells = published_cells(row, printed)
        for answer in answers[row.key]:
            cells |= {f"{answer.origin}_{column.key}": answer.cell(column.key) for column in printed}
        if answers[row.key] and row.layers is not None:  # a plain network has the count of option A
            cells["parameters"] = f"{golden_counts('imagenet')[row.layers].parameters[row.shortcut_option or 'A']:,}"
        if authors := [f"{one['top1_error']:.1f} / {one['top5_error']:.1f} ({one['protocol']})" for one in
                       reversed(paper.second_references()["authors_weights"]) if protocol and one["net"] == row.key]:
            cells["second_reference"] = "; ".join(authors)
        rows.append(judged_row(row, differences, answers[row.key], cells, (IMAGENET_STD, IMAGENET_STD)))
    columns = {"net": "network", "layers": "layers", **{one.key: f"published {one.title}" for one in printed}}
    for pool in reversed(found) if protocol else ():
        columns |= {f"{pool.origin}_{one.key}": f"{TITLES[pool.origin]} {one.title}" for one in printed}
    if protocol:
        columns |= {key: f"difference of {one.title.removesuffix(' (%)')}"
                    for key, one in zip(differences, printed, strict=True)}
    columns |= {"verdict": "verdict", **{key: title for key, title in (
        ("second_reference", "second references"), ("parameters", "parameters, counted"), ("note", "note"))
        if any(key in row.cells for row in rows)}}
    return paper_table(published, columns, rows, [
        f"reference and yours: ImageNet validation error, {PROTOCOL_LABELS[protocol]}, {SEEDS}",
        verdict_note(IMAGENET_STD, IMAGENET_STD) + "; of the top-1 error; Choice: the paper gives no spread",
        f"not evaluated: a finished run without this test (`repro eval ... protocol={protocol}`)",
        "second references: the authors' released weights, top-1 / top-5 error (%)",
        *select.run_notes(answers.values())] if protocol else ())


def table5(found: Sequence[RunSet]) -> Table:
    """Table 5: top-5 error of ensembles; ours is on validation, not the test server, so without a verdict."""
    published, wanted = paper.published_table(select.ENSEMBLE), paper.ensemble(select.ENSEMBLE)
    content = {pool.origin: read_object(pool.root / select.ENSEMBLE_FILE) for pool in reversed(found)}
    problems = {pool.origin: select.ensemble_problem(content[pool.origin], pool) for pool in found}
    rows = []
    for row in published.rows:
        cells, data, status = published_cells(row, published.columns), {"published": dict(row.values)}, PUBLISHED_ONLY
        if not row.published_only:
            counts = {origin: one for origin, one in content.items() if one and not problems[origin]}
            status = ("no verdict: validation, not the test server" if counts else
                      "not counted" if any(content.values()) else select.NOT_RUN)
            cells |= {f"{origin}_{key}": f"{one[f'val_{key}']:.2f}" if origin in counts else
                      "not counted" if one else select.NOT_RUN for origin, one in content.items()
                      for key in select.ERRORS}
            data |= counts
        rows.append(TableRow(row.key, cells, status, data))
    columns = {"net": "ensemble",
               **{column.key: f"published (test server) {column.title}" for column in published.columns},
               **{f"{origin}_{key}": f"{TITLES[origin]}, ImageNet validation, {title}" for origin in content
                  for key, title in (("top5_error", "top-5 error (%)"), ("top1_error", "top-1 error (%)"))},
               "status": "status"}
    members = ", ".join(f"{one.experiment}/seed{one.seed}" for one in wanted.members)
    return paper_table(published, columns, rows, [
        f"reference and yours: {PROTOCOL_LABELS[wanted.protocol]}, mean of the probabilities of {members} "
        f"(`repro ensemble {select.ENSEMBLE}`)",
        *(f"not counted ({origin}): {problem}" for origin, problem in problems.items() if problem)])


# ---- short runs and runs on synthetic images: labeled, and never the paper's schedule


def preset_table(name: str, found: Sequence[RunSet]) -> Table:
    """Training and test error of a preset's runs at their last iteration."""
    synthetic = select.split_name(name)[0] == select.SYNTHETIC
    preset = select.preset_of(select.SYNTHETIC if synthetic else select.SHORT, "table")
    schedule = select.schedule_text(preset)
    title = f"Short runs: {schedule}; not the paper's schedule. Plain and residual networks on CIFAR-10"
    if synthetic:
        title = f"{select.NOT_CIFAR}: plain and residual networks, {schedule}"
        found = [pool for pool in found if pool.origin == select.YOURS]  # none is ever committed
    answers = [answer for pool in reversed(found) for answer in select.preset_runs(pool, preset)]
    rows = []
    for answer in answers:
        cells = {"net": select.net_name(answer.experiment), "origin": answer.origin, "test": answer.cell()}
        if records := [select.record(run) for run in answer.runs]:
            seconds = sum(one.train_seconds + one.evaluation_seconds for one in records) / len(records)
            cells |= {"train": answer.cell("train_top1_error"), "averaged": averaged_error(answer),
                      "seconds": f"{seconds:.0f}"}
        rows.append(TableRow(f"{answer.experiment}/{answer.origin}", cells,
                             "short run" if records else answer.status, answer.as_json()))
    columns = {"net": "network", "origin": "origin", "train": "training error (%)", "test": "test error (%)",
               "averaged": "test error, averaged BN (%)", "seconds": "wall time (s)"}
    return Table(name, title, columns, rows, [
        "no number of the paper belongs beside these",
        f"they show {preset.shows}; they cannot show {preset.cannot_show}",
        f"errors {SEEDS}; training error: mean since the evaluation before; wall time: mean of the seeds",
        AVERAGED_NOTE, *select.run_notes([answers])])


# ---- multiply-adds


def table1(_: Sequence[RunSet]) -> Table:
    """Table 1: the multiply-adds that the paper prints beside those of golden_counts.yaml, whatever runs there are.

    Table 1 names no shortcut option. Choice: basic blocks are compared with option A, the one of Table 2 and at 34
    layers the only one that rounds to what Table 1 prints; bottlenecks are option B (Table 3). Plain nets count as A.
    """
    published = paper.published_table("table1")
    column, = published.columns
    rows = []
    for row in published.rows:
        printed, data = row.values[column.key], {"published": dict(row.values)}
        cells = published_cells(row, [column]) | {"blocks": ", ".join(map(str, row.blocks)) or "-"}
        if row.published_only or row.layers is None:
            rows.append(TableRow(row.key, cells, PUBLISHED_ONLY, data))
            continue
        option = "B" if row.block == "bottleneck" else "A"
        counted = round(golden_counts("imagenet")[row.layers].multiply_adds[option])
        found = count_verdict(counted, printed, column)
        cells |= {"shortcut": option if row.block else "plain", "counted": f"{counted / 1e9:.3f}e9",
                  "ratio": f"{counted / printed:.3f}"}
        rows.append(TableRow(row.key, cells, found, data | {"counted": counted}))
    columns = {"net": "network", "layers": "layers", "blocks": "blocks",
               "multiply_adds": "published multiply-adds (1e9)", "shortcut": "counted with option",
               "counted": "counted multiply-adds", "ratio": "counted / published", "verdict": "verdict", "note": "note"}
    return paper_table(published, columns, rows, [
        "counted: multiply-adds of convolutions and fully-connected layers for one 224x224 image, the stride of a "
        "bottleneck in its first 1x1 (golden_counts.yaml); agrees: rounded to the digits printed"])


def count_verdict(count: float, printed: float, column: Column) -> str:
    """Whether a count is the printed number in the digits of its column."""
    last_digit = column.unit / 10**column.decimals
    exact, expected = count / last_digit, round(printed / last_digit)
    if math.floor(exact + 0.5) == expected:
        return "agrees"
    return "agrees if cut, not rounded" if math.floor(exact) == expected else "differs"


BUILDERS: dict[str, Callable[[Sequence[RunSet]], Table]] = {
    "table1": table1, **{name: partial(imagenet_table, name) for name in select.TABLES}, select.ENSEMBLE: table5,
    "table6": table6, **{name: partial(imagenet_table, name) for name in ("table7", "table8")},
    "plain_nets": plain_nets,
    **{name: partial(preset_table, name) for name in ("short_cifar_plain_vs_res", "synthetic_demo")},
    "claims": claims_table,
}
