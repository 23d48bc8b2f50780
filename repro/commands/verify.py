"""The command that checks this installation's own numbers: verify."""

import argparse
import json
from typing import TYPE_CHECKING

from repro.commands.common import Add, check_versions
from repro.commands.files import ROOT, settings_of
from repro.errors import ComparisonError

if TYPE_CHECKING:
    from repro.verification.check import Outcome


def register(add: Add) -> None:
    """Add this command."""
    command = add("verify", "check that this installation computes what it claims, in under two minutes on a CPU",
                  verify)
    command.add_argument("settings", nargs="*", metavar="data.root=DIR", help="the folder that holds CIFAR-10")
    command.add_argument("--json", action="store_true", help="print JSON")


def verify(options: argparse.Namespace) -> int:
    """`repro verify`; ComparisonError (4) if a check fails."""
    from repro.places import data_dir

    root = data_dir(settings_of(options.settings, (ROOT,)).get(ROOT) or None)
    check_versions()
    from repro.verification.check import perform
    from repro.verification.checks import checks

    outcomes = []
    for check in checks(root):
        outcomes.append(perform(check))
        if not options.json:
            print(outcomes[-1].line(), flush=True)
    return conclude(outcomes, options.json)


def conclude(outcomes: "list[Outcome]", as_json: bool) -> int:
    """Sum up: 0, or ComparisonError (4) naming the checks that failed."""
    from repro.provenance import code_version, package_versions
    from repro.verification.check import FAIL, OK, SKIPPED

    count = {status: sum(one.status == status for one in outcomes) for status in (OK, FAIL, SKIPPED)}
    seconds = sum(one.seconds for one in outcomes)
    if as_json:
        print(json.dumps({"ok": count[OK], "failed": count[FAIL], "skipped": count[SKIPPED],
                          "seconds": round(seconds, 3), **code_version(), "versions": package_versions(),
                          "checks": [one.plain() for one in outcomes]}, indent=2))
    else:
        print(f"{count[OK]} of {len(outcomes)} checks ok, {count[FAIL]} failed, {count[SKIPPED]} skipped, in "
              f"{seconds:.0f} s")
    failed = [one.name for one in outcomes if one.status == FAIL]
    if failed:
        raise ComparisonError(f"this installation does not compute what it claims: {', '.join(failed)}")
    return 0
