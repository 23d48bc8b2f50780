"""`repro report`: one page that needs nothing else, with every record's text escaped."""

import re
import shutil
import subprocess

import pytest

from repro.reporting.report import report
from repro.reporting.select import pools
from tests.reporting.conftest import SHORT, SYNTHETIC, write_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a paper run, a short one, a synthetic one, and one that can't be read."""
    folder = tmp_path_factory.mktemp("report")
    write_run(folder, "cifar_resnet20", test=8.1, device="<script>alert(1)</script>")
    write_run(folder, "cifar_plain20", overrides=SHORT, precision="bf16", responses=[1.0, 2.0])
    write_run(folder, "cifar_plain20", overrides=SYNTHETIC, precision="bf16", responses=[1.0, 2.0])
    (write_run(folder, "cifar_resnet32") / "run.json").write_text("{")
    path = folder / "report.html"
    path.write_text(report(pools(folder, folder / "reference")))
    return path


def test_the_page_has_everything_labeled_and_escaped(page):
    text = page.read_text()
    for word in ("ResNet-20", "8.10", "not decidable", "short run", "synthetic images", "cifar_resnet20/seed0",
                 "unreadable run.json", "&lt;script&gt;alert(1)", 'alt="figure6"', 'alt="synthetic_figure7"'):
        assert word in text, word
    assert "<script" not in text
    assert text.index('id="tables"') < text.index('id="short"') < text.index('id="synthetic"')
    assert page.stat().st_size < 2_000_000


def test_nothing_is_loaded_from_elsewhere_and_every_link_has_its_target(page):
    text = page.read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:image/svg)[^"']*|url\([^)]*|@import""", text)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)


def test_a_page_without_runs(direct, results):
    assert direct("report").code == 0
    text = (results / "report.html").read_text()
    assert "Synthetic images" not in text
    assert "Nothing here yet" not in text, "there are tables"


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome")
def test_a_browser_shows_it(page):
    measured = page.with_name("measured.html")
    measured.write_text(page.read_text() + "<script>document.title = document.documentElement.scrollWidth</script>")
    shown = subprocess.run([str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom",
                            "--proxy-server=127.0.0.1:9", "--window-size=500,900", "--enable-logging=stderr",
                            measured.as_uri()], capture_output=True, text=True, check=True, timeout=300)
    assert not re.findall(r"CONSOLE.*(?:rror|efused|ailed)", shown.stderr)
    width = re.search(r"<title>(\d+)</title>", shown.stdout)
    assert width is not None
    assert int(width[1]) <= 500, "the page is no wider than a narrow window; tables scroll in their box"
