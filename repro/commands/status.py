"""The command that says what is there, what runs and what is left: status."""

import argparse

from repro.commands.common import Add, runs_of


def register(add: Add) -> None:
    """Add this command."""
    command = add("status", "what the tables lack, what runs now, time left from measured speed", show_status)
    command.add_argument("--json", action="store_true", help="print JSON")


def show_status(options: argparse.Namespace) -> int:
    """`repro status`."""
    import json

    from repro.reporting.status import status, status_text

    found = status(*runs_of())
    print(json.dumps(found, indent=2) if options.json else status_text(found))
    return 0
