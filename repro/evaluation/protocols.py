"""How a trained network is evaluated: what it is shown of an image, and the mean of its answers (Sec. 3.4, 4.2).

A run is evaluated on a single view: CIFAR-10's image as it is, the center crop of ImageNet's. `repro eval` tests an
ImageNet network by one of three protocols: the center crop, ten crops, or whole images at five scales.
"""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.data import imagenet_statistics
from repro.data.augment import normalize
from repro.data.cifar10 import channel_statistics, load_arrays, on_device
from repro.data.crops import Picture, center_crop, resized
from repro.data.imagenet import MEAN_SHORTER_SIDE, MEAN_SIZE
from repro.data.imagenet_statistics import BESIDE, statistics_folder
from repro.devices import autocast, is_out_of_memory, memory_format
from repro.errors import ConfigError, DataError, DivergedError, OutOfMemoryError, StorageError
from repro.models.resnet import VGG_MAP, ImageNetNet, Vgg
from repro.paper import PROTOCOL_LABELS, PROTOCOLS
from repro.paths import display_path, results_dir
from repro.schema import IMAGENET, DataConfig, MachineConfig, Normalization, RunConfig

CENTER, TEN_CROP, MULTI_SCALE = PROTOCOLS
SINGLE_VIEW = "single_view"  # of CIFAR-10: the image as it is (Sec. 4.2)
LABELS = {SINGLE_VIEW: "single view", **PROTOCOL_LABELS}
SCALES = (224, 256, 384, 480, 640)  # Sec. 3.4: shorter sides of the multi-scale test, in pixels
TRAINED = 224  # Sec. 3.4: pixels of one side of a training crop, which these scales belong to
MOST_CROPS = 128  # Choice: crops in one forward pass at most, so that their activations fit beside the network's
MOST_IMAGES = 32  # Choice: whole images read together; those of the same size share a forward pass
STRIDE = 32  # Table 1: a last feature map has a 32nd of the image's side, rounded up


@dataclass(frozen=True)
class Views:
    """One of ImageNet's protocols with its lengths in pixels."""

    protocol: str
    shorter_sides: tuple[int, ...]
    crop_size: int  # of the crops, or (multi_scale) of the crops that the network was trained on

    @property
    def definition(self) -> str:
        """What is done, in a line."""
        sides, size = ", ".join(map(str, self.shorter_sides)), self.crop_size
        if self.protocol == CENTER:
            return f"shorter side {sides}, one {size}x{size} crop from the center, softmax"
        if self.protocol == TEN_CROP:
            return (f"shorter side {sides}, {size}x{size} crops from the four corners and the center of the image and "
                    "of its flip, mean of the 10 softmax scores")
        return (f"whole image with shorter sides {sides}, and its flip, fully convolutional, mean of the softmax "
                "scores over positions, flips and scales")

    def read(self, picture: Picture) -> np.ndarray:
        """uint8 (1, S, S, 3) or (10, S, S, 3) crops; of multi_scale an object array of whole images (H, W, 3)."""
        if self.protocol == CENTER:
            return center_crop(picture, self.shorter_sides[0], self.crop_size)[None]
        if self.protocol == TEN_CROP:
            return ten_crops(resized(picture, self.shorter_sides[0]), self.crop_size)
        scales = np.empty(len(self.shorter_sides), object)
        for number, side in enumerate(self.shorter_sides):
            scales[number] = resized(picture, side)
        return scales


def views_of(protocol: str, data: DataConfig) -> Views:
    """A protocol with the lengths of a configuration.

    Choice: a network that was trained on crops of another size than 224 is tested at scales in the same proportion.
    ConfigError without data.crop_size and data.test_shorter_side.
    """
    size, side = data.crop_size, data.test_shorter_side
    if size is None or side is None:
        raise ConfigError("data.crop_size, data.test_shorter_side: needed for a test on ImageNet")
    sides = tuple(round(scale * size / TRAINED) for scale in SCALES) if protocol == MULTI_SCALE else (side,)
    return Views(protocol, sides, size)


def ten_crops(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) -> (10, size, size, 3): corners and center of the image, then of its flip, as torchvision's TenCrop."""
    bottom, right = image.shape[0] - size, image.shape[1] - size
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2))]
    return np.stack([view[top : top + size, left : left + size]
                     for view in (image, image[:, ::-1]) for top, left in places])


