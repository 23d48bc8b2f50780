"""Schedule, warm-up, update rule, identities: each check passes, and finds what is made wrong."""

from dataclasses import replace

import pytest
import torch

from repro.config import compose, paper_config
from repro.schema import DecayOn
from repro.training import optimizer
from repro.training.schedule import Schedule
from repro.training.step import TrainStep
from repro.verification import identities, schedules, updates
from repro.verification.check import Mismatch

FEW = ("cifar_resnet20", "cifar_resnet110", "imagenet_optB")


def use(monkeypatch, *overrides, names=FEW):
    """Put a few experiments with these overrides in the place of all that are pinned."""
    found = [(name, compose([f"experiment={name}", *overrides])) for name in names]
    monkeypatch.setattr(schedules, "pinned_configs", lambda: iter(found))


@pytest.mark.parametrize("look", [schedules.schedule, schedules.warm_up, updates.update_rule, identities.identities])
def test_what_is_here_is_the_papers(look):
    assert look()


def test_every_trained_experiment_is_compared():
    assert "of 20 experiments, 3 training steps" in schedules.schedule()


@pytest.mark.parametrize(("override", "text"), [
    ("train.lr_drops=[31999,48000]", "cifar_resnet20 learning rate at iteration 31999: expected 0.1, found 0.01"),
    ("train.lr_factor=0.2", "cifar_resnet20 learning rate at iteration 32000: expected 0.01, found 0.02"),
    ("train.iterations=64001", "cifar_resnet20 iterations: expected 64000, found 64001"),
    ("train.weight_decay=5e-4", "cifar_resnet20 weight decay: expected 0.0001, found 0.0005"),
    ("train.momentum=0.95", "momentum"), ("train.mini_batch_size=64", "mini-batch"),
    ("train.warmup=error80", "cifar_resnet20 learning rate while the training error is above 80 %: expected no"),
    ("train.warmup=fixed400", "cifar_resnet110 learning rate while the training error is above 80 %: expected 0.01")])
def test_a_setting_that_is_not_the_papers(monkeypatch, override, text):
    names = FEW[1:2] if "fixed400" in override else FEW[:1]
    extra = ["train.batch_norm_group=64"] if "mini_batch" in override else []
    use(monkeypatch, override, *extra, names=names)
    with pytest.raises(Mismatch) as caught:
        schedules.schedule()
    assert text in str(caught.value)


def test_a_schedule_that_drops_one_iteration_late(monkeypatch):
    use(monkeypatch)
    monkeypatch.setattr(Schedule, "rate", lambda self, iteration, warming=False: self.warmup_lr if warming else
                        self.rates[sum(iteration > drop for drop in self.drops)])
    with pytest.raises(Mismatch, match=r"imagenet_optB learning rate at iteration 150000: expected 0\.01, found 0\.1"):
        schedules.schedule()


def test_a_training_step_that_drops_one_iteration_late(monkeypatch):
    use(monkeypatch)
    monkeypatch.setattr(TrainStep, "learning_rate", lambda self: self.rates[int((self.iteration > self.drops).sum())])
    with pytest.raises(Mismatch, match=r"^rates of the training step until iteration 64000"):
        schedules.schedule()


def test_a_warm_up_that_comes_back(monkeypatch):
    original = TrainStep.update_warmup

    def unlatched(step, errors, good):
        original(step, errors, good)
        if int(step.warmup_end) >= 0:
            step.warming.fill_(int(step.window.sum() >= 0.8 * step.window.numel() * step.mini_batch_size))

    monkeypatch.setattr(TrainStep, "update_warmup", unlatched)
    with pytest.raises(Mismatch, match="learning rate by iteration"):
        schedules.warm_up()


@pytest.mark.parametrize(("change", "text"), [
    ({"warmup_error": 85.0}, "iteration at which the warm-up ended"), ({"warmup_lr": 0.02}, "learning rate by"),
    ({"warmup_max": 200}, "iteration at which the warm-up ended"), ({"warmup_max": 10**6}, "the cap ends it")])
def test_a_warm_up_by_another_rule(monkeypatch, change, text):
    original = Schedule.of
    monkeypatch.setattr(Schedule, "of", lambda config: replace(original(config), **change))
    with pytest.raises(Mismatch) as caught:
        schedules.warm_up()
    assert text in str(caught.value)


def test_a_host_that_ends_the_warm_up_at_80_percent(monkeypatch):
    monkeypatch.setattr(Schedule, "warmup_ends", lambda self, done, error: error <= 80 or done >= self.warmup_max)
    with pytest.raises(Mismatch, match=r"whether 80.0 % ends it: expected False, found True"):
        schedules.warm_up()


def torch_form(self, rate, skip):
    """An update that leaves the momentum as it is when the rate changes."""
    self.rate.copy_(rate)
    self.apply()


@pytest.mark.parametrize(("what", "value"), [
    ("update", torch_form),
    ("update", lambda self, rate, skip: [p.data.sub_(rate * p.grad) for p in self.parameters])])
def test_another_update_rule(monkeypatch, what, value):
    monkeypatch.setattr(optimizer.MomentumSGD, what, torch.no_grad()(value))
    with pytest.raises(Mismatch, match="weights after three updates of cifar_plain20"):
        updates.update_rule()


@pytest.mark.parametrize(("change", "text"), [
    ({"weight_decay_on": DecayOn.weights}, "^scales after"), ({"weight_decay": 2e-4}, "^weights after"),
    ({"momentum": 0.91}, "^weights after")])
def test_another_optimizer_of_an_experiment(monkeypatch, change, text):
    config = paper_config("imagenet_optB")
    changed = replace(config, train=replace(config.train, **change))
    monkeypatch.setattr(schedules, "pinned_configs", lambda: iter([("imagenet_optB", changed)]))
    with pytest.raises(Mismatch, match=text):
        updates.update_rule()


@pytest.mark.parametrize("override", ["model.batch_norm_eps=1e-3", "train.weight_decay_on=weights", "data.flip=false",
                                      "model.zero_padding=both_sides"])
def test_an_experiment_that_was_changed(monkeypatch, override):
    changed = compose(["experiment=cifar_resnet20", override])
    monkeypatch.setattr(identities, "paper_config", lambda name: changed if name == "cifar_resnet20"
                        else paper_config(name))
    with pytest.raises(Mismatch) as caught:
        identities.identities()
    assert [one.expected for one in caught.value.differences] == ["ea1f1ecb1ebb"]
    assert "its runs are no longer those of the paper" in str(caught.value)


def test_an_experiment_that_is_gone_and_one_that_came(monkeypatch):
    known = identities.pinned()
    monkeypatch.setattr(identities, "pinned", lambda: {"cifar_resnet20": known["cifar_resnet20"]})
    assert identities.identities().startswith("1 experiments; not pinned yet: cifar_plain20, ")
    monkeypatch.setattr(identities, "pinned", lambda: {"cifar_resnet21": "ea1f1ecb1ebb"})
    with pytest.raises(Mismatch, match="found no such experiment"):
        identities.identities()
