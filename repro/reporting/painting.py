"""Draw figures in the paper's own form, as SVG and PNG.

Networks are told apart without color: by a label at the end of their curve or a legend, a gray of their own, and a
marker; dashed (Figure 4: thin) and bold tell training and test error, by layer plain and residual networks apart.
"""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from repro.files import write_atomic
from repro.reporting.figures import DrawnFigure, DrawnPanel, Line, gather
from repro.reporting.select import RunSet

# (color, marker) by depth. Paul Tol's high-contrast set and its neighbors: safe for the color-blind, and each its
# own gray when printed in black and white (luminance falls with depth).
LOOKS = {20: ("#DDAA33", "o"), 32: ("#3FA7C4", "s"), 44: ("#BB5566", "^"), 56: ("#004488", "D"), 110: ("#000000", "v"),
         1202: ("#997700", "P"), 18: ("#DDAA33", "h"), 34: ("#004488", ">")}
SETTINGS: Any = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 8.5, "svg.fonttype": "none",
    "svg.hashsalt": "repro", "axes.spines.top": False, "axes.spines.right": False, "path.simplify": False,
}
NOTE_SIZE, NOTE_LINE = 6.0, 0.115  # points; inches per line
CHARACTERS_PER_INCH = 22.0  # of the small print, on the safe side for DejaVu Sans at NOTE_SIZE
PANEL_WIDTH, PANEL_HEIGHT, LAYER_HEIGHT = 3.6, 2.9, 2.2  # inches, labels and axis texts included
LEFT, RIGHT, LAYER_RIGHT = 0.6, 0.8, 0.15  # inches of a panel for its y axis and for the labels of its curves
LABEL_GAP = 0.055  # least distance of two labels, as a part of the y range


def draw(name: str, found: Sequence[RunSet], folder: Path) -> list[Path] | None:
    """Write name.svg and name.png to `folder` and return their paths; None if there is no run to draw.

    The same runs give the same bytes. Raises ConfigError for an unknown name, StorageError if it can't write.
    """
    content = gather(name, found)
    if content is None:
        return None
    with mpl.rc_context():
        mpl.rcdefaults()  # a matplotlibrc of the user changes nothing
        mpl.rcParams.update(SETTINGS)
        figure = paint(content)
        paths = []
        for kind, metadata in (("svg", {"Date": None, "Creator": "repro"}), ("png", {"Software": "repro"})):
            data = io.BytesIO()
            figure.savefig(data, format=kind, dpi=200, metadata=metadata)
            paths.append(folder / f"{name}.{kind}")
            write_atomic(paths[-1], data.getvalue())
    return paths


def paint(content: DrawnFigure) -> Figure:
    """The whole figure: title, panels, small print."""
    number = len(content.panels)
    width = PANEL_WIDTH * (2 if content.by_layer else max(2, number))
    notes = [line for note in content.notes
             for line in textwrap.wrap(note, int(width * CHARACTERS_PER_INCH), subsequent_indent="   ")]
    title = textwrap.wrap(content.title, int(width * 12.5))
    bottom, top = 0.55 + NOTE_LINE * len(notes), (0.3 if content.by_layer else 0.35) + 0.17 * len(title)
    height = (LAYER_HEIGHT * number + bottom + top - 0.4 if content.by_layer
              else PANEL_HEIGHT + NOTE_LINE * len(notes) + 0.17 * len(title))
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(*((number, 1) if content.by_layer else (1, number)), squeeze=False).flat
    figure.subplots_adjust(left=LEFT / width, right=1 - (LAYER_RIGHT if content.by_layer else RIGHT) / width,
                           bottom=bottom / height, top=1 - top / height, hspace=0.42,
                           wspace=(LEFT + RIGHT) / (PANEL_WIDTH - LEFT - RIGHT))
    figure.text(0.12 / width, 1 - 0.1 / height, literal("\n".join(title)), va="top", fontsize=9)
    figure.text(0.12 / width, 0.08 / height, literal("\n".join(notes)), va="bottom", fontsize=NOTE_SIZE,
                color="#333333", linespacing=1.25)
    for ax, panel in zip(axes, content.panels, strict=True):
        paint_panel(ax, panel, content.by_layer)
    if content.by_layer:
        figure.axes[0].legend(loc="upper right", ncols=2, frameon=False, fontsize=7, handlelength=3.2)
    return figure


