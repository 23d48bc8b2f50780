"""One training step and its counters, on made-up data."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from repro.models import build_model
from repro.schema import WarmUp
from repro.training.schedule import Schedule
from repro.training.step import TrainStep
from tests.made import tiny_config, tiny_data


def make_step(*overrides, data=None):
    config = tiny_config(*overrides)
    model = build_model(config.model, config.seed)
    return TrainStep(model.train(), data or tiny_data(), config, Schedule.of(config))


def advance(step, count):
    for _ in range(count):
        step.input.prepare(int(step.iteration) * len(step.offsets))
        step()


def test_a_net_learns_the_made_up_set():
    step = make_step()
    advance(step, 40)
    first = float(step.error_count)
    step.clear()
    step2 = make_step()
    advance(step2, 10)
    early = float(step2.error_count) / 10
    assert first / 40 < early


def test_counters_are_the_sums_over_the_mini_batches():
    step = make_step()
    errors, losses = 0, 0.0
    for _ in range(5):
        step.input.prepare(int(step.iteration) * 16)
        images, labels = step.batch()
        with torch.no_grad():
            running = {k: v.clone() for k, v in step.model.state_dict().items()}
            logits = step.model(images)
            step.model.load_state_dict(running)
        errors += int((logits.argmax(1) != labels).sum())
        losses += float(F.cross_entropy(logits, labels))
        step()
    assert int(step.error_count) == errors
    assert float(step.loss_sum) == pytest.approx(losses, rel=1e-5)
    assert int(step.iteration) == 5


def test_the_device_schedule_equals_the_pure_one_at_every_iteration():
    step = make_step("train.iterations=400", "train.lr_drops=[100,101,300]", "train.lr=0.1")
    for iteration in range(400):
        step.iteration.fill_(iteration)
        assert float(step.learning_rate()) == pytest.approx(step.schedule.rate(iteration), rel=1e-6)


def feed_errors(step, errors):
    """Run the warm-up's bookkeeping alone, one mini-batch of 16 after the other; where it ended or -1."""
    for count in errors:
        step.iteration.add_(1)
        step.update_warmup(torch.tensor(count), torch.tensor(True))
    return int(step.warmup_end)


def reference_warmup_end(schedule, errors, batch=16):
    """The same rule in plain Python from `Schedule.warmup_ends`."""
    for done in range(1, len(errors) + 1):
        window = errors[max(0, done - schedule.warmup_window) : done]
        if schedule.warmup_ends(done, 100 * sum(window) / (len(window) * batch)):
            return done
    return -1


@pytest.mark.parametrize("kind", ["error80", "fixed400"])
@pytest.mark.parametrize("seed", range(4))
def test_the_warmup_on_the_device_equals_the_pure_rule(kind, seed):
    generator = torch.Generator().manual_seed(seed)
    level = 17 - torch.arange(150) // 25
    errors = [int(min(16, torch.randint(max(1, int(high) - 3), int(high) + 1, (1,), generator=generator)))
              for high in level]
    step = make_step(f"train.warmup={kind}", "train.warmup_window=10", "train.warmup_max=120")
    if kind == "fixed400":
        step.schedule = replace(step.schedule, warmup_max=77)
    assert feed_errors(step, errors) == reference_warmup_end(step.schedule, errors) > 0


def test_the_warmup_never_comes_back():
    step = make_step("train.warmup=error80", "train.warmup_window=5")
    assert feed_errors(step, [0] * 5 + [16] * 50) == 5
    assert int(step.warming) == 0
    assert float(step.learning_rate()) == pytest.approx(step.schedule.rate(55))


def test_the_warmup_window_forgets():
    step = make_step("train.warmup=error80", "train.warmup_window=4", "train.warmup_max=1000")
    assert feed_errors(step, [16] * 30 + [0] * 4) == 31  # one batch of four without errors: 75 %


def test_the_switch_to_the_full_rate_is_used_by_the_next_update():
    step = make_step("train.warmup=error80", "train.warmup_max=3", "train.warmup_window=100")
    rates = []
    for _ in range(5):
        advance(step, 1)
        rates.append(round(float(step.optimizer.rate), 6))
    assert rates == [0.01, 0.01, 0.01, 0.05, 0.05]
    assert step.schedule.warmup is WarmUp.error80


def test_a_loss_that_is_not_finite_stops_before_the_update():
    step = make_step()
    advance(step, 3)
    with torch.no_grad():
        step.model.fc.bias[0] = float("inf")
    before = {k: v.clone() for k, v in step.model.named_parameters()}
    momentum = [buffer.clone() for buffer in step.optimizer.momentum]
    last = float(step.last_loss)
    advance(step, 2)
    assert int(step.failed_at) == 3
    assert int(step.iteration) == 3
    assert float(step.last_loss) == last
    assert all(torch.equal(before[k], v) for k, v in step.model.named_parameters())
    assert all(torch.equal(a, b) for a, b in zip(momentum, step.optimizer.momentum, strict=True))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bit_steps_train_and_keep_fp32_weights(precision):
    step = make_step(f"machine.precision={precision}")
    advance(step, 3)
    assert int(step.failed_at) == -1
    assert all(p.dtype == torch.float32 for p in step.model.parameters())
    exact = make_step()
    advance(exact, 3)
    assert float(step.last_loss) == pytest.approx(float(exact.last_loss), rel=0.1)


def test_the_static_loss_scale_leaves_fp32_sized_gradients():
    exact, scaled = make_step(), make_step()
    scaled.loss_scale = 1024.0
    advance(exact, 2)
    advance(scaled, 2)
    for a, b in zip(exact.model.parameters(), scaled.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_divergence_noticed_passes_later_breaks_nothing():
    """On a GPU the host looks at failed_at now and then; until it does, the order moves on and the step does not."""
    step = make_step("train.mini_batch_size=50", "train.batch_norm_group=50")
    with torch.no_grad():
        step.model.fc.bias[0] = float("nan")
    for done in range(9):  # passes of 2 mini-batches
        step.input.prepare(done * 50)
        step()
    assert int(step.failed_at) == 0
    assert int(step.iteration) == 0
