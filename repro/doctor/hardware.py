"""Checks of the machine: GPUs, processor, memory."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from repro.data.parts import cores_here
from repro.doctor.check import NOTE, OK, PROBLEM, Check

GIB = 2**30
NEEDED_MEMORY = 3 * GIB  # ResNet-110, mini-batches of 128, fp32 on 2 cores took 2.65 GiB at most, ResNet-20 1.74 GiB
CGROUP = Path("/sys/fs/cgroup")  # a container's limits (version 2)


def devices(said: dict[str, Any], reason: str) -> list[Check]:
    """GPUs and processor as torch sees them; nothing if torch or torchvision did not import."""
    if "torchvision" not in said:
        return []
    if "devices" not in said:
        return [Check("device", PROBLEM, f"torch can't say what devices there are: {reason}",
                      "REPRO_DEVICE=cpu runs anywhere; CUDA_VISIBLE_DEVICES= hides a broken GPU")]
    found = said["devices"]
    return [*gpus(found, said["torch"]), *asked_device(found), processor(found)]


def asked_device(found: dict[str, Any]) -> list[Check]:
    """A PROBLEM if $REPRO_DEVICE asks for a GPU that is not here."""
    asked = os.environ.get("REPRO_DEVICE")
    if asked not in ("cuda", "mps") or found[asked]:
        return []
    return [Check("device", PROBLEM, f"REPRO_DEVICE={asked} asks for a GPU that torch can't use here",
                  "REPRO_DEVICE=cpu, or unset REPRO_DEVICE")]


def gpus(found: dict[str, Any], torch: dict[str, Any]) -> list[Check]:
    """One check for each GPU, or why there is none to use."""
    drivers = nvidia_smi()
    if found["cuda"]:
        return [gpu(index, device, drivers) for index, device in enumerate(found["cuda"])]
    if found["mps"]:
        return [Check("device", OK, "Apple GPU (mps)")]
    if drivers:
        reason = found["warning"] or ("this torch is built without CUDA" if not torch["cuda"] else
                                      "torch finds none it can use")
        return [Check("device", NOTE, f"{drivers[0][0]} (driver {drivers[0][1]}) is there, but {reason}; runs use the "
                      "CPU", "update the driver, or install a torch built for it (pytorch.org, Get Started)")]
    return [Check("device", NOTE, "no GPU that torch can use; runs use the CPU, where the paper's schedules take hours "
                  "to days", "`repro cost cifar_plain_vs_res` measures what it would take here")]


def gpu(index: int, device: dict[str, Any], drivers: list[tuple[str, str]]) -> Check:
    """One CUDA device."""
    if device["error"]:
        return Check("device", PROBLEM, f"cuda:{index} does not compute: {device['error']}",
                     "REPRO_DEVICE=cpu runs anywhere; a new driver or another torch may cure it")
    driver = f", driver {drivers[0][1]}" if drivers else ""
    return Check("device", OK, f"cuda:{index} {device['name']}, {device['total'] / GIB:.1f} GiB memory, "
                 f"{device['free'] / GIB:.1f} GiB free{driver}")


def nvidia_smi() -> list[tuple[str, str]]:
    """(name, driver version) of each NVIDIA GPU by its own tool; empty if there is none."""
    try:
        done = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
                              capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line.rpartition(",") for line in done.stdout.splitlines() if "," in line]
    return [(name.strip(), driver.strip()) for name, _, driver in lines] if done.returncode == 0 else []


def processor(found: dict[str, Any]) -> Check:
    """Name, usable cores, threads and vector instructions of the CPU."""
    cores = usable_cores()
    bf16 = ", bf16 in hardware" if has_bf16() else ""
    text = f"{found['cpu']}, {cores:g} cores usable, {found['threads']} threads, {found['capability']}{bf16}"
    if found["threads"] > max(1, cores):
        return Check("cpu", NOTE, f"{text}: more threads than cores slow training down",
                     f"machine.threads={max(1, int(cores))} or OMP_NUM_THREADS={max(1, int(cores))}")
    return Check("cpu", OK, text)


def usable_cores() -> float:
    """Cores that this process may use: those it is bound to, or a container's share of them."""
    bound = cores_here()
    with suppress(OSError, ValueError):
        quota, period = (CGROUP / "cpu.max").read_text(encoding="utf-8").split()
        return min(bound, int(quota) / int(period))
    return bound


def has_bf16() -> bool:
    """Whether the processor multiplies bf16 numbers itself (x86-64 Linux; False where that can't be told)."""
    with suppress(OSError):
        flags = next((line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
                      if line.startswith("flags")), "")
        return bool({"avx512_bf16", "amx_bf16"} & set(flags.split()))
    return False


def memory() -> Check:
    """Memory of the machine, or of the container where it is limited, and how much of it is free."""
    total, free = memory_bytes()
    if total is None:
        return Check("memory", NOTE, "can't be told here")
    text = f"{total / GIB:.1f} GiB" + ("" if free is None else f", {free / GIB:.1f} GiB free")
    if (total if free is None else free) < NEEDED_MEMORY:
        return Check("memory", NOTE, f"{text}: little for training on a CPU",
                     "close other programs, or lower train.mini_batch_size (no longer the paper's)")
    return Check("memory", OK, text)


def memory_bytes() -> tuple[float | None, float | None]:
    """(total, free) bytes; None for what the system doesn't say."""
    total = free = None
    with suppress(OSError, ValueError):
        lines = (line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
        sizes = {name: 1024.0 * int(rest.split()[0]) for name, rest in lines}
        total, free = sizes.get("MemTotal"), sizes.get("MemAvailable")
    if total is None:
        with suppress(OSError, ValueError):
            total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):
        limit = float((CGROUP / "memory.max").read_text(encoding="utf-8"))
        used = float((CGROUP / "memory.current").read_text(encoding="utf-8"))
        if total is not None and limit < total:
            total, free = limit, min(limit - used, limit if free is None else free)
    return total, free
