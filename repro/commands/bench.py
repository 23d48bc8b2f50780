"""The command that measures speed, of training and of reading images: bench."""

import argparse
import logging
from typing import TYPE_CHECKING, Any

from repro.commands.common import Add, check_versions, output_folder
from repro.errors import ConfigError

if TYPE_CHECKING:
    from repro.reporting.table import Table

logger = logging.getLogger(__name__)


def register(add: Add) -> None:
    """Add this command."""
    command = add("bench", "measure training speed against usual loops and against what the device allows", run_bench)
    command.add_argument("overrides", nargs="*", metavar="[input] key=value",
                         help="nets=20,56 contenders=repro,eager_loop,reduce_overhead,dataloader,repro:ENGINE rounds=5 "
                              "steps=K, and any override of `repro run`, e.g. machine.precision=bf16; or `input`: how "
                              "fast ImageNet images are read, data.root=DIR rounds=5 images=400 workers=N")
    command.add_argument("--quick", action="store_true",
                         help="20 layers against the DataLoader, 2 short rounds; under a minute on 2 cores")
    command.add_argument("--max-seconds", type=float, metavar="S", help="be done in this time, with fewer rounds")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument("--reference", action="store_true", help="write into results/reference/bench")


def run_bench(options: argparse.Namespace) -> int:
    """`repro bench` and `repro bench input`."""
    if options.overrides[:1] == ["input"]:
        return bench_input_command(options)
    from repro.bench.plan import settings_of

    settings = settings_of(options.overrides, options.quick, options.max_seconds)
    check_evidence(options, settings.rounds)
    check_versions()
    from repro.bench.bench import bench
    from repro.reporting.bench import bench_table

    record = bench(settings)
    return keep(options, record, bench_table(record))


def bench_input_command(options: argparse.Namespace) -> int:
    """`repro bench input`."""
    from repro.bench.input_plan import input_settings

    if options.max_seconds is not None:
        raise ConfigError("--max-seconds: the bench of the input takes rounds= and images= instead")
    settings = input_settings(options.overrides[1:], options.quick)
    check_evidence(options, settings.rounds)
    check_versions()
    from repro.bench.input import bench_input
    from repro.reporting.bench import input_table

    record = bench_input(settings)
    return keep(options, record, input_table(record))


def check_evidence(options: argparse.Namespace, rounds: int) -> None:
    """ConfigError if too few rounds are asked for as evidence."""
    from repro.bench.plan import ROUNDS

    if options.reference and (options.quick or rounds < ROUNDS or options.max_seconds is not None):
        raise ConfigError(f"--reference: takes {ROUNDS} rounds or more, no --quick and no --max-seconds")


def keep(options: argparse.Namespace, record: dict[str, Any], table: "Table") -> int:
    """Write the record and its table, and print one of them."""
    import json

    from repro.files import write_atomic, write_json
    from repro.paths import display_path

    folder = output_folder("bench", options.reference)
    write_json(folder / f"{table.name}.json", record)
    for suffix, text in (("md", table.markdown()), ("csv", table.csv())):
        write_atomic(folder / f"{table.name}.{suffix}", text)
    print(json.dumps(record, indent=2) if options.json else f"\n{table.markdown()}")
    files = [display_path(folder / f"{table.name}.{suffix}") for suffix in ("json", "md", "csv")]
    logger.info(f"written: {', '.join(files)}")
    return 0
