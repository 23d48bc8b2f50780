"""How a trained ImageNet network is tested: what it is shown of an image, and the mean of its answers (Sec. 3.4).

center: one crop; ten_crop: corners and center, of the image and of its flip; multi_scale: whole images at five scales.
"""

import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from repro.data import imagenet
from repro.data.cifar10 import channel_statistics, normalize
from repro.data.crops import center_crop, resized
from repro.devices import autocast, memory_format, out_of_memory
from repro.errors import DataError, DivergedError, OutOfMemoryError, StorageError
from repro.models import ImageNetNet
from repro.paper import PROTOCOLS
from repro.paths import display_path, results_dir
from repro.schema import Normalization, RunConfig
from repro.weights import mean_path

CENTER, TEN_CROP, MULTI_SCALE = PROTOCOLS
SCALES = (224, 256, 384, 480, 640)  # Sec. 3.4: shorter sides of the multi-scale test, in pixels
TRAINED = 224  # Sec. 3.4: pixels of one side of a training crop, which these scales belong to
MOST_CROPS = 128  # Choice: crops in one forward pass at most, so that their activations fit beside the network's
MOST_IMAGES = 32  # Choice: whole images read together; those of the same size share a forward pass
STRIDE = 32  # Table 1: a last feature map has a 32nd of the image's side, rounded up


def ten_crops(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) -> (10, size, size, 3): corners and center of the image, then of its flip, as torchvision's TenCrop."""
    bottom, right = image.shape[0] - size, image.shape[1] - size
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2))]
    return np.stack([view[top : top + size, left : left + size]
                     for view in (image, image[:, ::-1]) for top, left in places])


def read_mean(config: RunConfig, weights: Path | None, fingerprint: str) -> tuple[Tensor, Tensor | None]:
    """Mean (3, S, S) or (3, 1, 1) of pixels 0..255, std (3, 1, 1): configured, beside the weights, or of the data."""
    if config.data.normalization is Normalization.per_channel:
        return channel_statistics(config.data)
    results = results_dir(config.results)
    beside = (mean_path(weights), weights.parent / imagenet.BESIDE) if weights else ()
    for path in (*beside, imagenet.statistics_path(results, fingerprint)):
        if path.is_file():
            found = imagenet.read_statistics(path)
            if found is None or found.mean.ndim != 3 or not np.isfinite(found.mean).all():
                raise StorageError(f"{display_path(path)} holds no mean image")
            return torch.from_numpy(found.mean_of_crops(config.data.crop_size)), None
    raise DataError(f"no mean image: neither {imagenet.BESIDE} beside the weights nor one of this data set "
                    f"in {display_path(results)}, which the first training run computes; weights trained otherwise: "
                    "data.normalization=per_channel data.channel_mean=[...] data.channel_std=[...]")


