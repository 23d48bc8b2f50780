"""Tables from made-up records: what counts, what does not and why, how it is written, and `repro table`."""

import csv
import json
import math
import re
import shutil
from pathlib import Path

import pytest

from repro import paths
from repro.config import paper_hashes
from repro.errors import ConfigError
from repro.reporting import tables
from repro.reporting.select import pools
from repro.reporting.table import BETTER, REPRODUCED, WORSE, Summary, Table, TableRow, verdict, write
from tests.outcome import says
from tests.reporting.conftest import SHORT, SYNTHETIC, statuses, write_ensemble, write_evaluation, write_run

R20 = "cifar_resnet20"
PAPER = sorted(paper_hashes(R20))[0]
LIMIT = 2 * math.hypot(0.25, 0.16)
GOLDEN = Path(__file__).parent / "golden"


def test_summary_of_one_run_and_of_several():
    summary = Summary((6.43, 6.61, 6.79))
    assert summary.as_json() == {"k": 3, "best": 6.43, "mean": pytest.approx(6.61), "std": pytest.approx(0.18)}
    assert (str(Summary((8.314,))), str(summary)) == ("8.31", "6.43 (6.61 +- 0.18), 3 seeds")


@pytest.mark.parametrize(("difference", "expected"), [
    (LIMIT, REPRODUCED), (-LIMIT, REPRODUCED), (LIMIT + 0.001, WORSE), (-LIMIT - 0.001, BETTER)])
def test_boundaries(difference, expected):
    assert verdict(Summary((8.75 + difference,)), 8.75, 0.16, 0.25)[2] == expected


def test_strict_objects_to_all_that_lacks_runs_seeds_or_tests_or_is_worse():
    good = ["reproduced", "better than published", "agrees", "published only"]
    lacking = ["not run", "incomplete", "stale", "partial 3/5: reproduced", "not counted", "not evaluated"]
    both = "partial 3/5: worse than published"
    table = Table("x", "", {}, [TableRow("row", {}, one) for one in [*good, *lacking, both, "worse than published"]])
    assert table.problems == ["x: worse than published: row, row", "x: rows that lack runs: " + ", ".join(
        f"row: {one}" for one in [*lacking, both])]


def write_cifar(yours, reference):
    """Partial, better and worse runs, unfinished, changed, torn, doubled, foreign, short and synthetic ones."""
    for seed, error in enumerate((6.4, 6.6, 6.8, 6.5)):
        write_run(yours, "cifar_resnet110", seed, test=error, train=0.1)
    write_run(yours, R20, test=8.7, change={"best_on_test": {"iteration": 60000, "test_top1_error": 7.9}})
    write_run(yours, R20, 1, status="diverged")
    write_run(yours, R20, 2, overrides=("train.lr=0.2",), status="interrupted")
    write_run(yours, "cifar_resnet32", status="interrupted")
    write_run(yours, "cifar_resnet32", 3, test=7.5, precision="bf16")
    write_run(yours, "cifar_resnet32", 5, overrides=SYNTHETIC, folder="cifar_resnet32")
    (write_run(yours, "cifar_resnet44") / "run.json").write_text("{")
    write_run(yours, "cifar_resnet44", 1, overrides=("train.weight_decay=0.0005",), folder="cifar_resnet44")
    copied = write_run(yours, "cifar_resnet56", test=12.0)
    shutil.copytree(copied, copied.with_name("seed7"))
    write_run(yours, "cifar_resnet1202", test=5.0, train=0.05)
    write_run(reference, "cifar_resnet56", test=7.0, device="their device", precision="tf32")
    write_run(reference, "cifar_resnet32", test=7.5, device="their device", precision="tf32")
    for depth, train, test in ((20, 1.0, 9.6), (32, 2.0, 9.8), (56, 4.0, 13.0)):
        write_run(yours, f"cifar_plain{depth}", train=train, test=test)
    write_run(reference, "cifar_plain20", train=1.2, test=9.9, device="their device")
    for name in ("plain20", "plain56", "resnet20"):
        write_run(yours, f"cifar_{name}", train=60, test=58, precision="bf16", overrides=SHORT)
        write_run(yours, f"cifar_{name}", train=50, test=48, precision="bf16", overrides=SYNTHETIC)
    write_run(reference, "cifar_plain20", train=61, test=59, precision="tf32", overrides=SHORT)
    write_run(reference, "cifar_plain20", train=51, test=49, overrides=SYNTHETIC)  # which nobody may commit
    (write_run(yours, "cifar_resnet56", precision="tf32", overrides=SHORT) / "run.json").write_text("{")


