"""The tables of short runs and of runs on synthetic images: labeled, and never the paper's schedule."""

from pathlib import Path

from repro.paper import Preset
from repro.reporting import evidence
from repro.reporting.selection import REFERENCE, RunSelection, is_number, pools, short_runs
from repro.reporting.statistics import Summary
from repro.reporting.table import Table, TableRow
from repro.reporting.variants import NOT_CIFAR, SHORT, SYNTHETIC, lengths, net_name, preset_of, schedule_text

COLUMNS = {"net": "network", "origin": "origin", "train": "training error (%)", "test": "test error (%)",
           "averaged": f"{evidence.AVERAGED} (%)",
           "iterations": "iterations", "precision": "precision", "device": "device", "seconds": "wall time (s)"}


def short_cifar_plain_vs_res(results: Path | None, reference: Path) -> Table:
    """Training and test error (percent) of the short runs at their last iteration."""
    preset = preset_of(SHORT, "table")
    title = f"Short runs: {schedule_text(preset)}; not the paper's schedule. Plain and residual networks on CIFAR-10"
    return preset_table("short_cifar_plain_vs_res", title, preset, [
        f"Short runs: {schedule_text(preset)}: not the paper's schedule; no number of the paper belongs beside them",
        f"so short a run shows {preset.shows}",
        f"it cannot show {preset.cannot_show}"], results, reference)


def synthetic_demo(results: Path | None, reference: Path) -> Table:
    """The same of the demonstration's runs on synthetic images."""
    preset = preset_of(SYNTHETIC, "table")
    title = f"{NOT_CIFAR}: plain and residual networks, {schedule_text(preset)}"
    return preset_table("synthetic_demo", title, preset, [
        f"{NOT_CIFAR}: a demonstration; no number of the paper belongs beside these",
        f"it shows {preset.shows}",
        f"it cannot show {preset.cannot_show}"], results, reference)


def preset_table(name: str, title: str, preset: Preset, head: list[str], results: Path | None,
                 reference: Path) -> Table:
    """Training and test error (percent) of a preset's runs at their last iteration."""
    rows: list[TableRow] = []
    notes: list[str] = []
    answers: list[RunSelection] = []
    for pool in reversed(pools(results, reference)):
        precision, own = short_runs(pool, preset)
        if pool.origin == REFERENCE and name == "synthetic_demo":
            continue  # no run on synthetic images is ever committed
        answers += own
        rows += [short_row(answer, preset) for answer in own]
        notes += comparison_notes(pool.origin, own)
        if precision is not None:
            notes.append(f"{pool.origin}: runs in {precision} (all of one origin are in one precision)")
    errors = ("errors after the last iteration; training error: mean over the augmented mini-batches since the "
              "previous evaluation; wall time: training and evaluation of one run (of several seeds: their mean)")
    tail = [*evidence.averaged_notes(answers), *evidence.machine_notes(answers),
            *(note for answer in answers for note in answer.notes())]
    return Table(name, title, COLUMNS, tuple(rows), (*head, errors, *notes, *tail))


def short_row(answer: RunSelection, preset: Preset) -> TableRow:
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
              "averaged": evidence.averaged_statistics_error(answer),
              "precision": runs[0]["precision"], "device": ", ".join(sorted({run["device"] for run in runs})),
              "seconds": f"{Summary(tuple(seconds)).mean:.0f}" if seconds else "-"}
    return TableRow(key, cells, "short run", None, evidence.answer_data(answer))


def comparison_notes(origin: str, answers: list[RunSelection]) -> list[str]:
    """What these runs measured of what so short a run can show: differences of training errors in points."""
    errors = {answer.experiment: answer.summary("train_top1_error").mean for answer in answers if answer.runs}
    pairs = [("cifar_plain56", "cifar_plain20"), ("cifar_plain56", "cifar_resnet56")]
    shown = [f"{net_name(one)} minus {net_name(other)} {errors[one] - errors[other]:+.2f}"
             for one, other in pairs if one in errors and other in errors]
    return [f"{origin}: measured training errors, points: {'; '.join(shown)}"] if shown else []
