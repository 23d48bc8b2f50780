"""A table of texts with its notes, as Markdown, CSV, JSON and LaTeX."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from repro.files import write_atomic
from repro.reporting.statistics import WORSE

# How the status of a row begins that lacks runs, tests of them, or some of its seeds.
LACKING = ("not run", "incomplete", "stale", "partial", "not counted", "not evaluated")


@dataclass(frozen=True)
class TableRow:
    """One row: its cells by column key, its status (a verdict, or why there is none), and numbers for JSON."""

    key: str
    cells: Mapping[str, str]
    status: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A finished table. `columns` maps column keys to their titles, in order."""

    name: str
    title: str
    columns: Mapping[str, str]
    rows: Sequence[TableRow]
    notes: Sequence[str] = ()

    @property
    def problems(self) -> list[str]:
        """What --strict objects to, a line each: rows that are worse than published, and rows that lack runs."""
        found = {"worse than published": [row.key for row in self.rows if row.status.endswith(WORSE)],
                 "rows that lack runs": [f"{row.key}: {row.status}" for row in self.rows
                                         if row.status.startswith(LACKING)]}
        return [f"{self.name}: {text}: {', '.join(rows)}" for text, rows in found.items() if rows]

    def cells(self, row: TableRow) -> dict[str, str]:
        """A row's text for each column; the status stands where there is no verdict."""
        return {key: row.cells.get(key, row.status if key in ("verdict", "status") else "-") for key in self.columns}

    def lines(self) -> list[list[str]]:
        """The cells, row by row, the titles first."""
        return [list(self.columns.values()), *(list(self.cells(row).values()) for row in self.rows)]

    def as_json(self) -> dict[str, Any]:
        """Title, columns, rows and notes, with the numbers behind the cells under `data`."""
        rows = [{"key": row.key, "status": row.status, "cells": self.cells(row), "data": dict(row.data)}
                for row in self.rows]
        return {"name": self.name, "title": self.title, "columns": dict(self.columns), "rows": rows,
                "notes": list(self.notes)}

    @property
    def forms(self) -> dict[str, str]:
        """{suffix of the file: its text}; LaTeX is a tabular to be read by \\input, with booktabs."""
        cells = [[cell.replace("|", r"\|") for cell in line] for line in self.lines()]
        parts = [f"# {self.title}", tabulate(cells, headers="firstrow", tablefmt="github", disable_numparse=True),
                 "\n".join(f"- {note}" for note in self.notes)]
        comma_separated = io.StringIO()
        csv.writer(comma_separated, lineterminator="\n").writerows(self.lines())
        latex = tabulate(self.lines(), headers="firstrow", tablefmt="latex_booktabs", disable_numparse=True)
        return {"md": "\n\n".join(filter(None, parts)) + "\n", "csv": comma_separated.getvalue(),
                "json": json.dumps(self.as_json(), indent=2, ensure_ascii=False) + "\n",
                "tex": "".join(f"% {one}\n" for one in (self.title, *self.notes)) + latex + "\n"}


def write(table: Table, folder: Path) -> list[Path]:
    """Write name.md, .csv, .json and .tex atomically; returns their paths. StorageError if it can't."""
    paths = {folder / f"{table.name}.{suffix}": text for suffix, text in table.forms.items()}
    for path, text in paths.items():
        write_atomic(path, text)
    return list(paths)
