"""The suite that runs each seed in several precisions: what runs where, with CUDA and without. Nothing trains here."""

import re

import pytest
import torch

from repro.errors import ConfigError
from repro.paper import suite as read_suite
from repro.runs import run_folder
from repro.training import suite as module

CPU = ["machine.device=cpu"]


@pytest.fixture
def asked(monkeypatch):
    """`asked(seeds, overrides)`: (folder without identity, seed, precision) of each run that the suite would make."""
    def call(seeds: int, overrides: list[str]) -> list[tuple[str, int, str]]:
        found = []
        monkeypatch.setattr(module, "make_data", lambda config: None)
        monkeypatch.setattr(module, "run_unfinished", lambda configs, *rest: found.extend(configs))
        module.run_suite("cifar_precision", "paper", seeds, overrides, [])
        return [(re.sub("@.*", "@", run_folder(config).parent.name), config.seed, config.machine.precision.name)
                for config in found]
    return call


def test_on_a_cpu_fp32_stands_in_the_place_of_tf32_and_the_suite_says_so(asked, capsys):
    assert asked(2, CPU) == [
        ("cifar_resnet20", 0, "fp32"), ("cifar_resnet20@", 0, "fp16"), ("cifar_resnet20@", 0, "bf16"),
        ("cifar_resnet20", 1, "fp32"), ("cifar_resnet20@", 1, "fp16"), ("cifar_resnet20@", 1, "bf16")]
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("each seed in ")]
    assert line.startswith("each seed in fp32, fp16, bf16; fp32 stands in the place of tf32")


def test_with_cuda_runs_in_tf32_are_the_papers_and_those_in_16_bits_lie_apart(asked, capsys, monkeypatch):
    monkeypatch.delenv("REPRO_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert asked(1, []) == [
        ("cifar_resnet20", 0, "tf32"), ("cifar_resnet20@", 0, "fp16"), ("cifar_resnet20@", 0, "bf16")]
    assert "each seed in tf32, fp16, bf16\n" in capsys.readouterr().out


def test_a_precision_that_is_asked_for_runs_alone(asked):
    assert [precision for *_, precision in asked(2, [*CPU, "machine.precision=bf16"])] == ["bf16", "bf16"]


def test_a_suite_without_precisions_runs_as_configured():
    assert module.in_each_precision(read_suite("cifar_plain_vs_res"), CPU) == [CPU]


def test_auto_without_cuda_stops_with_one_message():
    with pytest.raises(ConfigError, match=r"suite cifar_precision needs a CUDA device.*preset=paper") as error:
        module.run_suite("cifar_precision", "auto", None, CPU, [])
    assert error.value.exit_code == 2


def test_the_cost_is_that_of_every_precision(monkeypatch):
    precisions = []

    def measure(config):
        precisions.append(config.machine.precision.name)
        return module.cost.Cost(config.name, "made-up device", precisions[-1], 0.5, 0.0, 3, "eager")
    monkeypatch.setattr(module.cost, "measure", measure)
    lines = []
    found = module.say_cost(read_suite("cifar_precision"), CPU, lines.append)
    assert precisions == ["auto", "fp16", "bf16"]
    assert found["total_seconds"] == 3 * 16 * 0.5 * 64000
    assert len(lines) == 4
