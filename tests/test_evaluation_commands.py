"""`repro eval` of ImageNet and `repro ensemble` on the command line, on small made-up images."""

import json

import pytest

from repro.paths import results_dir
from repro.runs import read_run
from tests.evaluation.made import TINY, make_images, make_run
from tests.outcome import says

SHORT = [*TINY, "train.iterations=1", "train.lr_drops=[]", "evaluation.interval=1"]


def test_eval_without_weights_takes_those_of_the_finished_run(direct, tmp_path):
    words = ["eval", *SHORT, f"data.root={make_images(tmp_path / 'images', 10)}"]
    says(direct(*words), 2, "no finished run", "no run.json", "weights=FILE")
    folder = make_run()
    outcome = direct(*words, "protocol=ten_crop", "--json")
    assert outcome.code == 0, outcome.err
    record = json.loads(outcome.out)
    assert json.loads((folder / "evaluations" / "ten_crop.json").read_text()) == record
    assert (record["protocol"], record["seed"], record["identity"]) == ("ten_crop", 0, read_run(folder).identity)
    text = direct(*words).out
    assert "center crop" in text, "the data set's own protocol"
    assert "WIRING TEST" in text
    assert "deviations from the paper: a wiring test" in text
    says(direct(*words, "seed=1"), 2, "seed1")


@pytest.mark.parametrize(("arguments", "words"), [
    (["eval", *TINY, "protocol=tencrop"], ["tencrop", "did you mean ten_crop?", "center, ten_crop, multi_scale"]),
    (["eval", "experiment=cifar_resnet20", "protocol=center"], ["center", "single_view"]),
    (["eval", *TINY, "wieghts=x"], ["unknown key 'wieghts'"]),
    (["ensemble", "table6"], ["no ensemble named 'table6'", "table5"]),
    (["ensemble", "table5", "sed=1"], ["unknown key 'sed'", "seed"]),
], ids=lambda words: words[-1])
def test_a_wrong_command_is_one_message_and_2(direct, arguments, words):
    says(direct(*arguments), 2, *words)


def test_an_ensemble_without_members_names_what_makes_them(direct):
    outcome = direct("ensemble", "table5")
    says(outcome, 3, "lacks 6 of 6 members", "repro run experiment=imagenet_resnet152 seed=1")
    assert not (results_dir() / "ensembles").exists()
