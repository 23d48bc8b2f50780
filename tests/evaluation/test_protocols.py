"""Testing: integer error counts against a brute-force loop; every image once; the model is left as it was."""

import pytest
import torch

from repro.config import compose
from repro.evaluation.protocols import Outcome, single_view
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


def test_the_model_is_left_in_training_mode_with_its_statistics(model):
    data = tiny_data(tests=10)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    single_view(model, data.eval_images, data.eval_labels, data.mean, 5)
    assert model.training
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


def test_top1_error_is_in_percent():
    assert Outcome(875, 10_000, 0.3).top1_error == 8.75
