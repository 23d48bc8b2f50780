"""What each figure shows: the run behind each network's line, the values, and the words below. No matplotlib."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from msgspec import structs

from repro.config import scale_lengths
from repro.files import file_sha256, read_rows
from repro.paper import Axis, Curve, Panel, PublishedFigure, pick, published_figure, published_table
from repro.reporting import select
from repro.reporting.select import RunSelection, RunSet
from repro.runs import Run

SHORTENED = ("figure1", "figure6", *select.LAYERS)  # of these there are short and synthetic versions
DRAWN = ("figure1", "figure4", "figure6", *select.LAYERS)
VERY_DEEP = "cifar_resnet1202"  # what only the right panel of Figure 6 shows; without a run of it the panel is left out
KEYS = {"training": "train_top1_error", "test": "test_top1_error",  # columns of history.csv
        "validation": "val_top1_error"}
LINES: dict[str, dict[str, Any]] = {
    "dashed": {"linestyle": (0, (4, 1.5)), "linewidth": 0.9},
    "bold": {"linestyle": "-", "linewidth": 1.5},
    "thin": {"linestyle": "-", "linewidth": 0.6},
}


@dataclass(frozen=True)
class Line:
    """One line of a panel. Its label stands at its right end, of values by layer in the legend."""

    net: str
    label: str
    id: str  # of its group in the SVG
    x: Sequence[float]
    y: Sequence[float]
    style: Mapping[str, Any]
    index: int  # of its network among those of the panel


@dataclass(frozen=True)
class DrawnPanel:
    """One panel; `marks` are published test errors by network. Without limits of y its axis is logarithmic."""

    title: str
    x_label: str
    y_label: str
    x_limits: tuple[float, float]
    y_limits: tuple[float, ...] | None
    lines: Sequence[Line]
    marks: Mapping[str, float]


@dataclass(frozen=True)
class DrawnFigure:
    """Everything that is drawn and written below it: over iterations side by side, by layer one above the other."""

    name: str
    title: str
    by_layer: bool
    panels: Sequence[DrawnPanel]
    notes: Sequence[str]


@dataclass(frozen=True)
class Drawn:
    """One network with the run that is drawn of it, and that run's values."""

    curve: Curve
    answer: RunSelection
    run: Run
    values: Any  # of Run.history, responses_of or gradients_of


def names() -> list[str]:
    """Names of the figures that can be drawn."""
    return [*DRAWN, *(f"{variant}_{name}" for variant in select.SUITES for name in SHORTENED)]


def gather(name: str, found: Sequence[RunSet]) -> DrawnFigure | None:
    """A figure's content: of each network the first origin that has a run with the data; None if there is none.

    Of several seeds it is the one closest to the median error. Raises ConfigError for an unknown name.
    """
    pick(name, dict.fromkeys(names()), "figure")
    variant, base = select.split_name(name)
    by_layer = base in select.LAYERS
    preset = select.preset_of(variant, base) if variant else None
    published = published_figure("figure7" if by_layer else base)  # gradients are drawn like Figure 7
    if preset:
        published = shorten(published, preset.experiments or ())
    wanted = {curve.experiment: curve for panel in published.panels for curve in panel.curves if curve.experiment}
    sides = [{answer.experiment: answer for answer in select.short_runs(pool, preset)[1]} if preset
             else {experiment: select.paper_runs(pool, experiment) for experiment in wanted} for pool in found]
    read: Callable[[Run], Any] = {"figure7": responses_of, "gradients": gradients_of}.get(base, Run.history)
    drawn: dict[str, Drawn] = {}
    missing: list[str] = []
    for experiment, curve in wanted.items():
        one, reasons = first_with_data(curve, [side[experiment] for side in sides], read)
        if one is not None:
            drawn[experiment] = one
        missing += reasons or ([] if one else [f"{select.net_name(experiment)}: not run"])
    if not drawn:
        return None
    number = f"Figure {base.removeprefix('figure')}"
    title = "Norms of gradients by layer" if base == "gradients" else f"{number}: {published.title}"
    notes = []
    if preset:  # nobody can take its title for the paper's
        what = {"figure7": "Figure 7: std of layer responses", "gradients": "the norms of gradients by layer"}
        made = variant == select.SYNTHETIC
        title = (f"{select.NOT_CIFAR}. " * made
                 + f"Short version of {what.get(base, number)} ({select.schedule_text(preset)})")
        notes = [f"{select.NOT_CIFAR}; " * made + f"not the paper's schedule: it shows {preset.shows}; it cannot show "
                 + preset.cannot_show]
    runs = select.machine_notes((replace(one.answer, runs=(one.run,)) for one in drawn.values()), net_and_seed)
    if by_layer:
        panels, reading = (response_panels if base == "figure7" else gradient_panels)(published, list(drawn.values()))
        notes = [*notes, *reading, *runs, *([f"not drawn: {'; '.join(missing)}"] if missing else [])]
    else:
        panels, reading = curve_panels(published, drawn, marked=preset is None)
        notes = [*reading, *notes, *runs, *median_notes(drawn, published)]
        if missing := [select.net_name(experiment) for experiment in wanted if experiment not in drawn]:
            notes.append(f"not run: {', '.join(missing)}")
    return DrawnFigure(name, title, by_layer, panels, notes)


