"""`repro status`, `repro show` and `repro report`: what they say of runs; locks are looked at without touching them."""

import json
import os
import re

import pytest

from repro.config import ENVIRONMENT, compose, config_hash, files_of, paper_config, paper_hashes, with_precision
from repro.files import hold_lock
from repro.reporting import status
from repro.reporting.select import pools
from repro.schema import Precision
from tests.outcome import says
from tests.reporting.conftest import SHORT, SYNTHETIC, write_run

R20 = "experiment=cifar_resnet20"


def test_without_a_run_all_are_lacking_cheapest_first(results, reference):
    found = status.lacking(*pools(results, reference))
    runs = [one["run"] for one in found]
    assert runs[:4] == ["cifar_plain20/seed0", "cifar_resnet20/seed0", "cifar_plain32/seed0", "cifar_resnet32/seed0"]
    assert [run for run in runs if "resnet110" in run] == [f"cifar_resnet110/seed{k}" for k in range(5)]
    assert [run for run in runs if "resnet152" in run] == ["imagenet_resnet152/seed0", "imagenet_resnet152/seed1"]
    datasets = [one["dataset"] for one in found]
    assert datasets == sorted(datasets), "ImageNet's are last"
    assert {(one["state"], one["seconds_left"]) for one in found} == {(status.OPEN, None)}


def test_what_counts_in_the_reference_is_not_lacking(results, reference):
    write_run(reference, "cifar_resnet20", precision="tf32")
    write_run(reference, "cifar_resnet110", 3)
    write_run(reference, "cifar_plain20", precision="bf16")
    write_run(reference, "cifar_plain20", overrides=("scale=0.5",))
    write_run(reference, "cifar_resnet32", status="interrupted")
    found = {one["run"]: one for one in status.lacking(*pools(results, reference))}
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
        found = {one["run"]: one for one in status.lacking(*pools(results, reference))}
    assert [found[f"cifar_{name}/seed0"]["state"] for name in ("plain20", "resnet20", "plain32", "resnet32", "plain44")
            ] == [status.FINISHED, status.DIVERGED, status.IN_USE, status.OPEN, status.OPEN]
    assert 0 < found["cifar_resnet32/seed0"]["iteration"] < 64000


def test_a_running_run_is_seen_and_left_alone(results, reference):
    folder = write_run(results, "cifar_resnet20", status="running")
    with hold_lock(folder):
        lock = (folder / "run.lock").read_bytes()
        found = status.status(*pools(results, reference))
        assert (found["interrupted"], (folder / "run.lock").read_bytes()) == ([], lock)
        assert f"pid {os.getpid()} " in found["running"][0]["state"]
    (folder / "run.lock").write_text('{"host": "elsewhere\\u001b[2J"}')
    found = status.status(*pools(results, reference))
    assert found["running"][0]["state"] == r"pid None host elsewhere\x1b[2J since None"
    (folder / "run.lock").unlink()
    found = status.status(*pools(results, reference))
    assert found["running"] == []
    assert "killed" in found["interrupted"][0]["state"]


@pytest.mark.fault(71, 76)
def test_an_interrupted_run_says_how_to_go_on(results, reference):
    write_run(results, "cifar_resnet20", 3, status="interrupted", overrides=("model.shortcut_option=B",),
              change={"iteration": 32000})
    write_run(results, "cifar_resnet20", status="interrupted", change={"experiment": "x; touch executed"})
    (write_run(results, "cifar_plain20") / "run.json").write_text("{")
    found = status.status(*pools(results, reference))
    own, changed = found["interrupted"]
    assert own["go_on"] == "repro run 'experiment=x; touch executed' seed=0"
    assert changed["go_on"] == "repro run experiment=cifar_resnet20 seed=3 model.shortcut_option=B"
    assert changed["seconds_left"] == pytest.approx(123.4)
    assert changed["go_on"] in status.status_text(found)


def test_json_and_text_are_of_one_structure(direct):
    found = json.loads(direct("status", "--json").out)
    text = direct("status").out
    assert len(found["experiments"]) == 20
    for name in (*(one["name"] for one in found["experiments"]), *found["suites"], *found["tables"], *found["figures"],
                 *(one["run"] for one in found["lacking"])):
        assert name in text
    assert "23.9 h left" in text
    assert "computed from measured updates, cost_cifar_very_deep.json" in text


