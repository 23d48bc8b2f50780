"""Processes that read for a `loader.Loader`, in memory that they share with the consumer.

That memory has no name and no file: nothing of it is left behind whoever is killed, and the small /dev/shm of
containers doesn't matter. A worker ends when its consumer closes it or is gone, in whatever way. Never imports torch.
"""

import atexit
import mmap
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from repro.errors import LostProcessError
from repro.stopping import SIGNALS

WATCH_SECONDS = 1.0  # between two looks whether the consumer still lives
Place = tuple[int, tuple[int, ...], np.dtype[Any]]  # where an array lies in the shared memory: offset, shape, dtype
Answer = Place | np.ndarray | Exception


class Processes:
    """Forked processes, each with a pipe of its own; implements `loader.Crew`.

    The shared memory has `slots` parts of `largest` bytes, one for each mini-batch that is being read. An array that is
    larger than its share of such a part comes through the pipe.
    """

    def __init__(self, read: Callable[[Any], np.ndarray], workers: int, largest: int, slots: int):
        self.slots, self.largest, self.owner = slots, largest, os.getpid()
        self.memory = mmap.mmap(-1, max(1, slots * largest))
        self.pipes: list[Connection] = []
        self.processes: list[BaseProcess] = []
        self.started = self.finished = 0
        self.sizes: dict[int, int] = {}  # items of each mini-batch that is not given out yet, by its number
        self.answers: dict[int, dict[int, Answer]] = {}  # what is there of these, by mini-batch and item
        atexit.register(self.close)
        # The workers keep these signals blocked: the consumer alone decides when they end.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            for _ in range(workers):
                self.fork(read)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def fork(self, read: Callable[[Any], np.ndarray]) -> None:
        """One more worker."""
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(
            target=work, args=(read, theirs, [*self.pipes, ours], self.memory, self.owner), daemon=True)
        with warnings.catch_warnings():  # Python 3.12 warns where there are threads; a worker uses none of them
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        theirs.close()
        self.pipes.append(ours)
        self.processes.append(process)

    def start(self, items: Sequence[Any]) -> None:
        """See Crew. Of n workers each gets every n-th item; who gets the first one changes with the mini-batch."""
        number, workers = self.started, len(self.pipes)
        share = self.largest // max(1, len(items))
        begin = number % self.slots * self.largest
        for first in range(min(workers, len(items))):
            mine = [(place, begin + place * share, items[place]) for place in range(first, len(items), workers)]
            pipe = self.pipes[(first + number) % workers]
            try:
                pipe.send((number, share, mine))
            except OSError as error:
                raise self.lost(pipe) from error
        self.sizes[number], self.answers[number] = len(items), {}
        self.started += 1

    def finish(self) -> list[np.ndarray]:
        """See Crew. LostProcessError if a worker is gone."""
        number = self.finished
        while len(self.answers[number]) < self.sizes[number]:
            for pipe in wait(self.pipes):
                assert isinstance(pipe, Connection)
                self.receive(pipe)
        self.finished += 1
        del self.sizes[number]
        answers = self.answers.pop(number)
        return [self.array(answers[place]) for place in range(len(answers))]

    def receive(self, pipe: Connection) -> None:
        """Note what a worker has answered; LostProcessError if it is gone."""
        try:
            number, answers = pipe.recv()
        except (EOFError, OSError) as error:
            raise self.lost(pipe) from error
        self.answers[number].update(answers)

    def array(self, answer: Answer) -> np.ndarray:
        """The array of an answer, in the shared memory if it lies there; raises an answer that is an error."""
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, np.ndarray):
            return answer
        begin, shape, dtype = answer
        return np.ndarray(shape, dtype, self.memory, begin)

    def lost(self, pipe: Connection) -> LostProcessError:
        """What to say of the worker at the other end, which is gone."""
        process = self.processes[self.pipes.index(pipe)]
        process.join(WATCH_SECONDS)
        code = process.exitcode
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"it ended with {code}"
        return LostProcessError(f"a process that reads images is gone: {how}; if memory ran out, have fewer with "
                                "machine.workers=N, or threads with machine.loader=threads")

    def close(self) -> None:
        """See Crew. The workers are killed: they own nothing that could be left in disorder."""
        if os.getpid() != self.owner:
            return  # a worker that forgets its copy of this object
        atexit.unregister(self.close)
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
        for pipe in self.pipes:
            pipe.close()


def work(read: Callable[[Any], np.ndarray], pipe: Connection, others: list[Connection], memory: mmap.mmap,
         consumer: int) -> None:
    """A worker's life: read what is asked for, until the consumer is gone or kills it."""
    for other in others:
        other.close()  # the consumer's ends: open here too, they would hide that it is gone
    if "torch" in sys.modules:  # else `read` needs none
        sys.modules["torch"].set_num_threads(1)  # the consumer's pool is not here; to wait for it would never end
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(pipe, tasks, consumer), daemon=True).start()
    with suppress(BrokenPipeError, ConnectionResetError):  # the consumer is gone
        while True:
            number, share, mine = tasks.get()
            pipe.send((number, {place: answer(read, item, memory, begin, share) for place, begin, item in mine}))
    os._exit(0)


def listen(pipe: Connection, tasks: "queue.SimpleQueue[Any]", consumer: int) -> None:
    """Take tasks from the pipe as they come, so that the consumer never waits to send; end this process after it."""
    with suppress(EOFError, OSError):
        while os.getppid() == consumer:
            if pipe.poll(WATCH_SECONDS):
                tasks.put(pipe.recv())
    os._exit(0)


def answer(read: Callable[[Any], np.ndarray], item: Any, memory: mmap.mmap, begin: int, share: int) -> Answer:
    """Where the array of an item lies in the shared memory, the array itself if it is too large, or an error."""
    try:
        array = read(item)
    except Exception as error:
        return portable(error)
    if array.nbytes > share:
        return array
    np.ndarray(array.shape, array.dtype, memory, begin)[...] = array
    return begin, array.shape, array.dtype


def portable(error: Exception) -> Exception:
    """The error if it arrives in another process as it is, else a RuntimeError that tells all of it."""
    with suppress(Exception):  # a class that can't be made again from its arguments
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    return RuntimeError("".join(traceback.format_exception(error)).strip())