def shorten(figure: PublishedFigure, members: Sequence[str]) -> PublishedFigure:
    """The description of a variant: its own axes, and the networks of its preset."""
    panels = [structs.replace(panel, curves=tuple(curve for curve in panel.curves if curve.experiment in members))
              for panel in figure.panels]
    return structs.replace(figure, x=Axis("iterations"), y=Axis(figure.y.label, limits=(0, 100)),
                           panels=tuple(panel for panel in panels if panel.curves))


def net_and_seed(run: Run) -> str:
    """'ResNet-20 (seed 0)'."""
    return f"{select.net_name(run.experiment)} (seed {run.seed})"


def first_with_data(curve: Curve, answers: Iterable[RunSelection],
                    read: Callable[[Run], Any]) -> tuple[Drawn | None, list[str]]:
    """The median run of the first origin that has the data, and why runs before it have none."""
    reasons: list[str] = []
    for answer in answers:
        usable: list[tuple[Run, Any]] = []
        for run in answer.runs:
            try:
                usable.append((run, read(run)))
            except (ValueError, KeyError) as error:
                reasons.append(f"{net_and_seed(run)} ({answer.origin}): {error}")
        if usable:
            kept = replace(answer, runs=tuple(run for run, _ in usable))
            median = select.median_run(kept)
            return Drawn(curve, kept, median, next(values for run, values in usable if run is median)), reasons
    return None, reasons


# ---- curves over the iterations


def curve_panels(published: PublishedFigure, drawn: Mapping[str, Drawn],
                 marked: bool) -> tuple[list[DrawnPanel], list[str]]:
    """The panels that are drawn, with published test errors where they are marked, and how to read them."""
    shown = [panel for panel in published.panels  # ResNet-110 of Figure 6's right panel is in the middle too
             if VERY_DEEP in drawn or all(curve.experiment != VERY_DEEP for curve in panel.curves)]
    table6 = {row.key: row.compared("test_top1_error") for row in published_table("table6").rows
              if not row.published_only}
    panels = [curve_panel(panel, published, drawn, table6 if marked else {}) for panel in shown]
    styles = ", ".join(f"{style}: {error} error" for error, style in published.styles.items()
                       if any(error in panel.errors for panel in shown))
    notes = [f"{styles}; training error: mean over the augmented mini-batches since the previous point",
             *published.notes]
    if any(panel.marks for panel in panels):
        notes.append("triangles at the right edge: published test errors (Table 6; ResNet-110: mean of 5 runs)")
    return panels, notes


def median_notes(drawn: Mapping[str, Drawn], published: PublishedFigure) -> list[str]:
    """Which seed is drawn of several."""
    several = ", ".join(f"{select.net_name(experiment)} (seed {one.run.seed} of {len(one.answer.runs)} seeds)"
                        for experiment, one in drawn.items() if len(one.answer.runs) > 1)
    error = list(published.styles)[-1]
    return [f"drawn of several seeds: the one closest to the median {error} error: {several}"] if several else []


def curve_panel(panel: Panel, published: PublishedFigure, drawn: Mapping[str, Drawn],
                marks: Mapping[str, float]) -> DrawnPanel:
    """The errors of a panel's networks that have a run, and their published test errors."""
    here = [drawn[name] for curve in panel.curves if (name := str(curve.experiment)) in drawn]
    lines = [Line(one.curve.net, one.curve.label if error == panel.errors[-1] else "",  # test or validation error
                  f"{one.curve.net}-{error}", [point["iteration"] / published.x.unit for point in one.values],
                  [point[KEYS[error]] for point in one.values], LINES[published.styles[error]], index)
             for index, one in enumerate(here) for error in panel.errors]
    last = max((line.x[-1] for line in lines), default=1.0)  # without a run: an empty panel
    right = published.x.limits[-1] if published.x.limits else 1.02 * last
    nets = [one.curve.net for one in here]
    return DrawnPanel(panel.title, published.x.label, panel.y_label or published.y.label, (0, right),
                      published.y.limits or (0, 100), lines,
                      {net: value for net, value in marks.items() if net in nets and "test" in panel.errors})


