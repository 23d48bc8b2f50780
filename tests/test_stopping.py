"""Reasons to stop: a signal, a time limit; what was ignored stays ignored."""

import multiprocessing
import os
import signal
import time

import pytest

from repro.stopping import SIGNALS, StopRequest, end_at_signals, end_with_parent


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
            end_at_signals("whose handlers end here with those of the StopRequest")
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.fault(23)
def test_a_second_ctrl_c_ends_the_process_at_once_and_those_of_a_launcher(monkeypatch, capfd):
    codes = list[int]()
    monkeypatch.setattr(os, "_exit", codes.append)
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    process.start()
    stop = StopRequest()
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        stop.receive(number, None)
    assert (codes, process.exitcode, stop.exit_code) == ([], None, 130)
    stop.receive(signal.SIGINT, None)
    process.join(60)
    assert (codes, process.exitcode) == ([130], -signal.SIGKILL)
    assert "stopped at once; the last checkpoint is intact" in capfd.readouterr().err


def test_signals_that_a_launcher_blocked_are_heard():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with StopRequest():
            assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(SIGNALS)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_process_whose_parent_is_gone_already_ends(monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    for parent in (os.getppid(), os.getppid() + 1):
        end_with_parent(parent, 0)
    assert ended == [75]


def test_a_time_limit(monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stop = StopRequest(10.0)
    assert (stop.reason, stop.seconds_left()) == (None, 10.0)
    now += 10.5
    assert (stop.reason, stop.exit_code, stop.seconds_left()) == ("max_seconds", 75, 1e-3)
