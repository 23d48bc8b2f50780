"""The command that checks this installation's own numbers: verify."""

import argparse
import json

from repro.commands.common import Add, check_versions
from repro.commands.files import ROOT, settings_of
from repro.errors import ComparisonError


def register(add: Add) -> None:
    """Add this command."""
    command = add("verify", "check that this installation computes what it claims, in under a minute on a CPU", verify)
    command.add_argument("settings", nargs="*", metavar="data.root=DIR", help="the folder that holds CIFAR-10")
    command.add_argument("--json", action="store_true", help="print JSON")


def verify(options: argparse.Namespace) -> int:
    """`repro verify`; ComparisonError (4) if a check fails."""
    from dataclasses import asdict

    from repro.paths import data_dir

    root = data_dir(settings_of(options.settings, (ROOT,)).get(ROOT) or None)
    check_versions()
    from repro import verification
    from repro.checks import FAIL, SKIPPED
    from repro.provenance import code_version, package_versions

    results = []
    for name, check in verification.checks(root).items():
        results.append(verification.perform(name, check))
        if not options.json:
            print(results[-1], flush=True)
    failed, skipped = ([one.check for one in results if one.status == status]
                       for status in (FAIL, SKIPPED))
    good, seconds = len(results) - len(failed) - len(skipped), sum(one.seconds or 0 for one in results)
    if options.json:
        print(json.dumps({"ok": good, "failed": len(failed), "skipped": len(skipped), "seconds": round(seconds, 3),
                          **code_version(), "versions": package_versions(), "checks": [asdict(one) for one in results]},
                         indent=2))
    else:
        print(f"{good} of {len(results)} checks ok, {len(failed)} failed, {len(skipped)} skipped, in {seconds:.0f} s")
    if failed:
        raise ComparisonError(f"this installation does not compute what it claims: {', '.join(failed)}")
    return 0
