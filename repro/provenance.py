"""Where a number comes from: code version, package versions and machine, for the record of a run."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from repro import __version__
from repro.places import TREE, in_tree

PACKAGES = ("torch", "torchvision", "hydra-core", "omegaconf", "numpy")


def code_version() -> dict[str, Any]:
    """Commit and whether the tree has uncommitted changes; None where that can't be known (a wheel, no git)."""
    if not in_tree():
        return {"repro": __version__, "commit": None, "dirty": None}
    commit = git("rev-parse", "HEAD")
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {"repro": __version__, "commit": commit, "dirty": None if changes is None else bool(changes)}


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
