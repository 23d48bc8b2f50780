"""One self-contained HTML page: claims, tables, figures, a card for each run. Imports no torch."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from repro import __version__
from repro.files import utc_now
from repro.reporting import figures, select, tables
from repro.reporting.claims import counts, evaluate, short_label
from repro.reporting.select import RunSet
from repro.runs import Provenance, Run

SECTIONS = {None: ("tables", "Tables and figures", ""),
            select.SHORT: ("short", "Short runs", "not the paper's schedule"),
            select.SYNTHETIC: ("synthetic", "Synthetic images", select.NOT_CIFAR)}


def report(runs: Sequence[RunSet]) -> str:
    """The page. Everything from a record is escaped; the same runs give the same page but for its date."""
    claims, cards = evaluate(runs), [card(run, pool.origin) for pool in runs for run in pool.runs]
    sections = []
    for variant, (key, title, warning) in SECTIONS.items():
        drawn = {name: figures.render(name, runs, ["svg"]) for name in figures.names()
                 if select.split_name(name)[0] == variant}
        images = {name: base64.b64encode(made["svg"]).decode() for name, made in drawn.items() if made}
        if images or variant != select.SYNTHETIC:
            sections.append({"id": key, "title": title, "warning": warning, "figures": images, "tables": [
                tables.build(name, runs) for name in tables.names()
                if name != "claims" and select.split_name(name)[0] == variant]})
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
                                     autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template("report.html.j2").render(
        title="Deep Residual Learning for Image Recognition, reproduced", claims=claims, short_label=short_label(),
        cards=cards, version=__version__, date=utc_now(), summary=f"{len(cards)} runs; {counts(claims)}.",
        sections=sections)


def card(run: Run, origin: str) -> dict[str, Any]:
    """One run for the page: its name, its badges, and what its record says."""
    facts: Mapping[str, Any] = {"problem": run.problem}
    badges = [origin, None if run.finished else run.problem or run.status, run.no_evidence]
    if content := run.record:
        badges += ["short run"] if content.config.scale != 1 else []
        session = content.sessions[-1] if content.sessions else Provenance()
        result = (content.result or {}).items()
        facts = {"about": content.config.description,
                 "result": ", ".join(f"{key.replace('_', ' ')} {value:.2f} %" for key, value in result
                                     if key.endswith("_error")),
                 "not the paper's": "; ".join(content.deviations or []),
                 "device": f"{select.device(run)}, {select.precision(run)}",
                 "time": f"{content.train_seconds + content.evaluation_seconds:.0f} s",
                 "commit": f"{session.commit or 'unknown'}{' with uncommitted changes' * bool(session.dirty)}",
                 "identity": run.identity}
    return {"name": run.name, "badges": filter(None, badges),
            "facts": {key: value for key, value in facts.items() if value}}
