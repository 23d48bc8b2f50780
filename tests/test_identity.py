"""Identities pinned: keys that came later must leave the folders and records of earlier runs as they are."""

import json
from pathlib import Path

import pytest

from repro.config import (
    ADDED_LATER,
    compose,
    config_hash,
    deviations,
    experiments,
    fill_added_settings,
    from_record,
    hash_settings,
    hashed_settings,
    paper_config,
    to_dict,
    with_precision,
)
from repro.errors import ConfigError
from repro.paper import pinned_hashes
from repro.paths import reference_dir
from repro.schema import Precision

EXPERIMENTS = pinned_hashes()  # fp32, those on CIFAR-10 computed before any key of ADDED_LATER existed
RECORDS = {"cifar_plain20": "355b87e44356", "cifar_plain56": "ceadae2e5f3a", "cifar_resnet20": "917312f2e0b9",
           "cifar_resnet56": "b2d74ca43376"}


def record_of(name: str) -> dict:
    path: Path = reference_dir() / "runs" / f"{name}@{RECORDS[name]}" / "seed0" / "run.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_experiment_keeps_its_identity_and_none_is_shared():
    found = {name: config_hash(with_precision(paper_config(name), Precision.fp32)) for name in experiments()}
    assert found == EXPERIMENTS, "pin what `repro show` prints (fp32) in experiments/identities.yaml"
    assert len({*EXPERIMENTS.values(), *RECORDS.values()}) == len(EXPERIMENTS) + len(RECORDS)


@pytest.mark.parametrize("name", RECORDS)
def test_a_committed_record_keeps_its_identity_and_its_deviations(name):
    record = record_of(name)
    assert record["identity"] == RECORDS[name] == hash_settings(record["config"])
    assert config_hash(from_record(record)) == RECORDS[name]
    assert deviations(from_record(record)) == record["deviations"]


def test_keys_that_are_gone_leave_a_record_as_it_is():
    record = record_of("cifar_resnet20")
    record["config"] |= {"part_size": "15M"}
    record["config"]["machine"] |= {"decoder": "torchcodec"}
    record["config"]["data"] |= {"on_bad": "fail"}
    assert hash_settings(record["config"]) == RECORDS["cifar_resnet20"] == config_hash(from_record(record))
    record["config"]["data"] |= {"on_bad": "skip"}
    assert hash_settings(record["config"]) != RECORDS["cifar_resnet20"], "such a run saw other images"
    with pytest.raises(ConfigError, match="on_bad"):
        from_record(record)
    with pytest.raises(ConfigError, match=r"data\.on_bad is no setting any more"):
        compose(["experiment=cifar_resnet20", "data.on_bad=skip"])


def test_what_came_later_is_what_conf_says_and_is_filled_in():
    paper = hashed_settings(to_dict(paper_config("cifar_resnet20")))
    assert {key: paper[key] for key in ADDED_LATER} == ADDED_LATER
    old = {key: value for key, value in paper.items() if key not in ADDED_LATER}
    assert fill_added_settings(old) == paper
    assert fill_added_settings({"model.fc_init": "msra"})["model.fc_init"] == "msra", "what is recorded wins"


def test_another_value_of_what_came_later_counts():
    changed = with_precision(compose(["experiment=cifar_resnet20", "model.fc_init=msra"]), Precision.fp32)
    assert config_hash(changed) != EXPERIMENTS["cifar_resnet20"]
    recorded = to_dict(changed)
    assert hash_settings(recorded) == config_hash(changed)
    del recorded["model"]["fc_init"]
    assert hash_settings(recorded) == EXPERIMENTS["cifar_resnet20"]


def test_a_checkpoint_that_is_older_than_a_key_still_goes_on(monkeypatch, tmp_path):
    import torch

    from repro.errors import ConfigError
    from repro.training import resume
    from repro.training.distributed import World
    from repro.training.plan import plan

    class Step:
        world, iteration, device = World(), 0, torch.device("cpu")

        def load_state(self, state):
            self.iteration = state["iteration"]

    config = with_precision(paper_config("cifar_resnet20"), Precision.fp32)
    old = {key: value for key, value in resume.seed_and_settings(config).items() if key not in ADDED_LATER}
    meta = {"numbers": old | {"data.on_bad": "fail"}, "train_seconds": 1.0, "evaluation_seconds": 2.0}
    monkeypatch.setattr(resume.checkpoint, "load_newest", lambda folder, device: ({"iteration": 7}, meta, []))
    step = Step()
    resume.restore(step, plan(config))
    assert step.iteration == 7
    changed = compose(["experiment=cifar_resnet20", "model.fc_init=msra", "machine.precision=fp32"])
    with pytest.raises(ConfigError, match=r"model\.fc_init: uniform_zero_bias, now msra"):
        resume.restore(Step(), plan(changed))


@pytest.mark.fault(76)
def test_a_zero_has_no_sign():
    words = ["experiment=cifar_resnet20", "machine.precision=fp32", "train.lr=0.2"]
    negative, positive = (compose([*words, f"train.weight_decay={zero}"]) for zero in ("-0.0", "0"))
    assert config_hash(negative) == config_hash(positive)
