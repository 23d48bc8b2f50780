"""A table of texts with its origin notes, as Markdown, CSV, JSON and LaTeX."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.reporting.latex import latex
from repro.reporting.statistics import WORSE
from repro.runs import write_atomic

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
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def worse(self) -> list[str]:
        """Keys of the rows whose verdict is 'worse than published'."""
        return [row.key for row in self.rows if row.verdict == WORSE]

    @property
    def missing_rows(self) -> list[str]:
        """'key: status' of the rows without all the runs that they need."""
        return [f"{row.key}: {row.status}" for row in self.rows if row.status.startswith(LACKING)]

    @property
    def statuses(self) -> dict[str, str]:
        """{row key: reproduced, partial 2/5, stale, not run, ...}."""
        return {row.key: row.status for row in self.rows}

    def texts(self) -> list[list[str]]:
        """The cells, row by row, in the order of the columns."""
        return [[row.cells.get(key, "-") for key in self.columns] for row in self.rows]

    def markdown(self) -> str:
        """The table with its title and notes, its columns aligned."""
        lines = [[one_line(cell).replace("|", "\\|") for cell in line]
                 for line in ([*self.columns.values()], *self.texts())]
        widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(self.columns))]
        rule = ["-" * width for width in widths]
        body = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
                for line in (lines[0], rule, *lines[1:])]
        notes = ["", *(f"- {one_line(note)}" for note in self.notes)] if self.notes else []
        return "\n".join([f"# {self.title}", "", *body, *notes]) + "\n"

    def csv(self) -> str:
        """The cells with one line of titles, comma-separated."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns.values())
        writer.writerows([one_line(cell) for cell in line] for line in self.texts())
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
        """The table for a paper, with booktabs rules."""
        rows = [[one_line(cell) for cell in line] for line in self.texts()]
        return latex(self.name, self.title, list(self.columns.values()), rows,
                     tuple(one_line(note) for note in self.notes))

    def forms(self) -> dict[str, str]:
        """{suffix of the file: its text} of every form in which a table is written."""
        return {"md": self.markdown(), "csv": self.csv(), "json": self.json(), "tex": self.latex()}


def one_line(text: str) -> str:
    """Text without line breaks, so that no cell leaves its row."""
    return " ".join(text.split())


def write(table: Table, folder: Path) -> list[Path]:
    """Write name.md, .csv, .json and .tex atomically; returns their paths. StorageError if it can't."""
    written = []
    for suffix, text in table.forms().items():
        path = folder / f"{table.name}.{suffix}"
        write_atomic(path, text)
        written.append(path)
    return written
