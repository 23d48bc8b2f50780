"""The table that decides about precisions, on made-up runs: its rule, what counts, and what it says."""

import json
import math
from pathlib import Path

import pytest

from repro.paper import second_references, suite
from repro.places import reference_dir
from repro.reporting import precision_table as module
from repro.reporting import tables
from repro.reporting.precision_table import BASIS, ENTERS, MARGIN, NO_EVIDENCE, OPEN, STAYS_OUT
from repro.reporting.statistics import Summary, welch
from repro.schema import Precision

R20 = "cifar_resnet20"
NEEDED = 16
SHORT = ("scale=0.0046875", "evaluation.interval=6400")


@pytest.fixture
def make_seeds(make_run):
    """`make_seeds(root, precision, 8.2, ...)`: runs of seeds 0, 1, ... whose test errors lie around that mean."""
    def make(root: Path, precision: str, mean: float, count: int = NEEDED, *, first: int = 0, spread: float = 0.2,
             **more) -> None:
        for seed in range(first, first + count):
            place = (seed - first) / max(1, count - 1) - 0.5
            make_run(root, R20, seed, test=mean + 2 * spread * place, train=0.3 + place / 100, precision=precision,
                     **more)
    return make


def built(results: Path | None, reference: Path) -> tables.Table:
    return tables.build("precision", results, reference)


def cells(table: tables.Table, precision: str, origin: str = "yours") -> dict[str, str]:
    (found,) = [row for row in table.rows if row.key == f"{precision}/{origin}"]
    return dict(found.cells)


def test_without_runs_nothing_is_decided(reference: Path, results: Path):
    table = built(None, reference)
    assert [row.key for row in table.rows] == [f"{name}/reference" for name in ("fp32", "tf32", "fp16", "bf16")]
    assert set(table.statuses.values()) == {"not run"}
    assert {row.cells["test"] for row in table.rows} == {"not run"}
    assert {row.cells["seeds"] for row in table.rows} == {"0 of 16"}
    assert [row.cells["decision"] for row in table.rows] == [
        NO_EVIDENCE, BASIS, f"{OPEN} (0 of 16 seeds)", f"{OPEN} (0 of 16 seeds)"]
    assert len(built(results, reference).rows) == 8


def test_the_committed_table_is_there_and_says_what_the_committed_runs_give():
    table = built(None, reference_dir())
    for suffix, text in table.forms().items():
        assert (reference_dir() / "tables" / f"precision.{suffix}").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(("shift", "spread", "expected"), [
    (0.0, 0.2, ENTERS), (0.1, 0.2, ENTERS), (-0.1, 0.2, ENTERS), (0.6, 0.2, STAYS_OUT), (-0.6, 0.2, STAYS_OUT),
    (0.25, 0.2, OPEN), (-0.25, 0.2, OPEN), (0.0, 1.0, OPEN)])
def test_the_interval_decides(results: Path, reference: Path, make_seeds, shift: float, spread: float, expected: str):
    """Within the margin, beyond it on either side, or across it: by its place or because the runs differ too much."""
    make_seeds(results, "tf32", 8.3, spread=spread)
    make_seeds(results, "fp16", 8.3 + shift, spread=spread)
    found = cells(built(results, reference), "fp16")
    across = " (the interval reaches across 0.25 points)" if expected == OPEN else ""
    assert found["decision"] == f"{expected}{across}"
    assert found["difference"] == f"{shift:+.2f} (against tf32)".replace("-0.00", "+0.00")
    assert found["admitted"] == "no"


