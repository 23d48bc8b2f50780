"""How errors are counted: the one place for training, `repro eval` and ensembles."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.devices import autocast, memory_format
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
    """(B, K) logits or probabilities and (B,) classes -> (2,) int64, top-1 and top-5 errors.

    Of equal scores the lower class comes first. Reads nothing on the host, so that a CUDA graph can hold it.
    """
    hits = scores.argsort(dim=1, descending=True, stable=True)[:, :TOP] == labels[:, None]
    return torch.stack([~hits[:, 0], ~hits.any(1)]).sum(1)


class ErrorSums:
    """Errors and cross-entropy, summed over batches on the device; only `outcome` waits for it."""

    def __init__(self, device: torch.device, imagenet: bool):
        self.imagenet, self.images = imagenet, 0
        self.errors = torch.zeros(2, dtype=torch.int64, device=device)
        self.loss = torch.zeros((), dtype=torch.float64 if imagenet else torch.float32,
                                device="cpu" if device.type == "mps" else device)  # MPS has no float64

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: (B, K) logits, of which the cross-entropy is taken in fp32, and (B,) classes."""
        logits = logits.float()
        self.errors += error_counts(logits, labels)
        self.loss += F.cross_entropy(logits, labels, reduction="sum").to(self.loss.device)
        self.images += len(labels)

    def outcome(self) -> Outcome:
        """The sums as numbers; waits for the device."""
        top1, top5 = self.errors.tolist()
        return Outcome(top1, self.images, float(self.loss) / max(1, self.images), top5 if self.imagenet else None)


@torch.no_grad()
def evaluate_on(model: nn.Module, data: Any, config: RunConfig, rank: int = 0, size: int = 1) -> Outcome:
    """Errors on the images that a run is evaluated on, single view; of `size` processes each tests its share.

    data: a DeviceData or ImageNetData, whose batches are normalized images (B, 3, H, W) and classes (B,). The model
    keeps its mode.
    """
    machine, was_training = config.machine, model.training
    sums = ErrorSums(data.mean.device, config.data.name == IMAGENET)
    model.eval()
    try:
        for images, labels in data.evaluation_batches(machine.evaluation_batch_size, rank, size):
            with autocast(images.device, machine.precision):
                logits = model(images.contiguous(memory_format=memory_format(machine)))
            sums.add(logits, labels)
    finally:
        model.train(was_training)
    return sums.outcome()
