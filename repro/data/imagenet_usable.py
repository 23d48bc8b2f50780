"""ImageNet as a run uses it: whole, or with data.on_bad=skip without the files that can't be read. Never imports torch.

With skip every image is opened before the first update, once: the outcome is kept beside the mean images and holds
until a name, a size or a time of change in the set is another. Choice: only then, and not at every start, so that a
disk that fails for a moment does not change the set of a run that goes on.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from repro.data.imagenet_files import (
    OFFICIAL,
    Expected,
    ImageNetFiles,
    Listings,
    differences,
    few,
    find,
    finished,
    list_sets,
    refuse,
)
from repro.data.imagenet_listing import MOST_NAMED, NESTED, NO_IMAGES, OTHER_FILES, Listing, Say, and_more
from repro.data.imagenet_statistics import note_damaged, statistics_folder
from repro.data.imagenet_verify import look_at_all
from repro.errors import Stopped
from repro.places import data_dir, results_dir, shown
from repro.runs import write_atomic
from repro.schema import OnBad, RunConfig
from repro.stopping import StopRequest

Bad = list[list[tuple[int, str]]]  # for each of `Listings.each`: numbers of images that can't be read, and why


def usable(config: RunConfig, say: Say, stop: StopRequest | None = None,
           expected: Expected = OFFICIAL, val_alone: bool = False) -> ImageNetFiles:
    """The images of a configuration's run or test; with `val_alone` train/ may be missing. What is left out is said.

    Choice: what counts against the published numbers is what was found, so that as many images may be lacking as are
    left out, and no more. DataError (3) for anything else that `find` refuses, and for a class without an image left;
    Stopped (75, 130) by `stop`, or by a signal of its own, while the images are opened.
    """
    root, wiring_test = data_dir(config.data.root), config.data.wiring_test
    if config.data.on_bad is OnBad.fail:
        return find(root, wiring_test, say, expected, val_alone)
    found = list_sets(root, wiring_test, say)
    folders = [one.problems.of(NESTED, NO_IMAGES) for one in found.each]
    refuse(root, wiring_test, [*differences(found, (count_found(found.train), count_found(found.val)), expected,
                                            wiring_test), *(str(bad) for bad in folders if bad.count)])
    refuse_empty(found, wiring_test)
    whole = finished(found)
    times = b"".join(one.times.tobytes() for one in found.each)
    key = hashlib.sha256(whole.fingerprint.encode() + times).hexdigest()
    path = statistics_folder(results_dir(config.results)) / f"bad-{key[:16]}.json"
    bad = kept(path, key, found)
    if bad is None:
        say(f"opening all images in {shown(root)} (once), to leave out those that can't be read (data.on_bad=skip)")
        bad = opened(found, whole, StopRequest(config.max_seconds) if stop is None else nullcontext(stop))
        write_atomic(path, json.dumps({"key": key, "bad": bad}) + "\n")
    return without(found, bad, wiring_test, path, say)


def count_found(listing: Listing) -> int:
    """How many images of a set were found, good or bad; files of other names and places are none."""
    return len(listing.names) + listing.problems.count - listing.problems.of(*OTHER_FILES).count


def refuse_empty(found: Listings, wiring_test: bool, first: Sequence[str] = ()) -> None:
    """DataError if a class has no image; `first`: of the files that were left out, for the message."""
    empty = [(one, names) for one in found.each if (names := one.empty_classes())]
    named = list(first) or [str(one.problems) for one, _ in empty]
    refuse(found.root, wiring_test, [f"no image that can be read of {few(names)} in {shown(one.folder)}"
                                     for one, names in empty] + (named if empty else []))


def opened(found: Listings, whole: ImageNetFiles, asked: StopRequest | nullcontext[StopRequest]) -> Bad:
    """Open every image. Stopped by `asked`."""
    bad: Bad = [[] for _ in found.each]
    with asked as stop:
        for place, part in look_at_all(found.root, [whole.train, whole.val][: len(found.each)]):
            images = whole.val if place else whole.train
            bad[place] += [(number, text.removeprefix(f"{shown(images.path(number))}: ")) for number, text in part.bad]
            if stop.reason is not None:
                raise Stopped(f"stopped by {stop.reason} while the images were opened; the same command begins it "
                              "again", stop.exit_code)
    return bad


def kept(path: Path, key: str, found: Listings) -> Bad | None:
    """The outcome that was kept of this set; None, for a damaged file with a note, if there is none. StorageError if
    it can't be opened."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["key"] != key or len(content["bad"]) != len(found.each):
            raise ValueError("it is of another set of images")
        bad = [[(range(len(one.names))[number], str(reason)) for number, reason in rows]
               for one, rows in zip(found.each, content["bad"], strict=True)]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
        note_damaged(path, error)
        return None
    return bad


def without(found: Listings, bad: Bad, wiring_test: bool, path: Path, say: Say) -> ImageNetFiles:
    """The images that are left. DataError if a class has none."""
    files = [left_out_of(found.root, one, rows) for one, rows in zip(found.each, bad, strict=True)]
    left = [one.without([number for number, _ in rows]) for one, rows in zip(found.each, bad, strict=True)]
    every = sorted(file for part in files for file in part)
    first = [f"{name.decode(errors='backslashreplace')} ({reason})" for name, reason in every[:MOST_NAMED]]
    named = ", ".join(first) + and_more(len(every))
    rest = Listings(found.root, left[0], left[-1])
    refuse_empty(rest, wiring_test, [f"left out: {named}"])
    names = [name for name, _ in every]
    note: dict[str, Any] = {"train": len(files[0]), "val": len(files[-1]), "first": first,
                            "sha256": hashlib.sha256(b"".join(name + b"\n" for name in names)).hexdigest()}
    counts = " and ".join(f"{len(part):,} beside {len(one.names):,} images in {shown(one.folder)}"
                          for part, one in zip(files, left, strict=True))
    say(f"left out (data.on_bad=skip; kept in {shown(path)}): {counts}" + (f": {named}" if every else ""))
    return finished(rest, note, names)


def left_out_of(root: Path, listing: Listing, bad: Sequence[tuple[int, str]]) -> list[tuple[bytes, str]]:
    """Files of a set that are left out, found bad by the listing or when opened: path relative to root, and why."""
    folder = os.fsencode(listing.folder) + b"/"
    every = [*listing.problems.files, *((folder + listing.names[number], reason) for number, reason in bad)]
    return [(os.path.relpath(path, os.fsencode(root)), reason) for path, reason in every]
