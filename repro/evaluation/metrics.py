"""What is measured of a network: its errors, its layers' responses and gradients, plainly averaged statistics."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from repro.devices import autocast, memory_format
from repro.models import weighted_layers
from repro.schema import IMAGENET, RunConfig

TOP = 5  # Sec. 4.1: top-1 and top-5 error


@dataclass(frozen=True)
class Outcome:
    """Errors among `images` and the mean cross-entropy; top-5 errors on ImageNet only."""

    errors: int
    images: int
    loss: float
    top5_errors: int | None = None

    @property
    def top1_error(self) -> float:
        return 100.0 * self.errors / self.images

    def errors_on(self, split: str) -> dict[str, float]:
        """{"val_top1_error": percent, ...} for the split that was evaluated."""
        found = {f"{split}_top1_error": self.top1_error}
        if self.top5_errors is not None:
            found[f"{split}_top5_error"] = 100.0 * self.top5_errors / self.images
        return found


def error_counts(scores: Tensor, labels: Tensor) -> Tensor:
    """(B, K) logits or probabilities and (B,) classes -> (2,) int64, top-1 and top-5 errors."""
    order = scores.argsort(dim=1, descending=True, stable=True)  # of equal scores the lower class comes first
    hits = order[:, :TOP] == labels[:, None]
    return torch.stack([~hits[:, 0], ~hits.any(1)]).sum(1)


@torch.no_grad()
def evaluate_on(model: nn.Module, data: Any, config: RunConfig, rank: int = 0, size: int = 1) -> Outcome:
    """Errors on the images of a DeviceData or ImageNetData, single view; of `size` processes each tests its share."""
    machine, was_training, imagenet = config.machine, model.training, config.data.name == IMAGENET
    count, device = 0, data.mean.device
    errors = torch.zeros(2, dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64 if imagenet else torch.float32,
                       device="cpu" if device.type == "mps" else device)  # MPS has no float64
    model.eval()
    try:
        for images, labels in data.evaluation_batches(machine.evaluation_batch_size, rank, size):
            with autocast(images.device, machine.precision):
                logits = model(images.contiguous(memory_format=memory_format(machine)))
            logits = logits.float()  # the cross-entropy is taken in fp32
            errors += error_counts(logits, labels)
            loss += F.cross_entropy(logits, labels, reduction="sum").to(loss.device)
            count += len(labels)
    finally:
        model.train(was_training)
    top1, top5 = errors.tolist()
    return Outcome(top1, count, float(loss) / max(1, count), top5 if imagenet else None)


def exact(values: Tensor) -> Tensor:
    return (values.cpu() if values.device.type == "mps" else values).double()  # MPS has no float64


class Moments:
    """Mean and standard deviation of a stream of tensors (N, C, H, W), in float64 (Chan et al. 1979)."""

    count, channels, mean, squares = 0, 0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        variance, mean = torch.stack(torch.var_mean(exact(values), correction=0)).tolist()
        old, new = self.count, values.numel()
        difference = mean - self.mean
        self.count, self.channels = old + new, values.shape[1]
        self.mean += difference * (new / self.count)
        self.squares = self.squares + variance * new + difference * difference * (old * new / self.count)

    def std(self) -> float:
        """The population standard deviation."""
        return float(torch.tensor(self.squares / self.count, dtype=torch.float64).sqrt())  # math.sqrt rounds otherwise


@torch.no_grad()
def layer_responses(model: nn.Module, batches: Iterable[Tensor]) -> list[tuple[int, str, int, float, float]]:
    """(layer from 1, name, channels, mean, std) of every 3x3 layer's responses to normalized images (B, 3, H, W).

    Fig. 7: after batch normalization, before ReLU or addition. Choice: std over all images, channels and positions.
    """
    found = {name: Moments() for name, layer in weighted_layers(model) if layer.weight.shape[2:] == (3, 3)}
    handles = [model.get_submodule("bn".join(name.rsplit("conv", 1))).register_forward_hook(  # bn2 follows conv2
        lambda _module, _inputs, output, add=moments.add: add(output)) for name, moments in found.items()]
    was_training = model.training
    model.eval()
    try:
        for images in batches:
            model(images)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return [(number, name, moments.channels, moments.mean, moments.std())
            for number, (name, moments) in enumerate(found.items(), 1)]


def gradient_norms(model: nn.Module) -> list[tuple[int, str, float]]:
    """(layer from 1, name, L2 norm of its weight's gradient, of the loss alone) of every weighted layer (Sec. 4.1)."""
    norms = []
    for number, (name, layer) in enumerate(weighted_layers(model), 1):
        assert layer.weight.grad is not None, "no backward pass yet"
        norms.append((number, name, float(torch.linalg.vector_norm(exact(layer.weight.grad)))))
    return norms


def with_averaged_statistics(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """A copy of the model whose running statistics are plain averages over batches (N, 3, H, W) (authors' README)."""
    averaged = copy.deepcopy(model)
    update_bn(batches, averaged)
    return averaged