# ---- values by layer


def response_panels(published: PublishedFigure, drawn: Sequence[Drawn]) -> tuple[list[DrawnPanel], list[str]]:
    """Figure 7: layers in their order, and sorted by magnitude."""
    images = sorted({found.images for one in drawn if (found := select.record(one.run).responses)})
    top, bottom = (panel.title for panel in published.panels)
    panels = [layer_panel(top, "layer index", published.y.label, [one.values for one in drawn], drawn, 0),
              layer_panel(bottom, "layer index (sorted by magnitude)", published.y.label,
                          [sorted(one.values, reverse=True) for one in drawn], drawn, 1)]
    return panels, [f"{'; '.join(published.notes)}; {' or '.join(f'{count:,}' for count in images)} test images, "
                    "evaluation mode; Choice: one std over all images, channels and positions of a layer"]


def gradient_panels(_: PublishedFigure, drawn: Sequence[Drawn]) -> tuple[list[DrawnPanel], list[str]]:
    """Norm of the gradient of each layer's weight after the first update, at the end of the first rate, at the end."""
    common = sorted(set.intersection(*(set(one.values) for one in drawn)))
    config = select.record(drawn[0].run).config
    drops = [scale_lengths(drop, config.scale) for drop in config.train.lr_drops[:1]]
    chosen = sorted({common[0], common[-1]} | (set(drops) & set(common)))
    panels = [layer_panel(f"update {iteration:,}", "layer index", "norm of gradient",
                          [one.values[iteration] for one in drawn], drawn, number, logarithmic=True)
              for number, iteration in enumerate(chosen)]
    norms = {select.net_name(one.run.experiment): [norm for iteration in chosen for norm in one.values[iteration]]
             for one in drawn}
    ranges = "; ".join(f"{net} {min(values):.3g} to {max(values):.3g}" for net, values in norms.items())
    return panels, [
        "the paper draws no such figure; it says that these norms are healthy in plain nets with BN (Sec. 4.1)",
        "L2 norm of the gradient of the loss, without weight decay, of one mini-batch with respect to each weight",
        f"smallest and largest norm in these panels: {ranges}"]


def layer_panel(title: str, x_label: str, y_label: str, values: Sequence[Sequence[float]], drawn: Sequence[Drawn],
                number: int, logarithmic: bool = False) -> DrawnPanel:
    """A panel of the values of each network; plain networks dashed, residual ones solid."""
    lines = [Line(one.curve.net, one.curve.label, f"{one.curve.net}-{number}", range(1, len(own) + 1), own,
                  LINES["dashed" if one.curve.net.startswith("plain") else "bold"] | {"linewidth": 1.1}, index)
             for index, (one, own) in enumerate(zip(drawn, values, strict=True))]
    y_limits = None if logarithmic else (0, 1.08 * max(map(max, values)))
    return DrawnPanel(title, x_label, y_label, (0, 1.02 * max(map(len, values))), y_limits, lines, {})


def responses_of(run: Run) -> list[float]:
    """The std of each layer's responses; ValueError if responses.csv is missing, changed or damaged."""
    recorded = select.record(run).responses
    return layers_of(run, "responses.csv", "std", recorded.sha256 if recorded else None)[0]


def gradients_of(run: Run) -> dict[int, list[float]]:
    """{iteration: norm of each layer's gradient}; ValueError if gradients.csv is missing, changed or damaged."""
    return layers_of(run, "gradients.csv", "norm", select.record(run).gradients_sha256)


def layers_of(run: Run, file: str, column: str, recorded: str | None) -> dict[int, list[float]]:
    """{iteration (0 where the file has none): one value for each layer, in forward order} of a recorded file."""
    path = run.folder / file
    if not path.is_file():
        raise ValueError(f"no {file}")
    if file_sha256(path) != recorded:
        raise ValueError(f"{file} is not the recorded one")
    layers: dict[int, list[float]] = {}
    for row in read_rows(path):
        values = layers.setdefault(int(row.get("iteration", 0)), [])
        values.append(float(row[column]))
        if int(row["layer"]) != len(values) or not 0 <= values[-1] < math.inf:
            raise ValueError(f"{file} has not every layer once, or values that are no sizes")
    if not layers:
        raise ValueError(f"{file} is empty")
    return layers
