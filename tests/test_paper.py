"""experiments/: checksums, every published number, the mapping of rows to experiments, and errors by name."""

import hashlib
import shutil
from pathlib import Path

import pytest

from repro import paper
from repro.config import experiments, paper_config
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


def edited(folder: Path) -> list[str]:
    """Names of files that are not what SHA256SUMS says, files that are missing or new among them."""
    lines = dict(reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines())
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.yaml")}
    return sorted(name for name in lines | found if lines.get(name) != found.get(name))


@pytest.mark.fault(42)
def test_published_files_are_unchanged_and_an_edited_one_is_found(tmp_path: Path):
    assert edited(PUBLISHED) == [], "a published file was edited: check it against the paper, then renew SHA256SUMS"
    shutil.copytree(PUBLISHED, tmp_path / "published")
    table = tmp_path / "published" / "table6.yaml"
    table.write_text(table.read_text().replace("8.75", "8.57", 1))
    (tmp_path / "published" / "figure4.yaml").unlink()
    assert edited(tmp_path / "published") == ["figure4.yaml", "table6.yaml"]


def test_the_tables_hold_what_the_paper_prints():
    assert [name for name in paper.names_in("published") if "table" in name] == list(PRINTED)
    for name, printed in PRINTED.items():
        table = paper.published_table(name)
        found = {row.key: [row.values.get(column.key) for column in table.columns] for row in table.rows}
        assert list(found.items()) == list(printed.items())
        assert len(table.rows) == len(printed)
        assert table.page == PAGES[name]


def test_table6_details():
    table = paper.published_table("table6")
    rows = {row.key: row for row in table.rows}
    best = rows["resnet-110"]
    assert (best.mean, best.std, best.runs) == (6.61, 0.16, 5)
    assert best.compared("test_top1_error") == 6.61
    assert rows["resnet-20"].compared("test_top1_error") == 8.75
    assert {row.key for row in table.rows if row.published_only} == {
        "maxout", "nin", "dsn", "fitnet", "highway-19", "highway-32"}
    for row in table.rows:
        if not row.published_only:  # the golden counts round to the printed parameters
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


def test_every_experiment_reproduces_a_row_of_its_own_network():
    rows = paper.reproduced_rows()
    assert set(rows.values()) == set(experiments())
    assert sorted(rows) == sorted(row for name in experiments() for row in paper_config(name).reproduces), "once each"
    for row, name in rows.items():
        if name.startswith("cifar"):
            assert f"cifar_{row.partition('/')[2].replace('-', '')}" == name
    for table in ("table2", "table3", "table4"):
        for row in paper.published_table(table).rows:
            name = rows.get(f"{table}/{row.key}")
            assert (name is None) == row.published_only
            if name is not None:
                model = paper_config(name).model
                assert (model.depth, model.family.name) == (row.layers, row.key.partition("-")[0].replace(
                    "resnet", "residual"))
                assert row.shortcut_option in (None, model.shortcut_option.name)


def test_figures_claims_suites_and_ensembles_name_what_exists():
    known = set(experiments())
    for name in (name for name in paper.names_in("published") if "figure" in name):
        figure = paper.published_figure(name)
        for panel in figure.panels:
            assert set(panel.errors) <= set(figure.styles)
            assert {curve.experiment for curve in panel.curves} <= {None, *known}
    for test in (test for claim in paper.claims() for test in claim.tests):
        least, most = {"close": (2, 2), "below": (1, 1)}.get(test.relation, (2, 99))
        assert set(test.experiments) <= known
        assert least <= len(test.experiments) <= most
    for name in paper.suites():
        suite = paper.suite(name)
        assert suite.name == name
        assert set(suite.experiments) <= known
        assert set(suite.seeds) <= set(suite.experiments)
        assert set(suite.claims) <= {claim.id for claim in paper.claims()}
        assert set(suite.ensembles) <= set(paper.ensembles())
        assert {select.TABLES[table] for table in suite.tables if table in select.TABLES} == set(suite.protocols)
        for preset in (suite.preset(one) for one in suite.presets):
            assert set(preset.experiments) <= set(suite.experiments)
            assert {*suite.tables, *preset.tables} <= set(tables.names())
            assert {*suite.figures, *preset.figures} <= set(figures.names())
    ensemble, deeper = paper.ensemble("table5"), paper.suite("imagenet_deeper")
    assert len(set(ensemble.members)) == len(ensemble.members)
    assert all(member.seed < deeper.seeds_of(member.experiment) or member.experiment not in deeper.experiments
               for member in ensemble.members)
    assert ensemble.reproduces in {f"table5/{row.key}" for row in paper.published_table("table5").rows}


@pytest.mark.fault(6)
@pytest.mark.parametrize(("call", "name", "near"), [
    (paper.suite, "cifar_plain_vs_rse", "cifar_plain_vs_res"), (paper.published_table, "table9", "table8"),
    (paper.published_figure, "figure11", "figure1"),
    (paper.suite("cifar_plain_vs_res").preset, "shrot", "did you mean short")])
def test_unknown_names_suggest_the_nearest(call, name: str, near: str):
    with pytest.raises(ConfigError, match=f"{name}.*(did you mean|there are)?(.|\n)*{near}"):
        call(name)


SUITE, TABLE, ENSEMBLE = "suites/cifar_plain_vs_res", "published/table6", "ensembles/table5"


@pytest.mark.parametrize(("file", "old", "new", "message"), [
    (SUITE, "question: ", "# ", "missing required field `question`"),
    (SUITE, "    overrides:", "    overides:", r"unknown field `overides` - at `\$.presets"),
    (SUITE, "tables: [table6", "seeds: {cifar_plain20: 0}\ntables: [table6", r"`int` >= 1 - at `\$.seeds"),
    (SUITE, "paper: {}", "paper: {", "line"),
    (TABLE, "8.75", "'8.75'", r"Expected `float`, got `str` - at `\$.rows"),
    (ENSEMBLE, "protocol: multi_scale", "protocol: multi-scale", "Invalid enum value 'multi-scale'"),
])
def test_a_wrong_file_fails_with_its_name_and_key(tmp_path, monkeypatch, file: str, old: str, new: str, message: str):
    shutil.copytree(experiments_dir(), tmp_path / "experiments")
    monkeypatch.setattr(paper, "experiments_dir", lambda: tmp_path / "experiments")
    path = tmp_path / "experiments" / f"{file}.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    read = {SUITE: paper.suite, TABLE: paper.published_table, ENSEMBLE: paper.ensemble}[file]
    with pytest.raises(ConfigError, match=rf"(?s){path.name}.*{message}"):
        read(path.stem)
