"""Draw figures in the paper's own form, as SVG and PNG.

Networks are told apart without color: by a label at the end of their curve, a gray of their own, and a marker;
dashed (Figure 4: thin) and bold tell training and test error apart.
"""

import io
import textwrap
from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from repro.reporting.evidence import layers_of
from repro.reporting.figure_data import DrawnCurve, DrawnFigure, DrawnPanel, gather, names
from repro.reporting.layer_data import LayerFigure, gather_layers
from repro.reporting.layer_figures import paint_layers
from repro.reporting.style import CHARACTERS_PER_INCH, LINES, LOOKS, NOTE_LINE, NOTE_SIZE, SETTINGS, literal
from repro.reporting.variants import LAYERS, split_name
from repro.runs import write_atomic

__all__ = ["draw", "missing_reason", "names"]

KEYS = {"training": "train_top1_error", "test": "test_top1_error",  # columns of history.csv
        "validation": "val_top1_error"}
PANEL_WIDTH, PANEL_HEIGHT = 3.6, 2.9  # inches, labels and axis texts included
LEFT, RIGHT = 0.6, 0.8  # inches of a panel for its y axis and for the labels of its curves
LABEL_GAP = 0.055  # least distance of two labels, as a part of the y range


def missing_reason(name: str, results: Path | None, reference: Path) -> str | None:
    """Why `draw` would draw nothing; None if there is a run to draw. ConfigError for an unknown name."""
    if content_of(name, results, reference) is not None:
        return None
    return f"{name}: no finished run to draw, neither of yours nor in the committed reference"


def draw(name: str, results: Path | None, reference: Path, folder: Path) -> list[Path] | None:
    """Write name.svg and name.png to `folder` and return their paths; None if there is no run to draw.

    The same runs give the same bytes. Raises ConfigError for an unknown name, StorageError if it can't write.
    """
    content = content_of(name, results, reference)
    if content is None:
        return None
    with mpl.rc_context():
        mpl.rcdefaults()  # a matplotlibrc of the user changes nothing
        mpl.rcParams.update(SETTINGS)
        figure = paint(content) if isinstance(content, DrawnFigure) else paint_layers(content)
        paths = []
        for kind, metadata in (("svg", {"Date": None, "Creator": "repro"}), ("png", {"Software": "repro"})):
            data = io.BytesIO()
            figure.savefig(data, format=kind, dpi=200, metadata=metadata)
            paths.append(folder / f"{name}.{kind}")
            write_atomic(paths[-1], data.getvalue())
    return paths


def content_of(name: str, results: Path | None, reference: Path) -> DrawnFigure | LayerFigure | None:
    """What a figure shows: curves over the iterations, or values by layer; None if there is no run to draw."""
    by_layer = split_name(name)[1] in LAYERS
    return (gather_layers if by_layer else gather)(name, results, reference)


def paint(content: DrawnFigure) -> Figure:
    """The whole figure: title, panels side by side, small print."""
    width = PANEL_WIDTH * max(2, len(content.panels))
    notes = [line for note in content.notes
             for line in textwrap.wrap(note, int(width * CHARACTERS_PER_INCH), subsequent_indent="   ")]
    title = textwrap.wrap(content.title, int(width * 12.5))
    bottom, top = 0.55 + NOTE_LINE * len(notes), 0.35 + 0.17 * len(title)
    height = PANEL_HEIGHT + NOTE_LINE * len(notes) + 0.17 * len(title)
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(content.panels), squeeze=False)[0]
    figure.subplots_adjust(left=LEFT / width, right=1 - RIGHT / width, bottom=bottom / height, top=1 - top / height,
                           wspace=(LEFT + RIGHT) / (PANEL_WIDTH - LEFT - RIGHT))
    figure.text(0.12 / width, 1 - 0.1 / height, literal("\n".join(title)), va="top", fontsize=9)
    figure.text(0.12 / width, 0.08 / height, literal("\n".join(notes)), va="bottom", fontsize=NOTE_SIZE,
                color="#333333", linespacing=1.25)
    for ax, panel in zip(axes, content.panels, strict=True):
        paint_panel(ax, content, panel)
    return figure


