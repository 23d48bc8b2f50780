"""`repro status`: looks at locks without touching them."""

import subprocess
import sys

import pytest

from repro.reporting.select import pools
from repro.reporting.status import status, status_text

HOLD = """
import sys, time
from pathlib import Path
from repro.files import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_what_is_lacking_counts_seeds(results, reference, make_run):
    for seed in (0, 1):
        make_run(results, "cifar_resnet110", seed, test=6.5 + seed)
    make_run(reference, "cifar_resnet20", 0)
    found = {entry["experiment"]: entry for entry in status(*pools(results, reference))["lacking"]}
    assert "cifar_resnet20" not in found
    assert (found["cifar_resnet110"]["seeds"], found["cifar_resnet110"]["needed"]) == (2, 5)
    assert found["cifar_resnet110"]["status"] == "partial 2/5"
    assert found["cifar_resnet110"]["seconds"] == 3 * (100.4 + 23.0)
    assert found["cifar_resnet32"]["seconds"] is None
    assert "not measured" in status_text(status(*pools(results, reference)))


def test_a_row_needs_the_seeds_of_suites_that_feed_its_table(results, reference, make_run):
    """No run in 16 bits fills a row."""
    for seed in range(3):
        make_run(results, "cifar_resnet20", seed, test=8.0 + seed, precision="fp16")
    found = {entry["row"]: entry for entry in status(*pools(results, reference))["lacking"]}
    assert {row: entry["needed"] for row, entry in found.items() if entry["needed"] > 1} == {
        "table6/resnet-110": 5, "table5/resnet-ilsvrc15": 6}, "one network of 152 layers is enough for a row"
    assert (found["table6/resnet-20"]["seeds"], found["table6/resnet-20"]["needed"]) == (0, 1)
    assert {row.partition("/")[0] for row in found} == {"table2", "table3", "table4", "table5", "table6",
                                                              "plain_nets"}
    make_run(results, "cifar_resnet20", 3, precision="tf32")
    assert "table6/resnet-20" not in {entry["row"] for entry in status(*pools(results, reference))["lacking"]}


def test_a_running_run_is_seen_and_left_alone(results, reference, make_run):
    folder = make_run(results, "cifar_resnet20", status="running")
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        lock = (folder / "run.lock").read_bytes()
        found = status(*pools(results, reference))
        assert found["running"][0]["owner"]["pid"] == process.pid
        assert found["interrupted"] == []
        assert f"pid {process.pid}" in status_text(found)
        assert (folder / "run.lock").read_bytes() == lock
        process.kill()
    found = status(*pools(results, reference))
    assert found["running"] == []
    assert "killed" in found["interrupted"][0]["note"]
    assert (folder / "run.lock").exists(), "the next run of it takes over the lock"


def test_an_interrupted_run_says_how_to_go_on(results, reference, make_run):
    make_run(results, "cifar_resnet20", 3, status="interrupted", overrides=("model.shortcut_option=B",),
             change={"iteration": 32000})
    (entry,) = status(*pools(results, reference))["interrupted"]
    assert entry["go_on"] == "repro run experiment=cifar_resnet20 seed=3 model.shortcut_option=B"
    assert entry["iterations"] == 64000
    assert abs(entry["seconds_left"] - 123.4) < 5
    assert "interrupted (the same command goes on)" in status_text(status(*pools(results, reference)))


def test_a_broken_record_is_no_reason_to_stop(results, reference, make_run):
    (make_run(results, "cifar_resnet20") / "run.json").write_text("{")
    assert status(*pools(results, reference))["running"] == []


def test_the_command_loads_no_torch(direct):
    outcome = direct("status")
    assert outcome.code == 0
    assert "what the tables lack" in outcome.out
    assert "computed from a few measured steps" in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 100


@pytest.mark.fault(76)
def test_a_name_from_a_record_is_quoted_in_the_command(results, reference, make_run):
    make_run(results, "cifar_resnet20", status="interrupted", change={"experiment": "x; touch executed"})
    assert "repro run 'experiment=x; touch executed' seed=0" in status_text(status(*pools(results, reference)))
