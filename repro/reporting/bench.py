"""The tables of `repro bench` and `repro bench input`: measured speed, beside computed floors. No torch."""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from repro.reporting.table import Table, TableRow

QUICK = "quick"
CONTENDERS = {
    "repro": "this project's training step, data on the device",
    "eager_loop": "a usual loop, data on the device, batched crop and flip there, torch.optim.SGD",
    "reduce_overhead": "the same loop, its network under torch.compile(mode='reduce-overhead')",
    "dataloader": "a usual loop, DataLoader with a worker for each core, torchvision's transforms on PIL images"}
READERS = {
    "plain": "torchvision's ImageFolder and transforms on one Pillow image at a time: resize of the whole image to "
             "a random shorter side, crop, flip, ToTensor, color noise, mean subtraction; float32",
    "pillow": "this project, Pillow: only the part that the crop shows is resized; uint8, color and mean are left "
              "to the device",
    "pillow_colour": "the same, with what is left to the device done on this processor, 32 images at once",
    "torchcodec": "this project, JPEGs decoded by TorchCodec, cropped as above",
    "threads": "read ahead by threads of one process", "processes": "read ahead by forked processes"}
GOAL = 2.0  # times the plain way's images/s per core


def bench_table(record: dict[str, Any]) -> Table:
    """images/s and ms/step of each network and contender; its name is that of the files."""
    columns = {"net": "network", "contender": "contender", "kind": "executed as", "ms": "ms/step",
               "spread": "min to max", "images": "images/s", "ratio": "time / ours",
               "floor": "time / floor (computed)"}
    status = QUICK if record["quick"] else "measured"
    rows = [row for net in record["nets"] for row in net_rows(net, record["mini_batch_size"], status)]
    contenders = [one for net in record["nets"] for one in net["contenders"]]
    used = {one["contender"].partition(":")[0] for one in contenders}  # without the engine's name
    updates = numbers(one["steps"] for one in contenders)
    rounds = numbers(len(one["ms_per_step"]["values"]) for one in contenders if one["status"] == "measured")
    copy, matrix = (record["measured"][rate] for rate in ("copy_bytes_per_second", "matrix_operations_per_second"))
    said = [f"{net['net']} {one['contender']}{text}" for net in record["nets"] for one in net["contenders"]
            for text in ([f" failed: {one['reason']}"] if one["status"] == "failed"
                         else [f": {line}" for line in one["said"]])]
    notes = [
        f"ms/step, images/s: medians of {rounds} rounds, each contender in a fresh process in every round, "
        f"one after the other; {updates} updates timed, mini-batches of "
        f"{record['mini_batch_size']} made images (no data set); every result that stands here is of the same network, "
        "began with the same loss on a shared batch, and lowered it",
        "time / ours: ratio of the medians; above 1, ours is faster",
        f"measured in the same call: copy {copy['median'] / 1e9:.1f} GB/s read and written (min "
        f"{copy['min'] / 1e9:.1f}, max {copy['max'] / 1e9:.1f}); matrix product in {record['precision']} "
        f"{matrix['median'] / 1e12:.3f} TFLOP/s (min {matrix['min'] / 1e12:.3f}, max {matrix['max'] / 1e12:.3f})",
        "floors: computed, not measured: the passes over memory of a fully fused update at that bandwidth, and 3 x 2 x "
        "multiply-adds at that rate; what stays in a cache can be faster than the byte floor",
        *(f"{name}: {text}" for name, text in CONTENDERS.items() if name in used),
        *said]
    title = f"Training speed on {record['device']}, {record['precision']}"
    return finish(Table(f"bench_DEVICE_{record['precision']}", title, columns, rows, notes), record, "updates",
                  f"{record['machine']['cores']} cores, {record['machine']['threads']} threads")


def net_rows(net: dict[str, Any], batch: int, status: str) -> list[TableRow]:
    """The contenders of one network as they were measured, then its two floors."""
    rows = []
    for one in net["contenders"]:
        cells, key = {"net": net["net"], "contender": one["contender"]}, f"{net['net']}/{one['contender']}"
        if one["status"] == "failed":
            rows.append(TableRow(key, cells | {"ms": "failed"}, "failed", None, one))
            continue
        times = one["ms_per_step"]
        cells |= {"kind": one["kind"], "ms": digits(times["median"]),
                  "spread": f"{digits(times['min'])} to {digits(times['max'])}",
                  "images": f"{one['images_per_second']['median']:,.0f}", "floor": f"{one['time_over_floor']:.2f}"}
        if one["time_over_ours"] is not None:
            cells["ratio"] = f"{one['time_over_ours']:.2f}"
        rows.append(TableRow(key, cells, status, None, one))
    for kind in ("byte", "compute"):
        milliseconds = net["computed"][f"{kind}_ms"]
        cells = {"net": net["net"], "contender": f"{kind} floor (computed)", "ms": f"{digits(milliseconds)} (computed)",
                 "images": f"{1000 * batch / milliseconds:,.0f} (computed)"}
        rows.append(TableRow(f"{net['net']}/{kind}_floor", cells, "computed", None, net["computed"]))
    return rows


