"""The import graph: imports go down only, torch, Hydra and matplotlib stay where they are needed."""

import ast
import functools
import graphlib

from repro.paths import PACKAGE

# From the bottom up: a module of repro/ or a package may import what stands on a lower layer, and its own package.
LAYERS = (
    {"__init__", "errors", "schema", "stopping"},
    {"paths", "streams"},
    {"files"},
    {"config"},
    {"paper"},
    {"runs"},
    {"devices", "models", "data"},
    {"weights"},
    {"evaluation", "reporting"},
    {"training"},
    {"bench", "checks"},
    {"api", "commands"},
    {"cli"},
    {"__main__"},
)
# To import these loads torch (2 s); all others never do, and of them TORCH_WHEN_CALLED alone import it in functions.
TORCH = {"bench", "checks.installation", "data", "devices", "evaluation", "models", "training", "weights"}
NO_TORCH = {"data.cifar10_files", "training.schedule", "data.__init__", "evaluation.__init__",
            "training.__init__"}
TORCH_WHEN_CALLED = {"api", "cli", "commands", "data.cifar10_files"}
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
    return frozenset(map(ours, names))


def ours(name: str) -> str:
    """repro.data.loader.read_ahead as data.loader; of another package its first name."""
    first, *rest = name.split(".")
    found = [".".join(part) for part in (rest, [*rest, "__init__"], rest[:-1], [*rest[:-1], "__init__"])]
    return next(name for name in found if name in SOURCES) if first == "repro" else first


def loaded(module: str) -> set[str]:
    """All that importing a module loads: ours, and the first names of others."""
    seen, waiting = set(), {module}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        if name in SOURCES:
            waiting |= imports(name, late=False) - seen
    return seen


def test_imports_go_down_only():
    layers = {name: number for number, names in enumerate(LAYERS) for name in names}
    assert set(layers) == {module.split(".")[0] for module in SOURCES}
    assert [f"{module} imports {name}" for module in SOURCES for name in imports(module) & set(SOURCES)
            if layers[name.split(".")[0]] >= layers[module.split(".")[0]] and
            name.split(".")[0] != module.split(".")[0]] == []


def test_no_module_imports_itself_in_a_circle():
    graphlib.TopologicalSorter({module: imports(module) for module in SOURCES}).prepare()


def test_torch_is_loaded_by_what_needs_it_only():
    torch, wrong = {"torch", "torchvision"}, []
    for module in SOURCES:
        if {module, module.split(".")[0]} & TORCH and module not in NO_TORCH:
            continue
        wrong += [f"{module} loads torch"] if torch & loaded(module) else []
        wrong += [f"{module} imports torch in a function"] if torch & imports(module) - (
            torch if module in TORCH_WHEN_CALLED else set()) else []
    assert wrong == []
    assert "torch" in loaded("training.train")


def test_matplotlib_is_imported_only_to_draw_and_hydra_known_to_the_configuration_only():
    assert [module for module in SOURCES if "matplotlib" in loaded(module)] == []
    assert {module for module in SOURCES if {"hydra", "omegaconf"} & imports(module)} == {
        "config", "schema"}
