"""The settings of a run with their sources, and how two configurations or two runs differ. Never imports torch.

The comments in conf/ are the only text about sources: `sources` reads them from the files a run is composed of.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from msgspec import UNSET, Struct, UnsetType, to_builtins

from repro import paper
from repro.config import (
    ENVIRONMENT,
    PAPER_PRECISIONS,
    config_hash,
    deviations,
    difference,
    experiments,
    files_of,
    flat,
    paper_config,
    to_dict,
    with_precision,
)
from repro.config import settings as number_settings
from repro.errors import ConfigError
from repro.paths import display_path
from repro.record import Session
from repro.reporting.select import RunSet, record, result
from repro.reporting.status import benchmarks, measured_times
from repro.reporting.table import one_line
from repro.runs import Run, run_folder
from repro.schema import (
    CLASSES,
    FIELDS,
    IMAGENET,
    SYNTHETIC,
    TRAINING_IMAGES,
    Architecture,
    Device,
    Precision,
    RunConfig,
    StrideIn,
)
from repro.wording import duration

IMAGE_SIDE = 224  # Table 1: pixels of the images whose multiply-adds are counted
NAMES = ("name", "description", "reproduces")  # of the experiment; they configure nothing


class Source(NamedTuple):
    """Where a value comes from: the comment beside it ('' if there is none) and its file."""

    text: str = ""
    file: str = ""


class Setting(Struct):
    """One setting of a run; the paper's value and source where the experiment as it stands has another one."""

    key: str
    value: Any
    source: str
    file: str
    paper: Any = UNSET
    paper_source: str | UnsetType = UNSET


class Difference(Struct, kw_only=True):
    """One setting that two configurations have different values for; the paper's value where it is neither."""

    key: str
    here: Any
    theirs: Any
    paper: Any = UNSET
    why: str


def sources(files: Sequence[Path]) -> dict[str, Source]:
    """{dotted key: its source} over configuration files; the last file that sets a key wins."""
    found: dict[str, Source] = {}
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
            root = yaml.compose(text)
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{display_path(path)}: {error}") from error
        lines = text.splitlines()
        package = next((line.split("@package")[1].strip() for line in lines if line.startswith("# @package")),
                       "_global_")
        prefix = "" if package == "_global_" else f"{package}."
        found |= {key: Source(comment, display_path(path)) for key, comment in comments(root, prefix, lines).items()
                  if key.split(".")[0] not in ("defaults", "hydra")}
    return found


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


def settings(config: RunConfig, overrides: Sequence[str]) -> list[Setting]:
    """Every setting of the run that these overrides give, in the order of the schema."""
    found, given = sources(files_of(overrides)), given_keys(overrides)
    papers: dict[str, Any] = {}
    their_sources: dict[str, Source] = {}
    if config.name in experiments():  # none of the user's own
        papers = flat(to_dict(paper_config(config.name)))
        their_sources = sources(files_of([f"experiment={config.name}"]))
    shown = []
    for key, value in flat(to_dict(config)).items():
        if key in NAMES:
            continue
        how = next((how for name, how in given.items() if key == name or key.startswith(f"{name}.")), None)
        if key in ("model.depth", "model.blocks_per_stage"):  # two spellings of one setting
            how = how or given.get("model.depth") or given.get("model.blocks_per_stage")
        own = Source(how) if how else found.get(key, Source())
        shown.append(Setting(key, value, own.text, own.file))
        if key in papers and papers[key] != value:
            shown[-1].paper, shown[-1].paper_source = papers[key], their_sources.get(key, Source()).text or "conf/"
    return shown


def given_keys(overrides: Sequence[str]) -> dict[str, str]:
    """{key or section: how it was given} by the environment and by the overrides, which win."""
    given = {key: f"${name}" for name, key in ENVIRONMENT.items() if os.environ.get(name)}
    names = [override.partition("=")[0].lstrip("+~") for override in overrides]
    return given | {name: "override" for name in names if name in FIELDS}


def differences(here: RunConfig, theirs: RunConfig, standing: RunConfig, why: Mapping[str, str]) -> list[Difference]:
    """What changes numbers and differs between two configurations, beside the paper's value."""
    papers = number_settings(standing)
    if {here.machine.precision, theirs.machine.precision} <= {Precision.auto, *PAPER_PRECISIONS}:
        theirs = with_precision(theirs, here.machine.precision)
    return [Difference(key=key, here=mine, theirs=other, why=why.get(key, ""),
                       paper=UNSET if papers[key] in (mine, other) else papers[key])
            for key, (mine, other) in difference(number_settings(here), number_settings(theirs)).items()]


