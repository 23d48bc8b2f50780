"""Draw the curves of two runs: training error dashed, test error bold."""

import io
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from repro.reporting.compare import figure_name, label
from repro.reporting.style import LINES, SETTINGS, literal
from repro.runs import Run, write_atomic

COLOURS = (("#004488", "D"), ("#DDAA33", "o"))


def draw_two(first: Run, second: Run, folder: Path) -> list[Path]:
    """Write compare_A_vs_B.svg and .png to `folder` and return their paths."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        figure = Figure(figsize=(7.2, 3.6), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
        for run, (colour, marker) in zip((first, second), COLOURS, strict=True):
            rows = run.history()
            for kind, style in (("train", "dashed"), ("test", "bold"), ("val", "bold")):
                if rows and f"{kind}_top1_error" in rows[0]:
                    ax.plot([row["iteration"] for row in rows], [row[f"{kind}_top1_error"] for row in rows],
                            color=colour, marker=marker, markersize=3, markevery=max(1, len(rows) // 8),
                            label=literal(f"{kind}: {label(run)}"), **LINES[style])
        ax.set(xlabel="iterations", ylabel="error (%)", xlim=(0, None), ylim=(0, None))
        ax.grid(axis="y", linewidth=0.4, color="#CCCCCC", linestyle=(0, (1, 2)))
        if ax.lines:
            figure.legend(loc="outside upper left", frameon=False, fontsize=7)
        paths = []
        for kind, metadata in (("svg", {"Date": None, "Creator": "repro"}), ("png", {"Software": "repro"})):
            data = io.BytesIO()
            figure.savefig(data, format=kind, dpi=200, metadata=metadata)
            paths.append(folder / f"{figure_name(first, second)}.{kind}")
            write_atomic(paths[-1], data.getvalue())
    return paths
