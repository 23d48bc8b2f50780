"""All tables by name: one function for each kind. Imports neither torch nor matplotlib.

A builder takes the runs of each origin (`select.pools`). Yours are judged where a run of yours counts, else the
reference.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from functools import partial
from pathlib import Path
from typing import Any

from repro.paper import (
    PLAIN_NETS,
    PROTOCOL_LABELS,
    Column,
    PublishedRow,
    PublishedTable,
    ensemble,
    golden_count,
    golden_counts,
    pick,
    published_figure,
    published_table,
    reproduced_rows,
    second_references,
)
from repro.reporting import select
from repro.reporting.claims import claims_table
from repro.reporting.select import RunSelection, RunSet
from repro.reporting.statistics import FEW_RUNS, FEW_RUNS_STD, IMAGENET_STD, WIDTH, Summary, spread, verdict
from repro.reporting.table import Table, TableRow

ERROR = "test_top1_error"
TITLES = {select.REFERENCE: "reference (committed)", select.YOURS: "yours"}
PUBLISHED_ONLY = "published only"
NO_VERDICT = "no verdict: validation, not the test server"
AVERAGED = "test error, averaged BN"
# Table 1 names no shortcut option. Choice: basic blocks are compared with option A, the one of Table 2 and at 34 layers
# the only one that rounds to what Table 1 prints; bottleneck networks are option B (Table 3).
OPTIONS = {"basic": "A", "bottleneck": "B", None: "A"}  # a plain network has the counts of option A
AGREES, CUT, DIFFERS = "agrees", "agrees if cut, not rounded", "differs"
COUNT_VERDICT = (f"verdict: {AGREES}: rounded to the digits that the paper prints, the count is what it prints; {CUT}: "
                 "it is what remains when its further digits are left out")
CONVOLUTIONS_ONLY = ("vgg-16",)  # Sec. 3.3: its number leaves the fully-connected layers out, that of VGG-19 does not
SIZES = {"cifar10": "32x32", "imagenet": "224x224"}
COMPARED = (("cifar_plain56", "cifar_plain20"), ("cifar_plain56", "cifar_resnet56"))  # training errors of short runs
STRIDES = {"first_1x1": "first 1x1", "conv3x3": "3x3 (v1.5)", None: "-"}


def names() -> list[str]:
    """Names of all tables: the paper's, then the project's own."""
    return list(BUILDERS)


def committed_names() -> list[str]:
    """Names of the tables that stand beside the committed runs: all but those of synthetic images."""
    return [name for name in BUILDERS if select.split_name(name)[0] != select.SYNTHETIC]


def build(name: str, found: Sequence[RunSet]) -> Table:
    """Build a table. ConfigError for an unknown name; a run that does not count is a note, never an error."""
    return pick(name, BUILDERS, "table")(found)


def changed_files(tables: Iterable[str], reference: Path) -> list[str]:
    """Names of the files of committed tables that are not there or not what the committed runs give."""
    found = select.pools(None, reference)
    texts = {reference / "tables" / f"{name}.{suffix}": text for name in tables
             for suffix, text in build(name, found).forms.items()}
    return [path.name for path, text in texts.items()
            if not path.is_file() or path.read_text(encoding="utf-8") != text]


# ---- what several tables show


def origin_columns(found: Sequence[RunSet], key: str = "", title: str = "") -> dict[str, str]:
    """A column for each origin: reference, then yours where a results folder was given."""
    return {pool.origin + key: TITLES[pool.origin] + title for pool in reversed(found)}


def heading(table: PublishedTable) -> str:
    """Number, page and title of a table of the paper."""
    return f"Table {table.name.removeprefix('table')} (p. {table.page}): {table.title}"


def protocol_of(table: PublishedTable) -> str:
    """On what and how a published table was measured."""
    return f"{table.dataset}, split: {table.split}, protocol: {table.protocol}"


def published_cells(row: PublishedRow, columns: Iterable[Column]) -> dict[str, str]:
    """What the paper prints of a row, with its decimals."""
    cells = {"net": row.label, "label": row.label, "layers": str(row.layers or "-")}
    if row.note:
        cells["note"] = row.note
    for column in columns:
        if column.key in row.values:
            decimals = column.decimals if row.decimals is None else row.decimals
            cells[column.key] = f"{row.values[column.key] / column.unit:.{decimals}f}"
    return cells


def open_row(key: str, cells: Mapping[str, str], status: str, data: Mapping[str, Any]) -> TableRow:
    """A row without a verdict, whose status stands there."""
    return TableRow(key, {**cells, "verdict": status, "status": status}, status, None, data)


def judged_row(row: PublishedRow, columns: Sequence[Column], answers: Sequence[RunSelection], cells: dict[str, str],
               data: dict[str, Any], spreads: tuple[float, float]) -> TableRow:
    """A row with its verdict on the first column; `spreads` are the stds of the paper's runs and of few of ours."""
    data |= {answer.origin: answer.as_json() for answer in answers}
    judged = next((answer for answer in answers if answer.count), None)
    if judged is None:
        return open_row(row.key, cells, PUBLISHED_ONLY if row.published_only else select.open_status(answers), data)
    for column in columns:
        if column.key in row.values:
            difference = judged.summary(column.key).mean - row.compared(column.key)
            cells[difference_key(column, columns)] = f"{difference:+.2f} ({judged.origin})"
    first = columns[0].key
    found = verdict(judged.summary(first), row.compared(first), *spreads)
    status, text = found.text, f"{found.text} ({judged.origin}, z = {found.z:+.2f})"
    if judged.count < (row.runs or 1):
        status = f"partial {judged.count}/{row.runs}"
        text = f"{status}: {text}"
    data |= {"judged": judged.origin, "difference": round(found.difference, 6), "z": round(found.z, 6)}
    return TableRow(row.key, cells | {"verdict": text}, status, found.text, data)


