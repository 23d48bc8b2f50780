"""Error counts against brute force in float64; sums over batches."""

import pytest
import torch
from torch.nn import functional as F

from repro.evaluation.metrics import ErrorSums, Outcome, error_counts, evaluate_on
from repro.models import build_model
from tests.made import tiny_config, tiny_data


def scores_and_labels(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(classes)
    return 4 * torch.randn(400, classes, generator=generator), torch.randint(0, classes, (400,), generator=generator)


@pytest.mark.parametrize("classes", [5, 6, 1000])
def test_counts_equal_brute_force(classes):
    logits, labels = scores_and_labels(classes)
    better = [sum(value > row[label] for value in row)
              for row, label in zip(logits.double().softmax(1).tolist(), labels.tolist(), strict=True)]
    top1, top5 = sum(count >= 1 for count in better), sum(count >= 5 for count in better)
    assert error_counts(logits, labels).tolist() == error_counts(logits.softmax(1), labels).tolist() == [top1, top5]
    assert top1 > 0
    assert (top5 > 0) == (classes > 5)


def test_equal_scores_count_in_the_order_of_the_classes():
    assert error_counts(torch.full((7, 7), 1 / 7), torch.arange(7)).tolist() == [6, 2], "and not as seven hits"


@pytest.mark.parametrize("imagenet", [False, True])
def test_sums_over_batches_stay_in_the_same_tensors(imagenet):
    logits, labels = scores_and_labels(10)
    sums = ErrorSums(torch.device("cpu"), imagenet)
    errors, loss = sums.errors, sums.loss
    for part, target in zip(logits.split(150), labels.split(150), strict=True):
        sums.add(part, target)
    found = sums.outcome()
    top1, top5 = error_counts(logits, labels).tolist()
    assert (found.errors, found.images, found.top5_errors) == (top1, 400, top5 if imagenet else None)
    assert found.loss == pytest.approx(float(F.cross_entropy(logits.double(), labels)), rel=1e-6)
    assert errors is sums.errors
    assert loss is sums.loss


def test_errors_are_in_percent_and_named_by_their_split():
    assert Outcome(875, 10_000, 0.3).errors_on("test") == {"test_top1_error": 8.75}
    assert Outcome(20, 80, 0.3, 10).errors_on("val") == {"val_top1_error": 25, "val_top5_error": 12.5}


def test_a_single_view_equals_brute_force_and_leaves_the_model_as_it_was():
    torch.manual_seed(0)
    net, data = build_model(tiny_config().model).train(), tiny_data(tests=31)
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
