"""The command that writes the HTML page: report."""

import argparse
import tempfile
from pathlib import Path

from repro.commands.common import Add, results_of, runs_of
from repro.paths import user_path


def register(add: Add) -> None:
    """Add this command."""
    command = add("report", "one HTML page with tables, figures, claims and a card for each run", write_report)
    command.add_argument("--reference", action="store_true", help="from the committed runs only")
    command.add_argument("--output", metavar="FILE", default=None, help="where to (results/report.html)")


def write_report(options: argparse.Namespace) -> int:
    """`repro report`."""
    from repro.files import write_atomic
    from repro.paths import display_path
    from repro.reporting import figures
    from repro.reporting.painting import draw
    from repro.reporting.report import report

    found = runs_of(options.reference)
    with tempfile.TemporaryDirectory() as folder:
        drawn = {name: draw(name, found, Path(folder)) for name in figures.names()}
        drawings = {name: paths[0].read_text(encoding="utf-8") for name, paths in drawn.items() if paths}
    path = user_path(options.output) if options.output else results_of() / "report.html"
    write_atomic(path, report(found, drawings))
    print(f"report: {display_path(path.absolute())}")
    return 0
