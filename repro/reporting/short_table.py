"""The table of the short runs: a labelled version of the experiment that is never the paper's schedule."""

from pathlib import Path

from repro.config import scaled
from repro.paper import suite
from repro.published import Preset
from repro.reporting import evidence
from repro.reporting.selection import Answer, is_number, overridden, pools, short_runs
from repro.reporting.statistics import Summary
from repro.reporting.table import Table, TableRow

SUITE, PRESET = "cifar_plain_vs_res", "short"
COLUMNS = {"net": "network", "origin": "origin", "train": "training error (%)", "test": "test error (%)",
           "iterations": "iterations", "precision": "precision", "device": "device", "seconds": "wall time (s)"}


def short_preset() -> Preset:
    """The short variant of the suite."""
    return suite(SUITE).preset(PRESET)


def lengths(preset: Preset) -> tuple[int, int, list[int]]:
    """(iterations of a short run, of the paper's, iterations of the short run's drops)."""
    config = overridden((preset.experiments or ())[0], preset.overrides)
    train = config.train
    return (scaled(train.iterations, config.scale), train.iterations,
            [scaled(drop, config.scale) for drop in train.lr_drops])


def schedule_text(preset: Preset) -> str:
    """'300 iterations instead of 64,000, drops at 150 and 225'."""
    short, paper, drops = lengths(preset)
    return f"{short:,} iterations instead of {paper:,}, drops at {' and '.join(str(drop) for drop in drops)}"


def net_name(experiment: str) -> str:
    """'ResNet-20' for cifar_resnet20, 'plain-20' for cifar_plain20."""
    bare = experiment.removeprefix("cifar_")
    family = "ResNet" if bare.startswith("resnet") else "plain"
    return f"{family}-{bare.removeprefix(family.lower())}"


def short_cifar_plain_vs_res(results: Path | None, reference: Path) -> Table:
    """Training and test error (percent) of the short runs at their last iteration."""
    preset = short_preset()
    rows: list[TableRow] = []
    notes: list[str] = []
    answers: list[Answer] = []
    for pool in reversed(pools(results, reference)):
        precision, own = short_runs(pool, preset)
        answers += own
        rows += [short_row(answer, preset) for answer in own]
        notes += comparison_notes(pool.origin, own)
        if precision is not None:
            notes.append(f"{pool.origin}: runs in {precision} (all of one origin are in one precision)")
    title = f"Short runs: {schedule_text(preset)}; not the paper's schedule. Plain and residual networks on CIFAR-10"
    head = [
        f"Short runs: {schedule_text(preset)}: not the paper's schedule; no number of the paper belongs beside them",
        f"so short a run shows {preset.shows}",
        f"it cannot show {preset.cannot_show}",
        "errors after the last iteration; training error: mean over the augmented mini-batches since the previous "
        "evaluation; wall time: training and evaluation of one run (of several seeds: their mean)",
    ]
    tail = [*evidence.machine_notes(answers), *(note for answer in answers for note in answer.notes())]
    return Table("short_cifar_plain_vs_res", title, COLUMNS, tuple(rows), (*head, *notes, *tail))


def short_row(answer: Answer, preset: Preset) -> TableRow:
    """One network from one origin."""
    key = f"{answer.experiment}/{answer.origin}"
    short, paper, _ = lengths(preset)
    cells = {"net": net_name(answer.experiment), "origin": answer.origin, "iterations": f"{short} of {paper}"}
    if not answer.runs:
        return TableRow(key, cells | {"test": answer.status}, answer.status)
    runs = [evidence.seed_data(run) for run in answer.runs]
    seconds = [float(run["train_seconds"]) + float(run["evaluation_seconds"]) for run in runs
               if is_number(run["train_seconds"]) and is_number(run["evaluation_seconds"])]
    cells |= {"train": str(answer.summary("train_top1_error")), "test": str(answer.summary()),
              "precision": runs[0]["precision"], "device": ", ".join(sorted({run["device"] for run in runs})),
              "seconds": f"{Summary(tuple(seconds)).mean:.0f}" if seconds else "-"}
    return TableRow(key, cells, "short run", None, evidence.answer_data(answer))


def comparison_notes(origin: str, answers: list[Answer]) -> list[str]:
    """What these runs measured of what so short a run can show: differences of training errors in points."""
    errors = {answer.experiment: answer.summary("train_top1_error").mean for answer in answers if answer.runs}
    pairs = [("cifar_plain56", "cifar_plain20"), ("cifar_plain56", "cifar_resnet56")]
    shown = [f"{net_name(one)} minus {net_name(other)} {errors[one] - errors[other]:+.2f}"
             for one, other in pairs if one in errors and other in errors]
    return [f"{origin}: measured training errors, points: {'; '.join(shown)}"] if shown else []
