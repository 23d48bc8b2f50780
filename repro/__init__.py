"""Reference reproduction of "Deep Residual Learning for Image Recognition" (arXiv 1512.03385)."""

from importlib import import_module
from typing import Any

try:
    import fcntl  # noqa: F401
except ImportError:
    import sys

    print("repro: needs Linux or macOS: this system (Windows?) has no locks on files as POSIX has them (fcntl); on "
          "Windows use its Linux, WSL", file=sys.stderr)
    sys.exit(2)

__version__ = "0.1.0"
OLDEST_PYTHON = (3, 11)
__all__ = ["build_model", "evaluate", "import_weights", "list_runs", "load_model", "read_run", "table"]


def __getattr__(name: str) -> Any:
    """The functions of repro.api, which is loaded when the first is used."""
    if name not in __all__:
        raise AttributeError(f"module 'repro' has no attribute {name!r}")
    return getattr(import_module("repro.api"), name)
