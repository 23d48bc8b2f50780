"""A table of texts with its origin notes, as Markdown, CSV, JSON and LaTeX."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from repro.files import write_atomic
from repro.reporting.statistics import WORSE

# How the status of a row begins that lacks runs, tests of them, or some of its seeds.
LACKING = ("not run", "incomplete", "stale", "partial", "not counted", "not evaluated")
LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
         "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$", '"': "''",
         "+-": r"$\pm$", "<=": r"$\le$", ">=": r"$\ge$"}
FITTING, LONG = 5, 40  # columns that fit beside each other in LaTeX; characters of a cell that are not wrapped
NUMBER = re.compile(r"[+-]?[\d.,]+( \(.*\))?[*]?(, \d+ seeds)?|-")


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
        """The cells in the order of the columns, row by row, the titles first; none has a line break."""
        cells = [[row.cells.get(key, "-") for key in self.columns] for row in self.rows]
        return [list(self.columns.values()), *([one_line(cell) for cell in row] for row in cells)]

    def markdown(self) -> str:
        """The table with its title and notes, its columns aligned."""
        lines = [[cell.replace("|", "\\|") for cell in line] for line in self.lines()]
        widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
        lines.insert(1, ["-" * width for width in widths])
        body = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
        notes = ["", *(f"- {one_line(note)}" for note in self.notes)] if self.notes else []
        return "\n".join([f"# {self.title}", "", *body, *notes]) + "\n"

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
        """A table environment; needs booktabs and graphicx (and UTF-8 input, the default since 2018).

        Columns of numbers are set flush right, those of long texts are wrapped, and a wide table is scaled to the line.
        The notes stand below the table in footnote size.
        """
        titles, *rows = self.lines()
        formats = "".join(column_format([row[place] for row in rows]) for place in range(len(titles)))
        titles, *rows = ([escape(cell) for cell in line] for line in (titles, *rows))
        tabular = [rf"\begin{{tabular}}{{@{{}}{formats}@{{}}}}", r"\toprule", " & ".join(titles) + r" \\", r"\midrule",
                   *(" & ".join(row) + r" \\" for row in rows), r"\bottomrule", r"\end{tabular}"]
        if len(titles) > FITTING:
            tabular = [r"\resizebox{\linewidth}{!}{%", *tabular, "}"]
        lines = [f"% Made by `repro table {self.name}` from records; needs \\usepackage{{booktabs,graphicx}}.",
                 r"\begin{table}", r"\centering", rf"\caption{{{escape(self.title)}}}",
                 rf"\label{{tab:{self.name.replace('_', '-')}}}", *tabular]
        if self.notes:
            body = r" \\".join(f"\n{escape(one_line(note))}" for note in self.notes)
            lines += ["", r"\medskip", rf"\parbox{{\linewidth}}{{\footnotesize\raggedright{body}}}"]
        return "\n".join([*lines, r"\end{table}"]) + "\n"

    @cached_property
    def forms(self) -> dict[str, str]:
        """{suffix of the file: its text} of every form in which a table is written."""
        return {"md": self.markdown(), "csv": self.csv(), "json": self.json(), "tex": self.latex()}


def one_line(text: str) -> str:
    """Text without line breaks, so that no cell leaves its row."""
    return " ".join(text.split())


def escape(text: str) -> str:
    """Text with all that LaTeX reads as a command written out; +- and <= as signs; other characters as they are."""
    return re.sub(r"\+-|[<>]=|.", lambda found: LATEX.get(found[0], found[0]), text)


def column_format(cells: list[str]) -> str:
    """r for numbers, a wrapped column for long texts, else l."""
    if all(NUMBER.fullmatch(cell) for cell in cells):
        return "r"
    return r"p{5cm}" if max(map(len, cells)) > LONG else "l"


def write(table: Table, folder: Path) -> list[Path]:
    """Write name.md, .csv, .json and .tex atomically; returns their paths. StorageError if it can't."""
    paths = {folder / f"{table.name}.{suffix}": text for suffix, text in table.forms.items()}
    for path, text in paths.items():
        write_atomic(path, text)
    return list(paths)