def difference_key(column: Column, columns: Sequence[Column]) -> str:
    """The column of our differences from a published column; that of the first has the verdict."""
    return "difference" if column == columns[0] else f"difference_{column.key}"


def averaged_error(answer: RunSelection) -> str:
    """The test error with plainly averaged BN statistics; '-' unless every run that counts has it."""
    errors = [(select.record(run).recomputed_batch_norm or {}).get(select.error_key(run)) for run in answer.runs]
    values = tuple(float(error) for error in errors if error is not None)
    return str(Summary(values)) if values and len(values) == len(errors) else "-"


def averaged_notes(answers: Iterable[RunSelection]) -> list[str]:
    """One line that says what averaged BN statistics are, where a run has them."""
    found = [select.record(run).recomputed_batch_norm or {} for answer in answers for run in answer.runs]
    counts = " or ".join(f"{count:,}" for count in sorted({one["images"] for one in found if "images" in one}))
    return [f"{AVERAGED}: an extra beside the result, which uses moving averages: BN statistics are plain averages "
            f"over {counts} training images after the last iteration (authors' README)"] if counts else []


def excluded_notes(answers: Iterable[RunSelection]) -> list[str]:
    """One line for each run that does not count."""
    return [note for answer in answers for note in answer.notes()]


# ---- CIFAR-10: Table 6 and the plain networks, which the paper publishes as curves only


