"""ImageNet: its files, the mean image and the colors, and what a run sees of the images.

Images lie in root/train/<wnid>/* and root/val/<wnid>/*, listed as torchvision's ImageFolder does, one stat for each. A
wiring test takes any folders of classes, and one of them for both sets.
The mean image is that of the center crops of all training images (authors' README: shorter side 256, 224x224); the
covariance of red, green and blue is taken over all pixels of the same crops (AlexNet's color augmentation, Sec. 3.4).
Both come from one pass that is kept. Pixels are 0..255.
"""

import hashlib
import io
import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.datasets.folder import is_image_file

from repro.data.cifar10 import channel_statistics, normalize
from repro.data.crops import center_crop, open_rgb, random_crop
from repro.data.loader import PART, cores_here, parts_of, progress, read_ahead
from repro.data.random import normals, training_draws
from repro.errors import DataError, StorageError
from repro.files import write_atomic
from repro.paths import display_path
from repro.schema import CLASSES, TRAINING_IMAGES, VALIDATION_IMAGES, DataConfig, Normalization, RunConfig

# What a person has to do, since nobody may pass these images on.
BY_HAND = ("get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar with an account of image-net.org, unpack the "
           "images into one folder as train/<wnid>/*.JPEG and val/<wnid>/*.JPEG (the usual script valprep.sh sorts a "
           "flat val/ into such folders), and name it by data.root=FOLDER or REPRO_DATA")
OTHERS = "images of other sets can only make a wiring test: data.wiring_test=true"
MOST_NAMED = 10  # the first classes and bad files in a message
AT_ONCE = 8  # Choice: folders listed at the same time, for network disks, where each file is a wait; no loss elsewhere
MOST_TESTED_AT_ONCE = 250  # Choice: images of 224x224 that a test puts through the network together
MEAN_SHORTER_SIDE, MEAN_SIZE = 256, 224  # pixels
BESIDE = "mean.npz"  # what a run keeps beside its weights
logger = logging.getLogger(__name__)


# ---- files

@dataclass(frozen=True)
class ImageSet:
    """Images by class and name: paths (N,) below `root`, bytes (N,), places in the sorted `wnids` (N,); what is bad."""

    root: Path
    names: NDArray[np.bytes_]  # a million take 40 MB
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64]
    wnids: tuple[str, ...]
    bad: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.root / os.fsdecode(self.names[index])


@dataclass(frozen=True)
class ImageNetFiles:
    """Both sets, which share `wnids`; fingerprint: SHA-256 over path, bytes and label of every file, a line each."""

    train: ImageSet
    val: ImageSet
    wnids: tuple[str, ...]
    fingerprint: str
    one_folder: bool  # both are the same images, in a wiring test


def find(root: Path, wiring_test: bool = False, val_alone: bool = False) -> ImageNetFiles:
    """List the files of both sets and check their number, classes and kinds; nothing is opened.

    val_alone: a root without train/ will do, the training set is empty then. DataError (exit 3) that names what is
    missing or the first bad files; StorageError (exit 5) for a folder that can't be read.
    """
    try:
        train, val = list_sets(root, wiring_test, val_alone)
    except OSError as error:
        raise StorageError(f"can't read {display_path(Path(error.filename or root))}: {error.strerror}") from error
    lonely, bad, wrong = sorted(set(val.wnids) ^ set(train.wnids)), list(dict.fromkeys(train.bad + val.bad)), []
    if lonely:
        wrong.append(f"{len(lonely):,} classes in one set only: {', '.join(lonely[:MOST_NAMED])}")
    for images, count in ((train, TRAINING_IMAGES), (val, VALIDATION_IMAGES)):
        if not wiring_test and len(images) and (len(images), len(images.wnids)) != (count, CLASSES):
            wrong.append(f"{len(images):,} good images in {len(images.wnids):,} classes in "
                         f"{display_path(images.root)}, expected {count:,} in {CLASSES:,}")
    if bad:
        wrong.append(f"{len(bad):,} bad (empty, missing, no image files), first {', '.join(bad[:MOST_NAMED])}")
    if wrong:
        raise DataError(f"the images in {display_path(root)} are not as they should be: {'; '.join(wrong)}. Put it "
                        f"right, or name another folder by data.root=FOLDER" + ("" if wiring_test else f"; {OTHERS}"))
    digest = hashlib.sha256()
    for name, images in ((b"train", train), (b"val", val)):
        for row in zip(images.names, images.sizes, images.labels, strict=True):
            digest.update(b"%s/%s\0%d\0%d\n" % (name, *row))
    return ImageNetFiles(train, val, train.wnids, digest.hexdigest(), train is val)