def paint_panel(ax: Axes, content: DrawnFigure, panel: DrawnPanel) -> None:
    """One panel: axes, curves, labels, marks."""
    limits = content.y.limits or (0, 100)
    last = max((point["iteration"] for curve in panel.curves for point in curve.run.history()), default=1.0)
    right = content.x.limits[-1] if content.x.limits else 1.02 * last / content.x.unit
    ax.set(xlim=(0, right), ylim=limits, xlabel=content.x.label, ylabel=panel.panel.y_label or content.y.label)
    ax.set_title(panel.panel.title)
    ax.grid(axis="y", linewidth=0.4, color="#CCCCCC", linestyle=(0, (1, 2)))
    ax.set_axisbelow(True)
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    if not panel.curves:
        ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center", color="#555555")
    for index, curve in enumerate(panel.curves):
        for error in panel.panel.errors:
            paint_curve(ax, content, curve, error, index)
    paint_labels(ax, content, panel, right)
    for net, value in panel.marks.items():
        ax.plot([right * 1.012], [value], marker="<", markersize=3.5, color=look(net)[0], clip_on=False,
                linestyle="none", markeredgecolor="black", markeredgewidth=0.4, zorder=5)


def look(net: str) -> tuple[str, str]:
    """(color, marker) of a network, by its depth."""
    return LOOKS[layers_of(net)]


def paint_curve(ax: Axes, content: DrawnFigure, curve: DrawnCurve, error: str, index: int) -> None:
    """One error of one run against iterations; markers are spread so that those of two curves do not coincide."""
    points = curve.run.history()
    color, marker = look(curve.curve.net)
    every = max(1, len(points) // 8)
    ax.plot([point["iteration"] / content.x.unit for point in points], [point[KEYS[error]] for point in points],
            color=color, marker=marker, markersize=3.2, markevery=(index * every // 4 % every, every),
            label=f"{curve.curve.net} {error} error", gid=f"{curve.curve.net}-{error}", zorder=3,
            **LINES[content.styles[error]])


def paint_labels(ax: Axes, content: DrawnFigure, panel: DrawnPanel, right: float) -> None:
    """Name each curve at its right end, moved apart where two would overlap."""
    low, high = ax.get_ylim()
    shown = panel.panel.errors[-1]  # the test or validation error where both are drawn
    ends = {curve.curve: clamp(curve.run.history()[-1][KEYS[shown]], low, high) for curve in panel.curves}
    places = spread_apart(ends.values(), LABEL_GAP * (high - low), low, high)
    for (curve, end), place in zip(ends.items(), places, strict=True):
        color = look(curve.net)[0]
        last = panel.curves[0].run.history()[-1]["iteration"] / content.x.unit
        ax.annotate(curve.label, xy=(min(last, right), end), xytext=(right * 1.07, place), va="center", fontsize=7,
                    annotation_clip=False,
                    arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": color, "shrinkA": 1, "shrinkB": 0})


def clamp(value: float, low: float, high: float) -> float:
    """The value, or the nearer end of the range."""
    return min(max(value, low), high)


def spread_apart(values: Iterable[float], gap: float, low: float, high: float) -> list[float]:
    """Places for labels in the order of `values`: as near to them as `gap` and the range [low, high] allow."""
    given = list(values)
    order = sorted(range(len(given)), key=given.__getitem__)
    clusters: list[list[float]] = []  # [sum of (value - offset), count]: labels that touch, packed around their mean
    for index in order:
        clusters.append([given[index], 1])
        while len(clusters) > 1 and cluster_top(clusters[-2], gap) + gap > cluster_bottom(clusters[-1], gap):
            total, count = clusters.pop()
            clusters[-1][0] += total
            clusters[-1][1] += count
    sorted_places = [cluster_bottom(cluster, gap) + gap * i for cluster in clusters for i in range(int(cluster[1]))]
    for i in range(len(sorted_places)):
        sorted_places[i] = max(sorted_places[i], low + gap * i)
    for i in range(len(sorted_places)):
        sorted_places[-1 - i] = min(sorted_places[-1 - i], high - gap * i)
    places = [0.0] * len(given)
    for index, place in zip(order, sorted_places, strict=True):
        places[index] = place
    return places


def cluster_bottom(cluster: list[float], gap: float) -> float:
    """The lowest place of a cluster that is centered on the mean of its values."""
    return cluster[0] / cluster[1] - gap * (cluster[1] - 1) / 2


def cluster_top(cluster: list[float], gap: float) -> float:
    """The highest place of a cluster that is centered on the mean of its values."""
    return cluster[0] / cluster[1] + gap * (cluster[1] - 1) / 2
