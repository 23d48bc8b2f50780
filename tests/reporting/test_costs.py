"""costs.yaml against what is counted and measured here, and what `repro show` makes of it."""

import json
import re

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from repro.commands.settings import training_images
from repro.config import compose, experiments, paper_config
from repro.models import build_model
from repro.paper import costs, golden_count
from repro.reporting.run_cost import computed, gigabytes, resources
from repro.reporting.settings import counts

TRAINED = [name for name in experiments() if name.startswith("imagenet_") and "vgg" not in name]


def activation_bytes(experiment: str) -> float:
    """Bytes that the backward pass keeps for one more image of 224x224: shapes alone, on the meta device."""
    with torch.device("meta"):
        model = build_model(paper_config(experiment).model).train()
        few, more = (kept_on_meta(model, torch.empty(count, 3, 224, 224)) for count in (2, 4))
    return (more - few) / 2


def kept_on_meta(model: nn.Module, images: Tensor) -> int:
    """Bytes that a forward pass on the meta device keeps for its backward pass, weights and buffers apart."""
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model(images)
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own)


def test_every_trained_imagenet_experiment_has_its_cost():
    assert sorted(costs().experiments) == sorted(TRAINED)


@pytest.mark.parametrize("experiment", TRAINED)
def test_the_activations_are_those_of_the_network(experiment: str):
    assert costs().experiments[experiment].activation_bytes == activation_bytes(experiment)


@pytest.mark.parametrize("experiment", TRAINED)
def test_the_operations_are_those_of_the_schedule(experiment: str):
    config = paper_config(experiment)
    assert config.model.depth is not None
    one = golden_count("imagenet", config.model.depth).multiply_adds[config.model.shortcut_option.name]
    exact = 3 * 2 * one * config.train.mini_batch_size * config.train.iterations / 1e18
    assert costs().experiments[experiment].exaflop == float(f"{exact:.3g}")


def test_the_parts_of_a_cost():
    config = paper_config("imagenet_resnet50")
    found = computed(config, counts(config, 600_000))
    assert found["training_operations"] == pytest.approx(6 * 3.858e9 * 256 * 600_000)
    assert found["gpu_hours"] == pytest.approx(found["training_operations"] / 1e14 / 3600)
    assert found["weights_bytes"] == 4 * 25_557_032
    assert found["training_bytes"] == 12 * 25_557_032
    assert found["checkpoint_bytes"] == 2 * 8 * 25_557_032
    assert found["activation_bytes"] == 256 * 81_694_720
    assert found["probabilities_bytes"] == 50_000 * 1000 * 2
    assert found["data_set_bytes"] == 144e9


def test_what_is_not_known_of_a_changed_network_is_left_out():
    other = compose(["experiment=imagenet_resnet50", "model.stride_in=conv3x3"])
    found = computed(other, counts(other, 600_000))
    assert "activation_bytes" not in found
    assert found["training_operations"] == pytest.approx(6 * 4.089e9 * 256 * 600_000)
    deeper = compose(["experiment=imagenet_resnet101", "model.stride_in=conv3x3"])
    assert "multiply_adds" not in counts(deeper, 1)
    smaller = compose(["experiment=imagenet_resnet50", "data.crop_size=192"])
    assert not {"training_operations", "activation_bytes"} & set(computed(smaller, counts(smaller, 600_000)))
    assert computed(paper_config("cifar_resnet20"), {}) == {}
    wiring = compose(["experiment=imagenet_resnet50", "machine=smoke"])
    assert computed(wiring, counts(wiring, 600)) == {}


@pytest.mark.parametrize(("overrides", "images"), [
    (["experiment=imagenet_optB"], 1_281_167), (["experiment=imagenet_optB", "machine=smoke"], None),
    (["experiment=cifar_resnet20"], 50_000), (["experiment=cifar_resnet20", "data.split='45k'"], 45_000)])
def test_the_images_of_a_pass(overrides: list[str], images: int | None):
    assert training_images(compose(overrides)) == images


def test_show_states_the_cost_and_that_it_is_computed(direct):
    out = direct("show", "experiment=imagenet_optB").out
    for words in ("600000 iterations, 119.89 passes", "training: 3.38 exaFLOP (computed",
                  "time: 9.4 GPU-hours, computed at 100 TFLOP/s sustained (assumed), without reading and decoding "
                  "images (repro bench input); not measured",
                  "memory in fp32 at mini-batch 256, all devices together: 8.5 GB (computed: 0.26 GB of weights",
                  "disk: about 144 GB of data set (published), 0.35 GB of checkpoints",
                  "reproduces: table3/resnet-34-b, table4/resnet-34-b"):
        assert words in out, words
    facts = json.loads(direct("show", "experiment=imagenet_optB", "--json").out)
    assert facts["cost"]["parameters"] == 21_797_672


def test_show_prefers_what_a_run_measured(direct, tmp_path):
    from tests.reporting.conftest import write_run

    write_run(tmp_path / "results", "imagenet_optB", test=27.0)
    out = direct("show", "experiment=imagenet_optB", "machine.device=cpu").out
    assert "finished run imagenet_optB/seed0" in out
    assert "GPU-hours" not in out


def test_show_counts_the_hours_of_every_device(direct, tmp_path):
    from tests.reporting.conftest import write_run

    write_run(tmp_path / "results", "imagenet_optB", test=27.0, change={
        "train_seconds": 17_000.0, "evaluation_seconds": 1000.0, "environment": {"device": "made-up", "devices": 8}})
    out = direct("show", "experiment=imagenet_optB", "machine.device=cpu").out
    assert "on 8 x made-up, fp32 (finished run imagenet_optB/seed0, 40 GPU-hours)" in out


@pytest.mark.parametrize("change", [{"train_seconds": None}, {"environment": None}], ids=str)
def test_a_run_whose_time_is_not_recorded_measures_nothing(direct, tmp_path, change):
    from tests.reporting.conftest import write_run

    write_run(tmp_path / "results", "imagenet_optB", test=27.0, change=change)
    assert "9.4 GPU-hours, computed" in direct("show", "experiment=imagenet_optB", "machine.device=cpu").out
    assert "imagenet_optB" in direct("list").out


def test_show_of_a_wiring_test_counts_no_passes(direct):
    out = direct("show", "experiment=imagenet_optB", "machine=smoke").out
    smoke = compose(["experiment=imagenet_optB", "machine=smoke"])
    assert f"{smoke.train.iterations} iterations, tested every {smoke.evaluation.interval} iterations" in out
    assert not re.search(r"passes \d|exaFLOP", out)


@pytest.mark.parametrize("experiment", TRAINED)
def test_what_the_list_says_is_what_the_composed_configuration_costs(experiment):
    config = compose([f"experiment={experiment}"])
    cost = computed(config, counts(config, config.train.iterations))
    memory = cost["training_bytes"] + cost["activation_bytes"]
    disk = cost["checkpoint_bytes"] + cost["weights_bytes"] + cost["probabilities_bytes"]
    assert resources(experiment) == f", {gigabytes(memory)} memory, {gigabytes(disk)} disk"
