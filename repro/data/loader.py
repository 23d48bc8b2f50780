"""Reading ahead: items such as image crops, read by threads or processes and given out as mini-batches in order.

Each mini-batch is dealt out to the workers when it is asked for, so what it holds never depends on who was faster.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from repro.data.parts import cores_here
from repro.data.reader_processes import Processes
from repro.schema import Loader as Kind

Read = Callable[[Any], np.ndarray]
FEW = 4


def kind_here(kind: Kind, workers: int) -> Kind:
    """What `auto` means for so many workers.

    Choice: threads up to FEW workers and where forking is not safe, outside Linux; processes else. With 2 workers both
    read equally fast (`repro bench input`); but about a tenth of the time of an image is Python's own and under its
    lock, which the training loop needs too, so that many threads would wait for each other (not measured).
    """
    if kind is not Kind.auto:
        return kind
    return Kind.processes if sys.platform == "linux" and workers > FEW else Kind.threads


class Crew(Protocol):
    """Workers that read the items of mini-batches."""

    def start(self, items: Sequence[Any]) -> None:
        """Have another mini-batch read."""

    def finish(self) -> list[np.ndarray]:
        """The items of the earliest mini-batch that is not given out yet, valid until the next call of any method.

        Raises the error of the first item that could not be read.
        """

    def close(self) -> None:
        """End all workers, whatever they do."""


class Loader:
    """Reads mini-batches ahead, in order, with `read`: one item of a request -> an array.

    `ahead` mini-batches are being read beside the one that is given out. `read` is called in other threads, or in
    forked processes with one torch thread each; there the consumer reads one item, to learn how large it is.
    """

    def __init__(self, read: Read, kind: Kind = Kind.auto, workers: int | None = None, ahead: int = 4):
        self.read, self.workers, self.ahead = read, workers or cores_here(), ahead
        self.kind = kind_here(kind, self.workers)
        self.crews: list[Crew] = []

    def batches(self, requests: Iterable[Sequence[Any]]) -> Iterator[Any]:
        """For each request, its items read: an array (B, ...), or a list of arrays where their shapes differ.

        `requests` may be endless; it is asked in this thread, `ahead` requests before its mini-batch is given out. The
        error of an item (DataError) is raised when its mini-batch is due, LostProcessError when a process is gone.
        The workers start with the first mini-batch and end with the iterator, which may be dropped at any time.
        """
        waiting = iter(requests)
        first = next(waiting, None)
        if first is None:
            return
        crew = self.crew(first)
        self.crews.append(crew)
        try:
            crew.start(first)
            started = 1
            while started:
                while started <= self.ahead and (request := next(waiting, None)) is not None:
                    crew.start(request)
                    started += 1
                yield together(crew.finish())
                started -= 1
        finally:
            self.crews.remove(crew)
            crew.close()

    def crew(self, first: Sequence[Any]) -> Crew:
        """The workers for a first mini-batch and those that follow it."""
        if self.kind is Kind.threads:
            return Threads(self.read, self.workers)
        largest = self.read(first[0]).nbytes * len(first) if len(first) else 0
        return Processes(self.read, self.workers, largest, self.ahead + 1)

    def close(self) -> None:
        """End all workers at once; an iterator that is still held can't be used any more."""
        for crew in self.crews:
            crew.close()


def together(items: list[np.ndarray]) -> Any:
    """A copy of arrays of one shape as one array, of others as they are."""
    return np.stack(items) if len({item.shape for item in items}) == 1 else [item.copy() for item in items]


class Threads:
    """Threads of this process: nothing is sent, but only what releases Python's lock runs at the same time."""

    def __init__(self, read: Read, workers: int):
        self.read = read
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="repro-reader")
        self.batches: deque[list[Future[np.ndarray]]] = deque()

    def start(self, items: Sequence[Any]) -> None:
        """See Crew."""
        self.batches.append([self.pool.submit(self.read, item) for item in items])

    def finish(self) -> list[np.ndarray]:
        """See Crew."""
        return [future.result() for future in self.batches.popleft()]

    def close(self) -> None:
        """See Crew; what a thread has begun it reads to the end."""
        self.pool.shutdown(cancel_futures=True)
