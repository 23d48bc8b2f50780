"""One self-contained HTML page: claims, tables, figures, a card for each run. Imports no torch."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from repro import __version__
from repro.files import utc_now
from repro.record import Session
from repro.reporting import figures, select, tables
from repro.reporting.claims import counts, evaluate, short_label
from repro.reporting.select import RunSet
from repro.runs import Run

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
    content = run.record
    if content is None:
        return {"name": run.name, "badges": [origin, "unreadable"], "facts": {"problem": run.problem}}
    badges = [origin, None if run.finished else run.problem or run.status, run.no_evidence,
              "short run" if content.config.scale != 1 else None]
    session = content.sessions[-1] if content.sessions else Session()
    environment, data = content.environment, content.data
    facts = {"about": content.config.description, "result": errors(content.result or {}),
             "averaged BN": errors(content.recomputed_batch_norm or {}),
             **{protocol.replace("_", "-"): errors(test) for protocol in ("center", "ten_crop", "multi_scale")
                if (test := select.read_evaluation(run, protocol))
                and select.evaluation_problem(run, protocol, test) is None},
             "not the paper's": "; ".join(content.deviations or []),
             "device": f"{environment.device or '?'}, {select.precision(run)}",
             "time": f"{content.train_seconds + content.evaluation_seconds:.0f} s, {len(content.sessions)} session(s)",
             "versions": f"Python {environment.python}, torch {environment.torch}",
             "commit": f"{str(session.commit)[:12]}{' with uncommitted changes' * bool(session.dirty)}",
             "identity": run.identity, "data": data and f"{data.name}, {data.split}, sha256 {data.sha256[:12]}",
             "history": f"sha256 {(content.history_sha256 or 'not recorded')[:12]}"}
    return {"name": run.name, "badges": [badge for badge in badges if badge],
            "facts": {key: value for key, value in facts.items() if value}}


def errors(values: Mapping[str, Any]) -> str:
    """'train top1 error 0.50 %, test top1 error 8.00 %'; '' without a result."""
    return ", ".join(f"{key.replace('_', ' ')} {value:.2f} %" for key, value in values.items()
                     if key.endswith("_error"))
