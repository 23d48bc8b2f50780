"""Reading ahead by threads: what was asked for, in order; errors; and that everything ends."""

import threading
import time
from itertools import count

import pytest

from repro.data import loader
from repro.data.loader import parts_of, progress, read_ahead
from repro.errors import ImageError


def read(item: int) -> int:
    """The square of an item; odd items take longer, and 6 is damaged."""
    time.sleep(0.002 * (item % 2))
    if item == 6:
        raise ImageError("6.JPEG: the image is damaged")
    return item**2


@pytest.mark.parametrize("workers", [1, 3])
def test_requests_come_in_order_and_whole(workers):
    requests = [[7, 1, 2, 3, 4], [5], [9, 9, 0], [8], list(range(10, 30)), [1], [2]]
    assert list(read_ahead(read, requests, workers)) == [[item**2 for item in request] for request in requests]
    assert list(read_ahead(read, [], workers)) == []
    assert list(map(list, parts_of(range(5), 2))) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("how", ["dropped", "closed"])
def test_endless_requests_are_asked_for_only_so_far_ahead_and_the_threads_end(how):
    asked, before = [], threading.active_count()

    def requests():
        for number in count(7):
            asked.append(number)
            yield [number]

    batches = read_ahead(read, requests(), 2, ahead=4)
    assert [next(batches) for _ in range(9)] == [[item**2] for item in range(7, 16)]
    assert len(asked) <= 9 + 4 + 1
    assert threading.active_count() > before
    if how == "dropped":
        del batches
    else:
        batches.close()
    assert threading.active_count() == before


def test_the_error_of_an_item_is_raised_as_it_is_when_its_request_is_due():
    batches = read_ahead(read, [[0, 1], [2, 6, 7], [3]], 2)
    assert next(batches) == [0, 1]
    with pytest.raises(ImageError, match=r"^6\.JPEG: the image is damaged$"):
        next(batches)
    assert list(batches) == []


def test_progress_is_logged_now_and_then(monkeypatch, caplog):
    for seconds, show in ((30, True), (0, False), (0, True)):
        monkeypatch.setattr(loader, "LINE_SECONDS", seconds)
        with progress("read", 10, 2, show) as advance:
            advance(4, "fast")
        assert ("read:  60% 6/10 [" in caplog.text and "fast" in caplog.text) == (show and not seconds)
