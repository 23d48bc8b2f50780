"""Devices and precision: what `auto` means here, how torch is set up for it; what records say of all that computes."""

import ctypes
import hashlib
import os
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

from repro import __version__
from repro.errors import ConfigError
from repro.paths import TREE, in_tree
from repro.schema import Device, Engine, MachineConfig, Precision, RunConfig

Model = TypeVar("Model", bound=torch.nn.Module)
AUTOCAST = {Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}
CUDNN: Any = torch.backends.cudnn
FP32: list[Any] = [torch.backends.cuda.matmul, CUDNN.conv, CUDNN.rnn]  # torch's newer interface


def find_device(asked: Device) -> Device:
    """The kind of device that is asked for, `auto` being the best that is here; ConfigError if there is none."""
    available: dict[Device, Callable[[], bool]] = {
        Device.cuda: torch.cuda.is_available, Device.mps: torch.backends.mps.is_available, Device.cpu: lambda: True}
    if asked is Device.auto:
        return next(device for device, is_available in available.items() if is_available())
    with warnings.catch_warnings(record=True) as told:  # torch says of a driver that is too old which one it found
        warnings.simplefilter("always")
        there = available[asked]()
    if not there:
        reason = str(told[0].message).split("(Triggered")[0].strip() if told else "driver missing or too old?"
        raise ConfigError(f"machine.device={asked.name}: torch {torch.__version__} finds none here ({reason}); "
                          "machine.device=cpu runs anywhere")
    return asked


def resolve(config: RunConfig) -> RunConfig:
    """Replace every `auto` by what it means on this machine. ConfigError if a device is asked for that is not here."""
    machine, engine, devices = config.machine, config.engine, config.devices or 1
    device, precision = find_device(machine.device), machine.precision
    if precision is Precision.auto:
        precision = Precision.tf32 if device is Device.cuda else Precision.fp32
    if precision is Precision.tf32 and device is not Device.cuda:
        raise ConfigError(f"machine.precision=tf32: needs a CUDA device, this is {device.name}; use fp32")
    if devices > 1:
        if device is Device.mps or (machine.device is Device.auto and device is Device.cpu):
            raise ConfigError(f"devices={devices}: {devices} asked, 1 found; machine.device=cpu takes several")
        if engine is Engine.graph:
            raise ConfigError("engine=graph: with one device only; engine=eager takes several")
    if engine is Engine.auto:
        engine = Engine.graph if device is Device.cuda and devices == 1 else Engine.eager
    channels_last = machine.channels_last
    if channels_last is None:  # measured faster on CPUs; Choice: on CUDA where tensor cores compute, which want it
        channels_last = device is Device.cpu or (device is Device.cuda and precision is not Precision.fp32)
    machine = replace(machine, device=device, precision=precision, channels_last=channels_last)
    return replace(config, engine=engine, machine=machine)


def set_up(config: RunConfig, allocator: bool = True) -> torch.device:
    """Configure torch for a resolved configuration, let the C library keep freed memory, and return the device."""
    machine = config.machine
    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    set_tf32(machine.precision is Precision.tf32)
    CUDNN.benchmark = not machine.deterministic
    if machine.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it; read at its first use
    set_deterministic(machine.deterministic)
    if machine.device is Device.cpu and allocator:
        with suppress(OSError, AttributeError):  # of glibc only
            mallopt = ctypes.CDLL("libc.so.6").mallopt
            for threshold in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD: each step else takes thousands of faults
                mallopt(threshold, 1 << 30)
    return torch.device(machine.device.name)


def set_deterministic(on: bool) -> None:
    if torch.are_deterministic_algorithms_enabled() != on:  # the call loads the compiler
        torch.use_deterministic_algorithms(on)


def set_tf32(on: bool) -> None:
    """Matrix products and convolutions on CUDA in TF32, or in plain fp32, by both of torch's interfaces."""
    # The older one's getters raise where the two disagree, also within torch's compiler and torch.export.
    torch.backends.cuda.matmul.allow_tf32 = CUDNN.allow_tf32 = on
    for operation in FP32:
        operation.fp32_precision = "tf32" if on else "ieee"


