"""Snapshots and the thread that writes them."""

import threading

import pytest
import torch

from repro.errors import StorageError
from repro.training.background import Snapshot, Writer, map_tensors

CPU = torch.device("cpu")


def test_a_snapshot_is_of_the_moment_when_it_was_taken():
    state = {"a": torch.zeros(3), "list": [torch.ones(2)], "n": 7}
    snapshot = Snapshot(state, CPU)
    state["a"].add_(1)
    state["list"][0].zero_()
    found = snapshot.fetch()
    assert found["a"].tolist() == [0, 0, 0]
    assert found["list"][0].tolist() == [1, 1]
    assert found["n"] == 7


def test_mapped_keeps_kinds_and_keys():
    value = {"x": (torch.zeros(1), "text"), "y": [{"z": torch.ones(1)}]}
    found = map_tensors(lambda tensor: tensor + 1, value)
    assert found["x"][0].item() == 1
    assert found["x"][1] == "text"
    assert found["y"][0]["z"].item() == 2
    assert value["x"][0].item() == 0


def test_work_is_done_beside_the_caller_one_at_a_time():
    gate, done = threading.Event(), []
    with Writer() as writer:
        assert not writer.busy()
        writer.start(lambda: (gate.wait(10), done.append(1)))
        assert writer.busy()
        assert done == []
        gate.set()
        writer.start(lambda: done.append(2))
        writer.finish()
        assert done == [1, 2]
        assert not writer.busy()


@pytest.mark.parametrize("look", ["busy", "start", "finish"])
def test_an_error_of_the_work_is_raised_where_the_caller_looks_next(look):
    def fail():
        raise StorageError("disk full")
    with Writer() as writer:
        writer.start(fail)
        writer.last.exception()  # waits
        with pytest.raises(StorageError, match="disk full"):
            writer.start(print) if look == "start" else getattr(writer, look)()
        writer.finish()  # told once


def test_leaving_waits_for_the_work():
    done = []
    with Writer() as writer:
        writer.start(lambda: (threading.Event().wait(0.05), done.append(1)))
    assert done == [1]
