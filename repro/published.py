"""The shape of what experiments/ holds: published tables, figures, results of others, counts, claims, suites.

Frozen data without any number of its own; `repro.paper` reads the files into it. Errors are in percent.
"""

from dataclasses import dataclass, field
from typing import TypeVar

from repro.config import suggest
from repro.errors import ConfigError

T = TypeVar("T")
# The ways of testing on ImageNet (Fig. 4; Tables 2 and 3; Table 4), and what they are called.
PROTOCOL_LABELS = {"center": "centre crop", "ten_crop": "10-crop", "multi_scale": "multi-scale"}
PROTOCOLS = tuple(PROTOCOL_LABELS)


@dataclass(frozen=True)
class Column:
    """One column of numbers of a published table, printed as value / unit with so many decimals."""

    key: str
    title: str
    decimals: int = 2
    unit: float = 1.0


@dataclass(frozen=True)
class PublishedRow:
    """One row as printed. `values` hold what stands first; mean, std and runs where the paper gives them."""

    key: str
    label: str
    values: dict[str, float]
    layers: int | None = None
    parameters: str | None = None  # as printed, "0.27M"
    published_only: bool = False  # context that the project does not train
    mean: float | None = None
    std: float | None = None
    runs: int | None = None
    block: str | None = None
    blocks: tuple[int, ...] = ()
    shortcut_option: str | None = None
    split: str | None = None  # where it differs from the table's
    decimals: int | None = None  # where they differ from the column's
    note: str | None = None

    def compared(self, column: str) -> float:
        """The number that our mean is held against: the published mean where there is one."""
        return self.values[column] if self.mean is None else self.mean


@dataclass(frozen=True)
class PublishedTable:
    """One table of the paper with what is needed to reproduce its numbers."""

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

    def row(self, key: str) -> PublishedRow:
        """The row of this key; ConfigError if there is none."""
        return pick(key, {row.key: row for row in self.rows}, f"row in {self.name}")


@dataclass(frozen=True)
class Axis:
    """An axis: its label, what one tick of 1 stands for, and its limits in ticks."""

    label: str
    unit: float = 1.0
    limits: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Curve:
    """One network of a panel; `experiment` is None while the project has none for it."""

    net: str
    label: str
    experiment: str | None = None


@dataclass(frozen=True)
class Panel:
    """One panel: its curves, and which errors (training, test, validation, responses) are drawn of each."""

    name: str
    errors: tuple[str, ...]
    curves: tuple[Curve, ...]
    title: str = ""
    y_label: str | None = None


@dataclass(frozen=True)
class Fact:
    """A bound in percent that caption or text give for a network."""

    net: str
    error: str
    above: float | None = None
    below: float | None = None
    text: str = ""


