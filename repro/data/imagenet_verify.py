"""Opening every image of ImageNet: which ones can't be read, and what kinds there are. Never imports torch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from repro.data.imagenet_files import OFFICIAL, Expected, ImageSet, find
from repro.data.imagenet_listing import MOST_NAMED, Say
from repro.data.parts import in_parts, progress
from repro.data.pictures import open_rgb
from repro.errors import DataError
from repro.places import shown

SMALL = 224  # pixels: the side of a crop, Sec. 3.4
GREY = ("1", "L", "LA", "I", "I;16", "F")
KINDS = ("greyscale", "CMYK", "of other colours than RGB", "not JPEG", f"with a shorter side under {SMALL} pixels")


@dataclass
class Found:
    """How many images there are of each of KINDS, and the first ones that can't be read, each with its reason."""

    images: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    named: list[str] = field(default_factory=list)
    bad: int = 0

    def look(self, path: Path) -> None:
        """One more image, decoded fully."""
        self.images += 1
        try:
            open_rgb(path)
            with Image.open(path) as image:
                self.kinds.update(kinds(image))
        except DataError as error:
            self.bad += 1
            self.named = [*self.named, str(error)][:MOST_NAMED]

    def merge(self, other: "Found") -> None:
        """Those of another part of the images, which come later."""
        self.images, self.bad = self.images + other.images, self.bad + other.bad
        self.kinds += other.kinds
        self.named = [*self.named, *other.named][:MOST_NAMED]


def verify(root: Path, wiring_test: bool, say: Say, expected: Expected = OFFICIAL) -> None:
    """Check what `find` checks, then decode every image; says what there is.

    DataError (exit 3) that names the first images that can't be read, all of which are counted before.
    """
    files = find(root, wiring_test, say, expected)
    sets = [files.train] if files.one_folder else [files.train, files.val]
    say(f"{shown(root)}: " + ("one folder for both sets, a wiring test; " if files.one_folder else "")
        + " and ".join(f"{len(images):,} images in {shown(images.root)}" for images in sets)
        + f", {len(files.wnids):,} classes, {files.hidden:,} hidden files skipped; fingerprint {files.fingerprint}")
    total = Found()
    with progress(f"verify {shown(root)}", sum(map(len, sets))) as advance:
        for images in sets:
            for found in in_parts(lambda numbers, images=images: look_at(images, numbers),  # type: ignore[misc]
                                  range(len(images))):
                total.merge(found)
                advance(found.images)
    say(", ".join(f"{total.kinds[kind]:,} {kind}" for kind in KINDS) + " (all of these are used)")
    if total.bad:
        more = f" and {total.bad - len(total.named):,} more" if total.bad > len(total.named) else ""
        raise DataError(f"{total.bad:,} of {total.images:,} images can't be read: {'; '.join(total.named)}{more}. Put "
                        "them there again from the official archives")
    say(f"all {total.images:,} images can be read")


def look_at(images: ImageSet, numbers: Sequence[int]) -> Found:
    """What some images of a set are."""
    found = Found()
    for number in numbers:
        found.look(images.path(number))
    return found


def kinds(image: Image.Image) -> list[str]:
    """Those of KINDS that an image is of."""
    is_kind = (image.mode in GREY, image.mode == "CMYK", image.mode not in (*GREY, "CMYK", "RGB"),
               image.format != "JPEG", min(image.size) < SMALL)
    return [kind for kind, it_is in zip(KINDS, is_kind, strict=True) if it_is]
