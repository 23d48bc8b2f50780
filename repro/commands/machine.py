"""The command about this machine: doctor."""

import argparse
import json
from dataclasses import asdict

from repro.commands.common import Add


def register(add: Add) -> None:
    """Add this command."""
    doctor = add("doctor", "check versions, devices, disk, data and environment", show_doctor)
    doctor.add_argument("--full", action="store_true", help="verify the data set byte for byte, too")
    doctor.add_argument("--json", action="store_true", help="print JSON")


def show_doctor(options: argparse.Namespace) -> int:
    """`repro doctor`: 0, or 2 if something keeps runs from working."""
    from repro.checks import FAIL
    from repro.doctor import environment, examine

    found = environment()
    checks = list(examine(options.full))
    problems = sum(check.status == FAIL for check in checks)
    if options.json:
        print(json.dumps({"problems": problems, "checks": [asdict(check) for check in checks], "environment": found},
                         indent=2))
    else:
        cpu = [line for line in (found.pop("cpu_info", None) or "").splitlines() if line.startswith("Model name")]
        lines = [f"{name}: {value}" for name, value in found.items() if value is not None]
        print("\n".join([*lines, *cpu, "", *map(str, checks)]))
        print(f"problems: {problems}" + ("" if problems else "; runs can start"))
    return 2 if problems else 0
