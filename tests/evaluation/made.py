"""Small made-up image folders, networks and weights for the tests of ImageNet's three ways of testing."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from repro.config import compose, config_hash, to_dict
from repro.devices import resolve
from repro.files import write_atomic, write_json
from repro.models import build_model
from repro.runs import run_folder
from repro.schema import RunConfig
from tests.made_weights import trained_like

CLASSES = 7
SIZES = [(75, 50), (50, 75), (61, 61), (75, 50), (97, 43)]  # (width, height), not all square, odd, two alike
TINY = ["experiment=imagenet_resnet18", "data.wiring_test=true", f"model.num_classes={CLASSES}", "data.crop_size=32",
        "data.test_shorter_side=37", "machine.device=cpu",
        "machine.workers=2", "machine.evaluation_batch_size=4"]


def make_images(root: Path, images: int = 30, classes: int = 5) -> Path:
    """root/val/<wnid>/*.png: noise of several sizes, so many images of so many classes."""
    generator = np.random.default_rng(0)
    for number in range(images):
        width, height = SIZES[number % len(SIZES)]
        coarse = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        folder = root / "val" / f"n{number % classes:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
        picture.save(folder / f"image{number:03d}.png")
    return root


def tiny(root: Path, *overrides: str) -> RunConfig:
    """A wiring test of ResNet-18 on 32x32 crops of these images."""
    return compose([*TINY, f"data.root={root}", *overrides])


def make_weights(path: Path, seed: int = 0, mean: bool = True) -> Path:
    """A state_dict of the tiny network with random values, and beside it the mean that it was 'trained' with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(trained_like(build_model(compose(TINY).model), "fc", 64, seed, 60).state_dict(), path)
    if mean:
        image = np.random.default_rng(1).uniform(90, 150, (3, 32, 32)).astype(np.float32)
        np.savez(path.parent / "mean.npz", mean=image, covariance=np.eye(3))
    return path


def make_run(*overrides: str, weights: bool = True) -> Path:
    """The folder of a finished run of one iteration, a wiring test; its weights are random, or no weights at all."""
    config = resolve(compose([*TINY, "train.iterations=1", "train.lr_drops=[]", "evaluation.interval=1", *overrides]))
    folder = run_folder(config)
    if weights:
        make_weights(folder / "weights.pt", config.seed)
    else:
        write_atomic(folder / "weights.pt", f"weights {config.seed}")
    result = {"iteration": 1, "val_top1_error": 90.0}
    write_json(folder / "run.json", {
        "schema": 1, "experiment": config.name, "seed": config.seed, "identity": config_hash(config), "iterations": 1,
        "status": "finished", "config": to_dict(config), "result": result, "deviations": ["a wiring test"]})
    (folder / "history.csv").write_text("iteration,val_top1_error\n1,90.0\n")
    return folder
