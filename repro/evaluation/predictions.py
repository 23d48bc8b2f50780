"""Class probabilities of images by a protocol, and the errors among them."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from repro.devices import autocast, is_out_of_memory
from repro.errors import DivergedError, OutOfMemoryError
from repro.evaluation.fully_convolutional import dense_probabilities, probabilities
from repro.evaluation.normalizer import Normalizer
from repro.evaluation.views import CENTER, MULTI_SCALE, TEN_CROP, TEN_CROPS, Views, unpacked
from repro.schema import MachineConfig

MOST_PICTURES = 128  # Choice: crops in one forward pass at most, so that their activations fit beside the network's
MOST_IMAGES = 32  # Choice: whole images read together; those of the same size share a forward pass
STRIDE = 32  # Table 1: a last feature map has a 32nd of the image's side, rounded up
TOP = 5  # Sec. 4.1: top-1 and top-5 error


class Scorer:
    """A network in evaluation mode on its device, and the protocol that it is tested by.

    `machine` is resolved. The network is left in evaluation mode.
    """

    def __init__(self, model: nn.Module, views: Views, normalizer: Normalizer, machine: MachineConfig):
        self.model, self.views, self.machine = model.eval(), views, machine
        self.device = next(model.parameters()).device
        self.normalizer = normalizer.to(self.device)
        self.pictures = min(machine.evaluation_batch_size, MOST_PICTURES)
        self.window = -(-views.crop_size // STRIDE)

    @property
    def images_at_once(self) -> int:
        """How many images are to be read together."""
        if self.views.protocol == MULTI_SCALE:
            return min(self.machine.evaluation_batch_size, MOST_IMAGES)
        return max(1, int(self.pictures / self.views.pictures))

    @torch.no_grad()
    def __call__(self, loaded: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """(B, K) float32 probabilities of B images as `repro.evaluation.views.ViewReader` reads them.

        DivergedError if one of them is not a finite number; OutOfMemoryError if the device has too little memory.
        """
        try:
            scores = (self.of_whole_images(loaded) if self.views.protocol == MULTI_SCALE
                      else self.of_crops(np.asarray(loaded)))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise OutOfMemoryError(f"no memory left on {self.device.type} for {self.pictures} crops at once: "
                                       f"{str(error).splitlines()[0]}; have fewer with "
                                       f"machine.evaluation_batch_size={max(1, self.pictures // 2)}") from error
            raise
        if not bool(scores.isfinite().all()):
            raise DivergedError("the network's outputs are not finite numbers: the weights are of no use, or too large "
                                "for this precision (machine.precision=fp32)")
        return scores.cpu().numpy()

    def of_crops(self, loaded: np.ndarray) -> Tensor:
        """uint8 (B, S, S, 3) or (B, 6, S, S, 3) -> (B, K): the mean over the crops of an image."""
        assert self.views.protocol in (CENTER, TEN_CROP)
        pixels = self.on_device(loaded)
        crops = ten_crops(pixels) if self.views.protocol == TEN_CROP else pixels[:, None]
        pictures = crops.flatten(0, 1)
        parts = [pictures[begin : begin + self.pictures] for begin in range(0, len(pictures), self.pictures)]
        found = torch.cat([self.of_normalized(self.normalizer.crops(part), dense=False) for part in parts])
        return found.reshape(*crops.shape[:2], -1).mean(1)

    def of_whole_images(self, loaded: Sequence[np.ndarray] | np.ndarray) -> Tensor:
        """B images, `packed` at every scale -> (B, K): the mean over positions, flips and scales."""
        images = [unpacked(data) for data in loaded]
        found: dict[int, Tensor] = {}
        for scale in range(len(self.views.shorter_sides)):
            same_size = defaultdict(list)
            for number, pictures in enumerate(images):
                same_size[pictures[scale].shape].append(number)
            for (height, width, _), numbers in same_size.items():
                most = max(1, self.pictures * self.views.crop_size**2 // (2 * height * width))
                for begin in range(0, len(numbers), most):
                    part = numbers[begin : begin + most]
                    scores = self.of_pictures(np.stack([images[number][scale] for number in part]))
                    for number, score in zip(part, scores, strict=True):
                        found[number] = found[number] + score if scale else score
        return torch.stack([found[number] for number in range(len(images))]) / len(self.views.shorter_sides)

    def of_pictures(self, loaded: np.ndarray) -> Tensor:
        """uint8 (B, H, W, 3) -> (B, K): the mean over positions and both flips."""
        pixels = self.on_device(loaded)
        both = self.normalizer.whole(torch.cat([pixels, pixels.flip(-1)]))
        return self.of_normalized(both, dense=True).reshape(2, len(loaded), -1).mean(0)

    def on_device(self, loaded: np.ndarray) -> Tensor:
        """uint8 (..., H, W, 3) -> uint8 (..., 3, H, W) on the device."""
        return torch.from_numpy(loaded).to(self.device).movedim(-1, -3)

    def of_normalized(self, batch: Tensor, dense: bool) -> Tensor:
        """float32 (B, 3, H, W) -> (B, K) float32 probabilities."""
        batch = batch.contiguous(memory_format=torch.channels_last if self.machine.channels_last
                                 else torch.contiguous_format)
        with autocast(self.device, self.machine.precision):
            return (dense_probabilities(self.model, batch, self.window) if dense
                    else probabilities(self.model(batch)))


def ten_crops(six: Tensor) -> Tensor:
    """`repro.evaluation.views.six_crops` of B images, (B, 6, 3, S, S) -> (B, 10, 3, S, S) as torchvision's TenCrop."""
    plain, mirrored = TEN_CROPS
    return torch.cat([six[:, plain], six[:, mirrored].flip(-1)], 1)


def count_errors(scores: np.ndarray, labels: np.ndarray) -> tuple[int, int]:
    """Top-1 and top-5 errors of (B, K) probabilities; of equal ones the lower class number comes first."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
    hits = order == labels[:, None]
    return int((~hits[:, 0]).sum()), int((~hits.any(1)).sum())
