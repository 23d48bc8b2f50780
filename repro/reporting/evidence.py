"""What tables and figures say about runs in words and in JSON: errors, machine, precision, split, extras."""

from collections.abc import Callable, Iterable
from typing import Any

from repro.paper import SecondReferences, golden_count
from repro.reporting.selection import RunSelection, error_key, precision, record, run_name
from repro.reporting.statistics import Summary
from repro.runs import Run

AVERAGED = "test error, averaged BN"
SPLITS = {"full": "trained on all 50,000 training images", "45k": "trained on 45,000 images",
          "synthetic": "trained and tested on synthetic images",
          "imagenet": "trained on all training images of ImageNet"}


def answer_data(answer: RunSelection) -> dict[str, Any]:
    """The numbers of an answer for JSON: the summary and each seed (errors in percent)."""
    data: dict[str, Any] = {"status": answer.status, "seeds": [seed_data(run) for run in answer.runs]}
    if answer.runs:
        summary = answer.summary()
        data |= {"k": summary.k, "best": summary.best, "mean": round(summary.mean, 6),
                 "std": None if summary.std is None else round(summary.std, 6)}
    return data


def seed_data(run: Run) -> dict[str, Any]:
    """One run for JSON: errors at the last iteration, best-on-test as a labeled extra, machine, identity."""
    content = record(run)
    result, error = content.result or {}, error_key(run)
    return {"seed": run.seed, "run": run_name(run), "identity": run.identity, "iteration": result["iteration"],
            "train_top1_error": result["train_top1_error"], error: result[error],
            "extra_best_on_test": content.best_on_test,
            "extra_averaged_batch_norm": content.recomputed_batch_norm,
            "device": device(run), "precision": precision(run),
            "split": split(run), "train_seconds": content.train_seconds,
            "evaluation_seconds": content.evaluation_seconds}


def device(run: Run) -> str:
    """The recorded device, such as 'NVIDIA H200'."""
    return record(run).environment.device or "unknown device"


def split(run: Run) -> str:
    """The recorded split of the training images, full or 45k; of made ones: synthetic; imagenet: all of ImageNet's."""
    data = record(run).config.data
    return data.name if data.name in SPLITS else data.split.name


def machine_notes(answers: Iterable[RunSelection], name: Callable[[Run], str] = run_name) -> list[str]:
    """One line for each origin, machine, precision and split: which runs were made there."""
    groups: dict[str, list[str]] = {}
    for answer in answers:
        for run in answer.runs:
            where = f"{answer.origin}: {device(run)}, {precision(run)}, {SPLITS.get(split(run), split(run))}"
            groups.setdefault(where, []).append(name(run))
    return [f"{where}: {', '.join(names)}" for where, names in groups.items()]


def best_on_test_notes(answers: Iterable[RunSelection]) -> list[str]:
    """The lowest test error over all evaluations, labeled as an extra that is no result."""
    found = []
    for answer in answers:
        for run in answer.runs:
            best = record(run).best_on_test or {}
            if "test_top1_error" in best:
                found.append(f"{run_name(run)} ({answer.origin}) {best['test_top1_error']:.2f} "
                             f"at iteration {best.get('iteration', '?')}")
    label = "extra, not a result (the best evaluation is chosen on the test set): "
    return [label + "; ".join(found)] if found else []


def averaged_statistics_error(answer: RunSelection) -> str:
    """The test error (percent) with plainly averaged BN statistics; '-' unless every run that counts has it."""
    found = [(record(run).recomputed_batch_norm or {}).get(error_key(run)) for run in answer.runs]
    errors = tuple(float(error) for error in found if error is not None)
    return str(Summary(errors)) if errors and len(errors) == len(found) else "-"


def averaged_notes(answers: Iterable[RunSelection]) -> list[str]:
    """One line that says what averaged BN statistics are, where a run has them."""
    images: set[Any] = {(record(run).recomputed_batch_norm or {}).get("images") for answer in answers
                        for run in answer.runs} - {None}
    if not images:
        return []
    counts = " or ".join(f"{count:,}" for count in sorted(images))
    return [f"{AVERAGED}: an extra beside the result, which uses moving averages: BN statistics are plain averages "
            f"over {counts} training images after the last iteration (authors' README)"]


def second_reference(references: SecondReferences, net: str) -> str:
    """Others' test errors of a network with their source, `*` best epoch on test, `+` another network, [training]."""
    found = []
    for source in references.sources:
        if net in source.errors:
            errors = source.errors[net]
            train = "" if errors.train is None else f" [{errors.train:.2f}]"
            marks = "*" * source.best_on_test + "+" * (not source.same_network)
            found.append(f"{errors.test:.2f}{train}{marks} {source.key}")
    if net in references.usual:
        usual = references.usual[net]
        found.append(f"usual {usual[0]} to {usual[1]}" if len(usual) == 2 else f"usual about {usual[0]}")
    return "; ".join(found) or "-"


def second_reference_notes(references: SecondReferences, nets: Iterable[str]) -> list[str]:
    """One line that says who the second references are and how they measured."""
    shown = list(nets)
    used = [source for source in references.sources if any(net in source.errors for net in shown)]
    listed = "; ".join(f"{source.key} = {source.repository} ({source.protocol})" for source in used)
    star = " * = best epoch on the test set." if any(source.best_on_test for source in used) else ""
    plus = " + = another network." if not all(source.same_network for source in used) else ""
    return [f"second references: {listed}.{star}{plus}"]


def parameters(layers: int) -> str:
    """The exact parameter count of a CIFAR-10 network, option A or plain."""
    return f"{golden_count('cifar10', layers).parameters['A']:,}"


def layers_of(net: str) -> int:
    """20 for 'plain-20'."""
    return int(net.rpartition("-")[2])
