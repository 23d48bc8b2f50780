"""What a figure shows: which run stands behind each curve, and the words below it. No matplotlib."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec import structs

from repro.paper import Axis, Curve, Panel, PublishedFigure, pick, published_figure, published_table
from repro.reporting.evidence import machine_notes
from repro.reporting.selection import RunSelection, RunSet, median_run, paper_runs, pools, short_runs
from repro.reporting.variants import LAYERS, SUITES, net_name, preset_of, split_name, title, warning
from repro.runs import Run

SHORTENED = ("figure1", "figure6", *LAYERS)  # of these there are short and synthetic versions
DRAWN = ("figure1", "figure4", "figure6", *LAYERS)
VERY_DEEP = "cifar_resnet1202"  # what only the right panel of Figure 6 shows; without a run of it the panel is left out
TRAINING_NOTE = "training error: mean over the augmented mini-batches since the previous point"


@dataclass(frozen=True)
class DrawnCurve:
    """One network's curve: the published description and the run that is drawn."""

    curve: Curve
    answer: RunSelection
    run: Run


@dataclass(frozen=True)
class DrawnPanel:
    """One panel with the curves that there are; `marks` are published test errors (percent) by network."""

    panel: Panel
    curves: tuple[DrawnCurve, ...]
    marks: Mapping[str, float]


@dataclass(frozen=True)
class DrawnFigure:
    """Everything that is drawn and written below it."""

    name: str
    title: str
    x: Axis
    y: Axis
    styles: Mapping[str, str]
    panels: tuple[DrawnPanel, ...]
    notes: tuple[str, ...]


def names() -> list[str]:
    """Names of the figures that can be drawn."""
    return [*DRAWN, *(f"{variant}_{name}" for variant in SUITES for name in SHORTENED)]


def gather(name: str, results: Path | None, reference: Path) -> DrawnFigure | None:
    """A figure's content: your run where you have one, else the reference's; None if there is no run at all.

    Raises ConfigError for an unknown name.
    """
    pick(name, {known: known for known in names()}, "figure")
    described = describe_figure(name)
    answers = choose_answers(name, described, results, reference)
    if not any(answer.runs for answer in answers.values()):
        return None
    panels = tuple(draw_panel(panel, answers, marks(name)) for panel in described.panels
                   if panel_is_drawn(panel, answers))
    return DrawnFigure(name, described.title, described.x, described.y, described.styles, panels,
                       tuple(notes(name, described, panels, answers)))


def describe_figure(name: str) -> PublishedFigure:
    """The published description; of a short version with its own title, axes and networks."""
    variant, base = split_name(name)
    figure = published_figure(base)
    if variant is None:
        return structs.replace(figure, title=f"Figure {figure.name.removeprefix('figure')}: {figure.title}")
    preset = preset_of(variant, base)
    panels = tuple(structs.replace(panel, curves=tuple(curve for curve in panel.curves
                                                       if curve.experiment in (preset.experiments or ())))
                   for panel in figure.panels)
    name = title(variant, preset, f"Figure {base.removeprefix('figure')}")
    return structs.replace(figure, title=name, x=Axis("iterations"), y=Axis(figure.y.label, limits=(0, 100)),
                           panels=tuple(panel for panel in panels if panel.curves))


def choose_answers(name: str, figure: PublishedFigure, results: Path | None,
                   reference: Path) -> dict[str, RunSelection]:
    """For each experiment of a figure the answer that is drawn: yours if it has a run that counts."""
    chosen: dict[str, RunSelection] = {}
    for pool in reversed(pools(results, reference)):
        for answer in answers_of(name, figure, pool):
            if answer.runs or answer.experiment not in chosen:
                chosen[answer.experiment] = answer
    return chosen


def answers_of(name: str, figure: PublishedFigure, pool: RunSet) -> list[RunSelection]:
    """The runs of one origin that may stand in a figure: of its variant's preset, or the paper's."""
    variant, base = split_name(name)
    if variant is not None:
        return short_runs(pool, preset_of(variant, base))[1]
    experiments = {curve.experiment: None for panel in figure.panels for curve in panel.curves}
    return [paper_runs(pool, experiment) for experiment in experiments if experiment]


def panel_is_drawn(panel: Panel, answers: Mapping[str, RunSelection]) -> bool:
    """Every panel, but the right one of Figure 6 only with a run of ResNet-1202: ResNet-110 is in the middle too."""
    optional = any(curve.experiment == VERY_DEEP for curve in panel.curves)
    return not optional or bool(answers[VERY_DEEP].runs)


def draw_panel(panel: Panel, answers: Mapping[str, RunSelection], published: Mapping[str, float]) -> DrawnPanel:
    """The curves of a panel that have a run, and their published marks."""
    curves = tuple(DrawnCurve(curve, answers[curve.experiment], median_run(answers[curve.experiment]))
                   for curve in panel.curves if curve.experiment and answers[curve.experiment].runs)
    nets = [drawn.curve.net for drawn in curves]
    shown = {net: value for net, value in published.items() if net in nets and "test" in panel.errors}
    return DrawnPanel(panel, curves, shown)


def net_and_seed(run: Run) -> str:
    """'ResNet-20 (seed 0)'."""
    return f"{net_name(run.experiment)} (seed {run.seed})"


def marks(name: str) -> dict[str, float]:
    """Test errors that Table 6 prints (the mean where there is one); none on short versions and for plain networks."""
    if split_name(name)[0] is not None:
        return {}
    rows = published_table("table6").rows
    return {row.key: row.compared("test_top1_error") for row in rows if not row.published_only}


def notes(name: str, figure: PublishedFigure, panels: tuple[DrawnPanel, ...],
          answers: Mapping[str, RunSelection]) -> list[str]:
    """The small print: styles, what training error means, marks, whose runs, seeds, and what is missing."""
    errors = [error for error in figure.styles if any(error in panel.panel.errors for panel in panels)]
    lines = [", ".join(f"{figure.styles[error]}: {error} error" for error in errors) + f"; {TRAINING_NOTE}",
             *figure.notes]
    if any(panel.marks for panel in panels):
        lines.append("triangles at the right edge: published test errors (Table 6; ResNet-110: mean of 5 runs)")
    variant, base = split_name(name)
    if variant is not None:
        lines.append(warning(variant, preset_of(variant, base)))
    drawn = {curve.run.folder: curve for panel in panels for curve in panel.curves}
    lines += machine_notes((replace(curve.answer, runs=(curve.run,)) for curve in drawn.values()), net_and_seed)
    several = {f"{net_name(curve.answer.experiment)} (seed {curve.run.seed} of {len(curve.answer.runs)} seeds)": None
               for curve in drawn.values() if len(curve.answer.runs) > 1}
    if several:
        lines.append(f"drawn of several seeds: the one closest to the median {errors[-1]} error: {', '.join(several)}")
    missing = {net_name(curve.experiment): None for panel in figure.panels for curve in panel.curves
               if curve.experiment and not answers[curve.experiment].runs}
    return [*lines, f"not run: {', '.join(missing)}"] if missing else lines
