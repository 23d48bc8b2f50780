"""Read experiments/: what the paper printed and which runs answer it. Never imports torch.

Every reader raises ConfigError (exit 2) that names the file and the key, for a key that is wrong, missing, given
twice or of the wrong type, and for a name that does not exist. `repro.published` has the shapes.
"""

import re
from collections.abc import Callable, Hashable
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from repro.config import check_experiment, experiments, keys, suggest
from repro.errors import ConfigError
from repro.places import conf_dir, experiments_dir, shown
from repro.published import (
    PROTOCOLS,
    Claim,
    Claims,
    Ensemble,
    GoldenCount,
    GoldenCounts,
    PublishedFigure,
    PublishedTable,
    Recipe,
    SecondReferences,
    Suite,
    pick,
)

T = TypeVar("T")
KINDS = {list: "a list", dict: "a mapping", str: "text", int: "a whole number", float: "a number",
         bool: "true or false"}
MEASURES = ("training_error", "convergence_area", "final_error", "responses")
RELATIONS: dict[str, Callable[[int], bool]] = {  # and of how many experiments
    "rising": lambda count: count >= 2, "not_falling": lambda count: count >= 2, "close": lambda count: count == 2,
    "below": lambda count: count == 1}
PLAIN_NETS = "plain_nets"  # the table of the plain CIFAR-10 networks, which stand in no table of the paper


class UniqueKeyLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML in which a key that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping of a node; ConstructorError with file and line for a second key of the same name."""
        seen = set()
        for key_node, _ in node.value:
            if str(key_node.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key_node.value!r} is given twice",
                                                        key_node.start_mark)
            seen.add(str(key_node.value))
        result: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return result


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; ConfigError with file and line if it can't be read."""
    try:
        with path.open(encoding="utf-8") as file:
            return yaml.load(file, UniqueKeyLoader)
    except OSError as error:
        raise ConfigError(f"{shown(path)}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown(path)}: {error}") from error


def parse(kind: Any, value: Any, where: str) -> Any:
    """A value from YAML as `kind`: a dataclass, number, text, bool, or a tuple, dict or optional of these."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if value is None else parse(next(arg for arg in args if arg is not NoneType), value, where)
    if is_dataclass(kind):
        return parse_fields(kind, value, where)
    if origin is tuple:
        entries = expect(list, value, where)
        return tuple(parse(args[0], entry, f"{where}[{index}]") for index, entry in enumerate(entries))
    if origin is dict:
        return {expect(str, key, where): parse(args[1], entry, f"{where}.{key}")
                for key, entry in expect(dict, value, where).items()}
    return expect(kind, value, where)


def parse_fields(kind: Any, value: Any, where: str) -> Any:
    """A mapping from YAML as a dataclass; ConfigError for unknown and missing keys."""
    known = {entry.name: entry for entry in fields(kind)}
    types = get_type_hints(kind)
    given = expect(dict, value, where)
    for key in given:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{suggest(str(key), list(known))}")
    for key, entry in known.items():
        if key not in given and entry.default is MISSING and entry.default_factory is MISSING:
            raise ConfigError(f"{where}: no value for {key!r}")
    separator = "." if ":" in where else ": "
    return kind(**{key: parse(types[key], entry, f"{where}{separator}{key}") for key, entry in given.items()})


def expect(kind: type[T], value: Any, where: str) -> T:
    """The value if it is of this type (an int passes for a float); ConfigError otherwise."""
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{where}: {value!r} is not {KINDS[kind]}")
    assert isinstance(value, kind)
    return value


def read_as(kind: type[T], path: Path) -> T:
    """A YAML file as a dataclass."""
    result = parse(kind, read_yaml(path), shown(path))
    assert isinstance(result, kind)
    return result


def names_in(folder: Path, pattern: str) -> list[str]:
    """Names of the YAML files of a folder whose names match, in natural order."""
    found = [path.stem for path in folder.glob("*.yaml") if re.fullmatch(pattern, path.stem)]
    return sorted(found, key=lambda name: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", name)])


def read_named(kind: type[T], folder: Path, names: list[str], name: str, what: str) -> T:
    """One of the named files of a folder, whose own `name` must agree with its file's."""
    path = folder / f"{pick(name, {known: known for known in names}, what)}.yaml"
    result = read_as(kind, path)
    if getattr(result, "name", None) != name:
        raise ConfigError(f"{shown(path)}: name is {getattr(result, 'name', None)!r}, not {name!r}")
    return result


