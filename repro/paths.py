"""Where things lie: configurations and published numbers (package or tree), results and data (the user's)."""

import os
from functools import partial
from pathlib import Path

from repro.errors import ConfigError

PACKAGE = Path(__file__).resolve().parent
TREE = PACKAGE.parent


def in_tree() -> bool:
    """Whether the package runs from a checkout (also an editable install) and not from a wheel."""
    return (TREE / "pyproject.toml").is_file() and (TREE / "conf").is_dir()


def conf_dir() -> Path:
    return (TREE if in_tree() else PACKAGE) / "conf"


def experiments_dir() -> Path:
    return (TREE if in_tree() else PACKAGE) / "experiments"


def reference_dir() -> Path:
    """The committed evidence: runs, tables, figures and bench."""
    return TREE / "results" / "reference" if in_tree() else PACKAGE / "reference"


def user_folder(name: str, setting: str | None = None) -> Path:
    """The setting, $REPRO_NAME, or else the folder of this name in the checkout (of a wheel: the current folder)."""
    chosen = setting or os.environ.get(f"REPRO_{name.upper()}")
    return user_path(chosen).absolute() if chosen else (TREE if in_tree() else Path.cwd()) / name


results_dir = partial(user_folder, "results")  # of the user's own runs, tables and figures
data_dir = partial(user_folder, "data")  # of the data sets


def user_path(text: str) -> Path:
    """The path that a person typed, ~ expanded; ConfigError if that names nobody, or it is no UTF-8."""
    try:
        text.encode()
        return Path(text).expanduser()
    except (UnicodeEncodeError, RuntimeError) as error:
        raise ConfigError(f"{escape(text)}: a path that is no UTF-8, or a user who has no home here") from error


def escape(text: str) -> str:
    """The text in characters that can be printed anywhere and move no cursor; others as their escape sequence."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def display_path(path: Path) -> str:
    """The path as a person would type it: relative where it lies below the current folder, and printable."""
    try:
        return escape(str(path.relative_to(Path.cwd())))
    except (ValueError, FileNotFoundError):  # elsewhere, or there is no current folder any more
        return escape(str(path))
