"""Reading images ahead by threads or processes, long work in parts by threads, and what a person sees of it."""

import atexit
import logging
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import cycle
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from repro.errors import LostProcessError, ReproError
from repro.schema import Loader as Kind
from repro.stopping import SIGNALS, end_with_parent

Read = Callable[[Any], np.ndarray]
T = TypeVar("T")
PART = 64  # Choice: images of a part: a fraction of a second, so that a stop is heeded soon
LINE_SECONDS = 30.0  # between lines of progress where there is no terminal
logger = logging.getLogger(__name__)


def cores_here() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_ahead(read: Read, requests: Iterable[Sequence[Any]], kind: Kind = Kind.auto, workers: int | None = None,
               ahead: int = 4) -> Generator[Any, None, None]:
    """For each request its items read: an array (B, ...), or a list of arrays where their shapes differ.

    `requests` may be endless; about `ahead` of them, by processes one each, are read in advance. The workers end with
    the iterator: close it. The error of an item (DataError) is raised when its mini-batch is due, LostProcessError when
    a process is gone.
    """
    workers = workers or cores_here()
    # Choice: threads up to 4 workers and where forking is not safe. With 2 both read equally fast (`repro bench
    # input`); but about a tenth of an image's time is Python's own and under its lock, which the training loop needs
    # too, so that many threads would wait for each other (not measured).
    if kind is Kind.auto:
        kind = Kind.processes if sys.platform == "linux" and workers > 4 else Kind.threads
    if kind is Kind.threads:
        return read_by_threads(read, requests, workers, ahead)
    return read_by_processes(read, requests, workers)


def read_by_threads(read: Read, requests: Iterable[Sequence[Any]], workers: int,
                    ahead: int) -> Generator[Any, None, None]:
    """`read_ahead` by threads of this process: nothing is sent, but only what releases Python's lock runs at once."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="repro-reader")
    waiting: deque[list[Future[np.ndarray]]] = deque()
    try:
        for request in requests:
            waiting.append([pool.submit(read, item) for item in request])
            if len(waiting) > ahead:
                yield together([future.result() for future in waiting.popleft()])
        while waiting:
            yield together([future.result() for future in waiting.popleft()])
    finally:
        pool.shutdown(cancel_futures=True)


def read_by_processes(read: Read, requests: Iterable[Sequence[Any]], workers: int) -> Generator[Any, None, None]:
    """`read_ahead` by forked processes, which take turns; each reads a whole mini-batch and waits until it is taken."""
    fork, parent, crew = multiprocessing.get_context("fork"), os.getpid(), []
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # in the workers for good: the consumer ends them
    try:
        with warnings.catch_warnings():  # of threads while forking: the workers use none
            warnings.simplefilter("ignore", DeprecationWarning)
            for _ in range(workers):
                pipe, its_end = fork.Pipe()
                process = fork.Process(target=serve, args=(its_end, read, parent), daemon=True)
                process.start()
                its_end.close()  # the worker's is the only one: the pipe ends with it, even in the middle of an array
                crew.append((process, pipe))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    busy: deque[tuple[ForkProcess, Connection]] = deque()
    try:
        for worker, request in zip(cycle(crew), requests, strict=False):
            found = receive(*busy.popleft()) if len(busy) == workers else None
            with suppress(BrokenPipeError):  # `receive` says that it is gone
                worker[1].send(list(request))
            busy.append(worker)
            if found is not None:
                yield together(found)
        while busy:
            yield together(receive(*busy.popleft()))
    finally:
        for process, pipe in crew:
            process.kill()
            process.join()
            pipe.close()


def serve(pipe: Connection, read: Read, parent: int) -> None:
    """A worker: for each request what was read, or the error that a user can act on."""
    end_with_parent(parent, signal.SIGKILL)  # it would keep the run's lock
    while True:
        try:
            found: list[np.ndarray] | ReproError = [read(item) for item in pipe.recv()]
        except ReproError as error:
            found = error
        pipe.send(found)


def receive(process: ForkProcess, pipe: Connection) -> list[np.ndarray]:
    """What a worker has read; raises its error, LostProcessError if it is gone."""
    try:
        found = pipe.recv()
    except (EOFError, OSError):  # the latter in the middle of an array
        process.join()
        code = process.exitcode or 0
        how = f"killed by signal {-code}" if code < 0 else f"it ended with {code}"
        raise LostProcessError(f"a process that reads images is gone: {how}; if memory ran out, have fewer with "
                               "machine.workers=N, or threads with machine.loader=threads") from None
    if isinstance(found, ReproError):
        raise found
    return found  # type: ignore[no-any-return]


def together(items: list[np.ndarray]) -> Any:
    """Arrays of one shape as one array, others as they are."""
    return np.stack(items) if len({item.shape for item in items}) == 1 else items


@atexit.register
def kill_workers() -> None:
    """End what reads on at exit: multiprocessing would wait for it, since SIGTERM is blocked there."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def in_parts(work: Callable[[Sequence[int]], T], indices: Sequence[int], workers: int | None = None) -> Iterator[T]:
    """What `work` makes of each PART of the indices, in order; by default in a thread for each core.

    Parts not begun are left out once it is dropped.
    """
    with ThreadPoolExecutor(workers or cores_here()) as pool:  # Pillow and numpy release Python's lock
        yield from pool.map(work, (indices[begin : begin + PART] for begin in range(0, len(indices), PART)))


@contextmanager
def progress(name: str, total: int, done: int = 0, show: bool = True,
             unit: str = "image") -> Iterator[Callable[..., None]]:
    """Yield `advance(count, note)`: a bar on a terminal, else a line now and then; nothing unless `show`."""
    first, began, bar = done, time.monotonic(), None
    shown = began
    if show and sys.stderr.isatty():  # else none is made: tqdm starts a thread even for one that is disabled
        bar = tqdm(total=total, initial=done, desc=name, unit=unit, dynamic_ncols=True)

    def advance(count: int, note: str = "") -> None:
        nonlocal done, shown
        done += count
        now = time.monotonic()
        if bar is not None:
            bar.set_postfix_str(note, refresh=False)
            bar.update(count)
        elif show and now - shown >= LINE_SECONDS:
            shown = now
            logger.info(tqdm.format_meter(done, total, now - began, 0, name, unit=unit, postfix=note, initial=first))

    try:
        yield advance
    finally:
        if bar is not None:
            bar.close()