def literal(text: str) -> str:
    """Text that matplotlib draws as it stands: between two dollars it would read a formula."""
    return text.replace("$", r"\$")


def paint_panel(ax: Axes, panel: DrawnPanel, by_layer: bool) -> None:
    """One panel: axes, lines, labels, marks. Markers are spread so that those of two lines do not coincide."""
    ax.set(xlim=panel.x_limits, xlabel=panel.x_label, ylabel=panel.y_label)
    ax.set_title(panel.title)
    ax.grid(axis="y", linewidth=0.4, color="#CCCCCC", linestyle=(0, (1, 2)))
    ax.set_axisbelow(True)
    ax.xaxis.set_major_locator(MaxNLocator(8 if by_layer else 7, steps=[1, 2, 5, 10], integer=by_layer))
    if not by_layer:
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if panel.y_limits is None:
        ax.set_yscale("log")
    else:
        ax.set_ylim(*panel.y_limits)
    if not panel.lines:
        ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center", color="#555555")
    for line in panel.lines:
        color, marker = look(line.net)
        every = max(1, len(line.y) // (6 if by_layer else 8))
        ax.plot(line.x, line.y, color=color, marker=marker, markersize=3.2,
                markevery=(line.index * every // 4 % every, every), label=line.label, gid=line.id,
                zorder=2 if by_layer else 3, **line.style)
    right = panel.x_limits[1]
    if not by_layer:
        paint_labels(ax, [line for line in panel.lines if line.label], right)
    for net, value in panel.marks.items():
        ax.plot([right * 1.012], [value], marker="<", markersize=3.5, color=look(net)[0], clip_on=False,
                linestyle="none", markeredgecolor="black", markeredgewidth=0.4, zorder=5)


def look(net: str) -> tuple[str, str]:
    """(color, marker) of 'plain-20', by its depth."""
    return LOOKS[int(net.rpartition("-")[2])]


def paint_labels(ax: Axes, lines: Sequence[Line], right: float) -> None:
    """Name each line at its right end, moved apart where two would overlap."""
    low, high = ax.get_ylim()
    ends = [min(max(line.y[-1], low), high) for line in lines]
    for line, end, place in zip(lines, ends, spread_apart(ends, LABEL_GAP * (high - low), low, high), strict=True):
        ax.annotate(line.label, xy=(min(line.x[-1], right), end), xytext=(right * 1.07, place), va="center", fontsize=7,
                    annotation_clip=False, arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": look(line.net)[0],
                                                       "shrinkA": 1, "shrinkB": 0})


def spread_apart(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places for labels in the order of `values`: as near to them as `gap` and the range [low, high] allow."""
    order = sorted(range(len(values)), key=values.__getitem__)
    clusters: list[list[float]] = []  # values whose labels touch
    for index in order:
        clusters.append([values[index]])
        while len(clusters) > 1 and packed(clusters[-2], gap)[-1] + gap > packed(clusters[-1], gap)[0]:
            last = clusters.pop()
            clusters[-1] += last
    places = [place for cluster in clusters for place in packed(cluster, gap)]
    places = [max(place, low + gap * i) for i, place in enumerate(places)]
    places = [min(place, high - gap * i) for i, place in enumerate(reversed(places))][::-1]
    return [place for _, place in sorted(zip(order, places, strict=True))]


def packed(values: Sequence[float], gap: float) -> list[float]:
    """Places side by side around the mean of some values."""
    return [fmean(values) + gap * (i - (len(values) - 1) / 2) for i in range(len(values))]
