"""Activation checkpointing changes the memory and nothing else."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from repro.config import paper_config
from repro.models import build_model
from repro.models.build import build_imagenet_model
from repro.models.checkpointing import Stage, set_checkpointing


def trained_once(model, images):
    """Gradients and buffers after one forward and backward pass."""
    F.cross_entropy(model(images), torch.arange(len(images)) % 10).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return gradients, dict(model.named_buffers())


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize("group", [0, 4])
@pytest.mark.parametrize("depth", [8, 20])
def test_gradients_and_statistics_are_the_same_bit_for_bit(depth, group):
    config = replace(paper_config("cifar_resnet20").model, blocks_per_stage=(depth - 2) // 6)
    plain = build_model(config, 0, group).train()
    other = copy.deepcopy(plain)
    set_checkpointing(other, True)
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 50
    for left, right in zip(trained_once(plain, images), trained_once(other, images), strict=True):
        assert_equal(left, right)
    if not group:
        assert all(int(b) == 1 for name, b in other.named_buffers() if name.endswith("num_batches_tracked"))


def test_statistics_would_move_twice_without_care(monkeypatch):
    """Negative control."""
    from contextlib import nullcontext

    from repro.models import checkpointing as module

    monkeypatch.setattr(module, "contexts", lambda segment: (nullcontext(), nullcontext()))
    model = build_model(paper_config("cifar_resnet20").model).train()
    set_checkpointing(model, True)
    trained_once(model, torch.randn(8, 3, 32, 32))
    assert int(model.stage1[0].bn1.num_batches_tracked) == 2


def test_bottleneck_networks_have_stages_too():
    model = build_imagenet_model(50, num_classes=10).train()
    other = copy.deepcopy(model)
    set_checkpointing(other, True)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    assert_equal(trained_once(model, images)[0], trained_once(other, images)[0])


@pytest.mark.parametrize(("blocks", "lengths"), [(1, [1]), (3, [2, 1]), (9, [3, 3, 3]), (18, [5, 5, 5, 3])])
def test_segments_are_about_as_many_as_they_are_long(blocks, lengths):
    stage = Stage(*(torch.nn.Identity() for _ in range(blocks)))
    assert [len(segment) for segment in stage.segments()] == lengths


def test_a_test_of_the_network_keeps_nothing_and_computes_nothing_twice():
    model = build_model(paper_config("cifar_resnet20").model).eval()
    set_checkpointing(model, True)
    calls = []
    model.stage1[0].conv1.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(torch.zeros(2, 3, 32, 32))
    assert calls == [1]