def format_value(value: Any) -> str:
    """A value as it stands in YAML: null, true, [1, 2]."""
    return value if isinstance(value, str) else json.dumps(value)


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of texts as lines in columns; the last one is free."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [("  " + "  ".join(map(str.ljust, row, widths))).rstrip() for row in rows]


def settings_lines(found: Sequence[Setting]) -> list[str]:
    """The settings by section, for a person."""
    sections: dict[str, list[tuple[str, str, str]]] = {}
    for one in found:
        instead = "" if one.paper is UNSET else f"; instead of {format_value(one.paper)} ({one.paper_source})"
        section, _, rest = one.key.partition(".")
        sections.setdefault(section if rest else "run", []).append(
            (one.key, format_value(one.value), one.source + instead))
    return [line for section, rows in sections.items() for line in ("", f"{section}:", *align(rows))]


def difference_lines(found: Sequence[Difference], name: str) -> list[str]:
    """The differences for a person."""
    rows = [("setting", "here", name, "the paper", "why it matters")]
    rows += [(one.key, format_value(one.here), format_value(one.theirs),
              "" if one.paper is UNSET else format_value(one.paper), one_line(one.why)) for one in found]
    return align(rows) if found else ["  no setting that changes numbers differs"]


def facts_lines(facts: Mapping[str, Any]) -> list[str]:
    """Schedule, cost, folder, deviations and rows for a person."""
    schedule, cost = facts["schedule"], facts["cost"]
    lines = ["", "schedule:", f"  not trained here; `repro eval experiment={facts['experiment']} weights=FILE` tests "
             "imported weights"]
    if schedule:
        lines = ["", "schedule:" if schedule["scale"] == 1 else f"schedule (shortened, scale={schedule['scale']}):",
                 f"  {schedule['iterations']} iterations, "
                 + (f"{schedule['passes']:g} passes over the training images; " if schedule["passes"] else "")
                 + f"tested every {schedule['evaluation_interval']} iterations"]
        lines += [f"  lr {one['lr']:g} for iterations {one['from']} to {one['to']}"
                  + (f" (passes {one['passes'][0]:g} to {one['passes'][1]:g})" if one["passes"] else "")
                  for one in schedule["rates"]]
        lines.append(f"  warm-up: lr {schedule['warmup_lr']:g} {schedule['warmup_ends']}"
                     if "warmup_lr" in schedule else "  no warm-up")
    lines += ["", "cost:", f"  parameters: {cost['parameters']:,}" if "parameters" in cost
              else "  parameters: not in golden_counts.yaml"]
    if "multiply_adds" in cost:
        lines.append(f"  multiply-adds: {cost['multiply_adds']:.4g} for one image, "
                     f"{cost['forward_multiply_adds']:.4g} for the forward passes of all training mini-batches")
    if schedule:
        lines += time_lines(cost["times"], cost["suite"])
    lines += ["", "folder and identity:"]
    lines += [f"  {one['folder']}  {one['identity']}  ({one['precision']})" for one in facts["folders"]]
    lines += ["", "deviations from the experiment:", *(f"  {text}" for text in facts["deviations"] or ["none"])]
    return [*lines, "", "reproduces: " + (", ".join(facts["reproduces"]) or "no row of a table")]


def time_lines(times: Sequence[Mapping[str, Any]], suite: str | None) -> list[str]:
    """The measured times for a person, each with its duration as `text`, or how to measure one."""
    lines = []
    for one in times:
        hours = f", {one['seconds'] * one['devices'] / 3600:.2g} GPU-hours" if one.get("devices", 1) > 1 else ""
        source = (f"finished run {one['from']}{hours}" if one["kind"] == "run"
                  else f"computed from measured updates, {one['from']}")
        lines.append(f"  time: {one['text']} on {one['device']}, {one['precision']} ({source})")
    return lines or [f"  time: not measured: repro cost {suite or 'SUITE'}"]


