"""A stand-in for a CUDA graph on the CPU: it records every operation once and replays them on the same tensors.

As with a graph, no Python of the recorded code runs again, and what it reads and writes stays where it was.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from repro.training.execution import Execution


class Tape(TorchDispatchMode):
    """Records what runs inside it; `replay` does it again."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        """Every operation again; results go into the tensors that held them when they were recorded."""
        with torch.no_grad():
            for function, args, kwargs, recorded in self.operations:
                again = function(*args, **kwargs)
                for old, new in zip(tree_leaves(recorded), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.detach().copy_(new)


def capture_on_tape(self: Execution) -> None:
    """`Execution.capture` with tapes in the place of graphs, for monkeypatch; `Execution` undoes the updates."""
    self.block = self.config.machine.steps_per_graph or 1
    for count in {1, self.block}:
        tape = Tape()
        with tape:
            self.step(count)
        self.graphs[count] = tape, [parameter.grad for parameter in self.step.model.parameters()]


def use_tapes(set_attribute) -> None:
    """engine=graph works on the CPU, with tapes."""
    set_attribute(Execution, "capture", capture_on_tape)
