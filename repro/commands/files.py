"""The command on data sets: data."""

import argparse
from collections.abc import Sequence

from repro.commands.common import Add
from repro.errors import ConfigError

ROOT, WIRING_TEST = "data.root", "data.wiring_test"


def register(add: Add) -> None:
    """Add this command."""
    data = add("data", "fetch or verify a data set, or say where it is", manage_data)
    data.add_argument("action", choices=["fetch", "verify", "path"])
    data.add_argument("name", nargs="?", default="cifar10", choices=["cifar10", "imagenet"])
    data.add_argument("settings", nargs="*", metavar="data.root=DIR",
                      help="the folder that holds it; data.wiring_test=true: imagenet may be any folders of classes")


def manage_data(options: argparse.Namespace) -> int:
    """`repro data`."""
    from repro.paths import data_dir

    settings = settings_of(options.settings)
    root = data_dir(settings.get(ROOT) or None)
    imagenet = options.name == "imagenet"
    if settings.get(WIRING_TEST, "false") not in ("true", "false") or (WIRING_TEST in settings and not imagenet):
        raise ConfigError(f"{WIRING_TEST}={settings[WIRING_TEST]}: allowed is true or false, of imagenet only")
    if options.action == "path":
        print(root)
    elif options.action == "fetch" and imagenet:
        from repro.data.imagenet_files import BY_HAND

        raise ConfigError(f"ImageNet can't be fetched: its images may not be passed on. What to do: {BY_HAND}; then "
                          "`repro data verify imagenet data.root=FOLDER`")
    elif options.action == "fetch":
        from repro.data.fetch import fetch

        fetch(root)
    elif imagenet:
        from repro.data import imagenet_files

        imagenet_files.verify(root, settings.get(WIRING_TEST) == "true")
    else:
        from repro.data import cifar10_files

        print("\n".join(cifar10_files.verify(root)))
    return 0


def settings_of(arguments: list[str], known: Sequence[str] = (ROOT, WIRING_TEST)) -> dict[str, str]:
    """Values by key; what has no = is the folder. ConfigError for an unknown key."""
    found = {}
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator:
            key, value = ROOT, key
        if key not in known:
            from repro.config import suggest

            raise ConfigError(f"unknown key {key!r}{suggest(key, known)}")
        found[key] = value.strip("'\"")
    return found
