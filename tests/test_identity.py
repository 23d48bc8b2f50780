"""Identities pinned: keys that came later must leave the folders and records of earlier runs as they are."""

import json

import pytest

from repro import config as configuration
from repro.config import ADDED_LATER, compose, config_hash, paper_config, read_config, with_precision
from repro.errors import ConfigError
from repro.paper import read_yaml
from repro.paths import experiments_dir, reference_dir
from repro.runs import parse_record
from repro.schema import Precision

# In fp32; those on CIFAR-10 were computed before any key of ADDED_LATER existed.
EXPERIMENTS = read_yaml(experiments_dir() / "identities.yaml")
RECORDS = {"cifar_plain20": "355b87e44356", "cifar_plain56": "ceadae2e5f3a", "cifar_resnet20": "917312f2e0b9",
           "cifar_resnet56": "b2d74ca43376"}


def record_of(name: str) -> dict:
    path = reference_dir() / "runs" / f"{name}@{RECORDS[name]}" / "seed0" / "run.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_experiment_keeps_its_identity_and_none_is_shared():
    found = {name: config_hash(with_precision(paper_config(name), Precision.fp32))
             for name in configuration.experiments()}
    assert found == EXPERIMENTS, "pin what `repro show` prints (fp32) in experiments/identities.yaml"
    assert len({*EXPERIMENTS.values(), *RECORDS.values()}) == len(EXPERIMENTS) + len(RECORDS)


def test_a_committed_record_keeps_its_identity_and_its_deviations():
    for name, identity in RECORDS.items():
        record = record_of(name)
        config = read_config(record["config"])
        assert record["identity"] == identity == config_hash(config)
        assert configuration.deviations(config) == record["deviations"]


def test_keys_that_are_gone_leave_a_record_as_it_is():
    recorded = record_of("cifar_resnet20")["config"]
    recorded |= {"part_size": "15M"}
    recorded["machine"] |= {"decoder": "torchcodec"}
    recorded["data"] |= {"on_bad": "fail"}
    assert config_hash(read_config(recorded)) == RECORDS["cifar_resnet20"]
    recorded["data"] |= {"on_bad": "skip"}
    with pytest.raises(ConfigError, match="on_bad"):  # such a run saw other images
        read_config(recorded)


def test_what_only_earlier_records_say_is_read():
    record = record_of("cifar_resnet20") | {"memory_bytes": 10**9}  # as of runs that are still in progress
    for part in (record["environment"], *record["sessions"]):
        part |= {"jobs_per_device": 1, "updates_per_graph": 20, "memory_format_ms": {"channels_last": 300.5}}
    assert parse_record(record).memory_bytes == 10**9


def test_what_came_later_is_what_conf_says_and_another_value_counts():
    paper = configuration.settings(paper_config("cifar_resnet20"))
    assert {key: paper[key] for key in ADDED_LATER} == ADDED_LATER
    changed = with_precision(compose(["experiment=cifar_resnet20", "model.fc_init=msra"]), Precision.fp32)
    assert config_hash(changed) != EXPERIMENTS["cifar_resnet20"]
    recorded = configuration.to_dict(changed)
    assert read_config(recorded) == changed, "what is recorded wins"
    del recorded["model"]["fc_init"]
    assert config_hash(read_config(recorded)) == EXPERIMENTS["cifar_resnet20"]


@pytest.mark.parametrize(("change", "words"), [
    (lambda c: c["train"].pop("lr"), "no config.train.lr"), (lambda c: c.update(train=3), "no config.train.mini_batch"),
    (lambda c: c["train"].update(lrr=1), "unknown key config.train.lrr; did you mean train.lr?"),
    (lambda c: c["train"].update(lr="0.1"), "config.train.lr"), (lambda c: c["train"].update(lr=-1), "train.lr=-1"),
    (lambda c: c.update(x={"y": {"z": 1}}), "unknown key config.x.y"), (lambda c: c.clear(), "no config.name")])
def test_a_recorded_configuration_that_can_not_be_is_named(change, words):
    recorded = record_of("cifar_resnet20")["config"]
    change(recorded)
    with pytest.raises(ConfigError) as caught:
        read_config(recorded)
    assert words in str(caught.value)


def test_a_checkpoint_that_is_older_than_a_key_still_goes_on(monkeypatch):
    import torch

    from repro.training import checkpoint
    from repro.training.distributed import World, plan

    class Step:
        world, iteration, device = World(), 0, torch.device("cpu")

        def load_state(self, state):
            self.iteration = state["iteration"]

    config = with_precision(paper_config("cifar_resnet20"), Precision.fp32)
    old = {key: value for key, value in checkpoint.seed_and_settings(config).items() if key not in ADDED_LATER}
    meta = {"numbers": old | {"data.on_bad": "fail"}, "train_seconds": 1.0, "evaluation_seconds": 2.0}
    monkeypatch.setattr(checkpoint, "load_newest", lambda folder: ({"iteration": 7, "rows": {}}, meta))
    step = Step()
    checkpoint.restore(step, plan(config))
    assert step.iteration == 7
    changed = compose(["experiment=cifar_resnet20", "model.fc_init=msra", "machine.precision=fp32"])
    with pytest.raises(ConfigError, match=r"model\.fc_init: uniform_zero_bias, now msra"):
        checkpoint.restore(Step(), plan(changed))


@pytest.mark.fault(76)
def test_a_zero_has_no_sign():
    words = ["experiment=cifar_resnet20", "machine.precision=fp32", "train.lr=0.2"]
    negative, positive = (compose([*words, f"train.weight_decay={zero}"]) for zero in ("-0.0", "0"))
    assert config_hash(negative) == config_hash(positive)
