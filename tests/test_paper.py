"""experiments/: checksums, every published number, the mapping of rows to experiments, and errors by name."""

import hashlib
import shutil

import pytest

from repro import paper
from repro.config import compose, experiments, paper_config
from repro.errors import ConfigError
from repro.paths import experiments_dir
from repro.reporting import figures, select, tables

PUBLISHED = experiments_dir() / "published"
# Copied once more from the paper, so that a slip in the data files shows: {table: {row: values in column order}}.
PRINTED = {
    "table1": {"resnet-18": [1.8e9], "resnet-34": [3.6e9], "resnet-50": [3.8e9], "resnet-101": [7.6e9],
               "resnet-152": [11.3e9], "plain-34": [3.6e9], "vgg-16": [15.3e9], "vgg-19": [19.6e9]},
    "table2": {"plain-18": [27.94], "plain-34": [28.54], "resnet-18": [27.88], "resnet-34": [25.03]},
    "table3": {"vgg-16": [28.07, 9.33], "googlenet": [None, 9.15], "prelu-net": [24.27, 7.38],
               "plain-34": [28.54, 10.02], "resnet-34-a": [25.03, 7.76], "resnet-34-b": [24.52, 7.46],
               "resnet-34-c": [24.19, 7.40], "resnet-50": [22.85, 6.71], "resnet-101": [21.75, 6.05],
               "resnet-152": [21.43, 5.71]},
    "table4": {"vgg-ilsvrc14": [None, 8.43], "googlenet-ilsvrc14": [None, 7.89], "vgg-v5": [24.4, 7.1],
               "prelu-net": [21.59, 5.71], "bn-inception": [21.99, 5.81], "resnet-34-b": [21.84, 5.71],
               "resnet-34-c": [21.53, 5.60], "resnet-50": [20.74, 5.25], "resnet-101": [19.87, 4.60],
               "resnet-152": [19.38, 4.49]},
    "table5": {"vgg-ilsvrc14": [7.32], "googlenet-ilsvrc14": [6.66], "vgg-v5": [6.8], "prelu-net": [4.94],
               "bn-inception": [4.82], "resnet-ilsvrc15": [3.57]},
    "table6": {"maxout": [9.38], "nin": [8.81], "dsn": [8.22], "fitnet": [8.39], "highway-19": [7.54],
               "highway-32": [8.80], "resnet-20": [8.75], "resnet-32": [7.51], "resnet-44": [7.17], "resnet-56": [6.97],
               "resnet-110": [6.43], "resnet-1202": [7.93]},
    "table7": {"vgg-16": [73.2, 70.4], "resnet-101": [76.4, 73.8]},
    "table8": {"vgg-16": [41.5, 21.2], "resnet-101": [48.4, 27.2]},
}
PAGES = {"table1": 5, "table2": 5, "table3": 6, "table4": 6, "table5": 6, "table6": 7, "table7": 8, "table8": 8}


@pytest.mark.fault(42)
def test_published_files_are_unchanged():
    lines = dict(reversed(line.split()) for line in (PUBLISHED / "SHA256SUMS").read_text().splitlines())
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in PUBLISHED.glob("*.yaml")}
    assert found == lines, "a published file was edited: check it against the paper, then renew SHA256SUMS"


def test_the_tables_hold_what_the_paper_prints():
    assert [name for name in paper.names_in("published") if "table" in name] == list(PRINTED)
    for name, printed in PRINTED.items():
        table = paper.published_table(name)
        found = {row.key: [row.values.get(column.key) for column in table.columns] for row in table.rows}
        assert list(found.items()) == list(printed.items())
        assert table.page == PAGES[name]


def test_table6_details():
    rows = {row.key: row for row in paper.published_table("table6").rows}
    best = rows["resnet-110"]
    assert (best.mean, best.std, best.runs) == (6.61, 0.16, 5)
    assert [rows[key].compared("test_top1_error") for key in ("resnet-110", "resnet-20")] == [6.61, 8.75]
    for row in (row for row in rows.values() if not row.published_only):  # the counts round to the printed parameters
        decimals = len(str(row.parameters).rstrip("M").partition(".")[2])
        counted = paper.golden_counts("cifar10")[row.layers].parameters["A"] / 1e6
        assert f"{counted:.{decimals}f}M" == row.parameters


