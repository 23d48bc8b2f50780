"""How a trained ImageNet network is tested: what it is shown of an image, and the mean of its answers (Sec. 3.4).

center: one crop; ten_crop: corners and center, of the image and of its flip; multi_scale: whole images at five scales.
"""

import functools
import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from repro.data import imagenet_statistics
from repro.data.augment import normalize
from repro.data.cifar10 import channel_statistics
from repro.data.crops import center_crop, resized
from repro.devices import autocast, memory_format, out_of_memory
from repro.errors import ConfigError, DataError, DivergedError, OutOfMemoryError, StorageError
from repro.models.resnet import VGG_MAP, ImageNetNet, Vgg
from repro.paper import PROTOCOLS
from repro.paths import display_path, results_dir
from repro.schema import DataConfig, MachineConfig, Normalization, RunConfig
from repro.weights import mean_path

CENTER, TEN_CROP, MULTI_SCALE = PROTOCOLS
DEFINITIONS: dict[str, str] = {
    CENTER: "shorter side {0}, one {1} crop from the center, softmax",
    TEN_CROP: "shorter side {0}, {1} crops from the four corners and the center of the image and of its flip, mean of "
              "the 10 softmax scores",
    MULTI_SCALE: "whole image with shorter sides {0}, and its flip, fully convolutional, mean of the softmax scores "
                 "over positions, flips and scales"}
SCALES = (224, 256, 384, 480, 640)  # Sec. 3.4: shorter sides of the multi-scale test, in pixels
TRAINED = 224  # Sec. 3.4: pixels of one side of a training crop, which these scales belong to
MOST_CROPS = 128  # Choice: crops in one forward pass at most, so that their activations fit beside the network's
MOST_IMAGES = 32  # Choice: whole images read together; those of the same size share a forward pass
STRIDE = 32  # Table 1: a last feature map has a 32nd of the image's side, rounded up


@dataclass(frozen=True)
class Views:
    """A protocol with its lengths in pixels; crop_size: of the crops, or of those that the network was trained on."""

    protocol: str
    shorter_sides: tuple[int, ...]
    crop_size: int

    @property
    def definition(self) -> str:
        """What is done, in a line."""
        size = f"{self.crop_size}x{self.crop_size}"
        return DEFINITIONS[self.protocol].format(", ".join(map(str, self.shorter_sides)), size)

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


def views_of(protocol: str, data: DataConfig) -> Views:
    """A protocol with a configuration's lengths; ConfigError without data.crop_size and data.test_shorter_side.

    Choice: a network that was trained on crops of another size than 224 is tested at scales in the same proportion.
    """
    size, side = data.crop_size, data.test_shorter_side
    if size is None or side is None:
        raise ConfigError("data.crop_size, data.test_shorter_side: needed for a test on ImageNet")
    return Views(protocol, tuple(round(scale * size / TRAINED) for scale in SCALES)
                 if protocol == MULTI_SCALE else (side,), size)


def ten_crops(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) -> (10, size, size, 3): corners and center of the image, then of its flip, as torchvision's TenCrop."""
    bottom, right = image.shape[0] - size, image.shape[1] - size
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2))]
    return np.stack([view[top : top + size, left : left + size]
                     for view in (image, image[:, ::-1]) for top, left in places])


@dataclass(frozen=True)
class Normalizer:
    """mean: float32 pixels 0..255, (3, S, S) per pixel of a crop or (3, 1, 1) per channel; std: (3, 1, 1) or None."""

    mean: Tensor
    std: Tensor | None = None

    def __call__(self, pixels: Tensor, whole: bool = False) -> Tensor:
        """uint8 (N, 3, H, W) -> float32. The mean image is not mirrored where a crop is.

        Choice: `whole` images, of any size, subtract the mean image's mean per channel.
        """
        mean, std = (None if values is None else values.to(pixels.device) for values in (self.mean, self.std))
        assert mean is not None
        return normalize(pixels, mean.mean((1, 2), keepdim=True) if whole else mean, std)

    @property
    def sha256(self) -> str:
        """Of all its numbers."""
        digest = hashlib.sha256()
        for values in (self.mean, self.std):
            digest.update(b"none" if values is None else repr(tuple(values.shape)).encode() + values.numpy().tobytes())
        return digest.hexdigest()


def normalizer_of(config: RunConfig, weights: Path | None = None, fingerprint: str | None = None) -> Normalizer:
    """The mean that belongs to an ImageNet network: as configured, beside its weights, or of this data set.

    DataError if there is none; StorageError if the file beside the weights can't be read.
    """
    data, size = config.data, config.data.crop_size
    if data.normalization is Normalization.per_channel:
        return Normalizer(*channel_statistics(data))
    for path in (mean_path(weights), weights.parent / imagenet_statistics.BESIDE) if weights else ():
        if path.is_file():
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    mean = np.asarray(arrays["mean"], dtype=np.float32)
                if mean.shape not in ((3, 1, 1), (3, size, size)) or not np.isfinite(mean).all():
                    raise ValueError(f"shape {mean.shape}, crops of {size}")
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                raise StorageError(f"{display_path(path)}: no mean image of a run ({error!r})") from error
            return Normalizer(torch.from_numpy(mean))
    results = results_dir(config.results)
    found = fingerprint and imagenet_statistics.read(imagenet_statistics.cache_path(results, fingerprint))
    if not found:
        raise DataError(f"no mean image: neither {imagenet_statistics.BESIDE} beside the weights nor one of this data "
                        f"set in {display_path(results)}, which the first training run computes; weights trained "
                        "otherwise: data.normalization=per_channel data.channel_mean=[...] data.channel_std=[...]")
    return Normalizer(torch.from_numpy(found.mean_of_crops(size)))


