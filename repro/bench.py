"""How fast training is here: our step, loops as usually written, and what the device allows; and ImageNet's input.

All contenders train the same network from the same values on the same made images, each in a fresh process in every
round, in turn; medians count. A process fails that has another network, another loss, or has not lowered it at the end.
"""

import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from repro.config import compose
from repro.data.augment import augment_batch, normalize
from repro.data.cifar10 import DeviceData, per_pixel_mean
from repro.data.crops import open_rgb, random_crop
from repro.data.loader import cores_here
from repro.data.random import training_draws
from repro.devices import AUTOCAST, autocast, describe, place, resolve, set_up, synchronize
from repro.errors import ConfigError
from repro.files import utc_now, write_atomic, write_json
from repro.models import build_model
from repro.paths import own_module
from repro.provenance import code_version, machine, package_versions
from repro.schema import RunConfig
from repro.stopping import end_with_parent
from repro.training.execution import Execution
from repro.training.schedule import Schedule
from repro.training.step import TrainStep, batch_norm_group

logger = logging.getLogger(__name__)
Record = dict[str, Any]
CONTENDERS = {
    "repro": "this project's step, data on the device",
    "eager_loop": "a usual loop, data on the device, batched crop and flip there, torch.optim.SGD",
    "reduce_overhead": "the same loop, its network under torch.compile(mode='reduce-overhead')",
    "dataloader": "a usual loop, DataLoader with a worker for each core, torchvision's transforms of PIL images",
    "plain": "torchvision's ImageFolder and transforms: the whole Pillow image resized, then cropped, float32",
    "pillow": "this project: only what the crop shows is resized; uint8, color and mean are left to the device"}
TRAINERS, READERS = [*CONTENDERS][:4], [*CONTENDERS][4:]
IMAGES = 50_000  # as many as CIFAR-10 has
LONGEST = 1800.0  # seconds of one process; Choice: compiling 110 layers takes minutes on a few cores
ROWS, CUDA_ROWS = 2048, 8192  # of a matrix that is multiplied at the highest rate; 16 times as many numbers are copied
SIDES, SIZE = (256, 480), 224  # pixels, Sec. 3.4


def bench(overrides: Sequence[str], nets: Sequence[int] = (), contenders: Sequence[str] = (), rounds: int = 5,
          quick: bool = False, max_seconds: float = math.inf) -> Record:
    """Measure contenders on networks of these depths, by default what suits the device. Raises ConfigError."""
    # With this rate networks of every depth learn the made images in a few updates, whose time doesn't depend on it.
    words = ["experiment=cifar_resnet20", "train.lr=0.01", *overrides]
    config = resolve(compose(words))
    cuda = config.machine.device.name == "cuda"
    contenders = contenders or (["repro", "dataloader"] if quick else TRAINERS)
    if unknown := [name for name in contenders if name not in TRAINERS]:
        raise ConfigError(f"no contender {unknown[0]!r}; there are: {', '.join(TRAINERS)}")
    jobs: dict[str, Record] = {"device": {"work": "measure_device", "overrides": words}}
    least = {}
    for depth in nets or ((20,) if quick else (20, 56, 110) if cuda else (20, 56)):
        own = compose([*words, f"model.depth={depth}"])
        net = f"{'plain' if own.model.family.name == 'plain' else 'ResNet'}-{depth}"
        least[net] = least_work(own)
        jobs |= {f"{net} {name}": {"work": "train", "contender": name, "overrides": [*words, f"model.depth={depth}"],
                                   "parameters": least[net]["parameters"],
                                   "steps": 3 if quick else 300 if cuda else 20} for name in contenders}
    return begin("training", config.machine.device.name, quick) | {
        "precision": config.machine.precision.name, "overrides": [*overrides], "least": least,
        "mini_batch_size": config.train.mini_batch_size, "results": run_rounds(jobs, rounds, max_seconds)}


