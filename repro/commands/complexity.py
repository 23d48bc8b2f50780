"""The command that counts the paper's networks: complexity."""

import argparse

from repro.commands.common import Add, check_versions, output_folder
from repro.errors import ComparisonError


def register(add: Add) -> None:
    """Add this command."""
    command = add("complexity", "count layers, parameters and multiply-adds of all networks, beside Table 1",
                  show_complexity)
    command.add_argument("--check", action="store_true", help="exit 4 if a count is not that of golden_counts.yaml")
    command.add_argument("--json", action="store_true", help="print JSON")


def show_complexity(options: argparse.Namespace) -> int:
    """`repro complexity`."""
    check_versions()
    from dataclasses import asdict

    from repro.evaluation.analysis import count, networks
    from repro.paths import display_path
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
        print(f"written: {', '.join(display_path(path) for path in written)}")
    wrong = count_differences(counted)
    if wrong and options.check:
        raise ComparisonError("counts that are not those of golden_counts.yaml: " + "; ".join(wrong))
    return 0