class Scorer:
    """A network in evaluation mode on its device, and the protocol that it is tested by. `machine` is resolved."""

    def __init__(self, model: nn.Module, views: Views, normalizer: Normalizer, machine: MachineConfig):
        self.model, self.views, self.normalizer, self.machine = model.eval(), views, normalizer, machine
        self.device = next(model.parameters()).device
        self.crops_at_once = min(machine.evaluation_batch_size, MOST_CROPS)
        self.images_at_once = (min(machine.evaluation_batch_size, MOST_IMAGES) if views.protocol == MULTI_SCALE
                               else max(1, self.crops_at_once // (10 if views.protocol == TEN_CROP else 1)))

    @torch.no_grad()
    def __call__(self, views: np.ndarray) -> Tensor:
        """What `Views.read` gives of B images, as one array -> (B, K) float32 probabilities on the CPU.

        DivergedError if one of them is not a finite number; OutOfMemoryError if the device has too little memory.
        """
        try:
            if self.views.protocol == MULTI_SCALE:
                scores: Tensor = functools.reduce(torch.add, map(self.of_whole_images, views.T)) / views.shape[1]
            else:
                scores = self.of_crops(views)
        except RuntimeError as error:
            if out_of_memory(error):
                raise OutOfMemoryError(f"no memory left on {self.device.type} for {self.crops_at_once} crops at once: "
                                       f"machine.evaluation_batch_size={max(1, self.crops_at_once // 2)} has fewer"
                                       ) from error
            raise
        if not bool(scores.isfinite().all()):
            raise DivergedError("the network's outputs are not finite numbers: the weights are of no use, or too large "
                                "for this precision (machine.precision=fp32)")
        return scores.cpu()

    def of_crops(self, views: np.ndarray) -> Tensor:
        """uint8 (B, V, S, S, 3) -> (B, K): the mean over the V crops of an image."""
        crops = self.to_device(views.reshape(-1, *views.shape[2:]))
        scores = [self.probabilities(self.normalizer(part)) for part in torch.split(crops, self.crops_at_once)]
        return torch.cat(scores).reshape(*views.shape[:2], -1).mean(1)

    def of_whole_images(self, images: np.ndarray) -> Tensor:
        """B images (H, W, 3) at one scale -> (B, K): the mean over positions and both flips."""
        order, scores = [], []
        for height, width, _ in {image.shape for image in images}:  # those of one size share forward passes
            numbers = torch.tensor([i for i, image in enumerate(images) if image.shape[:2] == (height, width)])
            most = max(1, self.crops_at_once * self.views.crop_size**2 // (2 * height * width))
            for part in torch.split(numbers, most):
                pixels = self.to_device(np.stack(images[part.numpy()]))
                both = self.normalizer(torch.cat([pixels, pixels.flip(-1)]), whole=True)
                order.append(part)
                scores.append(self.probabilities(both, dense=True).reshape(2, len(part), -1).mean(0))
        return torch.cat(scores)[torch.cat(order).argsort()]

    def to_device(self, pixels: np.ndarray) -> Tensor:
        """uint8 (B, H, W, 3) -> uint8 (B, 3, H, W) on the device."""
        return torch.from_numpy(pixels).to(self.device).movedim(-1, -3)

    def probabilities(self, batch: Tensor, dense: bool = False) -> Tensor:
        """float32 (B, 3, H, W) -> (B, K) float32 probabilities; `dense`: the mean over all positions."""
        batch = batch.contiguous(memory_format=memory_format(self.machine))
        with autocast(self.device, self.machine.precision):
            return (dense_probabilities(self.model, batch, -(-self.views.crop_size // STRIDE)) if dense
                    else softmax(self.model(batch)))


def softmax(logits: Tensor) -> Tensor:
    """Softmax over dimension 1, in fp32 where the logits are of 16 bits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)


def dense_probabilities(model: nn.Module, images: Tensor, window: int = 7) -> Tensor:
    """(N, 3, H, W) normalized pixels -> (N, K) class probabilities, the mean over all positions (Sec. 3.4, Table 4).

    `window` is the side of the last feature map of a training crop: 7 for 224 pixels. A ResNet's average over the map
    becomes average pooling of this size with stride 1, its fully-connected layer a 1x1 convolution; of VGG's
    fully-connected layers the first becomes a 7x7 convolution, the others 1x1; dropout is off.
    """
    if isinstance(model, Vgg):
        logits, side = model.features(images), VGG_MAP
        for layer in model.classifier:
            if isinstance(layer, nn.Linear):
                logits = F.conv2d(logits, layer.weight.reshape(layer.out_features, -1, side, side), layer.bias)
                side = 1
            else:
                logits = layer(logits)
    else:
        assert isinstance(model, ImageNetNet)
        pooled = F.avg_pool2d(model.features(images), window, stride=1)
        logits = F.conv2d(pooled, model.fc.weight[:, :, None, None], model.fc.bias)
    return softmax(logits).mean((2, 3))