def list_sets(root: Path, wiring_test: bool, val_alone: bool) -> tuple[ImageSet, ImageSet]:
    """Training and validation images, the same object where one folder serves as both. DataError without them."""
    entries = os.listdir(root) if root.exists() else []
    found = [name for name in ("train", "val") if name in entries]
    if len(found) == 2:
        return list_images(root / "train"), list_images(root / "val")
    if wiring_test and root.is_dir():
        both = list_images(root.joinpath(*found))
        return both, both
    if val_alone and found == ["val"]:
        val = list_images(root / "val")
        return replace(val, names=val.names[:0], sizes=val.sizes[:0], labels=val.labels[:0], bad=()), val
    raise DataError(f"ImageNet is not in {root}: train/ or val/ is missing; {BY_HAND}; {OTHERS}")


def list_images(folder: Path) -> ImageSet:
    """The images of a folder of classes. DataError if there are no classes."""
    with os.scandir(folder) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise DataError(f"{display_path(folder)} holds no folders of classes; {BY_HAND}")
    found = []
    with progress(f"list {display_path(folder)}", len(classes), unit="folder") as advance:
        for part in read_ahead(partial(list_class, folder), parts_of(classes, AT_ONCE), AT_ONCE):
            found += part
            advance(len(part))
    names, sizes, bad = zip(*found, strict=True)
    return ImageSet(folder, np.concatenate(names), np.concatenate(sizes),
                    np.repeat(np.arange(len(classes)), list(map(len, names))), tuple(classes), tuple(chain(*bad)))


def list_class(folder: Path, wnid: str) -> tuple[NDArray[np.bytes_], NDArray[np.int64], list[str]]:
    """Names (N,) below `folder` and bytes (N,) of the good images of a class; the others, or a class without any."""
    def fail(error: OSError) -> None:
        raise error

    names, sizes, bad = [], [], []
    for place, _, files in sorted(os.walk(folder / wnid, onerror=fail, followlinks=True)):
        for file in sorted(files):
            if not is_image_file(file) or file.startswith("."):
                continue
            path = os.path.join(place, file)
            status = None
            with suppress(OSError):  # a link to nothing
                status = os.stat(path)
            if status and stat.S_ISREG(status.st_mode) and status.st_size:
                names.append(os.fsencode(os.path.relpath(path, folder)))
                sizes.append(status.st_size)
            else:
                bad.append(display_path(Path(path)))
    return (np.array(names, np.bytes_), np.array(sizes, np.int64),
            bad if names or bad else [display_path(folder / wnid)])


def verify(root: Path, wiring_test: bool) -> None:
    """Check what `find` checks, then decode every image; DataError (exit 3) counts the bad ones and names the first."""
    files = find(root, wiring_test)
    sets = [files.train] if files.one_folder else [files.train, files.val]
    logger.info(" and ".join(f"{len(images):,} images in {display_path(images.root)}" for images in sets)
                + f", {len(files.wnids):,} classes, fingerprint {files.fingerprint}")
    requests = ([images.path(number) for number in part]
                for images in sets for part in parts_of(range(len(images)), PART))
    bad, total = [], sum(map(len, sets))
    with progress(f"verify {display_path(root)}", total) as advance:
        for problems in read_ahead(problem, requests):
            bad += [text for text in problems if text]
            advance(len(problems))
    if bad:
        raise DataError(f"{len(bad):,} of {total:,} images can't be read, first {', '.join(bad[:MOST_NAMED])}. Put "
                        "them there again from the official archives")
    logger.info(f"all {total:,} images can be read")


def problem(path: Path) -> str | None:
    """Why an image can't be read, if so."""
    try:
        open_rgb(path)
    except DataError as error:
        return str(error)
    return None


# ---- the mean image and the colors

