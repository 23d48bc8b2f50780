"""Import torch and torchvision and describe them as JSON lines: `python -m repro.doctor.probe`, a process of its own.

Whatever goes wrong in them (an exception, a crash, no end) then costs `repro doctor` nothing but lines.
"""

import json
import warnings
from typing import Any


def main() -> None:
    """One line for each of torch, torchvision and devices, as soon as it is known."""
    import torch

    say("torch", {"version": torch.__version__, "cuda": torch.version.cuda, "hip": torch.version.hip})
    import torchvision

    say("torchvision", {"version": torchvision.__version__})
    say("devices", devices())


def say(name: str, content: dict[str, Any]) -> None:
    """Print one JSON line."""
    print(json.dumps({name: content}), flush=True)


def devices() -> dict[str, Any]:
    """CPU, CUDA devices and MPS as torch sees them; `warning` is what torch says where it can't use a GPU."""
    import torch

    from repro.devices import cpu_name

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cuda = [cuda_device(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return {"cpu": cpu_name(), "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(), "mps": torch.backends.mps.is_available(),
            "cuda": cuda, "warning": str(caught[0].message) if caught else None}


def cuda_device(index: int) -> dict[str, Any]:
    """Name, memory in bytes, and the error (None if all is well) of a first computation."""
    import torch

    try:
        assert float(torch.ones(2, device=f"cuda:{index}").sum()) == 2
        free, total = torch.cuda.mem_get_info(index)
        return {"name": torch.cuda.get_device_name(index), "free": free, "total": total, "error": None}
    except (RuntimeError, AssertionError) as error:
        text = str(error).strip().splitlines()
        return {"name": f"device {index}", "free": None, "total": None, "error": text[0] if text else repr(error)}


if __name__ == "__main__":
    main()
