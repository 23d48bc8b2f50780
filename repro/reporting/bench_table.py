"""The table of a bench: images/s and ms/step of each network and contender beside the computed floors. No torch."""

import re
from collections.abc import Iterable
from typing import Any

from repro.reporting.table import Table, TableRow

COLUMNS = {"net": "network", "contender": "contender", "kind": "executed as", "ms": "ms/step", "spread": "min to max",
           "images": "images/s", "ratio": "time / ours", "floor": "time / floor (computed)"}
WHAT = {"repro": "this project's training step, data on the device",
        "eager_loop": "a usual loop, data on the device, batched crop and flip there, torch.optim.SGD",
        "reduce_overhead": "the same loop, its network under torch.compile(mode='reduce-overhead')",
        "dataloader": "a usual loop, DataLoader with a worker for each core, torchvision's transforms on PIL images"}
QUICK = "quick"


def bench_table(record: dict[str, Any]) -> Table:
    """The table of a record of `repro bench`; its name is that of the files."""
    quick = f"{QUICK}, no evidence: " if record["quick"] else ""
    title = f"{quick}Training speed on {record['device']}, {record['precision']}"
    rows = [row for net in record["nets"] for row in net_rows(net, record["mini_batch_size"], record["quick"])]
    return Table(file_name(record), title, COLUMNS, tuple(rows), tuple(notes(record)))


def file_name(record: dict[str, Any]) -> str:
    """'bench_amd-epyc-2-threads_fp32', with '_quick' where it was."""
    slug = re.sub(r"[^a-z0-9]+", "-", record["device"].lower()).strip("-")
    return f"bench_{slug}_{record['precision']}" + (f"_{QUICK}" if record["quick"] else "")


def net_rows(net: dict[str, Any], batch: int, quick: bool) -> list[TableRow]:
    """The contenders of one network as they were measured, then its two floors."""
    rows = [contender_row(net["net"], one, QUICK if quick else "measured") for one in net["contenders"]]
    for kind in ("byte", "compute"):
        milliseconds = net["computed"][f"{kind}_ms"]
        cells = {"net": net["net"], "contender": f"{kind} floor (computed)", "ms": f"{digits(milliseconds)} (computed)",
                 "images": f"{1000 * batch / milliseconds:,.0f} (computed)"}
        rows.append(TableRow(f"{net['net']}/{kind}_floor", cells, "computed", None, net["computed"]))
    return rows


def contender_row(net: str, one: dict[str, Any], status: str) -> TableRow:
    """One contender: medians and spread, or that it failed."""
    cells = {"net": net, "contender": one["contender"]}
    key = f"{net}/{one['contender']}"
    if one["status"] == "failed":
        return TableRow(key, cells | {"ms": "failed"}, "failed", None, one)
    times, images = one["ms_per_step"], one["images_per_second"]
    cells |= {"kind": one["kind"], "ms": digits(times["median"]),
              "spread": f"{digits(times['min'])} to {digits(times['max'])}", "images": f"{images['median']:,.0f}",
              "floor": f"{one['time_over_floor']:.2f}"}
    if one["time_over_ours"] is not None:
        cells["ratio"] = f"{one['time_over_ours']:.2f}"
    return TableRow(key, cells, status, None, one)


def digits(milliseconds: float) -> str:
    """Three or more significant digits: '0.521', '12.3', '231'."""
    decimals = 3 if milliseconds < 1 else 2 if milliseconds < 10 else 1 if milliseconds < 100 else 0
    return f"{milliseconds:.{decimals}f}"


def notes(record: dict[str, Any]) -> list[str]:
    """How it was measured, what is computed, with what, and what failed."""
    found = [f"{QUICK}: few updates in few rounds, to see that it works; no evidence of any speed"
             ] if record["quick"] else []
    rates, versions, code = record["measured"], record["versions"], record["code"]
    copy, matrix = rates["copy_bytes_per_second"], rates["matrix_operations_per_second"]
    contenders = [one for net in record["nets"] for one in net["contenders"]]
    updates = distinct_numbers(one["steps"] for one in contenders)
    rounds = distinct_numbers(len(one["ms_per_step"]["values"]) for one in contenders if one["status"] == "measured")
    found += [
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
        *(f"{name}: {text}" for name, text in WHAT.items() if name in contender_names(record)),
        *failures(record),
        "versions: " + ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        f"code: repro {code['repro']}, commit {code['commit'] or 'unknown'}"
        f"{' with uncommitted changes' if code['dirty'] else ''}; {record['machine']['cores']} cores, "
        f"{record['machine']['threads']} threads; {record['utc']}; load average before it began "
        f"{record['load_average_before']:.2f}: what else computes there slows all of these down",
        *(f"override: {override}" for override in record["overrides"]),
    ]
    return found


def distinct_numbers(values: Iterable[int]) -> str:
    """Each of some numbers once: '5', '10 or 20'."""
    return " or ".join(map(str, sorted(set(values))))


def contender_names(record: dict[str, Any]) -> set[str]:
    """The contenders that the record holds, without the engine's name."""
    return {one["contender"].partition(":")[0] for net in record["nets"] for one in net["contenders"]}


def failures(record: dict[str, Any]) -> list[str]:
    """One line for each contender that failed, and for what an engine could not do."""
    return [f"{net['net']} {one['contender']}{text}" for net in record["nets"] for one in net["contenders"]
            for text in ([f" failed: {one['reason']}"] if one["status"] == "failed"
                         else [f": {line}" for line in one["said"]])]
