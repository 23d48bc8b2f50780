"""What experiments/ holds: published tables, figures, claims (errors in percent), counts, recipes, suites. No torch."""

from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import yaml
from msgspec import Meta, Struct, structs

from repro.config import experiments
from repro.errors import ConfigError, suggest
from repro.paths import conf_dir, display_path, experiments_dir
from repro.schema import CIFAR10, CLASSES, IMAGENET, RunConfig

T = TypeVar("T")
Protocol = Literal["center", "ten_crop", "multi_scale"]  # of testing on ImageNet (Fig. 4; Tables 2 and 3; Table 4)
PROTOCOL_LABELS = {"center": "center crop", "ten_crop": "10-crop", "multi_scale": "multi-scale"}
PROTOCOLS = tuple(PROTOCOL_LABELS)


class Column(Struct, frozen=True):
    """One column of numbers of a published table, printed as value / unit with so many decimals."""
    key: str
    title: str
    decimals: int = 2
    unit: float = 1.0


class PublishedRow(Struct, frozen=True):
    """One row as printed. `values` hold what stands first; mean, std and runs where the paper gives them."""
    key: str
    label: str
    values: Annotated[dict[str, float], Meta(min_length=1)]
    layers: int | None = None
    parameters: str | None = None  # as printed, "0.27M"
    published_only: bool = False  # context that the project does not train
    mean: float | None = None
    std: float | None = None
    runs: int | None = None
    block: str | None = None
    blocks: tuple[int, ...] = ()
    shortcut_option: str | None = None
    decimals: int | None = None  # where they differ from the column's
    note: str | None = None

    def compared(self, column: str) -> float:
        """The number that our mean is held against: the published mean where there is one."""
        return self.values[column] if self.mean is None else self.mean


class PublishedTable(Struct, frozen=True):
    name: str
    page: int
    title: str
    metric: str
    dataset: str
    split: str
    protocol: str
    columns: tuple[Column, ...]
    rows: tuple[PublishedRow, ...]
    notes: tuple[str, ...] = ()


class Axis(Struct, frozen=True):
    label: str
    unit: float = 1.0  # what one tick of 1 stands for
    limits: tuple[float, ...] | None = None  # in ticks


class Curve(Struct, frozen=True):
    net: str
    label: str
    experiment: str | None = None


class Panel(Struct, frozen=True):
    errors: tuple[str, ...]  # training, test, validation, responses
    curves: tuple[Curve, ...]
    title: str = ""
    y_label: str | None = None


class PublishedFigure(Struct, frozen=True):
    title: str
    x: Axis
    y: Axis
    styles: dict[str, str]  # of lines, by error
    panels: tuple[Panel, ...]
    facts: tuple[dict[str, Any], ...] = ()  # bounds (above, below; percent) that the paper gives for a net
    notes: tuple[str, ...] = ()


class GoldenCount(Struct, frozen=True):
    """Exact parameters and multiply-adds of a network, by shortcut option; plain networks have those of A."""
    layers: int
    multiply_adds: dict[str, float]
    parameters: dict[str, int] = {}
    multiply_adds_stride_in_3x3: float | None = None


class ClaimTest(Struct, frozen=True):
    measure: Literal["training_error", "convergence_area", "final_error", "responses"]
    relation: Literal["rising", "not_falling", "close", "below"]  # of the experiments' values to each other
    experiments: tuple[str, ...]
    metric: str = "test_top1_error"  # of the result, for final_error


class Claim(Struct, frozen=True):
    id: str
    statement: str
    source: str
    tests: Annotated[tuple[ClaimTest, ...], Meta(min_length=1)]


class Member(Struct, frozen=True, forbid_unknown_fields=True):
    experiment: str
    seed: int = 0


class Ensemble(Struct, frozen=True, forbid_unknown_fields=True):
    """Networks whose class probabilities, kept by one protocol, are averaged."""
    protocol: Protocol
    members: Annotated[tuple[Member, ...], Meta(min_length=2)]


class Preset(Struct, frozen=True, forbid_unknown_fields=True):
    """A variant of a suite; what is empty is as the suite says."""
    experiments: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    shows: str = ""
    cannot_show: str = ""


