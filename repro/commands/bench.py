"""The command that measures training speed: bench."""

import argparse
import sys

from repro.commands.common import Add, check_versions, output_folder
from repro.errors import ConfigError


def register(add: Add) -> None:
    """Add this command."""
    command = add("bench", "measure training speed against usual loops and against what the device allows", run_bench)
    command.add_argument("overrides", nargs="*", metavar="key=value",
                         help="nets=20,56 contenders=repro,eager_loop,reduce_overhead,dataloader,repro:ENGINE rounds=5 "
                              "steps=K, and any override of `repro run`, e.g. machine.precision=bf16")
    command.add_argument("--quick", action="store_true",
                         help="20 layers against the DataLoader, 2 short rounds; under a minute on 2 cores")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument("--reference", action="store_true", help="write into results/reference/bench")


def run_bench(options: argparse.Namespace) -> int:
    """`repro bench`."""
    from repro.bench.plan import ROUNDS, settings_of

    settings = settings_of(options.overrides, options.quick)
    if options.reference and (options.quick or settings.rounds < ROUNDS):
        raise ConfigError(f"--reference: takes {ROUNDS} rounds or more and no --quick")
    check_versions()
    import json

    from repro.bench.bench import bench
    from repro.places import shown
    from repro.reporting.bench_table import bench_table
    from repro.runs import write_atomic, write_json

    def say(line: str) -> None:
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)

    record = bench(settings, say)
    table = bench_table(record)
    folder = output_folder("bench", options.reference)
    write_json(folder / f"{table.name}.json", record)
    for suffix, text in (("md", table.markdown()), ("csv", table.csv())):
        write_atomic(folder / f"{table.name}.{suffix}", text)
    print(json.dumps(record, indent=2) if options.json else f"\n{table.markdown()}")
    say("written: " + ", ".join(shown(folder / f"{table.name}.{suffix}") for suffix in ("json", "md", "csv")))
    return 0
