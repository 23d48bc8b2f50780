"""Variants of tables and figures that are made of a suite's preset: short runs, and runs on synthetic images.

`short_figure6` is Figure 6 of short runs, `synthetic_figure6` that of runs on synthetic images.
"""

from repro.config import scale_lengths
from repro.paper import Preset, suite
from repro.reporting.selection import with_preset

SHORT, SYNTHETIC = "short", "synthetic"
LAYERS = ("figure7", "gradients")  # drawn by layer, of the networks of Figure 7
SUITES = {SHORT: "cifar_plain_vs_res", SYNTHETIC: "demo"}
LAYER_SUITES = {SHORT: "cifar_responses", SYNTHETIC: "demo"}
NOT_CIFAR = "Synthetic images, not CIFAR-10"


def split_name(name: str) -> tuple[str | None, str]:
    """('short', 'figure6') for short_figure6, (None, 'figure6') for figure6."""
    prefix, _, base = name.partition("_")
    return (prefix, base) if prefix in SUITES else (None, name)


def preset_of(variant: str, base: str) -> Preset:
    """The preset whose runs a variant of a figure or table shows."""
    return suite((LAYER_SUITES if base in LAYERS else SUITES)[variant]).preset(variant)


def lengths(preset: Preset) -> tuple[int, int, list[int]]:
    """(iterations of a short run, of the paper's, iterations of the short run's drops)."""
    config = with_preset((preset.experiments or ())[0], preset.overrides)
    train = config.train
    return (scale_lengths(train.iterations, config.scale), train.iterations,
            [scale_lengths(drop, config.scale) for drop in train.lr_drops])


def schedule_text(preset: Preset) -> str:
    """'300 iterations instead of 64,000, drops at 150 and 225'."""
    short, paper, drops = lengths(preset)
    return f"{short:,} iterations instead of {paper:,}, drops at {' and '.join(str(drop) for drop in drops)}"


def title(variant: str, preset: Preset, what: str) -> str:
    """The title of a variant of a figure; `what` is such as 'Figure 6'."""
    head = f"{NOT_CIFAR}. " if variant == SYNTHETIC else ""
    return f"{head}Short version of {what} ({schedule_text(preset)})"


def warning(variant: str, preset: Preset) -> str:
    """The small print that says what a variant shows and what it cannot show."""
    head = f"{NOT_CIFAR}; not" if variant == SYNTHETIC else "not"
    return f"{head} the paper's schedule: it shows {preset.shows}; it cannot show {preset.cannot_show}"


def net_name(experiment: str) -> str:
    """'ResNet-20' for cifar_resnet20, 'plain-18' for imagenet_plain18, 'ResNet-34 B' for imagenet_optB (Sec. 4.1)."""
    bare = experiment.removeprefix("cifar_").removeprefix("imagenet_")
    if bare.startswith("opt"):
        return f"ResNet-34 {bare.removeprefix('opt')}"
    family = next((name for name in ("ResNet", "VGG") if bare.startswith(name.lower())), "plain")
    return f"{family}-{bare.removeprefix(family.lower())}"
