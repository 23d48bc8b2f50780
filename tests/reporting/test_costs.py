"""What `repro show` and `repro list` say of times: those that were measured, and of no others."""

import re

import pytest

from repro.config import compose
from repro.reporting.settings import training_images
from tests.reporting.conftest import write_run


def test_the_images_of_a_pass():
    cifar, imagenet = "experiment=cifar_resnet20", "experiment=imagenet_optB"
    runs = [imagenet], [imagenet, "machine=smoke"], [cifar], [cifar, "data.split='45k'"]
    assert [training_images(compose(words)) for words in runs] == [1_281_167, None, 50_000, 45_000]


def test_show_says_that_nothing_was_measured(direct):
    out = direct("show", "experiment=imagenet_optB").out
    for words in ("600000 iterations, 119.89 passes", "parameters: 21,797,672", "multiply-adds: 3.664e+09",
                  "time: not measured: repro cost", "reproduces: table3/resnet-34-b, table4/resnet-34-b"):
        assert words in out, words


@pytest.mark.parametrize(("change", "words"), [
    ({}, "on made-up device, fp32 (finished run imagenet_optB/seed0)"),
    ({"train_seconds": 17_000.0, "evaluation_seconds": 1000.0, "environment": {"device": "made-up", "devices": 8}},
     "on 8 x made-up, fp32 (finished run imagenet_optB/seed0, 40 GPU-hours)"),
    ({"train_seconds": None}, "time: not measured"), ({"environment": None}, "time: not measured")], ids=str)
def test_show_and_list_say_what_a_run_took(direct, tmp_path, change, words):
    write_run(tmp_path / "results", "imagenet_optB", test=27.0, change=change)
    assert words in direct("show", "experiment=imagenet_optB", "machine.device=cpu").out
    line, = re.findall("imagenet_optB .*", direct("list").out)
    assert ("; " in line.partition("yours: ")[2]) == ("not measured" not in words)


def test_show_of_a_wiring_test_counts_no_passes(direct):
    out = direct("show", "experiment=imagenet_optB", "machine=smoke").out
    smoke = compose(["experiment=imagenet_optB", "machine=smoke"])
    assert f"{smoke.train.iterations} iterations, tested every {smoke.evaluation.interval} iterations" in out
    assert not re.search(r"passes \d", out)
