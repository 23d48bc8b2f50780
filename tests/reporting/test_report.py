"""`repro report`: one page that needs nothing else, with every record's text escaped."""

import contextlib
import io
import re
import shutil
import subprocess

import pytest

from repro.cli import main
from repro.reporting.report import inline, report
from repro.reporting.select import pools
from tests.reporting.conftest import SHORT, SYNTHETIC, write_run

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), None)


def browse(*arguments):
    """Run headless Chromium without a network."""
    return subprocess.run([str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu",
                           "--proxy-server=127.0.0.1:9", *arguments], capture_output=True, text=True, check=False,
                          timeout=120)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a paper run, a short one and a synthetic one."""
    folder, said = tmp_path_factory.mktemp("report"), io.StringIO()
    results = folder / "results"
    write_run(results, "cifar_resnet20", test=8.1, device="<script>alert(1)</script>", change={
        "recomputed_batch_norm": {"images": 12800, "test_loss": 1.0, "test_top1_error": 8.05}})
    write_run(results, "cifar_plain20", overrides=SHORT, precision="bf16", responses=[1.0, 2.0])
    write_run(results, "cifar_plain20", overrides=SYNTHETIC, precision="bf16", responses=[1.0, 2.0])
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.chdir(folder)
        patch.setenv("REPRO_RESULTS", str(results))
        assert main(["report"]) == 0
    assert "report: results/report.html" in said.getvalue()
    return results / "report.html"


def test_the_page_has_everything(page):
    text = page.read_text()
    for word in ("ResNet-20", "8.10", "over 12,800 training images", "not decidable", "Do the paper&#39;s statements",
                 "Figure 6", "short run", "synthetic images", "cifar_resnet20/seed0", "history"):
        assert word in text or word.replace("&#39;", "'") in text, word
    assert text.index('id="tables"') < text.index('id="short"') < text.index('id="synthetic"')
    assert page.stat().st_size < 2_000_000


def test_what_a_record_says_is_escaped(page):
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_nothing_is_loaded_from_elsewhere(page):
    text = page.read_text()
    assert not re.findall(r"""(?:src|href|xlink:href)=["'](?!#)[^"']*""", text)
    assert not re.findall(r"url\((?!#)[^)]*", text)
    assert "@import" not in text


def test_ids_are_unique_and_every_reference_has_its_target(page):
    text = page.read_text()
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    targets = re.findall(r'href="#([^"]+)"', text) + re.findall(r"url\(#([^)]+)\)", text)
    assert targets
    assert set(targets) <= set(ids)


def test_an_unreadable_record_has_a_card(results, reference, make_run):
    (make_run(results, "cifar_resnet20") / "run.json").write_text("{")
    assert "unreadable run.json" in report(pools(results, reference), {})


def test_a_page_without_runs(results, reference):
    text = report(pools(results, reference), {})
    assert "No runs yet" in text
    assert "Synthetic images" not in text


def test_inlining_keeps_references():
    svg = '<?xml version="1.0"?><!DOCTYPE svg><svg><defs><path id="a1"/></defs><use xlink:href="#a1"/></svg>'
    assert inline("f", svg) == '<svg><defs><path id="f-a1"/></defs><use xlink:href="#f-a1"/></svg>'


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome")
def test_a_browser_shows_it(page, tmp_path):
    dom = browse("--dump-dom", "--enable-logging=stderr", page.as_uri())
    assert dom.returncode == 0, dom.stderr
    for section in ("claims", "tables", "short", "synthetic", "runs"):
        assert f'<section id="{section}">' in dom.stdout
    assert not re.findall(r"CONSOLE.*(?:rror|efused|ailed)", dom.stderr)
    measured = page.with_name("measured.html")
    measured.write_text(page.read_text() + "<script>document.title = document.documentElement.scrollWidth</script>")
    narrow = browse("--dump-dom", "--window-size=500,900", measured.as_uri())
    width = re.search(r"<title>(\d+)</title>", narrow.stdout)
    assert width is not None
    assert int(width[1]) <= 500, "the page is no wider than a narrow window; tables scroll in their box"
    shot = tmp_path / "page.png"
    browse(f"--screenshot={shot}", "--window-size=1200,2000", page.as_uri())
    assert shot.stat().st_size > 50_000
