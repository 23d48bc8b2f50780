"""The import graph: imports go down only, torch and matplotlib stay where they are needed."""

import ast
import functools
import graphlib

import pytest

from repro.paths import PACKAGE

# From the bottom up: a module of repro/ or a package may import what stands on a lower floor, and its own package.
FLOORS = (
    {"__init__", "errors", "schema", "stopping", "wording"},
    {"paths", "streams"},
    {"files", "hydra_cli", "provenance"},
    {"config"},
    {"paper", "record"},
    {"runs"},
    {"devices", "models", "data"},
    {"weights"},
    {"evaluation", "reporting"},
    {"training"},
    {"bench", "checks", "completion"},
    {"api", "commands"},
    {"cli"},
    {"__main__"},
)
# To import these never loads torch (2 s); they, some aside, need none inside functions either.
NO_TORCH = {"__init__", "__main__", "api", "checks.__init__", "checks.record", "cli", "commands", "completion",
            "config", "data.cifar10_files", "data.imagenet_files", "errors", "files", "hydra_cli", "paper", "paths",
            "provenance", "record", "reporting", "runs", "schema", "stopping", "streams",
            "training.schedule", "wording"}
TORCH_WHEN_CALLED = {"api", "cli", "commands", "data.cifar10_files", "data.imagenet_files"}
HYDRA = {"config", "hydra_cli", "schema"}

SOURCES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


@functools.cache
def imports(module: str, late: bool = True) -> frozenset[str]:
    """What a module of ours imports: ours as data.loader, others as torch; without `late` at module level only."""
    tree = ast.parse(SOURCES[module].read_text(encoding="utf-8"))
    inside = {id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef)
              for node in ast.walk(function)}
    names = set()
    for node in ast.walk(tree):
        if id(node) in inside and not late:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(ours(name) or name.split(".")[0] for name in names)


def ours(name: str) -> str | None:
    """repro.data.loader.read_ahead as data.loader; None for what is not of this package."""
    first, *rest = name.split(".")
    if first != "repro":
        return None
    found = [".".join(part) for part in (rest, [*rest, "__init__"], rest[:-1], [*rest[:-1], "__init__"])]
    return next(name for name in found if name in SOURCES)


def loaded(module: str) -> set[str]:
    """All that importing a module loads: ours, and the first names of others."""
    seen, waiting = set(), {module}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        if name in SOURCES:
            waiting |= imports(name, late=False) - seen
    return seen


def floor(module: str) -> int:
    """The number of a module's floor."""
    number, = [number for number, names in enumerate(FLOORS) if module.split(".")[0] in names]
    return number


def named(module: str, names: set[str]) -> bool:
    """Whether a module or its package is one of these."""
    return bool({module, module.split(".")[0]} & names)


def test_imports_go_down_only():
    wrong = [f"{module} imports {name}" for module in SOURCES for name in imports(module) & set(SOURCES)
             if floor(name) >= floor(module) and name.split(".")[0] != module.split(".")[0]]
    assert not wrong
    assert {name for names in FLOORS for name in names} == {module.split(".")[0] for module in SOURCES}


def test_no_module_imports_itself_in_a_circle():
    graphlib.TopologicalSorter({module: imports(module) for module in SOURCES}).prepare()


def test_torch_is_loaded_by_what_needs_it_only():
    torch = {"torch", "torchvision"}
    wrong = [f"{module} loads torch" for module in SOURCES if named(module, NO_TORCH) and torch & loaded(module)]
    wrong += [f"{module} imports torch in a function" for module in SOURCES
              if named(module, NO_TORCH - TORCH_WHEN_CALLED) and torch & imports(module)]
    assert not wrong
    assert {name for name in NO_TORCH if not any(named(module, {name}) for module in SOURCES)} == set()


def test_matplotlib_is_imported_by_figures_only():
    assert {module for module in SOURCES if "matplotlib" in imports(module)} == {"reporting.figures"}
    assert not [module for module in SOURCES if "matplotlib" in loaded(module)], "and only to draw"


def test_hydra_is_known_to_the_configuration_only():
    assert {module for module in SOURCES if {"hydra", "omegaconf"} & imports(module)} == HYDRA


def test_the_graph_is_read_rightly():
    assert "torch" in loaded("training.launch")
    assert "training.launch" in imports("cli")
    assert "training.launch" not in imports("cli", late=False)
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()
