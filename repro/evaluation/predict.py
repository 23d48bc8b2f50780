"""`repro predict`: what a network sees in images of yours, for a person."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.models import ResNet50_Weights

from repro.data.cifar10 import on_device
from repro.data.imagenet_files import find
from repro.data.pictures import center_crop, open_rgb
from repro.data.sources import load_arrays
from repro.devices import place, resolve, set_up, settings_restored
from repro.errors import DataError
from repro.evaluation.normaliser import Normaliser, normaliser_of
from repro.evaluation.scores import TOP, Scorer
from repro.evaluation.testing import WIRING_TEST, check_agrees, print_now
from repro.evaluation.views import CENTER, Views, views_of
from repro.evaluation.weight_files import read_weights, run_beside
from repro.evaluation.weights import load_weights
from repro.models import build_model
from repro.places import data_dir
from repro.ranges import CIFAR10, CLASSES, IMAGENET
from repro.schema import RunConfig

# The data set's own file batches.meta.
CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_SIDE = 32  # pixels


@settings_restored()
def predict(config: RunConfig, weights: Path, images: Sequence[Path]) -> tuple[str, list[dict[str, Any]], list[str]]:
    """The five likeliest classes of the centre crop of each image: in words, as values, and what could not be read.

    StorageError if the weights can't be read or are of another network; DataError if there is no mean to subtract.
    """
    config = resolve(config)
    device = set_up(config)
    if config.data.name == IMAGENET:
        carried = read_weights(weights)[1]
        check_agrees(config, None if carried and carried.label else run_beside(weights))
        views = views_of(CENTER, config.data)
    else:  # Choice: as on ImageNet, but the shorter side is all of the crop
        views = Views(CENTER, (CIFAR10_SIDE,), CIFAR10_SIDE)
    model = place(load_weights(build_model(config.model), weights), config, device)
    scorer = Scorer(model, views, mean_of(config, weights), config.machine)
    names = class_names(config)
    values, bad = [], []
    for path in images:
        try:
            crop = center_crop(open_rgb(path), views.shorter_sides[0], views.crop_size)
        except DataError as error:
            bad.append(str(error))
            continue
        values.append({"image": str(path), "wiring_test": config.data.wiring_test,
                       "classes": likeliest(scorer(crop[None])[0], names)})
    return in_words(values), values, bad


def mean_of(config: RunConfig, weights: Path) -> Normaliser:
    """What is subtracted from an image of the configuration's data set."""
    if config.data.name == IMAGENET:
        root = data_dir(config.data.root)
        return normaliser_of(config, weights, lambda: find(root, config.data.wiring_test, print_now).fingerprint)
    data = on_device(load_arrays(config.data), config.data, device=set_up(config))
    return Normaliser(data.mean.cpu(), None if data.std is None else data.std.cpu())


def class_names(config: RunConfig) -> Sequence[str]:
    """The classes in the order of the network's outputs; ImageNet's are in the order of their WordNet ids."""
    if config.data.name == CIFAR10:
        return CIFAR10_NAMES
    if config.data.name == IMAGENET and not config.data.wiring_test and config.model.num_classes == CLASSES:
        names: Sequence[str] = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
        return names
    return [f"class {number}" for number in range(config.model.num_classes)]


def likeliest(scores: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Number, name and probability of the five likeliest classes of (K,) probabilities, the likeliest first."""
    order = np.argsort(-scores, kind="stable")[:TOP]
    return [{"class": int(number), "name": names[number], "probability": float(scores[number])} for number in order]


def in_words(values: Sequence[dict[str, Any]]) -> str:
    """Each image with its classes, for a person."""
    lines = []
    for value in values:
        lines.append(value["image"] + (f" ({WIRING_TEST})" if value["wiring_test"] else ""))
        lines += [f"  {100 * entry['probability']:6.2f} %  {entry['name']}" for entry in value["classes"]]
    return "\n".join(lines)
