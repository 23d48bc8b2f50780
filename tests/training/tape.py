"""A stand-in for a CUDA graph on the CPU: it records every operation once and replays them on the same tensors.

As with a graph, no Python of the recorded code runs again, and what it reads and writes stays where it was.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from repro.training import execution
from repro.training.execution import Execution, updates_per_graph


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


def tape_of(work) -> Tape:
    """The tape of a function, which runs once, as a graph's capture would not: the caller undoes it."""
    tape = Tape()
    with tape:
        work()
    return tape


class TapeUpdates:
    """CapturedUpdates on a tape."""

    def __init__(self, step, count):
        self.graph = tape_of(lambda: step(count))
        self.gradients = [parameter.grad for parameter in step.model.parameters()]


def capture_on_tape(self: Execution) -> None:
    """`Execution.capture` with tapes in the place of graphs, for monkeypatch."""
    saved = tree_map_only(torch.Tensor, torch.clone, self.step.state())
    for count in {1, updates_per_graph(self)}:
        self.graphs[count] = TapeUpdates(self.step, count)
        self.step.load_state(saved)


def use_tapes(set_attribute) -> None:
    """engine=graph works on the CPU, with tapes."""
    set_attribute(execution.Execution, "capture", capture_on_tape)
