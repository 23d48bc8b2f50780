"""Sources read from configuration files, settings, differences, and what is known of a run's cost."""

import json
import re

import pytest
from msgspec import UNSET

from repro.config import ENVIRONMENT, compose, files_of, paper_config, paper_hashes
from repro.errors import ConfigError
from repro.reporting.select import pools
from repro.reporting.settings import (
    NAMES,
    compare,
    counts,
    differences,
    settings,
    sources,
    time_lines,
)
from repro.reporting.status import benchmarks, measured_times
from repro.runs import read_run
from tests.reporting.conftest import write_run


@pytest.mark.parametrize("name", ["cifar_resnet110", "imagenet_optB"])
def test_every_setting_of_an_experiment_has_a_source(name, monkeypatch):
    for variable in ENVIRONMENT:
        monkeypatch.delenv(variable, raising=False)
    found = settings(paper_config(name), [f"experiment={name}"])
    assert [one.key for one in found if not one.source.strip()] == []
    assert [one.key for one in found if not one.file.endswith(".yaml")] == []
    assert not {one.key for one in found} & set(NAMES)
    assert len(found) > 40


@pytest.mark.parametrize("words", [["recipe=akamaster"], ["recipe=fb"], ["recipe=torchvision"], ["data=synthetic"],
                                   ["machine=cpu"], ["machine=gpu"], ["model=plain"]])
def test_so_has_every_setting_of_every_other_file(words):
    overrides = ["experiment=cifar_resnet20", *words]
    files = files_of(overrides)
    group, _, name = words[0].partition("=")
    assert f"{group}/{name}.yaml" in [f"{path.parent.name}/{path.name}" for path in files]
    found = settings(compose(overrides), overrides)
    assert [one.key for one in found if not one.source.strip()] == []


def test_the_last_file_that_sets_a_key_wins():
    found = sources(files_of(["experiment=cifar_resnet110", "recipe=fb"]))
    assert found["train.warmup"].file.endswith("recipe/fb.yaml")
    assert found["model.blocks_per_stage"].file.endswith("experiment/cifar_resnet110.yaml")
    assert found["train.loss_scale"].file.endswith("dataset_recipe/cifar10.yaml")
    assert sources(files_of(["experiment=cifar_resnet110"]))["train.warmup"].text.startswith("Sec. 4.2: lr 0.01 until")