class Scorer:
    """A network in evaluation mode, and the protocol that it is tested by; mean and std as `read_mean` gives them."""

    def __init__(self, model: nn.Module, protocol: str, config: RunConfig, mean: Tensor, std: Tensor | None = None):
        size, side = config.data.crop_size or 0, config.data.test_shorter_side or 0  # both are there of ImageNet
        most = config.machine.evaluation_batch_size
        self.model, self.protocol, self.machine, self.crop_size = model.eval(), protocol, config.machine, size
        self.device = next(model.parameters()).device
        self.mean, self.std = mean.to(self.device), None if std is None else std.to(self.device)
        # Choice: a network trained on crops of another size than 224 is tested at scales in the same proportion.
        self.shorter_sides = [round(scale * size / TRAINED) for scale in SCALES] if protocol == MULTI_SCALE else [side]
        self.crops_at_once = min(most, MOST_CROPS)
        self.images_at_once = min(most, MOST_IMAGES if protocol == MULTI_SCALE else MOST_CROPS)
        if protocol == TEN_CROP:
            self.images_at_once = max(1, self.images_at_once // 10)

    def read(self, image: Image.Image) -> np.ndarray:
        """uint8 (1, S, S, 3) or (10, S, S, 3) crops; of multi_scale an object array of whole images (H, W, 3)."""
        if self.protocol == CENTER:
            return center_crop(image, self.shorter_sides[0], self.crop_size)[None]
        if self.protocol == TEN_CROP:
            return ten_crops(resized(image, self.shorter_sides[0]), self.crop_size)
        scales = np.empty(len(self.shorter_sides), object)
        for number, side in enumerate(self.shorter_sides):
            scales[number] = resized(image, side)
        return scales

    @torch.no_grad()
    def __call__(self, views: np.ndarray) -> Tensor:
        """What `read` gives of B images, as one array -> (B, K) float32 probabilities on the CPU."""
        try:
            if self.protocol == MULTI_SCALE:
                scores: Tensor = functools.reduce(torch.add, map(self.score_whole_images, views.T)) / views.shape[1]
            else:
                scores = self.score_crops(views)
        except RuntimeError as error:
            if out_of_memory(error):
                raise OutOfMemoryError(f"no memory left on {self.device.type}: machine.evaluation_batch_size="
                                       f"{max(1, self.crops_at_once // 2)} needs less") from error
            raise
        if not scores.isfinite().all():
            raise DivergedError("the network's outputs are not finite numbers: the weights are of no use, or too large "
                                "for this precision (machine.precision=fp32)")
        return scores.cpu()

    def score_crops(self, views: np.ndarray) -> Tensor:
        """uint8 (B, V, S, S, 3) -> (B, K): the mean over the V crops of an image. The mean image is never mirrored."""
        crops = torch.from_numpy(views).to(self.device).flatten(0, 1).movedim(-1, -3)
        scores = [self.probabilities(normalize(part, self.mean, self.std))
                  for part in torch.split(crops, self.crops_at_once)]
        return torch.cat(scores).reshape(*views.shape[:2], -1).mean(1)

    def score_whole_images(self, images: np.ndarray) -> Tensor:
        """B images (H, W, 3) at one scale -> (B, K): the mean over positions and both flips."""
        mean = self.mean.mean((1, 2), keepdim=True)  # Choice: of each channel, as images have any size
        order, scores = [], []
        for height, width, _ in {image.shape for image in images}:  # those of one size share forward passes
            numbers = torch.tensor([i for i, image in enumerate(images) if image.shape[:2] == (height, width)])
            most = max(1, self.crops_at_once * self.crop_size**2 // (2 * height * width))
            for part in torch.split(numbers, most):
                pixels = torch.from_numpy(np.stack(images[part.numpy()])).to(self.device).movedim(-1, -3)
                both = normalize(torch.cat([pixels, pixels.flip(-1)]), mean, self.std)
                order.append(part)
                scores.append(self.probabilities(both, dense=True).reshape(2, len(part), -1).mean(0))
        return torch.cat(scores)[torch.cat(order).argsort()]

    def probabilities(self, batch: Tensor, dense: bool = False) -> Tensor:
        """float32 (B, 3, H, W) -> (B, K) probabilities in fp32; `dense`: the mean over all positions."""
        batch = batch.contiguous(memory_format=memory_format(self.machine))
        with autocast(self.device, self.machine.precision):
            logits = dense_logits(self.model, batch, -(-self.crop_size // STRIDE)) if dense else self.model(batch)
        scores = logits.float().softmax(1)
        return scores.mean((2, 3)) if dense else scores


def dense_logits(model: nn.Module, images: Tensor, window: int = 7) -> Tensor:
    """(N, 3, H, W) normalized pixels -> logits (N, K, H', W') at all positions of the map (Sec. 3.4, Table 4)."""
    assert isinstance(model, ImageNetNet)
    # `window`: the side of a training crop's last feature map, 7 for 224 pixels, over which the network averages.
    pooled = F.avg_pool2d(model.features(images), window, stride=1)
    return F.conv2d(pooled, model.fc.weight[:, :, None, None], model.fc.bias)
