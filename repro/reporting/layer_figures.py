"""Draw the figures by layer: panels one above the other, a legend, plain networks dashed and residual ones solid."""

import textwrap

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from repro.reporting.evidence import layers_of
from repro.reporting.layer_data import LayerFigure, LayerPanel
from repro.reporting.style import CHARACTERS_PER_INCH, LINES, LOOKS, NOTE_LINE, NOTE_SIZE, literal

WIDTH, PANEL_HEIGHT = 7.2, 2.2  # inches


def paint_layers(content: LayerFigure) -> Figure:
    """The whole figure: title, panels, small print."""
    notes = [line for note in content.notes
             for line in textwrap.wrap(note, int(WIDTH * CHARACTERS_PER_INCH), subsequent_indent="   ")]
    title = textwrap.wrap(content.title, int(WIDTH * 12.5))
    bottom, top = 0.55 + NOTE_LINE * len(notes), 0.3 + 0.17 * len(title)
    height = PANEL_HEIGHT * len(content.panels) + bottom + top - 0.4
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(content.panels), 1, squeeze=False)[:, 0]
    figure.subplots_adjust(left=0.6 / WIDTH, right=1 - 0.15 / WIDTH, bottom=bottom / height, top=1 - top / height,
                           hspace=0.42)
    figure.text(0.12 / WIDTH, 1 - 0.1 / height, literal("\n".join(title)), va="top", fontsize=9)
    figure.text(0.12 / WIDTH, 0.08 / height, literal("\n".join(notes)), va="bottom", fontsize=NOTE_SIZE,
                color="#333333", linespacing=1.25)
    longest = max(len(curve.values) for panel in content.panels for curve in panel.curves)
    for number, (ax, panel) in enumerate(zip(axes, content.panels, strict=True)):
        paint_panel(ax, content, panel, longest)
        if number == 0:
            ax.legend(loc="upper right", ncols=2, frameon=False, fontsize=7, handlelength=3.2)
    return figure


def paint_panel(ax: Axes, content: LayerFigure, panel: LayerPanel, longest: int) -> None:
    """One panel: axes and a line for each network."""
    ax.set(xlim=(0, 1.02 * longest), xlabel=panel.x_label, ylabel=content.y_label)
    ax.set_title(panel.title)
    ax.grid(axis="y", linewidth=0.4, color="#CCCCCC", linestyle=(0, (1, 2)))
    ax.set_axisbelow(True)
    ax.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True))
    if content.logarithmic:
        ax.set_yscale("log")
    else:
        highest = max((value for curve in panel.curves for value in curve.values), default=1.0)
        ax.set_ylim(0, 1.08 * highest)
    for number, curve in enumerate(panel.curves):
        color, marker = LOOKS[layers_of(curve.curve.net)]
        style = LINES["dashed" if curve.curve.net.startswith("plain") else "bold"] | {"linewidth": 1.1}
        every = max(1, len(curve.values) // 6)
        ax.plot(range(1, len(curve.values) + 1), curve.values, color=color, marker=marker, markersize=3.2,
                markevery=(number * every // 4 % every, every), label=curve.curve.label,
                gid=f"{curve.curve.net}-{content.panels.index(panel)}", **style)
