"""How fast training is here: our step, loops as usually written, and what the device allows; and ImageNet's input.

All contenders train the same network from the same values on the same made images, each in a fresh process in every
round, in turn; medians count. One fails that has another loss at first, or has not lowered it at the end.
"""

import logging
import math
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count, islice, product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from torchvision.transforms import v2

from repro import devices, files
from repro.config import compose
from repro.data import crops
from repro.data.cifar10 import DeviceData, normalize, per_pixel_mean
from repro.data.loader import cores_here
from repro.data.random import training_draws
from repro.errors import ReproError
from repro.models import build_model
from repro.schema import Precision, RunConfig
from repro.stopping import end_with_parent
from repro.training.distributed import first_line
from repro.training.inputs import DeviceInput
from repro.training.step import Execution, TrainStep, batch_norm_group
from repro.training.suite import best_seconds

logger = logging.getLogger(__name__)
Record = dict[str, Any]
TRAINERS = {
    "repro": "this project's step, data on the device",
    "eager_loop": "a usual loop with torch.optim.SGD, data on the device, its mini-batches made as ours are",
    "dataloader": "a usual loop, DataLoader with a worker for each core, torchvision's transforms of PIL images"}
READERS = {
    "plain": "torchvision's ImageFolder and transforms: the whole Pillow image resized, then cropped, float32",
    "pillow": "this project: only what the crop shows is resized; uint8, color and mean are left to the device"}
IMAGES = 50_000  # as many as CIFAR-10 has


def bench(overrides: Sequence[str], nets: Sequence[int] = (), quick: bool = False,
          max_seconds: float = math.inf) -> Record:
    """Measure networks of these depths, by default what suits the device. Raises ConfigError."""
    # With this rate networks of every depth learn the made images in a few updates, whose time doesn't depend on it.
    words = ["experiment=cifar_resnet20", "train.lr=0.01", *overrides]
    config = devices.resolve(compose(words))
    cuda = config.machine.device.name == "cuda"
    jobs: dict[str, tuple[Any, ...]] = {"device": (measure_device, config)}
    least = {}
    for depth in nets or ((20,) if quick else (20, 56, 110) if cuda else (20, 56)):
        own = devices.resolve(compose([*words, f"model.depth={depth}"]))
        net = f"{'plain' if own.model.family.name == 'plain' else 'ResNet'}-{depth}"
        least[net] = least_work(own)
        steps = 3 if quick else 300 if cuda else 20
        jobs |= {f"{net} {name}": (train, name, own, steps) for name in TRAINERS if not quick or name != "eager_loop"}
    return {"bench": "training", "device": devices.describe(torch.device(config.machine.device.name)),
            "precision": config.machine.precision.name, "overrides": [*overrides], "least": least,
            "mini_batch_size": config.train.mini_batch_size, **run_rounds(jobs, quick, max_seconds)}


def bench_input(root: Path, quick: bool = False, max_seconds: float = math.inf) -> Record:
    """Measure how fast a core reads the images of the class folders below `root`, or below its val/."""
    folder = root / "val" if (root / "val").is_dir() else root
    jobs = {name: (read, name, folder, 60 if quick else 400) for name in READERS}
    return {"bench": "input", "device": devices.describe(torch.device("cpu")).split(",")[0],
            **run_rounds(jobs, quick, max_seconds)}


def run_rounds(jobs: dict[str, tuple[Any, ...]], quick: bool, max_seconds: float) -> Record:
    """What each job gave in each round, in turn; one that fails is not tried again. All ends within `max_seconds`."""
    head = {"quick": quick, "utc": files.utc_now(), "load_average": os.getloadavg()[0], "code": devices.code_version(),
            "versions": devices.package_versions(), "machine": devices.machine()}
    ends, results, failed = time.monotonic() + max_seconds, {name: list[Record]() for name in jobs}, dict[str, str]()
    for number, name in product(range(1, 3 if quick else 6), jobs):
        left = min(1800.0, ends - time.monotonic())  # Choice: seconds of one process
        if name not in failed and left > 0:
            try:
                results[name].append(fresh_process(left, *jobs[name]))
                logger.info(f"round {number}: {name}: {results[name][-1]}")
            except Exception as error:  # of any kind: the other contenders go on
                failed[name] = f"{type(error).__name__}: {first_line(error)}"
                logger.info(f"round {number}: {name} failed: {failed[name]}")
    if not any(results.values()):
        raise ReproError(f"nothing was measured: {failed or 'no time'}")
    return {**head, "results": results, "failed": failed}


