"""The update rule against a plain one: v = m v - lr (g + decay w); w = w + v (Sec. 3.4; the authors' README)."""

import numpy as np
import torch
from torch import nn

from repro.schema import TrainConfig
from repro.training.optimizer import MomentumSGD
from repro.verification.check import agreement, same
from repro.verification.schedules import trained

MOMENTUM, DECAY = 0.9, 1e-4  # Sec. 3.4, 4.2
RATES = (0.01, 0.1, 0.01)  # the end of a warm-up and a drop: there Caffe's velocity and torch's part
TOLERANCE = 1e-7  # the rates are float32


def update_rule() -> str:
    """Three updates in float64 with changing rates, of each kind of optimizer that an experiment has."""
    kinds: dict[str, tuple[str, TrainConfig]] = {}
    for name, config, _ in trained():
        train = config.train
        kinds.setdefault(f"{train.momentum} {train.momentum_form} {train.weight_decay} {train.weight_decay_on}",
                         (name, train))
    expected = plain()
    same([agreement(f"{what} after three updates of {name}", wanted, value, TOLERANCE)
          for name, train in kinds.values()
          for what, wanted, value in zip(("weights", "scales"), expected, ours(train), strict=True)])
    return f"{len(RATES)} updates in float64, rates {', '.join(map(str, RATES))}, {len(kinds)} kind of optimizer"


def first_values() -> list[np.ndarray]:
    """A matrix, as of a layer, and a vector, as of batch normalisation."""
    generator = np.random.default_rng(0)
    return [generator.normal(size=(4, 6)), generator.uniform(0.5, 1.5, 5)]


def gradient(values: np.ndarray, update: int) -> np.ndarray:
    """A smooth gradient that depends on the values and the update."""
    return 0.3 * values + np.sin(update + np.arange(values.size)).reshape(values.shape)


def plain() -> list[np.ndarray]:
    """The updates written out."""
    result = []
    for w in first_values():
        v = np.zeros_like(w)
        for update, rate in enumerate(np.array(RATES, np.float32).tolist()):
            v = MOMENTUM * v - rate * (gradient(w, update) + DECAY * w)
            w = w + v
        result.append(w)
    return result


def ours(train: TrainConfig) -> list[np.ndarray]:
    """The same by the optimizer that trains."""
    model = nn.Module()
    for number, values in enumerate(first_values()):
        model.register_parameter(f"values{number}", nn.Parameter(torch.from_numpy(values)))
    parameters = list(model.parameters())
    optimizer = MomentumSGD(model, train, RATES[0])
    for update, rate in enumerate(RATES):
        for parameter in parameters:
            parameter.grad = torch.from_numpy(gradient(parameter.detach().numpy(), update))
        optimizer.update(torch.tensor(rate), torch.tensor(True))
    return [parameter.detach().numpy() for parameter in parameters]
