"""What the device allows: its copy bandwidth and matrix rate, measured, and the least time of one update, computed.

Traffic of one update of a fully fused step, in elements of feature maps, X those that a convolution reads and Y those
that it writes. Batch normalization needs the whole mini-batch before and after, so that each of these is a pass of its
own, however well the rest is fused:
- forward, X + 4 Y: the convolution reads X and writes Y; the statistics read Y; Y is read and written normalized,
  ReLU in the same pass;
- backward, 7 Y + 2 X: the reduction of batch normalization reads the gradient and Y; its input gradient reads both
  and writes one; the convolution's two gradients read that one each, one of them reads X, the other writes the
  gradient of X (not for the first convolution: images need none);
- an addition, 2 Y: the shortcut is read forward, its gradient backward;
- weights, 8 passes in 4 bytes: read forward and backward, gradient written; the update reads weight, gradient and
  momentum and writes weight and momentum.
Not counted: input pipeline, pooling, fully-connected layer, signs for ReLU. What a cache holds from one pass to the
next does not go to memory, so that a small network can be faster than this floor.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repro.devices import AUTOCAST, synchronize
from repro.models import build_model
from repro.schema import ModelConfig, Precision, RunConfig

WEIGHT_PASSES, WEIGHT_BYTES = 8, 4
TRAINING_FORWARDS = 3  # backward has two products where forward has one
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30, "mps": 2**28}  # Choice: far larger than any cache
MATRIX = {"cpu": 2048, "cuda": 8192, "mps": 4096}  # Choice: rows; large enough for the highest rate
REPEATS = 10  # Choice: the fastest of them counts, since other work on the machine only ever adds
IN_A_ROW = {"cpu": 1, "cuda": 10, "mps": 10}  # calls between two waits for the device


@dataclass(frozen=True)
class Traffic:
    """What one image, and one update, of a network need at least."""

    elements: int  # of feature maps, one image
    multiply_adds: int  # forward, one image
    parameters: int

    def byte_seconds(self, images: int, precision: Precision, copy_rate: float) -> float:
        """Computed seconds of one update on so many images at this bandwidth (bytes read and written a second)."""
        size = 2 if precision in AUTOCAST else 4
        traffic = images * self.elements * size + WEIGHT_PASSES * WEIGHT_BYTES * self.parameters
        return traffic / copy_rate

    def compute_seconds(self, images: int, matrix_rate: float) -> float:
        """Computed seconds of one update at this rate (operations a second; a multiply-add is two)."""
        return TRAINING_FORWARDS * 2 * self.multiply_adds * images / matrix_rate


def traffic_of(config: ModelConfig) -> Traffic:
    """Count the passes above from the shapes of all layers, on the meta device."""
    elements = multiply_adds = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal elements, multiply_adds
        read, written = inputs[0].numel(), output.numel()
        if isinstance(module, nn.Conv2d):
            elements += (2 if module is model.conv1 else 3) * read + 11 * written
            multiply_adds += written * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            multiply_adds += module.weight.numel()
        elif getattr(module, "shortcut", None) is not None:
            elements += 2 * written

    with torch.device("meta"):
        model = build_model(config)
        for module in model.modules():
            module.register_forward_hook(count)
        model(torch.empty(1, 3, 32, 32))
    return Traffic(elements, multiply_adds, sum(parameter.numel() for parameter in model.parameters()))


def device_rates(config: RunConfig, device: torch.device) -> dict[str, float]:
    """Copy bandwidth (bytes read and written a second) and matrix rate (operations a second) in a precision.

    For a resolved configuration that torch is set up for. Random numbers, never zeros: the power that a device takes,
    and with it its clock, depends on the data.
    """
    source = torch.rand(COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    copy = fastest_seconds(lambda: target.copy_(source), device)
    size = MATRIX[device.type]
    dtype = AUTOCAST.get(config.machine.precision, torch.float32)
    left, right = source[: 2 * size * size].sub_(0.5).reshape(2, size, size).to(dtype)
    product = torch.empty_like(left)
    matrix = fastest_seconds(lambda: torch.mm(left, right, out=product), device)
    return {"copy_bytes_per_second": 2 * COPY_BYTES[device.type] / copy,
            "matrix_operations_per_second": 2 * size**3 / matrix}


def fastest_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, from the fastest of several series; one series before is not counted."""
    calls, seconds = IN_A_ROW[device.type], []
    for _ in range(REPEATS + 1):
        synchronize(device)
        began = time.perf_counter()
        for _ in range(calls):
            work()
        synchronize(device)
        seconds.append((time.perf_counter() - began) / calls)
    return min(seconds[1:])
