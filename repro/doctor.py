"""`repro doctor`: the environment as torch.utils.collect_env describes it, and what may keep runs from working here."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repro.checks import FAIL, OK, WARNING, CheckResult
from repro.config import ENVIRONMENT, suggest
from repro.data import cifar10_files
from repro.errors import DataError, ReproError
from repro.paths import data_dir, display_path, results_dir
from repro.provenance import code_version
from repro.schema import Device
from repro.versions import NEW_PAIR, version_problems

MB = 10**6
# ResNet-1202 has 19.4 M parameters of 4 bytes: its weights take 78 MB, each of two checkpoints twice that.
LEAST_DISK, ENOUGH_DISK = 20 * MB, 500 * MB


def environment() -> dict[str, Any]:
    """What torch.utils.collect_env finds, by its names; {} where torch does not import."""
    try:
        from torch.utils.collect_env import get_env_info
    except (ImportError, OSError, RuntimeError):  # `check_devices` says why
        return {}
    return get_env_info()._asdict()  # type: ignore[no-untyped-call, no-any-return]


def examine(full: bool = False) -> Iterator[CheckResult]:
    """All checks in the order in which they are shown; `full` verifies the data byte for byte."""
    yield check_code()
    yield from version_problems()
    yield from check_devices()
    yield check_results()
    yield check_data(full)
    yield from check_variables()


def check_code() -> CheckResult:
    """This package: version and commit."""
    found = code_version()
    commit = f"commit {found['commit'][:12]}" if found["commit"] else "commit unknown"
    changes = " with uncommitted changes" if found["dirty"] else ""
    return CheckResult("repro", WARNING if changes else OK, f"{found['repro']}, {commit}{changes}")


def check_devices() -> Iterator[CheckResult]:
    """Whether torch and torchvision import, and every GPU computes."""
    try:
        import torch
        import torchvision  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        yield CheckResult("torch", FAIL, f"torch and torchvision do not import: {error}", NEW_PAIR)
        return
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    asked = os.environ.get("REPRO_DEVICE", "")
    if not there.get(asked, True):
        yield CheckResult("device", FAIL, f"REPRO_DEVICE={asked} asks for a GPU that torch can't use here",
                          "REPRO_DEVICE=cpu")
    elif not any(there.values()):
        yield CheckResult("device", WARNING,
                          "no GPU that torch can use; the paper's schedules take hours to days on a CPU",
                          "`repro cost cifar_plain_vs_res` measures what it would take here")
    for index in range(torch.cuda.device_count()):
        try:
            computes = float(torch.ones(2, device=f"cuda:{index}").sum()) == 2
            free, total = torch.cuda.mem_get_info(index)
            yield CheckResult("device", OK if computes else FAIL,
                              f"cuda:{index} {torch.cuda.get_device_name(index)}, {free // MB} of "
                              f"{total // MB} MB free")
        except RuntimeError as error:
            yield CheckResult("device", FAIL, f"cuda:{index} does not compute: {error}",
                              "REPRO_DEVICE=cpu runs anywhere")


def check_results() -> CheckResult:
    """Whether runs can be written, and the space for them."""
    folder = results_dir()
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        return CheckResult("results", FAIL, f"can't write in {display_path(place)}",
                           "name another folder with REPRO_RESULTS")
    free = shutil.disk_usage(place).free
    text = f"{free // MB} MB free for {display_path(folder)}"
    if free < ENOUGH_DISK:
        return CheckResult("results", FAIL if free < LEAST_DISK else WARNING, f"{text}, little for ResNet-1202",
                           f"free {ENOUGH_DISK // MB} MB, or name another folder with REPRO_RESULTS")
    return CheckResult("results", OK, text)


def check_data(full: bool) -> CheckResult:
    """Whether CIFAR-10 is there and, if `full`, whole."""
    root = data_dir()
    try:
        path = cifar10_files.find(root)
        if path is None:
            return CheckResult("data", WARNING,
                               f"CIFAR-10 is not in {display_path(root)} yet; suites fetch it themselves",
                               "`repro data fetch cifar10`, or REPRO_DATA=FOLDER if you have it; data=synthetic needs "
                               "none")
        if not full:
            return CheckResult("data", OK, f"CIFAR-10 is in {display_path(path)}; each run verifies what it reads "
                               "(now: --full)")
        return CheckResult("data", OK, "; ".join(cifar10_files.verify(root)).replace(f"{Path.cwd()}/", ""))
    except ReproError as error:
        return CheckResult("data", FAIL, str(error), "`repro data fetch cifar10` repairs it"
                           if isinstance(error, DataError) else "see to its permissions")


def check_variables() -> Iterator[CheckResult]:
    """Each variable of the environment that is ours."""
    known = (*ENVIRONMENT, "REPRO_DEBUG")
    for name, value in sorted(os.environ.items()):
        if not name.startswith("REPRO_"):
            continue
        if name not in known:
            yield CheckResult("environment", WARNING, f"{name} is not read by anything{suggest(name, known)}")
        elif name == "REPRO_DEVICE" and value and value not in Device.__members__:
            yield CheckResult("environment", FAIL, f"{name}={value}: no such device",
                              f"one of {', '.join(Device.__members__)}")
        else:
            yield CheckResult("environment", OK, f"{name}={value}")