@pytest.mark.parametrize("words", [
    ["experiment=cifar_resnet110"], ["experiment=imagenet_optB"], *([R20, word] for word in (
        "recipe=akamaster", "recipe=fb", "recipe=torchvision", "data=synthetic", "machine=cpu", "model=plain"))],
    ids=lambda words: words[-1])
def test_every_setting_of_every_file_has_a_source(words, monkeypatch):
    for variable in ENVIRONMENT:
        monkeypatch.delenv(variable, raising=False)
    group, _, name = words[-1].partition("=")
    assert f"{group}/{name}.yaml" in [f"{path.parent.name}/{path.name}" for path in files_of(words)]
    found = status.settings(compose(words), words)
    assert [one["key"] for one in found if not one["source"].strip()] == []
    assert len(found) > 40


def test_comments_of_every_way_to_write_a_value_and_the_last_file_wins(tmp_path):
    path, last = tmp_path / "mine.yaml", tmp_path / "last.yaml"
    path.write_text("# @package train\nlr: 0.1  # one\nnothing:\nlist: [1, 2]  # three\ninner: {a: 1}  # four\n"
                    "block:  # five\n  - 1\ndeep:\n  key: 1   # six\nplain: 5\n")
    last.write_text("train: {lr: 0.2}  # seven\n")
    assert status.sources([path, last]) == {
        "train.lr": "seven", "train.nothing": "", "train.list": "three", "train.inner.a": "four",
        "train.block": "five", "train.deep.key": "six", "train.plain": ""}


def test_times_come_from_finished_runs_and_committed_estimates_alone(tmp_path):
    own, found = paper_hashes("cifar_resnet20"), lambda: pools(None, tmp_path)
    write_run(tmp_path, "cifar_resnet20", seed=1)
    write_run(tmp_path, "cifar_resnet20", seed=2, status="interrupted")
    (tmp_path / "bench").mkdir()
    entry = {"experiment": "cifar_resnet20", "run_seconds": 50.0, "device": "a machine", "precision": "fp32"}
    (tmp_path / "bench" / "cost_a.json").write_text(json.dumps({"experiments": [entry]}))
    run, estimate = status.measured_times("cifar_resnet20", own, *found())
    assert (run["seconds"], run["source"]) == (123.4, "finished run cifar_resnet20/seed1")
    assert estimate["seconds"] == 50.0
    assert status.measured_times("cifar_resnet20", {"x"}, *found()) == []


def test_show_names_settings_schedule_cost_and_folder(direct):
    out = direct("show", "experiment=cifar_resnet110", "machine.device=cpu").out
    assert re.search(r"train\.lr +0\.1  ", out)
    for words in ("iterations: 64000", "{from: 32000, to: 48000, lr: 0.01}", "parameters: 1727962",
                  "table6/resnet-110", "23.9 h on AMD EPYC", "cost_cifar_very_deep.json",
                  config_hash(with_precision(paper_config("cifar_resnet110"), Precision.fp32))):
        assert words in out, words
    folders = json.loads(direct("show", R20, "--json").out)["folders"]
    assert [one["precision"] for one in folders] == ["fp32", "tf32"], "auto may mean both"


def test_show_of_a_changed_run_says_what_changed(direct):
    words = ("show", R20, "scale=0.5", "train.lr=0.2", "model.depth=32")
    facts = json.loads(direct(*words, "--json").out)
    found = {one["key"]: one["source"] for one in facts["settings"]}
    assert [found[key] for key in ("train.lr", "model.blocks_per_stage", "machine.device")] == [
        "override", "override", "$REPRO_DEVICE"]
    assert facts["schedule"]["iterations"] == 32000
    assert [one["lr"] for one in facts["schedule"]["rates"]] == [0.2, 0.02, 0.002]
    assert (facts["times"], facts["reproduces"], len(facts["deviations"])) == ([], [], 3)
    assert "@" in facts["folders"][0]["folder"]
    assert "not measured" in direct(*words).out


