"""Commands for files of weights: weights import, weights export, weights list."""

import argparse
import json

from repro.commands.common import Add, check_versions, results_of
from repro.paths import user_path


def register(add: Add) -> None:
    """Add this command with its three parts."""
    weights = add("weights", "import weights of others, export those of a run, list what is there", list_weights)
    parts = weights.add_subparsers(metavar="import | export | list", required=True)
    text = "map a public checkpoint onto our network, for `repro eval`"
    take = parts.add_parser("import", help=text, description=text)
    take.add_argument("file", metavar="FILE", help="the checkpoint; only its tensors are read, nothing is executed")
    take.add_argument("--from", dest="form", required=True, choices=("akamaster", "torchvision"),
                      help="akamaster/pytorch_resnet_cifar10, or torchvision's resnet18 to 152, vgg16, vgg19")
    take.add_argument("--output", metavar="OUT", help="the file to write (default: in results/imported)")
    take.set_defaults(handler=import_weights)
    text = "write the weights of a finished run as a plain file, with a model card"
    give = parts.add_parser("export", help=text, description=text)
    give.add_argument("run", metavar="RUN", help="its folder, or EXPERIMENT/seedK")
    give.add_argument("--output", metavar="DIR", help="the folder to write to (default: results/exported)")
    give.add_argument("--format", dest="form", choices=("auto", "pt", "safetensors"), default="auto",
                      help="auto: safetensors where that package is installed")
    give.set_defaults(handler=export_weights)
    text = "list the weights that are committed, exported, imported, or of runs"
    show = parts.add_parser("list", help=text, description=text)
    show.set_defaults(handler=list_weights)
    for part in (take, give, show):
        part.add_argument("--json", action="store_true", help="print JSON")


def import_weights(options: argparse.Namespace) -> int:
    """`repro weights import`."""
    check_versions()
    from repro.weights.importing import import_file

    output = user_path(options.output) if options.output else None
    text, values = import_file(user_path(options.file), options.form, output, results_of() / "imported")
    print(json.dumps(values, indent=2) if options.json else text)
    return 0


def export_weights(options: argparse.Namespace) -> int:
    """`repro weights export`."""
    from repro.runs import find_run

    run = find_run(options.run, results_of())
    check_versions()
    from repro.weights.exporting import export

    folder = user_path(options.output) if options.output else results_of() / "exported"
    text, values = export(run, folder, options.form)
    print(json.dumps(values, indent=2) if options.json else text)
    return 0


def list_weights(options: argparse.Namespace) -> int:
    """`repro weights list`."""
    check_versions()
    from repro.paths import reference_dir
    from repro.weights.listing import as_values, entries, listing

    found = entries(results_of(), reference_dir())
    print(json.dumps(as_values(found), indent=2) if options.json else listing(found))
    return 0
