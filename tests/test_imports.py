"""The import graph as data: imports go down only, torch and matplotlib stay where they are needed."""

import ast
import functools
from pathlib import Path

import pytest

from repro.places import PACKAGE

# Layers from the top down; a layer may import what stands in its row. "base" are the modules of repro/ itself that
# everything may use; `devices` is the only one of them that needs torch.
ALLOWED = {
    "__main__": {"cli"},
    "cli": {"hydra_cli", "commands", "completion", "training", "base"},
    "commands": {"commands", "publishing", "reporting", "training", "evaluation", "data", "doctor",
                 "bench", "records", "weights", "verification", "base"},
    "hydra_cli": {"training", "base"},
    "publishing": {"base"},
    "doctor": {"data", "base"},
    "completion": {"reporting", "base"},
    "reporting": {"reporting", "base"},
    "records": {"records", "publishing", "reporting", "training", "evaluation", "data", "base"},
    "bench": {"bench", "training", "models", "data", "devices", "base"},
    "weights": {"weights", "evaluation", "models", "base"},
    "verification": {"records", "reporting", "training", "evaluation", "models", "data", "base"},
    "training": {"training", "models", "data", "evaluation", "devices", "base"},
    "evaluation": {"evaluation", "models", "data", "devices", "base"},
    "data": {"data", "base"},
    "models": {"models", "base"},
    "devices": {"base"},
    "base": {"base"},
}
# Within the base: who may import whom.
BASE = {
    "__init__": set(),
    "errors": set(),
    "schema": set(),
    "places": {"errors", "wording"},
    "ranges": {"errors", "schema"},
    "wording": set(),
    "hydra_guard": {"errors", "places"},
    "config": {"errors", "hydra_guard", "places", "ranges", "schema", "wording"},
    "provenance": {"__init__", "places"},
    "versions": {"__init__", "places"},
    "paper": {"config", "errors", "places"},
    "runs": {"config", "errors", "places", "ranges", "schema", "wording"},
    "stopping": set(),
    "streams": {"errors"},
}
NO_TORCH = ["cli", "commands", "hydra_cli", "hydra_guard", "wording", "config", "ranges", "schema", "errors", "places",
            "paper", "runs", "provenance", "publishing", "versions", "completion", "__init__",
            "__main__", "records", "reporting", "training.schedule", "training.__init__", "evaluation.__init__",
            "evaluation.views", "bench.__init__", "bench.plan", "data.__init__", "data.pictures", "data.parts",
            "data.imagenet_labels", "streams"]
DRAWING = {"reporting.figures", "reporting.layer_figures"}  # all that imports matplotlib
# Modules that import torch may be imported inside a function only by the command line.
LATE = {"cli", "hydra_cli", "commands"}

SOURCES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


