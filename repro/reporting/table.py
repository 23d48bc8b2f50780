"""What a table is made of: errors summed up and judged, texts with notes, as Markdown, CSV, JSON and LaTeX."""

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from repro.files import write_atomic

REPRODUCED, BETTER, WORSE = "reproduced", "better than published", "worse than published"
# How the status of a row begins that lacks runs, tests of them, or some of its seeds.
LACKING = ("not run", "incomplete", "stale", "partial", "not counted", "not evaluated")
FEW_RUNS = 3  # Choice: below this, the spread of our own runs is not a usable estimate
FEW_RUNS_STD = 0.25  # Choice: points of percent; within the std that others report (second_references.yaml)
# Choice: points; the same of ImageNet's validation error, over 50,000 images: a little more than the 0.12 that others
# report for five runs of ResNet-50 (arXiv 1706.02677, Table 1). The paper's own single runs are taken to scatter alike.
IMAGENET_STD = 0.15
WIDTH = 2.0  # Choice: in standard deviations of the difference; about 95 % of honest reruns fall inside
ROUNDING = 1e-9  # errors are multiples of 0.01 points; absorbs binary rounding at the boundary


@dataclass(frozen=True)
class Summary:
    """Errors of k seeds, in percent."""
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """The sample standard deviation (divisor k - 1); None of one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def spread(self, few_runs_std: float) -> float:
        """The std to reckon with: that of the seeds, of fewer than FEW_RUNS the one that is taken instead."""
        return few_runs_std if self.std is None or len(self.values) < FEW_RUNS else self.std

    def as_json(self) -> dict[str, int | float | None]:
        return {"k": len(self.values), "best": min(self.values), "mean": round(self.mean, 6),
                "std": None if self.std is None else round(self.std, 6)}

    def __str__(self) -> str:
        seeds = f", {len(self.values)} seeds" if len(self.values) > 1 else ""
        return best_and_spread(min(self.values), self.mean, self.std) + seeds


def best_and_spread(best: float, mean: float | None, std: float | None) -> str:
    """"best (mean +- std)" as Table 6 prints it; only the first number where there is no other."""
    return f"{best:.2f}" if mean is None or std is None else f"{best:.2f} ({mean:.2f} +- {std:.2f})"


def verdict(ours: Summary, published: float, published_std: float, few_runs_std: float) -> tuple[float, float, str]:
    """Our mean minus the published number, in points and in standard deviations, and what that amounts to."""
    # Reproduced: |difference| <= 2 sqrt(s^2 + published_std^2), s the spread of our runs. Too low is flagged as well.
    scale, difference = math.hypot(ours.spread(few_runs_std), published_std), ours.mean - published
    text = BETTER if difference < 0 else WORSE
    return difference, difference / scale, REPRODUCED if abs(difference) <= WIDTH * scale + ROUNDING else text


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
        worse = [row.key for row in self.rows if row.status.endswith(WORSE)]
        lacking = [f"{row.key}: {row.status}" for row in self.rows if row.status.startswith(LACKING)]
        return [f"{self.name}: {text}: {', '.join(rows)}"
                for text, rows in ((WORSE, worse), ("rows that lack runs", lacking)) if rows]

    def lines(self) -> list[list[str]]:
        """The cells, row by row, the titles first; the status stands where there is no verdict."""
        return [list(self.columns.values()), *(
            [row.cells.get(key, row.status if key in ("verdict", "status") else "-") for key in self.columns]
            for row in self.rows)]

    def as_json(self) -> dict[str, Any]:
        """Title, columns, rows and notes, with the numbers behind the cells under `data`."""
        rows = [{"key": row.key, "status": row.status, "cells": dict(zip(self.columns, line, strict=True)),
                 "data": dict(row.data)} for row, line in zip(self.rows, self.lines()[1:], strict=True)]
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
