"""The table of counts on made-up ones: verdicts, golden counts that differ, the notes."""

import json
from dataclasses import replace

import pytest

from repro.paper import Column
from repro.reporting.tables import (
    CountedNetwork,
    complexity_table,
    count_differences,
    count_verdict,
    half_a_digit,
    shorten,
)

RESNET_50 = CountedNetwork("resnet-50", "ResNet-50", "imagenet", 50, "B", "first_1x1", 50, 25_557_032,
                           3_855_925_248, 2_048_000)
PLAIN_20 = CountedNetwork("plain-20", "plain-20", "cifar10", 20, None, None, 20, 269_722, 40_550_400, 640)
VGG_16 = CountedNetwork("vgg-16", "VGG-16", "imagenet", 16, None, None, 16, 138_357_544, 15_346_630_656, 123_633_664)


@pytest.mark.parametrize(("count", "text"), [
    (3_750_000_000, "agrees"), (3_849_999_999, "agrees"), (3_850_000_000, "agrees if cut, not rounded"),
    (3_899_999_999, "agrees if cut, not rounded"), (3_900_000_000, "differs"), (3_749_999_999, "differs")])
def test_verdict_at_its_edges(count, text):
    assert count_verdict(count, 3.8e9, Column("multiply_adds", "", 1, 1e9)) == text


def test_digits():
    assert [half_a_digit(printed) for printed in (40.55e6, 2829.2e6, 3.858e9, 7.57e9)] == [5e3, 5e4, 5e5, 5e6]
    assert [shorten(3_857_973_248), shorten(40_551_040), shorten(3.8e9, 1)] == ["3.858e9", "40.551e6", "3.8e9"]


def test_cells_and_numbers():
    table = complexity_table([RESNET_50, PLAIN_20, VGG_16])
    rows = {row.key: row for row in table.rows}
    row = rows["imagenet/resnet-50-B-first_1x1"]
    assert (row.cells["published"], row.cells["ratio"], row.cells["stride"]) == ("3.8e9", "1.015", "first 1x1")
    assert row.data["multiply_adds"] == 3_857_973_248
    assert "published" not in rows["cifar10/plain-20"].cells
    vgg = rows["imagenet/vgg-16"]
    assert (vgg.cells["multiply_adds"], vgg.cells["convolutions"], vgg.verdict) == ("15.470e9", "15.347e9", "agrees")
    assert vgg.data["compared"] == 15_346_630_656
    text = table.markdown()
    assert "VGG-16: the paper's number counts the convolutions only" in text
    assert "golden_counts.yaml holds of these networks agrees" in text
    assert [row["verdict"] for row in json.loads(table.json())["rows"]] == [
        "agrees if cut, not rounded", None, "agrees"]


@pytest.mark.parametrize(("net", "change", "words"), [
    (RESNET_50, {"parameters": 25_557_033}, "25557033 parameters instead of 25557032"),
    (RESNET_50, {"convolution_multiply_adds": 3_856_452_001}, "multiply-adds instead of 3.858e+09"),
    (RESNET_50, {"stride_in": "conv3x3"}, "multiply-adds instead of 4.089e+09"),
    (RESNET_50, {"layers": 49}, "49 layers instead of 50"),
    (RESNET_50, {"dataset": "cifar10", "depth": 20}, "50 layers instead of 20"),
    (PLAIN_20, {"parameters": 272_474}, "272474 parameters instead of 269722"),
    (PLAIN_20, {"shortcut_option": "B"}, "269722 parameters instead of 272474"),
    (PLAIN_20, {"convolution_multiply_adds": 40_544_359}, "40544999 multiply-adds instead of 4.055e+07")])
def test_a_count_that_differs_is_named(net, change, words):
    wrong = count_differences([replace(net, **change)])
    assert any(words in text for text in wrong), wrong
    assert f"not as in golden_counts.yaml: {wrong[0]}" in complexity_table([replace(net, **change)]).notes


def test_counts_within_the_printed_digits_agree():
    assert count_differences([RESNET_50, PLAIN_20, VGG_16]) == []
    assert count_differences([replace(PLAIN_20, convolution_multiply_adds=40_545_000 - 640)]) == []
