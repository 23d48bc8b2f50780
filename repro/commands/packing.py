"""Commands that carry runs to another machine and back: pack, unpack."""

import argparse
from pathlib import Path

from repro.commands.common import Add, results_of
from repro.errors import ConfigError
from repro.places import user_path


def register(add: Add) -> None:
    """Add these commands."""
    pack = add("pack", "put runs with their checkpoints into one folder that can be carried elsewhere", pack_runs)
    pack.add_argument("folder", metavar="FOLDER", help="a new or empty folder")
    pack.add_argument("runs", nargs="*", metavar="RUN",
                      help="EXPERIMENT/seedK or a run's folder (none: all runs); part_size=16MiB: in files of at most "
                           "that size")
    pack.add_argument("--all", action="store_true", help="all runs, as when none is named")
    unpack = add("unpack", "put the runs of such a folder into results/runs, where they go on", unpack_runs)
    unpack.add_argument("folder", metavar="FOLDER", help="what repro pack wrote")


def pack_runs(options: argparse.Namespace) -> int:
    """`repro pack`."""
    from repro.config import suggest
    from repro.packing.pack import pack
    from repro.sizes import parse_size

    names, part_size = [], None
    for word in options.runs:
        key, separator, value = word.partition("=")
        if not separator or Path(word).exists():
            names.append(word)
        elif key == "part_size":
            try:
                part_size = parse_size(value)
            except ValueError as error:
                raise ConfigError(f"part_size={value}: {error}") from None
        else:
            raise ConfigError(f"unknown key {key!r}{suggest(key, ['part_size'])}")
    if names and options.all:
        raise ConfigError(f"--all packs every run; leave it out to pack {', '.join(names)} only")
    pack(user_path(options.folder), results_of(), names, part_size, print)
    return 0


def unpack_runs(options: argparse.Namespace) -> int:
    """`repro unpack`."""
    from repro.packing.unpack import unpack

    unpack(user_path(options.folder), results_of(), print)
    return 0
