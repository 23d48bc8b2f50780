"""Figure 7 and the gradients by layer, and what stands on synthetic images."""

from xml.etree import ElementTree

import pytest
from PIL import Image

from repro.reporting import figures
from repro.reporting.figures import gather
from repro.reporting.painting import draw
from repro.reporting.select import pools
from tests.reporting.conftest import SHORT, SYNTHETIC

FALLING = [3.0, 1.0, 2.0]


def text_of(path):
    return " ".join("".join(node.itertext()) for node in ElementTree.parse(path).iter() if node.tag.endswith("text"))


def test_figure7_shows_layers_in_order_and_sorted(results, reference, make_run, tmp_path):
    make_run(results, "cifar_plain20", responses=FALLING)
    make_run(results, "cifar_resnet110", responses=[0.5, 0.25])
    content = gather("figure7", pools(results, reference))
    assert content is not None
    top, bottom = content.panels
    assert [(line.label, line.y) for line in top.lines] == [
        ("plain-20", [3.0, 1.0, 2.0]), ("ResNet-110", [0.5, 0.25])]
    assert bottom.lines[0].y == [3.0, 2.0, 1.0]
    paths = draw("figure7", pools(results, reference), tmp_path / "a")
    assert paths is not None
    text = text_of(paths[0])
    for word in ("Figure 7", "plain-20", "ResNet-110", "10,000 test images", "Choice:", "ResNet-20: not run"):
        assert word in text, word
    with Image.open(paths[1]) as picture:
        assert picture.size[0] == 1440


@pytest.mark.parametrize(("damage", "reason"), [
    (lambda path: path.unlink(), "no responses.csv"),
    (lambda path: path.write_text(path.read_text().replace("3.0", "4.0")), "responses.csv is not the recorded one"),
], ids=["missing", "changed"])
def test_a_run_without_its_responses_is_named(results, reference, make_run, damage, reason):
    make_run(results, "cifar_plain20", responses=FALLING)
    damage(make_run(results, "cifar_resnet20", responses=FALLING) / "responses.csv")
    make_run(reference, "cifar_resnet20", responses=[7.0])
    content = gather("figure7", pools(results, reference))
    assert content is not None
    assert [line.y for line in content.panels[0].lines] == [FALLING, [7.0]], "the committed one stands"
    assert f"ResNet-20 (seed 0) (yours): {reason}" in content.notes[-1]


@pytest.mark.parametrize("values", [[1.0, float("nan")], [1.0, -1.0], []])
def test_values_that_are_no_sizes_are_not_drawn(results, reference, make_run, values):
    make_run(results, "cifar_plain20", responses=values)
    assert gather("figure7", pools(results, reference)) is None


def test_gradients_at_the_start_at_the_first_drop_and_at_the_end(results, reference, make_run, tmp_path):
    norms = {1: [1.0, 2.0], 400: [9.0, 9.0], 32000: [0.1, 0.2], 48000: [9.0, 9.0], 64000: [0.01, 0.02]}
    make_run(results, "cifar_plain56", gradients=norms)
    make_run(results, "cifar_resnet56", gradients={key: norms[key] for key in (1, 32000, 64000)})
    content = gather("gradients", pools(results, reference))
    assert content is not None
    assert [panel.title for panel in content.panels] == ["update 1", "update 32,000", "update 64,000"]
    assert content.panels[1].lines[0].y == [0.1, 0.2]
    assert any("plain-56 0.01 to 2" in note for note in content.notes)
    paths = draw("gradients", pools(results, reference), tmp_path)
    assert paths is not None
    assert "Sec. 4.1" in text_of(paths[0])


def test_short_and_synthetic_figures_take_their_own_runs_only(results, reference, make_run):
    make_run(results, "cifar_plain20", responses=[1.0])
    make_run(results, "cifar_plain20", responses=[2.0], overrides=SHORT, precision="bf16")
    make_run(results, "cifar_plain20", responses=[3.0], overrides=SYNTHETIC, precision="bf16")
    for name, value in (("figure7", 1.0), ("short_figure7", 2.0), ("synthetic_figure7", 3.0)):
        content = gather(name, pools(results, reference))
        assert content is not None
        assert content.panels[0].lines[0].y == [value]
        assert ("Synthetic images, not CIFAR-10" in content.title) == (name == "synthetic_figure7")
        assert ("not the paper's schedule" in content.notes[0]) == (name != "figure7")


def test_every_synthetic_figure_says_so(results, reference, make_run, tmp_path):
    for name in ("cifar_plain20", "cifar_plain56", "cifar_resnet20"):
        make_run(results, name, responses=FALLING, gradients={1: FALLING}, overrides=SYNTHETIC, precision="bf16")
    drawn = [name for name in figures.names() if draw(name, pools(results, reference), tmp_path)]
    assert drawn == ["synthetic_figure1", "synthetic_figure6", "synthetic_figure7", "synthetic_gradients"]
    for name in drawn:
        text = text_of(tmp_path / f"{name}.svg")
        assert text.count("Synthetic images, not CIFAR-10") >= 2, "in the title and in the small print"
        assert "published test errors" not in text
