"""Testing: integer error counts against a brute-force loop; every image once; the model is left as it was."""

import pytest
import torch
from torch import nn

from repro.config import compose
from repro.evaluation.protocols import Outcome, center_view, single_view
from repro.models import build_model
from tests.made import tiny_data


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(compose(["experiment=cifar_resnet20", "model.blocks_per_stage=1"]).model).train()


@pytest.mark.parametrize("batch_size", [1, 7, 30, 1000])
def test_counts_equal_brute_force_one_image_at_a_time(model, batch_size):
    data = tiny_data(tests=30)
    outcome = single_view(model, data.eval_images, data.eval_labels, data.mean, batch_size)
    model.eval()
    errors, loss = 0, 0.0
    with torch.no_grad():
        for image, label in zip(data.eval_images, data.eval_labels, strict=True):
            logits = model((image.float() - data.mean)[None])[0].double()
            errors += int(logits.argmax()) != int(label)
            loss += float(torch.logsumexp(logits, 0) - logits[label])
    assert outcome.errors == errors
    assert outcome.images == 30
    assert outcome.loss == pytest.approx(loss / 30, rel=1e-4)


@pytest.mark.parametrize("size", [1, 2])
def test_the_center_view_counts_as_a_loop_over_single_images(size):
    """Logits are those of a lookup by image number; the last of the batches is not full."""
    labels = torch.randint(0, 10, (103,), generator=torch.Generator().manual_seed(0))
    logits = torch.randn(103, 10, generator=torch.Generator().manual_seed(1))

    class Lookup(nn.Module):
        def forward(self, x):
            return logits[x[:, 0, 0, 0].long()]

    class Images:
        mean = torch.zeros(3, 1, 1)

        def validation(self, batch_size, rank, size):
            images = torch.arange(103.0)[:, None, None, None].expand(-1, 3, 1, 1)
            yield from zip(images[rank::size].split(batch_size), labels[rank::size].split(batch_size), strict=True)

    config = compose(["experiment=imagenet_optB", "machine.evaluation_batch_size=25", "machine.precision=fp32"])
    parts = [center_view(Lookup(), Images(), config, rank, size) for rank in range(size)]
    order = [sorted(range(10), key=lambda number: -values[number]) for values in logits.tolist()]
    assert sum(one.errors for one in parts) == sum(row[0] != label for row, label in zip(order, labels.tolist(),
                                                                                         strict=True))
    assert sum(one.top5_errors for one in parts) == sum(label not in row[:5] for row, label in zip(
        order, labels.tolist(), strict=True))
    loss = (logits.double().logsumexp(1) - logits.double()[range(103), labels]).mean()
    assert sum(one.loss * one.images for one in parts) / 103 == pytest.approx(float(loss), rel=1e-5)


def test_the_model_is_left_in_training_mode_with_its_statistics(model):
    data = tiny_data(tests=10)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    single_view(model, data.eval_images, data.eval_labels, data.mean, 5)
    assert model.training
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


def test_top1_error_is_in_percent():
    assert Outcome(875, 10_000, 0.3).top1_error == 8.75
