"""Caffe's momentum on torch's fused optimizer, against a float64 Caffe loop written out here."""

import numpy as np
import pytest
import torch
from torch import nn

from repro.config import compose
from repro.training.step import MomentumSGD

WARMUP_SWITCH_AND_DROPS = [0.01] * 5 + [0.1] * 10 + [0.01] * 10 + [0.001] * 10


def train_config(*overrides):
    return compose(["experiment=cifar_resnet20", *overrides]).train


def quadratic_model():
    """A 'network' of one weight vector and one bias; the gradient of each is set by hand."""
    torch.manual_seed(0)
    return nn.Linear(6, 1)


def gradient(weights, step):
    """The same smooth, step-dependent gradient in numpy and torch precision."""
    return 0.7 * weights + 0.3 * np.sin(step + np.arange(weights.size).reshape(weights.shape))


def run_ours(config, rates, skips=()):
    model = quadratic_model()
    optimizer = MomentumSGD(model, config, rates[0])
    for step, rate in enumerate(rates):
        for p in model.parameters():
            p.grad = torch.from_numpy(gradient(p.detach().double().numpy(), step)).float()
        optimizer.update(torch.tensor(rate, dtype=torch.float32), torch.tensor(step not in skips))
    return [p.detach().double().numpy() for p in model.parameters()]


def run_caffe(config, rates, decay_all=True):
    """v = m v + lr (g + decay w); w = w - v, in float64 (Caffe's SGDSolver)."""
    weights = [p.detach().double().numpy() for p in quadratic_model().parameters()]
    velocity = [np.zeros_like(w) for w in weights]
    for step, rate in enumerate(rates):
        for i, w in enumerate(weights):
            decay = config.weight_decay if decay_all or w.ndim > 1 else 0.0
            velocity[i] = config.momentum * velocity[i] + rate * (gradient(w, step) + decay * w)
            weights[i] = w - velocity[i]
    return weights


def run_torch(config, rates):
    """b = m b + g; w = w - lr b, in float64 (torch's SGD)."""
    weights = [p.detach().double().numpy() for p in quadratic_model().parameters()]
    buffers = [np.zeros_like(w) for w in weights]
    for step, rate in enumerate(rates):
        for i, w in enumerate(weights):
            buffers[i] = config.momentum * buffers[i] + gradient(w, step) + config.weight_decay * w
            weights[i] = w - rate * buffers[i]
    return weights


def close(left, right, tolerance=2e-6):
    return all(np.abs(a - b).max() < tolerance for a, b in zip(left, right, strict=True))


def test_equals_caffe_across_a_warmup_switch_and_drops():
    config = train_config("train.weight_decay=0.01")
    assert close(run_ours(config, WARMUP_SWITCH_AND_DROPS), run_caffe(config, WARMUP_SWITCH_AND_DROPS))


def test_torch_form_equals_torch_and_differs_from_caffe():
    config = train_config("train.momentum_form=torch", "train.weight_decay=0.01")
    ours = run_ours(config, WARMUP_SWITCH_AND_DROPS)
    assert close(ours, run_torch(config, WARMUP_SWITCH_AND_DROPS))
    assert not close(ours, run_caffe(config, WARMUP_SWITCH_AND_DROPS), 1e-3)


def test_nesterov_equals_torchs_own_and_one_written_out():
    config = train_config("train.momentum_form=nesterov", "train.weight_decay=0.01")
    ours, rates = run_ours(config, WARMUP_SWITCH_AND_DROPS), WARMUP_SWITCH_AND_DROPS
    weights = [p.detach().double().numpy() for p in quadratic_model().parameters()]
    buffers = [np.zeros_like(w) for w in weights]
    for step, rate in enumerate(rates):
        for i, w in enumerate(weights):
            g = gradient(w, step) + config.weight_decay * w
            buffers[i] = config.momentum * buffers[i] + g
            weights[i] = w - rate * (g + config.momentum * buffers[i])
    model = quadratic_model().double()
    sgd = torch.optim.SGD(model.parameters(), rates[0], config.momentum, weight_decay=0.01, nesterov=True)
    for step, rate in enumerate(rates):
        sgd.param_groups[0]["lr"] = rate
        for p in model.parameters():
            p.grad = torch.from_numpy(gradient(p.detach().numpy(), step))
        sgd.step()
    assert close(ours, weights)
    assert close(ours, [p.detach().numpy() for p in model.parameters()])
    assert not close(ours, run_torch(config, rates), 1e-3)


def test_both_forms_agree_while_the_rate_stays():
    rates = [0.05] * 12
    assert close(run_ours(train_config(), rates), run_ours(train_config("train.momentum_form=torch"), rates))


def test_decay_on_weights_only_spares_the_bias():
    config = train_config("train.weight_decay_on=weights", "train.weight_decay=0.1")
    ours = run_ours(config, [0.05] * 10)
    assert close(ours, run_caffe(config, [0.05] * 10, decay_all=False))
    assert not close(ours, run_caffe(config, [0.05] * 10, decay_all=True), 1e-4)


def test_a_skipped_update_changes_nothing():
    model = quadratic_model()
    optimizer = MomentumSGD(model, train_config(), 0.1)
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.full_like(p, float("nan"))
    optimizer.update(torch.tensor(0.1), torch.tensor(False))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(not buffer.any() for buffer in optimizer.momentum)


@pytest.mark.parametrize("overrides", [[], ["train.weight_decay_on=weights"]])
def test_all_parameters_are_updated_once(overrides):
    model = quadratic_model()
    optimizer = MomentumSGD(model, train_config(*overrides), 0.1)
    given = [p for pairs, _ in optimizer.groups for p, _ in pairs]
    assert sorted(map(id, given)) == sorted(map(id, model.parameters()))
