"""What torch says on a made-up machine, and how to find a check."""

from repro.doctor.check import Check

TORCH = {"version": "2.15.0", "cuda": "13.2", "hip": None}
DEVICES = {"cpu": "AMD EPYC", "threads": 2, "capability": "AVX512", "mps": False, "cuda": [], "warning": None}
SAID = {"torch": TORCH, "torchvision": {"version": "0.29.2"}, "devices": DEVICES}
H200 = {"name": "NVIDIA H200", "free": 100 * 2**30, "total": 140 * 2**30, "error": None}


def found(checks: list[Check], name: str) -> Check:
    """The one check of this name."""
    only, = (one for one in checks if one.name == name)
    return only
