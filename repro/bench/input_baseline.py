"""`python -m repro.bench.input_baseline JOB`: a fresh process that reads images one way and prints a line of JSON."""

import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import transforms
from torchvision.datasets import ImageFolder

from repro.bench.input_plan import COLOR, PLAIN, SHORTER_SIDE, SIZE, InputJob
from repro.bench.plan import print_result
from repro.data.augment import normalize
from repro.data.crops import open_rgb, random_crop
from repro.data.loader import read_ahead
from repro.data.random import normals, training_draws
from repro.schema import Loader as Kind

SEED, STD = 0, 0.1  # Sec. 3.4, AlexNet: std of the color noise
BATCH = 32  # images of a mini-batch; Choice: the paper's on one of its 8 GPUs
EIGENVALUES = torch.tensor([0.2175, 0.0188, 0.0045])  # any of this size take the same time
Request = tuple[int, ...]


class PlainColor:
    """Mean subtraction and color noise of one image, as transforms of a usual program do them."""

    def __init__(self) -> None:
        self.mean, self.vectors = torch.full((3, SIZE, SIZE), 0.45), torch.eye(3)

    def __call__(self, image: Tensor) -> Tensor:
        """float32 (3, H, W) in 0..1 -> the same shape."""
        noise = self.vectors @ (STD * torch.randn(3) * EIGENVALUES)
        return image + noise[:, None, None] - self.mean


class RandomResize:
    """The whole image resized to a random shorter side."""

    def __call__(self, image: Any) -> Any:
        """A Pillow image -> a Pillow image."""
        return transforms.functional.resize(image, random.randint(*SHORTER_SIDE))


def plain_images(root: str) -> ImageFolder:
    """The plain way: torchvision's ImageFolder and transforms, one Pillow image at a time, float32 (3, 224, 224)."""
    return ImageFolder(root, transforms.Compose([RandomResize(), transforms.RandomCrop(SIZE),
                                                 transforms.RandomHorizontalFlip(), transforms.ToTensor(),
                                                 PlainColor()]))


class OurCrops:
    """This project's way: the decoded file, of which only the part that the crop shows is resized; uint8 crops."""

    def __init__(self, files: list[Path]):
        self.files = files

    def __call__(self, request: Request) -> Any:
        """(position, shorter side, top, left, flip) -> uint8 (224, 224, 3)."""
        position, side, top, left, flip = request
        path = self.files[position % len(self.files)]
        return random_crop(open_rgb(path), side, top, left, bool(flip), SIZE)


def requests(count: int) -> list[list[Request]]:
    """Mini-batches of requests for the first `count` positions of a run."""
    position = torch.arange(count)
    drawn = training_draws(position, SEED, *SHORTER_SIDE)
    all_of_them = list(zip(*(column.tolist() for column in (position, *drawn)), strict=True))
    return [all_of_them[begin : begin + BATCH] for begin in range(0, count, BATCH)]


def normalize_colors(crops: Tensor, position: Tensor, mean: Tensor) -> Tensor:
    """What a run does on its device to a mini-batch of crops uint8 (B, H, W, 3): float32 (B, 3, H, W)."""
    noise = normals(position, SEED) @ (255 * STD * torch.diag(EIGENVALUES))
    return normalize(crops.permute(0, 3, 1, 2) + noise[:, :, None, None], mean)


def reader(job: InputJob) -> Callable[[int], None]:
    """A function that reads so many images in the way of this contender."""
    if job.contender == PLAIN:
        folder = plain_images(job.root)
        return lambda count: [folder[number % len(folder)] for number in range(count)].clear()
    name, _, kind = job.contender.partition(":")
    files = [Path(path) for path, _ in ImageFolder(job.root).samples]
    read = OurCrops(files)
    mean = torch.full((3, SIZE, SIZE), 115.0)

    def alone(count: int) -> None:
        for batch in requests(count):
            crops = [torch.from_numpy(read(request)) for request in batch]
            if name == COLOR:
                normalize_colors(torch.stack(crops), torch.tensor([request[0] for request in batch]), mean)

    def ahead(count: int) -> None:
        for _ in read_ahead(read, requests(count), Kind(kind), job.workers):
            pass

    return ahead if kind else alone


def measure(job: InputJob) -> dict[str, Any]:
    """Read some images to warm up, then all, timed. images_per_core_second: by the processor time of all workers."""
    torch.set_num_threads(1)
    read = reader(job)
    read(min(job.images, 2 * BATCH))
    began, used = time.perf_counter(), processor_seconds()
    read(job.images)
    seconds, used = time.perf_counter() - began, processor_seconds() - used
    return {"images_per_second": job.images / seconds, "images_per_core_second": job.images / used}


def processor_seconds() -> float:
    """Time that processors have spent on this process and on those of its workers that have ended."""
    return sum(usage.ru_utime + usage.ru_stime for usage in
               (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)))


def main(text: str) -> None:
    """Print what was measured, or why nothing was."""
    print_result(lambda: measure(InputJob.of(text)))


if __name__ == "__main__":
    main(sys.argv[1])
