"""Where a number comes from: code version, package versions and machine, for the record of a run."""

import hashlib
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from repro import __version__
from repro.paths import TREE, in_tree

PACKAGES = ("torch", "torchvision", "hydra-core", "omegaconf", "numpy")


def code_version() -> dict[str, Any]:
    """Commit and whether the tree differs from it; None where that can't be known (a wheel, no git and no COMMIT).

    Where a checkout traveled without .git, its file COMMIT tells, which tools/borrowed_gpu/prepare.sh writes.
    """
    commit = dirty = None
    if in_tree():
        commit = git("rev-parse", "HEAD") if (TREE / ".git").exists() else None  # not that of a repository around it
        if commit is not None:
            changes = git("status", "--porcelain", "--untracked-files=no")
            dirty = None if changes is None else bool(changes)
        else:
            commit, dirty = packed_commit(TREE)
    return {"repro": __version__, "commit": commit, "dirty": dirty}


def packed_commit(tree: Path) -> tuple[str | None, bool | None]:
    """What COMMIT says: the commit, then lines of sha256sum for every tracked file; whether one of them differs.

    (None, None) without such a file, or where it has no such form.
    """
    try:
        commit, *lines = (tree / "COMMIT").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None, None
    files = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in lines]
    if not re.fullmatch(r"[0-9a-f]{40}", commit) or not files or None in files:
        return None, None
    return commit, any(sha256_of(tree / match[2]) != match[1] for match in files if match)


def sha256_of(path: Path) -> str | None:
    """SHA-256 of a file; None if it can't be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def git(*arguments: str) -> str | None:
    """Output of a git command in the tree; None if git is missing or fails."""
    try:
        result = subprocess.run(["git", "-C", str(TREE), *arguments], capture_output=True, text=True, timeout=20,
                                check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def package_versions() -> dict[str, str | None]:
    """Versions of what computes the numbers."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def slurm_job() -> dict[str, Any]:
    """For the record of a session: SLURM's job and how often it was put back into its queue; nothing outside SLURM."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return {}
    return {"slurm": {"job_id": job, "restarts": int(os.environ.get("SLURM_RESTART_COUNT") or 0)}}


def machine() -> dict[str, Any]:
    """Operating system, architecture and cores; never a host name."""
    return {"system": platform.system(), "architecture": platform.machine(), "cores": os.cpu_count(),
            "interpreter": sys.implementation.name}
