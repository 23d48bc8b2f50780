"""The nearest name, what a key may hold, and durations, in words."""

import pytest

from repro.config import experiments
from repro.schema import FIELDS, SECTIONS, allowed_values
from repro.wording import duration, escape, suggest

EXPERIMENTS = {"optb": "imagenet_optB", "OPTB": "imagenet_optB", "optA": "imagenet_optA", "resnet20": "cifar_resnet20",
               "imagenet_optb": "imagenet_optB", "cifar_resnet21": "cifar_resnet20", "cifarplain20": "cifar_plain20",
               "CIFAR_RESNET110": "cifar_resnet110", "resnet152": "imagenet_resnet152", "zzz": None, "": None}
KEYS = {"train.lrr": "train.lr", "lr": "train.lr", "Train.LR": "train.lr", "sede": "seed", "train.seed": "seed",
        "batch_size": "train.mini_batch_size", "learning_rate_x_y_z": None, "threads": "machine.threads",
        "device": "machine.device"}
WORDS = {"seed": "int", "devices": "int | null", "data.flip": "bool", "train.lr_drops": "list[int]",
         "data.split": "full or 45k", "train": None}


@pytest.mark.fault(1, 6)
def test_the_nearest_experiment_and_key():
    for known, expected in ((experiments(), EXPERIMENTS), ([*SECTIONS, *FIELDS], KEYS), (["a", "A"], {"A": "a"})):
        for typed, name in expected.items():
            assert suggest(typed, known) == (f"; did you mean {name}?" if name else "")
    assert suggest("x", []) == ""


@pytest.mark.fault(3)
def test_what_a_key_may_hold():
    assert {key: allowed_values(key) for key in WORDS} == WORDS
    assert all(map(allowed_values, FIELDS))


def test_durations_and_printable_text():
    seconds = (0, 89, 90, 5399, 5400, 172_799, 172_800, None)
    assert [*map(duration, seconds)] == ["0 s", "89 s", "2 min", "90 min", "1.5 h", "48.0 h", "2.0 days", "?"]
    assert escape("a ü\n\x1b[2J") == "a ü\\n\\x1b[2J"