def counts(config: RunConfig, iterations: int) -> dict[str, Any]:
    """Parameters, multiply-adds of one image, and of all training images of the run (forward passes), if counted.

    From experiments/published/golden_counts.yaml; {} for a network that is not counted there. The multiply-adds of
    an ImageNet network are those of a 224x224 image.
    """
    model, golden = config.model, paper.golden_counts()
    imagenet = model.architecture is Architecture.imagenet
    nets = golden.imagenet if imagenet else golden.cifar10
    found = next((count for count in nets if count.layers == model.depth), None)
    if found is None or model.num_classes != (CLASSES if imagenet else 10):
        return {}
    option = model.shortcut_option.name
    result: dict[str, Any] = {"parameters": found.parameters[option]} if option in found.parameters else {}
    one = found.multiply_adds.get(option)
    if imagenet and found.layers >= 50 and model.stride_in is StrideIn.conv3x3:  # of bottlenecks another count
        one = found.multiply_adds_stride_in_3x3
    if one is not None and (not imagenet or config.data.crop_size == IMAGE_SIDE):
        result |= {"multiply_adds": one, "forward_multiply_adds": one * iterations * config.train.mini_batch_size}
    return result


def training_images(config: RunConfig) -> int | None:
    """Images that one pass has: of the split, of ImageNet, or made ones; None of a wiring test, which takes any."""
    if config.data.name == SYNTHETIC:
        from repro.data.synthetic import TRAIN_IMAGES  # late: it needs torch

        return TRAIN_IMAGES
    if config.data.wiring_test:
        return None
    if config.data.name == IMAGENET:
        return TRAINING_IMAGES
    return 45_000 if config.data.split.name == "45k" else 50_000  # Sec. 4.2


def cost_facts(config: RunConfig, iterations: int, found: Sequence[RunSet]) -> dict[str, Any]:
    """What the run costs: counted, and measured where there is a run or a committed benchmark of it."""
    times = measured_times(config.name, {one["identity"] for one in folders(config)}, found)
    times += [] if deviations(config) else benchmarks(config.name, found[-1].root)
    suite = next((name for name in paper.suites() if config.name in paper.suite(name).experiments), None)
    return {**counts(config, iterations), "suite": suite,
            "times": [{**one, "text": duration(one["seconds"])} for one in times]}


def folders(config: RunConfig) -> list[dict[str, str]]:
    """Identity and folder of the run in each precision that `auto` may mean."""
    precisions = [config.machine.precision]
    if config.machine.precision is Precision.auto:
        on = {Device.auto: [Precision.fp32, Precision.tf32], Device.cuda: [Precision.tf32]}
        precisions = on.get(config.machine.device, [Precision.fp32])
    return [{"precision": one.machine.precision.name, "identity": config_hash(one),
             "folder": display_path(run_folder(one))}
            for one in (with_precision(config, precision) for precision in precisions)]


def compare(first: Run, second: Run) -> dict[str, Any]:
    """What two runs differ in, and their errors, as plain values; ConfigError for an unreadable record."""
    for run in (first, second):
        if run.record is None:
            raise ConfigError(f"{display_path(run.folder)}: {run.problem}")
    errors = [errors_of(run) for run in (first, second)]
    rows = [{row["iteration"]: row for row in run.history()} for run in (first, second)]
    common = sorted(rows[0].keys() & rows[1].keys())
    return {"runs": [label(first), label(second)],
            "settings": [{"key": key, "values": list(values)}
                         for key, values in difference(compared_facts(first), compared_facts(second)).items()],
            "errors": {key: [one.get(key) for one in errors] for key in {**errors[0], **errors[1]}},
            "common_evaluations": len(common),
            "first_difference": next((int(at) for at in common if rows[0][at] != rows[1][at]), None)}


def label(run: Run) -> str:
    """The run's name with what one must know of it: unfinished, synthetic images, a wiring test, a short schedule."""
    scale = record(run).config.scale
    notes = [] if run.finished else [f"{run.problem or run.status} at iteration {record(run).iteration}"]
    notes += [run.no_evidence] if run.no_evidence else []
    notes += [f"scale {scale:g}"] if scale != 1 else []
    return run.name + (f" ({', '.join(notes)})" if notes else "")


def compared_facts(run: Run) -> dict[str, Any]:
    """What changes a run's numbers, by key: its settings, seed, data, code, versions and device."""
    content = record(run)
    session = content.sessions[-1] if content.sessions else Session()
    return {**number_settings(content.config), "seed": run.seed, "split tested": content.evaluated_on,
            "data sha256": content.data and content.data.sha256, "commit": session.commit,
            "uncommitted changes": session.dirty, **to_builtins(content.environment)}


def errors_of(run: Run) -> dict[str, float]:
    """Errors (percent) at a run's end, of an unfinished one at its last evaluation."""
    found = {"": result(run) or (run.history() or [{}])[-1],
             ", averaged BN": record(run).recomputed_batch_norm or {}}
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