def table6(found: Sequence[RunSet]) -> Table:
    """Table 6: CIFAR-10 test error of the ResNets, with verdicts."""
    published = published_table("table6")
    # The spread that the paper gives for its own runs: that of the row with a number of runs (ResNet-110).
    s_ref = next(row.std for row in published.rows if row.runs and row.std is not None)
    rows, answers = [], []
    for row in published.rows:
        own = select.answers_to(f"table6/{row.key}", found)
        cells = published_cells(row, ()) | {"published": spread(row.values[ERROR], row.mean, row.std),
                                            "published_parameters": row.parameters or "-"}
        data = {"published": {ERROR: row.values[ERROR], "mean": row.mean, "std": row.std, "runs": row.runs,
                              "parameters": row.parameters}}
        if own:
            cells |= cifar_cells(row.key, own)
        rows.append(judged_row(row, published.columns, own, cells, data, (s_ref, FEW_RUNS_STD)))
        answers += own
    columns = {"net": "network", "layers": "layers", "published": "published (Table 6)", **origin_columns(found),
               **origin_columns(found, "_averaged", ", averaged BN"), "difference": "difference", "verdict": "verdict",
               "second_reference": "second references", "published_parameters": "parameters, published",
               "parameters": "parameters, counted"}
    return Table("table6", f"{heading(published)}, {published.metric}", columns, rows, [
        f"published: {published.dataset} {published.split}, {published.protocol}; {'; '.join(published.notes)}",
        "reference and yours: test error after the last iteration of the paper's schedule, "
        "best (mean +- sample std) of k seeds; one value for one seed",
        "verdict: yours where you have runs that count, else the reference; mean of k seeds minus the published number "
        f"(its mean where one is given); reproduced if |difference| <= {WIDTH:g} sqrt(s^2 + s_ref^2) with s the sample "
        f"std of the runs ({FEW_RUNS_STD} if k < {FEW_RUNS}) and s_ref = {s_ref}",
        "partial: fewer seeds than the published number has", *cifar_notes(rows, answers)])


def plain_nets(found: Sequence[RunSet]) -> Table:
    """The plain CIFAR-10 networks: no number, so no verdict."""
    rows, answers = [], []
    bounds = {fact.net: f"stays above {fact.above:g} %, {fact.text}"
              for fact in reversed(published_figure("figure6").facts) if fact.above is not None}
    for name in reproduced_rows():
        table, _, net = name.partition("/")
        if table == PLAIN_NETS:
            own = select.answers_to(name, found)
            cells = {"net": net, "published": bounds.get(net, "curve only (Fig. 6)")} | cifar_cells(net, own)
            status = "published as curves only" if any(answer.count for answer in own) else select.open_status(own)
            rows.append(open_row(net, cells, status, {answer.origin: answer.as_json() for answer in own}))
            answers += own
    columns = {"net": "network", "published": "published",
               **origin_columns(found, "_training_error", " training error"),
               **origin_columns(found, "_test_error", " test error"),
               **origin_columns(found, "_test_error_averaged", " test error, averaged BN"),
               "second_reference": "second references: test error [training error]",
               "parameters": "parameters, counted", "status": "status"}
    return Table(PLAIN_NETS, "Plain networks on CIFAR-10: published as curves only, error (%)", columns, rows, [
        "published: the plain networks stand in no table; Figure 6 (left) draws their curves",
        "reference and yours: errors (%) after the last iteration of the paper's schedule, best (mean +- sample std) "
        "of k seeds; the training error is the mean over the augmented mini-batches since the previous evaluation",
        *cifar_notes(rows, answers)])


def cifar_cells(net: str, answers: Sequence[RunSelection]) -> dict[str, str]:
    """Our errors of 'resnet-20', the exact parameter count of option A or plain, and what others measured.

    Others' test errors stand with their source, `*` best epoch on test, `+` another network, [training error].
    """
    others = []
    for source in second_references().sources:
        if errors := source.errors.get(net):
            train = "" if errors.train is None else f" [{errors.train:.2f}]"
            marks = "*" * source.best_on_test + "+" * (not source.same_network)
            others.append(f"{errors.test:.2f}{train}{marks} {source.key}")
    if usual := second_references().usual.get(net):
        others.append("usual " + (f"{usual[0]} to {usual[1]}" if len(usual) == 2 else f"about {usual[0]}"))
    cells = {"parameters": f"{golden_count('cifar10', int(net.rpartition('-')[2])).parameters['A']:,}",
             "second_reference": "; ".join(others) or "-"}
    for answer in answers:  # the first two for Table 6, the others for the plain networks
        test, averaged, origin = answer.cell(), averaged_error(answer), answer.origin
        cells |= {origin: test, f"{origin}_averaged": averaged, f"{origin}_test_error": test,
                  f"{origin}_test_error_averaged": averaged,
                  f"{origin}_training_error": answer.cell("train_top1_error")}
    return cells