@pytest.mark.fault(79)
def test_the_usual_range_is_that_of_last_epochs_of_the_same_network():
    found = paper.second_references()
    theirs = [source for source in found["sources"] if source["key"] not in ("apark263", "akamaster")]
    assert all(source.get("same_network", True) and not source.get("best_on_test") for source in theirs)
    for net, usual in found["usual"].items():
        errors = [source["errors"][net]["test"] for source in theirs if net in source["errors"]]
        assert set(usual) == {round(min(errors) + 1e-9, 1), round(max(errors) + 1e-9, 1)}, net


def test_every_row_but_context_has_an_experiment_of_its_network():
    rows = paper.reproduced_rows()
    assert set(rows.values()) == set(experiments())
    assert sorted(rows) == sorted(row for name in experiments() for row in paper_config(name).reproduces), "once each"
    for table in ("table2", "table3", "table4", "table6"):
        for row in paper.published_table(table).rows:
            name = rows.get(f"{table}/{row.key}")
            assert (name is None) == row.published_only
            assert name is None or paper_config(name).model.depth == row.layers


def test_figures_claims_suites_and_ensembles_name_what_exists():
    known = set(experiments())
    for panel in (panel for name in paper.names_in("published") if "figure" in name
                  for panel in paper.published_figure(name).panels):
        assert {curve.experiment for curve in panel.curves} <= {None, *known}
    for test in (test for claim in paper.claims() for test in claim.tests):
        least, most = {"close": (2, 2), "below": (1, 1)}.get(test.relation, (2, 99))
        assert set(test.experiments) <= known
        assert least <= len(test.experiments) <= most
    for suite in map(paper.suite, paper.suites()):
        assert set(suite.seeds) <= set(suite.experiments) <= known
        assert set(suite.claims) <= {claim.id for claim in paper.claims()}
        assert set(suite.ensembles) <= set(paper.ensembles())
        assert {select.TABLES[table] for table in suite.tables if table in select.TABLES} == set(suite.protocols)
        for preset in (suite, *(suite.preset(one) for one in suite.presets)):
            assert set(preset.experiments) <= set(suite.experiments)
            assert set(preset.tables) <= set(tables.names())
            assert set(preset.figures) <= set(figures.names())
    ensemble, deeper = paper.ensemble("table5"), paper.suite("imagenet_deeper")
    assert len(set(ensemble.members)) == len(ensemble.members) == 6
    assert all(member.seed < deeper.seeds.get(member.experiment, 1) for member in ensemble.members)


def test_counts_are_those_of_the_golden_counts_and_none_for_another_network():
    assert paper.counts(paper_config("cifar_plain20")) == {"parameters": 269722, "multiply_adds": 40.55e6}
    assert paper.counts(paper_config("imagenet_resnet50"))["parameters"] == 25557032
    words = ["experiment=cifar_resnet20"]
    option_b, deeper = compose([*words, "model.shortcut_option=B"]), compose([*words, "model.depth=26"])
    assert paper.counts(option_b) == {"parameters": 272474, "multiply_adds": None}
    assert paper.counts(deeper) == {"parameters": None, "multiply_adds": None}


@pytest.mark.fault(6)
@pytest.mark.parametrize(("call", "name", "near"), [
    (paper.suite, "cifar_plain_vs_rse", "cifar_plain_vs_res"), (paper.published_table, "table9", "table"),
    (paper.suite("cifar_plain_vs_res").preset, "shrot", "short")])
def test_unknown_names_suggest_the_nearest(call, name, near):
    with pytest.raises(ConfigError, match=f"{name}'; did you mean {near}"):
        call(name)


@pytest.mark.parametrize(("read", "file", "old", "new", "message"), [
    (paper.suite, "suites/cifar_plain_vs_res", "    overrides:", "    overides:", "unknown field `overides`"),
    (paper.suite, "suites/cifar_plain_vs_res", "paper: {}", "paper: {", "line"),
    (paper.published_table, "published/table6", "8.75", "'8.75'", r"Expected `float`, got `str` - at `\$.rows")])
def test_a_wrong_file_fails_with_its_name_and_key(tmp_path, monkeypatch, read, file, old, new, message):
    shutil.copytree(experiments_dir(), tmp_path / "experiments")
    monkeypatch.setattr(paper, "experiments_dir", lambda: tmp_path / "experiments")
    path = tmp_path / "experiments" / f"{file}.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match=rf"(?s){path.name}.*{message}"):
        read(path.stem)
