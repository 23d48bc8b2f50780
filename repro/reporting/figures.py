"""What each figure shows: the run behind each network's line, the values, and the words below. No matplotlib."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from msgspec import structs

from repro.config import scale_lengths
from repro.files import file_sha256
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
Layers = dict[int, list[float]]  # iteration (0 for responses) -> one value for each layer, in forward order


@dataclass(frozen=True)
class Line:
    """One line of a panel; `end` is written at its right end."""

    net: str
    label: str
    id: str  # of its group in the SVG
    x: Sequence[float]
    y: Sequence[float]
    style: Mapping[str, Any]
    index: int  # of its network among those of the panel
    end: str = ""


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
    values: Any  # its history, or Layers


def names() -> list[str]:
    """Names of the figures that can be drawn."""
    return [*DRAWN, *(f"{variant}_{name}" for variant in select.SUITES for name in SHORTENED)]


def gather(name: str, found: Sequence[RunSet]) -> DrawnFigure | None:
    """A figure's content: of each network the first origin that has a run with the data; None if there is none.

    Of several seeds it is the one closest to the median error. Raises ConfigError for an unknown name.
    """
    pick(name, dict.fromkeys(names()), "figure")
    variant, base = select.split_name(name)
    published = described(name)
    wanted = {curve.experiment: curve for panel in published.panels for curve in panel.curves if curve.experiment}
    if variant is None:
        sides = [{experiment: select.paper_runs(pool, experiment) for experiment in wanted} for pool in found]
    else:
        preset = select.preset_of(variant, base)
        sides = [{answer.experiment: answer for answer in select.short_runs(pool, preset)[1]} for pool in found]
    read: Callable[[Run], Any] = {"figure7": responses_of, "gradients": gradients_of}.get(base, Run.history)
    drawn: dict[str, Drawn] = {}
    lacking: dict[str, list[str]] = {}
    for experiment, curve in wanted.items():
        one, reasons = first_with_data(curve, [side[experiment] for side in sides], read)
        if one is not None:
            drawn[experiment] = one
        if one is None or reasons:
            lacking[experiment] = reasons or [f"{select.net_name(experiment)}: not run"]
    if not drawn:
        return None
    if base in select.LAYERS:
        panels, notes = (response_panels if base == "figure7" else gradient_panels)(list(drawn.values()))
        missing = "; ".join(reason for reasons in lacking.values() for reason in reasons)
        notes = [*warnings(variant, base), *notes, *drawn_notes(drawn), *([f"not drawn: {missing}"] if missing else [])]
    else:
        panels, notes = curve_panels(published, drawn, variant is None)
        missing = ", ".join(map(select.net_name, lacking))
        notes = [*notes, *warnings(variant, base), *drawn_notes(drawn), *median_notes(drawn, published),
                 *([f"not run: {missing}"] if missing else [])]
    return DrawnFigure(name, title(name, published), base in select.LAYERS, panels, notes)


def described(name: str) -> PublishedFigure:
    """The published description, of a variant with its own axes and networks; gradients are drawn like Figure 7."""
    variant, base = select.split_name(name)
    figure = published_figure("figure7" if base in select.LAYERS else base)
    if variant is None:
        return figure
    members = select.preset_of(variant, base).experiments or ()
    panels = [structs.replace(panel, curves=tuple(curve for curve in panel.curves if curve.experiment in members))
              for panel in figure.panels]
    return structs.replace(figure, x=Axis("iterations"), y=Axis(figure.y.label, limits=(0, 100)),
                           panels=tuple(panel for panel in panels if panel.curves))


def title(name: str, published: PublishedFigure) -> str:
    """The title of a figure; of a variant one that can't be taken for the paper's."""
    variant, base = select.split_name(name)
    number = f"Figure {base.removeprefix('figure')}"
    if variant is None:
        return "Norms of gradients by layer" if base == "gradients" else f"{number}: {published.title}"
    what = {"figure7": "Figure 7: std of layer responses", "gradients": "the norms of gradients by layer"}
    head = f"{select.NOT_CIFAR}. " if variant == select.SYNTHETIC else ""
    return f"{head}Short version of {what.get(base, number)} ({select.schedule_text(select.preset_of(variant, base))})"


def warnings(variant: str | None, base: str) -> list[str]:
    """The small print that says what a variant shows and what it cannot show."""
    if variant is None:
        return []
    preset = select.preset_of(variant, base)
    head = f"{select.NOT_CIFAR}; not" if variant == select.SYNTHETIC else "not"
    return [f"{head} the paper's schedule: it shows {preset.shows}; it cannot show {preset.cannot_show}"]


def drawn_notes(drawn: Mapping[str, Drawn]) -> list[str]:
    """Whose runs are drawn."""
    return select.machine_notes((replace(one.answer, runs=(one.run,)) for one in drawn.values()), net_and_seed)


def net_and_seed(run: Run) -> str:
    """'ResNet-20 (seed 0)'."""
    return f"{select.net_name(run.experiment)} (seed {run.seed})"


def first_with_data(curve: Curve, answers: Iterable[RunSelection],
                    read: Callable[[Run], Any]) -> tuple[Drawn | None, list[str]]:
    """The median run of the first origin that has the data, and why runs before it have none."""
    reasons: list[str] = []
    for answer in answers:
        usable: dict[Path, Any] = {}
        for run in answer.runs:
            try:
                usable[run.folder] = read(run)
            except (ValueError, KeyError, TypeError) as error:
                reasons.append(f"{net_and_seed(run)} ({answer.origin}): {error}")
        kept = replace(answer, runs=tuple(run for run in answer.runs if run.folder in usable))
        if kept.runs:
            run = select.median_run(kept)
            return Drawn(curve, kept, run, usable[run.folder]), reasons
    return None, reasons


# ---- curves over the iterations


def curve_panels(published: PublishedFigure, drawn: Mapping[str, Drawn],
                 marked: bool) -> tuple[list[DrawnPanel], list[str]]:
    """The panels that are drawn, with published test errors where they are marked, and how to read them."""
    shown = [panel for panel in published.panels  # ResNet-110 of Figure 6's right panel is in the middle too
             if VERY_DEEP in drawn or all(curve.experiment != VERY_DEEP for curve in panel.curves)]
    panels = [curve_panel(panel, published, drawn, published_marks() if marked else {}) for panel in shown]
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
    lines = [Line(one.curve.net, f"{one.curve.net} {error} error", f"{one.curve.net}-{error}",
                  [point["iteration"] / published.x.unit for point in one.values],
                  [point[KEYS[error]] for point in one.values], LINES[published.styles[error]], index,
                  one.curve.label if error == panel.errors[-1] else "")  # test or validation where both are drawn
             for index, one in enumerate(here) for error in panel.errors]
    last = max((point["iteration"] for one in here for point in one.values), default=1.0)
    right = published.x.limits[-1] if published.x.limits else 1.02 * last / published.x.unit
    nets = [one.curve.net for one in here]
    return DrawnPanel(panel.title, published.x.label, panel.y_label or published.y.label, (0, right),
                      published.y.limits or (0, 100), lines,
                      {net: value for net, value in marks.items() if net in nets and "test" in panel.errors})


def published_marks() -> dict[str, float]:
    """Test errors that Table 6 prints, the mean where there is one."""
    return {row.key: row.compared("test_top1_error") for row in published_table("table6").rows
            if not row.published_only}


# ---- values by layer


def response_panels(drawn: Sequence[Drawn]) -> tuple[list[DrawnPanel], list[str]]:
    """Figure 7: layers in their order, and sorted by magnitude."""
    published = published_figure("figure7")
    images = sorted({found.images for one in drawn if (found := select.record(one.run).responses)})
    top, bottom = (panel.title for panel in published.panels)
    panels = [(top, "layer index", [one.values[0] for one in drawn]),
              (bottom, "layer index (sorted by magnitude)", [sorted(one.values[0], reverse=True) for one in drawn])]
    return layer_panels(panels, published.y.label, False, drawn), [
        f"{'; '.join(published.notes)}; {' or '.join(f'{count:,}' for count in images)} test images, evaluation "
        "mode; Choice: one std over all images, channels and positions of a layer"]


def gradient_panels(drawn: Sequence[Drawn]) -> tuple[list[DrawnPanel], list[str]]:
    """Norm of the gradient of each layer's weight after the first update, at the end of the first rate, at the end."""
    common = sorted(set.intersection(*(set(one.values) for one in drawn)))
    config = select.record(drawn[0].run).config
    drop = scale_lengths(config.train.lr_drops[0], config.scale) if config.train.lr_drops else 0
    chosen = sorted({common[0], common[-1]} | ({drop} & set(common))) if common else []
    panels = [(f"update {iteration:,}", "layer index", [one.values[iteration] for one in drawn])
              for iteration in chosen]
    norms = {str(one.curve.experiment): [norm for iteration in chosen for norm in one.values[iteration]]
             for one in drawn}
    ranges = "; ".join(f"{select.net_name(name)} {min(values):.3g} to {max(values):.3g}"
                       for name, values in norms.items() if values)
    return layer_panels(panels, "norm of gradient", True, drawn), [
        "the paper draws no such figure; it says that these norms are healthy in plain nets with BN (Sec. 4.1)",
        "L2 norm of the gradient of the loss, without weight decay, of one mini-batch with respect to each weight",
        f"smallest and largest norm in these panels: {ranges}"]