def cifar_notes(rows: Iterable[TableRow], answers: Sequence[RunSelection]) -> list[str]:
    """Whose runs stand in a table, what their extras are, who the second references are, and what does not count."""
    nets = {row.key for row in rows}
    used = [source for source in second_references().sources if nets & source.errors.keys()]
    listed = "; ".join(f"{source.key} = {source.repository} ({source.protocol})" for source in used)
    star = " * = best epoch on the test set." if any(source.best_on_test for source in used) else ""
    plus = " + = another network." if not all(source.same_network for source in used) else ""
    best = [f"{run.name} ({answer.origin}) {found[ERROR]:.2f} at iteration {found.get('iteration', '?')}"
            for answer in answers for run in answer.runs if ERROR in (found := select.record(run).best_on_test or {})]
    extra = f"extra, not a result (the best evaluation is chosen on the test set): {'; '.join(best)}"
    return [*averaged_notes(answers), *select.machine_notes(answers), *([extra] if best else []),
            f"second references: {listed}.{star}{plus}", *excluded_notes(answers)]


# ---- ImageNet: Tables 2 to 5, from tests of finished runs


def imagenet_table(name: str, found: Sequence[RunSet]) -> Table:
    """Table 2, 3 or 4: validation error under the table's way of testing, with verdicts.

    Choice: the verdict is that of the top-1 error, which every trained row has.
    """
    published, protocol = published_table(name), select.TABLES[name]
    printed, way = published.columns, PROTOCOL_LABELS[protocol]
    rows: list[TableRow] = []
    answers: list[RunSelection] = []
    for row in published.rows:
        own = select.answers_to(f"{name}/{row.key}", found)
        answers += own
        cells = published_cells(row, printed)
        for answer in own:
            cells |= {f"{answer.origin}_{column.key}": answer.cell(column.key) for column in printed}
        if own and row.layers is not None:  # a plain network has the count of option A
            cells["parameters"] = f"{golden_count('imagenet', row.layers).parameters[row.shortcut_option or 'A']:,}"
        authors = [f"{one.top1_error:.1f} / {one.top5_error:.1f} ({one.protocol})"
                   for one in reversed(second_references().authors_weights) if one.net == row.key]
        if authors:
            cells["second_reference"] = "; ".join(authors)
        rows.append(judged_row(row, printed, own, cells, {"published": dict(row.values)},
                               (IMAGENET_STD, IMAGENET_STD)))
    columns = {"net": "network", "layers": "layers",
               **{column.key: f"published {column.title}" for column in printed},
               **{f"{pool.origin}_{column.key}": f"{TITLES[pool.origin]} {column.title}" for pool in reversed(found)
                  for column in printed},
               **{difference_key(column, printed): f"difference of {column.title.removesuffix(' (%)')}"
                  for column in printed},
               "verdict": "verdict", "second_reference": "second references", "parameters": "parameters, counted",
               "note": "note"}
    for key in ("second_reference", "note"):
        if not any(key in row.cells for row in rows):
            del columns[key]
    definitions = dict.fromkeys(f"{way}: {content.get('definition')}"
                                for answer in answers for _, content in answer.tests)
    return Table(name, heading(published), columns, rows, [
        f"published: {protocol_of(published)}", *published.notes,
        f"reference and yours: ImageNet validation error, {way}, of the weights after the last iteration (`repro eval "
        f"experiment=NAME protocol={protocol}`), best (mean +- sample std) of k seeds; one value for one seed; the "
        "error of the center crop stands in the run's record and in Figure 4",
        *definitions,
        "verdict: of the top-1 error; yours where you have a test that counts, else the reference; mean of k seeds "
        f"minus the published number; reproduced if |difference| <= {WIDTH:g} sqrt(s^2 + s_ref^2) with s the sample "
        f"std of the runs ({IMAGENET_STD} if k < {FEW_RUNS}) and s_ref = {IMAGENET_STD}; Choice: both, as the paper "
        "gives no spread (others report 0.12 for ResNet-50, arXiv 1706.02677)",
        "not run: no finished run; not evaluated: a finished run without this test; published only: context, not "
        "trained by the project",
        *select.machine_notes(answers),
        *(["second references: the authors' released weights, top-1 / top-5 error (%) on ImageNet validation "
           "(their repository's README)"] if "second_reference" in columns else []),
        *excluded_notes(answers)])


