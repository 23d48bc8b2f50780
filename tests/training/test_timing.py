"""What is measured before a run: the faster memory format, once for each kind of network."""

from dataclasses import replace

import pytest

from repro.config import compose
from repro.devices import resolve
from repro.schema import Engine, Precision
from repro.training import timing
from tests.made import tiny_config, with_machine


@pytest.fixture
def measured(monkeypatch):
    """The configurations that are measured; the later one is the faster."""
    found = []
    monkeypatch.setattr(timing, "_formats", {})
    monkeypatch.setattr(timing, "prepare", lambda config: found.append(config))
    monkeypatch.setattr(timing, "update_seconds", lambda execution: 1 / len(found))
    return found


def undecided(*words):
    return timing.with_channels_last(tiny_config(*words), None)


def test_the_faster_format_is_taken(measured):
    config, times = timing.with_memory_format(undecided())
    assert config.machine.channels_last is True
    assert times == {"contiguous": 1000.0, "channels_last": 500.0}
    assert [one.engine for one in measured] == [Engine.eager] * 2


def test_captured_updates_are_measured_where_the_run_compiles(measured):
    timing.with_memory_format(replace(undecided(), engine=Engine.compile))
    assert [one.engine for one in measured] == [Engine.graph] * 2


@pytest.mark.parametrize(("words", "times"), [
    ([], 2), (["seed=3", "train.lr=0.2"], 2), (["model.blocks_per_stage=18"], 2), (["model.family=plain"], 2),
    (["train.mini_batch_size=32", "train.batch_norm_group=32"], 4)])
def test_once_in_a_process_for_networks_of_the_same_layers(words, times, measured):
    timing.with_memory_format(undecided())
    timing.with_memory_format(undecided(*words))
    assert len(measured) == times


def test_other_precisions_and_imagenet_networks_are_measured_by_themselves(measured):
    timing.with_memory_format(undecided())
    timing.with_memory_format(with_machine(undecided(), precision=Precision.bf16))
    for name in ("imagenet_resnet50", "imagenet_resnet101"):
        timing.with_memory_format(timing.with_channels_last(resolve(compose([f"experiment={name}"])), None))
    assert len(measured) == 8


def test_each_of_several_devices_has_its_share_of_a_mini_batch(measured):
    timing.with_memory_format(undecided(), 2)
    assert {one.train.mini_batch_size for one in measured} == {8}


def test_updates_in_both_formats_are_really_done(monkeypatch):
    monkeypatch.setattr(timing, "_formats", {})
    monkeypatch.setattr(timing, "CPU_IMAGES", 512)
    _, times = timing.with_memory_format(undecided("machine.threads=1"))
    assert all(0.1 < value < 10_000 for value in times.values())
