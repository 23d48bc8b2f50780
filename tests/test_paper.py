"""experiments/: checksums, every published number, the mapping of rows to experiments, and errors by name."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro import paper
from repro.config import experiments, paper_config
from repro.errors import ConfigError
from repro.paths import experiments_dir

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


@pytest.fixture
def experiments_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A writable copy of experiments/ that repro.paper reads."""
    for source in experiments_dir().rglob("*.yaml"):
        target = tmp_path / source.relative_to(experiments_dir())
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    monkeypatch.setattr(paper, "experiments_dir", lambda: tmp_path)
    cached = [function for function in vars(paper).values() if hasattr(function, "cache_clear")]
    for function in cached:
        function.cache_clear()
    yield tmp_path
    for function in cached:
        function.cache_clear()


def edit(path: Path, old: str, new: str) -> None:
    """Replace the first occurrence of a text that must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.fault(42)
def test_published_files_are_unchanged():
    assert edited(PUBLISHED) == [], "a published file was edited: check it against the paper, then renew SHA256SUMS"


@pytest.mark.fault(42)
@pytest.mark.parametrize(("name", "old", "new"), [
    ("table6.yaml", "8.75", "8.57"), ("table6.yaml", "\n", "\n\n"), ("figure4.yaml", "error", "errors")])
def test_an_edited_published_file_is_found(tmp_path: Path, name: str, old: str, new: str):
    shutil.copytree(PUBLISHED, tmp_path / "published")
    edit(tmp_path / "published" / name, old, new)
    assert edited(tmp_path / "published") == [name]
    (tmp_path / "published" / name).unlink()
    assert edited(tmp_path / "published") == [name], "or one that is gone"


def edited(folder: Path) -> list[str]:
    """Names of files that are not what SHA256SUMS says, files that are missing or new among them."""
    lines = dict(reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines())
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.yaml")}
    return sorted(name for name in lines | found if lines.get(name) != found.get(name))


def test_the_tables_hold_what_the_paper_prints():
    assert [name for name in paper.names_in("published") if "table" in name] == list(PRINTED)
    for name, printed in PRINTED.items():
        table = paper.published_table(name)
        found = {row.key: [row.values.get(column.key) for column in table.columns] for row in table.rows}
        assert list(found.items()) == list(printed.items())
        assert len(table.rows) == len(printed)
        assert all(row.values.keys() <= {column.key for column in table.columns} for row in table.rows)
        assert table.page == PAGES[name]


def test_table6_details():
    table = paper.published_table("table6")
    best = table.row("resnet-110")
    assert (best.mean, best.std, best.runs) == (6.61, 0.16, 5)
    assert best.compared("test_top1_error") == 6.61
    assert table.row("resnet-20").compared("test_top1_error") == 8.75
    assert {row.key for row in table.rows if row.published_only} == {
        "maxout", "nin", "dsn", "fitnet", "highway-19", "highway-32"}


@pytest.mark.fault(79)
def test_the_usual_range_is_that_of_last_epochs_of_the_same_network():
    found = paper.second_references()
    theirs = [source for source in found.sources if source.same_network and not source.best_on_test]
    assert [source.key for source in found.sources if not source.same_network] == ["apark263"]
    for net, usual in found.usual.items():
        errors = [source.errors[net].test for source in theirs if net in source.errors]
        assert set(usual) == {round(min(errors) + 1e-9, 1), round(max(errors) + 1e-9, 1)}, net


def test_second_references():
    found = paper.second_references()
    assert [source.key for source in found.sources if source.best_on_test] == ["akamaster"]


def test_golden_counts_round_to_the_printed_parameters():
    for row in paper.published_table("table6").rows:
        if not row.published_only:
            assert row.layers is not None
            assert row.parameters is not None
            decimals = len(row.parameters.rstrip("M").partition(".")[2])
            counted = paper.golden_count("cifar10", row.layers).parameters["A"] / 1e6
            assert f"{counted:.{decimals}f}M" == row.parameters


def test_every_experiment_reproduces_one_row_of_its_own_network():
    rows = paper.reproduced_rows()
    assert set(rows.values()) == {name for name in experiments() if "vgg" not in name}
    for row, name in rows.items():
        if name.startswith("cifar"):
            assert f"cifar_{row.partition('/')[2].replace('-', '')}" == name


def test_every_row_of_imagenet_that_is_trained_is_answered_by_the_network_that_it_names():
    rows = paper.reproduced_rows()
    for table in ("table2", "table3", "table4"):
        for row in paper.published_table(table).rows:
            name = rows.get(f"{table}/{row.key}")
            assert (name is None) == row.published_only
            if name is not None:
                model = paper_config(name).model
                assert (model.depth, model.family.name) == (row.layers, row.key.partition("-")[0].replace(
                    "resnet", "residual"))
                assert row.shortcut_option in (None, model.shortcut_option.name)


def test_figures_name_existing_experiments_and_styles():
    for name in (name for name in paper.names_in("published") if "figure" in name):
        figure = paper.published_figure(name)
        for panel in figure.panels:
            assert set(panel.errors) <= set(figure.styles)
            assert {curve.experiment for curve in panel.curves} <= {None, *experiments()}


def test_claims_name_existing_experiments_and_can_be_tested():
    for test in (test for claim in paper.claims() for test in claim.tests):
        assert set(test.experiments) <= set(experiments())
        least, most = {"close": (2, 2), "below": (1, 1)}.get(test.relation, (2, 99))
        assert least <= len(test.experiments) <= most


def test_the_suites_of_imagenet_train_and_test_what_their_tables_show():
    protocol = {"table2": "ten_crop", "table3": "ten_crop", "table4": "multi_scale"}
    rows = paper.reproduced_rows()
    trained = set()
    for name in ("imagenet_plain_vs_res", "imagenet_options", "imagenet_deeper"):
        suite = paper.suite(name)
        trained |= set(suite.experiments)
        shown = {row.partition("/")[0] for row, experiment in rows.items() if experiment in suite.experiments}
        assert {protocol[table] for table in suite.tables if table in protocol} == set(suite.protocols)
        assert set(suite.tables) & set(protocol) <= shown
    assert trained == {name for name in experiments() if name.startswith("imagenet") and "vgg" not in name}
    members = paper.ensemble("table5").members
    deeper = paper.suite("imagenet_deeper")
    assert all(member.seed < deeper.seeds_of(member.experiment) for member in members)


def test_presets_of_plain_vs_res():
    suite = paper.suite("cifar_plain_vs_res")
    assert suite.experiments == tuple(f"cifar_{kind}{n}" for kind in ("plain", "resnet") for n in (20, 32, 44, 56))
    assert {suite.seeds_of(name) for name in suite.experiments} == {1}
    full, short = suite.preset("paper"), suite.preset("short")
    assert (full.experiments, full.overrides, full.tables) == (suite.experiments, (), suite.tables)
    assert short.experiments == ("cifar_plain20", "cifar_plain56", "cifar_resnet20", "cifar_resnet56")
    assert short.overrides == ("scale=0.0046875", "evaluation.interval=6400")
    assert all(name.startswith("short_") for name in (*(short.tables or ()), *(short.figures or ())))
    with pytest.raises(ConfigError, match="did you mean short"):
        suite.preset("shrot")


@pytest.mark.fault(6)
@pytest.mark.parametrize(("call", "name", "near"), [
    (paper.suite, "cifar_plain_vs_rse", "cifar_plain_vs_res"), (paper.published_table, "table9", "table8"),
    (paper.published_figure, "figure11", "figure1")])
def test_unknown_names_suggest_the_nearest(call, name: str, near: str):
    with pytest.raises(ConfigError, match=f"{name}.*(did you mean|there are)(.|\n)*{near}"):
        call(name)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("question:", "questoin:", "unknown field `questoin`"),
    ("question: ", "# ", "missing required field `question`"),
    ("  - cifar_plain20\n", "  - cifar_plain21\n", "experiments.*cifar_plain21.*did you mean cifar_plain"),
    ("    overrides:", "    overides:", r"unknown field `overides` - at `\$.presets"),
    ("tables: [table6, plain_nets]", "tables: table6", r"Expected `array`, got `str` - at `\$.tables`"),
    ("name: cifar_plain_vs_res", "name: other", "name is 'other'"),
    ("name: cifar_plain_vs_res", "name: cifar_plain_vs_res\nname: twice", "given twice"),
    ("claims: [", "claims: [cifar-degredation, ", "did you mean cifar-degradation"),
    ("tables: [table6", "seeds: {cifar_plain20: 0}\ntables: [table6", r"`int` >= 1 - at `\$.seeds"),
    ("tables: [table6", "seeds: {cifar_resnet110: 2}\ntables: [table6", "cifar_resnet110"),
    ("tables: [table6", "seeds: {cifar_plain20: two}\ntables: [table6", r"Expected `int`, got `str` - at `\$.seeds"),
    ("experiments: [cifar_plain20", "experiments: [cifar_resnet110", "presets.short.experiments"),
    ("paper: {}", "paper: {", "line"),
])
def test_a_wrong_suite_file_fails_with_its_name_and_key(experiments_copy: Path, old: str, new: str, message: str):
    path = experiments_copy / "suites" / "cifar_plain_vs_res.yaml"
    edit(path, old, new)
    with pytest.raises(ConfigError, match=rf"(?s){message}") as error:
        paper.suite("cifar_plain_vs_res")
    assert "cifar_plain_vs_res.yaml" in str(error.value)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("mean: 6.61", "maen: 6.61", r"unknown field `maen` - at `\$.rows\[10\]`"),
    ("8.75", "'8.75'", r"Expected `float`, got `str` - at `\$.rows"),
    ("page: 7\n", "", "missing required field `page`"),
])
def test_a_wrong_published_file_fails_with_its_key(experiments_copy: Path, old: str, new: str, message: str):
    edit(experiments_copy / "published" / "table6.yaml", old, new)
    with pytest.raises(ConfigError, match=message) as error:
        paper.published_table("table6")
    assert "table6.yaml" in str(error.value)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("protocol: multi_scale", "protocol: multi-scale", r"Invalid enum value 'multi-scale' - at `\$.protocol`"),
    ("imagenet_optC}", "imagenet_optD}", "members.*imagenet_optD.*did you mean imagenet_opt"),
    ("imagenet_resnet152, seed: 1", "imagenet_resnet152", "members: .*each of them once"),
    ("table5/resnet-ilsvrc15", "table5/resnet-ilsvrc16", "row in table5.*did you mean resnet-ilsvrc15"),
    ("seed: 1", "sede: 1", r"unknown field `sede` - at `\$.members\[5\]`"),
])
def test_a_wrong_ensemble_file_fails_with_its_key(experiments_copy: Path, old: str, new: str, message: str):
    edit(experiments_copy / "ensembles" / "table5.yaml", old, new)
    with pytest.raises(ConfigError, match=rf"(?s){message}"):
        paper.ensemble("table5")
