"""What the figures by layer show: responses (Figure 7) and norms of gradients. No matplotlib."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from repro.config import scale_lengths
from repro.paper import Curve, pick, published_figure
from repro.reporting.evidence import machine_notes
from repro.reporting.figure_data import answers_of, names, net_and_seed
from repro.reporting.selection import RunSelection, median_run, pools, record
from repro.reporting.variants import net_name, preset_of, split_name, title, warning
from repro.runs import Run, file_sha256

Values = dict[int, list[float]]  # iteration (0 for responses) -> one value for each layer, in forward order


@dataclass(frozen=True)
class LayerCurve:
    """One network of a panel: a value for each layer."""

    curve: Curve
    run: Run
    values: tuple[float, ...]


@dataclass(frozen=True)
class LayerPanel:
    """One panel: its title and its curves."""

    title: str
    x_label: str
    curves: tuple[LayerCurve, ...]


@dataclass(frozen=True)
class LayerFigure:
    """Everything that is drawn and written below it; `logarithmic` is the y axis."""

    name: str
    title: str
    y_label: str
    logarithmic: bool
    panels: tuple[LayerPanel, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Drawn:
    """One network with the run that is drawn of it."""

    curve: Curve
    answer: RunSelection
    run: Run
    values: Values


def gather_layers(name: str, results: Path | None, reference: Path) -> LayerFigure | None:
    """A figure by layer: of each network your run where one has the data, else the reference's; None without any.

    Raises ConfigError for an unknown name.
    """
    pick(name, {known: known for known in names()}, "figure")
    variant, base = split_name(name)
    read = responses_of if base == "figure7" else gradients_of
    published = published_figure("figure7")
    wanted = published.panels[0].curves
    if variant is not None:
        members = preset_of(variant, base).experiments or ()
        wanted = tuple(curve for curve in wanted if curve.experiment in members)
    drawn, lacking = [], []
    for curve in wanted:
        answers = [answer for pool in pools(results, reference) for answer in answers_of(name, published, pool)
                   if answer.experiment == curve.experiment]
        found, reasons = first_with_data(curve, answers, read)
        drawn += found
        lacking += reasons or ([] if found else [f"{net_name(curve.experiment or curve.net)}: not run"])
    if not drawn:
        return None
    make = response_figure if base == "figure7" else gradient_figure
    figure = make(name, drawn)
    if variant is not None:
        preset = preset_of(variant, base)
        what = "Figure 7: std of layer responses" if base == "figure7" else "the norms of gradients by layer"
        figure = replace(figure, title=title(variant, preset, what),
                         notes=(warning(variant, preset), *figure.notes))
    left_out = [f"not drawn: {'; '.join(lacking)}"] if lacking else []
    machines = machine_notes((replace(one.answer, runs=(one.run,)) for one in drawn), net_and_seed)
    return replace(figure, notes=(*figure.notes, *machines, *left_out))


def first_with_data(curve: Curve, answers: list[RunSelection],
                    read: Callable[[Run], Values]) -> tuple[list[Drawn], list[str]]:
    """The median run of the first origin that has data by layer, and why runs before it have none."""
    reasons: list[str] = []
    for answer in answers:
        usable: dict[Path, Values] = {}
        for run in answer.runs:
            try:
                usable[run.folder] = read(run)
            except (ValueError, KeyError, TypeError) as error:
                reasons.append(f"{net_and_seed(run)} ({answer.origin}): {error}")
        kept = replace(answer, runs=tuple(run for run in answer.runs if run.folder in usable))
        if kept.runs:
            run = median_run(kept)
            return [Drawn(curve, kept, run, usable[run.folder])], reasons
    return [], reasons


def responses_of(run: Run) -> Values:
    """{0: std of each layer} from responses.csv; ValueError if it is missing, changed or damaged."""
    check_unchanged(run, "responses.csv", getattr(record(run).responses, "sha256", None))
    rows = run.responses()
    return {0: check_layers([(int(row["layer"]), float(row["std"])) for row in rows], "responses.csv")}


def gradients_of(run: Run) -> Values:
    """{iteration: norm of each layer's gradient} from gradients.csv; ValueError if it is missing or damaged."""
    check_unchanged(run, "gradients.csv", record(run).gradients_sha256)
    by_iteration: dict[int, list[tuple[int, float]]] = {}
    for row in run.gradients():
        by_iteration.setdefault(int(row["iteration"]), []).append((int(row["layer"]), float(row["norm"])))
    if not by_iteration:
        raise ValueError("gradients.csv is empty")
    return {iteration: check_layers(pairs, "gradients.csv") for iteration, pairs in by_iteration.items()}


def check_unchanged(run: Run, file: str, recorded: str | None) -> None:
    """ValueError unless a file is there as the record says."""
    path = run.folder / file
    if not path.is_file():
        raise ValueError(f"no {file}")
    if recorded != file_sha256(path):
        raise ValueError(f"{file} is not the recorded one")


def check_layers(pairs: list[tuple[int, float]], file: str) -> list[float]:
    """The values of layers 1, 2, ... in order; ValueError if a layer is missing or a value is no size."""
    values = [value for _, value in pairs]
    if [layer for layer, _ in pairs] != list(range(1, len(pairs) + 1)) or not pairs:
        raise ValueError(f"{file} has not every layer once")
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise ValueError(f"{file} holds values that are no sizes")
    return values


def response_figure(name: str, drawn: list[Drawn]) -> LayerFigure:
    """Figure 7: layers in their order, and sorted by magnitude."""
    published = published_figure("figure7")
    images = sorted({found.images for one in drawn if (found := record(one.run).responses)})
    top, bottom = published.panels
    panels = (LayerPanel(top.title, "layer index", tuple(
        LayerCurve(one.curve, one.run, tuple(one.values[0])) for one in drawn)),
        LayerPanel(bottom.title, "layer index (sorted by magnitude)", tuple(
            LayerCurve(one.curve, one.run, tuple(sorted(one.values[0], reverse=True))) for one in drawn)))
    notes = (f"{'; '.join(published.notes)}; {' or '.join(f'{count:,}' for count in images)} test images, evaluation "
             "mode; Choice: one std over all images, channels and positions of a layer",)
    return LayerFigure(name, f"Figure 7: {published.title}", published.y.label, False, panels, notes)


def gradient_figure(name: str, drawn: list[Drawn]) -> LayerFigure:
    """Norm of the gradient of each layer's weight after the first update, at the end of the first rate, at the end."""
    common = sorted(set.intersection(*(set(one.values) for one in drawn)))
    config = record(drawn[0].run).config
    drop = scale_lengths(config.train.lr_drops[0], config.scale) if config.train.lr_drops else 0
    chosen = sorted({common[0], common[-1]} | ({drop} & set(common))) if common else []
    panels = tuple(LayerPanel(f"update {iteration:,}", "layer index", tuple(
        LayerCurve(one.curve, one.run, tuple(one.values[iteration])) for one in drawn)) for iteration in chosen)
    ranges = [f"{net_name(str(one.curve.experiment))} {min(values):.3g} to {max(values):.3g}" for one in drawn
              for values in ([value for iteration in chosen for value in one.values[iteration]],) if values]
    notes = ("L2 norm of the gradient of the loss, without weight decay, of one mini-batch with respect to each weight",
             f"smallest and largest norm in these panels: {'; '.join(ranges)}")
    statement = "the paper draws no such figure; it says that these norms are healthy in plain nets with BN (Sec. 4.1)"
    return LayerFigure(name, "Norms of gradients by layer", "norm of gradient", True, panels, (statement, *notes))


