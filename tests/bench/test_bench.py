"""The parent: order, medians, ratios, refusals, and processes that hang, die or say nothing."""

import json
import logging
import os
import signal
import sys
import threading
import time

import pytest

from repro.bench import bench as bench_module
from repro.bench.bench import bench, failure_reason, fresh_process
from repro.bench.plan import Job, settings_of
from repro.errors import ReproError
from repro.schema import Precision
from tests.bench.synthetic import TINY, Made

GOOD = {"kind": "eager", "parameters": 10, "shared_loss": 2.5, "last_loss": 1.0}
JOB = Job("repro", 8, TINY, 1, 3, 64)


def record(made, *words, quick=False):
    lines, handler = [], logging.Handler()
    handler.emit = lambda entry: lines.append(entry.getMessage())
    logging.getLogger("repro").addHandler(handler)
    try:
        return bench(settings_of(["nets=20", *words], quick), made), lines
    finally:
        logging.getLogger("repro").removeHandler(handler)


def by_name(net):
    return {one["contender"]: one for one in net["contenders"]}


def test_rounds_are_interleaved():
    made = Made()
    record(made, "contenders=repro,eager_loop", "rounds=3")
    assert made.asked == ["rates", "repro", "eager_loop"] * 3


def test_medians_spread_and_ratios():
    found, lines = record(Made())
    one = by_name(found["nets"][0])
    assert one["repro"]["ms_per_step"] == {"median": 4.0, "min": 3.0, "max": 5.0, "values": [4.0, 5.0, 3.0, 4.5, 3.5]}
    assert one["repro"]["images_per_second"]["median"] == 32_000
    assert {name: entry["time_over_ours"] for name, entry in one.items()} == {
        "repro": 1.0, "eager_loop": 2.0, "reduce_overhead": 1.5, "dataloader": 10.0}
    assert found["measured"]["copy_bytes_per_second"]["values"] == [1e10, 1.1e10, 1.2e10, 1.3e10, 1.4e10]
    computed = found["nets"][0]["computed"]
    assert computed["byte_ms"] == pytest.approx(1000 * (128 * 2_803_712 + 8 * 269_722) * 4 / 1.2e10)
    assert computed["compute_ms"] == pytest.approx(1000 * 6 * 40_551_040 * 128 / 2e12)
    assert computed["floor_ms"] == max(computed["byte_ms"], computed["compute_ms"])
    assert one["repro"]["time_over_floor"] == pytest.approx(4.0 / computed["floor_ms"])
    assert "round 5 of 5: ResNet-20 dataloader: 40.00 ms/step, 3200 images/s (eager)" in lines


def test_the_record_says_with_what_and_when():
    found, lines = record(Made(), "machine.threads=2", quick=True)
    assert (found["quick"], found["rounds"], found["precision"]) == (True, 2, "fp32")
    assert found["device"] == "Made (R) GPU, 2 threads"
    assert found["overrides"] == ["machine.threads=2"]
    assert found["versions"]["torch"]
    assert found["code"]["repro"]
    assert found["started"] <= found["utc"]
    assert found["load_average_before"] >= 0
    assert all(line.startswith("quick, round ") for line in lines)
    assert json.loads(json.dumps(found)) == found


def test_a_contender_that_fails_stops_no_other_and_is_not_tried_again():
    made = Made({("eager_loop", 2): {"failed": "RuntimeError: no compiler"}})
    found, lines = record(made, "rounds=3")
    one = by_name(found["nets"][0])
    assert (one["eager_loop"]["status"], one["eager_loop"]["reason"]) == ("failed", "RuntimeError: no compiler")
    assert "ms_per_step" not in one["eager_loop"]
    assert len(one["dataloader"]["ms_per_step"]["values"]) == 3
    assert made.asked.count("eager_loop") == 2
    assert any("eager_loop: failed: RuntimeError" in line for line in lines)


def test_without_ours_there_is_no_ratio():
    found, _ = record(Made({("repro", 1): {"failed": "no"}}), "rounds=1")
    one = by_name(found["nets"][0])
    assert one["eager_loop"]["time_over_ours"] is None
    assert one["eager_loop"]["time_over_floor"] > 0


def test_ratios_are_to_our_first_engine():
    found, _ = record(Made(), "rounds=1", "contenders=dataloader,repro:graph,repro:eager")
    assert {one["ours"] for one in found["nets"][0]["contenders"]} == {"repro:graph"}


def test_a_device_that_can_not_be_measured_ends_it():
    with pytest.raises(ReproError, match="no driver"):
        record(Made({("rates", 1): {"failed": "no driver"}}))


@pytest.mark.parametrize(("change", "said"), [
    ({}, None), ({"failed": "why"}, "why"), ({"parameters": 11}, "another network: 11 parameters, not 10"),
    ({"shared_loss": 2.51}, "another loss on the shared batch: 2.51, not 2.5"), ({"shared_loss": 2.5001}, None),
    ({"last_loss": 2.5}, "did not train"), ({"last_loss": 2.48}, "did not train"), ({"last_loss": 2.47}, None),
    ({"last_loss": float("nan")}, "not finite"), ({"shared_loss": float("inf")}, "not finite")])