def test_against_a_recipe_says_why_it_matters_and_what_is_missing(direct):
    out = direct("show", R20, "train.iterations=1000", "--against", "akamaster").out
    line, = [line for line in out.splitlines() if line.strip().startswith("train.iterations")]
    assert line.split()[:3] == ["train.iterations", "1000", "78200"]
    assert "not expressed by settings: The reported number is the best epoch's error on the test set" in out
    assert "theirs: repro run experiment=cifar_resnet20 recipe=akamaster" in out
    assert "machine.precision" not in out, "fp32, tf32 and auto are all the paper's"
    same = json.loads(direct("show", R20, "recipe=fb", "--against", "fb", "--json").out)
    assert (same["differences"], len(same["notes"])) == ([], 3)


def test_against_an_experiment(direct):
    found = json.loads(direct("show", R20, "--against", "cifar_plain32", "--json").out)
    assert {one["key"]: (one["here"], one["there"]) for one in found["differences"]} == {
        "model.family": ("residual", "plain"), "model.blocks_per_stage": (3, 5)}
    assert all(one["why"] for one in found["differences"])


def test_two_runs_side_by_side(direct, results):
    write_run(results, "cifar_plain20", 0, test=9.6, train=1.0, device="one")
    residual = write_run(results, "cifar_resnet20", 1, test=8.1, train=0.5, device="two")
    found = json.loads(direct("show", "cifar_plain20/seed0", "--against", str(residual), "--json").out)
    assert {one["key"]: [one["here"], one["there"]] for one in found["differences"]} == {
        "model.family": ["plain", "residual"], "seed": [0, 1], "device": ["one", "two"],
        "train_top1_error": [1.0, 0.5], "test_top1_error": [9.6, 8.1]}
    assert found["notes"] == ["the histories differ from iteration 390 on"]
    out = direct("show", "cifar_plain20/seed0", "--against", "cifar_plain20/seed0").out
    assert "nothing that changes numbers differs" in out
    assert "the histories agree" in out
    (residual / "run.json").write_text("{")
    says(direct("show", "cifar_plain20/seed0", "--against", str(residual)), 2, "unreadable run.json")


@pytest.mark.parametrize(("arguments", "words"), [
    ((R20, "--against", "akamastr"), ["akamastr", "did you mean akamaster?"]),
    (("cifar_resnet20/seed0", "--against", "cifar_resnet20/seed1"), ["no run 'cifar_resnet20/seed0'"]),
    (("cifar_resnet20",), [R20])])
def test_mistakes_are_named(direct, arguments, words):
    says(direct("show", *arguments), 2, *words)


def test_an_experiment_of_ones_own(direct, tmp_path):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nname: mine\nmodel: {blocks_per_stage: 4}  # my choice\n")
    out = direct("show", "experiment=mine", "--config-dir", str(tmp_path / "own")).out
    for text in ("my choice", "an experiment of your own", "parameters: null"):
        assert text in out


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a paper run, a short one, a synthetic one, and one that can't be read."""
    folder = tmp_path_factory.mktemp("report")
    write_run(folder, "cifar_resnet20", test=8.1, device="<script>alert(1)</script>")
    write_run(folder, "cifar_plain20", overrides=SHORT, precision="bf16", responses=[1.0, 2.0])
    write_run(folder, "cifar_plain20", overrides=SYNTHETIC, precision="bf16", responses=[1.0, 2.0])
    (write_run(folder, "cifar_resnet32") / "run.json").write_text("{")
    path = folder / "report.html"
    path.write_text(status.report(pools(folder, folder / "reference")))
    return path


def test_the_page_has_everything_labeled_and_escaped(page):
    text = page.read_text()
    for word in ("ResNet-20", "8.10", "not decidable", "short run", "synthetic images", "cifar_resnet20/seed0",
                 "unreadable run.json", "&lt;script&gt;alert(1)", 'alt="figure6"', 'alt="synthetic_figure7"'):
        assert word in text, word
    assert "<script" not in text
    assert text.index('id="tables"') < text.index('id="short"') < text.index('id="synthetic"')
    assert page.stat().st_size < 2_000_000


def test_nothing_is_loaded_from_elsewhere_and_every_link_has_its_target(page):
    text = page.read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:image/svg)[^"']*|url\([^)]*|@import""", text)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)


def test_a_page_without_runs(direct, results):
    assert direct("report").code == 0
    text = (results / "report.html").read_text()
    assert "Synthetic images" not in text
    assert "Nothing here yet" not in text, "there are tables"