def table5(found: Sequence[RunSet]) -> Table:
    """Table 5: top-5 error of ensembles; ours is on validation, not the test server, so without a verdict."""
    published, wanted = published_table(select.ENSEMBLE), ensemble(select.ENSEMBLE)
    content = {pool.origin: select.read_ensemble(pool.root) for pool in reversed(found)}
    problems = {pool.origin: select.ensemble_problem(content[pool.origin], pool) for pool in found}
    rows = []
    for row in published.rows:
        cells, data, status = published_cells(row, published.columns), {"published": dict(row.values)}, PUBLISHED_ONLY
        if f"{select.ENSEMBLE}/{row.key}" == wanted.reproduces:
            status = "not counted" if any(content.values()) else select.NOT_RUN
            for origin, one in content.items():
                if one and problems[origin] is None:
                    cells |= {f"{origin}_{key}": f"{one[f'val_{key}']:.2f}" for key in select.ERRORS}
                    data, status = data | {origin: one}, NO_VERDICT
                else:
                    cells |= dict.fromkeys((f"{origin}_{key}" for key in select.ERRORS),
                                           "not counted" if one else select.NOT_RUN)
        rows.append(open_row(row.key, cells, status, data))
    columns = {"net": "ensemble",
               **{column.key: f"published (test server) {column.title}" for column in published.columns},
               **{f"{origin}_{key}": f"{TITLES[origin]}, ImageNet validation, {title}" for origin in content
                  for key, title in (("top5_error", "top-5 error (%)"), ("top1_error", "top-1 error (%)"))},
               "status": "status"}
    members = ", ".join(f"{one.experiment}/seed{one.seed}" for one in wanted.members)
    return Table(select.ENSEMBLE, heading(published), columns, rows, [
        f"published: {protocol_of(published)}", *published.notes,
        "reference and yours: ImageNet validation (its labels are public, those of the test server are not), mean of "
        f"the class probabilities of {members} under {PROTOCOL_LABELS[wanted.protocol]} testing (`repro ensemble "
        f"{select.ENSEMBLE}`); another set of images than the published number's, so no verdict",
        *(f"not counted ({origin}): {problem}" for origin, problem in problems.items() if problem)])


# ---- short runs and runs on synthetic images: labeled, and never the paper's schedule


