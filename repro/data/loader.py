"""Reading images ahead by threads, and what a person sees of long work."""

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
PART = 64  # Choice: images of a part: a fraction of a second, so that a stop is heeded soon
LINE_SECONDS = 30.0  # between lines of progress where there is no terminal
logger = logging.getLogger(__name__)


def cores_here() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parts_of(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """The items in parts of this size, the last one shorter."""
    return [items[begin : begin + size] for begin in range(0, len(items), size)]


def read_ahead(read: Callable[[Any], T], requests: Iterable[Sequence[Any]], workers: int | None = None,
               ahead: int = 4) -> Generator[list[T], None, None]:
    """What `read` makes of each item of each request, in order, by threads; by default one for each core.

    `requests` may be endless; `ahead` of them are read in advance. The threads end with the iterator: close it. The
    error of an item (DataError) is raised when its request is due.
    """
    # Choice: threads, no processes: decoding and resizing release Python's lock, and nothing has to be sent.
    pool = ThreadPoolExecutor(workers or cores_here())
    waiting: deque[list[Future[T]]] = deque()
    try:
        for request in requests:
            waiting.append([pool.submit(read, item) for item in request])
            if len(waiting) > ahead:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def progress(name: str, total: int, done: int = 0, show: bool = True,
             unit: str = "image") -> Iterator[Callable[..., None]]:
    """Yield `advance(count, note)`: a bar on a terminal, else a line now and then; nothing unless `show`."""
    began = shown = time.monotonic()
    # Without a terminal none is made: tqdm starts a thread even for one that is disabled.
    with (tqdm(total=total, initial=done, desc=name, unit=unit, dynamic_ncols=True) if show and sys.stderr.isatty()
          else nullcontext()) as bar:
        def advance(count: int, note: str = "") -> None:
            nonlocal done, shown
            done += count
            now = time.monotonic()
            if bar is not None:
                bar.set_postfix_str(note, refresh=False)
                bar.update(count)
            elif show and now - shown >= LINE_SECONDS:
                shown = now
                logger.info(tqdm.format_meter(done, total, now - began, 0, name, unit=unit, postfix=note))

        yield advance
