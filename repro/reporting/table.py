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
    """One row: its cells by column key, its status, and the numbers behind it for JSON."""

    key: str
    cells: Mapping[str, str]
    status: str
    verdict: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A finished table. `columns` maps column keys to their titles, in order; a missing cell is '-'."""

    name: str
    title: str
    columns: Mapping[str, str]
    rows: Sequence[TableRow]
    notes: Sequence[str] = ()

    @property
    def worse(self) -> list[str]:
        """Keys of the rows whose verdict is 'worse than published'."""
        return [row.key for row in self.rows if row.verdict == WORSE]

    @property
    def missing_rows(self) -> list[str]:
        """'key: status' of the rows without all the runs that they need."""
        return [f"{row.key}: {row.status}" for row in self.rows if row.status.startswith(LACKING)]

    def lines(self) -> list[list[str]]:
        """The cells in the order of the columns, row by row, the titles first."""
        return [list(self.columns.values()), *([row.cells.get(key, "-") for key in self.columns] for row in self.rows)]

    def markdown(self) -> str:
        """The table with its title and notes, its columns aligned."""
        lines = [[cell.replace("|", r"\|") for cell in line] for line in self.lines()]
        body = tabulate(lines, headers="firstrow", tablefmt="github", disable_numparse=True)
        parts = [f"# {self.title}", body, "\n".join(f"- {note}" for note in self.notes)]
        return "\n\n".join(filter(None, parts)) + "\n"

    def csv(self) -> str:
        """The cells with one line of titles, comma-separated."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self.lines())
        return text.getvalue()

    def json(self) -> str:
        """Title, notes, columns and rows, with the numbers behind the cells under `data`."""
        rows = [{"key": row.key, "status": row.status, "verdict": row.verdict,
                 "cells": {key: row.cells.get(key, "-") for key in self.columns}, "data": dict(row.data)}
                for row in self.rows]
        content = {"name": self.name, "title": self.title, "columns": dict(self.columns), "rows": rows,
                   "notes": list(self.notes)}
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def latex(self) -> str:
        """A tabular, to be read by \\input into a table of yours; needs booktabs. Title and notes are comments."""
        comments = "".join(f"% {one}\n" for one in (self.title, *self.notes))
        return comments + tabulate(self.lines(), headers="firstrow", tablefmt="latex_booktabs",
                                   disable_numparse=True) + "\n"

    @property
    def forms(self) -> dict[str, str]:
        """{suffix of the file: its text} of every form in which a table is written."""
        return {"md": self.markdown(), "csv": self.csv(), "json": self.json(), "tex": self.latex()}


def write(table: Table, folder: Path) -> list[Path]:
    """Write name.md, .csv, .json and .tex atomically; returns their paths. StorageError if it can't."""
    paths = {folder / f"{table.name}.{suffix}": text for suffix, text in table.forms.items()}
    for path, text in paths.items():
        write_atomic(path, text)
    return list(paths)
