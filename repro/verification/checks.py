"""The list of all checks, in the order in which they are carried out."""

from functools import partial
from pathlib import Path

from repro.verification import (
    committed,
    counts,
    evaluations,
    files,
    identities,
    networks,
    resuming,
    schedules,
    training_images,
    updates,
)
from repro.verification.check import Check


def checks(root: Path) -> tuple[Check, ...]:
    """All checks; `root` is the folder that holds the data sets."""
    return (
        Check("published numbers", files.published),
        Check("experiments' identities", identities.identities),
        Check("golden parameter counts", counts.parameters),
        Check("golden multiply-adds", counts.multiply_adds),
        Check("schedule", schedules.schedule),
        Check("warm-up", schedules.warm_up),
        Check("update rule", updates.update_rule),
        Check("CIFAR-10 networks", networks.cifar),
        Check("ImageNet networks", networks.imagenet),
        Check("augmentation", training_images.augmentation),
        Check("order of images", training_images.order),
        Check("errors and losses", evaluations.errors),
        Check("ten crops", evaluations.crops),
        Check("exact resume", resuming.resume),
        Check("CIFAR-10 data", partial(files.cifar10, root)),
        Check("ImageNet data", partial(files.imagenet, root)),
        Check("committed records", committed.committed_records),
        Check("committed tables", committed.committed_tables),
    )