def input_table(record: dict[str, Any]) -> Table:
    """Images per second and core of each way of reading them; its name is that of the files."""
    columns = {"contender": "contender", "processes": "read by", "images": "images/s", "core": "images/s per core",
               "spread": "min to max", "ratio": "per core / plain"}
    contenders, compared = record["contenders"], record["compared"]
    named = {word for one in contenders for word in (one["contender"], one["contender"].partition(":")[2])}
    images = "made images of 500x375" if record["made"] else f"{record['files']} files"
    notes = [
        f"medians of {record['rounds']} rounds, each contender in a fresh process in every round, one after the other; "
        f"{record['images']} images timed, from {images} in the page cache; one torch thread in each process",
        "images/s per core: by the processor time of the process and its workers, which other load on the machine "
        "changes less than the clock; images/s: by the clock",
        f"per core / plain: ratio of the medians, goal {GOAL:g} or more",
        f"compared before: {compared['crops']} crops differ from the plain way's by {compared['largest_difference']} "
        f"gray levels at most, {100 * compared['by_more_than_one']:.4f} % of their values by more than 1",
        *(f"{name}: {text}" for name, text in READERS.items() if name in named),
        *(f"{one['contender']} failed: {one['reason']}" for one in contenders if one["status"] == "failed")]
    title = f"ImageNet input on {record['device']}{' (made images)' if record['made'] else ''}"
    return finish(Table("bench_input_DEVICE" + "_made" * record["made"], title, columns,
                        [input_row(one, record) for one in contenders], notes),
                  record, "images", f"{record['machine']['cores']} cores")


def input_row(one: dict[str, Any], record: dict[str, Any]) -> TableRow:
    """One way of reading: medians and spread, or that it failed."""
    name, kind = one["contender"], one["contender"].partition(":")[2]
    cells = {"contender": name, "processes": f"{record['workers']} {kind}" if kind else "1 process"}
    if one["status"] == "failed":
        return TableRow(name, cells | {"images": "failed"}, "failed", None, one)
    core = one["images_per_core_second"]
    cells |= {"images": f"{one['images_per_second']['median']:,.0f}", "core": f"{core['median']:,.0f}",
              "spread": f"{core['min']:,.0f} to {core['max']:,.0f}"}
    if one["over_plain"] is not None:
        cells["ratio"] = f"{one['over_plain']:.2f}"
    return TableRow(name, cells, QUICK if record["quick"] else "measured", None, one)


def finish(table: Table, record: dict[str, Any], few: str, machine: str) -> Table:
    """The table with the device in its name, what, where and when it was measured, and whether it is no evidence."""
    slug, code = re.sub(r"[^a-z0-9]+", "-", record["device"].lower()).strip("-"), record["code"]
    name, title, notes = table.name.replace("DEVICE", slug), table.title, list(table.notes)
    if record["quick"]:
        name, title = f"{name}_{QUICK}", f"{QUICK}, no evidence: {title}"
        notes.insert(0, f"{QUICK}: few {few} in few rounds, to see that it works; no evidence of any speed")
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items() if version)
    return replace(table, name=name, title=title, notes=[
        *notes, f"versions: {versions}",
        f"code: repro {code['repro']}, commit {code['commit'] or 'unknown'}"
        f"{' with uncommitted changes' if code['dirty'] else ''}; {machine}; {record['utc']}; load average before it "
        f"began {record['load_average_before']:.2f}: what else computes there slows all of these down",
        *(f"override: {override}" for override in record.get("overrides", []))])


def numbers(values: Iterable[int]) -> str:
    """Each of some numbers once: '5', '10 or 20'."""
    return " or ".join(map(str, sorted(set(values))))


def digits(milliseconds: float) -> str:
    """Three or more significant digits: '0.521', '12.3', '231'."""
    decimals = 3 if milliseconds < 1 else 2 if milliseconds < 10 else 1 if milliseconds < 100 else 0
    return f"{milliseconds:.{decimals}f}"