def preset_table(name: str, found: Sequence[RunSet]) -> Table:
    """Training and test error of a preset's runs at their last iteration."""
    synthetic = select.split_name(name)[0] == select.SYNTHETIC
    preset = select.preset_of(select.SYNTHETIC if synthetic else select.SHORT, "table")
    schedule = select.schedule_text(preset)
    if synthetic:
        title = f"{select.NOT_CIFAR}: plain and residual networks, {schedule}"
        head = f"{select.NOT_CIFAR}: a demonstration; no number of the paper belongs beside these"
        found = [pool for pool in found if pool.origin == select.YOURS]  # none is ever committed
    else:
        title = f"Short runs: {schedule}; not the paper's schedule. Plain and residual networks on CIFAR-10"
        head = f"Short runs: {schedule}: not the paper's schedule; no number of the paper belongs beside them"
    notes: list[str] = []
    answers: list[RunSelection] = []
    for pool in reversed(found):
        precision, own = select.short_runs(pool, preset)
        answers += own
        errors = {answer.experiment: answer.summary("train_top1_error").mean for answer in own if answer.runs}
        shown = [f"{select.net_name(one)} minus {select.net_name(other)} {errors[one] - errors[other]:+.2f}"
                 for one, other in COMPARED if one in errors and other in errors]
        notes += [f"{pool.origin}: measured training errors, points: {'; '.join(shown)}"] if shown else []
        if precision is not None:
            notes.append(f"{pool.origin}: runs in {precision} (all of one origin are in one precision)")
    short, full, _ = select.lengths(preset)
    columns = {"net": "network", "origin": "origin", "train": "training error (%)", "test": "test error (%)",
               "averaged": f"{AVERAGED} (%)", "iterations": "iterations", "precision": "precision", "device": "device",
               "seconds": "wall time (s)"}
    return Table(name, title, columns, [short_row(answer, f"{short} of {full}") for answer in answers], [
        head, f"{'it' if synthetic else 'so short a run'} shows {preset.shows}",
        f"it cannot show {preset.cannot_show}",
        "errors after the last iteration; training error: mean over the augmented mini-batches since the previous "
        "evaluation; wall time: training and evaluation of one run (of several seeds: their mean)",
        *notes, *averaged_notes(answers), *select.machine_notes(answers), *excluded_notes(answers)])


def short_row(answer: RunSelection, iterations: str) -> TableRow:
    """One network from one origin."""
    key = f"{answer.experiment}/{answer.origin}"
    cells = {"net": select.net_name(answer.experiment), "origin": answer.origin, "iterations": iterations}
    if not answer.runs:
        return TableRow(key, cells | {"test": answer.status}, answer.status)
    records = [select.record(run) for run in answer.runs]
    seconds = Summary(tuple(one.train_seconds + one.evaluation_seconds for one in records))
    cells |= {"train": answer.cell("train_top1_error"), "test": answer.cell(), "averaged": averaged_error(answer),
              "precision": select.precision(answer.runs[0]), "seconds": f"{seconds.mean:.0f}",
              "device": ", ".join(sorted({select.device(run) for run in answer.runs}))}
    return TableRow(key, cells, "short run", None, answer.as_json())


# ---- layers, parameters and multiply-adds, and tables of numbers that are context only


def table1(_: Sequence[RunSet]) -> Table:
    """Table 1: the multiply-adds that the paper prints beside those of golden_counts.yaml, whatever runs there are."""
    published = published_table("table1")
    column, = published.columns
    rows = []
    for row in published.rows:
        printed, data = row.values[column.key], {"published": dict(row.values)}
        cells = published_cells(row, [column]) | {"blocks": ", ".join(map(str, row.blocks)) or "-"}
        if row.published_only or row.layers is None:
            rows.append(open_row(row.key, cells, PUBLISHED_ONLY, data))
            continue
        golden, option = golden_count("imagenet", row.layers), OPTIONS[row.block]
        counted = round(golden.multiply_adds[option])
        others = {f"option {name}": count for name, count in golden.multiply_adds.items() if name != option}
        if golden.multiply_adds_stride_in_3x3 is not None:
            others["stride in the 3x3 (v1.5)"] = golden.multiply_adds_stride_in_3x3
        found = count_verdict(counted, printed, column)
        cells |= {"shortcut": option if row.block else "plain", "counted": shorten(counted),
                  "ratio": f"{counted / printed:.3f}", "verdict": found}
        if row.block and others:
            cells["others"] = "; ".join(f"{name} {shorten(count)} ({count_verdict(round(count), printed, column)})"
                                        for name, count in others.items())
        rows.append(TableRow(row.key, cells, found, found, data | {"counted": counted, "shortcut_option": option}))
    columns = {"net": "network", "layers": "layers", "blocks": "blocks",
               "multiply_adds": "published multiply-adds (1e9)", "shortcut": "counted with option",
               "counted": "counted multiply-adds", "ratio": "counted / published", "verdict": "verdict",
               "others": "other counts", "note": "note"}
    return Table("table1", heading(published), columns, rows, [
        protocol_of(published), *published.notes,
        "counted: multiply-adds of convolutions (projections included) and of the fully-connected layer for one "
        "224x224 image, from experiments/published/golden_counts.yaml; `repro complexity` counts them anew on the "
        "networks, with VGG, and `repro complexity --check` compares",
        COUNT_VERDICT,
        "Choice: basic blocks are compared with option A (Table 2), bottlenecks with option B (Table 3) and the stride "
        "in their first 1x1; Table 1 names no option",
        "published only: context, not trained by the project"])


