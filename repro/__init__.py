"""Reference reproduction of "Deep Residual Learning for Image Recognition" (arXiv 1512.03385)."""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

__version__ = "0.1.0"
__all__ = ["build_model", "evaluate", "import_weights", "list_runs", "load_model", "read_run", "table"]

if sys.version_info < (3, 11) or not find_spec("fcntl"):  # POSIX has it: locks on files
    print("repro: needs Linux or macOS (on Windows its Linux, WSL) and Python 3.11 to 3.14; this is Python "
          f"{sys.version.split()[0]} on {sys.platform}", file=sys.stderr)
    sys.exit(2)


def __getattr__(name: str) -> Any:
    """The functions of repro.api, which is loaded when the first is used."""
    if name not in __all__:
        raise AttributeError(f"module 'repro' has no attribute {name!r}")
    return getattr(import_module("repro.api"), name)
