"""`repro status`: what there is, runs, was interrupted, is lacking; it looks at locks without touching them."""

import json
import subprocess
import sys

import pytest

from repro.files import hold_lock
from repro.reporting.select import pools
from repro.reporting.status import DIVERGED, FINISHED, IN_USE, OPEN, lacking, status, status_text
from tests.reporting.conftest import write_run

HOLD = """
import sys, time
from pathlib import Path
from repro.files import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_without_a_run_all_are_lacking_cheapest_first(results, reference):
    found = lacking(*pools(results, reference))
    runs = [one["run"] for one in found]
    assert runs[:4] == ["cifar_plain20/seed0", "cifar_resnet20/seed0", "cifar_plain32/seed0", "cifar_resnet32/seed0"]
    assert [run for run in runs if "resnet110" in run] == [f"cifar_resnet110/seed{k}" for k in range(5)]
    assert [run for run in runs if "resnet152" in run] == ["imagenet_resnet152/seed0", "imagenet_resnet152/seed1"]
    datasets = [one["dataset"] for one in found]
    assert datasets == sorted(datasets), "ImageNet's are last"
    assert {(one["state"], one["seconds_left"]) for one in found} == {(OPEN, None)}


def test_what_counts_in_the_reference_is_not_lacking(results, reference):
    write_run(reference, "cifar_resnet20", precision="tf32")
    write_run(reference, "cifar_resnet110", 3)
    write_run(reference, "cifar_plain20", precision="bf16")
    write_run(reference, "cifar_plain20", overrides=("scale=0.5",))
    write_run(reference, "cifar_resnet32", status="interrupted")
    found = {one["run"]: one for one in lacking(*pools(results, reference))}
    assert "cifar_resnet20/seed0" not in found
    assert [run for run in found if "resnet110" in run] == [f"cifar_resnet110/seed{k}" for k in (0, 1, 2, 4)]
    assert {"cifar_plain20/seed0", "cifar_resnet32/seed0"} <= found.keys()
    assert found["cifar_resnet110/seed0"]["seconds_left"] == 123.4, "as long as the one that is there took"


def test_each_state_is_told_apart(results, reference):
    write_run(results, "cifar_plain20", 0)
    write_run(results, "cifar_resnet20", 0, status="diverged")
    folder = write_run(results, "cifar_plain32", 0, status="running")
    write_run(results, "cifar_resnet32", 0, status="interrupted")
    with hold_lock(folder):
        found = {one["run"]: one for one in lacking(*pools(results, reference))}
    assert [found[f"cifar_{name}/seed0"]["state"] for name in ("plain20", "resnet20", "plain32", "resnet32", "plain44")
            ] == [FINISHED, DIVERGED, IN_USE, OPEN, OPEN]
    assert 0 < found["cifar_resnet32/seed0"]["iteration"] < 64000


def test_a_running_run_is_seen_and_left_alone(results, reference):
    folder = write_run(results, "cifar_resnet20", status="running")
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            lock = (folder / "run.lock").read_bytes()
            found = status(*pools(results, reference))
            assert found["interrupted"] == []
            assert f"pid {process.pid} " in found["running"][0]["state"]
            assert (folder / "run.lock").read_bytes() == lock
        finally:
            process.kill()
    found = status(*pools(results, reference))
    assert found["running"] == []
    assert "killed" in found["interrupted"][0]["state"]
    assert (folder / "run.lock").exists(), "the next run of it takes over the lock"


@pytest.mark.fault(71, 76)
def test_an_interrupted_run_says_how_to_go_on(results, reference):
    write_run(results, "cifar_resnet20", 3, status="interrupted", overrides=("model.shortcut_option=B",),
              change={"iteration": 32000})
    write_run(results, "cifar_resnet20", status="interrupted", change={"experiment": "x; touch executed"})
    (write_run(results, "cifar_plain20") / "run.json").write_text("{")
    found = status(*pools(results, reference))
    own, changed = found["interrupted"]
    assert own["go_on"] == "repro run 'experiment=x; touch executed' seed=0"
    assert changed["go_on"] == "repro run experiment=cifar_resnet20 seed=3 model.shortcut_option=B"
    assert changed["seconds_left"] == pytest.approx(123.4)
    assert changed["go_on"] in status_text(found)


def test_json_and_text_are_of_one_structure(direct):
    found = json.loads(direct("status", "--json").out)
    text = direct("status").out
    assert len(found["experiments"]) == 20
    for name in (*(one["name"] for one in found["experiments"]), *found["suites"], *found["tables"], *found["figures"],
                 *(one["run"] for one in found["lacking"])):
        assert name in text
    assert "23.9 h left" in text
    assert "computed from measured updates, cost_cifar_very_deep.json" in text