class Suite(Struct, frozen=True, forbid_unknown_fields=True):
    """Experiments that answer one question together, in the order in which they run."""
    name: str
    question: str
    experiments: tuple[str, ...]
    tables: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    seeds: dict[str, Annotated[int, Meta(ge=1)]] = {}  # number of seeds, by experiment, where it is not 1
    protocols: tuple[Protocol, ...] = ()  # by which finished ImageNet runs are tested, for the tables
    ensembles: tuple[str, ...] = ()  # made of these tests
    presets: dict[str, Preset] = {}
    default_preset: str = "auto"  # auto: paper with a GPU, else short

    def preset(self, name: str) -> Preset:
        """The preset with the suite's own lists filled in; `paper` exists unless the suite has another default."""
        paper = {"paper": Preset()} if self.default_preset == "auto" else {}
        chosen = pick(name, paper | self.presets, f"preset in suite {self.name}")
        return structs.replace(chosen, experiments=chosen.experiments or self.experiments,
                               tables=chosen.tables or self.tables, figures=chosen.figures or self.figures)


@cache
def read_yaml(path: Path, kind: Any = Any) -> Any:
    """The content of a YAML file, as a struct or type; ConfigError with file and line or key if that can't be."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return msgspec.convert(content, kind)
    except (OSError, yaml.YAMLError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{display_path(path)}: {error}") from error


def pick(name: str, known: dict[str, T], kind: str) -> T:
    """known[name], or a ConfigError with the nearest name and all of them."""
    if name not in known:
        raise ConfigError(f"no {kind} named {name!r}{suggest(name, list(known))}\nthere are: {', '.join(known)}")
    return known[name]


def names_in(folder: str) -> list[str]:
    return sorted(path.stem for path in (experiments_dir() / folder).glob("*.yaml"))


def read_named(kind: type[T], folder: str, name: str) -> T:
    """A file of a folder of experiments/, as a struct or a type."""
    pick(name, dict.fromkeys(names_in(folder)), folder.removesuffix("s"))
    found: T = read_yaml(experiments_dir() / folder / f"{name}.yaml", kind)  # type: ignore[arg-type]  # hashable
    return found


# Names, and by name what a file says.
recipes, ensembles, suites = (partial(names_in, folder) for folder in ("recipes", "ensembles", "suites"))
published_table = partial(read_named, PublishedTable, "published")
published_figure = partial(read_named, PublishedFigure, "published")
recipe = partial(read_named, dict[str, Any], "recipes")  # of others; its values stand in conf/recipe
ensemble = partial(read_named, Ensemble, "ensembles")
suite = partial(read_named, Suite, "suites")
second_references = partial(read_named, dict[str, Any], "published", "second_references")


def golden_counts(dataset: str) -> dict[int, GoldenCount]:
    """The counts by depth for a 32x32 image (`cifar10`) or a 224x224 one (`imagenet`)."""
    counts = read_named(dict[str, tuple[GoldenCount, ...]], "published", "golden_counts")[dataset]
    return {count.layers: count for count in counts}


def counts(run: RunConfig) -> dict[str, Any]:
    """Parameters, and multiply-adds of one image (ImageNet: 224x224); None where golden_counts.yaml has none."""
    model, imagenet = run.model, run.data.name == IMAGENET
    count = golden_counts(IMAGENET if imagenet else CIFAR10).get(model.depth or 0)
    if count is None or model.num_classes != (CLASSES if imagenet else 10):
        return {"parameters": None, "multiply_adds": None}
    option, v1_5 = model.shortcut_option.name, model.stride_in.name == "conv3x3"
    return {"parameters": count.parameters.get(option), "multiply_adds":
            (v1_5 and count.multiply_adds_stride_in_3x3) or count.multiply_adds.get(option)}


def claims() -> tuple[Claim, ...]:
    return read_named(dict[str, tuple[Claim, ...]], "published", "claims")["claims"]


@cache
def reproduced_rows() -> dict[str, str]:
    """{"table6/resnet-20": "cifar_resnet20", ...} from the `reproduces:` lists of conf/experiment."""
    return {row: name for name in experiments()
            for row in read_yaml(conf_dir() / "experiment" / f"{name}.yaml").get("reproduces", ())}
