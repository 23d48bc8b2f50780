"""Figures from made-up runs: what they draw, say and leave out."""

import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from PIL import Image

from repro.errors import ConfigError
from repro.reporting import figures, painting
from repro.reporting.figures import gather
from repro.reporting.select import pools
from tests.reporting.conftest import SHORT

SVG = "{http://www.w3.org/2000/svg}"


def texts(path: Path) -> list[str]:
    """All texts of an SVG file."""
    return ["".join(node.itertext()).strip() for node in ElementTree.parse(path).iter(f"{SVG}text")]


def lines(path: Path) -> dict[str, tuple[bool, float]]:
    """{curve id: (dashed, line width)} of the curves of an SVG file."""
    found = {}
    for group in ElementTree.parse(path).iter(f"{SVG}g"):
        name = group.get("id", "")
        if re.fullmatch(r"(plain|resnet)-\d+-(training|test)", name):
            style = next(group.iter(f"{SVG}path")).get("style", "")
            width = re.search(r"stroke-width: ([\d.]+)", style)
            found[name] = ("stroke-dasharray" in style, float(width[1]) if width else 1.0)
    return found


def draw(name: str, results: Path | None, reference: Path, folder: Path) -> tuple[Path, Path]:
    """The SVG and the PNG of a figure that has runs."""
    written = painting.draw(name, pools(results, reference), folder)
    assert written is not None
    assert [path.name for path in written] == [f"{name}.svg", f"{name}.png"]
    return written[0], written[1]


def test_without_runs_nothing_is_drawn(results: Path, reference: Path, tmp_path: Path):
    for name in figures.names():
        assert painting.draw(name, pools(results, reference), tmp_path / "out") is None
    assert not (tmp_path / "out").exists()


def test_figure1_in_the_papers_form(results: Path, reference: Path, tmp_path: Path, make_run):
    make_run(results, "cifar_plain20", 0, train=0.8, test=9.7)
    make_run(reference, "cifar_plain56", 0, train=3.3, test=13.1, device="their device", precision="tf32")
    svg, png = draw("figure1", results, reference, tmp_path / "out")
    found = texts(svg)
    for text in ("20-layer", "56-layer", "training error (%)", "test error (%)", "iter. (1e4)", "20", "0"):
        assert text in found
    small_print = " ".join(found)
    assert "yours: made-up device, fp32" in small_print
    assert "reference: their device, tf32" in small_print
    assert "training error: mean over the augmented mini-batches since the previous point" in small_print
    styles = lines(svg)
    assert set(styles) == {f"plain-{n}-{error}" for n in (20, 56) for error in ("training", "test")}
    assert all(dashed == name.endswith("training") for name, (dashed, _) in styles.items())
    assert styles["plain-20-test"][1] > styles["plain-20-training"][1]
    with Image.open(png) as image:
        gray = np.asarray(image.convert("L"))
    assert min(gray.shape) > 400
    assert 0.01 < (gray < 128).mean() < 0.5


def test_figure6_names_what_is_missing_and_leaves_the_right_panel_out(results: Path, reference: Path, tmp_path: Path,
                                                                       make_run):
    make_run(results, "cifar_resnet20", 0, test=8.0)
    make_run(results, "cifar_resnet32", 0, test=8.0, overrides=SHORT)  # never in a paper figure
    svg, _ = draw("figure6", results, reference, tmp_path)
    assert set(lines(svg)) == {"resnet-20-training", "resnet-20-test"}
    found = " ".join(texts(svg))
    assert "not run: plain-20, plain-32, plain-44, plain-56, ResNet-32, ResNet-44, ResNet-56, ResNet-110" in found
    content = gather("figure6", pools(results, reference))
    assert content is not None
    assert [len(panel.lines) for panel in content.panels] == [0, 2], "the left panel is empty, the right one left out"


def test_the_right_panel_of_figure6_comes_with_its_run(results: Path, reference: Path, tmp_path: Path, make_run):
    make_run(results, "cifar_resnet1202", 0, test=7.9, train=0.05)
    svg, _ = draw("figure6", results, reference, tmp_path)
    assert "1202-layer" in texts(svg)


