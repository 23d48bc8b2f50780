"""Recipes of others: conf/recipe (values) and experiments/recipes (reasons) agree, and the numbers are right."""

import pytest

from repro import paper
from repro.config import compose, paper_config, settings
from repro.paths import conf_dir
from repro.reporting.status import sources


def values(recipe: str, experiment: str = "cifar_resnet20") -> dict:
    return settings(compose([f"experiment={experiment}", f"recipe={recipe}"]))


@pytest.mark.parametrize("name", ["akamaster", "fb", "torchvision"])
def test_whatever_a_recipe_changes_has_a_reason_and_every_value_names_its_source(name):
    changed = set()
    for experiment in ("cifar_resnet20", "cifar_resnet110"):
        standing = settings(paper_config(experiment))
        changed |= {key for key, value in values(name, experiment).items() if value != standing[key]}
    assert set(paper.recipe(name)["why"]) == changed
    found = sources([conf_dir() / "recipe" / f"{name}.yaml"])
    assert len(found) > 15
    assert [key for key, comment in found.items() if not comment.startswith(name)] == []


def test_numbers_of_each_recipe():
    assert {path.stem for path in (conf_dir() / "recipe").glob("*.yaml")} == {"paper", *paper.recipes()}
    assert sources([conf_dir() / "recipe" / "paper.yaml"]) == {}
    aka, fb, vision = (values(name, "cifar_resnet110") for name in paper.recipes())
    epoch, steps = 391, 196  # iterations of 50,000 images in mini-batches of 128 and 256, the last one short
    assert (aka["train.iterations"], aka["train.lr_drops"]) == (200 * epoch, [100 * epoch, 150 * epoch])
    # epochs from 1: decay = epoch >= 122 and 2 or epoch >= 81 and 1 or 0
    assert (fb["train.iterations"], fb["train.lr_drops"]) == (164 * epoch, [80 * epoch, 121 * epoch])
    assert (vision["train.iterations"], vision["train.lr_drops"]) == (90 * steps, [30 * steps, 60 * steps])
    assert [one["evaluation.interval"] for one in (aka, fb, vision)] == [epoch, epoch, steps]
    keys = ("model.zero_padding", "model.conv_init", "model.fc_init", "data.padding_value", "train.momentum_form",
            "train.batch_norm_group", "model.shortcut_option", "train.warmup")
    assert [tuple(one[key] for key in keys) for one in (aka, fb, vision)] == [
        ("both_sides", "fan_in", "msra", "black", "torch", 128, "A", "none"),
        ("appended", "fan_out", "uniform_zero_bias", "mean", "nesterov", 64, "A", "none"),
        ("appended", "fan_out", "uniform", "mean", "torch", 32, "B", "none")]
    assert [255 * mean for mean in fb["data.channel_mean"]] == pytest.approx([125.3, 123.0, 113.9], abs=1e-9)
    assert [255 * std for std in fb["data.channel_std"]] == pytest.approx([63.0, 62.1, 66.7], abs=1e-9)


def test_a_recipe_keeps_the_experiments_network_and_an_override_wins():
    config = compose(["experiment=cifar_plain56", "recipe=akamaster", "train.lr=0.05"])
    assert (config.model.depth, config.model.family.name, config.train.lr) == (56, "plain", 0.05)
