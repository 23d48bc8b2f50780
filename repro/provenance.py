"""Where a number comes from: code version, package versions and machine, for the record of a run."""

import hashlib
import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from repro import __version__
from repro.paths import TREE, in_tree

PACKAGES = ("torch", "torchvision", "hydra-core", "omegaconf", "numpy")


def code_version() -> dict[str, Any]:
    """Commit and whether the tree differs from it; None where that can't be known (a wheel, no git and no COMMIT)."""
    commit = dirty = None
    if in_tree() and (TREE / ".git").exists():  # not the repository around a tree without its own
        git = partial(subprocess.run, cwd=TREE, capture_output=True, text=True, timeout=20, check=True)
        with suppress(OSError, subprocess.SubprocessError):
            commit = git(["git", "rev-parse", "HEAD"]).stdout.strip()
            dirty = bool(git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout)
    if in_tree() and commit is None:
        with suppress(OSError, ValueError):
            commit, dirty = packed_commit(TREE)
    return {"repro": __version__, "commit": commit, "dirty": dirty}


def packed_commit(tree: Path) -> tuple[str, bool]:
    """What COMMIT, which tools/borrowed_gpu/prepare.sh writes, says of a tree without .git, and whether a file differs.

    The commit, then lines of sha256sum for every tracked file. OSError without it, ValueError if it has another form.
    """
    commit, *lines = (tree / "COMMIT").read_text(encoding="utf-8").splitlines()
    files = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    if not re.fullmatch(r"[0-9a-f]{40}", commit) or not files:
        raise ValueError("no list of a commit")
    return commit, any(not (tree / name).is_file() or
                       hashlib.sha256((tree / name).read_bytes()).hexdigest() != expected
                       for name, expected in files.items())


def package_versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def slurm_job() -> dict[str, Any]:
    """SLURM's job and how often it was put back into its queue; nothing outside SLURM."""
    job, restarts = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_RESTART_COUNT") or 0
    return {"slurm": {"job_id": job, "restarts": int(restarts)}} if job else {}


def machine() -> dict[str, Any]:
    """Operating system, architecture and cores; never a host name."""
    return {"system": platform.system(), "architecture": platform.machine(), "cores": os.cpu_count(),
            "interpreter": sys.implementation.name}
