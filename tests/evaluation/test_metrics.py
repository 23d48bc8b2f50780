"""Error counts, responses (Fig. 7), gradient norms and averaged statistics against brute force in float64."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from repro.evaluation import metrics
from repro.evaluation.metrics import Outcome, error_counts, evaluate_on, layer_responses, with_averaged_statistics
from repro.models import build_model, weighted_layers
from tests.made import scatter, tiny_config, tiny_data

MODEL = tiny_config().model


# ---- errors

@pytest.mark.parametrize("classes", [5, 6, 1000])
def test_counts_equal_brute_force(classes):
    generator = torch.Generator().manual_seed(classes)
    logits, labels = 4 * torch.randn(400, classes, generator=generator), torch.arange(400) % classes
    better = [sum(value > row[label] for value in row)
              for row, label in zip(logits.double().softmax(1).tolist(), labels.tolist(), strict=True)]
    top1, top5 = sum(count >= 1 for count in better), sum(count >= 5 for count in better)
    assert error_counts(logits, labels).tolist() == error_counts(logits.softmax(1), labels).tolist() == [top1, top5]
    assert top1 > 0
    assert (top5 > 0) == (classes > 5)


def test_equal_scores_count_in_the_order_of_the_classes():
    assert error_counts(torch.full((7, 7), 1 / 7), torch.arange(7)).tolist() == [6, 2], "and not as seven hits"


def test_errors_are_in_percent_and_named_by_their_split():
    assert Outcome(875, 10_000, 0.3).errors_on("test") == {"test_top1_error": 8.75}
    assert Outcome(20, 80, 0.3, 10).errors_on("val") == {"val_top1_error": 25, "val_top5_error": 12.5}


def test_a_single_view_equals_brute_force_and_leaves_the_model_as_it_was():
    torch.manual_seed(0)
    net, data = build_model(MODEL).train(), tiny_data(tests=31)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    for size in (7, 1000):
        found = evaluate_on(net, data, tiny_config(f"machine.evaluation_batch_size={size}"))
        assert net.training
        assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())
        errors, loss = 0, 0.0
        with torch.no_grad():
            for image, label in zip(data.eval_images, data.eval_labels, strict=True):
                logits = net.eval()((image.float() - data.mean)[None])[0].double()
                errors += int(logits.argmax()) != int(label)
                loss += float(torch.logsumexp(logits, 0) - logits[label])
        net.train()
        assert (found.errors, found.images, found.top5_errors) == (errors, 31, None)
        assert found.loss == pytest.approx(loss / 31, rel=1e-4)
    parts = [evaluate_on(net, data, tiny_config(), rank, 2) for rank in range(2)]
    assert [part.images for part in parts] == [16, 15], "each image is tested by one of the processes"
    assert sum(part.errors for part in parts) == errors


# ---- beside the errors

@pytest.mark.parametrize("overrides", [("model=plain", "model.blocks_per_stage=1"), ("model.shortcut_option=C",)])
def test_responses_are_after_normalization_and_before_the_addition(overrides):
    """Recomputed layer by layer with the network's own weights, written out by hand."""
    model = scatter(build_model(tiny_config(*overrides).model, seed=3))
    images, mean = tiny_data().eval_images, tiny_data().mean
    found = layer_responses(model, (batch.float() - mean for batch in images.split(7)))
    expected = []

    def normalized(conv, bn, x):
        out = bn(conv(x))
        expected.append(out.double().numpy())
        return out

    model.eval()
    with torch.no_grad():
        x = torch.relu(normalized(model.conv1, model.bn1, images.float() - mean))
        for block in (*model.stage1, *model.stage2, *model.stage3):
            out = torch.relu(normalized(block.conv1, block.bn1, x))
            out = normalized(block.conv2, block.bn2, out)
            x = torch.relu(out if block.shortcut is None else out + block.shortcut(x))
    assert [row[0] for row in found] == list(range(1, 8))
    for (_, _, channels, mean, std), values in zip(found, expected, strict=True):
        assert std == pytest.approx(values.std(), rel=1e-5)
        assert mean == pytest.approx(values.mean(), rel=1e-4, abs=1e-6)
        assert channels == values.shape[1]
    assert [row[1] for row in found][:3] == ["conv1", "stage1.0.conv1", "stage1.0.conv2"]


def test_responses_leave_the_model_as_it_was():
    model = scatter(build_model(MODEL)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layer_responses(model, [tiny_data().eval_images.float()])
    with pytest.raises(RuntimeError):
        layer_responses(model, [tiny_data().eval_images.float()[:, :2]])
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_gradient_norms_are_those_of_the_loss():
    model, data = build_model(MODEL), tiny_data()
    F.cross_entropy(model(data.eval_images.float() - data.mean), data.eval_labels).backward()
    found = metrics.gradient_norms(model)
    assert [name for _, name, _ in found] == [name for name, _ in weighted_layers(model)]
    for _, name, norm in found:
        gradient = model.get_submodule(name).weight.grad.numpy().astype(np.float64)
        assert norm == pytest.approx(np.sqrt((gradient**2).sum()), rel=1e-12)


@pytest.mark.parametrize("group", [0, 4])
def test_averaged_statistics_are_the_average_of_each_batch_and_leave_the_model_alone(group):
    """Means and unbiased variances, with equal weights over mini-batches (or over their groups), in any order."""
    generator = torch.Generator().manual_seed(2)
    images = [30 * torch.randn(8, 3, 32, 32, generator=generator) * (1 + number) for number in range(3)]
    model = build_model(MODEL, batch_norm_group=group)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        parts = [part for batch in images for part in torch.split(model.conv1(batch).double(), group or len(batch))]
    mean = torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0)
    variance = torch.stack([part.var((0, 2, 3)) for part in parts]).mean(0)
    for order in (images, images[::-1]):
        averaged = with_averaged_statistics(model, iter(order))
        assert torch.allclose(averaged.bn1.running_mean.double(), mean, rtol=1e-4, atol=1e-4)
        assert torch.allclose(averaged.bn1.running_var.double(), variance, rtol=1e-4)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