def test_comments_of_every_way_to_write_a_value(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("# @package train\nlr: 0.1  # one\nname: 'a # b'   # two\nnothing:\nlist: [1,\n  2]  # three\n"
                    "inner: {a: 1}  # four\nblock:  # five\n  - 1\nplain: 5\n")
    found = {key: source.text for key, source in sources([path]).items()}
    assert found == {"train.lr": "one", "train.name": "two", "train.nothing": "", "train.list": "three",
                     "train.inner.a": "four", "train.block": "five",
                     "train.plain": ""}
    path.write_text("a: [")
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        sources([path])


def test_an_override_shows_the_value_that_it_replaces():
    words = ["experiment=cifar_resnet20", "train.lr=0.2", "model.depth=32"]
    found = {one.key: one for one in settings(compose(words), words)}
    lr, blocks = found["train.lr"], found["model.blocks_per_stage"]
    assert (lr.value, lr.source, lr.paper, lr.paper_source) == (0.2, "override", 0.1, "Sec. 4.2")
    assert (blocks.value, blocks.source, blocks.paper, blocks.paper_source) == (5, "override", 3, "Sec. 4.2: n = 3")
    assert found["train.momentum"].paper is UNSET


def test_differences_name_the_papers_value_where_it_is_a_third_one():
    paper = paper_config("cifar_resnet20")
    here, theirs = (compose(["experiment=cifar_resnet20", *words]) for words in (
        ["train.iterations=1000", "train.lr=0.2", "machine.precision=fp32"], ["recipe=fb"]))
    found = {one.key: one for one in differences(here, theirs, paper, {"train.lr": "because"})}
    assert found["train.iterations"].paper == 64_000
    assert (found["train.lr"].paper, found["train.lr"].why) == (UNSET, "because")
    assert "machine.precision" not in found, "fp32 and auto are the paper's"
    assert differences(here, here, paper, {}) == []


def test_counts_are_those_of_the_golden_counts_and_none_for_another_network():
    plain = counts(paper_config("cifar_plain20"), 64000)
    assert plain == {"parameters": 269722, "multiply_adds": 40.55e6,
                     "forward_multiply_adds": pytest.approx(40.55e6 * 64000 * 128)}
    assert counts(compose(["experiment=cifar_resnet20", "model.shortcut_option=B"]), 10) == {"parameters": 272474}
    assert counts(compose(["experiment=cifar_resnet20", "model.depth=26"]), 10) == {}


def test_times_come_from_benchmarks_and_finished_runs_alone(tmp_path):
    assert measured_times("cifar_resnet20", {"x"}, pools(None, tmp_path)) == []
    assert benchmarks("cifar_resnet20", tmp_path) == []
    write_run(tmp_path, "cifar_resnet20", seed=1)
    write_run(tmp_path, "cifar_resnet20", seed=2, status="interrupted")
    own = paper_hashes("cifar_resnet20")
    run, = measured_times("cifar_resnet20", own, pools(None, tmp_path))
    assert (run["seconds"], run["device"], run["from"]) == (123.4, "made-up device", "cifar_resnet20/seed1")
    assert measured_times("cifar_resnet20", {"x"}, pools(None, tmp_path)) == []
    assert "2 min on made-up device, fp32 (finished run" in time_lines([run | {"text": "2 min"}], None)[0]
    (tmp_path / "bench").mkdir()
    entry = {"experiment": "cifar_resnet20", "run_seconds": 50.0, "iterations": 64000, "device": "a machine",
             "precision": "fp32"}
    (tmp_path / "bench" / "cost_a.json").write_text(json.dumps({"experiments": [entry]}))
    assert [one["seconds"] for one in benchmarks("cifar_resnet20", tmp_path)] == [50.0]
    assert benchmarks("cifar_resnet56", tmp_path) == []
    assert "not measured: repro cost demo" in time_lines([], "demo")[0]


def test_two_runs_side_by_side(direct, results, make_run):
    plain = make_run(results, "cifar_plain20", 0, test=9.6, train=1.0, device="one")
    residual = make_run(results, "cifar_resnet20", 1, test=8.1, train=0.5, device="two")
    found = json.loads(direct("show", "cifar_plain20/seed0", "--against", str(residual), "--json").out)
    assert {entry["key"]: entry["values"] for entry in found["settings"]} == {
        "model.family": ["plain", "residual"], "seed": [0, 1], "device": ["one", "two"]}
    assert found["errors"]["test_top1_error"] == [9.6, 8.1]
    assert found["first_difference"] == 390
    text = direct("show", str(plain), "--against", str(residual)).out
    assert "A: cifar_plain20/seed0\nB: cifar_resnet20/seed1\n" in text
    assert re.search(r"test_top1_error +9\.60 +8\.10 +-1\.50\n", text)
    assert "the histories differ from iteration 390 on" in text
    assert f"the histories agree in {found['common_evaluations']} common evaluations" in direct(
        "show", str(plain), "--against", str(plain)).out
    assert "no setting differs" in direct("show", str(plain), "--against", str(plain)).out


def test_unfinished_and_synthetic_runs_are_labeled(results, make_run):
    stopped = read_run(make_run(results, "cifar_plain20", 0, status="interrupted"))
    made = read_run(make_run(results, "cifar_plain20", 0, precision="fp32", overrides=(
        "data=synthetic", "scale=0.001875", "evaluation.interval=10240")))
    first, second = compare(stopped, made)["runs"]
    assert "interrupted at iteration" in first
    assert "synthetic images, scale 0.001875" in second
