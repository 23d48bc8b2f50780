"""Commands on files that are there: eval, data."""

import argparse
from pathlib import Path

from repro.commands.common import Add, check_versions
from repro.errors import ConfigError


def register(add: Add) -> None:
    """Add these commands."""
    evaluate = add("eval", "test a network with given weights", evaluate_weights)
    evaluate.add_argument("overrides", nargs="+", metavar="key=value",
                          help="experiment=NAME weights=FILE (a plain state_dict) and any override of `repro run`")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    data = add("data", "fetch or verify a data set, or say where it is", manage_data)
    data.add_argument("action", choices=["fetch", "verify", "path"])
    data.add_argument("name", nargs="?", default="cifar10", choices=["cifar10"])
    data.add_argument("root", nargs="?", default=None, metavar="data.root=DIR")


def evaluate_weights(options: argparse.Namespace) -> int:
    """`repro eval`."""
    weights = [o.partition("=")[2] for o in options.overrides if o.startswith("weights=")]
    if not weights:
        raise ConfigError("repro eval needs weights=FILE, a plain state_dict such as a run's weights.pt")
    from repro.config import compose

    config = compose([o for o in options.overrides if not o.startswith("weights=")])
    check_versions()
    from repro.evaluation.weights import evaluate_file

    text, values = evaluate_file(config, Path(weights[-1]).expanduser())
    if options.json:
        import json

        text = json.dumps(values, indent=2)
    print(text)
    return 0


def manage_data(options: argparse.Namespace) -> int:
    """`repro data`."""
    from repro.data import cifar10_files
    from repro.places import data_dir

    key, separator, value = (options.root or "").partition("=")
    if not separator:
        key, value = "data.root", key
    if key != "data.root":
        raise ConfigError(f"unknown key {key!r}; did you mean data.root?")
    root = data_dir(value.strip("'\"") or None)
    if options.action == "fetch":
        from repro.data.fetch import fetch

        fetch(root)
    elif options.action == "verify":
        print("\n".join(cifar10_files.verify(root)))
    else:
        print(root)
    return 0
