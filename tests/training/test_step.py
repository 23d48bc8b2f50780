"""One training step, its counters, warm-up and optimizer, on made-up data, against rules written out here."""

import copy
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from repro.data.cifar10 import augment_batch
from repro.training.step import MomentumSGD
from tests.made import tiny_config
from tests.training.conftest import make_step


def advance(step, count):
    for _ in range(count):
        step.input.prepare(int(step.iteration) * step.mini_batch_size)
        step()


def test_a_mini_batch_is_cropped_and_flipped_by_the_draws_of_its_seed_and_positions():
    step, position = make_step("seed=3"), torch.arange(32, 48)
    step.input.prepare(32)
    images, labels = step.input.batch(position)
    data, config, index = step.data, step.config.data, step.input.order.order[position - step.input.order.start]
    wanted, other = (augment_batch(data.train_images, data.mean, index, position, seed, config.padding, config.flip)
                     for seed in (3, 0))
    assert torch.equal(images, wanted)
    assert torch.equal(labels, data.train_labels[index])
    assert not torch.equal(images, other)


def test_a_net_learns_the_made_up_set_and_counts_what_it_sees():
    step, errors, losses = make_step(), 0, 0.0
    for _ in range(5):
        images, labels = step.batch(step.iteration)
        logits = copy.deepcopy(step.model)(images).detach()
        errors += int((logits.argmax(1) != labels).sum())
        losses += float(F.cross_entropy(logits, labels))
        advance(step, 1)
    assert int(step.error_count) == errors
    assert float(step.loss_sum) == pytest.approx(losses, rel=1e-5)
    assert int(step.iteration) == 5
    step.clear()
    advance(step, 25)
    assert float(step.error_count) / 25 < errors / 5


def test_the_device_schedule_equals_the_pure_one_at_every_iteration():
    step = make_step("train.iterations=400", "train.lr_drops=[100,101,300]", "train.lr=0.1")
    for iteration in (0, 1, 99, 100, 101, 102, 299, 300, 399):
        step.iteration.fill_(iteration)
        assert float(step.learning_rate()) == pytest.approx(step.schedule.rate(iteration), rel=1e-6)


def feed_errors(step, errors):
    """Where the warm-up ended, or -1, by its bookkeeping alone."""
    for count in errors:
        step.iteration.add_(1)
        step.update_warmup(torch.tensor(count), torch.tensor(True))
    return int(step.warmup_end)


def reference_warmup_end(schedule, errors):
    """Sec. 4.2: below 80 % over a full window, or the cap."""
    for done in range(1, len(errors) + 1):
        window = errors[max(0, done - schedule.warmup_window) : done]
        below = sum(window) < 0.8 * 16 * len(window) and len(window) == schedule.warmup_window
        if below or done >= schedule.warmup_max:
            return done
    return -1


