"""Checks of folders (results, data, disk) and of the environment variables that a run reads."""

import os
import shutil
import tempfile
from pathlib import Path

from repro.config import ENVIRONMENT, suggest
from repro.data import cifar10_files
from repro.doctor.check import NOTE, OK, PROBLEM, Check
from repro.errors import DataError, ReproError
from repro.places import data_dir, results_dir, shown
from repro.schema import Device

MB = 10**6
# A run of up to 110 layers leaves some MB. ResNet-1202 has 19.4 M parameters of 4 bytes: its weights take 78 MB, and
# each of two checkpoints (with momentum) twice that.
LEAST_DISK, ENOUGH_DISK = 20 * MB, 500 * MB
DATA_DISK = 350 * MB  # 170 MB of archive beside 180 MB of files
OUR_VARIABLES = (*ENVIRONMENT, "REPRO_DEBUG")
OTHER_VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG")


def results() -> list[Check]:
    """Whether runs can be written, and the space for them."""
    folder = results_dir()
    place = existing(folder)
    name = shown(folder)
    other = "name another folder with REPRO_RESULTS"
    if not place.is_dir():
        return [Check("results", PROBLEM, f"{shown(place)} is no folder, so {name} can't be one", other)]
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return [Check("results", PROBLEM, f"can't write in {shown(place)}: {error.strerror}", other)]
    text = f"{name} can be written" + ("" if place == folder else f" (it will be made in {shown(place)})")
    return [Check("results", OK, text), results_disk(place, other)]


def results_disk(place: Path, other: str) -> Check:
    """The space for runs."""
    free = shutil.disk_usage(place).free
    text = f"{free / MB:,.0f} MB free for results"
    if free < LEAST_DISK:
        return Check("disk", PROBLEM, f"{text}; {LEAST_DISK / MB:.0f} MB are the least", f"free some, or {other}")
    if free < ENOUGH_DISK:
        return Check("disk", NOTE, f"{text}: enough for runs of up to 110 layers, little for ResNet-1202", other)
    return Check("disk", OK, text)


def data(full: bool) -> Check:
    """Whether CIFAR-10 is there and, if `full`, whole."""
    root = data_dir()
    try:
        path = cifar10_files.find(root)
        if path is None:
            return data_missing(root)
        if not full:
            return Check("data", OK, f"CIFAR-10 is in {shown(path)}; not verified now (each run verifies what "
                         "it reads; `repro doctor --full` does it here)")
        lines = cifar10_files.verify(root)
    except ReproError as error:
        repair = "`repro data fetch cifar10` repairs it" if isinstance(error, DataError) else "see to its permissions"
        return Check("data", PROBLEM, relative(str(error)), repair)
    return Check("data", OK, relative("; ".join(lines)))


def data_missing(root: Path) -> Check:
    """CIFAR-10 is not there: is there room for it?"""
    place = existing(root)
    free = shutil.disk_usage(place).free
    if free < DATA_DISK:
        return Check("data", PROBLEM, f"CIFAR-10 is not in {shown(root)}, and fetching it takes "
                     f"{DATA_DISK / MB:.0f} MB of which {free / MB:.0f} are free",
                     "name another folder with REPRO_DATA")
    return Check("data", NOTE, f"CIFAR-10 is not in {shown(root)} yet ({free / MB:,.0f} MB free; it takes "
                 f"{DATA_DISK / MB:.0f}); suites fetch it themselves",
                 "`repro data fetch cifar10`, or REPRO_DATA=FOLDER if you have it; data=synthetic needs none")


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def relative(text: str) -> str:
    """A message whose paths below the current folder are relative."""
    return text.replace(f"{Path.cwd()}{os.sep}", "")


def variables() -> list[Check]:
    """Each environment variable that changes what a run does, if it is set."""
    ours = sorted(name for name in os.environ if name.startswith("REPRO_"))
    return [variable(name, os.environ[name]) for name in [*ours, *OTHER_VARIABLES] if name in os.environ]


def variable(name: str, value: str) -> Check:
    """One environment variable."""
    set_to = f"{name}={relative(value)}"
    if name.startswith("REPRO_") and name not in OUR_VARIABLES:
        return Check("environment", NOTE, f"{set_to} is not read by anything{suggest(name, OUR_VARIABLES)}")
    if name == "REPRO_DEVICE" and value and value not in Device.__members__:
        return Check("environment", PROBLEM, f"{set_to}: no such device", f"one of {', '.join(Device.__members__)}")
    if name == "CUDA_VISIBLE_DEVICES" and value in ("", "-1"):
        return Check("environment", NOTE, f"{set_to} hides every GPU", f"unset {name}")
    if name.endswith("_NUM_THREADS") and not (value.isdigit() and int(value) > 0):
        return Check("environment", NOTE, f"{set_to} is no number of threads", f"unset {name}")
    return Check("environment", OK, set_to)
