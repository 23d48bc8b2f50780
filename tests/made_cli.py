"""`python -m tests.made_cli ...` is `repro ...` on small made-up data, for tests that need a process of their own."""

import sys
from dataclasses import replace
from typing import Any

from repro.cli import main
from repro.data.cifar10 import DeviceData
from repro.evaluation import evaluate
from repro.schema import DataConfig
from repro.training import suite, train
from tests.made import tiny_data

TINY = ["experiment=cifar_resnet20", "model.blocks_per_stage=1", "train.mini_batch_size=16",
        "train.batch_norm_group=16", "train.iterations=20", "train.lr_drops=[10,15]", "evaluation.interval=5",
        "machine.tensorboard=false", "evaluation.batch_norm_images=32", "machine.device=cpu", "machine.threads=1"]


def made_data(config: DataConfig) -> DeviceData:
    """The made-up images, named after the split that is asked for."""
    name = config.split.value
    return replace(tiny_data(), split=name, evaluated_on="val" if name == "45k" else "test")


def use_made_data(set_attribute: Any = setattr) -> None:
    """Put the made-up data in the place of CIFAR-10; a test gives monkeypatch.setattr."""
    set_attribute(train, "load_data", lambda config, *_: made_data(config.data))
    set_attribute(suite, "make_data", lambda config: None)
    set_attribute(evaluate, "load_arrays", lambda config: None)
    set_attribute(evaluate, "on_device", lambda loaded, config, device: made_data(config))


if __name__ == "__main__":
    use_made_data()
    sys.exit(main())
