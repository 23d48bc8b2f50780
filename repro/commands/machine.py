"""The command about this machine: doctor."""

import argparse

from repro.commands.common import Add


def register(add: Add) -> None:
    """Add this command."""
    doctor = add("doctor", "check versions, devices, disk, data and environment", show_doctor)
    doctor.add_argument("--full", action="store_true", help="verify the data set byte for byte, too")
    doctor.add_argument("--json", action="store_true", help="print JSON")


def show_doctor(options: argparse.Namespace) -> int:
    """`repro doctor`: 0, or 2 if something keeps runs from working."""
    from repro.doctor import NOTE, PROBLEM, examine

    checks = examine(options.full)
    count = {status: sum(check.status == status for check in checks) for status in (NOTE, PROBLEM)}
    if options.json:
        import json

        content = [{"check": check.name, "status": check.status, "text": check.text, "next": check.next_step or None}
                   for check in checks]
        print(json.dumps({"problems": count[PROBLEM], "notes": count[NOTE], "checks": content}, indent=2))
    else:
        print("\n".join(check.line() for check in checks))
        print(f"problems: {count[PROBLEM]}, notes: {count[NOTE]}{'' if count[PROBLEM] else '; runs can start'}")
    return 2 if count[PROBLEM] else 0
