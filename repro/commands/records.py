"""The command that checks records which somebody else sends: verify-record."""

import argparse
from pathlib import Path

from repro.commands.common import Add
from repro.errors import ComparisonError
from repro.paths import user_path


def register(add: Add) -> None:
    """Add this command."""
    command = add("verify-record", "check a run's record that somebody else sends, before it is committed",
                  verify_records)
    command.add_argument("folders", nargs="+", metavar="FOLDER",
                         help="a record: config.yaml, run.json, history.csv, timing.csv, and what belongs to them")
    command.add_argument("--json", action="store_true", help="print JSON")


def verify_records(options: argparse.Namespace) -> int:
    """`repro verify-record`: exit 4 if a check of any record fails; warnings are for a person to judge."""
    import json
    from dataclasses import asdict

    from repro.checks import FAIL
    from repro.paths import reference_dir
    from repro.records.check import check_record
    from repro.runs import scan

    folders = [user_path(name) for name in options.folders]
    committed = [run.folder for run in scan(reference_dir() / "runs")]
    found, failed = [], []
    for folder in folders:
        findings = check_record(folder, [*committed, *(other for other in folders if other != folder)])
        name = printable_name(folder)
        found.append({"folder": name, "findings": [asdict(one) for one in findings]})
        if not options.json:
            print("\n".join([name, *(f"  {one}" for one in findings)]))
        checks = list(dict.fromkeys(one.check for one in findings[:-1] if one.status == FAIL))
        failed += [f"{name}: checks that fail: {', '.join(checks)}"] if checks else []
    if options.json:
        print(json.dumps(found, indent=2))
    if failed:
        raise ComparisonError("\n".join(failed))
    return 0


def printable_name(folder: Path) -> str:
    """A folder's name in characters that can be printed."""
    from repro.paths import display_path
    from repro.wording import escape

    return escape(display_path(folder))