def fresh_process(seconds: float, function: Callable[..., Record], *arguments: Any) -> Record:
    """What a function returns in a process of its own. TimeoutError, BrokenProcessPool, or the function's error."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_parent,
                             (os.getpid(), signal.SIGKILL)) as pool:
        try:
            return pool.submit(function, *arguments).result(seconds)
        except Exception:
            for process in multiprocessing.active_children():
                process.kill()
            raise


def train(contender: str, config: RunConfig, steps: int) -> Record:
    """Time `steps` updates on made images, after a third as many that warm up."""
    ours, batch = contender == "repro", config.train.mini_batch_size
    device = devices.set_up(config, allocator=ours)
    torch.manual_seed(config.seed)  # of the DataLoader
    data, kind = made_data(device), "eager"
    model: nn.Module = build_model(config.model, config.seed, batch_norm_group(config)).to(device)
    shared, labels = normalize(data.train_images[:batch], data.mean), data.train_labels[:batch]
    expected = float(F.cross_entropy(model(shared), labels).detach())

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        with devices.autocast(device, config.machine.precision):
            logits = model(images.to(device, non_blocking=True))
        return F.cross_entropy(logits.float(), labels.to(device, non_blocking=True))

    if ours:
        execution = Execution(TrainStep(devices.place(model, config, device), data, config))
        kind, advance = execution.kind, execution.advance
    else:
        optimizer = torch.optim.SGD(model.parameters(), config.train.lr, config.train.momentum,
                                    weight_decay=config.train.weight_decay)
        batches = loader_batches(data, config) if contender == "dataloader" else device_batches(data, config)

        def advance(updates: int) -> None:  # waits for nothing, and in fp16 does not scale the loss
            for batch in islice(batches, updates):
                optimizer.zero_grad()
                torch.autograd.backward(loss_of(*batch))
                optimizer.step()

    first = float(loss_of(shared, labels).detach())
    advance(max(steps // 3, 2 * cores_here()))  # what a DataLoader's workers have made ahead is not timed
    devices.synchronize(device, all_streams=True)
    began = time.perf_counter()
    advance(steps)
    devices.synchronize(device, all_streams=True)
    seconds = time.perf_counter() - began
    last = float(loss_of(shared, labels).detach())
    if abs(first - expected) > (0.001 if config.machine.precision is Precision.fp32 else 0.03) * expected:
        raise RuntimeError(f"another network: its loss is {first:.5g} and not {expected:.5g}")
    if not last < 0.99 * first:
        raise RuntimeError(f"it did not train: loss {first:.5g} before, {last:.5g} after the updates")
    return {"kind": kind, "steps": steps, "shared_loss": first, "last_loss": last, "ms": 1000 * seconds / steps,
            "images_per_second": steps * batch / seconds}


def made_data(device: torch.device) -> DeviceData:
    """Noise whose brightness gives the label away, so that a network learns it in a few updates."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (IMAGES,), generator=generator)
    noise = torch.randint(60, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    images, labels = noise.add_((18 * labels).to(torch.uint8)[:, None, None, None]).to(device), labels.to(device)
    return DeviceData(images, labels, images[:9], labels[:9], per_pixel_mean(images[:1000]), "made", "made", "")


def device_batches(data: DeviceData, config: RunConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """Mini-batches without end, in our order and augmented as ours."""
    source, size = DeviceInput(data, config), config.train.mini_batch_size
    for start in count(0, size):
        source.prepare(start)
        yield source.batch(torch.arange(start, start + size, device=data.mean.device))


def loader_batches(data: DeviceData, config: RunConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """Mini-batches without end; a worker process for each core transforms PIL images one by one."""
    transform = transforms.Compose([
        transforms.ToPILImage(), transforms.RandomCrop(32, config.data.padding),
        transforms.RandomHorizontalFlip(0.5 * config.data.flip), transforms.ToTensor(),
        transforms.Normalize(data.mean.cpu() / 255, [1 / 255] * 3)])  # to pixels less the mean
    images = zip(data.train_images.permute(0, 2, 3, 1).cpu().numpy(), data.train_labels.tolist(), strict=True)
    loader = DataLoader([*images],  # type: ignore[var-annotated, arg-type]
                        config.train.mini_batch_size, shuffle=True, drop_last=True, num_workers=cores_here(),
                        collate_fn=partial(collate, transform), pin_memory=data.mean.is_cuda, persistent_workers=True)
    while True:
        yield from loader


def collate(transform: transforms.Compose, images: list[tuple[Any, int]]) -> tuple[Tensor, Tensor]:
    """A mini-batch of images uint8 (32, 32, 3) and labels."""
    return torch.stack([transform(image) for image, _ in images]), torch.tensor([label for _, label in images])


def measure_device(config: RunConfig) -> Record:
    """Copy bandwidth (bytes read and written a second) and rate of matrix products (operations a second)."""
    device = devices.set_up(config)
    size = 8192 if device.type == "cuda" else 2048
    source = torch.rand(4 * size, 4 * size, device=device)  # random: what a device draws, and its clock, depends on it
    target = torch.empty_like(source)
    left = source[:size, :size].to(devices.AUTOCAST.get(config.machine.precision, torch.float32)).contiguous()
    return {"bytes_per_second": 2 * 4 * source.numel() / best_seconds(lambda: target.copy_(source), device, 20),
            "operations_per_second": 2 * size**3 / best_seconds(lambda: left @ left, device, 20)}


def least_work(config: RunConfig) -> dict[str, int]:
    """Bytes that an update must move and operations that it must do, by the shapes of the layers but the last."""
    elements = operations = 0

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal elements, operations
        if isinstance(module, nn.Conv2d):
            # Reads X, writes Y; batch normalization needs all of a mini-batch, so its statistics are a pass of their
            # own: forward X + 4 Y. Backward 7 Y + 2 X, without a gradient of the images, and two products for one.
            elements += (2 if module is model.conv1 else 3) * inputs[0].numel() + 11 * output.numel()
            operations += 3 * 2 * output.numel() * module.weight[0].numel()
        elif getattr(module, "shortcut", None) is not None:
            elements += 2 * output.numel()  # the addition

    with torch.device("meta"):
        model = build_model(config.model)
        for module in model.modules():
            module.register_forward_hook(add)
        model(torch.empty(config.train.mini_batch_size, 3, 32, 32))
    size = 2 if config.machine.precision in devices.AUTOCAST else 4
    weights = sum(p.numel() for p in model.parameters())  # moved 8 times, in 4 bytes
    return {"bytes": size * elements + 8 * 4 * weights, "operations": operations}


def read(contender: str, root: Path, images: int) -> Record:
    """Time the reading of images on one core, after as many that warm up."""
    torch.set_num_threads(1)
    folder = datasets.ImageFolder(root, transforms.Compose([
        v2.RandomResize(256, 481), transforms.RandomCrop(224), transforms.RandomHorizontalFlip(),
        transforms.ToTensor(), transforms.Normalize([0.45] * 3, [1.0] * 3)]))
    draws = training_draws(torch.arange(images), 0, 256, 480)  # Sec. 3.4

    def read_all() -> None:
        for number, (side, top, left, flip) in enumerate(zip(*(draw.tolist() for draw in draws), strict=True)):
            if contender == "plain":
                folder[number % len(folder)]
            else:
                image = crops.open_rgb(Path(folder.samples[number % len(folder)][0]))
                crops.random_crop(image, side, top, left, flip, 224)

    read_all()
    began, used = time.perf_counter(), time.process_time()
    read_all()
    return {"images_per_second": images / (time.perf_counter() - began),
            "per_core": images / (time.process_time() - used)}


def save(record: Record, folder: Path) -> Path:
    """Write the record, and its table beside it; the record's path."""
    device = re.sub(r"[^a-z0-9]+", "-", record["device"].lower()).strip("-")
    name = f"bench_{device}_{record['precision']}" if record["bench"] == "training" else f"bench_input_{device}"
    path = folder / f"{name}{'_quick' * record['quick']}.json"
    files.write_json(path, record)
    files.write_atomic(path.with_suffix(".md"), render(record))
    return path


def render(record: Record) -> str:
    """The record as a Markdown table; medians, ratios and floors are computed here."""
    training, results = record["bench"] == "training", record["results"]
    key, title, reference = ("ms", "ms/step", "repro") if training else ("per_core", "images/s per core", "plain")
    rows = [["contender", "executed as", title, "min to max", "images/s", f"relative to {reference}"], ["---"] * 6]
    notes = [f"{name}: {text}" for name, text in (TRAINERS if training else READERS).items()]
    for name, rounds in results.items():
        net, _, contender = name.rpartition(" ")
        if rounds and contender != "device":
            values = [one[key] for one in rounds]
            others = [one[key] for one in results.get(f"{net} {reference}".strip(), [])]
            rows.append([name, rounds[0].get("kind", "1 process"), f"{median(values):.4g}",
                         f"{min(values):.4g} to {max(values):.4g} ({len(values)} rounds)",
                         f"{median(one['images_per_second'] for one in rounds):,.0f}",
                         f"{median(values) / median(others):.2f}" if others else "-"])
    if rates := results.get("device"):
        copy, multiply = (median(one[rate] for one in rates) for rate in ("bytes_per_second", "operations_per_second"))
        for net, least in record["least"].items():
            for floor, seconds in (("byte", least["bytes"] / copy), ("compute", least["operations"] / multiply)):
                rows.append([f"{net} {floor} floor", "computed", f"{1000 * seconds:.4g}", "-", "-", "-"])
        notes.append(f"floors: least traffic and operations of an update at a copy's {copy / 1e9:.1f} GB/s and a "
                     f"matrix product's {multiply / 1e12:.3f} TFLOP/s, measured here; a cache can be faster")
    notes += [f"{name} failed: {reason}" for name, reason in record["failed"].items()]
    about = {**record["versions"], **record["code"], **record["machine"], "utc": record["utc"],
             "load average": f"{record['load_average']:.2f}"}
    notes.append(", ".join(f"{name} {value}" for name, value in about.items()))
    what = (f"Training speed, {record['precision']}, mini-batches of {record['mini_batch_size']}," if training else
            "ImageNet input")
    return "\n".join([f"# {'Quick, no evidence: ' * record['quick']}{what} on {record['device']}", "",
                      *(f"| {' | '.join(row)} |" for row in rows), "", *(f"- {note}" for note in notes), ""])