def test_what_does_not_count_is_refused(change, said):
    found = failure_reason(GOOD | change, 10, 2.5, Precision.fp32)
    assert (found is None) if said is None else (said in found), found


def test_the_first_contender_has_no_loss_to_be_compared_with():
    assert failure_reason(GOOD, 10, None, Precision.fp32) is None
    assert failure_reason(GOOD | {"shared_loss": 2.51}, 10, 2.5, Precision.bf16) is None


def test_a_refused_result_enters_no_number():
    found, _ = record(Made({("dataloader", 1): {"shared_loss": 2.6}}), "rounds=1")
    assert "another loss" in by_name(found["nets"][0])["dataloader"]["reason"]


class Clock:
    """Time that passes only while something is measured: so many seconds for each contender."""

    def __init__(self, seconds):
        self.now, self.seconds, self.made = 100.0, seconds, Made()

    def monotonic(self):
        return self.now

    def __call__(self, job):
        self.now += self.seconds[job.contender]
        return self.made(job)


@pytest.mark.parametrize(("limit", "asked", "rounds"), [
    (200, ["rates", "repro", "eager_loop"] * 3, (3, 3)),
    (75, ["rates", "repro", "eager_loop", "rates", "repro"], (2, 1)),
    (20, ["rates", "repro"], (1, 0))])
def test_nothing_begins_that_would_not_end_in_time(limit, asked, rounds, monkeypatch):
    clock = Clock({"rates": 5, "repro": 15, "eager_loop": 30})
    monkeypatch.setattr(bench_module, "time", clock)
    settings = settings_of(["nets=20", "rounds=3", "contenders=repro,eager_loop"], False, limit)
    found = bench(settings, clock)
    assert clock.made.asked == asked
    one = by_name(found["nets"][0])
    assert tuple(len(one[name].get("ms_per_step", {"values": []})["values"]) for name in one) == rounds
    assert [entry.get("reason") for entry in one.values()] == [None if n else "no time was left" for n in rounds]


# ---- processes

def program(monkeypatch, code):
    monkeypatch.setattr(bench_module, "PROGRAM", (sys.executable, "-c", code))


def test_a_real_process_measures_a_small_network():
    result = fresh_process(JOB)
    assert result["ms_per_step"] > 0, result
    assert failure_reason(result, result["parameters"], None, Precision.fp32) is None


@pytest.mark.parametrize(("code", "said"), [
    ("print('[]')", "its process ended with 0"), ("print('text')", "its process ended with 0"),
    ("import sys; sys.exit('no such module')", "its process ended with 1: no such module"),
    ("import os; os.kill(os.getpid(), 9)", "its process killed by signal 9")])
def test_a_process_without_a_result_is_a_failure(code, said, monkeypatch):
    program(monkeypatch, code)
    assert fresh_process(JOB) == {"failed": said}


def test_the_last_line_counts_and_the_environment_is_ours(monkeypatch):
    program(monkeypatch, "import json, os, sys; print('words'); print(json.dumps({'job': json.loads(sys.argv[1]), "
                         "'seen': os.environ['REPRO_SEEN']}))")
    monkeypatch.setenv("REPRO_SEEN", "yes")
    assert fresh_process(JOB) == {"job": json.loads(JOB.text()), "seen": "yes"}


HANGS = ("import os, pathlib, subprocess, sys, time\n"
         "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
         "path = pathlib.Path(os.environ['REPRO_PIDS'])\n"
         "path.with_suffix('.part').write_text(f'{os.getpid()} {inner.pid}')\n"
         "path.with_suffix('.part').rename(path)\n"
         "time.sleep(60)\n")


def gone(pid):
    """Whether a process has ended (one that waits to be reaped has)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_process_that_takes_too_long_is_killed_with_its_workers(monkeypatch, tmp_path):
    program(monkeypatch, HANGS)
    monkeypatch.setenv("REPRO_PIDS", str(tmp_path / "pids"))
    monkeypatch.setattr(bench_module, "TIMEOUT", 2.0)
    assert fresh_process(JOB) == {"failed": "no result after 2 s"}
    all_gone(tmp_path / "pids")


def test_a_process_is_cut_when_the_time_is_up(monkeypatch, tmp_path):
    program(monkeypatch, HANGS)
    monkeypatch.setenv("REPRO_PIDS", str(tmp_path / "pids"))
    assert fresh_process(JOB, time.monotonic() + 2) == {"failed": "no time was left"}
    all_gone(tmp_path / "pids")


def test_ctrl_c_kills_the_process_and_its_workers(monkeypatch, tmp_path):
    program(monkeypatch, HANGS)
    monkeypatch.setenv("REPRO_PIDS", str(tmp_path / "pids"))

    def press():
        while not (tmp_path / "pids").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)
    hand = threading.Thread(target=press, daemon=True)
    hand.start()
    with pytest.raises(KeyboardInterrupt):
        fresh_process(JOB)
    hand.join()
    all_gone(tmp_path / "pids")


def all_gone(path):
    pids = path.read_text().split()
    assert len(pids) == 2
    assert os.getpid() not in map(int, pids)
    end = time.monotonic() + 5
    while not all(map(gone, pids)):
        assert time.monotonic() < end, f"still there: {pids}"
        time.sleep(0.05)
