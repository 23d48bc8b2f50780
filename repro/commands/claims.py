"""The command that judges the paper's statements: claims."""

import argparse

from repro.commands.common import Add, output_folder, runs_of
from repro.errors import ComparisonError


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
