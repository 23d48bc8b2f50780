"""Reading ahead by threads and by processes: the same mini-batches in order, errors, and that everything ends."""

import os
import signal
import subprocess
import sys
import time
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest

from repro.data import loader
from repro.data.loader import progress, read_ahead
from repro.errors import ImageError, LostProcessError
from repro.schema import Loader as Kind

KINDS = [Kind.threads, Kind.processes]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
REQUESTS = [[7, 1, 2, 3, 4], [5], [9, 9, 0], [6, 8], list(range(20)), [1], [2]]


def read(item: int) -> np.ndarray:
    """A small image that tells its item; odd items take longer."""
    time.sleep(0.002 * (item % 2))
    return np.full((4, 5, 3), item, np.uint8)


def endless(size: int = 4):
    """Requests without an end."""
    return ([number % 200] * size for number in count())


def state(pid: int) -> list[str]:
    """State and parent of a process; none if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return []


def children() -> set[int]:
    """Processes of this one that are not waited for yet."""
    numbers = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    return {pid for pid in numbers if state(pid)[1:] == [str(os.getpid())]}


@pytest.fixture(autouse=True)
def before():
    """The processes that were there; none is left by a test."""
    found = children()
    yield found
    assert children() <= found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [1, 3])
def test_mini_batches_come_in_order_whole_and_to_keep(kind, workers):
    found = list(read_ahead(read, REQUESTS, kind, workers))
    assert [batch[:, 0, 0, 0].tolist() for batch in found] == REQUESTS
    assert all(batch.shape[1:] == (4, 5, 3) and batch.dtype == np.uint8 and batch.flags.writeable for batch in found)
    assert list(read_ahead(read, [], kind, workers)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_items_of_different_sizes_come_as_a_list(kind):
    sizes = [[3, 900], [4, 4], [1, 70_000, 2]]
    found = list(read_ahead(lambda size: np.arange(size), sizes, kind, 2))
    assert isinstance(found[0], list)
    assert found[1].shape == (2, 4)
    assert all(np.array_equal(item, np.arange(size)) for item, size in zip(found[2], sizes[2], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_endless_requests_are_asked_for_only_so_far_ahead(kind):
    asked = []

    def requests():
        for number in count():
            asked.append(number)
            yield [number % 200]

    batches = read_ahead(read, requests(), kind, 2, ahead=4)
    assert [int(next(batches)[0, 0, 0, 0]) for _ in range(9)] == list(range(9))
    assert len(asked) <= 9 + 4 + 1
    batches.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_of_an_item_is_raised_as_it_is_when_its_mini_batch_is_due(kind):
    def failing(item):
        if item >= 6:
            raise ImageError(f"{item}.JPEG: the image is damaged")
        return read(item)

    batches = read_ahead(failing, [[0, 1], [2, 6, 7], [3]], kind, 2)
    assert next(batches)[1, 0, 0, 0] == 1
    with pytest.raises(ImageError, match=r"^6\.JPEG: the image is damaged$"):
        next(batches)
    assert list(batches) == []


@pytest.mark.parametrize("how", ["dropped", "closed"])
def test_a_consumer_may_stop_early(how, before):
    batches = read_ahead(read, endless(), Kind.processes, 3)
    next(batches)
    assert len(children() - before) == 3
    if how == "dropped":
        del batches
    else:
        batches.close()
    assert children() == before


@pytest.mark.fault(33)
@pytest.mark.parametrize("size", [1, 1_000_000])
def test_a_worker_that_is_killed_is_an_error_where_its_mini_batch_is_asked_for(size, before):
    """Also in the middle of an array that is larger than its pipe."""
    batches = read_ahead(lambda item: np.zeros(size, np.uint8), endless(), Kind.processes, 2)
    next(batches)
    time.sleep(0.1)
    os.kill(min(children() - before), signal.SIGKILL)
    with pytest.raises(LostProcessError, match=r"killed by signal 9.*machine\.workers"):
        list(islice(batches, 50))


@pytest.mark.fault(33)
def test_a_worker_that_fails_ends_the_reading(capfd):
    with pytest.raises(LostProcessError, match="it ended with 1"):
        list(read_ahead(lambda item: np.full(3, 1 // item), [[1], [0]], Kind.processes, 1))
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_signals_to_the_group_do_not_end_the_workers(before):
    batches = read_ahead(read, endless(), Kind.processes, 2)
    next(batches)
    for pid in children() - before:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(pid, number)
    for _ in range(20):
        next(batches)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    batches.close()


CONSUMER = """
import multiprocessing, sys, time
import numpy as np
from repro.data.loader import read_ahead
from repro.schema import Loader as Kind

end = sys.argv[1]
read = lambda item: time.sleep(600 * item) or np.zeros(9)
batches = read_ahead(read, [[0, 0], [1, 1], [1], *[[0]] * 20], Kind.processes, 2)
next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
if end == "wait":
    time.sleep(60)
elif end == "error":
    raise ValueError("the consumer fails")
"""


@pytest.mark.parametrize(("end", "code"), [("wait", -9), ("held", 0), ("error", 1)])
def test_a_process_that_reads_ends_in_time_and_its_workers_with_it(end, code):
    process = subprocess.Popen([sys.executable, "-c", CONSUMER, end], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True)
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    if end == "wait":
        assert not [pid for pid in workers if state(pid)[:1] == ["Z"]]
        process.kill()
    _, said = process.communicate(timeout=240)
    assert process.returncode == code
    while any(state(pid)[:1] not in ([], ["Z"]) for pid in workers):  # the test's own limit ends this
        time.sleep(0.02)
    assert said.strip().splitlines()[-1:] == (["ValueError: the consumer fails"] if end == "error" else [])


@pytest.mark.parametrize(("platform", "kind", "workers", "chosen"), [
    ("darwin", Kind.auto, 16, "threads"), ("linux", Kind.auto, 16, "processes"), ("linux", Kind.auto, 2, "threads"),
    ("linux", Kind.threads, 16, "threads"), ("linux", Kind.processes, 1, "processes")])
def test_many_workers_are_processes_where_they_can_be_forked(monkeypatch, platform, kind, workers, chosen):
    monkeypatch.setattr(loader.sys, "platform", platform)
    monkeypatch.setattr(loader, "read_by_threads", lambda *_: "threads")
    monkeypatch.setattr(loader, "read_by_processes", lambda *_: "processes")
    assert read_ahead(read, [], kind, workers) == chosen


def test_progress_is_logged_now_and_then(monkeypatch, caplog):
    for seconds, show in ((30, True), (0, False), (0, True)):
        monkeypatch.setattr(loader, "LINE_SECONDS", seconds)
        with progress("read", 10, 2, show) as advance:
            advance(4, "fast")
        assert ("read:  60% 6/10 [" in caplog.text and "fast" in caplog.text) == (show and not seconds)
