"""How a trained network is tested: integer error counts over every image once, in evaluation mode."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.data.augment import normalize
from repro.data.cifar10 import DeviceData
from repro.data.imagenet import ImageNetData
from repro.devices import autocast
from repro.schema import Precision, RunConfig


@dataclass(frozen=True)
class Outcome:
    """Errors among `images` and the mean cross-entropy; on ImageNet also how many are not among the first five."""

    errors: int
    images: int
    loss: float
    top5_errors: int | None = None

    @property
    def top1_error(self) -> float:
        """Percent."""
        return 100.0 * self.errors / self.images

    def errors_on(self, split: str) -> dict[str, float]:
        """{"val_top1_error": percent, ...} for the split that was tested."""
        found = {f"{split}_top1_error": self.top1_error}
        if self.top5_errors is not None:
            found[f"{split}_top5_error"] = 100.0 * self.top5_errors / self.images
        return found


def evaluate_on(model: nn.Module, data: DeviceData | ImageNetData, config: RunConfig, rank: int = 0,
                size: int = 1) -> Outcome:
    """The error of a network on the images that a resolved configuration's run is evaluated on, single view.

    Of several processes (`size`) each tests its own images, and every image is tested by one of them.
    """
    if isinstance(data, ImageNetData):
        return center_view(model, data, config, rank, size)
    machine = config.machine
    return single_view(model, data.eval_images[rank::size], data.eval_labels[rank::size], data.mean,
                       machine.evaluation_batch_size, machine.precision, bool(machine.channels_last), data.std)


@torch.no_grad()
def center_view(model: nn.Module, data: ImageNetData, config: RunConfig, rank: int = 0, size: int = 1) -> Outcome:
    """Test the center crop of every `size`-th validation image from `rank` on (authors' README); see `evaluate_on`.

    The cross-entropy is that of fp32 logits, whatever the network computed in.
    """
    machine, device = config.machine, data.mean.device
    memory_format = torch.channels_last if machine.channels_last else torch.contiguous_format
    errors, top5_errors = torch.zeros((2,), dtype=torch.int64, device=device).unbind()
    loss = torch.zeros((), dtype=torch.float64, device="cpu" if device.type == "mps" else device)
    images = 0
    was_training = model.training
    model.eval()
    try:
        for pixels, labels in data.validation(machine.evaluation_batch_size, rank, size):
            with autocast(device, machine.precision):
                logits = model(pixels.contiguous(memory_format=memory_format)).float()
            first_five = logits.argsort(dim=1, descending=True, stable=True)[:, :5]
            errors += (first_five[:, 0] != labels).sum()
            top5_errors += (first_five != labels[:, None]).all(1).sum()
            loss += F.cross_entropy(logits, labels, reduction="sum").to(loss.device)
            images += len(labels)
    finally:
        model.train(was_training)
    return Outcome(int(errors), images, float(loss) / max(1, images), int(top5_errors))


def single_view(model: nn.Module, images: Tensor, labels: Tensor, mean: Tensor, batch_size: int,
                precision: Precision = Precision.fp32, channels_last: bool = False,
                std: Tensor | None = None) -> Outcome:
    """Test the original image, one view (Sec. 4.2).

    images: (N, 3, H, W) uint8; labels: (N,) int64; mean, std: pixels 0..255, see `repro.data.augment.normalized`. The
    model is left in the mode that it was in.
    """
    errors = torch.zeros((), dtype=torch.int64, device=images.device)
    loss = torch.zeros((), dtype=torch.float32, device=images.device)
    count_errors(model, images, labels, mean, batch_size, precision, channels_last, std, errors, loss)
    return Outcome(int(errors), len(images), float(loss) / len(images))


@torch.no_grad()
def count_errors(model: nn.Module, images: Tensor, labels: Tensor, mean: Tensor, batch_size: int, precision: Precision,
                 channels_last: bool, std: Tensor | None, errors: Tensor, loss: Tensor) -> None:
    """Add the errors of `single_view` to `errors`, () int64, and the summed cross-entropy to `loss`, () float32.

    No value is read on the host, so that it can be captured in a CUDA graph.
    """
    was_training = model.training
    model.eval()
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    try:
        for begin in range(0, len(images), batch_size):
            batch = normalize(images[begin : begin + batch_size], mean, std).contiguous(memory_format=memory_format)
            target = labels[begin : begin + batch_size]
            with autocast(images.device, precision):
                logits = model(batch)
            logits = logits.float()
            errors += (logits.argmax(1) != target).sum()
            loss += F.cross_entropy(logits, target, reduction="sum")
    finally:
        model.train(was_training)
