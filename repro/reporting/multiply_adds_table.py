"""Table 1: the multiply-adds that the paper prints beside the counted ones of golden_counts.yaml."""

from pathlib import Path

from repro.paper import Column, GoldenCount, PublishedRow, golden_count, published_table
from repro.reporting.complexity_table import AGREES, CUT, shorten, verdict
from repro.reporting.table import Table, TableRow

NAME = "table1"
# Table 1 names no shortcut option. Choice: basic blocks are compared with option A, the one of Table 2 and at 34 layers
# the only one that rounds to what Table 1 prints; bottleneck networks are option B (Table 3).
OPTIONS = {"basic": "A", "bottleneck": "B", None: "A"}  # a plain network has the counts of option A
COLUMNS = {"net": "network", "layers": "layers", "blocks": "blocks", "multiply_adds": "published multiply-adds (1e9)",
           "shortcut": "counted with option", "counted": "counted multiply-adds", "ratio": "counted / published",
           "verdict": "verdict", "others": "other counts", "note": "note"}


def table1(results: Path | None, reference: Path) -> Table:
    """Table 1: a property of the networks, so the same for every results folder."""
    published = published_table(NAME)
    (column,) = published.columns
    rows = tuple(row_of(row, column) for row in published.rows)
    notes = (
        f"{published.dataset}, split: {published.split}, protocol: {published.protocol}", *published.notes,
        "counted: multiply-adds of convolutions (projections included) and of the fully-connected layer for one "
        "224x224 image, from experiments/published/golden_counts.yaml; `repro complexity` counts them anew on the "
        "networks, with VGG, and `repro complexity --check` compares",
        f"verdict: {AGREES}: rounded to the digits that the paper prints, the count is what it prints; {CUT}: it is "
        "what remains when its further digits are left out",
        "Choice: basic blocks are compared with option A (Table 2), bottlenecks with option B (Table 3) and the stride "
        "in their first 1x1; Table 1 names no option",
        "published only: context, not trained by the project")
    return Table(NAME, f"Table 1 (p. {published.page}): {published.title}", COLUMNS, rows, notes)


def row_of(row: PublishedRow, column: Column) -> TableRow:
    """One network: what is printed, what is counted, and whether the two agree."""
    printed = row.values[column.key]
    cells = {"net": row.label, "layers": str(row.layers), "blocks": ", ".join(map(str, row.blocks)) or "-",
             column.key: f"{printed / column.unit:.{column.decimals}f}"} | ({"note": row.note} if row.note else {})
    data = {"published": dict(row.values)}
    if row.published_only:
        return TableRow(row.key, cells | {"verdict": "published only"}, "published only", None, data)
    assert row.layers is not None
    golden, option = golden_count("imagenet", row.layers), OPTIONS[row.block]
    counted = round(golden.multiply_adds[option])
    found = verdict(counted, printed, column)
    cells |= {"shortcut": option if row.block else "plain", "counted": shorten(counted),
              "ratio": f"{counted / printed:.3f}", "verdict": found, "others": others(golden, option, printed, column)}
    return TableRow(row.key, cells if row.block else cells | {"others": "-"}, found, found,
                    {**data, "counted": counted, "shortcut_option": option})


def others(golden: GoldenCount, option: str, printed: float, column: Column) -> str:
    """The counts of the same depth with the other shortcut options and the other place of the stride."""
    named = {f"option {name}": count for name, count in golden.multiply_adds.items() if name != option}
    if golden.multiply_adds_stride_in_3x3 is not None:
        named["stride in the 3x3 (v1.5)"] = golden.multiply_adds_stride_in_3x3
    return "; ".join(f"{name} {shorten(count)} ({verdict(round(count), printed, column)})"
                     for name, count in named.items()) or "-"