class Scorer:
    """A network in evaluation mode on its device, and the protocol that it is tested by. `machine` is resolved."""

    def __init__(self, model: nn.Module, views: Views, normalizer: "Normalizer", machine: MachineConfig):
        self.model, self.views, self.machine = model.eval(), views, machine
        self.device = next(model.parameters()).device
        self.normalizer = normalizer.to(self.device)
        self.crops_at_once = min(machine.evaluation_batch_size, MOST_CROPS)

    @property
    def images_at_once(self) -> int:
        """How many images are to be read together."""
        if self.views.protocol == MULTI_SCALE:
            return min(self.machine.evaluation_batch_size, MOST_IMAGES)
        return max(1, self.crops_at_once // (10 if self.views.protocol == TEN_CROP else 1))

    @torch.no_grad()
    def __call__(self, views: np.ndarray) -> Tensor:
        """What `Views.read` gives of B images, as one array -> (B, K) float32 probabilities on the CPU.

        DivergedError if one of them is not a finite number; OutOfMemoryError if the device has too little memory.
        """
        try:
            scores = self.of_scales(views) if self.views.protocol == MULTI_SCALE else self.of_crops(views)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise OutOfMemoryError(f"no memory left on {self.device.type} for {self.crops_at_once} crops at once: "
                                       f"{str(error).splitlines()[0]}; have fewer with "
                                       f"machine.evaluation_batch_size={max(1, self.crops_at_once // 2)}") from error
            raise
        if not bool(scores.isfinite().all()):
            raise DivergedError("the network's outputs are not finite numbers: the weights are of no use, or too large "
                                "for this precision (machine.precision=fp32)")
        return scores.cpu()

    def of_crops(self, views: np.ndarray) -> Tensor:
        """uint8 (B, V, S, S, 3) -> (B, K): the mean over the V crops of an image."""
        crops = self.to_device(views.reshape(-1, *views.shape[2:]))
        scores = [self.probabilities(self.normalizer.crops(part)) for part in torch.split(crops, self.crops_at_once)]
        return torch.cat(scores).reshape(*views.shape[:2], -1).mean(1)

    def of_scales(self, views: np.ndarray) -> Tensor:
        """Objects (B, scales) -> (B, K): the mean over positions, flips and scales."""
        scores = self.of_whole_images(views[:, 0])
        for scale in range(1, views.shape[1]):
            scores = scores + self.of_whole_images(views[:, scale])
        return scores.div(views.shape[1])

    def of_whole_images(self, images: np.ndarray) -> Tensor:
        """B images at one scale -> (B, K): the mean over positions and both flips."""
        order, scores = [], []
        for height, width, _ in {image.shape for image in images}:
            numbers = torch.tensor([i for i, image in enumerate(images) if image.shape[:2] == (height, width)])
            most = max(1, self.crops_at_once * self.views.crop_size**2 // (2 * height * width))
            for part in torch.split(numbers, most):
                pixels = self.to_device(np.stack(images[part.numpy()]))
                both = self.normalizer.whole(torch.cat([pixels, pixels.flip(-1)]))
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


@dataclass(frozen=True)
class Normalizer:
    """mean: float32 pixels 0..255, (3, S, S) per pixel of a crop or (3, 1, 1) per channel; std: (3, 1, 1) or None."""

    mean: Tensor
    std: Tensor | None = None

    def crops(self, pixels: Tensor) -> Tensor:
        """uint8 crops (N, 3, S, S) -> float32. The mean image is not mirrored where the crop is."""
        return normalize(pixels, self.mean, self.std)

    def whole(self, pixels: Tensor) -> Tensor:
        """uint8 images (N, 3, H, W) of any size -> float32. Choice: they subtract the mean image's mean per channel."""
        return normalize(pixels, self.mean.mean((1, 2), keepdim=True), self.std)

    def to(self, device: torch.device) -> "Normalizer":
        """The same on a device."""
        return Normalizer(self.mean.to(device), None if self.std is None else self.std.to(device))

    @property
    def sha256(self) -> str:
        """Of all its numbers."""
        digest = hashlib.sha256()
        for values in (self.mean, self.std):
            digest.update(b"none" if values is None else repr(tuple(values.shape)).encode() + values.numpy().tobytes())
        return digest.hexdigest()


def normalizer_of(config: RunConfig, weights: Path, fingerprint: str | None = None) -> Normalizer:
    """The mean that belongs to an ImageNet network: as configured, beside its weights, or of this data set.

    DataError if there is none; StorageError if the file beside the weights can't be read.
    """
    data = config.data
    if data.normalization is Normalization.per_channel:
        return Normalizer(*channel_statistics(data))
    for beside in (own_mean(weights), weights.parent / BESIDE):
        if beside.is_file():
            return Normalizer(read_mean(beside, data.crop_size))
    folder = statistics_folder(results_dir(config.results))
    found = fingerprint and imagenet_statistics.cached(folder, fingerprint, MEAN_SHORTER_SIDE, MEAN_SIZE)
    if not found:
        raise DataError(f"no mean image for {display_path(weights)}: neither {BESIDE} beside it (array 'mean': (3, H, "
                        f"W), pixels 0..255) nor one of this data set in {display_path(folder)}, which the first "
                        "training run computes; weights trained otherwise: data.normalization=per_channel "
                        "data.channel_mean=[...] data.channel_std=[...]")
    return Normalizer(torch.from_numpy(found.mean_of_crops(data.crop_size)))


def mean_of(config: RunConfig, weights: Path) -> Tensor:
    """What a run's network subtracts from an image: float32 pixels 0..255, (3, H, W) or (3, 1, 1)."""
    if config.data.name == IMAGENET:
        return normalizer_of(config, weights).mean
    return on_device(load_arrays(config.data), config.data, torch.device("cpu")).mean


def own_mean(weights: Path) -> Path:
    """Where the mean of exported weights lies: beside the file, under its name."""
    return weights.with_name(f"{weights.name}.{BESIDE}")


def read_mean(path: Path, crop_size: int | None) -> Tensor:
    """The mean of a run: (3, crop_size, crop_size) or (3, 1, 1) float32. StorageError if it is anything else."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean = np.asarray(arrays["mean"], dtype=np.float32)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StorageError(f"{display_path(path)}: no mean image of a run ({type(error).__name__}: {error}); without "
                           "this file the data set's own is used") from error
    if mean.shape not in ((3, 1, 1), (3, crop_size, crop_size)) or not np.isfinite(mean).all():
        raise StorageError(f"{display_path(path)}: a mean of shape {mean.shape}, not (3, 1, 1) or "
                           f"(3, {crop_size}, {crop_size})")
    return torch.from_numpy(mean)
