"""Reading ahead: items such as image crops, read by threads or processes and given out as mini-batches in order.

What an item is depends on its request alone, never on who reads it.
"""

import atexit
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from repro.data.parts import cores_here
from repro.errors import LostProcessError, ReproError
from repro.schema import Loader as Kind
from repro.stopping import SIGNALS, end_with_parent

Read = Callable[[Any], np.ndarray]
FEW = 4


def read_ahead(read: Read, requests: Iterable[Sequence[Any]], kind: Kind = Kind.auto, workers: int | None = None,
               ahead: int = 4) -> Generator[Any, None, None]:
    """For each request its items read: an array (B, ...), or a list of arrays where their shapes differ.

    `requests` may be endless; about `ahead` of them are being read beside the one that is given out. The workers start
    with the first mini-batch and end with the iterator: close it. The error of an item (DataError) is raised when its
    mini-batch is due, LostProcessError when a process is gone.
    """
    workers = workers or cores_here()
    read_by = by_threads if kind_here(kind, workers) is Kind.threads else by_processes
    return read_by(read, requests, workers, ahead)


def kind_here(kind: Kind, workers: int) -> Kind:
    """What `auto` means for so many workers.

    Choice: threads up to FEW workers and where forking is not safe, outside Linux; processes else. With 2 workers both
    read equally fast (`repro bench input`); but about a tenth of the time of an image is Python's own and under its
    lock, which the training loop needs too, so that many threads would wait for each other (not measured).
    """
    if kind is not Kind.auto:
        return kind
    return Kind.processes if sys.platform == "linux" and workers > FEW else Kind.threads


def by_threads(read: Read, requests: Iterable[Sequence[Any]], workers: int, ahead: int) -> Generator[Any, None, None]:
    """`read_ahead` by threads of this process: nothing is sent, but only what releases Python's lock runs at once."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="repro-reader")
    waiting: deque[list[Any]] = deque()
    try:
        for request in requests:
            waiting.append([pool.submit(read, item) for item in request])
            if len(waiting) > ahead:
                yield together([future.result() for future in waiting.popleft()])
        while waiting:
            yield together([future.result() for future in waiting.popleft()])
    finally:
        pool.shutdown(cancel_futures=True)


class Items(Dataset[Any]):
    """What `read` makes of each item, or the error that a user can act on."""

    def __init__(self, read: Read):
        self.read = read

    def __getitem__(self, item: Any) -> np.ndarray | ReproError:
        try:
            return self.read(item)
        except ReproError as error:  # as a value: the DataLoader would wrap its message in a traceback
            return error


def by_processes(read: Read, requests: Iterable[Sequence[Any]], workers: int, ahead: int) -> Generator[Any, None, None]:
    """`read_ahead` by forked processes; each reads whole mini-batches."""
    others, main = active_children(), threading.current_thread() is threading.main_thread()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # in the workers for good: the consumer ends them
    try:
        with warnings.catch_warnings():  # of threads while forking (the workers use none), of more workers than cores
            warnings.simplefilter("ignore")
            batches = iter(DataLoader(
                Items(read), batch_sampler=map(list, requests), num_workers=workers, collate_fn=list,
                prefetch_factor=max(1, -(-ahead // workers)), multiprocessing_context="fork",
                worker_init_fn=partial(kill_with, os.getpid()),
                generator=torch.Generator()))  # its seed, which nothing uses, would be drawn from torch's own
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if main:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # for good: torch's handler would raise anywhere
    ours = [child for child in active_children() if child not in others]
    try:
        while True:
            if main:  # a worker that dies while it sends would leave us waiting for the rest
                signal.signal(signal.SIGCHLD, lambda *_: check(ours))
            try:
                check(ours)
                items = next(batches, None)
            except RuntimeError:
                check(ours)
                raise
            finally:
                if main:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if items is None:
                return
            yield together(items)
    finally:
        del batches  # ends the workers


def kill_with(parent: int, worker: int) -> None:
    """Kill this worker when its parent is gone: it would keep the run's lock."""
    end_with_parent(parent, signal.SIGKILL)


def check(workers: Sequence[BaseProcess]) -> None:
    """LostProcessError if one of these is gone before its time."""
    if code := next((worker.exitcode for worker in workers if worker.exitcode), None):
        how = f"killed by signal {-code}" if code < 0 else f"it ended with {code}"
        raise LostProcessError(f"a process that reads images is gone: {how}; if memory ran out, have fewer with "
                               "machine.workers=N, or threads with machine.loader=threads")


@atexit.register
def kill_workers() -> None:
    """End what reads on at exit: multiprocessing would wait, since SIGTERM is blocked there."""
    for child in active_children():
        if child.daemon:
            child.kill()


def together(items: list[Any]) -> Any:
    """Arrays of one shape as one array, others as they are; raises the first error among them."""
    for item in items:
        if isinstance(item, ReproError):
            raise item
    return np.stack(items) if len({item.shape for item in items}) == 1 else items
