"""Recipes of others: conf/recipe (values) and experiments/recipes (reasons) agree, and the numbers are right."""

import pytest

from repro import paper
from repro.config import compose, flat, paper_config, settings, to_dict
from repro.paths import conf_dir
from repro.reporting.settings import sources

EPOCH = -(-50_000 // 128)  # 391 iterations, the last mini-batch short


def values(recipe: str, experiment: str = "cifar_resnet20") -> dict:
    return settings(compose([f"experiment={experiment}", f"recipe={recipe}"]))


def test_every_recipe_has_both_files_and_paper_changes_nothing():
    assert {path.stem for path in (conf_dir() / "recipe").glob("*.yaml")} == {"paper", *paper.recipes()}
    assert paper.recipes() == ["akamaster", "fb", "torchvision"]
    assert sources([conf_dir() / "recipe" / "paper.yaml"]) == {}


@pytest.mark.parametrize("name", paper.recipes())
def test_whatever_a_recipe_changes_has_a_reason_and_the_other_way_round(name):
    changed = set()
    for experiment in ("cifar_resnet20", "cifar_resnet110"):
        standing = settings(paper_config(experiment))
        changed |= {key for key, value in values(name, experiment).items() if value != standing[key]}
    assert set(paper.recipe(name)["why"]) == changed


@pytest.mark.parametrize("name", paper.recipes())
def test_every_value_of_a_recipe_names_its_source(name):
    found = sources([conf_dir() / "recipe" / f"{name}.yaml"])
    assert len(found) > 15
    assert [key for key, comment in found.items() if not comment.startswith(name)] == []


def test_lengths_are_epochs_of_each_recipe():
    assert EPOCH == 391
    aka, fb, vision = (values(name) for name in paper.recipes())
    assert (aka["train.iterations"], aka["train.lr_drops"]) == (200 * EPOCH, [100 * EPOCH, 150 * EPOCH])
    # epochs from 1: decay = epoch >= 122 and 2 or epoch >= 81 and 1 or 0
    assert (fb["train.iterations"], fb["train.lr_drops"]) == (164 * EPOCH, [80 * EPOCH, 121 * EPOCH])
    steps = -(-50_000 // vision["train.mini_batch_size"])
    assert (vision["train.iterations"], vision["train.lr_drops"]) == (90 * steps, [30 * steps, 60 * steps])
    assert [one["evaluation.interval"] for one in (aka, fb, vision)] == [EPOCH, EPOCH, steps]


def test_forms_of_each_recipe():
    keys = ("model.zero_padding", "model.conv_init", "model.fc_init", "data.padding_value", "train.momentum_form",
            "train.batch_norm_group", "model.shortcut_option", "train.warmup")
    found = {name: tuple(values(name, "cifar_resnet110")[key] for key in keys) for name in paper.recipes()}
    assert found == {
        "akamaster": ("both_sides", "fan_in", "msra", "black", "torch", 128, "A", "none"),
        "fb": ("appended", "fan_out", "uniform_zero_bias", "mean", "nesterov", 64, "A", "none"),
        "torchvision": ("appended", "fan_out", "uniform", "mean", "torch", 32, "B", "none")}
    fb = values("fb")
    assert [255 * mean for mean in fb["data.channel_mean"]] == pytest.approx([125.3, 123.0, 113.9], abs=1e-9)
    assert [255 * std for std in fb["data.channel_std"]] == pytest.approx([63.0, 62.1, 66.7], abs=1e-9)


def test_a_recipe_keeps_the_experiments_network_and_an_override_wins():
    config = compose(["experiment=cifar_plain56", "recipe=akamaster", "train.lr=0.05"])
    assert flat(to_dict(config))["model.depth"] == 56
    assert (config.model.family.name, config.train.lr, config.train.iterations) == ("plain", 0.05, 78200)
