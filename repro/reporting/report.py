"""One self-contained HTML page: claims, tables, figures, a card for each run. Imports neither torch nor matplotlib."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from repro import __version__
from repro.paper import PROTOCOL_LABELS
from repro.record import Record, Session
from repro.reporting.claims import UNDECIDED, evaluate, short_label
from repro.reporting.evaluations import exclusion_reason, read
from repro.reporting.selection import REFERENCE, YOURS
from repro.reporting.table import Table
from repro.reporting.tables import build, names
from repro.reporting.variants import NOT_CIFAR, SHORT, SYNTHETIC, split_name
from repro.runs import Run, scan, utc_now

TITLE = "Deep Residual Learning for Image Recognition, reproduced"
HEADINGS = {None: ("tables", "Tables and figures", ""), SHORT: ("short", "Short runs", "not the paper's schedule"),
            SYNTHETIC: ("synthetic", "Synthetic images", NOT_CIFAR)}


@dataclass(frozen=True)
class Drawing:
    """A figure as inline SVG."""

    name: str
    svg: Markup


@dataclass(frozen=True)
class Section:
    """One section of the page: the paper's settings, short runs, or synthetic images."""

    id: str
    title: str
    warning: str
    tables: tuple[Table, ...]
    figures: tuple[Drawing, ...]


@dataclass(frozen=True)
class Card:
    """One run: its name, its labels, and what its record says."""

    name: str
    badges: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]


def report(results: Path | None, reference: Path, drawings: Mapping[str, str]) -> str:
    """The page. `drawings` maps names of figures to SVG texts made by repro.reporting.figures.

    Everything from a record is escaped. The same runs give the same page but for its date.
    """
    found = evaluate(results, reference)
    pools = [] if results is None else [(YOURS, scan(results / "runs"))]
    pools.append((REFERENCE, scan(reference / "runs")))
    cards = [card(run, origin) for origin, runs in pools for run in runs]
    tables = [build(name, results, reference) for name in names() if name != "claims"]
    counts = ", ".join(f"{sum(one.verdict == verdict for one in found)} {verdict}"
                       for verdict in ("PASS", "FAIL", UNDECIDED))
    return template().render(
        title=TITLE, claims=found, short_label=short_label(), cards=cards, version=__version__, date=utc_now(),
        summary=f"{len(cards)} runs; {len(found)} claims: {counts}.",
        sections=[made for variant in HEADINGS if (made := section(variant, tables, drawings)) is not None])


def template() -> jinja2.Template:
    """The page's template, with every value escaped and every missing one an error."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
                                     autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template("report.html.j2")


def section(variant: str | None, tables: list[Table], drawings: Mapping[str, str]) -> Section | None:
    """The tables and figures of one kind; None for a kind of which there is no run."""
    key, title, warning = HEADINGS[variant]
    own = tuple(table for table in tables if split_name(table.name)[0] == variant)
    drawn = tuple(Drawing(name, inline(name, svg)) for name, svg in drawings.items() if split_name(name)[0] == variant)
    if variant == SYNTHETIC and not drawn:
        return None
    return Section(key, title, warning, own, drawn)


def inline(name: str, svg: str) -> Markup:
    """An SVG of ours as part of a page: without its prolog, its ids made the figure's own."""
    body = svg[svg.index("<svg"):]
    for old in sorted(set(re.findall(r'\bid="([^"]+)"', body)), key=len, reverse=True):
        body = re.sub(rf'(\bid="|href="#|url\(#){re.escape(old)}(?=["\)])', rf"\g<1>{name}-{old}", body)
    return Markup(re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL))  # made by matplotlib


def card(run: Run, origin: str) -> Card:
    """What the record of a run says, for a person."""
    name = f"{run.folder.parent.name}/{run.folder.name}"
    content = run.record
    if content is None:
        return Card(name, (origin, "unreadable"), (("problem", str(run.problem)),))
    badges = [origin] if run.finished else [origin, run.problem or run.status]
    badges += [run.no_evidence] if run.no_evidence else []
    badges += ["short run"] if content.config.scale != 1 else []
    session = content.sessions[-1] if content.sessions else Session()
    environment, data = content.environment, content.data
    seconds = content.train_seconds + content.evaluation_seconds
    versions = ", ".join(f"{key} {version}" for key in ("python", "torch", "torchvision")
                         if (version := getattr(environment, key)))
    commit = f"{str(session.commit)[:12]}{' with uncommitted changes' if session.dirty else ''}"
    facts = {"result": errors(content.result or {}), **tests(run), "averaged BN": averaged_error(content),
             "not the paper's": "; ".join(content.deviations) or "nothing",
             "device": f"{environment.device or '?'}, {content.config.machine.precision.name}",
             "time": f"{seconds:.0f} s, {len(content.sessions)} session(s)", "versions": versions,
             "commit": commit, "identity": run.identity,
             "data": f"{data.name}, split {data.split}, sha256 {data.sha256[:12]}" if data else "",
             "history": f"sha256 {(content.history_sha256 or 'not recorded')[:12]}",
             "about": content.config.description}
    return Card(name, tuple(badges), tuple((key, value) for key, value in facts.items() if value))


def tests(run: Run) -> dict[str, str]:
    """What the paper's ways of testing gave of an ImageNet run, by their names, where they count."""
    found = {PROTOCOL_LABELS[protocol]: read(run, protocol) for protocol in PROTOCOL_LABELS
             if exclusion_reason(run, protocol, read(run, protocol)) is None}
    return {name: f"val error {content['val_top1_error']:.2f} %, top-5 {content['val_top5_error']:.2f} %"
            for name, content in found.items()}


def errors(values: Mapping[str, Any]) -> str:
    """'train error 0.50 %, test error 8.00 %'; '-' without a result."""
    shown = [f"{key.removesuffix('_top1_error')} error {float(value):.2f} %" for key, value in values.items()
             if key.endswith("top1_error")]
    return ", ".join(shown) or "-"


def averaged_error(content: Record) -> str:
    """The error with plainly averaged BN statistics and over how many images; '' where it was not measured."""
    found = content.recomputed_batch_norm or {}
    return f"{errors(found)} over {found['images']:,} training images" if found else ""
