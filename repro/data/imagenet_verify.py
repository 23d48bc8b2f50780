"""Opening every image of ImageNet: which ones can't be read, and what kinds there are. Never imports torch."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from repro.data.crops import open_rgb
from repro.data.imagenet_files import MOST_NAMED, OFFICIAL, Expected, ImageSet, and_more, find
from repro.data.parts import in_parts, progress
from repro.errors import DataError
from repro.paths import display_path

logger = logging.getLogger(__name__)
SMALL = 224  # pixels: the side of a crop, Sec. 3.4
GRAY = ("1", "L", "LA", "I", "I;16", "F")
KINDS = ("grayscale", "CMYK", "of other colors than RGB", "not JPEG", f"with a shorter side under {SMALL} pixels")


@dataclass
class Found:
    """How many images there are of each of KINDS; the numbers of those that can't be read, each with what is said."""

    images: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[int, str]] = field(default_factory=list)

    def look(self, number: int, path: Path) -> None:
        """One more image, decoded fully."""
        self.images += 1
        try:
            open_rgb(path)
            with Image.open(path) as image:
                self.kinds.update(kinds(image))
        except DataError as error:
            self.bad.append((number, str(error)))

    def merge(self, other: "Found") -> None:
        """Those of another part of the images, which come later."""
        self.images += other.images
        self.kinds += other.kinds
        self.bad += other.bad


def verify(root: Path, wiring_test: bool, expected: Expected = OFFICIAL) -> None:
    """Check what `find` checks, then decode every image; says what there is.

    DataError (exit 3) that names the first images that can't be read, all of which are counted before.
    """
    files = find(root, wiring_test, expected)
    sets = [files.train] if files.one_folder else [files.train, files.val]
    logger.info(f"{display_path(root)}: " + ("one folder for both sets, a wiring test; " if files.one_folder else "")
        + " and ".join(f"{len(images):,} images in {display_path(images.root)}" for images in sets)
        + f", {len(files.wnids):,} classes, fingerprint {files.fingerprint}")
    total = Found()
    for _, found in look_at_all(root, sets):
        total.merge(found)
    logger.info(", ".join(f"{total.kinds[kind]:,} {kind}" for kind in KINDS) + " (all of these are used)")
    if total.bad:
        named = "; ".join(text for _, text in total.bad[:MOST_NAMED])
        raise DataError(f"{len(total.bad):,} of {total.images:,} images can't be read: {named}"
                        f"{and_more(len(total.bad))}. Put them there again from the official archives")
    logger.info(f"all {total.images:,} images can be read")


def look_at_all(root: Path, sets: Sequence[ImageSet]) -> Iterator[tuple[int, Found]]:
    """Decode every image on all cores, with progress; yields the place of its set and what each part holds, in order.

    Images that no thread has begun are left out when the iterator is dropped.
    """
    with progress(f"verify {display_path(root)}", sum(map(len, sets))) as advance:
        for place, images in enumerate(sets):
            for found in in_parts(lambda numbers, images=images: look_at(images, numbers),  # type: ignore[misc]
                                  range(len(images))):
                advance(found.images)
                yield place, found


def look_at(images: ImageSet, numbers: Sequence[int]) -> Found:
    """What some images of a set are."""
    found = Found()
    for number in numbers:
        found.look(number, images.path(number))
    return found


def kinds(image: Image.Image) -> list[str]:
    """Those of KINDS that an image is of."""
    is_kind = (image.mode in GRAY, image.mode == "CMYK", image.mode not in (*GRAY, "CMYK", "RGB"),
               image.format != "JPEG", min(image.size) < SMALL)
    return [kind for kind, it_is in zip(KINDS, is_kind, strict=True) if it_is]
