"""The table of `repro bench input`: images per second and core of each way of reading images. No torch."""

import re
from typing import Any

from repro.reporting.bench_table import QUICK
from repro.reporting.table import Table, TableRow

COLUMNS = {"contender": "contender", "processes": "read by", "images": "images/s", "core": "images/s per core",
           "spread": "min to max", "ratio": "per core / plain"}
WHAT = {"plain": "torchvision's ImageFolder and transforms on one Pillow image at a time: resize of the whole image to "
                 "a random shorter side, crop, flip, ToTensor, color noise, mean subtraction; float32",
        "pillow": "this project, Pillow: only the part that the crop shows is resized; uint8, color and mean are left "
                  "to the device",
        "pillow_colour": "the same, with what is left to the device done on this processor, 32 images at once",
        "torchcodec": "this project, JPEGs decoded by TorchCodec, cropped as above",
        "threads": "read ahead by threads of one process", "processes": "read ahead by forked processes"}
GOAL = 2.0  # times the plain way's images/s per core


def input_table(record: dict[str, Any]) -> Table:
    """The table of a record; its name is that of the files."""
    quick = f"{QUICK}, no evidence: " if record["quick"] else ""
    title = f"{quick}ImageNet input on {record['device']}{' (made images)' if record['made'] else ''}"
    slug = re.sub(r"[^a-z0-9]+", "-", record["device"].lower()).strip("-")
    name = f"bench_input_{slug}" + ("_made" if record["made"] else "") + (f"_{QUICK}" if record["quick"] else "")
    rows = tuple(row_of(one, record) for one in record["contenders"])
    return Table(name, title, COLUMNS, rows, tuple(notes(record)))


def row_of(one: dict[str, Any], record: dict[str, Any]) -> TableRow:
    """One contender: medians and spread, or that it failed."""
    name = one["contender"]
    kind = name.partition(":")[2]
    cells = {"contender": name, "processes": f"{record['workers']} {kind}" if kind else "1 process"}
    if one["status"] == "failed":
        return TableRow(name, cells | {"images": "failed"}, "failed", None, one)
    core = one["images_per_core_second"]
    cells |= {"images": f"{one['images_per_second']['median']:,.0f}", "core": f"{core['median']:,.0f}",
              "spread": f"{core['min']:,.0f} to {core['max']:,.0f}"}
    if one["over_plain"] is not None:
        cells["ratio"] = f"{one['over_plain']:.2f}"
    return TableRow(name, cells, QUICK if record["quick"] else "measured", None, one)


def notes(record: dict[str, Any]) -> list[str]:
    """How it was measured, with what, and what failed."""
    compared, versions, code = record["compared"], record["versions"], record["code"]
    images = "made images of 500x375" if record["made"] else f"{record['files']} files"
    found = [f"{QUICK}: few images in few rounds, to see that it works; no evidence of any speed"
             ] if record["quick"] else []
    named = {word for one in record["contenders"] for word in (one["contender"], one["contender"].partition(":")[2])}
    return [
        *found,
        f"medians of {record['rounds']} rounds, each contender in a fresh process in every round, one after the other; "
        f"{record['images']} images timed, from {images} in the page cache; one torch thread in each process",
        "images/s per core: by the processor time of the process and its workers, which other load on the machine "
        "changes less than the clock; images/s: by the clock",
        f"per core / plain: ratio of the medians, goal {GOAL:g} or more",
        f"compared before: {compared['crops']} crops differ from the plain way's by {compared['largest_difference']} "
        f"gray levels at most, {100 * compared['by_more_than_one']:.4f} % of their values by more than 1",
        *(f"{name}: {text}" for name, text in WHAT.items() if name in named),
        *(f"{one['contender']} failed: {one['reason']}" for one in record["contenders"] if one["status"] == "failed"),
        "versions: " + ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        f"code: repro {code['repro']}, commit {code['commit'] or 'unknown'}"
        f"{' with uncommitted changes' if code['dirty'] else ''}; {record['machine']['cores']} cores; {record['utc']}; "
        f"load average before it began {record['load_average_before']:.2f}: what else computes there slows all "
        "of these down",
    ]
