"""Figures from made-up runs: what they draw, say and leave out."""

import functools
import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from repro.errors import ConfigError
from repro.reporting import figures, select
from repro.reporting.select import pools
from tests.reporting.conftest import SHORT, SYNTHETIC, write_run

SVG = "{http://www.w3.org/2000/svg}"
FALLING = [3.0, 1.0, 2.0]
NORMS = {1: [1.0, 2.0], 400: [9.0, 9.0], 32000: [0.1, 0.2], 48000: [9.0, 9.0], 64000: [0.01, 0.02]}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """All networks of Figure 6, some of them in another origin, and some short and synthetic runs."""
    yours, reference = tmp_path_factory.mktemp("yours"), tmp_path_factory.mktemp("reference")
    long = "a device with a name that is rather long $, 2 threads"
    for name, error in (("plain20", 9.7), ("plain32", 9.8), ("plain44", 9.9), ("resnet20", 7.0), ("resnet44", 7.0)):
        write_run(yours, f"cifar_{name}", test=error, device=long, responses=FALLING)
    for name in ("plain20", "plain56", "resnet20", "resnet32"):
        write_run(yours, f"cifar_{name}", overrides=SHORT, precision="bf16", responses=[2.0])
    for name in ("plain20", "plain56", "resnet20"):
        write_run(yours, f"cifar_{name}", overrides=SYNTHETIC, precision="bf16", responses=[3.0], gradients={1: [1.0]})
    for seed, error in enumerate((6.9, 6.4, 6.6)):
        write_run(yours, "cifar_resnet110", seed, test=error, responses=[0.5, 0.25])
    write_run(reference, "cifar_plain56", test=13.1, device="their device", precision="tf32", gradients=NORMS)
    write_run(reference, "cifar_resnet56", gradients={key: NORMS[key] for key in (1, 32000, 64000)})
    return pools(yours, reference)


@pytest.fixture(scope="module")
def drawn(found, tmp_path_factory):
    """`drawn(name)`: the SVG and the PNG of a figure, drawn once."""
    return functools.cache(lambda name: figures.draw(name, found, tmp_path_factory.mktemp("figures")))


def texts(path):
    return ["".join(node.itertext()).strip() for node in ElementTree.parse(path).iter(f"{SVG}text")]


def test_without_runs_nothing_is_drawn(tmp_path):
    assert figures.draw("figure1", pools(tmp_path, tmp_path), tmp_path / "out") == []
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="did you mean figure6"):
        figures.draw("figure66", pools(tmp_path, tmp_path), tmp_path)


def test_figure1_in_the_papers_form(found, drawn):
    svg, png = drawn("figure1")
    said = texts(svg)
    assert {"20-layer", "56-layer", "training error (%)", "test error (%)", "iter. (1e4)", "20", "0"} <= set(said)
    small_print = " ".join(said)
    assert "yours: a device with a name that is rather long $, 2 threads, fp32" in small_print
    assert "reference: their device, tf32" in small_print
    styles = {line.id: line.style for panel in figures.gather("figure1", found)[1] for line in panel.lines}
    assert styles == {f"plain-{n}-{error}": figures.STYLES[style] for n in (20, 56)
                      for error, style in (("training", "dashed"), ("test", "bold"))}
    with Image.open(png) as image:
        assert 0.01 < (np.asarray(image.convert("L")) < 128).mean() < 0.5


def test_figure6_has_a_panel_where_a_run_is(found, results, reference):
    _, panels, notes = figures.gather("figure6", found)
    assert [panel.title for panel in panels] == ["plain networks", "ResNets"], "without 1202 layers no right panel"
    assert notes[-1] == "no run with these data: ResNet-32, ResNet-1202", "a short run is none of the paper's"
    assert any("closest to the median error: cifar_resnet110/seed2 of 3 seeds" in note for note in notes)
    write_run(results, "cifar_resnet1202", test=7.9)
    (only,) = figures.gather("figure6", pools(results, reference))[1]
    assert {line.label for line in only.lines} == {"", "1202-layer"}


def test_figure_4_draws_training_and_validation_errors_of_the_median(results, reference):
    for seed, error in enumerate((30.0, 28.0, 29.0)):
        write_run(results, "imagenet_optA", seed, test=error)
    write_run(results, "imagenet_plain34", test=31.0)
    _, panels, notes = figures.gather("figure4", pools(results, reference))
    assert [sorted(line.id for line in panel.lines) for panel in panels] == [
        ["plain-34-training", "plain-34-validation"], ["resnet-34-training", "resnet-34-validation"]]
    assert any("imagenet_optA/seed2 of 3 seeds" in note for note in notes)


@pytest.mark.parametrize("name", ["figure1", "figure6", "figure7", "gradients"])
def test_short_and_synthetic_figures_say_so_and_take_their_own_runs_only(found, name):
    for variant in (select.SHORT, select.SYNTHETIC):
        if (content := figures.gather(f"{variant}_{name}", found)) is None:
            assert (variant, name) == (select.SHORT, "gradients")
            continue
        title, panels, notes = content
        assert re.match(r"(Synthetic images, not CIFAR-10\. )?Short version: .*\d+ iterations instead of 64,000", title)
        assert "not the paper's schedule: it shows" in notes[0]
        assert all((select.NOT_CIFAR in text) == (variant == select.SYNTHETIC) for text in (title, notes[0]))
        if name == "figure7":
            assert {tuple(line.y) for line in panels[0].lines} == {(2.0 if variant == select.SHORT else 3.0,)}


def test_nothing_meets_another(found):
    with mpl.rc_context(figures.SETTINGS):
        figure = figures.paint(*figures.gather("figure6", found), by_layer=False)
        figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in figure.texts] + [ax.get_tightbbox() for ax in figure.axes]
    assert len(boxes) == 4
    assert not any(box.overlaps(other) for index, box in enumerate(boxes) for other in boxes[:index])


def test_figure7_shows_layers_in_order_and_sorted_and_is_the_same_bytes_each_time(found, drawn):
    for path, data in zip(drawn("figure7"), figures.render("figure7", found).values(), strict=True):
        assert path.read_bytes() == data
    _, (top, bottom), notes = figures.gather("figure7", found)
    assert {line.label: line.y for line in top.lines} == {
        "plain-20": FALLING, "ResNet-20": FALLING, "ResNet-110": [0.5, 0.25]}
    assert bottom.lines[0].y == [3.0, 2.0, 1.0]
    assert notes[-1] == "no run with these data: plain-56, ResNet-56"
    assert "all test images" in " ".join(texts(drawn("figure7")[0]))


@pytest.mark.parametrize("damage", [
    lambda path: path.unlink(), lambda path: path.write_text(path.read_text().replace("3.0", "4.0"))])
def test_a_run_without_its_own_responses_is_passed_over(results, reference, damage):
    write_run(results, "cifar_plain20", responses=FALLING)
    damage(write_run(results, "cifar_resnet20", responses=FALLING) / "responses.csv")
    write_run(reference, "cifar_resnet20", responses=[7.0])
    _, panels, _ = figures.gather("figure7", pools(results, reference))
    assert [line.y for line in panels[0].lines] == [FALLING, [7.0]], "the committed one stands"


def test_gradients_at_the_start_at_the_first_drop_and_at_the_end(found, drawn):
    _, panels, _ = figures.gather("gradients", found)
    assert [panel.title for panel in panels] == ["update 1", "update 32,000", "update 64,000"]
    assert panels[1].lines[0].y == [0.1, 0.2]
    assert "Sec. 4.1" in " ".join(texts(drawn("gradients")[0]))