def layer_panels(panels: Sequence[tuple[str, str, list[list[float]]]], y_label: str, logarithmic: bool,
                 drawn: Sequence[Drawn]) -> list[DrawnPanel]:
    """Panels of (title, label of x, the values of each network); plain networks dashed, residual ones solid."""
    longest = max((len(values) for _, _, of_nets in panels for values in of_nets), default=1)
    result = []
    for number, (title, x_label, of_nets) in enumerate(panels):
        lines = [Line(one.curve.net, one.curve.label, f"{one.curve.net}-{number}", range(1, len(values) + 1), values,
                      LINES["dashed" if one.curve.net.startswith("plain") else "bold"] | {"linewidth": 1.1}, index)
                 for index, (one, values) in enumerate(zip(drawn, of_nets, strict=True))]
        highest = max((value for values in of_nets for value in values), default=1.0)
        result.append(DrawnPanel(title, x_label, y_label, (0, 1.02 * longest),
                                 None if logarithmic else (0, 1.08 * highest), lines, {}))
    return result


def responses_of(run: Run) -> Layers:
    """{0: std of each layer} from responses.csv; ValueError if it is missing, changed or damaged."""
    recorded = select.record(run).responses
    check_unchanged(run, "responses.csv", recorded.sha256 if recorded else None)
    return {0: layer_values([(int(row["layer"]), float(row["std"])) for row in run.responses()], "responses.csv")}