@pytest.mark.parametrize("seed", range(3))
def test_the_warmup_on_the_device_equals_the_pure_rule(seed):
    draw = random.Random(seed)
    errors = [min(16, draw.randint(14 - number // 25, 17 - number // 25)) for number in range(150)]
    for cap in (70, 120):
        step = make_step("train.warmup=error80", "train.warmup_window=10", f"train.warmup_max={cap}")
        assert feed_errors(step, errors) == reference_warmup_end(step.schedule, errors) > 0


def test_the_warmup_never_comes_back_and_the_next_update_has_the_full_rate():
    step = make_step("train.warmup=error80", "train.warmup_window=4", "train.warmup_max=1000")
    assert feed_errors(step, [16] * 30 + [0] * 4 + [16] * 50) == 31  # one batch of four without errors: 75 %
    assert int(step.warming) == 0
    step, rates = make_step("train.warmup=error80", "train.warmup_max=3", "train.warmup_window=100"), []
    for _ in range(5):
        advance(step, 1)
        rates.append(round(float(step.optimizer.rate), 6))
    assert rates == [0.01, 0.01, 0.01, 0.05, 0.05]


def test_a_loss_that_is_not_finite_stops_before_the_update():
    """On a GPU the host looks now and then; until it does, the order moves on and the step does not."""
    step = make_step("train.mini_batch_size=50", "train.batch_norm_group=50")
    advance(step, 3)
    with torch.no_grad():
        step.model.fc.bias[0] = float("inf")
    before = [value.clone() for value in (*step.model.parameters(), *step.optimizer.momentum)]
    last = float(step.last_loss)
    for done in range(3, 9):  # passes of 2 mini-batches
        step.input.prepare(done * 50)
        step()
    assert (int(step.failed_at), int(step.iteration), float(step.last_loss)) == (3, 3, last)
    for old, new in zip(before, (*step.model.parameters(), *step.optimizer.momentum), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize(("loss", "gradient", "failed_at"), [
    (1.0, 1.0, -1), (float("inf"), 1.0, 1), (1.0, float("inf"), 1), (1.0, float("nan"), 1)])
def test_a_loss_or_a_gradient_alone_is_enough_to_stop(loss, gradient, failed_at):
    step = make_step()
    advance(step, 1)
    step.model.fc.bias.grad.fill_(gradient)
    step.apply(torch.tensor(loss), torch.tensor(0))
    assert (int(step.failed_at), int(step.iteration)) == (failed_at, 2 if failed_at < 0 else 1)
    if failed_at > 0:  # until the host looks, not even an update that could be made
        step.model.fc.bias.grad.fill_(1.0)
        step.apply(torch.tensor(1.0), torch.tensor(0))
        assert (int(step.failed_at), int(step.iteration)) == (1, 1)


def test_16_bit_steps_train_and_keep_fp32_weights_and_gradients_without_the_loss_scale():
    exact, bf16, fp16 = steps = [make_step(f"machine.precision={name}") for name in ("fp32", "bf16", "fp16")]
    scaled = make_step()
    scaled.loss_scale = fp16.loss_scale
    for step in (*steps, scaled):
        advance(step, 3)
        assert int(step.failed_at) == -1
        assert all(parameter.dtype == torch.float32 for parameter in step.model.parameters())
        assert float(step.last_loss) == pytest.approx(float(exact.last_loss), rel=0.1)
    assert scaled.loss_scale > 1 == bf16.loss_scale
    for left, right in zip(exact.model.parameters(), scaled.model.parameters(), strict=True):
        assert torch.allclose(left, right, atol=1e-6)


# ---- momentum, against float64 loops

RATES = [0.01] * 5 + [0.1] * 10 + [0.01] * 10 + [0.001] * 10  # a warm-up's switch and drops


def start():
    torch.manual_seed(0)
    return nn.Linear(6, 1)


def gradient(weights, step):
    return 0.7 * weights + 0.3 * torch.sin(step + torch.arange(weights.numel(), dtype=torch.float64).view_as(weights))


def run_ours(config, rates):
    model = start()
    optimizer = MomentumSGD(model, config, rates[0])
    for step, rate in enumerate(rates):
        for parameter in model.parameters():
            parameter.grad = gradient(parameter.detach().double(), step).float()
        optimizer.update(torch.tensor(rate), torch.tensor(True))
    return list(model.parameters())


def run_reference(form, config, rates, decay_all=True):
    """Caffe (v = m v + lr g, w = w - v) written out, the others by torch's own SGD, in float64."""
    weights, decay = list(start().double().parameters()), config.weight_decay
    sgd = torch.optim.SGD(weights, momentum=0.9, weight_decay=decay, nesterov=form == "nesterov")
    velocities = [torch.zeros_like(weight) for weight in weights]
    for step, rate in enumerate(rates):
        sgd.param_groups[0]["lr"] = rate
        for weight, velocity in zip(weights, velocities, strict=True):
            weight.grad = gradient(weight.detach(), step)
            if form == "caffe":
                velocity.mul_(0.9).add_(rate * (weight.grad + decay * weight.detach() * (decay_all or weight.ndim > 1)))
                weight.data -= velocity
        if form != "caffe":
            sgd.step()
    return weights


def distance(left, right):
    return max(float((a - b).detach().abs().max()) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("form", ["caffe", "torch", "nesterov"])
def test_each_form_of_momentum_equals_its_own_rule_and_no_other(form):
    config = tiny_config("train.weight_decay=0.01", f"train.momentum_form={form}").train
    apart = {other: distance(run_ours(config, RATES), run_reference(other, config, RATES))
             for other in ("caffe", "torch", "nesterov")}
    assert apart.pop(form) < 2e-6
    assert min(apart.values()) > 1e-3


def test_decay_on_weights_only_spares_the_bias():
    config = tiny_config("train.weight_decay_on=weights", "train.weight_decay=0.1").train
    ours = run_ours(config, RATES)
    assert distance(ours, run_reference("caffe", config, RATES, decay_all=False)) < 2e-6
    assert distance(ours, run_reference("caffe", config, RATES)) > 1e-4
