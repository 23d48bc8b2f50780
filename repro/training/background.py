"""Writing beside the training: a state is copied on its device, and a thread of its own fetches and writes it."""

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from repro.devices import new_stream


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The value with every tensor in its dicts and lists replaced by `function` of it."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return type(value)((key, map_tensors(function, entry)) for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(function, entry) for entry in value)
    return value


class Snapshot:
    """A copy of a state (tensors in dicts and lists) as it is now; on CUDA only queued, the host does not wait."""

    def __init__(self, state: dict[str, Any], device: torch.device):
        self.device = device
        with torch.no_grad():
            self.copy = map_tensors(torch.clone, state)
        self.taken = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None

    def fetch(self) -> Any:
        """The copy on the CPU; on CUDA by a stream of its own, which waits for the copy and for nothing after it."""
        if self.taken is None:
            return map_tensors(lambda tensor: tensor.cpu(), self.copy)
        stream = fetching_stream(self.device)
        stream.wait_event(self.taken)
        with torch.cuda.stream(stream):
            return map_tensors(lambda tensor: tensor.cpu(), self.copy)


@functools.cache
def fetching_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all snapshots: torch has few, and one of a captured graph must not be met again."""
    return new_stream(device)


class Writer:
    """One thread that does one piece of work at a time; its error is raised where the next call looks."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="repro-writer")
        self.last: Future[None] | None = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.pool.shutdown()

    def busy(self) -> bool:
        """Whether work is still being done; raises the error of work that failed."""
        if self.last is not None and self.last.done():
            self.finish()
        return self.last is not None

    def start(self, work: Callable[[], None]) -> None:
        """Begin this work when what went before is done."""
        self.finish()
        self.last = self.pool.submit(work)

    def finish(self) -> None:
        """Wait until all is done; raises the error of work that failed."""
        last, self.last = self.last, None
        if last is not None:
            last.result()