def published_dir() -> Path:
    """The folder of the paper's facts."""
    return experiments_dir() / "published"


def tables() -> list[str]:
    """Names of the paper's tables: table1 to table8."""
    return names_in(published_dir(), r"table\d+")


def published_table(name: str) -> PublishedTable:
    """One table as printed; ConfigError for an unknown name."""
    table = read_named(PublishedTable, published_dir(), tables(), name, "published table")
    columns = {column.key for column in table.columns}
    for row in table.rows:
        if not row.values or not columns.issuperset(row.values):
            raise ConfigError(f"{name}.yaml: row {row.key}: values must be among {', '.join(sorted(columns))}")
    if len({row.key for row in table.rows}) < len(table.rows):
        raise ConfigError(f"{name}.yaml: two rows have the same key")
    return table


def figures() -> list[str]:
    """Names of the paper's figures that the project redraws."""
    return names_in(published_dir(), r"figure\d+")


def published_figure(name: str) -> PublishedFigure:
    """The description of one figure; ConfigError for an unknown name."""
    figure = read_named(PublishedFigure, published_dir(), figures(), name, "published figure")
    for panel in figure.panels:
        for error in panel.errors:
            pick(error, figure.styles, f"style in {name}.yaml")
        for curve in panel.curves:
            if curve.experiment is not None:
                check_experiment(curve.experiment)
    return figure


def second_references() -> SecondReferences:
    """What others measured with the paper's recipe."""
    return read_as(SecondReferences, published_dir() / "second_references.yaml")


def golden_counts() -> GoldenCounts:
    """Exact counts of parameters and multiply-adds."""
    return read_as(GoldenCounts, published_dir() / "golden_counts.yaml")


def golden_count(dataset: str, layers: int) -> GoldenCount:
    """The counts of one network of `cifar10` or `imagenet`; ConfigError if it is not counted."""
    counts = golden_counts()
    nets = pick(dataset, {"cifar10": counts.cifar10, "imagenet": counts.imagenet}, "data set in golden_counts.yaml")
    return pick(str(layers), {str(count.layers): count for count in nets}, f"{dataset} network in golden_counts.yaml")


def claims() -> tuple[Claim, ...]:
    """The paper's statements that can be checked; ConfigError for a test that can't be made."""
    found = read_as(Claims, published_dir() / "claims.yaml")
    known = {name: name for name in experiments()}
    for claim in found.claims:
        where = f"(in claims.yaml: {claim.id})"
        if not claim.tests:
            raise ConfigError(f"claims.yaml: {claim.id} has no test")
        for test in claim.tests:
            pick(test.measure, {name: name for name in MEASURES}, f"measure {where}")
            pick(test.relation, {name: name for name in RELATIONS}, f"relation {where}")
            for experiment in test.experiments:
                pick(experiment, known, f"experiment {where}")
            if not RELATIONS[test.relation](len(test.experiments)):
                raise ConfigError(f"claims.yaml: {claim.id}: {test.relation} can't be tested on "
                                  f"{len(test.experiments)} experiments")
    return found.claims


def pinned_hashes() -> dict[str, str]:
    """The configuration hash of each experiment as the paper has it, in fp32, pinned in identities.yaml."""
    path = experiments_dir() / "identities.yaml"
    found: dict[str, str] = parse(dict[str, str], read_yaml(path), shown(path))
    return found


