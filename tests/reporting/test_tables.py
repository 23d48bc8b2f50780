"""Tables from made-up records: what counts, what does not and why, how it is written, and `repro table`."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repro import paths
from repro.config import paper_hashes
from repro.errors import ConfigError
from repro.paper import Column
from repro.reporting import tables
from repro.reporting.select import RunSet, pools
from repro.reporting.table import write
from tests.outcome import says
from tests.reporting.conftest import SHORT, SYNTHETIC, statuses, write_run
from tests.reporting.made import write_runs

R20 = "cifar_resnet20"
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> list[RunSet]:
    """One of everything."""
    folder = tmp_path_factory.mktemp("made")
    write_runs(folder / "results", folder / "reference")
    return pools(folder / "results", folder / "reference")


@pytest.mark.fault(41)
@pytest.mark.parametrize("name", [path.stem for path in GOLDEN.glob("*.md")])
def test_a_table_of_everything(made: list[RunSet], name: str):
    """Each status among them. Written anew by `tables.build(NAME, made).forms["md"]` after a look at what changed."""
    assert tables.build(name, made).forms["md"] == (GOLDEN / f"{name}.md").read_text()


def copy_under_another_seed(root: Path) -> None:
    """The same history twice."""
    first, second = write_run(root, R20, test=8.7), write_run(root, R20, 1, test=8.6)
    (second / "history.csv").write_bytes((first / "history.csv").read_bytes())
    (second / "run.json").write_text(json.dumps(json.loads((first / "run.json").read_text()) | {"seed": 1}))


def runs(*kinds: dict[str, Any]) -> Callable[[Path], None]:
    """Runs of ResNet-20 with seeds 0, 1, ..., and `write_run`'s arguments."""
    def write(root: Path) -> None:
        for seed, kind in enumerate(kinds):
            write_run(root, R20, seed, **{"test": 8.7} | kind)
    return write


def cut_last_line(root: Path) -> None:
    """A history that is torn."""
    path = write_run(root, R20) / "history.csv"
    path.write_text(path.read_text()[:-3])


PAPER = sorted(paper_hashes(R20))[0]


@pytest.mark.fault(40, 41)
@pytest.mark.parametrize(("write", "status", "note"), [
    (lambda root: None, "not run", ""),
    (runs({}), "reproduced", "yours: made-up device, fp32"),
    (runs({"test": 8.1}), "better than published", ""),
    (runs({"test": 9.4}), "worse than published", ""),
    (runs({"precision": "fp32"}, {"precision": "tf32", "test": 8.6}), "reproduced", "yours: made-up device, tf32"),
    (runs({"change": {"schema": 99}}), "incomplete", "schema 99"),
    (cut_last_line, "incomplete", "history.csv has not every evaluation once"),
    (runs({"overrides": SYNTHETIC, "folder": R20, "change": {"identity": PAPER}}), "stale", "identity differ"),
    (runs({}, {"folder": "x", "change": {"seed": 0}}, {"folder": f"{R20}@copy", "change": {"seed": 0}}), "reproduced",
     "cifar_resnet20@copy/seed2: duplicate: the same run or seed as cifar_resnet20/seed0"),
    (copy_under_another_seed, "reproduced", "cifar_resnet20/seed1: duplicate"),
    (runs({"change": {"experiment": "another"}}), "stale", "another experiment or version"),
])
def test_whether_a_run_counts_beside_these(results: Path, reference: Path, write, status: str, note: str):
    write(results)
    table = tables.build("table6", pools(results, reference))
    assert statuses(table)["resnet-20"] == status
    assert any(note in one for one in table.notes), table.notes
    assert ("table6: worse than published: resnet-20" in table.problems) == status.startswith("worse")


def test_a_short_table_names_the_precision_of_each_run_and_the_torn_ones(results: Path, reference: Path):
    write_run(results, "cifar_plain20", precision="fp32", overrides=SHORT)
    write_run(results, "cifar_resnet20", precision="bf16", overrides=SHORT)
    (write_run(results, "cifar_plain56", precision="bf16", overrides=SHORT) / "run.json").write_text("{")
    table = tables.build("short_cifar_plain_vs_res", pools(results, reference))
    assert [row.status for row in table.rows if row.cells["origin"] == "yours"] == [
        "short run", "incomplete", "short run", "not run"]
    for text in ("fp32: cifar_plain20@", "bf16: cifar_resnet20@", "unreadable run.json"):
        assert any(text in note for note in table.notes)


def test_every_name_builds_and_an_unknown_one_is_named(results: Path, reference: Path):
    assert tables.names() == [*(f"table{n}" for n in range(1, 9)), "plain_nets", "short_cifar_plain_vs_res",
                              "synthetic_demo", "claims"]
    for name in tables.names():
        table = tables.build(name, pools(results, reference))
        assert table.name == name
        assert ("Synthetic images" in table.title) == (name == "synthetic_demo")
    with pytest.raises(ConfigError, match="did you mean table6"):
        tables.build("tabel6", pools(results, reference))


def test_the_committed_tables_are_what_the_committed_runs_give_and_a_change_is_found(tmp_path: Path):
    assert tables.changed_files(tables.committed_names(), paths.reference_dir()) == []
    shutil.copytree(paths.reference_dir(), tmp_path / "reference")
    path = tmp_path / "reference" / "tables" / "table6.csv"
    path.write_text(path.read_text().replace("8.75", "8.57", 1))
    (tmp_path / "reference" / "tables" / "table1.tex").unlink()
    assert tables.changed_files(["table1", "table6"], tmp_path / "reference") == ["table1.tex", "table6.csv"]


def test_the_files_agree_with_each_other_and_no_text_breaks_a_row(made: list[RunSet], results: Path, reference: Path,
                                                                  tmp_path: Path):
    written = write(tables.build("table6", made), tmp_path / "out")
    assert [path.name for path in written] == ["table6.md", "table6.csv", "table6.json", "table6.tex"]
    rows, content = list(csv.DictReader(written[1].read_text().splitlines())), json.loads(written[2].read_text())
    assert [entry["yours"] for entry in rows] == [entry["cells"]["yours"] for entry in content["rows"]]
    judged = next(entry for entry in content["rows"] if entry["key"] == "resnet-20")
    assert (judged["status"], judged["data"]["difference"], judged["data"]["judged"]) == ("reproduced", -0.05, "yours")
    assert "7.90" not in written[1].read_text(), "the best iteration on the test set is an extra"

    write_run(results, "cifar_plain20", overrides=SHORT, device='a | b\nc, "d" & 50 % {x} ~ ^ # $ _')
    for table in (tables.build(name, pools(results, reference)) for name in tables.names()):
        lines = [line for line in table.forms["md"].splitlines() if line.startswith("|")]
        assert {line.count("|") - line.count("\\|") for line in lines} == {len(table.columns) + 1}
        assert len(lines) == len(table.rows) + 2
        assert {len(line) for line in csv.reader(table.forms["csv"].splitlines())} == {len(table.columns)}
        body = table.forms["tex"].partition("\\midrule\n")[2].partition("\\bottomrule")[0].splitlines()
        assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {len(table.columns) - 1}


@pytest.mark.parametrize(("count", "text"), [
    (3_750_000_000, "agrees"), (3_849_999_999, "agrees"), (3_850_000_000, "agrees if cut, not rounded"),
    (3_900_000_000, "differs"), (3_749_999_999, "differs")])
def test_a_count_agrees_in_the_digits_that_are_printed(count, text):
    assert tables.count_verdict(count, 3.8e9, Column("multiply_adds", "", 1, 1e9)) == text


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
