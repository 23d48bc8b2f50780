"""Checks of versions: Python, packages, this package, and whether torch and torchvision import at all."""

import json
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

from repro.doctor.check import NOTE, OK, PROBLEM, Check
from repro.places import PACKAGE, in_tree
from repro.provenance import code_version, package_versions
from repro.versions import COMPUTING, NEW_PAIR, NEWEST_PYTHON, python_range, version_problems

SECONDS = 300.0  # Choice: a first import from a slow network disk takes a minute
BUILDS = "reinstall both from one place, so that they are of one build (CPU or the same CUDA)"


def versions() -> list[Check]:
    """Python, this package, and every package that we require."""
    problems = version_problems()
    found = package_versions()
    checks = [Check(problem.package, PROBLEM, problem.text, problem.next_step) for problem in problems]
    wrong = {problem.package for problem in problems}
    if "python" not in wrong:
        new = sys.version_info[:2] > NEWEST_PYTHON
        text = f"{found['python']}" + (f", newer than the tested {python_range()}" if new else "")
        checks.insert(0, Check("python", NOTE if new else OK, text))
    others = [f"{name} {version}" for name, version in found.items()
              if name not in ("python", *COMPUTING) and name not in wrong and version is not None]
    return [*checks, Check("packages", OK, ", ".join(others)), code()]


def code() -> Check:
    """This package: version and commit."""
    found = code_version()
    text = f"repro {found['repro']}"
    if not in_tree():
        return Check("repro", OK, f"{text}, an installed package")
    if found["commit"] is None:
        return Check("repro", NOTE, f"{text}, commit unknown: no git, or no checkout; the records of runs name none")
    text += f", commit {found['commit'][:12]}"
    if found["dirty"]:
        return Check("repro", NOTE, f"{text} with uncommitted changes; the records of runs say so")
    return Check("repro", OK, text)


def probe() -> tuple[dict[str, Any], str]:
    """What `repro.doctor.probe` said, by name, and in one line why it said no more ('' if it came to its end)."""
    command = [sys.executable, "-m", "repro.doctor.probe"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False, cwd=PACKAGE.parent)
        output, reason = done.stdout, failure(done.returncode, done.stderr)
    except subprocess.TimeoutExpired as error:
        output, reason = error.stdout or b"", f"no answer within {SECONDS:.0f} s"
    said: dict[str, Any] = {}
    for line in output.splitlines():
        with suppress(ValueError):  # what a package prints when it is imported, or a line that was cut
            said |= dict(json.loads(line))
    return said, reason


def failure(code: int, errors: bytes) -> str:
    """Why a process failed, in one line: its signal or the last line that it wrote; '' if it did not fail."""
    if code == 0:
        return ""
    if code < 0:
        return f"the process was killed by {signal.Signals(-code).name}"
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else f"exit code {code}"


def imports(said: dict[str, Any], reason: str) -> list[Check]:
    """Whether torch and torchvision import."""
    if "torch" not in said:
        return [Check("torch", PROBLEM, f"does not import: {reason}", NEW_PAIR)]
    torch = said["torch"]
    built = f"CUDA {torch['cuda']}" if torch["cuda"] else f"ROCm {torch['hip']}" if torch["hip"] else "no CUDA"
    checks = [Check("torch", OK, f"{torch['version']} imports; built with {built}")]
    if "torchvision" not in said:
        return [*checks, Check("torchvision", PROBLEM, f"does not import: {reason}", f"{BUILDS}; or {NEW_PAIR}")]
    return [*checks, Check("torchvision", OK, f"{said['torchvision']['version']} imports")]
