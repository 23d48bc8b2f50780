"""The settings of a run with their sources, and how two configurations differ. Never imports torch.

The comments in conf/ are the only text about sources: `sources` reads them from the files a run is composed of.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from msgspec import to_builtins

from repro import paper
from repro.config import PAPER_PRECISIONS, flat, to_dict
from repro.config import settings as number_settings
from repro.errors import ConfigError
from repro.paths import display_path
from repro.record import Session
from repro.reporting.selection import record, run_name
from repro.reporting.table import one_line
from repro.runs import Run
from repro.schema import CLASSES, Architecture, RunConfig, StrideIn

IMAGE_SIDE = 224  # Table 1: pixels of the images whose multiply-adds are counted
NAMES = ("name", "description", "reproduces")  # of the experiment; they configure nothing


@dataclass(frozen=True)
class Source:
    """Where a value comes from: the comment beside it ('' if there is none) and its file."""

    text: str
    file: str


@dataclass(frozen=True)
class Setting:
    """One setting of a run; the paper's value and source where the run has another one."""

    key: str
    value: Any
    source: str
    file: str = ""
    paper: Any = None
    paper_source: str = ""

    @property
    def differs(self) -> bool:
        """Whether the experiment as it stands has another value."""
        return bool(self.paper_source)


@dataclass(frozen=True)
class Difference:
    """One setting that two configurations have different values for."""

    key: str
    here: Any
    theirs: Any
    paper: Any
    why: str

    @property
    def third(self) -> bool:
        """Whether the paper's value is neither of the two."""
        return self.paper not in (self.here, self.theirs)


def sources(files: Sequence[Path]) -> dict[str, Source]:
    """{dotted key: its source} over configuration files; the last file that sets a key wins."""
    found: dict[str, Source] = {}
    for path in files:
        found |= file_sources(path)
    return found


def file_sources(path: Path) -> dict[str, Source]:
    """The sources of one configuration file. ConfigError if it can't be read."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{display_path(path)}: {error}") from error
    lines = text.splitlines()
    package = next((line.split("@package")[1].strip() for line in lines if line.startswith("# @package")), "_global_")
    prefix = "" if package == "_global_" else f"{package}."
    return {key: Source(text, display_path(path)) for key, text in comments(root, prefix, lines).items()
            if key.split(".")[0] not in ("defaults", "hydra")}


def comments(node: yaml.Node | None, prefix: str, lines: list[str]) -> dict[str, str]:
    """{dotted key: the comment that follows its value in the line where the value ends}."""
    if not isinstance(node, yaml.MappingNode):
        return {}
    found: dict[str, str] = {}
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode):
            found |= comments(value, f"{name}.", lines)
            continue
        last = key.end_mark if isinstance(value, yaml.SequenceNode) and not value.flow_style else value.end_mark
        rest = lines[last.line][last.column :] if last.line < len(lines) else ""
        found[name] = rest.partition("#")[2].strip()
    return found


def settings(config: RunConfig, found: Mapping[str, Source], overridden: Mapping[str, str],
             standing: RunConfig | None, standing_sources: Mapping[str, Source]) -> list[Setting]:
    """Every setting of a run, in the order of the schema.

    overridden: {key: how it was given} by the command line and the environment, a section standing for all its keys.
    standing: the experiment as it stands in conf/; None for an experiment of the user's own.
    """
    paper_values = flat(to_dict(standing)) if standing else {}
    result = []
    for key, value in flat(to_dict(config)).items():
        if key in NAMES:
            continue
        own = found.get(key, Source("", ""))
        given = next((how for name, how in overridden.items() if key == name or key.startswith(f"{name}.")), None)
        if key in ("model.depth", "model.blocks_per_stage"):  # two spellings of one setting
            given = given or overridden.get("model.depth") or overridden.get("model.blocks_per_stage")
        theirs = standing_sources.get(key, Source("", ""))
        differs = key in paper_values and paper_values[key] != value
        result.append(Setting(key, value, given or own.text, "" if given else own.file,
                              paper_values[key] if differs else None, (theirs.text or "conf/") if differs else ""))
    return result


def differences(here: RunConfig, theirs: RunConfig, standing: RunConfig, why: Mapping[str, str]) -> list[Difference]:
    """What changes numbers and differs between two configurations, beside the paper's value."""
    mine, other, papers = (number_settings(config) for config in (here, theirs, standing))
    exact = {"auto", *(precision.name for precision in PAPER_PRECISIONS)}
    return [Difference(key, value, other[key], papers[key], why.get(key, "")) for key, value in mine.items()
            if value != other[key] and not (key == "machine.precision" and {value, other[key]} <= exact)]


def format_value(value: Any) -> str:
    """A value as it stands in YAML: null, true, [1, 2]."""
    return value if isinstance(value, str) else json.dumps(value)


