"""Reading ahead by threads and by processes: the same mini-batches in order, errors, nothing left behind."""

import gc
import os
import signal
import subprocess
import sys
import time
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest

from repro.data import loader as loader_module
from repro.data.loader import Loader, kind_here
from repro.data.parts import cores_here
from repro.errors import DataError, LostProcessError
from repro.schema import Loader as Kind

KINDS = [Kind.threads, Kind.processes]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
REQUESTS = [[7, 1, 2, 3, 4], [5], [9, 9, 0], [6, 8], list(range(20)), [1], [2]]


def read(item: int) -> np.ndarray:
    """A small image that tells its item; odd items take longer."""
    time.sleep(0.002 * (item % 2))
    return np.full((4, 5, 3), item, np.uint8)


def children() -> list[int]:
    """Processes of this one that are not waited for yet."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.append(int(folder.name))
    return found


def running(pid: int) -> bool:
    """Whether a process is there and not only its entry."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def soon(condition) -> bool:
    """Whether something becomes true within seconds."""
    end = time.monotonic() + 10
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = set(children())
    yield
    gc.collect()
    assert set(children()) <= before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_mini_batches_come_in_order_and_whole(kind, workers):
    found = list(Loader(read, kind, workers).batches(REQUESTS))
    assert [batch[:, 0, 0, 0].tolist() for batch in found] == REQUESTS
    assert all(batch.shape[1:] == (4, 5, 3) and batch.dtype == np.uint8 for batch in found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mini_batch_is_the_consumers_own(kind):
    first, *others = Loader(read, kind, 2, ahead=1).batches([[number, number] for number in range(9)])
    assert (first == 0).all()
    first[:] = 77
    assert [int(batch[0, 0, 0, 0]) for batch in others] == list(range(1, 9))


@pytest.mark.parametrize("kind", KINDS)
def test_items_of_different_sizes_come_as_a_list(kind):
    sizes = [[3, 900], [4, 4], [1, 70_000, 2]]
    found = list(Loader(lambda size: np.arange(size), kind, 2).batches(sizes))
    assert [len(item) for item in found[0]] == sizes[0]
    assert isinstance(found[0], list)
    assert found[1].shape == (2, 4)
    for item, size in zip(found[2], sizes[2], strict=True):
        assert np.array_equal(item, np.arange(size))


@pytest.mark.parametrize("kind", KINDS)
def test_requests_are_asked_for_only_so_far_ahead(kind):
    asked = []

    def endless():
        for number in count():
            asked.append(number)
            yield [number % 200]

    batches = Loader(read, kind, 2, ahead=3).batches(endless())
    assert next(batches)[0, 0, 0, 0] == 0
    assert asked == [0, 1, 2, 3]
    assert next(batches)[0, 0, 0, 0] == 1
    assert asked == [0, 1, 2, 3, 4]
    batches.close()


@pytest.mark.parametrize("kind", KINDS)
def test_no_requests_give_no_mini_batches(kind):
    assert list(Loader(read, kind, 2).batches([])) == []
    assert list(Loader(read, kind, 2).batches([[]])) == [[]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_of_an_item_is_raised_when_its_mini_batch_is_due(kind):
    def failing(item):
        if item >= 6:
            raise DataError(f"{item}.JPEG: the image is damaged")
        return read(item)

    batches = Loader(failing, kind, 2).batches([[0, 1], [2, 6, 7], [3]])
    assert next(batches)[1, 0, 0, 0] == 1
    with pytest.raises(DataError, match=r"^6\.JPEG: the image is damaged$"):
        next(batches)
    assert list(batches) == []


class Awkward(Exception):
    """Can't be made again from its arguments."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def test_an_error_that_can_not_be_sent_is_told_with_where_it_was():
    def failing(item):
        if item:
            raise Awkward("this", "that")
        return read(item)

    with pytest.raises(RuntimeError, match=r"(?s)in failing.*Awkward: this and that"):
        list(Loader(failing, Kind.processes, 2).batches([[0, 1]]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["dropped", "closed", "loader closed"])
def test_a_consumer_may_stop_early(kind, how):
    before = len(children())
    loader = Loader(read, kind, 3)
    batches = loader.batches([number % 200] * 8 for number in count())
    next(batches)
    assert len(children()) - before == (3 if kind is Kind.processes else 0)
    started = time.monotonic()
    if how == "dropped":
        del batches
    elif how == "closed":
        batches.close()
    else:
        loader.close()
    assert len(children()) == before
    assert time.monotonic() - started < 2


def test_closing_does_not_wait_for_a_worker_that_is_busy():
    loader = Loader(lambda item: time.sleep(60 * item) or read(item), Kind.processes, 2)
    batches = loader.batches([[0], [1, 1], [0]])
    next(batches)
    started = time.monotonic()
    loader.close()
    batches.close()
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_loader_can_be_used_again_and_twice_at_once(kind):
    loader = Loader(read, kind, 2)
    first, second = loader.batches(REQUESTS), loader.batches(REQUESTS)
    for expected in REQUESTS:
        assert next(first)[:, 0, 0, 0].tolist() == next(second)[:, 0, 0, 0].tolist() == expected
    assert len(list(loader.batches(REQUESTS))) == len(REQUESTS)
    first.close()
    second.close()


@pytest.mark.fault(33)
def test_a_worker_that_is_killed_is_told():
    before = set(children())
    batches = Loader(read, Kind.processes, 2).batches([number % 200] * 4 for number in count())
    next(batches)
    os.kill(next(iter(set(children()) - before)), signal.SIGKILL)
    with pytest.raises(LostProcessError, match=r"killed by signal 9.*machine\.workers"):
        list(islice(batches, 50))


def test_signals_to_the_group_do_not_end_the_workers():
    before = set(children())
    batches = Loader(read, Kind.processes, 2).batches([number % 200] * 4 for number in count())
    next(batches)
    for pid in set(children()) - before:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(pid, number)
    for _ in range(20):
        next(batches)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    batches.close()


CONSUMER = """
import multiprocessing, sys, time
import numpy as np
from repro.data.loader import Loader
from repro.schema import Loader as Kind

end, seconds = sys.argv[1], float(sys.argv[2])
loader = Loader(lambda item: time.sleep(seconds * item) or np.zeros(9), Kind.processes, 2)
batches = loader.batches([[0, 0], [1, 1], [1]])
next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
if end == "wait":
    time.sleep(60)
elif end == "error":
    raise ValueError("the consumer fails")
"""


@pytest.mark.parametrize(("end", "busy"), [("SIGKILL", 0), ("SIGKILL", 60), ("SIGTERM", 60), ("exit", 60),
                                           ("error", 60)])
def test_workers_end_with_their_consumer(end, busy):
    how = end if end in ("exit", "error") else "wait"
    process = subprocess.Popen([sys.executable, "-c", CONSUMER, how, str(busy)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    if how == "wait":
        assert all(running(pid) for pid in workers)
        process.send_signal(getattr(signal, end))
    _, said = process.communicate(timeout=20)
    assert soon(lambda: not any(running(pid) for pid in workers))
    assert said.strip().splitlines()[-1:] == (["ValueError: the consumer fails"] if end == "error" else [])


def test_many_workers_are_processes_where_they_can_be_forked(monkeypatch):
    monkeypatch.setattr(loader_module.sys, "platform", "darwin")
    assert kind_here(Kind.auto, 16) is Kind.threads
    monkeypatch.setattr(loader_module.sys, "platform", "linux")
    assert kind_here(Kind.auto, 16) is Kind.processes
    assert kind_here(Kind.auto, 2) is Kind.threads
    assert kind_here(Kind.threads, 16) is Kind.threads
    assert kind_here(Kind.processes, 1) is Kind.processes
    assert cores_here() >= 1
