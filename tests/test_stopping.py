"""Reasons to stop: a signal, a time limit; what was ignored stays ignored."""

import multiprocessing
import os
import signal
import time

import pytest

from repro.stopping import SIGNALS, StopRequest


@pytest.mark.parametrize(("number", "reason", "code"), [
    (signal.SIGTERM, "SIGTERM", 75), (signal.SIGHUP, "SIGHUP", 75), (signal.SIGUSR1, "SIGUSR1", 75),
    (signal.SIGINT, "SIGINT", 130)])
def test_a_signal_is_a_reason_to_stop_and_its_handlers_come_back(number, reason, code):
    own = signal.signal(number, signal.SIG_DFL)  # nohup starts tests that ignore SIGHUP
    try:
        before = [signal.getsignal(each) for each in SIGNALS]
        with StopRequest() as stop:
            assert (stop.reason, stop.seconds_left()) == (None, None)
            os.kill(os.getpid(), number)
            assert (stop.reason, stop.exit_code, stop.received) == (reason, code, number)
        assert [signal.getsignal(each) for each in SIGNALS] == before
    finally:
        signal.signal(number, own)


def test_a_signal_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.reason is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_ends_the_processes_of_a_launcher_too(monkeypatch):
    codes = list[int]()
    monkeypatch.setattr(os, "_exit", codes.append)
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    process.start()
    stop = StopRequest()
    stop.receive(signal.SIGINT, None)
    assert (codes, process.exitcode) == ([], None)
    stop.receive(signal.SIGINT, None)
    process.join(60)
    assert (codes, process.exitcode) == ([130], -signal.SIGKILL)


def test_a_time_limit(monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stop = StopRequest(10.0)
    assert (stop.reason, stop.seconds_left()) == (None, 10.0)
    now += 10.5
    assert (stop.reason, stop.exit_code, stop.seconds_left()) == ("max_seconds", 75, 1e-3)