def test_what_a_decided_row_shows(results: Path, reference: Path, make_seeds):
    make_seeds(results, "tf32", 8.3)
    make_seeds(results, "bf16", 8.4)
    table = built(results, reference)
    errors = [tuple(mean + 0.4 * (k / 15 - 0.5) for k in range(NEEDED)) for mean in (8.4, 8.3)]
    interval = welch(*map(Summary, errors))
    assert interval is not None
    found = cells(table, "bf16")
    assert (found["seeds"], found["test"]) == ("16 of 16", "8.20 (8.40 +- 0.13), 16 seeds")
    assert found["train"] == "0.30"
    assert found["interval"] == f"{interval.low:+.2f} to {interval.high:+.2f}" == "+0.01 to +0.19"
    row = next(row for row in json.loads(table.json())["rows"] if row["key"] == "bf16/yours")
    assert (row["status"], row["data"]["against"], row["data"]["margin"]) == (ENTERS, "tf32", MARGIN)
    assert row["data"]["interval"] == pytest.approx([interval.low, interval.high], abs=1e-6)
    assert len(row["data"]["yours"]["seeds"]) == NEEDED
    assert [line for line in table.notes if line.startswith("yours: made-up device, bf16, ")]


@pytest.mark.parametrize(("exact", "own", "expected"), [
    (16, 15, "not decided (15 of 16 seeds)"), (15, 16, "not decided (15 of 16 seeds of tf32)"),
    (1, 1, "not decided (1 of 16 seeds)"), (0, 16, "not decided (0 of 16 seeds of tf32)")])
def test_fewer_than_16_of_either_decide_nothing(results: Path, reference: Path, make_seeds, exact: int, own: int,
                                                expected: str):
    make_seeds(results, "tf32", 8.3, exact)
    make_seeds(results, "fp16", 8.3, own)
    found = cells(built(results, reference), "fp16")
    assert found["decision"] == expected
    assert ("interval" in found) == (min(exact, own) >= 2), "shown as soon as there is one"


@pytest.mark.parametrize(("fp32", "tf32", "against"), [(3, 2, "fp32"), (2, 2, "tf32"), (2, 3, "tf32"), (3, 0, "fp32")])
def test_tf32_is_held_against_unless_fp32_has_more_seeds(results: Path, reference: Path, make_seeds, fp32: int,
                                                         tf32: int, against: str):
    make_seeds(results, "fp32", 8.3, fp32, first=16)
    make_seeds(results, "tf32", 8.4, tf32)
    make_seeds(results, "fp16", 8.3, 2)
    table = built(results, reference)
    assert cells(table, against)["decision"] == BASIS
    assert cells(table, {"fp32": "tf32", "tf32": "fp32"}[against])["decision"] == NO_EVIDENCE
    assert cells(table, "fp16")["difference"].endswith(f"(against {against})")
    assert (cells(table, "fp32")["seeds"], cells(table, "tf32")["seeds"]) == (f"{fp32} of 16", f"{tf32} of 16")


def test_more_than_16_seeds_do_not_change_a_decision(results: Path, reference: Path, make_seeds):
    make_seeds(results, "tf32", 8.3)
    make_seeds(results, "fp16", 8.3)
    before = cells(built(results, reference), "fp16")
    make_seeds(results, "fp16", 20.0, 4, first=16)
    assert cells(built(results, reference), "fp16") == before


@pytest.mark.parametrize("overrides", [SHORT, ("train.loss_scale=1024",), ("model.shortcut_option=B",),
                                       ("data.split=45k",)])
def test_a_run_that_differs_in_more_than_the_precision_does_not_count(results: Path, reference: Path, make_seeds,
                                                                      overrides: tuple[str, ...]):
    make_seeds(results, "fp16", 8.3, 2, overrides=overrides)
    table = built(results, reference)
    assert cells(table, "fp16")["test"] == "not run"
    make_seeds(results, "fp16", 8.3, 2, first=2)
    assert cells(built(results, reference), "fp16")["seeds"] == "2 of 16"


def test_an_unfinished_run_does_not_count_and_is_named(results: Path, reference: Path, make_run):
    make_run(results, R20, 0, precision="bf16", status="interrupted")
    table = built(results, reference)
    assert cells(table, "bf16")["test"] == "incomplete"
    assert [note for note in table.notes if note.startswith("not counted (yours)") and "interrupted" in note]
    assert cells(table, "fp16")["test"] == "not run", "it is no run of another precision"