def write_imagenet(yours, reference):
    """Runs with tests that count, of other images and weights, and without; a wiring test; two ensembles."""
    for name, test in (("plain18", 30.0), ("plain34", 31.0), ("resnet18", 29.9), ("optA", 27.5), ("optB", 27.0)):
        change = {"plain34": {"images": 200}, "resnet18": {"precision": "bf16"}}.get(name, {})
        write_evaluation(write_run(yours, f"imagenet_{name}", test=test), "ten_crop", test - 2.4, 7.7, **change)
    write_evaluation(yours / "runs" / "imagenet_optB" / "seed0", "multi_scale", 21.9, 5.7)
    write_run(yours, "imagenet_optA", 1, test=27.7)
    write_run(yours, "imagenet_optA", 2, overrides=("machine=smoke",))
    write_run(reference, "imagenet_optC", test=27.0, overrides=("data.root=/no/such/folder",))
    write_evaluation(write_run(reference, "imagenet_resnet152", test=23.0), "multi_scale", 19.4, 4.5)
    write_ensemble(yours)
    write_ensemble(reference, wiring_test=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folders = [tmp_path_factory.mktemp("made") / name for name in ("results", "reference")]
    write_cifar(*folders)
    write_imagenet(*folders)
    return pools(*folders)


@pytest.mark.fault(41)
@pytest.mark.parametrize("name", [path.stem for path in GOLDEN.glob("*.md")])
def test_a_table_of_everything(made, name):
    """Each status among them. Written anew by `tables.build(NAME, made).forms["md"]` after a look at what changed."""
    assert tables.build(name, made).forms["md"] == (GOLDEN / f"{name}.md").read_text()


def copy_under_another_seed(root):
    first, second = write_run(root, R20, test=8.7), write_run(root, R20, 1, test=8.6)
    (second / "history.csv").write_bytes((first / "history.csv").read_bytes())
    (second / "run.json").write_text(json.dumps(json.loads((first / "run.json").read_text()) | {"seed": 1}))


def cut_last_line(root):
    path = write_run(root, R20) / "history.csv"
    path.write_text(path.read_text()[:-3])


def runs(*kinds):
    """Runs of ResNet-20 with seeds 0, 1, ..., and `write_run`'s arguments."""
    def write(root):
        for seed, kind in enumerate(kinds):
            write_run(root, R20, seed, **{"test": 8.7} | kind)
    return write


@pytest.mark.fault(40, 41)
@pytest.mark.parametrize(("write", "status", "note"), [
    (lambda root: None, "not run", ""),
    (runs({"test": 9.4}), "worse than published", ""),
    (runs({"precision": "fp32"}, {"precision": "tf32", "test": 8.6}), "reproduced", "yours: made-up device, tf32"),
    (runs({"change": {"schema": 99}}), "incomplete", "schema 99"),
    (cut_last_line, "incomplete", "history.csv has not every evaluation once"),
    (runs({"overrides": SYNTHETIC, "folder": R20, "change": {"identity": PAPER}}), "stale", "synthetic images"),
    (runs({}, {"folder": "x", "change": {"seed": 0}}, {"folder": R20, "change": {"seed": 0}}), "reproduced",
     "cifar_resnet20/seed2: duplicate: the same run or seed as cifar_resnet20/seed0"),
    (copy_under_another_seed, "reproduced", "cifar_resnet20/seed1: duplicate"),
    (runs({"change": {"experiment": "another"}}), "stale", "another experiment or version"),
])
def test_whether_a_run_counts_beside_these(results, reference, write, status, note):
    write(results)
    table = tables.build("table6", pools(results, reference))
    assert statuses(table)["resnet-20"] == status
    assert any(note in one for one in table.notes), table.notes
    assert ("table6: worse than published: resnet-20" in table.problems) == status.startswith("worse")


def test_every_name_builds_and_an_unknown_one_is_named(results, reference):
    for name in tables.names():
        table = tables.build(name, pools(results, reference))
        assert table.name == name
        assert ("Synthetic images" in table.title) == (name == "synthetic_demo")
    with pytest.raises(ConfigError, match="did you mean table6"):
        tables.build("tabel6", pools(results, reference))


def test_the_committed_tables_are_what_the_committed_runs_give_and_a_change_is_found(tmp_path):
    assert tables.changed_files(tables.committed_names(), paths.reference_dir()) == []
    shutil.copytree(paths.reference_dir(), tmp_path / "reference")
    path = tmp_path / "reference" / "tables" / "table6.csv"
    path.write_text(path.read_text().replace("8.75", "8.57", 1))
    (tmp_path / "reference" / "tables" / "table1.tex").unlink()
    assert tables.changed_files(["table1", "table6"], tmp_path / "reference") == ["table1.tex", "table6.csv"]


def test_the_files_agree_with_each_other_and_no_text_breaks_a_row(made, results, reference, tmp_path):
    written = write(tables.build("table6", made), tmp_path / "out")
    assert [path.name for path in written] == ["table6.md", "table6.csv", "table6.json", "table6.tex"]
    rows, content = list(csv.DictReader(written[1].read_text().splitlines())), json.loads(written[2].read_text())
    assert [list(entry.values()) for entry in rows] == [list(entry["cells"].values()) for entry in content["rows"]]
    judged = next(entry for entry in content["rows"] if entry["key"] == "resnet-20")
    assert (judged["status"], judged["data"]["difference"], judged["data"]["judged"]) == ("reproduced", -0.05, "yours")

    write_run(results, "cifar_plain20", overrides=SHORT, device='a | b\nc, "d" & 50 % {x} ~ ^ # $ _')
    for table in (tables.build(name, pools(results, reference)) for name in tables.names()):
        lines = [line for line in table.forms["md"].splitlines() if line.startswith("|")]
        assert {line.count("|") - line.count("\\|") for line in lines} == {len(table.columns) + 1}
        assert len(lines) == len(table.rows) + 2
        assert {len(line) for line in csv.reader(table.forms["csv"].splitlines())} == {len(table.columns)}
        body = table.forms["tex"].partition("\\midrule\n")[2].partition("\\bottomrule")[0].splitlines()
        assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {len(table.columns) - 1}


@pytest.mark.fault(41)
def test_the_command_is_0_and_strictly_4_where_runs_lack_or_one_is_worse(direct, results, reference, monkeypatch):
    monkeypatch.setattr(paths, "reference_dir", lambda: reference)
    outcome = direct("table", "table6", "--json")
    assert (outcome.code, outcome.err, json.loads(outcome.out)["name"]) == (0, "", "table6")
    says(direct("table", "table6", "--strict"), 4, "table6: rows that lack runs: resnet-20: not run")
    for layers, error in ((20, 8.75), (32, 7.51), (44, 7.17), (56, 6.97), (1202, 7.93)):
        write_run(results, f"cifar_resnet{layers}", 0, test=error)
    for seed in range(5):
        write_run(results, "cifar_resnet110", seed, test=6.59 + seed / 100)
    assert direct("table", "table6", "--strict").code == 0
    write_run(results, R20, 0, test=12.0)
    says(direct("table", "table6", "--strict"), 4, "table6: worse than published: resnet-20")
