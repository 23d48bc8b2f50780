"""Reading ahead by threads and by processes: the same mini-batches in order, errors, and that everything ends."""

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
import torch

from repro.data.loader import read_ahead
from repro.errors import ImageError, LostProcessError
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
@pytest.mark.parametrize("workers", [1, 3])
def test_mini_batches_come_in_order_whole_and_to_keep(kind, workers):
    found = list(read_ahead(read, REQUESTS, kind, workers))
    assert [batch[:, 0, 0, 0].tolist() for batch in found] == REQUESTS
    assert all(batch.shape[1:] == (4, 5, 3) and batch.dtype == np.uint8 and batch.flags.writeable for batch in found)


@pytest.mark.parametrize("kind", KINDS)
def test_items_of_different_sizes_come_as_a_list(kind):
    sizes = [[3, 900], [4, 4], [1, 70_000, 2]]
    found = list(read_ahead(lambda size: np.arange(size), sizes, kind, 2))
    assert [len(item) for item in found[0]] == sizes[0]
    assert isinstance(found[0], list)
    assert found[1].shape == (2, 4)
    assert all(np.array_equal(item, np.arange(size)) for item, size in zip(found[2], sizes[2], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_endless_requests_are_asked_for_only_so_far_ahead(kind):
    asked = []

    def endless():
        for number in count():
            asked.append(number)
            yield [number % 200]

    batches = read_ahead(read, endless(), kind, 2, ahead=4)
    assert [int(next(batches)[0, 0, 0, 0]) for _ in range(9)] == list(range(9))
    assert len(asked) <= 9 + 4 + 1
    batches.close()


@pytest.mark.parametrize("kind", KINDS)
def test_no_requests_give_no_mini_batches(kind):
    assert list(read_ahead(read, [], kind, 2)) == []
    assert list(read_ahead(read, [[]], kind, 2)) == [[]]


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


@pytest.mark.parametrize("kind", KINDS)
def test_torchs_own_random_numbers_are_left_alone(kind):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(read_ahead(read, [[1], [2]], kind, 2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("how", ["dropped", "closed"])
def test_a_consumer_may_stop_early(how):
    before = len(children())
    batches = read_ahead(read, ([number % 200] * 8 for number in count()), Kind.processes, 3)
    next(batches)
    assert len(children()) - before == 3
    started = time.monotonic()
    if how == "dropped":
        del batches
    else:
        batches.close()
    assert len(children()) == before
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("kind", KINDS)
def test_two_may_read_at_once(kind):
    first, second = read_ahead(read, REQUESTS, kind, 2), read_ahead(read, REQUESTS, kind, 2)
    for expected in REQUESTS:
        assert next(first)[:, 0, 0, 0].tolist() == next(second)[:, 0, 0, 0].tolist() == expected
    first.close()
    second.close()


@pytest.mark.fault(33)
def test_a_worker_that_is_killed_is_an_error_where_a_mini_batch_is_asked_for():
    before = set(children())
    batches = read_ahead(read, ([number % 200] * 4 for number in count()), Kind.processes, 2)
    next(batches)
    os.kill(next(iter(set(children()) - before)), signal.SIGKILL)
    time.sleep(0.1)  # torch's own handler of SIGCHLD would raise here
    with pytest.raises(LostProcessError, match=r"killed by signal 9.*machine\.workers"):
        list(islice(batches, 50))


def test_a_worker_that_is_killed_raises_nothing_elsewhere():
    """Whatever handler there was before: torch's own, of an earlier DataLoader, raises where it is called."""
    def torchs(number, frame):
        raise RuntimeError("DataLoader worker is killed")

    others, before = set(children()), signal.signal(signal.SIGCHLD, torchs)
    try:
        batches = read_ahead(read, ([number % 200] * 4 for number in count()), Kind.processes, 2)
        next(batches)
        victim = next(iter(set(children()) - others))
        os.kill(victim, signal.SIGKILL)
        assert soon(lambda: not running(victim))
        with pytest.raises(LostProcessError):
            list(islice(batches, 50))
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_signals_to_the_group_do_not_end_the_workers():
    before = set(children())
    batches = read_ahead(read, ([number % 200] * 4 for number in count()), Kind.processes, 2)
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
from repro.data.loader import read_ahead
from repro.schema import Loader as Kind

end, seconds = sys.argv[1], float(sys.argv[2])
read = lambda item: time.sleep(seconds * item) or np.zeros(9)
batches = read_ahead(read, [[0, 0], [1, 1], [1], *[[0]] * 20], Kind.processes, 2)
next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
if end == "wait":
    time.sleep(60)
elif end == "error":
    raise ValueError("the consumer fails")
"""


@pytest.mark.parametrize(("end", "busy", "code"), [("wait", 600, -9), ("held", 600, 0), ("held", 0, 0),
                                                   ("error", 0, 1)])
def test_a_process_that_reads_ends_in_time_and_its_workers_with_it(end, busy, code):
    process = subprocess.Popen([sys.executable, "-c", CONSUMER, end, str(busy)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    if end == "wait":
        assert all(running(pid) for pid in workers)
        process.kill()
    _, said = process.communicate(timeout=240)
    assert process.returncode == code
    assert soon(lambda: not any(running(pid) for pid in workers))
    assert said.strip().splitlines()[-1:] == (["ValueError: the consumer fails"] if end == "error" else [])


