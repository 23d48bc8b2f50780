"""The CSV files of a record that comes from elsewhere: lines of numbers and names, and nothing else."""

import math
import re
from collections.abc import Sequence
from typing import Any

from repro.records.finding import Refused, told
from repro.records.reading import text_of

NUMBER = re.compile(r"-?\d{1,400}(\.\d{1,400})?(e[+-]?\d{1,4})?", re.ASCII)
LONGEST_LINE = 1000  # characters


def rows_of(data: bytes, columns: Sequence[str], texts: Sequence[str] = (),
            whole: Sequence[str] = ("iteration",)) -> list[dict[str, Any]]:
    """The rows of a CSV with these columns: finite numbers, `whole` ones, and `texts`; Refused at the first other one.

    No quotes: no record has any.
    """
    text = text_of(data)
    if not text.endswith("\n"):
        raise Refused("its last line is torn")
    lines = text[:-1].split("\n")
    if max(map(len, lines)) > LONGEST_LINE:
        raise Refused(f"a line of more than {LONGEST_LINE} characters")
    if lines[0].split(",") != list(columns):
        raise Refused(f"its first line is {told(lines[0])}, not {','.join(columns)}")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        cells = line.split(",")
        if len(cells) != len(columns):
            raise Refused(f"line {number} has {len(cells)} cells, not {len(columns)}")
        rows.append({name: cell if name in texts else number_of(cell, name in whole, f"line {number}: {name}")
                     for name, cell in zip(columns, cells, strict=True)})
    if not rows:
        raise Refused("no line below the first")
    return rows


def number_of(cell: str, whole: bool, where: str) -> float | int:
    """A cell as a finite number, as Python writes it; Refused otherwise."""
    if whole:
        if not re.fullmatch(r"[0-9]{1,12}", cell):
            raise Refused(f"{where} {told(cell)} is no whole number")
        return int(cell)
    value = float(cell) if NUMBER.fullmatch(cell) else math.nan
    if not math.isfinite(value):
        raise Refused(f"{where} {told(cell)} is no finite number")
    return value