def align(rows: Sequence[Sequence[str]], indent: str = "  ") -> list[str]:
    """Rows of texts as lines in columns; the last one is free."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return [(indent + "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
             ).rstrip() for row in rows]


def settings_lines(found: Sequence[Setting]) -> list[str]:
    """The settings by section, for a person."""
    sections: dict[str, list[Setting]] = {}
    for one in found:
        sections.setdefault(one.key.partition(".")[0] if "." in one.key else "run", []).append(one)
    lines = []
    for section, members in sections.items():
        rows = [(one.key, format_value(one.value), one.source + (
            f"; instead of {format_value(one.paper)} ({one.paper_source})" if one.differs else ""))
            for one in members]
        lines += ["", f"{section}:", *align(rows)]
    return lines


def difference_lines(found: Sequence[Difference], name: str) -> list[str]:
    """The differences for a person."""
    rows = [("setting", "here", name, "the paper", "why it matters")]
    rows += [(one.key, format_value(one.here), format_value(one.theirs), format_value(one.paper) if one.third else "",
              one_line(one.why)) for one in found]
    return align(rows) if found else ["  no setting that changes numbers differs"]


def as_plain(found: Sequence[Setting] | Sequence[Difference]) -> list[dict[str, Any]]:
    """Settings or differences for JSON; the paper's value only where it is another one."""
    result = []
    for one in found:
        entry = asdict(one)
        if not (one.differs if isinstance(one, Setting) else one.third):
            entry = {key: value for key, value in entry.items() if not key.startswith("paper")}
        result.append(entry)
    return result


def counts(config: RunConfig, iterations: int) -> dict[str, Any]:
    """Parameters, multiply-adds of one image, and of all training images of the run (forward passes), if counted.

    From experiments/published/golden_counts.yaml; {} for a network that is not counted there. The multiply-adds of
    an ImageNet network are those of a 224x224 image.
    """
    model, golden = config.model, paper.golden_counts()
    imagenet = model.architecture is Architecture.imagenet
    found = {count.layers: count for count in (golden.imagenet if imagenet else golden.cifar10)}.get(model.depth or 0)
    if found is None or model.num_classes != (CLASSES if imagenet else 10):
        return {}
    option = model.shortcut_option.name
    result: dict[str, Any] = {"parameters": found.parameters[option]} if option in found.parameters else {}
    one = found.multiply_adds.get(option)
    bottlenecks = [row.layers for row in paper.published_table("table1").rows if row.block == "bottleneck"]
    if imagenet and model.stride_in is StrideIn.conv3x3 and model.depth in bottlenecks:
        one = found.multiply_adds_stride_in_3x3
    if one is not None and (not imagenet or config.data.crop_size == IMAGE_SIDE):
        result |= {"multiply_adds": one, "forward_multiply_adds": one * iterations * config.train.mini_batch_size}
    return result


def compare(first: Run, second: Run) -> dict[str, Any]:
    """What two runs differ in, and their errors, as plain values; ConfigError for an unreadable record."""
    for run in (first, second):
        if run.record is None:
            raise ConfigError(f"{display_path(run.folder)}: {run.problem}")
    settings, errors = ([facts(run) for run in (first, second)] for facts in (compared_facts, errors_of))
    rows = [{row["iteration"]: row for row in run.history()} for run in (first, second)]
    common = sorted(rows[0].keys() & rows[1].keys())
    return {"runs": [label(first), label(second)],
            "settings": [{"key": key, "values": [one.get(key) for one in settings]}
                         for key in {**settings[0], **settings[1]} if settings[0].get(key) != settings[1].get(key)],
            "errors": {key: [one.get(key) for one in errors] for key in {**errors[0], **errors[1]}},
            "common_evaluations": len(common),
            "first_difference": next((int(at) for at in common if rows[0][at] != rows[1][at]), None)}


def label(run: Run) -> str:
    """The run's name with what one must know of it: unfinished, synthetic images, a wiring test, a short schedule."""
    content = record(run)
    notes = [] if run.finished else [f"{run.problem or run.status} at iteration {content.iteration}"]
    notes += [run.no_evidence] if run.no_evidence else []
    notes += [f"scale {content.config.scale:g}"] if content.config.scale != 1 else []
    return run_name(run) + (f" ({', '.join(notes)})" if notes else "")


def compared_facts(run: Run) -> dict[str, Any]:
    """What changes a run's numbers, by key: its settings, seed, data, code, versions and device."""
    content = record(run)
    session = content.sessions[-1] if content.sessions else Session()
    return {**number_settings(content.config), "seed": run.seed, "split tested": content.evaluated_on,
            "data sha256": content.data and content.data.sha256, "commit": session.commit,
            "uncommitted changes": session.dirty, **to_builtins(content.environment)}


def errors_of(run: Run) -> dict[str, float]:
    """Errors (percent) at a run's end, of an unfinished one at its last evaluation."""
    content = record(run)
    found = {"": content.result or (run.history() or [{}])[-1],
             ", averaged BN": content.recomputed_batch_norm or {}}
    return {f"{key}{note}": float(value) for note, errors in found.items() for key, value in errors.items()
            if key.endswith("_error")}


def comparison_lines(found: Mapping[str, Any]) -> list[str]:
    """Two runs side by side for a person."""
    settings = [("setting", "A", "B"), *((one["key"], *map(format_value, one["values"])) for one in found["settings"])]
    errors = [("error (%)", "A", "B", "B - A")]
    for key, (one, other) in found["errors"].items():
        difference = None if one is None or other is None else other - one
        errors.append((key, *("-" if value is None else f"{value:.2f}" for value in (one, other, difference))))
    at = found["first_difference"]
    return [*(f"{name}: {run}" for name, run in zip("AB", found["runs"], strict=True)), "",
            *(align(settings) if found["settings"] else ["  no setting differs"]), "", *align(errors), "",
            f"  the histories differ from iteration {at} on" if at is not None
            else f"  the histories agree in {found['common_evaluations']} common evaluations"]