def gradients_of(run: Run) -> Layers:
    """{iteration: norm of each layer's gradient} from gradients.csv; ValueError if it is missing or damaged."""
    check_unchanged(run, "gradients.csv", select.record(run).gradients_sha256)
    by_iteration: dict[int, list[tuple[int, float]]] = {}
    for row in run.gradients():
        by_iteration.setdefault(int(row["iteration"]), []).append((int(row["layer"]), float(row["norm"])))
    if not by_iteration:
        raise ValueError("gradients.csv is empty")
    return {iteration: layer_values(pairs, "gradients.csv") for iteration, pairs in by_iteration.items()}


def check_unchanged(run: Run, file: str, recorded: str | None) -> None:
    """ValueError unless a file is there as the record says."""
    path = run.folder / file
    if not path.is_file():
        raise ValueError(f"no {file}")
    if recorded != file_sha256(path):
        raise ValueError(f"{file} is not the recorded one")


def layer_values(pairs: Sequence[tuple[int, float]], file: str) -> list[float]:
    """The values of layers 1, 2, ... in order; ValueError if a layer is missing or a value is no size."""
    values = [value for _, value in pairs]
    if [layer for layer, _ in pairs] != list(range(1, len(pairs) + 1)) or not pairs:
        raise ValueError(f"{file} has not every layer once")
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise ValueError(f"{file} holds values that are no sizes")
    return values
