"""The table of a bench on a made-up record: what is measured, what is computed, what failed."""

import copy

import pytest

from repro.reporting.bench import bench_table, digits


def series(median, low, high):
    return {"median": median, "min": low, "max": high, "values": [low, median, high]}


RECORD = {
    "bench": "training", "quick": False, "rounds": 3, "device": "NVIDIA H100 80GB HBM3", "precision": "tf32",
    "mini_batch_size": 128, "overrides": ["machine.threads=1"],
    "measured": {"copy_bytes_per_second": series(2.5e12, 2.4e12, 2.6e12),
                 "matrix_operations_per_second": series(4e14, 3e14, 5e14)},
    "nets": [{"net": "ResNet-20", "depth": 20, "parameters": 269_722,
              "computed": {"byte_ms": 0.58, "compute_ms": 0.078, "floor_ms": 0.58},
              "contenders": [
                  {"contender": "repro", "images": 50_000, "steps": 300, "status": "measured", "kind": "graph",
                   "said": ["engine=compile: not possible here"],
                   "ms_per_step": series(0.8, 0.75, 0.9), "images_per_second": series(160_000.0, 142_222.0, 170_666.0),
                   "time_over_ours": 1.0, "ours": "repro", "time_over_floor": 1.379},
                  {"contender": "dataloader", "images": 50_000, "steps": 300, "status": "measured", "kind": "eager",
                   "said": [],
                   "ms_per_step": series(12.0, 11.0, 13.0), "images_per_second": series(10_666.7, 9846.0, 11_636.0),
                   "time_over_ours": 15.0, "ours": "repro", "time_over_floor": 20.69},
                  {"contender": "reduce_overhead", "images": 50_000, "steps": 300, "status": "failed",
                   "reason": "InvalidCxxCompiler: no compiler", "rounds_before": []}]}],
    "versions": {"python": "3.12.1", "torch": "2.15.0", "torchvision": "0.29.2", "numpy": None},
    "machine": {"system": "Linux", "cores": 16, "threads": 8}, "started": "2026-01-01T00:00:00+00:00",
    "load_average_before": 0.253,
    "code": {"repro": "0.1.0", "commit": "abc", "dirty": True}, "utc": "2026-01-01T00:01:00+00:00"}


def changed(**changes):
    return copy.deepcopy(RECORD) | changes


def test_measured_rows():
    rows = {row.key: row for row in bench_table(RECORD).rows}
    ours, loader = rows["ResNet-20/repro"].cells, rows["ResNet-20/dataloader"].cells
    assert (ours["ms"], ours["spread"], ours["images"], ours["kind"]) == ("0.800", "0.750 to 0.900", "160,000", "graph")
    assert (loader["ms"], loader["ratio"], loader["floor"]) == ("12.0", "15.00", "20.69")
    assert rows["ResNet-20/dataloader"].status == "measured"
    assert rows["ResNet-20/dataloader"].data["images_per_second"]["median"] == 10_666.7


def test_what_is_computed_says_so_wherever_it_stands():
    table = bench_table(RECORD)
    floors = [row for row in table.rows if row.key.endswith("_floor")]
    assert [row.cells["ms"] for row in floors] == ["0.580 (computed)", "0.078 (computed)"]
    assert floors[0].cells["images"] == "220,690 (computed)"
    assert all(row.status == "computed" and "(computed)" in row.cells["contender"] for row in floors)
    assert "(computed)" in table.columns["floor"]
    assert any(note.startswith("floors: computed, not measured") for note in table.notes)


def test_a_failure_has_no_number_and_a_reason():
    table = bench_table(RECORD)
    row = next(row for row in table.rows if row.key == "ResNet-20/reduce_overhead")
    assert (row.status, row.cells["ms"], "images" in row.cells) == ("failed", "failed", False)
    assert "ResNet-20 reduce_overhead failed: InvalidCxxCompiler: no compiler" in table.notes
    assert "ResNet-20 repro: engine=compile: not possible here" in table.notes


def test_without_ours_the_ratio_stays_empty():
    record = changed()
    record["nets"][0]["contenders"] = [RECORD["nets"][0]["contenders"][1] | {"time_over_ours": None}]
    row = bench_table(record).rows[0]
    assert "ratio" not in row.cells
    assert "floor" in row.cells


def test_notes_say_with_what_it_was_measured():
    text = bench_table(RECORD).markdown()
    for words in ("copy 2500.0 GB/s", "min 2400.0, max 2600.0", "400.000 TFLOP/s", "torch 2.15.0", "torchvision 0.29.2",
                  "commit abc with uncommitted changes", "16 cores, 8 threads", "override: machine.threads=1",
                  "began 0.25:", "medians of 3 rounds", "300 updates timed", "mini-batches of 128",
                  "dataloader: a usual loop"):
        assert words in text, words
    assert "numpy" not in text
    assert "eager_loop:" not in text, "it is not in this record"


@pytest.mark.parametrize(("quick", "name"), [(False, "bench_nvidia-h100-80gb-hbm3_tf32"),
                                             (True, "bench_nvidia-h100-80gb-hbm3_tf32_quick")])
def test_quick_is_in_name_title_status_and_notes(quick, name):
    table = bench_table(changed(quick=quick))
    assert table.name == name
    assert table.title.startswith("quick, no evidence") is quick
    assert (table.rows[0].status == "quick") is quick
    assert any(note.startswith("quick:") for note in table.notes) is quick


def test_digits():
    assert [digits(value) for value in (0.5214, 2.345, 12.34, 231.4)] == ["0.521", "2.35", "12.3", "231"]