@dataclass(frozen=True)
class PublishedFigure:
    """The description of one figure of the paper; `styles` maps each error to its line style."""

    name: str
    title: str
    dataset: str
    x: Axis
    y: Axis
    styles: dict[str, str]
    panels: tuple[Panel, ...]
    facts: tuple[Fact, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Errors:
    """Test error of somebody else's run, and its training error where known (percent)."""

    test: float
    train: float | None = None


@dataclass(frozen=True)
class SecondReference:
    """Somebody else's results with the paper's recipe, by network ("resnet-20")."""

    key: str
    repository: str
    protocol: str
    errors: dict[str, Errors]
    best_on_test: bool = False
    same_network: bool = True


@dataclass(frozen=True)
class Reruns:
    """Lowest and highest test error of several runs of one network."""

    net: str
    runs: int
    test: tuple[float, ...]


@dataclass(frozen=True)
class AuthorsWeights:
    """ImageNet validation error of the authors' released weights."""

    net: str
    protocol: str
    top1_error: float
    top5_error: float


@dataclass(frozen=True)
class SecondReferences:
    """All results of others; `usual` is [from, to] or [about] for a network."""

    sources: tuple[SecondReference, ...]
    usual: dict[str, tuple[float, ...]]
    run_to_run_std: tuple[float, ...]
    reruns: Reruns
    authors_weights: tuple[AuthorsWeights, ...]


@dataclass(frozen=True)
class GoldenCount:
    """Exact parameters and multiply-adds of a network, by shortcut option; plain networks have those of A."""

    layers: int
    multiply_adds: dict[str, float]
    parameters: dict[str, int] = field(default_factory=dict)
    multiply_adds_stride_in_3x3: float | None = None


@dataclass(frozen=True)
class GoldenCounts:
    """Counts for a 32x32 (CIFAR-10) and a 224x224 (ImageNet) image."""

    cifar10: tuple[GoldenCount, ...]
    imagenet: tuple[GoldenCount, ...]
    vgg: tuple[GoldenCount, ...]

    def by_depth(self) -> dict[str, dict[int, GoldenCount]]:
        """The counts by data set and depth; VGG is among the networks of ImageNet."""
        return {"cifar10": {count.layers: count for count in self.cifar10},
                "imagenet": {count.layers: count for count in (*self.imagenet, *self.vgg)}}


@dataclass(frozen=True)
class ClaimTest:
    """What must hold for a claim: a measure of some experiments' runs, and how its values must stand to each other."""

    measure: str  # training_error, convergence_area, final_error, responses
    relation: str  # rising, not_falling, close, below
    experiments: tuple[str, ...]
    metric: str = "test_top1_error"  # of the result, for final_error


@dataclass(frozen=True)
class Claim:
    """One statement of the paper that the program can check."""

    id: str
    statement: str
    source: str
    tests: tuple[ClaimTest, ...]


@dataclass(frozen=True)
class Claims:
    """The content of claims.yaml."""

    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Member:
    """One network of an ensemble: the run of an experiment with this seed."""

    experiment: str
    seed: int = 0


@dataclass(frozen=True)
class Ensemble:
    """Networks whose class probabilities, kept by one protocol, are averaged; `reproduces` is a published row."""

    name: str
    description: str
    protocol: str
    members: tuple[Member, ...]
    reproduces: str | None = None


@dataclass(frozen=True)
class Recipe:
    """A well-known recipe of others, whose values stand in conf/recipe; `why` says by key why a value matters."""

    name: str
    repository: str
    dataset: str
    summary: str
    why: dict[str, str]
    not_expressed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preset:
    """A variant of a suite; None stands for what the suite says."""

    experiments: tuple[str, ...] | None = None
    overrides: tuple[str, ...] = ()
    tables: tuple[str, ...] | None = None
    figures: tuple[str, ...] | None = None
    shows: str = ""
    cannot_show: str = ""


@dataclass(frozen=True)
class Suite:
    """Experiments that answer one question together, in the order in which they run."""

    name: str
    question: str
    experiments: tuple[str, ...]
    tables: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    seeds: dict[str, int] = field(default_factory=dict)  # number of seeds, by experiment, where it is not 1
    protocols: tuple[str, ...] = ()  # by which finished ImageNet runs are tested, for the tables
    ensembles: tuple[str, ...] = ()  # made of these tests
    presets: dict[str, Preset] = field(default_factory=dict)
    default_preset: str = "auto"  # auto: paper with a GPU, else short

    def seeds_of(self, experiment: str) -> int:
        """How many seeds (0, 1, ...) of this experiment the suite runs."""
        return self.seeds.get(experiment, 1)

    def preset(self, name: str) -> Preset:
        """The preset with the suite's own lists filled in; ConfigError if unknown.

        `paper` always exists, but in a suite that has a default of its own (the demonstration).
        """
        paper = {"paper": Preset()} if self.default_preset == "auto" else {}
        chosen = pick(name, paper | self.presets, f"preset in suite {self.name}")
        return Preset(self.experiments if chosen.experiments is None else chosen.experiments, chosen.overrides,
                      self.tables if chosen.tables is None else chosen.tables,
                      self.figures if chosen.figures is None else chosen.figures, chosen.shows, chosen.cannot_show)


def pick(name: str, known: dict[str, T], kind: str) -> T:
    """known[name], or a ConfigError with the nearest name and all of them."""
    if name not in known:
        raise ConfigError(f"no {kind} named {name!r}{suggest(name, list(known))}\nthere are: {', '.join(known)}")
    return known[name]