def recipes() -> list[str]:
    """Names of the well-known recipes of others."""
    return names_in(experiments_dir() / "recipes", r".+")


def recipe(name: str) -> Recipe:
    """One recipe of others; ConfigError for an unknown name and for a key that no configuration has."""
    found = read_named(Recipe, experiments_dir() / "recipes", recipes(), name, "recipe")
    for key in found.why:
        pick(key, {known: known for known in keys()}, f"key (in recipes/{name}.yaml: why)")
    return found


def ensembles() -> list[str]:
    """Names of all ensembles."""
    return names_in(experiments_dir() / "ensembles", r".+")


def ensemble(name: str) -> Ensemble:
    """One ensemble; ConfigError for an unknown name and for members, a protocol or a row that don't exist."""
    found = read_named(Ensemble, experiments_dir() / "ensembles", ensembles(), name, "ensemble")
    where = f"ensembles/{name}.yaml"
    pick(found.protocol, {known: known for known in PROTOCOLS}, f"protocol (in {where})")
    for member in found.members:
        pick(member.experiment, {known: known for known in experiments()}, f"experiment (in {where}: members)")
    if len(found.members) < 2 or len(set(found.members)) < len(found.members):
        raise ConfigError(f"{where}: members: needed are at least two, each of them once")
    if found.reproduces is not None:
        table, _, row = found.reproduces.partition("/")
        published_table(table).row(row)
    return found


def suites() -> list[str]:
    """Names of all suites."""
    return names_in(experiments_dir() / "suites", r".+")


def suite(name: str) -> Suite:
    """One suite; ConfigError for an unknown name and for a wrong, missing or contradictory key in its file."""
    found = read_named(Suite, experiments_dir() / "suites", suites(), name, "suite")
    where = f"suites/{name}.yaml"
    known = {claim.id: claim for claim in claims()}
    for claim in found.claims:
        pick(claim, known, f"claim (in {where}: claims)")
    for experiment in found.experiments:
        pick(experiment, {known: known for known in experiments()}, f"experiment (in {where}: experiments)")
    members = {experiment: experiment for experiment in found.experiments}
    for experiment, seeds in found.seeds.items():
        pick(experiment, members, f"experiment of the suite (in {where}: seeds)")
        if seeds < 1:
            raise ConfigError(f"{where}: seeds.{experiment}={seeds}: allowed is at least 1")
    for protocol in found.protocols:
        pick(protocol, {known: known for known in PROTOCOLS}, f"protocol (in {where}: protocols)")
    for ensemble_name in found.ensembles:
        pick(ensemble_name, {known: known for known in ensembles()}, f"ensemble (in {where}: ensembles)")
    for preset_name, preset in found.presets.items():
        for experiment in preset.experiments or ():
            pick(experiment, members, f"experiment of the suite (in {where}: presets.{preset_name}.experiments)")
    return found


def reproduced_rows() -> dict[str, str]:
    """{"table6/resnet-20": "cifar_resnet20", ...} from the `reproduces:` lists of conf/experiment."""
    rows: dict[str, str] = {}
    for name in experiments():
        path = conf_dir() / "experiment" / f"{name}.yaml"
        content = expect(dict, read_yaml(path), shown(path))
        for row in parse(tuple[str, ...], content.get("reproduces") or [], f"{shown(path)}: reproduces"):
            if row in rows:
                raise ConfigError(f"{shown(path)}: {rows[row]} also reproduces {row}")
            rows[row] = name
    return rows


def experiment_of_row(row: str) -> str | None:
    """The experiment that reproduces "table6/resnet-20"; None if a published row has none. ConfigError if unknown."""
    rows = reproduced_rows()
    if row in rows:
        return rows[row]
    table, _, key = row.partition("/")
    if table == PLAIN_NETS or "/" not in row:
        raise ConfigError(f"no row {row!r}{suggest(row, list(rows))}")
    published_table(table).row(key)
    return None