def context_table(name: str, _: Sequence[RunSet]) -> Table:
    """A table that the project has no runs for: the published numbers and what is not run."""
    published = published_table(name)
    rows = [open_row(row.key, published_cells(row, published.columns),
                     PUBLISHED_ONLY if row.published_only else select.NOT_RUN, {"published": row.values})
            for row in published.rows]
    columns = {"label": "network", "layers": "layers",
               **{column.key: f"published {column.title}" for column in published.columns},
               **({"note": "note"} if any(row.note for row in published.rows) else {}), "status": "status"}
    return Table(name, heading(published), columns, rows, [
        protocol_of(published), *published.notes,
        "not run: no experiment for this row yet; published only: context, not trained by the project"])


@dataclass(frozen=True)
class CountedNetwork:
    """One network as it was counted; multiply-adds are those of one image."""

    key: str  # as in experiments/published, "resnet-50"
    label: str
    dataset: str  # cifar10 or imagenet
    depth: int  # as in its name
    shortcut_option: str | None  # None: no shortcuts
    stride_in: str | None  # first_1x1 or conv3x3; None: no bottlenecks
    layers: int  # weighted ones, projections apart
    parameters: int
    convolution_multiply_adds: int
    fully_connected_multiply_adds: int

    @property
    def multiply_adds(self) -> int:
        """Convolutions, projections included, and fully-connected layers."""
        return self.convolution_multiply_adds + self.fully_connected_multiply_adds

    @property
    def row_key(self) -> str:
        """Another one for each network: 'imagenet/resnet-50-B-conv3x3'."""
        return "-".join([f"{self.dataset}/{self.key}", *filter(None, (self.shortcut_option, self.stride_in))])


def complexity_table(networks: Sequence[CountedNetwork]) -> Table:
    """Layers, parameters and multiply-adds of these networks, with a verdict wherever the paper prints a number."""
    published, wrong = published_table("table1"), count_differences(networks)
    columns = {"net": "network", "image": "image", "shortcut": "shortcut option", "stride": "stride in",
               "layers": "layers", "parameters": "parameters", "multiply_adds": "multiply-adds",
               "convolutions": "of these in convolutions", "published": "published", "ratio": "counted / published",
               "verdict": "verdict"}
    title = f"Layers, parameters and multiply-adds of the paper's networks, beside Table 1 (p. {published.page})"
    return Table("complexity", title, columns, [complexity_row(net, published) for net in networks], [
        "multiply-adds: those of convolutions (projections included) and fully-connected layers for one image, counted "
        "on the networks themselves; layers: convolutions and fully-connected layers, projections apart",
        COUNT_VERDICT,
        "VGG-16: the paper's number counts the convolutions only and is held against them; VGG-19's counts all layers",
        "stride in: where a bottleneck that halves the map has its stride 2. The first 1x1 is the authors' network; "
        "the 3x3 (v1.5) is what others mostly train, another network under the same name",
        "options B and C on CIFAR-10 are not in the paper",
        *([f"not as in golden_counts.yaml: {text}" for text in wrong]
          or ["what golden_counts.yaml holds of these networks agrees"])])