def bench_input(root: Path, rounds: int = 5, quick: bool = False, max_seconds: float = math.inf) -> Record:
    """Measure how fast a core reads the images of the class folders below `root`, or below its val/ or train/."""
    folder = next((root / part for part in ("val", "train") if (root / part).is_dir()), root)
    jobs = {name: {"work": "read", "contender": name, "root": str(folder), "images": 60 if quick else 400}
            for name in READERS}
    return begin("input", "cpu", quick) | {"results": run_rounds(jobs, rounds, max_seconds)}


def begin(kind: str, device: str, quick: bool) -> Record:
    """The head of a record: what, where, when, with what."""
    return {"bench": kind, "device": describe(torch.device(device)), "quick": quick, "utc": utc_now(),
            "load_average": os.getloadavg()[0], "code": code_version(), "versions": package_versions(),
            "machine": machine()}


def run_rounds(jobs: dict[str, Record], rounds: int, max_seconds: float) -> dict[str, list[Record]]:
    """What each job gave in each round, in turn; one that fails is not tried again. All ends within `max_seconds`."""
    ends, results = time.monotonic() + max_seconds, {name: list[Record]() for name in jobs}
    for number in range(1, rounds + 1):
        for name, job in jobs.items():
            if not results[name] or "failed" not in results[name][-1]:
                results[name].append(fresh_process(job, min(LONGEST, ends - time.monotonic())))
                said = ", ".join(f"{key} {value}" for key, value in results[name][-1].items())
                logger.info(f"round {number} of {rounds}: {name}: {said}")
    return results


def fresh_process(job: Record, seconds: float) -> Record:
    """What the function of this file that `work` names returns in a process of its own, or {"failed": reason}."""
    command = [*own_module("repro.bench"), json.dumps(job | {"parent": os.getpid()})]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                              timeout=max(0.0, seconds))
        result: Record = json.loads(done.stdout.splitlines()[-1])
        return result
    except subprocess.TimeoutExpired:
        return {"failed": f"no result in the {max(0.0, seconds):.0f} s that were left"}
    except (IndexError, ValueError):
        return {"failed": f"exit code {done.returncode}: {(done.stderr.splitlines() or ['no message'])[-1]}"}


