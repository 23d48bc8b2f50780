"""The command that puts two runs side by side: compare."""

import argparse

from repro.commands.common import Add, results_of


def register(add: Add) -> None:
    """Add this command."""
    command = add("compare", "two runs side by side: settings that differ, errors, curves", compare_runs)
    for name in ("first", "second"):
        command.add_argument(name, metavar="RUN", help="a run's folder, or EXPERIMENT[@IDENTITY]/seedK")
    command.add_argument("--json", action="store_true", help="print JSON")


def compare_runs(options: argparse.Namespace) -> int:
    """`repro compare`."""
    import json

    from repro.places import reference_dir, shown
    from repro.reporting.compare import compare, text
    from repro.runs import find_run

    results = results_of()
    first, second = (find_run(name, results, reference_dir()) for name in (options.first, options.second))
    found = compare(first, second)
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    print(text(found))
    from repro.reporting.compare_figure import draw_two

    print(f"\nfigure: {', '.join(shown(path) for path in draw_two(first, second, results / 'figures'))}")
    return 0