def complexity_row(net: CountedNetwork, published: PublishedTable) -> TableRow:
    """One network: its counts, and the published number where there is one."""
    cells = {"net": net.label, "image": SIZES[net.dataset], "shortcut": net.shortcut_option or "-",
             "stride": STRIDES[net.stride_in], "layers": f"{net.layers:,}",
             "parameters": f"{net.parameters:,}", "multiply_adds": shorten(net.multiply_adds),
             "convolutions": shorten(net.convolution_multiply_adds)}
    data, found, column = asdict(net) | {"multiply_adds": net.multiply_adds}, None, published.columns[0]
    printed = next((row for row in published.rows if (net.dataset, net.key) == ("imagenet", row.key)), None)
    if printed is not None:
        value = printed.values[column.key]
        compared = net.convolution_multiply_adds if net.key in CONVOLUTIONS_ONLY else net.multiply_adds
        found = count_verdict(compared, value, column)
        cells |= {"published": shorten(value, column.decimals), "ratio": f"{compared / value:.3f}", "verdict": found}
        data |= {"published": value, "compared": compared, "ratio": round(compared / value, 6)}
    return TableRow(net.row_key, cells, "counted", found, data)


def shorten(count: float, decimals: int = 3) -> str:
    """'3.858e9' for 3857973248, '40.551e6' for 40551040."""
    power = 9 if count >= 1e9 else 6
    return f"{count / 10**power:.{decimals}f}e{power}"


def count_verdict(count: int, printed: float, column: Column) -> str:
    """Whether a count is the printed number in the digits of its column."""
    digits = Decimal(1).scaleb(-column.decimals)
    in_units, expected = Decimal(count) / Decimal(column.unit), Decimal(printed) / Decimal(column.unit)
    for rounding, text in ((ROUND_HALF_UP, AGREES), (ROUND_DOWN, CUT)):
        if in_units.quantize(digits, rounding) == expected:
            return text
    return DIFFERS


def count_differences(networks: Iterable[CountedNetwork]) -> list[str]:
    """What differs from golden_counts.yaml, one text for each count; parameters exactly, the rest as printed there."""
    golden, wrong = golden_counts().by_depth(), []
    for net in networks:
        if (one := golden[net.dataset].get(net.depth)) is None:
            continue
        option = net.shortcut_option or "A"  # a plain network has the counts of option A
        adds = one.multiply_adds_stride_in_3x3 if net.stride_in == "conv3x3" else one.multiply_adds.get(option)
        exact = (("layers", net.layers, one.layers),
                 ("parameters", net.parameters, one.parameters.get(option, net.parameters)))
        wrong += [f"{net.row_key}: {found} {what} instead of {due}" for what, found, due in exact if found != due]
        if adds is not None and abs(net.multiply_adds - adds) > half_a_digit(adds):
            wrong.append(f"{net.row_key}: {net.multiply_adds} multiply-adds instead of {adds:g}")
    return wrong


def half_a_digit(printed: float) -> float:
    """Half a unit of the last digit that is not zero: 500000 for 3.858e9."""
    exponent = Decimal(str(printed)).normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    return 0.5 * 10.0**exponent


BUILDERS: dict[str, Callable[[Sequence[RunSet]], Table]] = {
    "table1": table1, **{name: partial(imagenet_table, name) for name in select.TABLES}, select.ENSEMBLE: table5,
    "table6": table6, **{name: partial(context_table, name) for name in ("table7", "table8")},
    PLAIN_NETS: plain_nets,
    **{name: partial(preset_table, name) for name in ("short_cifar_plain_vs_res", "synthetic_demo")},
    "claims": claims_table,
}
