"""All tables by name. Imports neither torch nor matplotlib."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from repro.paper import PLAIN_NETS, pick, published_table, reproduced_rows
from repro.paper import tables as published_tables
from repro.reporting.cifar_tables import plain_nets, table6
from repro.reporting.claims import claims_table
from repro.reporting.evaluations import TABLES
from repro.reporting.imagenet_tables import imagenet_table, number, table5
from repro.reporting.multiply_adds_table import table1
from repro.reporting.short_table import short_cifar_plain_vs_res, synthetic_demo
from repro.reporting.table import Table, TableRow, write
from repro.reporting.variants import SYNTHETIC, split_name

__all__ = ["Table", "TableRow", "build", "changed_files", "committed_names", "names", "write"]

BUILDERS: dict[str, Callable[[Path | None, Path], Table]] = {
    "table1": table1, **{name: partial(imagenet_table, name) for name in TABLES}, "table5": table5,
    "table6": table6, PLAIN_NETS: plain_nets, "short_cifar_plain_vs_res": short_cifar_plain_vs_res,
    "synthetic_demo": synthetic_demo, "claims": claims_table,
}


def names() -> list[str]:
    """Names of all tables: the paper's, then the project's own."""
    return [*published_tables(), *(name for name in BUILDERS if name not in published_tables())]


def committed_names() -> list[str]:
    """Names of the tables that stand beside the committed runs: all but those of synthetic images."""
    return [name for name in names() if split_name(name)[0] != SYNTHETIC]


def build(name: str, results: Path | None, reference: Path) -> Table:
    """Build a table from the runs below `results`/runs (None: leave yours out) and `reference`/runs.

    Raises ConfigError for an unknown name. A run that does not count is a note, never an error.
    """
    pick(name, {known: known for known in names()}, "table")
    return BUILDERS[name](results, reference) if name in BUILDERS else published_table_only(name)


def changed_files(names: Iterable[str], reference: Path) -> list[str]:
    """Names of the files of committed tables that are not there or not what the committed runs give."""
    found = []
    for name in names:
        for suffix, text in build(name, None, reference).forms().items():
            path = reference / "tables" / f"{name}.{suffix}"
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                found.append(path.name)
    return found


def published_table_only(name: str) -> Table:
    """A table that the project has no runs for yet: the published numbers and what is not run."""
    published = published_table(name)
    experiments = reproduced_rows()
    rows = []
    for row in published.rows:
        status = "published only" if row.published_only or f"{name}/{row.key}" in experiments else "not run"
        cells = {column.key: number(row, column) for column in published.columns}
        cells |= {"label": row.label, "layers": str(row.layers or "-"), "note": row.note or "-", "status": status}
        rows.append(TableRow(row.key, cells, status, None, {"published": row.values}))
    columns = {"label": "network", "layers": "layers",
               **{column.key: f"published {column.title}" for column in published.columns}}
    if any(row.note for row in published.rows):
        columns["note"] = "note"
    title = f"Table {name.removeprefix('table')} (p. {published.page}): {published.title}"
    notes = (f"{published.dataset}, split: {published.split}, protocol: {published.protocol}", *published.notes,
             "not run: no experiment for this row yet; published only: context, not trained by the project")
    return Table(name, title, columns | {"status": "status"}, tuple(rows), notes)
