"""The paper's figures, drawn from runs as SVG and PNG; matplotlib is imported only to draw."""

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from repro.files import file_sha256, read_rows, write_atomic
from repro.paper import Axis, PublishedFigure, pick, published_figure
from repro.reporting import select
from repro.reporting.select import RunSelection, RunSet
from repro.runs import Run

COLUMNS = {"training": "train_top1_error", "test": "test_top1_error", "validation": "val_top1_error"}  # of history.csv
# Without color too, marker and gray tell networks apart, dashed (Figure 4: thin) and bold training and test error.
STYLES: dict[str, dict[str, Any]] = {"dashed": {"linestyle": (0, (4, 1.5)), "linewidth": 0.9},
                                     "bold": {"linewidth": 1.5}, "thin": {"linewidth": 0.6}}
# (color, marker) by depth. Paul Tol's high-contrast set and its neighbors: safe for the color-blind, and each its
# own gray when printed in black and white (luminance falls with depth).
LOOKS = {20: ("#DDAA33", "o"), 32: ("#3FA7C4", "s"), 44: ("#BB5566", "^"), 56: ("#004488", "D"), 110: ("#000000", "v"),
         1202: ("#997700", "P"), 18: ("#DDAA33", "h"), 34: ("#004488", ">")}
SETTINGS: Any = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 8.5, "legend.fontsize": 7, "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.xmargin": 0.02,
    "figure.constrained_layout.w_pad": 0.1, "svg.fonttype": "none", "svg.hashsalt": "repro", "path.simplify": False,
}
METADATA: Any = {"svg": {"Date": None, "Creator": "repro"}, "png": {"Software": "repro"}}


class Line(NamedTuple):
    """`id`, NETWORK-DEPTH-WHAT, names the line's group in the SVG; its label stands in the legend."""
    id: str
    label: str
    x: Sequence[float]
    y: Sequence[float]
    style: Mapping[str, Any]


class Panel(NamedTuple):
    """Lines on axes: what `Axes.set` takes, limits and labels."""
    title: str
    lines: Sequence[Line]
    axes: dict[str, Any]


def names() -> list[str]:
    return ["figure1", "figure4", "figure6", *select.LAYERS,
            *(f"{variant}_{name}" for variant in select.VARIANTS for name in ("figure1", "figure6", *select.LAYERS))]


def gather(name: str, found: Sequence[RunSet]) -> tuple[str, list[Panel], list[str]] | None:
    """A figure's title, panels and notes; None without a run that has the data. ConfigError for an unknown name."""
    pick(name, dict.fromkeys(names()), "figure")
    variant, base = select.split_name(name)
    preset = select.preset_of(name) if variant else None
    published = published_figure("figure7" if base == "gradients" else base)
    drawn_here = dict.fromkeys(curve.experiment for panel in published.panels for curve in panel.curves)
    experiments = [one for one in drawn_here if one and (preset is None or one in preset.experiments)]
    read: Callable[[Run], Any] = {"figure7": responses_of, "gradients": gradients_of}.get(base, Run.history)
    shown: dict[str, Any] = {}  # by experiment: rows of the history of the run that is drawn, or its values by layer
    drawn, several, missing = [], [], []
    for experiment in experiments:  # drawn: the first origin with such runs, of several seeds the median one
        answers = [select.with_data(select.preset_runs(pool, experiment, preset) if preset else
                                    select.paper_runs(pool, experiment), read) for pool in found]
        if answer := next((one for one in answers if one.runs), None):
            run = select.median_run(answer.runs)
            shown[experiment] = answer.results[answer.runs.index(run)]
            drawn.append(RunSelection(answer.origin, experiment, (run,), ()))
            several += [f"{run.name} of {len(answer.runs)} seeds"] if len(answer.runs) > 1 else []
        else:
            missing.append(select.net_name(experiment))
    if not shown:
        return None
    panels, notes = (layer_panels(published, base, shown) if base in select.LAYERS
                     else curve_panels(published, shown, full=preset is None))
    title = "Norms of gradients by layer" if base == "gradients" else f"Figure {base[-1]}"
    if preset:  # nobody can take it for the paper's
        made = f"{select.NOT_CIFAR}. " if variant == select.SYNTHETIC else ""
        title = f"{made}Short version: {title} ({select.schedule_text(preset)})"
        notes.insert(0, f"{made}not the paper's schedule: it shows {preset.shows}; it cannot show {preset.cannot_show}")
    elif base != "gradients":
        title += f": {published.title}"
    last = {"closest to the median error": several, "no run with these data": missing}
    notes += [*select.run_notes(drawn), *(f"{text}: {', '.join(those)}" for text, those in last.items() if those)]
    return title, panels, notes


def curve_panels(published: PublishedFigure, shown: Mapping[str, Any], full: bool) -> tuple[list[Panel], list[str]]:
    x, y = (published.x, published.y) if full else (Axis("iterations"), Axis("", limits=(0, 100)))
    panels: list[Panel] = []
    for panel in published.panels:
        here = [(curve, shown[str(curve.experiment)]) for curve in panel.curves if curve.experiment in shown]
        lines = [Line(f"{curve.net}-{error}", curve.label if error == panel.errors[-1] else "",
                      [row["iteration"] / x.unit for row in rows], [row[COLUMNS[error]] for row in rows],
                      STYLES[published.styles[error]]) for curve, rows in here for error in panel.errors]
        if {line.id for line in lines} <= {line.id for other in panels for line in other.lines}:
            continue  # without a run, or nothing but what another panel has: ResNet-110 on Figure 6's right
        panels.append(Panel(panel.title, lines, {
            "xlabel": x.label, "ylabel": panel.y_label or published.y.label, "ylim": y.limits,
            "xlim": (0, x.limits[-1] if x.limits else None)}))
    styles = ", ".join(f"{style}: {error} error" for error, style in published.styles.items())
    return panels, [f"{styles}; training error: mean over the augmented mini-batches since the previous point",
                    *published.notes]


