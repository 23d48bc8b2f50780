"""The few functions for notebooks and scripts; words such as "model.depth=32" are those of the command line."""

from pathlib import Path
from typing import Any

from repro.config import compose
from repro.paths import reference_dir, results_dir
from repro.runs import Run, find_run, scan


def build_model(experiment: str, *words: str) -> Any:
    """The network (a torch.nn.Module) of an experiment with the initial values of its seed, on the CPU."""
    from repro import models

    config = compose([f"experiment={experiment}", *words])
    return models.build_model(config.model, config.seed)


def load_model(weights: str | Path, *words: str) -> Any:
    """A trained network, in evaluation mode on the CPU: of a run (EXPERIMENT/seedK or its folder), or of a file."""
    from repro import models
    from repro.weights import compose_for, load_weights

    path = weights_path(weights)
    return load_weights(models.build_model(compose_for(words, path).model), path).eval()


def import_weights(file: str | Path, layout: str, output: str | Path | None = None) -> Path:
    """A checkpoint of "torchvision" or "akamaster" as a file for `load_model` and `evaluate`."""
    from repro import weights

    path = Path(output or results_dir() / "imported" / f"{Path(file).stem}.pt")
    weights.import_weights(Path(file), layout, path)
    return path


def evaluate(weights: Any, *words: str, protocol: str = "center") -> dict[str, Any]:
    """What `repro eval` measures of a run, of a file, or of a network in memory (with "experiment=NAME")."""
    from repro.evaluation import evaluate as evaluation
    from repro.stopping import StopRequest
    from repro.weights import compose_for

    given = weights_path(weights) if isinstance(weights, str | Path) else weights
    config = compose_for(words, given) if isinstance(given, Path) else compose(words)
    return evaluation.evaluate(config, protocol, given, StopRequest())[1]  # not entered: Ctrl-C stays what it is


def weights_path(weights: str | Path) -> Path:
    return Path(weights) if Path(weights).is_file() else read_run(weights).folder / "weights.pt"


def read_run(name: str | Path) -> Run:
    """A run of yours or a committed one, EXPERIMENT/seedK or its folder: .record, .history() (a dict for each row)."""
    return find_run(str(name), results_dir(), reference_dir())


def list_runs() -> list[Run]:
    return scan(results_dir() / "runs")


def table(name: str) -> dict[str, Any]:
    """A table as plain data: title, columns, rows (key, status, cells, data), notes."""
    from repro.reporting.select import pools
    from repro.reporting.tables import build

    return build(name, pools(results_dir(), reference_dir())).as_json()
