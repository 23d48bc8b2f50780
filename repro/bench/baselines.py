"""The loops that our engine is held against, written as a good practitioner writes them; no other tuning, no brake.

All train the same network from the same values on the same images with torch.optim.SGD. None waits for the device
between updates, and no loss is read there. Choice: in fp16 all take the static loss scale of our engine, which needs
no wait either, in the place of a GradScaler, which does.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from repro.bench.synthetic import mean_image, random_data, random_images
from repro.data.augment import crop_and_flip, normalize
from repro.data.loader import cores_here
from repro.devices import autocast
from repro.models import build_model
from repro.schema import Precision, RunConfig, WarmUp
from repro.training.schedule import Schedule
from repro.training.step import batch_norm_group

PREFETCH = 2  # batches that each worker makes ahead; DataLoader's default


class Loop:
    """An eager training loop; a subclass says where its mini-batches come from."""

    kind = "eager"

    def __init__(self, config: RunConfig, device: torch.device):
        train, schedule = config.train, Schedule.of(config)
        self.said: list[str] = []
        self.config, self.device, self.size = config, device, train.mini_batch_size
        self.precision = config.machine.precision
        self.scale = train.loss_scale if self.precision is Precision.fp16 else 1.0
        self.model: nn.Module = build_model(config.model, config.seed, batch_norm_group(config)).to(device)
        rate = schedule.rate(0, schedule.warmup is not WarmUp.none)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=rate, momentum=train.momentum,
                                         weight_decay=train.weight_decay)
        self.batches = self.mini_batches()

    def mini_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented mini-batches without end: float32 (B, 3, 32, 32) and int64 (B,) on the device."""
        raise NotImplementedError

    def advance(self, updates: int) -> None:
        """So many updates; on CUDA they are only queued."""
        for _ in range(updates):
            images, labels = next(self.batches)
            self.optimizer.zero_grad()
            with autocast(self.device, self.precision):
                logits = self.model(images)
            loss = F.cross_entropy(logits.float(), labels)
            torch.autograd.backward(loss * self.scale if self.scale != 1.0 else loss)
            if self.scale != 1.0:
                torch._foreach_mul_([p.grad for p in self.model.parameters() if p.grad is not None], 1 / self.scale)
            self.optimizer.step()

    def shared_batch(self) -> tuple[Tensor, Tensor]:
        """The first images of the data set, not augmented, made as this loop makes its mini-batches."""
        raise NotImplementedError

    def check(self) -> None:
        """Nothing: no update is ever left out."""


class DeviceLoop(Loop):
    """The data lie on the device, normalized once; crop and flip are one batched gather of each mini-batch."""

    def __init__(self, config: RunConfig, device: torch.device, images: int):
        data = random_data(images, device)
        self.images, self.labels = normalize(data.train_images, data.mean, None), data.train_labels
        super().__init__(config, device)

    def mini_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each pass over the images in a new order; what is left over at its end is dropped."""
        padding, flip = self.config.data.padding, self.config.data.flip
        while True:
            order = torch.randperm(len(self.images), device=self.device)
            for index in torch.split(order, self.size)[: len(order) // self.size]:
                padded = F.pad(self.images[index], (padding,) * 4)
                down, right = torch.randint(0, 2 * padding + 1, (2, self.size), device=self.device)
                mirrored = torch.rand(self.size, device=self.device) < (0.5 if flip else 0.0)
                yield crop_and_flip(padded, down, right, mirrored, self.images.shape[-2:]), self.labels[index]

    def shared_batch(self) -> tuple[Tensor, Tensor]:
        """See Loop."""
        return self.images[: self.size], self.labels[: self.size]


class CompiledLoop(DeviceLoop):
    """The same loop with the network compiled; on CUDA its kernels are replayed as graphs."""

    kind = "torch.compile(mode='reduce-overhead')"

    def __init__(self, config: RunConfig, device: torch.device, images: int):
        super().__init__(config, device, images)
        self.model.compile(mode="reduce-overhead")


class LoaderLoop(Loop):
    """torchvision's transforms on one PIL image at a time, in as many worker processes as there are cores."""

    def __init__(self, config: RunConfig, device: torch.device, images: int):
        self.dataset = PilImages(images, config.data.padding, config.data.flip)
        cuda = device.type == "cuda"
        self.loader = DataLoader(self.dataset, config.train.mini_batch_size, shuffle=True, drop_last=True,
                                 num_workers=cores_here(), pin_memory=cuda, persistent_workers=True,
                                 prefetch_factor=PREFETCH)
        super().__init__(config, device)

    def mini_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Passes of the DataLoader; on CUDA copied from pinned memory beside the computation."""
        while True:
            for images, labels in self.loader:
                yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def shared_batch(self) -> tuple[Tensor, Tensor]:
        """See Loop."""
        images = torch.stack([self.dataset.plain(self.dataset.image(i)) for i in range(self.size)])
        return images.to(self.device), self.dataset.labels[: self.size].to(self.device)


class PilImages(Dataset[tuple[Tensor, int]]):
    """The made images as torchvision's CIFAR10 gives its own: arrays that become PIL images one by one."""

    def __init__(self, count: int, padding: int, flip: bool):
        from torchvision import transforms

        images, self.labels = random_images(count)
        mean = mean_image(images)
        self.arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
        to_pixels = [transforms.ToTensor(), transforms.Normalize(mean / 255, [1 / 255] * 3)]  # 0..1, then mean, 0..255
        self.plain = transforms.Compose(to_pixels)
        self.augmented = transforms.Compose([transforms.RandomCrop(self.arrays.shape[1], padding=padding),
                                             transforms.RandomHorizontalFlip(0.5 if flip else 0.0), *to_pixels])

    def __len__(self) -> int:
        return len(self.arrays)

    def image(self, index: int) -> object:
        """One PIL image."""
        from PIL import Image

        return Image.fromarray(self.arrays[index])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.augmented(self.image(index)), int(self.labels[index])