@functools.cache
def imported(path: Path, late: bool = True) -> frozenset[str]:
    """Names that a module imports, e.g. repro.config or torch.nn; without `late` those at module level only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {id(node) for function in ast.walk(tree) if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
             for node in ast.walk(function)}
    names: set[str] = set()
    for node in ast.walk(tree):
        if not late and id(node) in inner:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {resolved(node.module or "", alias.name) for alias in node.names}
    return frozenset(names)


def resolved(module: str, name: str) -> str:
    """`from repro import config` imports a module, `from repro.config import compose` a name of one."""
    inside = ".".join([*module.split(".")[1:], name])
    return f"{module}.{name}" if module.split(".")[0] == "repro" and is_module(inside) else module


def is_module(name: str) -> bool:
    return name in SOURCES or f"{name}.__init__" in SOURCES


def inner_name(imported_name: str) -> str | None:
    """`repro.data.fetch` as data.fetch; None for what is not ours."""
    first, _, rest = imported_name.partition(".")
    return (rest or "__init__") if first == "repro" else None


def layer(module: str) -> str:
    """The layer of one of our modules."""
    first = module.split(".")[0]
    return "base" if first in BASE else first


def ours(module: str, late: bool = True) -> set[str]:
    """Our modules that one of ours imports."""
    found = {inner_name(name) for name in imported(SOURCES[module], late)}
    return {name for name in found if name is not None}


def external(module: str, late: bool = True) -> set[str]:
    """First names of other packages that a module imports."""
    return {name.split(".")[0] for name in imported(SOURCES[module], late)} - {"repro"}


def closure(module: str) -> set[str]:
    """All of our modules that importing this one loads, itself and the packages on the way included."""
    seen: set[str] = set()
    waiting = {module}
    while waiting:
        name = waiting.pop()
        if name not in SOURCES:
            name += ".__init__"
        if name in seen:
            continue
        seen.add(name)
        waiting |= ours(name, late=False)
        waiting |= {"__init__", f"{name.split('.')[0]}.__init__"} & set(SOURCES)
    return seen


def without_torch() -> list[str]:
    return [module for module in SOURCES for name in NO_TORCH if module == name or module.startswith(f"{name}.")]


def test_every_module_has_a_layer():
    assert {layer(module) for module in SOURCES} == set(ALLOWED)
    assert {module for module in SOURCES if layer(module) == "base"} == set(BASE)


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_imports_go_down_only(module):
    here = layer(module)
    wrong = {name for name in ours(module) if layer(name) not in ALLOWED[here]}
    assert not wrong, f"{module} ({here}) may not import {', '.join(sorted(wrong))}"
    if here == "base":
        assert ours(module) <= BASE[module], f"{module} may import {BASE[module]}"


def test_nothing_is_allowed_that_nobody_needs():
    for here, below in ALLOWED.items():
        used = {layer(name) for module in SOURCES if layer(module) == here for name in ours(module)}
        assert below - {here} <= used, f"{here} no longer imports {', '.join(sorted(below - used))}"


def test_the_layers_are_no_circle():
    order: list[str] = []
    waiting = {name: {other for other in below if other != name} for name, below in ALLOWED.items()}
    while waiting:
        free = [name for name, below in waiting.items() if below <= set(order)]
        assert free, f"a circle among {', '.join(waiting)}"
        order += free
        waiting = {name: below for name, below in waiting.items() if name not in free}


def test_no_module_imports_itself_in_a_circle():
    for module in SOURCES:
        below: set[str] = set()
        waiting = ours(module)
        while waiting:
            name = waiting.pop()
            name = name if name in SOURCES else f"{name}.__init__"
            if name not in below:
                below.add(name)
                waiting |= ours(name)
        assert module not in below, f"{module} is imported by what it imports"


@pytest.mark.parametrize("module", sorted(without_torch()))
def test_importing_it_never_imports_torch(module):
    guilty = {name for name in closure(module) if {"torch", "torchvision"} & external(name, late=False)}
    assert not guilty, f"{module} loads {', '.join(sorted(guilty))}, which imports torch"
    inside = {"torch", "torchvision"} & external(module)
    assert layer(module) in LATE or not inside, f"{module} imports torch in a function"


def test_the_rule_about_torch_finds_something():
    """The graph is read rightly: what is known to need torch is seen to."""
    assert "devices" in closure("training.engine")
    assert "torch" in external("training.step", late=False)
    assert "training.engine" in ours("cli")
    assert "training.engine" not in ours("cli", late=False)


def test_matplotlib_is_imported_by_figures_only():
    assert {module for module in SOURCES if "matplotlib" in external(module)} == DRAWING
    loads = {module for module in SOURCES if DRAWING & closure(module)}
    assert loads == DRAWING, "and these modules late"


def test_hydra_is_known_to_the_configuration_only():
    hydra = {module for module in SOURCES if {"hydra", "omegaconf"} & external(module)}
    assert hydra == {"config", "hydra_cli", "hydra_guard", "schema"}