def layer_panels(published: PublishedFigure, base: str, shown: Mapping[str, Any]) -> tuple[list[Panel], list[str]]:
    """Values by layer: responses in order and sorted (Figure 7), or gradients of the first, middle and last update."""
    if base == "figure7":
        parts = {published.panels[0].title: shown, published.panels[1].title: {
            experiment: sorted(values, reverse=True) for experiment, values in shown.items()}}
        axes: dict[str, Any] = {"ylabel": published.y.label, "ylim": (0, None)}
        notes = [*published.notes, "all test images, evaluation mode; Choice: one std over all images, channels and "
                 "positions of a layer"]
    else:
        common = sorted(set.intersection(*map(set, shown.values())))  # the middle one is the first drop of the rate
        parts = {f"update {at:,}": {experiment: norms[at] for experiment, norms in shown.items()}
                 for at in (common[0], common[len(common) // 2], common[-1])}
        axes = {"ylabel": "norm of gradient", "yscale": "log"}
        notes = ["the paper draws no such figure; it calls these norms healthy in plain nets with BN (Sec. 4.1)",
                 "L2 norm of the gradient of the loss of one mini-batch, without weight decay, for each weight"]
    panels: list[Panel] = []
    for title, by_net in parts.items():
        here = [(curve, by_net[str(curve.experiment)]) for curve in published.panels[0].curves
                if curve.experiment in by_net]
        lines = [Line(f"{curve.net}-{len(panels)}", curve.label, range(1, len(values) + 1), values,
                      STYLES["dashed" if curve.net.startswith("plain") else "bold"] | {"linewidth": 1.1})
                 for curve, values in here]
        panels.append(Panel(title, lines, {"xlabel": published.x.label, "xlim": (0, None), **axes}))
    return panels, notes


def responses_of(run: Run) -> list[float]:
    """The std of each layer's responses; ValueError if responses.csv is missing or changed."""
    recorded = select.record(run).responses
    return [float(row["std"]) for row in recorded_rows(run, "responses.csv", recorded.sha256 if recorded else None)]


def gradients_of(run: Run) -> dict[int, list[float]]:
    """{iteration: norm of the gradient of each layer's weight}; ValueError if gradients.csv is missing or changed."""
    norms: dict[int, list[float]] = {}
    for row in recorded_rows(run, "gradients.csv", select.record(run).gradients_sha256):
        norms.setdefault(int(row["iteration"]), []).append(float(row["norm"]))
    return norms


def recorded_rows(run: Run, file: str, sha256: str | None) -> list[dict[str, str]]:
    path = run.folder / file
    if not path.is_file() or file_sha256(path) != sha256:
        raise ValueError(f"{file} is missing, or not the recorded one")
    return read_rows(path)


def draw(name: str, found: Sequence[RunSet], folder: Path) -> list[Path]:
    """Write name.svg and name.png to `folder` and return their paths; [] if there is no run to draw."""
    files = {folder / f"{name}.{kind}": data for kind, data in render(name, found).items()}
    for path, data in files.items():
        write_atomic(path, data)
    return list(files)


def render(name: str, found: Sequence[RunSet], kinds: Sequence[str] = ("svg", "png")) -> dict[str, bytes]:
    """A figure in each kind; {} if there is no run to draw. The same runs give the same bytes."""
    content = gather(name, found)
    if content is None:
        return {}
    import matplotlib as mpl

    made = {}
    with mpl.rc_context():
        mpl.rcdefaults()  # a matplotlibrc of the user changes nothing
        mpl.rcParams.update(SETTINGS)
        figure = paint(*content, by_layer=name.endswith(select.LAYERS))
        for kind in kinds:
            figure.savefig(data := io.BytesIO(), format=kind, dpi=200, metadata=METADATA[kind])
            made[kind] = data.getvalue()
    return made


def paint(title: str, panels: Sequence[Panel], notes: Sequence[str], by_layer: bool) -> Any:
    """The whole figure as matplotlib's Figure: panels over iterations side by side, by layer one above the other."""
    from matplotlib.figure import Figure

    rows, columns = (len(panels), 1) if by_layer else (1, len(panels))
    width = 3.6 * max(2, columns)  # inches
    below = [line for note in notes for line in textwrap.wrap(note, int(width * 21), subsequent_indent="   ")]
    above = textwrap.wrap(title, int(width * 12))
    figure = Figure((width, 2.7 * rows + 0.11 * len(below) + 0.2 * len(above)), layout="constrained")
    figure.suptitle("\n".join(above), x=0.02, ha="left", fontsize=9, parse_math=False)
    figure.supxlabel("\n".join(below), x=0.02, ha="left", fontsize=6, color="#333333", parse_math=False)
    for ax, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=True):
        for line in panel.lines:
            color, marker = LOOKS[int(line.id.split("-")[1])]
            ax.plot(line.x, line.y, color=color, marker=marker, markersize=3.2, markevery=max(1, len(line.y) // 8),
                    label=line.label, gid=line.id, **line.style)
        ax.set(title=panel.title, **panel.axes)
        if "ylim" in panel.axes:
            ax.locator_params(axis="y", nbins=5, steps=[1, 2, 5, 10])
        ax.grid(axis="y", linewidth=0.4, color="#CCCCCC", linestyle=(0, (1, 2)))
        ax.legend(ncols=2)
    return figure
