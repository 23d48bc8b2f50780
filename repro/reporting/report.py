"""One self-contained HTML page: claims, tables, figures, a card for each run. Imports no torch."""

import base64
from collections.abc import Sequence
from pathlib import Path

import jinja2

from repro import __version__
from repro.files import utc_now
from repro.reporting import figures, select, tables
from repro.reporting.claims import evaluate
from repro.reporting.select import RunSet

SECTIONS = {None: ("tables", "Tables and figures", ""),
            select.SHORT: ("short", "Short runs", "not the paper's schedule"),
            select.SYNTHETIC: ("synthetic", "Synthetic images", select.NOT_CIFAR)}


def report(runs: Sequence[RunSet]) -> str:
    """The page. Everything from a record is escaped; the same runs give the same page but for its date."""
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
        title="Deep Residual Learning for Image Recognition, reproduced", claims=evaluate(runs), date=utc_now(),
        runs=[(pool.origin, run) for pool in runs for run in pool.runs], select=select, version=__version__,
        sections=sections)
