"""Small made-up inputs that several tests share."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from repro.config import compose
from repro.data.cifar10 import DeviceData, per_pixel_mean
from repro.devices import resolve
from repro.runs import Run
from repro.schema import RunConfig


def tiny_config(*overrides: str) -> RunConfig:
    """The smallest residual network (8 layers) on mini-batches of 16, 40 iterations, resolved for the CPU."""
    return resolve(compose(["experiment=cifar_resnet20", "machine.device=cpu", "model.blocks_per_stage=1",
                            "evaluation.batch_norm_images=32",
                            "train.mini_batch_size=16", "train.batch_norm_group=16", "train.iterations=40",
                            "train.lr_drops=[20,30]", "evaluation.interval=10", "machine.tensorboard=false",
                            "machine.checkpoint_seconds=0", "train.lr=0.05", *overrides]))


def tiny_data(images: int = 100, tests: int = 30, seed: int = 0) -> DeviceData:
    """Random images with labels that their brightness gives away, so that a network can learn them."""
    generator = torch.Generator().manual_seed(seed)

    def make(count):
        labels = torch.randint(0, 10, (count,), generator=generator)
        noise = torch.randint(0, 60, (count, 3, 32, 32), generator=generator)
        return (noise + 18 * labels[:, None, None, None]).to(torch.uint8), labels

    train, train_labels = make(images)
    test, test_labels = make(tests)
    return DeviceData(train, train_labels, test, test_labels, per_pixel_mean(train), "full", "test", "made up")


def scatter(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with statistics, scales and biases of its batch normalizations that are nothing special."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.weight, 0.5, 1.0), (module.bias, -0.3, 0.5),
                                      (module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0)):
                tensor.data.uniform_(low, high, generator=generator)
    return model


def with_machine(config: RunConfig, **changes: object) -> RunConfig:
    """The configuration with other machine settings."""
    return replace(config, machine=replace(config.machine, **changes))


def run_config(config: RunConfig, command: Sequence[str] = ()) -> Run:
    """Train a configuration, as `repro run` does."""
    from repro.training.distributed import plan
    from repro.training.train import run  # late: tests put `tiny_data` into it

    return run(plan(config, command))
