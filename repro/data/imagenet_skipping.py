"""data.on_bad=skip: images that can't be read are found before anything is computed, and left out. Never imports torch.

Choice: all of them are opened first, once for a set of files, and what was found is kept. Nothing then depends on when
an image is met: a run that goes on, and every test of it, has the images that it began with.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from repro.data.imagenet_files import OFFICIAL, TRAIN, VAL, Expected, ImageNetFiles, ImageSet, find
from repro.data.imagenet_listing import MOST_NAMED, Say
from repro.data.parts import in_parts, progress
from repro.data.pictures import open_rgb
from repro.errors import DataError, ImageError
from repro.places import shown
from repro.runs import write_json
from repro.schema import DataConfig, OnBad

Bad = dict[str, list[tuple[int, str]]]  # by set: places of images that can't be read, each with its reason


def find_images(data: DataConfig, root: Path, kept_in: Path, say: Say, check: Callable[[], None] = lambda: None,
                expected: Expected = OFFICIAL) -> ImageNetFiles:
    """`find` as data.on_bad says; with skip, without the images that can't be read, of which `left_out` tells.

    kept_in: the folder where what was found of a set of files is kept; check: is called now and then, and may raise to
    stop. DataError (3) as `find`, and if a class has no training image left.
    """
    if data.on_bad is OnBad.fail:
        return find(root, data.wiring_test, say, expected)
    files = find(root, data.wiring_test, say, expected, skip=True)
    path = kept_in / f"unreadable-{files.fingerprint[:16]}.json"
    found = remembered(path, files)
    if found is None:
        say(f"data.on_bad=skip: opening all images in {shown(root)} to find those that can't be read (once)")
        found = unreadable(files, check)
        write_json(path, {"fingerprint": files.fingerprint, "unreadable": found})
    left = without(files, found)
    if left.left_out:
        named = ", ".join(f"{name} ({reason})" for name, reason in left.left_out[:MOST_NAMED])
        more = f" and {len(left.left_out) - MOST_NAMED:,} more" if len(left.left_out) > MOST_NAMED else ""
        say(f"data.on_bad=skip: {len(left.left_out):,} files are left out: {named}{more}; delete {shown(path)} to look "
            "at all images again")
    return left


def remembered(path: Path, files: ImageNetFiles) -> Bad | None:
    """What an earlier look at the same files found; None if there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["fingerprint"] != files.fingerprint:
            return None
        return {name: [(int(place), str(reason)) for place, reason in content["unreadable"][name]]
                for name in (TRAIN, VAL)}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def unreadable(files: ImageNetFiles, check: Callable[[], None]) -> Bad:
    """Decode every image of both sets."""
    found: Bad = {TRAIN: [], VAL: []}
    sets = {TRAIN: files.train} if files.one_folder else {TRAIN: files.train, VAL: files.val}
    with progress("look for images that can't be read", sum(map(len, sets.values()))) as advance:
        for name, images in sets.items():
            for count, bad in in_parts(lambda places, images=images: look_at(images, places),  # type: ignore[misc]
                                       range(len(images))):
                found[name] += bad
                advance(count)
                check()
    return found | {VAL: found[TRAIN]} if files.one_folder else found


def look_at(images: ImageSet, places: Sequence[int]) -> tuple[int, list[tuple[int, str]]]:
    """How many images these are, and which of them can't be read for what reason."""
    bad = []
    for place in places:
        path = images.path(place)
        try:
            open_rgb(path)
        except ImageError as error:
            bad.append((place, str(error).removeprefix(f"{shown(path)}: ")))
    return len(places), bad


def without(files: ImageNetFiles, bad: Bad) -> ImageNetFiles:
    """The files without these images; DataError if a class has no training image left."""
    sets = {TRAIN: files.train} if files.one_folder else {TRAIN: files.train, VAL: files.val}
    left_out = sorted([*files.left_out, *((f"{name}/{os.fsdecode(images.names[place])}", reason)
                                          for name, images in sets.items() for place, reason in bad[name])])
    train, val = taken_from(files.train, bad[TRAIN]), taken_from(files.val, bad[VAL])
    counts = np.bincount(train.labels, minlength=len(files.wnids))
    if not counts.all():
        empty = files.wnids[int(np.argmin(counts))]
        raise DataError(f"data.on_bad=skip: no training image of class {empty} in {shown(files.train.root)} can be "
                        "read; put its images there, or name another folder by data.root=FOLDER")
    lines = "".join(f"left out\0{name}\n" for name, _ in left_out).encode(errors="surrogateescape")
    fingerprint = hashlib.sha256(files.fingerprint.encode() + lines).hexdigest() if left_out else files.fingerprint
    return replace(files, train=train, val=val, fingerprint=fingerprint, left_out=tuple(left_out))


def taken_from(images: ImageSet, bad: Sequence[tuple[int, str]]) -> ImageSet:
    """A set without the images at these places."""
    good = np.ones(len(images), bool)
    good[[place for place, _ in bad]] = False
    return replace(images, names=images.names[good], labels=images.labels[good])


def for_record(files: ImageNetFiles) -> dict[str, Any]:
    """For a record: how many files of each set were left out, the first ones, and a hash of all their paths."""
    if not files.left_out:
        return {}
    paths = [name for name, _ in files.left_out]
    text = "".join(f"{path}\n" for path in paths).encode(errors="surrogateescape")
    first = [{"path": path.encode(errors="surrogateescape").decode(errors="replace"), "reason": reason}
             for path, reason in files.left_out[:MOST_NAMED]]
    return {"left_out": {TRAIN: sum(path.startswith(f"{TRAIN}/") for path in paths),
                         VAL: sum(path.startswith(f"{VAL}/") for path in paths),
                         "first": first, "sha256": hashlib.sha256(text).hexdigest()}}
