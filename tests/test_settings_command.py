"""`repro show` on the command line."""

import json
import re
import subprocess
import sys

import pytest

from repro.config import config_hash, paper_config, with_precision
from repro.schema import Precision
from tests.outcome import says


def test_show_names_settings_schedule_cost_and_folder(direct):
    out = direct("show", "experiment=cifar_resnet110", "machine.device=cpu").out
    assert re.search(r"train\.lr +0\.1  ", out)
    for words in ("lr 0.01 for iterations 32000 to 48000 (passes 81.92 to 122.88)",
                  "warm-up: lr 0.01 until the training error is below 80 %", "parameters: 1,727,962",
                  config_hash(with_precision(paper_config("cifar_resnet110"), Precision.fp32)),
                  "reproduces: table6/resnet-110", "cost_cifar_very_deep.json"):
        assert words in out, words


def test_show_of_a_network_that_is_not_trained_here_has_no_schedule(direct):
    out = direct("show", "experiment=imagenet_vgg16").out
    assert "schedule:\n  not trained here; `repro eval experiment=imagenet_vgg16 weights=FILE` tests imported" in out
    assert not re.search(r"iterations,|lr 0\.1 for|repro cost", out)
    assert json.loads(direct("show", "experiment=imagenet_vgg16", "--json").out)["schedule"] is None


def test_show_of_a_changed_run_says_what_changed(direct):
    facts = json.loads(direct("show", "experiment=cifar_resnet20", "scale=0.5", "train.lr=0.2", "--json").out)
    found = {one["key"]: one for one in facts["settings"]}
    assert (found["train.lr"]["source"], found["train.lr"]["paper"]) == ("override", 0.1)
    assert found["machine.device"]["source"] == "$REPRO_DEVICE"
    assert "paper" not in found["train.momentum"]
    assert facts["schedule"]["iterations"] == 32000
    assert [one["lr"] for one in facts["schedule"]["rates"]] == pytest.approx([0.2, 0.02, 0.002])
    assert facts["schedule"]["rates"][1]["passes"] == [40.96, 61.44]
    assert facts["cost"]["times"] == []
    assert facts["reproduces"] == []
    assert len(facts["deviations"]) == 2
    assert "@" in facts["folders"][0]["folder"]
    assert "not measured: repro cost" in direct("show", "experiment=cifar_resnet20", "train.lr=0.2").out


def test_auto_on_any_device_has_a_folder_for_each_precision(direct, monkeypatch):
    monkeypatch.delenv("REPRO_DEVICE")
    folders = json.loads(direct("show", "experiment=cifar_resnet20", "--json").out)["folders"]
    assert [one["precision"] for one in folders] == ["fp32", "tf32"]


def test_passes_count_the_images_of_the_split(direct):
    for split, passes in (("full", 163.84), ("45k", 182.04)):
        facts = json.loads(direct("show", "experiment=cifar_resnet20", f"data.split='{split}'", "--json").out)
        assert facts["schedule"]["passes"] == passes


def test_diff_against_a_recipe(direct):
    out = direct("show", "experiment=cifar_resnet20", "train.iterations=1000", "--against", "akamaster").out
    assert "model.zero_padding" in out
    line, = [line for line in out.splitlines() if line.strip().startswith("train.iterations")]
    assert line.split()[:4] == ["train.iterations", "1000", "78200", "64000"]
    assert "best epoch's error on the test set" in out
    assert "theirs: repro run experiment=cifar_resnet20 recipe=akamaster" in out.replace(sys.argv[0], "repro")


def test_diff_with_the_recipe_itself_finds_nothing(direct):
    found = json.loads(direct("show", "experiment=cifar_plain20", "recipe=fb", "--against", "fb", "--json").out)
    assert found["differences"] == []
    assert len(found["not_expressed"]) == 2


def test_diff_against_an_experiment(direct):
    found = json.loads(direct("show", "experiment=cifar_resnet20", "--against", "cifar_plain32", "--json").out)
    assert {one["key"]: (one["here"], one["theirs"]) for one in found["differences"]} == {
        "model.family": ("residual", "plain"), "model.blocks_per_stage": (3, 5)}
    assert all(one["why"] for one in found["differences"])
    assert found["command"].endswith("run experiment=cifar_plain32")


@pytest.mark.parametrize(("arguments", "words"), [
    (("show", "experiment=cifar_resnet20", "--against", "akamastr"), ["akamastr", "did you mean akamaster?"]),
    (("show", "cifar_resnet20/seed0", "--against", "cifar_resnet20/seed1"), ["no run 'cifar_resnet20/seed0'"]),
    (("show", "a", "b", "--against", "c"), ["not a b"]),
    (("show", "experiment=cifar_resnet21", "--against", "fb"), ["cifar_resnet21", "did you mean"]),
    (("show", "experiment=cifar_resnet20", "train.lrr=1"), ["did you mean train.lr?"]),
    (("show", "cifar_resnet20"), ["experiment=cifar_resnet20"]),
    (("show",), ["key=value"]),
])
def test_mistakes_are_named(direct, arguments, words):
    says(direct(*arguments), 2, *words)


def test_an_experiment_of_ones_own(direct, tmp_path):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nname: mine\nmodel: {blocks_per_stage: 4}  # my choice\n")
    place = ["--config-dir", str(tmp_path / "own")]
    out = direct("show", "experiment=mine", *place).out
    assert "my choice" in out
    assert "an experiment of your own" in out
    assert "not in golden_counts.yaml" in out
    assert "recipe=fb" in direct("show", "experiment=mine", *place, "--against", "fb").out


def test_show_never_import_torch(tmp_path):
    code = ("import sys; from repro.cli import main\nassert main(sys.argv[1:]) == 0\n"
            "assert not {'torch', 'matplotlib'} & set(sys.modules)")
    for words in (["show", "experiment=cifar_resnet20"], ["show", "experiment=cifar_resnet20", "--against", "fb"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
