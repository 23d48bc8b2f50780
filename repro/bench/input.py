"""`repro bench input`: images per second and core, read and cropped by this project and by the plain way."""

import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision.transforms import functional

from repro.bench.bench import run_program, spread
from repro.bench.input_baseline import Request, requests
from repro.bench.input_plan import CONTENDERS, PLAIN, SIZE, InputJob, InputSettings
from repro.data.crops import open_rgb, random_crop
from repro.data.loader import cores_here
from repro.devices import cpu_name
from repro.errors import ComparisonError, ConfigError, DataError
from repro.files import utc_now
from repro.paths import display_path, own_module, user_path
from repro.provenance import code_version, machine, package_versions

logger = logging.getLogger(__name__)
Run = Callable[[InputJob], dict[str, Any]]
PROGRAM = tuple(own_module("repro.bench.input_baseline"))
COMPARED = 32  # Choice: crops that are held against the plain way before anything is timed
MOST_BY_ONE, LARGEST = 0.999, 2  # part of values that differ by 1 gray level at most, and how far the others may
MADE, MADE_SIZE = 100, (500, 375)  # images, and pixels: the median size of ImageNet's


def bench_input(settings: InputSettings, run: Run | None = None) -> dict[str, Any]:
    """Measure what the settings ask for and return the record, plain values for JSON.

    First some crops are compared with the plain way. Then rounds x contenders, each in a fresh process, one after the
    other. Raises DataError without images, ComparisonError if a crop is not that of the plain way.
    """
    run = run or fresh_process
    start = {"started": utc_now(), "load_average_before": load(), "code": code_version()}
    with ExitStack() as stack:
        root = image_folder(settings.root) if settings.root else make_folder(stack)
        files = sorted(path for path in root.glob("*/*") if path.is_file())
        if not files:
            raise DataError(f"{display_path(root)}: no <class>/<image> below it; name a folder by data.root=DIR")
        compared = compare(files[:COMPARED])
        logger.info(f"{compared['crops']} crops differ from the plain way by {compared['largest_difference']} gray "
                    f"levels at most, {100 * compared['by_more_than_one']:.4f} % of their values by more than 1")
        workers = settings.workers or cores_here()
        series = rounds(settings, InputJob("", str(root), settings.images, workers), run)
    plain = series[PLAIN][0]
    return {"bench": "input", "quick": settings.quick, "rounds": settings.rounds, "images": settings.images,
            "files": len(files), "made": settings.root is None, "workers": workers, "device": cpu_name(),
            "compared": compared, "contenders": [record_of(name, *found, plain) for name, found in series.items()],
            "versions": package_versions() | {"pillow": version("pillow")}, "machine": machine(),
            "utc": utc_now()} | start


def load() -> float:
    """What else computes on this machine, as its load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def image_folder(setting: str) -> Path:
    """The folder of class folders below a root: its val/, its train/, or itself."""
    root = user_path(setting).absolute()
    if not root.is_dir():
        raise ConfigError(f"data.root={setting}: no such folder")
    return next((root / part for part in ("val", "train") if (root / part).is_dir()), root)


def make_folder(stack: ExitStack) -> Path:
    """Made images in a folder that is there until the stack is closed."""
    root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="repro-bench-")))
    (root / "made").mkdir()
    generator = np.random.default_rng(0)
    width, height = MADE_SIZE
    for number in range(MADE):
        coarse = Image.fromarray(generator.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize(MADE_SIZE, Image.Resampling.BICUBIC), np.int16)
        noisy = (pixels + generator.integers(-12, 13, pixels.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(root / "made" / f"{number:03}.jpg", quality=90)
    return root


def compare(files: list[Path]) -> dict[str, Any]:
    """How far crops of these files are from those of the plain way."""
    differences = [difference(path, request)
                   for path, request in zip(files, chain(*requests(len(files))), strict=True)]
    values = np.concatenate(differences)
    found = {"crops": len(differences), "largest_difference": int(values.max()),
             "by_more_than_one": float((values > 1).mean())}
    if found["largest_difference"] > LARGEST or found["by_more_than_one"] > 1 - MOST_BY_ONE:
        raise ComparisonError(f"crops are not those of the plain way: {found}")
    return found


def difference(path: Path, request: Request) -> np.ndarray:
    """Absolute differences of a crop's values to the same crop of the whole resized image: (224, 224, 3) int64."""
    _, side, top_bits, left_bits, flip = request
    with Image.open(path) as image:
        whole = np.asarray(functional.resize(image.convert("RGB"), side)).astype(int)
    top, left = ((bits * (length - SIZE + 1)) >> 32
                 for bits, length in zip((top_bits, left_bits), whole.shape[:2], strict=True))
    plain = whole[top : top + SIZE, left : left + SIZE]
    ours = random_crop(open_rgb(path), side, top_bits, left_bits, bool(flip), SIZE)
    found: np.ndarray = np.abs(ours.astype(int) - (plain[:, ::-1] if flip else plain))
    return found


Series = tuple[list[dict[str, Any]], str | None]  # what each round gave, and why there were no more


def rounds(settings: InputSettings, job: InputJob, run: Run) -> dict[str, Series]:
    """All rounds of all contenders, in turn; one that fails is not tried again."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    failed: dict[str, str] = {}
    for number in range(1, settings.rounds + 1):
        for name in [name for name in CONTENDERS if name not in failed]:
            result = run(InputJob(name, job.root, job.images, job.workers))
            head = f"{'quick, ' if settings.quick else ''}round {number} of {settings.rounds}: {name}"
            if "failed" in result:
                failed[name] = str(result["failed"])
                logger.info(f"{head}: failed: {failed[name]}")
            else:
                found[name].append(result)
                logger.info(f"{head}: {result['images_per_second']:.0f} images/s, "
                            f"{result['images_per_core_second']:.0f} per second of one core")
    return {name: (found[name], failed.get(name)) for name in CONTENDERS}


def fresh_process(job: InputJob) -> dict[str, Any]:
    """Measure a job in a process of its own."""
    return run_program([*PROGRAM, job.text()])


def record_of(name: str, results: list[dict[str, Any]], failed: str | None,
              plain: list[dict[str, Any]]) -> dict[str, Any]:
    """One contender: medians and spread of its rounds, and the ratio of medians to the plain way's; or why none."""
    if failed is not None:
        return {"contender": name, "status": "failed", "reason": failed, "rounds_before": results}
    measured = {key: spread([one[key] for one in results]) for key in ("images_per_second", "images_per_core_second")}
    per_core = measured["images_per_core_second"]["median"]
    reference = spread([one["images_per_core_second"] for one in plain])["median"] if plain else None
    return {"contender": name, "status": "measured", **measured,
            "over_plain": per_core / reference if reference else None}
