"""Where a number comes from: code version, package versions and machine, for the record of a run."""

import hashlib
import os
import platform
import re
import subprocess
import sys
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
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
        dirty = None if changes is None else bool(changes)
    if in_tree() and commit is None:
        commit, dirty = packed_commit(TREE)
    return {"repro": __version__, "commit": commit, "dirty": dirty}


def packed_commit(tree: Path) -> tuple[str | None, bool | None]:
    """What COMMIT, which tools/borrowed_gpu/prepare.sh writes, says of a tree without .git, and whether a file differs.

    The commit, then lines of sha256sum for every tracked file. (None, None) without it, or if it has another form.
    """
    try:
        commit, *lines = (tree / "COMMIT").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None, None
    sums = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in lines]
    if not re.fullmatch(r"[0-9a-f]{40}", commit) or not sums or None in sums:
        return None, None
    files = {tree / match[2]: match[1] for match in sums if match}
    return commit, any(not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != expected
                       for file, expected in files.items())


def git(*arguments: str) -> str | None:
    """Output of a git command in the tree; None if git is missing or fails."""
    try:
        return subprocess.run(["git", "-C", str(TREE), *arguments], capture_output=True, text=True, timeout=20,
                              check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


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