def test_only_printed_values_are_marked(results: Path, reference: Path, make_run):
    for name in ("cifar_plain20", "cifar_resnet20", "cifar_resnet110"):
        make_run(results, name, 0)
        make_run(results, name, 0, overrides=SHORT)
    content = gather("figure6", pools(results, reference))
    assert content is not None
    assert [dict(panel.marks) for panel in content.panels] == [{}, {"resnet-20": 8.75, "resnet-110": 6.61}]
    for name in ("figure1", "short_figure6"):
        other = gather(name, pools(results, reference))
        assert other is not None
        assert all(not panel.marks for panel in other.panels)


def test_of_several_seeds_the_median_is_drawn(results: Path, reference: Path, tmp_path: Path, make_run):
    for seed, error in enumerate((6.9, 6.4, 6.6)):
        make_run(results, "cifar_resnet110", seed, test=error)
    content = gather("figure6", pools(results, reference))
    assert content is not None
    assert any("closest to the median test error: ResNet-110 (seed 2 of 3 seeds)" in note for note in content.notes)


@pytest.mark.parametrize("name", ["short_figure1", "short_figure6"])
def test_short_figures_never_carry_the_papers_name(results: Path, reference: Path, tmp_path: Path, make_run, name: str):
    for number in (20, 56):
        make_run(results, f"cifar_plain{number}", 0, train=60, test=58, precision="bf16", overrides=SHORT)
    svg, _ = draw(name, results, reference, tmp_path)
    found = texts(svg)
    title = f"Short version of Figure {name[-1]} (300 iterations instead of 64,000, drops at 150 and 225)"
    assert title in found
    assert not any(text.startswith("Figure") for text in found)
    assert "iterations" in found
    assert "100" in found
    assert "not the paper's schedule" in " ".join(found)
    assert "32-layer" not in found


def test_no_text_leaves_the_figure_or_meets_another(results: Path, reference: Path, make_run):
    for name, error in (("plain20", 9.7), ("plain32", 9.8), ("plain44", 9.9), ("plain56", 13.0), ("resnet20", 7.0),
                        ("resnet32", 7.0), ("resnet44", 7.0), ("resnet56", 7.0), ("resnet110", 7.0)):
        make_run(results, f"cifar_{name}", 0, test=error, device="a device with a name that is rather long, 2 threads")
    content = gather("figure6", pools(results, reference))
    assert content is not None
    with mpl.rc_context(painting.SETTINGS):
        figure = painting.paint(content)
        figure.canvas.draw()
    # Text's own extent: that of an annotation includes its leader line
    boxes = [Text.get_window_extent(text) for owner in (*figure.axes, figure) for text in owner.texts]
    assert len(boxes) == 11
    for index, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:index])
    tight = [ax.get_tightbbox() for ax in figure.axes]
    assert not tight[0].overlaps(tight[1])
    assert tight[0].x0 >= 0
    assert tight[0].y0 >= figure.texts[-1].get_window_extent().y1


def test_the_same_runs_give_the_same_bytes(results: Path, reference: Path, tmp_path: Path, make_run):
    make_run(results, "cifar_plain20", 0)
    first = [path.read_bytes() for path in draw("figure1", results, reference, tmp_path / "one")]
    second = [path.read_bytes() for path in draw("figure1", results, reference, tmp_path / "two")]
    assert first == second
    assert b"<dc:date>" not in first[0]


def test_networks_differ_in_gray_and_marker():
    colors = [[int(painting.LOOKS[n][0][i:i + 2], 16) for i in (1, 3, 5)] for n in (20, 32, 44, 56, 110)]
    grays = [0.299 * red + 0.587 * green + 0.114 * blue for red, green, blue in colors]
    assert grays == sorted(grays, reverse=True)
    assert min(one - other for one, other in pairwise(grays)) > 20
    assert len({marker for _, marker in painting.LOOKS.values()}) == len(painting.LOOKS)


def test_an_unknown_figure_is_named(results: Path, reference: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="did you mean figure6"):
        painting.draw("figure66", pools(results, reference), tmp_path)


@given(st.lists(st.floats(0, 20), max_size=8))
def test_labels_are_moved_apart_in_order(values: list[float]):
    places = painting.spread_apart(values, 1.0, 0.0, 20.0)
    ordered = sorted(range(len(values)), key=values.__getitem__)
    moved = [places[index] for index in ordered]
    assert all(after - before >= 1.0 - 1e-6 for before, after in pairwise(moved))
    assert all(-1e-6 <= place <= 20.0 + 1e-6 for place in moved)
    if all(abs(a - b) >= 1.0 for i, a in enumerate(values) for b in values[:i]):
        assert places == pytest.approx(values, abs=1e-6)
