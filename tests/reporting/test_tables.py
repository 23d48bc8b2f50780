"""Tables from made-up records: what counts, what does not and why, and how it is written."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repro.config import paper_hashes
from repro.errors import ConfigError
from repro.reporting import tables
from repro.reporting.select import RunSet, pools
from repro.reporting.table import write
from tests.reporting.conftest import SHORT, SYNTHETIC, statuses, write_run
from tests.reporting.made import write_runs

R20, R110 = "cifar_resnet20", "cifar_resnet110"
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
    """Written anew by `tables.build(NAME, made).markdown()` after a look at what changed."""
    assert tables.build(name, made).markdown() == (GOLDEN / f"{name}.md").read_text()


def replace(path: Path, old: str, new: str) -> None:
    """Edit a file of a run."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def cut_short(root: Path) -> None:
    """A record that states a shorter run than its configuration."""
    folder = write_run(root, R20)
    lines = (folder / "history.csv").read_text().splitlines(keepends=True)
    (folder / "history.csv").write_text("".join(lines[:2]))
    content = json.loads((folder / "run.json").read_text())
    names, values = lines[0].strip().split(","), lines[1].strip().split(",")
    content |= {"iterations": 390, "iteration": 390, "result": dict(zip(names, map(float, values), strict=True))}
    (folder / "run.json").write_text(json.dumps(content))


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


def torn(file: str) -> Callable[[Path], None]:
    """A run one of whose files is cut."""
    def write(root: Path) -> None:
        path = write_run(root, R20) / file
        path.write_text(path.read_text()[:-3])
    return write


IMPOSSIBLE = {"iteration": 64000, "train_top1_error": 1.0, "test_top1_error": -3.0}
PAPER = sorted(paper_hashes(R20))[0]


@pytest.mark.fault(40, 41)
@pytest.mark.parametrize(("write", "status", "note"), [
    (lambda root: None, "not run", ""),
    (runs({}), "reproduced", "yours: made-up device, fp32, trained on all 50,000"),
    (runs({"test": 8.1}), "better than published", ""),
    (runs({"test": 9.4}), "worse than published", ""),
    (runs({"precision": "fp32"}, {"precision": "tf32", "test": 8.6}), "reproduced", "yours: made-up device, tf32"),
    *((runs({"status": status}), "incomplete", f"incomplete: {status} at iteration 31980 of 64000")
      for status in ("running", "interrupted", "diverged")),
    (torn("run.json"), "incomplete", "unreadable run.json"),
    (torn("history.csv"), "incomplete", "history.csv does not reach the last iteration"),
    (cut_short, "incomplete", "history.csv does not reach the last iteration"),
    (lambda root: replace(write_run(root, R20) / "run.json", '"test_top1_error": 8.0', '"test_top1_error": 7.0'),
     "incomplete", "history.csv and the recorded result differ"),
    (runs({"change": {"result": IMPOSSIBLE}}), "incomplete", "history.csv and the recorded result differ"),
    (runs({"change": {"evaluated_on": "val"}}), "not run", "it was evaluated on val"),
    (runs({"overrides": ("train.weight_decay=0.0005",), "folder": R20}), "stale", "decay: 0.0001 -> 0.0005"),
    (runs({"overrides": ("train.lr=0.2",), "folder": R20, "change": {"identity": PAPER}}), "stale",
     "its recorded configuration and identity differ"),
    (runs({"overrides": SYNTHETIC, "folder": R20, "change": {"identity": PAPER}}), "stale", "identity differ"),
    (runs({"overrides": SYNTHETIC, "folder": R20, "change": {"identity": "0" * 12}}), "not run",
     "synthetic images say nothing about CIFAR-10"),
    (runs({"overrides": SHORT}), "not run", "other configuration: evaluation.interval: 390 -> 6400, scale: 1.0"),
    (runs({"precision": "bf16"}), "not run", "other configuration: machine.precision: bf16"),
    (runs({"overrides": ("data.split=45k",)}), "not run", "data.split: full -> 45k"),
    (runs({"overrides": ("train.lr=0.05",), "precision": "tf32"}), "not run", "train.lr: 0.1 -> 0.05"),
    (runs({}, {"folder": "x", "change": {"seed": 0}}, {"folder": f"{R20}@copy", "change": {"seed": 0}}), "reproduced",
     "cifar_resnet20@copy/seed2: duplicate: the same run or seed as cifar_resnet20/seed0"),
    (runs({"change": {"seed": 1}, "test": 9.5}, {}), "reproduced", "cifar_resnet20/seed0: duplicate"),
    (copy_under_another_seed, "reproduced", "cifar_resnet20/seed1: duplicate"),
    (runs({"folder": R110}), "not run", "cifar_resnet110/seed0: other configuration: its record is of"),
    (runs({"change": {"experiment": "another"}}), "not run", "its record is of experiment another"),
])
def test_a_run_counts_or_says_why_not(results: Path, reference: Path, write, status: str, note: str):
    write(results)
    table = tables.build("table6", pools(results, reference))
    assert statuses(table)["resnet-20"] == status
    assert any(note in one for one in table.notes), table.notes
    assert table.worse == (["resnet-20"] if status.startswith("worse") else [])