def train(contender: str, overrides: list[str], parameters: int, steps: int) -> Record:
    """Time `steps` updates on made images, after a third as many that warm up."""
    config = resolve(compose(overrides))
    ours, batch = contender == "repro", config.train.mini_batch_size
    device = set_up(config, allocator=ours)
    torch.manual_seed(config.seed)  # order and augmentation of the usual loops
    data, kind = made_data(device), "eager"
    model: nn.Module
    model, reference = (build_model(config.model, config.seed, batch_norm_group(config)).to(device) for _ in range(2))
    shared, labels = normalize(data.train_images[:batch], data.mean), data.train_labels[:batch]
    expected = float(F.cross_entropy(reference(shared), labels).detach())

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        with autocast(device, config.machine.precision):
            logits = model(images.to(device, non_blocking=True))
        return F.cross_entropy(logits.float(), labels.to(device, non_blocking=True))

    if ours:
        execution = Execution(TrainStep(place(model, config, device), data, config, Schedule.of(config)), config)
        kind, advance = execution.kind, execution.advance
    else:
        if contender == "reduce_overhead":
            kind = "torch.compile"
            model.compile(mode="reduce-overhead")
        optimizer = torch.optim.SGD(model.parameters(), config.train.lr, config.train.momentum,
                                    weight_decay=config.train.weight_decay)
        batches = loader_batches(data, config) if contender == "dataloader" else device_batches(data, config)

        def advance(updates: int) -> None:  # waits for nothing, and in fp16 does not scale the loss
            for batch in islice(batches, updates):
                optimizer.zero_grad()
                torch.autograd.backward(loss_of(*batch))
                optimizer.step()

    first = float(loss_of(shared, labels).detach())
    # What a DataLoader's workers have made ahead is not timed.
    advance(max(steps // 3, 2 * cores_here() if contender == "dataloader" else 1))
    seconds = seconds_until_done(lambda: advance(steps), device)
    last = float(loss_of(shared, labels).detach())
    found = sum(p.numel() for p in model.parameters())
    if found != parameters or abs(first - expected) > 0.03 * expected:  # in 16 bits: 1 percent
        raise RuntimeError(f"another network: {found} parameters, a loss of {first:.5g} and not {expected:.5g}")
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
    """Mini-batches without end; crop and flip are one gather."""
    size = config.train.mini_batch_size
    while True:
        order = torch.randperm(IMAGES, device=data.mean.device)
        for index in order[: IMAGES // size * size].reshape(-1, size):
            draw = torch.randint(1 << 31, index.shape, device=index.device)
            yield augment_batch(data.train_images, data.mean, index, draw, config.seed, config.data.padding,
                                config.data.flip), data.train_labels[index]


def loader_batches(data: DeviceData, config: RunConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """Mini-batches without end of PIL images, transformed one by one in a worker process for each core."""
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


def collate(transform: transforms.Compose, images: list[tuple[np.ndarray, int]]) -> tuple[Tensor, Tensor]:
    """A mini-batch of images uint8 (32, 32, 3) and labels."""
    return torch.stack([transform(image) for image, _ in images]), torch.tensor([label for _, label in images])


def measure_device(overrides: list[str]) -> Record:
    """Copy bandwidth (bytes read and written a second) and rate of matrix products (operations a second)."""
    config = resolve(compose(overrides))
    device, dtype = set_up(config), AUTOCAST.get(config.machine.precision, torch.float32)
    size, calls = (CUDA_ROWS, 10) if device.type == "cuda" else (ROWS, 1)
    source = torch.rand(4 * size, 4 * size, device=device)  # random: what a device draws, and its clock, depends on it
    target, left = torch.empty_like(source), source[:size, :size].to(dtype).contiguous()

    def seconds_of(work: Callable[[], object]) -> float:  # of the fastest of 10, after one that is not counted
        return min([seconds_until_done(lambda: [work() for _ in range(calls)], device) for _ in range(11)][1:]) / calls

    return {"bytes_per_second": 2 * 4 * source.numel() / seconds_of(lambda: target.copy_(source)),
            "operations_per_second": 2 * size**3 / seconds_of(lambda: left @ left)}


def seconds_until_done(work: Callable[[], object], device: torch.device) -> float:
    """Seconds from the call until the device has done what it was given."""
    synchronize(device, all_streams=True)
    began = time.perf_counter()
    work()
    synchronize(device, all_streams=True)
    return time.perf_counter() - began


def least_work(config: RunConfig) -> dict[str, int]:
    """Parameters, and of an update the bytes that it must move and the operations, by the shapes of all layers.

    A convolution that reads X and writes Y: forward X + 4 Y, as batch normalization needs the whole mini-batch, so that
    its statistics are a pass of their own; backward 7 Y + 2 X (no gradient of the first X). An addition: 2 Y. Weights,
    in 4 bytes, 8 times. Not counted: input, pooling, last layer. Backward has two products where forward has one.
    """
    elements = multiply_adds = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal elements, multiply_adds
        if isinstance(module, nn.Conv2d):
            elements += (2 if module is model.conv1 else 3) * inputs[0].numel() + 11 * output.numel()
        elif getattr(module, "shortcut", None) is not None:
            elements += 2 * output.numel()
        if isinstance(module, nn.Conv2d | nn.Linear):
            multiply_adds += output.numel() * module.weight[0].numel()

    with torch.device("meta"):
        model = build_model(config.model)
        for module in model.modules():
            module.register_forward_hook(count)
        model(torch.empty(config.train.mini_batch_size, 3, 32, 32))
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "operations": 3 * 2 * multiply_adds,
            "bytes": elements * (2 if config.machine.precision in AUTOCAST else 4) + 8 * 4 * parameters}


def read(contender: str, root: str, images: int) -> Record:
    """Time the reading of images on one core, after as many that warm up."""
    torch.set_num_threads(1)
    folder = datasets.ImageFolder(root, transforms.Compose([
        lambda image: transforms.functional.resize(image, int(torch.randint(SIDES[0], SIDES[1] + 1, ()))),
        transforms.RandomCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
        lambda image: image + 0.1 * torch.randn(3, 1, 1) - torch.full((3, SIZE, SIZE), 0.45)]))  # color noise, mean
    draws = training_draws(torch.arange(images), 0, *SIDES)

    def read_all() -> None:
        for number, (side, top, left, flip) in enumerate(zip(*(draw.tolist() for draw in draws), strict=True)):
            if contender == "plain":
                folder[number % len(folder)]
            else:
                random_crop(open_rgb(Path(folder.samples[number % len(folder)][0])), side, top, left, flip, SIZE)

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
    write_json(path, record)
    write_atomic(path.with_suffix(".md"), render(record))
    return path


def render(record: Record) -> str:
    """The record as a Markdown table; medians, ratios and floors are computed here."""
    training, code = record["bench"] == "training", record["code"]
    key, title, reference = ("ms", "ms/step", "repro") if training else ("per_core", "images/s per core", "plain")
    good = {name: [one for one in rounds if "failed" not in one] for name, rounds in record["results"].items()}
    table = [["contender", "executed as", title, "min to max", "images/s", f"relative to {reference}"], ["---"] * 6]
    for name, rounds in good.items():
        net, _, contender = name.rpartition(" ")
        if rounds and contender in CONTENDERS:
            values = [one[key] for one in rounds]
            others = [one[key] for one in good.get(f"{net} {reference}".strip(), [])]
            table.append([name, rounds[0].get("kind", "1 process"), f"{median(values):.4g}",
                          f"{min(values):.4g} to {max(values):.4g} ({len(values)} rounds)",
                          f"{median(one['images_per_second'] for one in rounds):,.0f}",
                          f"{median(values) / median(others):.2f}" if others else "-"])
    notes = [f"{name}: {text}" for name, text in CONTENDERS.items() if any(name in job.split() for job in good)]
    notes += [f"{name}: {one['failed']}" for name, rounds in record["results"].items() for one in rounds
              if "failed" in one]
    if rates := good.get("device"):
        copy, product = (median(one[rate] for one in rates) for rate in ("bytes_per_second", "operations_per_second"))
        for net, least in record["least"].items():
            for floor, seconds in (("byte", least["bytes"] / copy), ("compute", least["operations"] / product)):
                table.append([f"{net} {floor} floor", "computed", f"{1000 * seconds:.4g}", "-",
                              f"{record['mini_batch_size'] / seconds:,.0f}", "-"])
        notes.append(f"floors: the least traffic and operations of an update at a copy's {copy / 1e9:.1f} GB/s and a "
                     f"matrix product's {product / 1e12:.3f} TFLOP/s, measured here; a cache can be faster")
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    notes.append(f"{versions}; {record['machine']['cores']} cores; commit {code['commit']}"
                 f"{' with changes' * bool(code['dirty'])}; {record['utc']}; load average {record['load_average']:.2f}")
    what = f"Training speed, {record['precision']}," if training else "ImageNet input"
    return "\n".join([f"# {'Quick, no evidence: ' * record['quick']}{what} on {record['device']}", "",
                      *("| " + " | ".join(line) + " |" for line in table), "", *(f"- {note}" for note in notes), ""])


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    end_with_parent(job.pop("parent"), signal.SIGKILL)
    try:
        answer = globals()[job.pop("work")](**job)
    except Exception as error:  # told by the parent, beside what the others measured
        answer = {"failed": f"{type(error).__name__}: {(str(error).splitlines() or ['?'])[0]}"}
    print("\n" + json.dumps(answer))
