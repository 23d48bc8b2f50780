"""What results/reference lacks, cheapest first."""

from repro.files import hold_lock
from repro.reporting.select import pools
from repro.reporting.status import DIVERGED, FINISHED, IN_USE, OPEN, pending


def names(found):
    return [one.name for one in found]


def test_without_a_run_all_are_lacking_and_the_cheapest_come_first(results, reference):
    found = pending(*pools(results, reference))
    assert names(found)[:4] == ["cifar_plain20/seed0", "cifar_resnet20/seed0", "cifar_plain32/seed0",
                                "cifar_resnet32/seed0"]
    assert names(found)[-1] == "cifar_resnet1202/seed0"
    assert [name for name in names(found) if "resnet110" in name] == [f"cifar_resnet110/seed{k}" for k in range(5)]
    costs = [one.multiply_adds for one in found]
    assert costs == sorted(costs)
    assert {one.state for one in found} == {OPEN}


def test_what_is_committed_is_not_lacking_whatever_is_here(results, reference, make_run):
    make_run(reference, "cifar_resnet20", 0, precision="tf32")
    make_run(reference, "cifar_resnet110", 3)
    make_run(results, "cifar_plain20", 0, status="interrupted")
    found = pending(*pools(results, reference))
    assert "cifar_resnet20/seed0" not in names(found)
    assert [name for name in names(found) if "resnet110" in name] == [
        f"cifar_resnet110/seed{k}" for k in (0, 1, 2, 4)]
    assert found[0].name == "cifar_plain20/seed0"
    assert 0 < found[0].iteration < 64000


def test_runs_that_do_not_count_fill_nothing(results, reference, make_run):
    make_run(reference, "cifar_resnet20", 0, precision="bf16")
    make_run(reference, "cifar_plain20", 0, overrides=("scale=0.5",))
    make_run(reference, "cifar_resnet32", 0, status="interrupted")
    found = names(pending(*pools(results, reference)))
    assert {"cifar_resnet20/seed0", "cifar_plain20/seed0", "cifar_resnet32/seed0"} <= set(found)


def test_each_state_is_told_apart(results, reference, make_run):
    make_run(results, "cifar_plain20", 0)
    make_run(results, "cifar_resnet20", 0, status="diverged")
    folder = make_run(results, "cifar_plain32", 0, status="running")
    with hold_lock(folder):
        found = {one.name: one.state for one in pending(*pools(results, reference))}
    assert found["cifar_plain20/seed0"] == FINISHED
    assert found["cifar_resnet20/seed0"] == DIVERGED
    assert found["cifar_plain32/seed0"] == IN_USE
    assert found["cifar_resnet32/seed0"] == OPEN
    text = "\n".join(map(str, pending(*pools(results, reference))))
    assert "cifar_plain20/seed0      finished here; publish it" in text
    assert "diverged here" in text
    assert "not begun" in text


def test_when_nothing_is_lacking_there_is_nothing_to_do(results, reference, make_run):
    for one in pending(*pools(results, reference)):
        make_run(reference, one.experiment, one.seed, test=5.0 + one.seed / 100 + one.multiply_adds / 1e11)
    assert pending(*pools(results, reference)) == []
