"""Commands that evaluate trained networks: eval, ensemble."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from repro.commands.common import Add, check_versions
from repro.paths import user_path

if TYPE_CHECKING:
    from repro.schema import RunConfig

OWN_KEYS = ("weights", "protocol")  # beside those of a run's configuration


def register(add: Add) -> None:
    """Add these commands."""
    evaluate = add("eval", "evaluate a network: its finished run's weights, or those in a file", evaluate_weights)
    evaluate.add_argument("overrides", nargs="+", metavar="key=value",
                          help="experiment=NAME; weights=FILE (a plain state_dict, or what `repro weights` wrote; "
                               "without it, those of the finished run); protocol=center|ten_crop|multi_scale "
                               "(ImageNet); any override of `repro run`")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    ensemble = add("ensemble", "average the kept class probabilities of several networks", combine_networks)
    ensemble.add_argument("name", help="e.g. table5")
    ensemble.add_argument("overrides", nargs="*", metavar="key=value", help="any override of the members' runs")
    ensemble.add_argument("--json", action="store_true", help="print JSON")


def evaluate_weights(options: argparse.Namespace) -> int:
    """`repro eval`."""
    from repro.paper import PROTOCOLS, pick
    from repro.schema import IMAGENET

    overrides, own = split_keys(options.overrides)
    config = configuration(overrides, own.get("weights"))
    known = PROTOCOLS if config.data.name == IMAGENET else ("single_view",)
    protocol = pick(own.get("protocol") or known[0], {name: name for name in known},
                    f"protocol with data.name={config.data.name}")
    check_versions()
    from repro.evaluation.weights import evaluate_file, weights_of

    weights = weights_of(config, own.get("weights"))
    if config.data.name == IMAGENET:
        from repro.evaluation.evaluate import evaluate

        text, values = evaluate(config, protocol, weights)
    else:
        text, values = evaluate_file(config, weights)
    print(json.dumps(values, indent=2) if options.json else text)
    return 0


def combine_networks(options: argparse.Namespace) -> int:
    """`repro ensemble`."""
    from repro.config import check_override_keys
    from repro.paper import ensemble

    ensemble(options.name)
    check_override_keys(options.overrides)
    check_versions()
    from repro.evaluation.ensemble import combine

    text, values = combine(options.name, options.overrides)
    print(json.dumps(values, indent=2) if options.json else text)
    return 0


def configuration(overrides: Sequence[str], weights: str | None) -> "RunConfig":
    """What the overrides say, with the settings that a weights file carries, which are then named in a line."""
    from repro.config import check_override_keys, compose

    if weights is None:
        return compose(overrides)
    check_override_keys(overrides)
    check_versions()
    from repro.evaluation.weight_files import with_carried_settings

    config, note = with_carried_settings(overrides, user_path(weights))
    if note:
        print(note, file=sys.stderr)
    return config


def split_keys(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Overrides of a configuration, and the values of our own keys."""
    own = {key: value for key, _, value in (word.partition("=") for word in words) if key in OWN_KEYS}
    return [word for word in words if word.partition("=")[0] not in OWN_KEYS], own
