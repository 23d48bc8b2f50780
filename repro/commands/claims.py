"""The command that judges the paper's statements: claims."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from repro.commands.common import Add, output_folder, results_of
from repro.errors import ComparisonError

if TYPE_CHECKING:
    from repro.reporting.claims import ClaimResult


def register(add: Add) -> None:
    """Add this command."""
    command = add("claims", "check the paper's statements against the runs that are there", show_claims)
    command.add_argument("suite", nargs="?", default=None, help="only the claims of this suite")
    command.add_argument("--reference", action="store_true", help="from the committed runs only, beside them")
    command.add_argument("--strict", action="store_true", help="exit 4 if a claim fails")
    command.add_argument("--json", action="store_true", help="print JSON")


def show_claims(options: argparse.Namespace) -> int:
    """`repro claims`."""
    import json
    from dataclasses import asdict

    from repro.paths import reference_dir
    from repro.reporting import claims, tables

    results = None if options.reference else results_of()
    found = claims.evaluate(results, reference_dir(), options.suite)
    print(json.dumps([asdict(result) for result in found], indent=2) if options.json else format_claims(found))
    if options.suite is None:
        tables.write(tables.build("claims", results, reference_dir()), output_folder("tables", options.reference))
    failed = [result.id for result in found if result.verdict == claims.FAIL]
    if failed and options.strict:
        raise ComparisonError(f"claims that fail: {', '.join(failed)}")
    return 0


def print_claims(suite: str, results: Path) -> None:
    """Print what the runs say of a suite's claims."""
    from repro.paths import reference_dir
    from repro.reporting import claims

    text = format_claims(claims.evaluate(results, reference_dir(), suite))
    print(f"\nclaims of the paper (repro claims {suite}):\n{text}")


def format_claims(found: list["ClaimResult"]) -> str:
    """The claims for a person."""
    from repro.reporting.claims import UNDECIDED, short_label

    lines = []
    for result in found:
        lines += [f"{result.verdict:13}  {result.statement}", f"{'':15}{result.id}; {result.source}"]
        lines += [f"{'':15}{one.outcome}: {one.text}: {one.numbers}" + (f" [{one.origin}]" if one.origin else "")
                  for one in result.comparisons if one.outcome != UNDECIDED or result.verdict != UNDECIDED]
        lines += [f"{'':15}because {result.reason}"] if result.reason else []
        if result.short:
            lines.append(f"{'':15}{short_label()}; decides nothing:")
            lines += [f"{'':17}{one.outcome}: {one.text}: {one.numbers} [{one.origin}]" for one in result.short]
    counts = ", ".join(f"{sum(result.verdict == verdict for result in found)} {verdict}"
                       for verdict in ("PASS", "FAIL", UNDECIDED))
    return "\n".join([*lines, "", f"{len(found)} claims: {counts}"])