@dataclass(frozen=True)
class ImageStatistics:
    """Mean image (3, H, W) and the covariance (3, 3) of red, green and blue, in squares of 0..255."""

    mean: NDArray[np.float32]
    covariance: NDArray[np.float64]

    def mean_of_crops(self, size: int | None) -> NDArray[np.float32]:
        """What crops of this size subtract: the mean image if it has this size, else each channel's mean, (3, 1, 1)."""
        if size == self.mean.shape[-1]:
            return self.mean
        # Choice: no paper says how a mean image is to be resized.
        return np.asarray(self.mean.mean((1, 2), dtype=np.float64, keepdims=True), np.float32)

    def principal(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """l (3,), falling, and p (3, 3), columns: AlexNet adds p @ (a l), a normal with std 0.1, to pixels of 0..255.

        AlexNet (Sec. 4.1 there) calls l the eigenvalues of the covariance of the pixel values, but not their unit.
        Choice: pixels of 0..1, as fb.resnet.torch has it (55, 5 and 1 gray levels). In the code of AlexNet's author
        (cuda-convnet2, `color_stdevs`) they are the square roots: twice the noise along the first component.
        """
        values, vectors = np.linalg.eigh(self.covariance / 255**2)
        values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
        # Choice: the largest part of each p is positive, so that one seed gives one noise on every machine.
        largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
        return 255 * values, vectors * np.sign(largest)

    def color_components(self, std: float) -> NDArray[np.float32]:
        """(3, 3): row k is what a standard normal draw of the k-th principal component adds, in 0..255."""
        values, vectors = self.principal()
        return (std * values[:, None] * vectors.T).astype(np.float32)


class Sums:
    """Exact running sums over crops (N, size, size, 3) uint8, in any order and by any number of processes."""

    def __init__(self, size: int):
        self.images = 0
        self.pixels = np.zeros((size, size, 3), np.int64)
        self.products = np.zeros((3, 3), np.int64)  # channel by channel

    def add(self, images: NDArray[np.uint8]) -> None:
        self.images += len(images)
        self.pixels += images.sum(0, dtype=np.int64)
        for image in images:
            colors = image.reshape(-1, 3).astype(np.float64)  # whose products are exact, below 2^53
            self.products += (colors.T @ colors).astype(np.int64)

    def merge(self, other: "Sums") -> None:
        self.images += other.images
        self.pixels += other.pixels
        self.products += other.products

    def finish(self) -> ImageStatistics:
        """Mean and covariance (divided by the number of pixels), rounded once."""
        count = self.images * self.pixels.shape[0] * self.pixels.shape[1]
        totals = self.pixels.sum((0, 1)).astype(object)  # Python's integers: their products need more than 64 bits
        covariance = (count * self.products.astype(object) - np.outer(totals, totals)) / count**2
        mean = (self.pixels / self.images).transpose(2, 0, 1).astype(np.float32)
        return ImageStatistics(np.ascontiguousarray(mean), covariance.astype(np.float64))


def sum_crops(crop: Callable[[int], NDArray[np.uint8]], numbers: Sequence[int], size: int, show: bool,
              stop: Callable[[], bool], workers: int) -> Sums:
    """The sums over the images of these numbers, whose crops (size, size, 3) `crop` reads; of a part if `stop()`."""
    def sum_part(part: Sequence[int]) -> Sums:
        sums = Sums(size)
        sums.add(np.stack([crop(number) for number in part]))
        return sums

    total, requests = Sums(size), parts_of(parts_of(numbers, PART), workers)
    with progress("mean image", len(numbers), show=show) as advance, \
            closing(read_ahead(sum_part, requests, workers)) as found:
        for sums in chain.from_iterable(found):
            total.merge(sums)
            advance(sums.images)
            if stop():
                break
    return total


def statistics_path(results: Path, fingerprint: str) -> Path:
    """Where the statistics of the set with this fingerprint are kept."""
    return results / "data" / f"mean-{fingerprint[:16]}-{MEAN_SHORTER_SIDE}-{MEAN_SIZE}.npz"


def write_statistics(path: Path, statistics: ImageStatistics, crop_size: int | None = MEAN_SIZE) -> None:
    """Keep the covariance, and the mean that crops of this size subtract."""
    content = io.BytesIO()
    np.savez(content, mean=statistics.mean_of_crops(crop_size), covariance=statistics.covariance)
    write_atomic(path, content.getvalue())


def read_statistics(path: Path) -> ImageStatistics | None:
    """What `write_statistics` kept; None if there is nothing or, with a note, if it is damaged."""
    if not path.exists():
        return None
    content = io.BytesIO(path.read_bytes())
    try:
        with np.load(content, allow_pickle=False) as arrays:
            return ImageStatistics(arrays["mean"], arrays["covariance"])
    except Exception as error:  # numpy and zipfile raise many kinds
        logger.warning(f"{display_path(path)} is damaged ({error}); it is not used")
        return None


# ---- the images of a run

@dataclass(frozen=True)
class ImageNetData:
    """The files of a run and what its images are normalized with, on its device.

    mean: float32 in 0..255, (3, H, W) per pixel or (3, 1, 1) per channel; std likewise, or None: no division.
    components: (3, 3) float32, what a standard normal draw for each principal component adds to red, green and blue,
    in 0..255; None: no color noise. crop_size: pixels of one side of what the network sees.
    """

    files: ImageNetFiles
    config: DataConfig
    workers: int
    crop_size: int
    statistics: ImageStatistics | None
    mean: Tensor
    std: Tensor | None
    components: Tensor | None
    sha256: str
    split: str = "full"
    evaluated_on: str = "val"

    def training_crop(self, request: tuple[int, ...]) -> np.ndarray:
        """The crop (S, S, 3) uint8 that one of `training_requests` asks for."""
        index, side, top, left, flip = request
        return random_crop(open_rgb(self.files.train.path(index)), side, top, left, bool(flip), self.crop_size)

    def training_requests(self, index: Tensor, position: Tensor, seed: int) -> list[tuple[int, ...]]:
        """What `training_crop` needs for each of the images `index` (B,) at the positions (B,) of a run."""
        assert self.config.shorter_side is not None
        side, top, left, flip = training_draws(position, seed, *self.config.shorter_side)
        columns = index, side, top, left, flip & self.config.flip
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def training_images(self, pixels: Tensor, position: Tensor, seed: int) -> Tensor:
        """Crops (B, H, W, 3) uint8 at these positions of a run -> (B, 3, H, W) float32, color noise included."""
        pixels = pixels.permute(0, 3, 1, 2)
        if self.components is not None:  # no matrix product: autocast and TF32 would round it
            pixels = pixels + (normals(position, seed)[:, :, None] * self.components).sum(1)[:, :, None, None]
        return normalize(pixels, self.mean, self.std)

    def evaluation_batches(self, batch_size: int, rank: int = 0, size: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """The center crop of every `size`-th validation image from `rank` on: (B, 3, H, W) float32 and (B,) int64."""
        images, labels = self.files.val, torch.from_numpy(self.files.val.labels)
        assert self.config.test_shorter_side is not None
        parts = parts_of(range(rank, len(images), size), min(batch_size, MOST_TESTED_AT_ONCE))
        read = center_crops(images, self.config.test_shorter_side, self.crop_size)
        with closing(read_ahead(read, parts, self.workers)) as batches:
            for part, found in zip(parts, batches, strict=True):
                pixels = torch.from_numpy(np.stack(found)).to(self.mean.device)
                yield (normalize(pixels.permute(0, 3, 1, 2), self.mean, self.std),
                       labels[list(part)].to(self.mean.device))


def on_device(config: RunConfig, files: ImageNetFiles, statistics: ImageStatistics | None,
              device: torch.device) -> ImageNetData:
    """The data of a resolved configuration's run. `statistics` are needed for the mean image and for color noise."""
    data, std, components = config.data, None, None
    assert data.crop_size is not None
    if data.normalization is Normalization.per_pixel_mean:
        assert statistics is not None
        mean = torch.from_numpy(statistics.mean_of_crops(data.crop_size))
    else:
        mean, std = channel_statistics(data)
        std = std.to(device)
    if data.color_noise_std > 0:
        assert statistics is not None
        components = torch.from_numpy(statistics.color_components(data.color_noise_std)).to(device)
    return ImageNetData(files, data, workers_of(config), data.crop_size, statistics, mean.to(device), std, components,
                        files.fingerprint)


def center_crops(images: ImageSet, shorter_side: int, size: int) -> Callable[[int], np.ndarray]:
    """A function of an image's number that reads its center crop (size, size, 3) uint8; 256 and 224 in the paper."""
    return lambda index: center_crop(open_rgb(images.path(index)), shorter_side, size)


def workers_of(config: RunConfig) -> int:
    """Threads of each process of a run: those on one machine share its cores, unless srun has dealt them out."""
    together = "1" if "SLURM_CPUS_PER_TASK" in os.environ else os.environ.get("SLURM_NTASKS_PER_NODE", "1")
    return config.machine.workers or max(1, cores_here() // int(os.environ.get("LOCAL_WORLD_SIZE", together)))