def test_five_seeds_as_the_paper_has_them(results: Path, reference: Path):
    for seed, error in enumerate((6.4, 6.6, 6.8, 6.5, 6.7)):
        write_run(results, R110, seed, test=error)
    found = next(row for row in tables.build("table6", pools(results, reference)).rows if row.key == "resnet-110")
    assert (found.status, found.cells["yours"]) == ("reproduced", "6.40 (6.60 +- 0.16), 5 seeds")
    assert (found.cells["published"], found.cells["difference"]) == ("6.43 (6.61 +- 0.16)", "-0.01 (yours)")


@pytest.mark.parametrize(("fp32", "bf16", "chosen"), [(1, 1, "bf16"), (2, 1, "fp32"), (0, 1, "bf16")])
def test_short_table_shows_one_precision(results: Path, reference: Path, fp32: int, bf16: int, chosen: str):
    for precision, count in (("fp32", fp32), ("bf16", bf16)):
        for name in ["cifar_plain20", "cifar_plain56"][:count]:
            write_run(results, name, precision=precision, overrides=SHORT)
    table = tables.build("short_cifar_plain_vs_res", pools(results, reference))
    assert {row.cells["precision"] for row in table.rows if row.status == "short run"} == {chosen}
    assert f"yours: runs in {chosen} (all of one origin are in one precision)" in table.notes
    assert any("other precision" in note for note in table.notes) == (fp32 > 0)


def test_every_name_builds_and_an_unknown_one_is_named(results: Path, reference: Path):
    assert tables.names() == [*(f"table{n}" for n in range(1, 9)), "plain_nets", "short_cifar_plain_vs_res",
                              "synthetic_demo", "claims"]
    found = pools(results, reference)
    for name in tables.names():
        table = tables.build(name, found)
        assert table.name == name
        assert ("Synthetic images" in table.title) == (name == "synthetic_demo")
    with pytest.raises(ConfigError, match="did you mean table6"):
        tables.build("tabel6", found)


def test_files_agree_with_each_other_and_are_the_same_twice(made: list[RunSet], tmp_path: Path):
    table = tables.build("table6", made)
    written = write(table, tmp_path / "out")
    assert [path.name for path in written] == ["table6.md", "table6.csv", "table6.json", "table6.tex"]
    texts = [path.read_text() for path in written]
    assert all(text.endswith("\n") for text in texts)
    assert texts == list(tables.build("table6", made).forms.values())
    rows = list(csv.DictReader(texts[1].splitlines()))
    content = json.loads(texts[2])
    assert [entry["yours"] for entry in rows] == [entry["cells"]["yours"] for entry in content["rows"]]
    judged = next(entry for entry in content["rows"] if entry["key"] == "resnet-20")
    assert (judged["status"], judged["data"]["difference"], judged["data"]["judged"]) == ("reproduced", -0.05, "yours")
    assert "7.90" not in texts[1], "the best iteration on the test set is an extra"


def test_no_text_breaks_a_row(results: Path, reference: Path):
    write_run(results, "cifar_plain20", overrides=SHORT, device="a | b\nc, \"d\"")
    table = tables.build("short_cifar_plain_vs_res", pools(results, reference))
    lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
    assert {line.count("|") - line.count("\\|") for line in lines} == {len(table.columns) + 1}
    assert len(lines) == len(table.rows) + 2
    rows = list(csv.reader(table.csv().splitlines()))
    assert {len(line) for line in rows} == {len(table.columns)}
    assert 'a | b\\nc, "d"' in [cell for line in rows for cell in line]
