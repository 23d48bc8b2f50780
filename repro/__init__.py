"""Reference reproduction of "Deep Residual Learning for Image Recognition" (arXiv 1512.03385)."""

try:
    import fcntl  # noqa: F401
except ImportError:
    import sys

    print("repro: needs Linux or macOS: this system (Windows?) has no locks on files as POSIX has them (fcntl); on "
          "Windows use its Linux, WSL", file=sys.stderr)
    sys.exit(2)

__version__ = "0.1.0"
OLDEST_PYTHON = (3, 11)
