"""One self-contained HTML page: claims, tables, figures, a card for each run. Imports neither torch nor matplotlib."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from repro import __version__
from repro.files import utc_now
from repro.paper import PROTOCOL_LABELS
from repro.record import Session
from repro.reporting.claims import counts, evaluate, short_label
from repro.reporting.select import (
    NOT_CIFAR,
    SHORT,
    SYNTHETIC,
    RunSet,
    evaluation_problem,
    precision,
    read_evaluation,
    split_name,
)
from repro.reporting.table import Table
from repro.reporting.tables import build, names
from repro.runs import Run

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


def report(runs: Sequence[RunSet], drawings: Mapping[str, str]) -> str:
    """The page. `drawings` maps names of figures to SVG texts made by repro.reporting.painting.

    Everything from a record is escaped. The same runs give the same page but for its date.
    """
    found = evaluate(runs)
    cards = [card(run, pool.origin) for pool in runs for run in pool.runs]
    tables = [build(name, runs) for name in names() if name != "claims"]
    return template().render(
        title=TITLE, claims=found, short_label=short_label(), cards=cards, version=__version__, date=utc_now(),
        summary=f"{len(cards)} runs; {counts(found)}.",
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
    content = run.record
    if content is None:
        return Card(run.name, (origin, "unreadable"), (("problem", str(run.problem)),))
    badges = [origin] if run.finished else [origin, run.problem or run.status]
    badges += [run.no_evidence] if run.no_evidence else []
    badges += ["short run"] if content.config.scale != 1 else []
    session = content.sessions[-1] if content.sessions else Session()
    environment, data, averaged = content.environment, content.data, content.recomputed_batch_norm
    facts = {"result": errors(content.result or {}), **tests(run),
             "averaged BN": f"{errors(averaged)} over {averaged['images']:,} training images" if averaged else "",
             "not the paper's": "; ".join(content.deviations or []) or "nothing",
             "device": f"{environment.device or '?'}, {precision(run)}",
             "time": f"{content.train_seconds + content.evaluation_seconds:.0f} s, {len(content.sessions)} session(s)",
             "versions": ", ".join(f"{key} {version}" for key in ("python", "torch", "torchvision")
                                   if (version := getattr(environment, key))),
             "commit": f"{str(session.commit)[:12]}{' with uncommitted changes' if session.dirty else ''}",
             "identity": run.identity,
             "data": f"{data.name}, split {data.split}, sha256 {data.sha256[:12]}" if data else "",
             "history": f"sha256 {(content.history_sha256 or 'not recorded')[:12]}",
             "about": content.config.description}
    return Card(run.name, tuple(badges), tuple((key, value) for key, value in facts.items() if value))


def tests(run: Run) -> dict[str, str]:
    """What the paper's ways of testing gave of an ImageNet run, by their names, where they count."""
    found = {protocol: read_evaluation(run, protocol) for protocol in PROTOCOL_LABELS}
    return {PROTOCOL_LABELS[protocol]: f"val error {content['val_top1_error']:.2f} %, "
                                       f"top-5 {content['val_top5_error']:.2f} %"
            for protocol, content in found.items() if evaluation_problem(run, protocol, content) is None}


def errors(values: Mapping[str, float]) -> str:
    """'train error 0.50 %, test error 8.00 %'; '-' without a result."""
    shown = [f"{key.removesuffix('_top1_error')} error {value:.2f} %" for key, value in values.items()
             if key.endswith("top1_error")]
    return ", ".join(shown) or "-"
