"""Tables from made-up records: what counts, what does not and why, and how it is written."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from repro.errors import ConfigError
from repro.reporting import tables
from repro.reporting.select import pools
from repro.reporting.table import Table, TableRow, write
from tests.reporting.conftest import statuses

SHORT = ("scale=0.0046875", "evaluation.interval=6400")
R20 = "cifar_resnet20"


def row(table: Table, key: str) -> TableRow:
    """The row of this key."""
    return next(row for row in table.rows if row.key == key)


def notes_with(table: Table, text: str) -> list[str]:
    """The notes that contain a text."""
    return [note for note in table.notes if text in note]


@pytest.mark.fault(41)
def test_without_runs_every_trained_row_is_not_run(results: Path, reference: Path):
    table = tables.build("table6", pools(results, reference))
    assert set(statuses(table).values()) == {"not run", "published only"}
    assert statuses(table)["maxout"] == "published only"
    assert row(table, "resnet-20").cells["yours"] == "not run"
    assert table.worse == []


def test_one_run_is_judged_against_the_published_number(results: Path, reference: Path, make_run):
    make_run(results, R20, 0, test=8.30)
    found = row(tables.build("table6", pools(results, reference)), "resnet-20")
    assert found.status == "reproduced"
    assert found.cells["published"] == "8.75"
    assert found.cells["yours"] == "8.30"
    assert found.cells["difference"] == "-0.45 (yours)"
    assert found.cells["verdict"] == "reproduced (yours, z = -1.52)"
    assert found.cells["reference"] == "not run"
    assert (found.cells["published_parameters"], found.cells["parameters"]) == ("0.27M", "269,722")
    assert "8.27* akamaster" in found.cells["second_reference"]


def test_yours_wins_over_the_reference(results: Path, reference: Path, make_run):
    make_run(reference, R20, 0, test=8.75, device="their device")
    make_run(results, R20, 0, test=12.0)
    table = tables.build("table6", pools(results, reference))
    assert row(table, "resnet-20").cells["verdict"].startswith("worse than published (yours")
    assert row(table, "resnet-20").cells["reference"] == "8.75"
    assert table.worse == ["resnet-20"]
    assert notes_with(table, "reference: their device, fp32, trained on all 50,000")
    committed = tables.build("table6", pools(None, reference))
    assert statuses(committed)["resnet-20"] == "reproduced"
    assert "yours" not in committed.columns


def test_several_seeds_give_best_mean_and_std(results: Path, reference: Path, make_run):
    for seed, error in enumerate((6.4, 6.6, 6.8, 6.5, 6.7)):
        make_run(results, "cifar_resnet110", seed, test=error)
    found = row(tables.build("table6", pools(results, reference)), "resnet-110")
    assert found.cells["yours"] == "6.40 (6.60 +- 0.16), 5 seeds"
    assert found.cells["published"] == "6.43 (6.61 +- 0.16)"
    assert found.cells["difference"] == "-0.01 (yours)"
    assert found.status == "reproduced"
    assert found.data["yours"]["k"] == 5


@pytest.mark.fault(41)
def test_fewer_seeds_than_published_is_partial_with_numbers(results: Path, reference: Path, make_run):
    make_run(results, "cifar_resnet110", 0, test=9.0)
    make_run(results, "cifar_resnet110", 1, test=9.2)
    table = tables.build("table6", pools(results, reference))
    found = row(table, "resnet-110")
    assert found.status == "partial 2/5"
    assert found.cells["yours"].startswith("9.00 (9.10")
    assert found.cells["verdict"].startswith("partial 2/5: worse than published (yours, z = +8.")
    assert table.worse == ["resnet-110"]


def test_too_low_an_error_is_better_and_not_worse(results: Path, reference: Path, make_run):
    make_run(results, R20, 0, test=5.0)
    table = tables.build("table6", pools(results, reference))
    assert statuses(table)["resnet-20"] == "better than published"
    assert table.worse == []


@pytest.mark.fault(41)
@pytest.mark.parametrize("status", ["running", "interrupted", "diverged"])
def test_a_run_that_did_not_finish_is_incomplete(results: Path, reference: Path, make_run, status: str):
    make_run(results, R20, 0, status=status)
    table = tables.build("table6", pools(results, reference))
    assert statuses(table)["resnet-20"] == "incomplete"
    assert row(table, "resnet-20").cells["yours"] == "incomplete"
    assert notes_with(table, f"cifar_resnet20/seed0: incomplete: {status} at iteration 31980 of 64000")


@pytest.mark.fault(41)
def test_an_unfinished_seed_is_left_out_beside_a_finished_one(results: Path, reference: Path, make_run):
    make_run(results, R20, 0, test=8.5)
    make_run(results, R20, 1, status="diverged")
    table = tables.build("table6", pools(results, reference))
    assert row(table, "resnet-20").cells["yours"] == "8.50"
    assert notes_with(table, "cifar_resnet20/seed1: incomplete: diverged")


@pytest.mark.fault(40, 41)
def test_a_torn_record_and_a_torn_history_are_incomplete(results: Path, reference: Path, make_run):
    record = make_run(results, R20, 0) / "run.json"
    record.write_text(record.read_text()[:50])
    history = make_run(results, "cifar_resnet32", 0) / "history.csv"
    history.write_text(history.read_text()[:-3])
    table = tables.build("table6", pools(results, reference))
    assert (statuses(table)["resnet-20"], statuses(table)["resnet-32"]) == ("incomplete", "incomplete")
    assert notes_with(table, "unreadable run.json")
    assert notes_with(table, "history.csv does not reach the last iteration")


def test_a_result_that_the_history_does_not_bear_out_does_not_count(results: Path, reference: Path, make_run):
    record = make_run(results, R20, 0, test=8.8) / "run.json"
    record.write_text(record.read_text().replace('"test_top1_error": 8.8', '"test_top1_error": 8.7', 1))
    table = tables.build("table6", pools(results, reference))
    assert statuses(table)["resnet-20"] == "incomplete"
    assert notes_with(table, "history.csv and the recorded result differ")


def test_a_run_of_an_older_configuration_is_stale(results: Path, reference: Path, make_run):
    make_run(results, R20, 0, overrides=("train.weight_decay=0.0005",), folder=R20)
    table = tables.build("table6", pools(results, reference))
    assert statuses(table)["resnet-20"] == "stale"
    assert notes_with(table, "cifar_resnet20/seed0: stale: train.weight_decay: 0.0001 -> 0.0005")


def test_a_record_that_claims_the_papers_identity_does_not_count(results: Path, reference: Path, make_run):
    paper = json.loads((make_run(results, R20, 0, test=8.7) / "run.json").read_text())["identity"]
    make_run(results, R20, 1, overrides=("train.lr=0.2",), folder=R20, change={"identity": paper})
    table = tables.build("table6", pools(results, reference))
    assert row(table, "resnet-20").cells["yours"] == "8.70"
    assert notes_with(table, "cifar_resnet20/seed1: stale: its recorded configuration and identity differ")


@pytest.mark.parametrize(("overrides", "precision", "reason"), [
    (SHORT, "fp32", "scale: 1.0 -> 0.0046875"), ((), "bf16", "machine.precision: bf16"),
    (("data.split=45k",), "fp32", "data.split: full -> 45k"), (("train.lr=0.05",), "tf32", "train.lr: 0.1 -> 0.05")])
def test_a_run_with_any_override_never_enters(results: Path, reference: Path, make_run, overrides: tuple[str, ...],
                                              precision: str, reason: str):
    path = make_run(results, R20, 0, overrides=overrides, precision=precision)
    table = tables.build("table6", pools(results, reference))
    assert statuses(table)["resnet-20"] == "not run"
    assert notes_with(table, f"{path.parent.name}/seed0: other configuration: ")
    assert notes_with(table, reason)


def test_fp32_and_tf32_both_count(results: Path, reference: Path, make_run):
    make_run(results, R20, 0, test=8.5, precision="fp32", device="a processor")
    make_run(results, R20, 1, test=8.7, precision="tf32", device="an accelerator")
    table = tables.build("table6", pools(results, reference))
    assert row(table, "resnet-20").cells["yours"] == "8.50 (8.60 +- 0.14), 2 seeds"
    assert notes_with(table, "yours: a processor, fp32")
    assert notes_with(table, "yours: an accelerator, tf32")


@pytest.mark.fault(41)
def test_a_seed_counts_once(results: Path, reference: Path, make_run):
    make_run(results, R20, 0, test=8.5)
    make_run(results, R20, 0, test=9.5, folder=f"{R20}@copy")
    table = tables.build("table6", pools(results, reference))
    assert row(table, "resnet-20").cells["yours"] == "8.50"
    assert notes_with(table, "cifar_resnet20@copy/seed0: duplicate: the same run or seed as cifar_resnet20/seed0")


def test_of_two_runs_of_a_seed_the_one_in_its_own_folder_counts(results: Path, reference: Path, make_run):
    make_run(results, R20, 1, test=9.5, change={"seed": 5})
    make_run(results, R20, 5, test=8.5)
    table = tables.build("table6", pools(results, reference))
    assert row(table, "resnet-20").cells["yours"] == "8.50"
    assert notes_with(table, "cifar_resnet20/seed1: duplicate")


@pytest.mark.fault(41)
def test_a_copy_under_another_seed_counts_once(results: Path, reference: Path, make_run):
    first = make_run(results, R20, 0, test=8.5)
    copy = make_run(results, R20, 1, test=8.6)
    (copy / "history.csv").write_bytes((first / "history.csv").read_bytes())
    record = json.loads((first / "run.json").read_text()) | {"seed": 1}
    (copy / "run.json").write_text(json.dumps(record))
    table = tables.build("table6", pools(results, reference))
    assert row(table, "resnet-20").cells["yours"] == "8.50"
    assert notes_with(table, "cifar_resnet20/seed1: duplicate")


@pytest.mark.fault(41)
def test_a_foreign_record_does_not_count(results: Path, reference: Path, make_run):
    make_run(results, R20, 0, folder="cifar_resnet110")
    make_run(results, R20, 1, folder="no_such_experiment")
    make_run(results, R20, 2, change={"experiment": "no_such_experiment"})
    table = tables.build("table6", pools(results, reference))
    assert statuses(table)["resnet-110"] == statuses(table)["resnet-20"] == "not run"
    assert notes_with(table, "its record is of experiment cifar_resnet20")
    assert notes_with(table, "its record is of experiment no_such_experiment")


def test_the_best_iteration_on_the_test_set_is_an_extra(results: Path, reference: Path, make_run):
    make_run(results, R20, 0, test=8.5, change={"best_on_test": {"iteration": 60000, "test_top1_error": 7.9}})
    table = tables.build("table6", pools(results, reference))
    assert row(table, "resnet-20").cells["yours"] == "8.50"
    assert notes_with(table, "extra, not a result")[0].endswith("cifar_resnet20/seed0 (yours) 7.90 at iteration 60000")
    assert "7.90" not in table.csv()


def test_plain_nets_have_no_published_number_and_no_verdict(results: Path, reference: Path, make_run):
    make_run(results, "cifar_plain56", 0, test=33.0, train=20.0)
    table = tables.build("plain_nets", pools(results, reference))
    found = row(table, "plain-56")
    assert (found.cells["yours_test_error"], found.cells["yours_training_error"]) == ("33.00", "20.00")
    assert found.cells["published"] == "curve only (Fig. 6)"
    assert found.status == "published as curves only"
    assert "13.07 [3.33] a-martyn" in found.cells["second_reference"]
    assert row(table, "plain-110").cells["published"] == "stays above 60 %, not drawn"
    assert statuses(table)["plain-20"] == "not run"
    assert table.worse == []


def test_short_table_says_what_it_is(results: Path, reference: Path, make_run):
    make_run(results, "cifar_plain20", 0, train=58, test=57, precision="bf16", overrides=SHORT)
    make_run(results, "cifar_plain56", 0, train=77, test=76, precision="bf16", overrides=SHORT)
    make_run(results, R20, 0, train=0.4, test=8.0)  # a paper run has no place here
    table = tables.build("short_cifar_plain_vs_res", pools(results, reference))
    assert table.title.startswith("Short runs: 300 iterations instead of 64,000, drops at 150 and 225; not the paper's")
    assert row(table, "cifar_plain56/yours").cells == {
        "net": "plain-56", "origin": "yours", "train": "77.00", "test": "76.00", "averaged": "-",
        "iterations": "300 of 64000", "precision": "bf16", "device": "made-up device", "seconds": "123"}
    assert row(table, "cifar_resnet20/yours").status == "not run"
    assert row(table, "cifar_plain56/reference").status == "not run"
    assert notes_with(table, "plain-56 minus plain-20 +19.00")
    assert notes_with(table, "that depth helps ResNets")
    assert "300 of 64000" in table.csv()


@pytest.mark.parametrize(("fp32", "bf16", "chosen"), [(1, 1, "bf16"), (2, 1, "fp32"), (0, 1, "bf16")])
def test_short_table_shows_one_precision(results: Path, reference: Path, make_run, fp32: int, bf16: int, chosen: str):
    names = ["cifar_plain20", "cifar_plain56"]
    for name in names[:fp32]:
        make_run(results, name, 0, precision="fp32", overrides=SHORT)
    for name in names[:bf16]:
        make_run(results, name, 0, precision="bf16", overrides=SHORT)
    table = tables.build("short_cifar_plain_vs_res", pools(results, reference))
    shown = {row.cells["precision"] for row in table.rows if row.status == "short run"}
    assert shown == {chosen}
    assert notes_with(table, f"yours: runs in {chosen}")
    assert bool(notes_with(table, "other precision")) == (fp32 > 0)


def test_short_table_lists_its_own_unfinished_runs_only(results: Path, reference: Path, make_run):
    make_run(results, "cifar_plain20", 0, overrides=SHORT, status="interrupted")
    make_run(results, "cifar_plain56", 0, overrides=("scale=0.5",))
    table = tables.build("short_cifar_plain_vs_res", pools(results, reference))
    assert statuses(table)["cifar_plain20/yours"] == "incomplete"
    assert statuses(table)["cifar_plain56/yours"] == "not run"
    assert len(notes_with(table, "not counted")) == 1


def test_published_tables_print_the_papers_digits(results: Path, reference: Path):
    table = tables.build("table3", pools(results, reference))
    assert row(table, "resnet-34-c").cells["top5_error"] == "7.40"
    assert "top1_error" not in row(table, "googlenet").cells
    assert (statuses(table)["googlenet"], statuses(table)["resnet-50"]) == ("published only", "not run")
    assert row(tables.build("table4", pools(None, reference)), "vgg-v5").cells["top5_error"] == "7.1"
    assert row(tables.build("table1", pools(None, reference)), "resnet-152").cells["multiply_adds"] == "11.3"


def test_every_name_builds_and_an_unknown_one_is_named(results: Path, reference: Path):
    assert tables.names() == [*(f"table{n}" for n in range(1, 9)), "plain_nets", "short_cifar_plain_vs_res",
                              "synthetic_demo", "claims"]
    assert [tables.build(name, pools(results, reference)).name for name in tables.names()] == tables.names()
    with pytest.raises(ConfigError, match="did you mean table6"):
        tables.build("tabel6", pools(results, reference))


def test_files_agree_with_each_other_and_are_the_same_twice(results: Path, reference: Path, make_run, tmp_path: Path):
    make_run(results, R20, 0, test=8.5)
    table = tables.build("table6", pools(results, reference))
    written = write(table, tmp_path / "out")
    assert [path.name for path in written] == ["table6.md", "table6.csv", "table6.json", "table6.tex"]
    texts = [path.read_text() for path in written]
    assert all(text.endswith("\n") for text in texts)
    again = tables.build("table6", pools(results, reference))
    assert texts == [again.markdown(), again.csv(), again.json(), again.latex()]
    rows = list(csv.DictReader(texts[1].splitlines()))
    content = json.loads(texts[2])
    assert [entry["yours"] for entry in rows] == [entry["cells"]["yours"] for entry in content["rows"]]
    judged = next(entry for entry in content["rows"] if entry["key"] == "resnet-20")
    assert (judged["status"], judged["data"]["difference"], judged["data"]["judged"]) == ("reproduced", -0.25, "yours")


def test_no_text_breaks_a_row(results: Path, reference: Path, make_run):
    make_run(results, "cifar_plain20", 0, overrides=SHORT, device="a | b\nc, \"d\"")
    table = tables.build("short_cifar_plain_vs_res", pools(results, reference))
    lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
    assert {line.count("|") - line.count("\\|") for line in lines} == {len(table.columns) + 1}
    assert len(lines) == len(table.rows) + 2
    rows = list(csv.reader(table.csv().splitlines()))
    assert {len(line) for line in rows} == {len(table.columns)}
    assert 'a | b\\nc, "d"' in [cell for line in rows for cell in line]


def test_tables_import_neither_torch_nor_matplotlib():
    code = ("import sys; from repro.reporting import tables; "
            "print([name for name in ('torch', 'matplotlib') if name in sys.modules])")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           cwd=Path(__file__).parents[2])
    assert found.stdout.strip() == "[]"


def test_a_record_that_states_a_shorter_run_than_its_configuration_does_not_count(results: Path, reference: Path,
                                                                                   make_run):
    folder = make_run(results, R20, 0)
    lines = (folder / "history.csv").read_text().splitlines(keepends=True)
    (folder / "history.csv").write_text("".join(lines[:2]))
    content = json.loads((folder / "run.json").read_text())
    names, values = lines[0].strip().split(","), lines[1].strip().split(",")
    content |= {"iterations": 390, "iteration": 390, "result": dict(zip(names, map(float, values), strict=True))}
    (folder / "run.json").write_text(json.dumps(content))
    assert statuses(tables.build("table6", pools(results, reference)))["resnet-20"] == "incomplete"


@pytest.mark.parametrize("change", [{"evaluated_on": "val"}, {"result": {"iteration": 64000, "train_top1_error": 1.0,
                                                                         "test_top1_error": -3.0}}])
def test_records_of_other_sets_or_impossible_errors_do_not_count(results: Path, reference: Path, make_run, change):
    make_run(results, R20, 0, change=change)
    assert statuses(tables.build("table6", pools(results, reference)))["resnet-20"] != "reproduced"
