"""Work on very many images by threads, part by part and in order, and what a person sees of it. Never imports torch."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import TypeVar

from tqdm import tqdm

from repro.wording import duration

logger = logging.getLogger(__name__)
T = TypeVar("T")
U = TypeVar("U")
PART = 64  # Choice: images of a part: a fraction of a second, so that a stop is heeded soon
LINE_SECONDS = 30.0  # between lines of progress where there is no terminal


def cores_here() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(work: Callable[[U], T], items: Iterable[U], workers: int) -> Iterator[T]:
    """What `work` makes of each item in so many threads, in order; an error of `work` is raised in its turn.

    When the iterator is dropped, items that no thread has begun are left out.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="repro-parts")
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)


def in_parts(work: Callable[[Sequence[int]], T], indices: Sequence[int], workers: int | None = None) -> Iterator[T]:
    """What `work` makes of each PART of the indices, as `in_order`, by default in a thread for each core.

    Choice: threads, not processes: Pillow and numpy release Python's lock where they take long, and no pixels travel.
    """
    parts = [indices[begin : begin + PART] for begin in range(0, len(indices), PART)]
    yield from in_order(work, parts, workers or cores_here())


@contextmanager
def progress(name: str, total: int, done: int = 0, show: bool = True,
             unit: str = "image") -> Iterator[Callable[..., None]]:
    """Yield `advance(images, note)`, to call with every number of images done: a bar on a terminal, else a line now
    and then; nothing unless `show`."""
    first, began = done, time.monotonic()
    shown = began
    bars = show and sys.stderr.isatty()  # else none is made: tqdm starts a thread even for one that is disabled
    with tqdm(total=total, initial=done, desc=name, unit=unit, dynamic_ncols=True) if bars else nullcontext() as bar:

        def advance(images: int, note: str = "") -> None:
            nonlocal done, shown
            done += images
            now = time.monotonic()
            if bar is not None:
                bar.set_postfix_str(note, refresh=False)
                bar.update(images)
            elif show and now - shown >= LINE_SECONDS:
                shown = now
                rate = (done - first) / (now - began)
                logger.info(f"{name}: {done:,} of {total:,} images, {note and f'{note}, '}{rate:.1f} images/s, "
                            f"{duration((total - done) / rate)} left")

        yield advance
