"""Commands that say what all runs amount to, and what the networks cost: claims, status, report, complexity."""

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from repro.commands.common import Add, check_versions, output_folder, results_of, runs_of
from repro.errors import ComparisonError
from repro.paths import display_path, user_path


def register(add: Add) -> None:
    """Add these commands."""
    claims = add("claims", "check the paper's statements against the runs that are there", show_claims)
    claims.add_argument("suite", nargs="?", default=None, help="only the claims of this suite")
    claims.add_argument("--reference", action="store_true", help="from the committed runs only, beside them")
    claims.add_argument("--strict", action="store_true", help="exit 4 if a claim fails")
    status = add("status", "what the tables lack, what runs now, time left from measured speed", show_status)
    report = add("report", "one HTML page with tables, figures, claims and a card for each run", write_report)
    report.add_argument("--reference", action="store_true", help="from the committed runs only")
    report.add_argument("--output", metavar="FILE", default=None, help="where to (results/report.html)")
    complexity = add("complexity", "count layers, parameters and multiply-adds of all networks, beside Table 1",
                     show_complexity)
    complexity.add_argument("--check", action="store_true", help="exit 4 if a count is not that of golden_counts.yaml")
    for command in (claims, status, complexity):
        command.add_argument("--json", action="store_true", help="print JSON")


def show_claims(options: argparse.Namespace) -> int:
    """`repro claims`."""
    from repro.reporting.claims import FAIL, claims_table, claims_text, evaluate
    from repro.reporting.table import write

    runs = runs_of(options.reference)
    found = evaluate(runs, options.suite)
    print(json.dumps([asdict(one) for one in found], indent=2) if options.json else claims_text(found))
    if options.suite is None:
        write(claims_table(runs), output_folder("tables", options.reference))
    failed = [one.id for one in found if one.verdict == FAIL]
    if failed and options.strict:
        raise ComparisonError(f"claims that fail: {', '.join(failed)}")
    return 0


def show_status(options: argparse.Namespace) -> int:
    """`repro status`."""
    from repro.reporting.status import status, status_text

    found = status(*runs_of())
    print(json.dumps(found, indent=2) if options.json else status_text(found))
    return 0


def write_report(options: argparse.Namespace) -> int:
    """`repro report`."""
    from repro.files import write_atomic
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


def show_complexity(options: argparse.Namespace) -> int:
    """`repro complexity`."""
    check_versions()
    from repro.evaluation.analysis import count, networks
    from repro.reporting.table import write
    from repro.reporting.tables import CountedNetwork, complexity_table, count_differences

    counted = [
        CountedNetwork(net.key, net.label, net.dataset, net.depth,
                       net.shortcut_option.name if net.shortcut_option else None,
                       net.stride_in.name if net.stride_in else None, **asdict(count(net)))
        for net in networks()]
    table = complexity_table(counted)
    print(table.json() if options.json else table.markdown())
    written = write(table, output_folder("tables", reference=False))
    if not options.json:
        print(f"written: {', '.join(map(display_path, written))}")
    wrong = count_differences(counted)
    if wrong and options.check:
        raise ComparisonError("counts that are not those of golden_counts.yaml: " + "; ".join(wrong))
    return 0
