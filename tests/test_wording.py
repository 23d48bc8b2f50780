"""The nearest name, and what a key may hold, in words."""

import pytest

from repro.config import experiments
from repro.schema import FIELDS, SECTIONS, allowed_values
from repro.wording import nearest


@pytest.mark.fault(6)
@pytest.mark.parametrize(("typed", "meant"), [
    ("optb", "imagenet_optB"), ("OPTB", "imagenet_optB"), ("optA", "imagenet_optA"), ("imagenet_optb", "imagenet_optB"),
    ("resnet20", "cifar_resnet20"), ("cifar_resnet21", "cifar_resnet20"), ("cifarplain20", "cifar_plain20"),
    ("CIFAR_RESNET110", "cifar_resnet110"), ("resnet152", "imagenet_resnet152"), ("zzz", None), ("", None)])
def test_the_nearest_experiment(typed, meant):
    assert nearest(typed, experiments()) == meant


@pytest.mark.fault(1)
@pytest.mark.parametrize(("typed", "meant"), [
    ("train.lrr", "train.lr"), ("lr", "train.lr"), ("LR", "train.lr"), ("Train.LR", "train.lr"), ("sede", "seed"),
    ("batch_size", "train.mini_batch_size"), ("learning_rate_x_y_z", None), ("threads", "machine.threads"),
    ("device", "machine.device"), ("train.seed", "seed")])
def test_the_nearest_key(typed, meant):
    assert nearest(typed, [*SECTIONS, *FIELDS]) == meant


def test_the_first_of_two_that_differ_in_capitals_alone():
    assert nearest("A", ["a", "A"]) == "a"
    assert nearest("x", []) is None


@pytest.mark.fault(3)
@pytest.mark.parametrize(("key", "words"), [
    ("seed", "a whole number"), ("devices", "a whole number or null"), ("train.lr", "a number"),
    ("data.flip", "true or false"), ("train.lr_drops", "a list of whole numbers, as [1,2]"), ("name", "a text"),
    ("data.split", "full or 45k"), ("train", "a section: set its keys, as train.mini_batch_size"), ("no", None),
    ("data.channel_mean", "a list of numbers, as [1,2] or null")])
def test_what_a_key_may_hold(key, words):
    assert allowed_values(key) == words


def test_every_key_of_the_schema_has_words():
    assert [key for key in (*SECTIONS, *FIELDS) if not allowed_values(key)] == []