def test_a_run_that_diverged_keeps_its_precision_out(results: Path, reference: Path, make_seeds, make_run):
    make_seeds(results, "tf32", 8.3)
    make_seeds(results, "fp16", 8.3)
    make_run(results, R20, 3, precision="fp16", status="diverged")
    make_run(results, R20, 3, precision="bf16", status="running")
    table = built(results, reference)
    assert cells(table, "fp16")["decision"] == f"{STAYS_OUT} (1 diverged)"
    assert cells(table, "bf16")["decision"] == f"{OPEN} (0 of 16 seeds)"


def test_origins_are_not_mixed(results: Path, reference: Path, make_seeds):
    make_seeds(reference, "tf32", 8.3)
    make_seeds(results, "fp16", 8.3)
    table = built(results, reference)
    assert cells(table, "fp16")["decision"] == f"{OPEN} (0 of 16 seeds of tf32)"
    assert cells(table, "tf32", "reference")["seeds"] == "16 of 16"
    assert cells(table, "fp16", "reference")["seeds"] == "0 of 16"


def test_16_seeds_can_decide_with_the_margin_and_the_spread_that_others_report():
    low, high = second_references().run_to_run_std
    assert low <= MARGIN <= high
    assert suite(module.SUITE).seeds_of(R20) == NEEDED
    unit = [math.sqrt(15 / 16) * sign for sign in (-1, 1) * 8]  # a sample of 16 with std 1
    runs = Summary(tuple(8.3 + MARGIN * value for value in unit))
    assert runs.std == pytest.approx(MARGIN)
    interval = welch(runs, runs)
    assert interval is not None
    assert interval.high == pytest.approx(0.18, abs=0.005)
    assert interval.within(MARGIN)


def test_the_notes_say_the_rule_and_where_it_takes_effect(reference: Path, monkeypatch):
    notes = "\n".join(built(None, reference).notes)
    for text in ("+-0.25 points", "equivalence test", "Welch", "2.5 %", "16 seeds",
                 "static loss scale 128", "0.15 to 0.3", "PAPER_PRECISIONS in repro/config.py, now fp32 and tf32",
                 "`repro suite cifar_precision`"):
        assert text in notes, text
    monkeypatch.setattr(module, "PAPER_PRECISIONS", (Precision.fp32, Precision.tf32, Precision.fp16))
    table = built(None, reference)
    assert cells(table, "fp16", "reference")["admitted"] == "yes"
    assert cells(table, "bf16", "reference")["admitted"] == "no"
    assert "now fp32 and tf32 and fp16" in "\n".join(table.notes)


def test_runs_in_16_bits_stay_out_of_table_6_whatever_is_decided(results: Path, reference: Path, make_seeds):
    make_seeds(results, "tf32", 8.3)
    make_seeds(results, "fp16", 8.3)
    assert cells(built(results, reference), "fp16")["decision"] == ENTERS
    (row,) = [row for row in tables.build("table6", results, reference).rows if row.key == "resnet-20"]
    assert {seed["precision"] for seed in row.data["yours"]["seeds"]} == {"tf32"}


@pytest.mark.parametrize(("name", "experiment", "precision", "overrides"), [
    ("table6", R20, "tf32", ()), ("plain_nets", "cifar_plain20", "tf32", ()),
    ("short_cifar_plain_vs_res", "cifar_plain20", "fp16", SHORT), ("precision", R20, "fp16", ())])
def test_every_table_with_our_errors_says_their_precision(results: Path, reference: Path, make_run, name: str,
                                                          experiment: str, precision: str, overrides):
    make_run(results, experiment, precision=precision, overrides=overrides)
    assert [note for note in tables.build(name, results, reference).notes
            if note.startswith(f"yours: made-up device, {precision}, trained on all 50,000")]