@contextmanager
def restore_settings() -> Iterator[None]:
    """Leave torch's process-wide settings (see `set_up`) as they were before."""
    products, convolutions = "highest", True  # torch's own, where its interfaces disagree
    with suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        convolutions = CUDNN.allow_tf32
    with ExitStack() as stack:  # its last entry is undone first: the newer interface has the last word
        for operation in (*FP32, torch.backends.mkldnn.matmul):  # type: ignore[attr-defined]
            stack.callback(setattr, operation, "fp32_precision", operation.fp32_precision)
        stack.callback(setattr, CUDNN, "allow_tf32", convolutions)
        stack.callback(torch.set_float32_matmul_precision, products)
        stack.callback(setattr, CUDNN, "benchmark", CUDNN.benchmark)
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        stack.callback(set_deterministic, torch.are_deterministic_algorithms_enabled())
        yield


def memory_format(machine: MachineConfig) -> torch.memory_format:
    """How a resolved machine lays out images."""
    return torch.channels_last if machine.channels_last else torch.contiguous_format


def place(model: Model, config: RunConfig, device: torch.device) -> Model:
    """The model on the device, in the memory format of a resolved configuration."""
    return model.to(device).to(memory_format=memory_format(config.machine))


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """16-bit autocast for bf16 and fp16, nothing for fp32 and tf32."""
    return torch.autocast(device.type, AUTOCAST[precision]) if precision in AUTOCAST else nullcontext()


def out_of_memory(error: BaseException | None) -> BaseException | None:
    """The error, this one or what it came from, by which torch says that there is no memory left; None without one."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            return error
        error = error.__cause__ or error.__context__  # of a failed capture torch says only that another came before
    return None


def synchronize(device: torch.device, all_streams: bool = False) -> None:
    """Wait until the device has done all that the current stream, or any stream, was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device) if all_streams else torch.cuda.current_stream(device).synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


def describe(device: torch.device) -> str:
    """The device in words, e.g. 'NVIDIA H200' or 'AMD EPYC 9R14, 2 threads'."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"{platform.machine()} {platform.system()} GPU (mps)"
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        found = re.search(r"model name\s*:(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        name = found[1].strip() if found else name
    return f"{name}, {torch.get_num_threads()} threads"


def code_version() -> dict[str, Any]:
    """Commit and whether the tree differs from it; None where that can't be known (a wheel, no git and no COMMIT)."""
    commit = dirty = None
    if in_tree() and (TREE / ".git").exists():  # not the repository around a tree without its own
        git = partial(subprocess.run, cwd=TREE, capture_output=True, text=True, timeout=20, check=True)
        with suppress(OSError, subprocess.SubprocessError):
            commit = git(["git", "rev-parse", "HEAD"]).stdout.strip()
            dirty = bool(git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout)
    elif in_tree():  # COMMIT, of tools/borrowed_gpu: the commit, then lines of sha256sum for every tracked file
        with suppress(OSError, ValueError):
            head, *lines = (TREE / "COMMIT").read_text(encoding="utf-8").splitlines()
            sums = [line.split("  ", 1) for line in lines]
            if re.fullmatch(r"[0-9a-f]{40}", head) and sums:
                dirty = any(not (TREE / name).is_file() or
                            hashlib.sha256((TREE / name).read_bytes()).hexdigest() != due for due, name in sums)
                commit = head
    return {"repro": __version__, "commit": commit, "dirty": dirty}


def package_versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    packages = ("torch", "torchvision", "hydra-core", "omegaconf", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def machine() -> dict[str, Any]:
    """Operating system, architecture and cores; never a host name."""
    return {"system": platform.system(), "architecture": platform.machine(), "cores": os.cpu_count(),
            "interpreter": sys.implementation.name}
