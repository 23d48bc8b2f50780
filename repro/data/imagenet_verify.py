"""Opening every image of ImageNet: which ones can't be read, and what kinds there are. Never imports torch."""

import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
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


def verify(root: Path, wiring_test: bool, expected: Expected = OFFICIAL) -> None:
    """Check what `find` checks, then decode every image; says what there is.

    DataError (exit 3) that names the first images that can't be read, all of which are counted before.
    """
    files = find(root, wiring_test, expected)
    sets = [files.train] if files.one_folder else [files.train, files.val]
    logger.info(f"{display_path(root)}: " + ("one folder for both sets, a wiring test; " if files.one_folder else "")
        + " and ".join(f"{len(images):,} images in {display_path(images.root)}" for images in sets)
        + f", {len(files.wnids):,} classes, fingerprint {files.fingerprint}")
    found, bad = Counter[str](), []
    total = sum(map(len, sets))
    with progress(f"verify {display_path(root)}", total) as advance:
        for images in sets:
            for part in in_parts(partial(look, images), range(len(images))):
                advance(len(part))
                for kinds, problem in part:
                    found.update(kinds)
                    bad += [problem] if problem else []
    logger.info(", ".join(f"{found[kind]:,} {kind}" for kind in KINDS) + " (all of these are used)")
    if bad:
        raise DataError(f"{len(bad):,} of {total:,} images can't be read: {'; '.join(bad[:MOST_NAMED])}"
                        f"{and_more(len(bad))}. Put them there again from the official archives")
    logger.info(f"all {total:,} images can be read")


def look(images: ImageSet, numbers: Sequence[int]) -> list[tuple[list[str], str]]:
    """Decode images of a set: for each those of KINDS that it is of, and why it can't be read or ''."""
    seen: list[tuple[list[str], str]] = []
    for number in numbers:
        try:
            open_rgb(path := images.path(number))
            with Image.open(path) as image:
                seen.append((kinds_of(image), ""))
        except DataError as error:
            seen.append(([], str(error)))
    return seen


def kinds_of(image: Image.Image) -> list[str]:
    """Those of KINDS that an image is of."""
    is_kind = (image.mode in GRAY, image.mode == "CMYK", image.mode not in (*GRAY, "CMYK", "RGB"),
               image.format != "JPEG", min(image.size) < SMALL)
    return [kind for kind, it_is in zip(KINDS, is_kind, strict=True) if it_is]
