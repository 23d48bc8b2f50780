"""Bad images, by the real command: what is counted and named."""

from pathlib import Path

import pytest

from tests.made_images import SMOKE, make_folder
from tests.outcome import says

WORDS = ("experiment=imagenet_optB", *SMOKE, "train.batch_norm_group=16", "evaluation.batch_norm_images=0",
         "train.iterations=4", "train.lr_drops=[]", "evaluation.interval=1")


@pytest.fixture
def images(tmp_path) -> Path:
    """Two classes of 24 images, all good."""
    return make_folder(tmp_path / "set", classes=2, images=24)


def spoil(images: Path, kind: str = "") -> list[Path]:
    """Make 25 of the images bad: empty, cut, no image, a link to nothing, or each of these in turn; sorted by path."""
    victims = sorted(images.glob("*/*"))[5:30]
    for number, path in enumerate(victims):
        what = kind or ("empty", "cut", "no image", "link")[number % 4]
        content = path.read_bytes()
        path.unlink()
        if what == "link":
            path.symlink_to("nothing")
        else:
            path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "no image": b"<html>"}[what])
    return victims


def train(direct, images: Path, *words: str):
    return direct("run", *WORDS, f"data.root={images}", *words)


def named(images: Path, victims: list[Path]) -> list[str]:
    return [str(path.relative_to(images)) for path in victims]


@pytest.mark.fault(16)
@pytest.mark.parametrize("kind", ["empty", "link"])
def test_bad_files_are_counted_and_the_first_named_before_the_start(direct, images, kind):
    victims = named(images, spoil(images, kind))
    outcome = train(direct, images)
    says(outcome, 3, "25 bad: ", "and 15 more", *victims[:10])
    assert victims[10] not in outcome.err
    assert not list(images.parent.glob("results/runs/**/run.json"))


@pytest.mark.fault(16)
@pytest.mark.parametrize("kind", ["cut", "no image"])
def test_images_that_only_opening_shows_to_be_bad_end_a_run_and_verify_names_the_first(direct, images, kind):
    victims = named(images, spoil(images, kind))
    says(train(direct, images), 3, f"{victims[0]}: ")
    outcome = direct("data", "verify", "imagenet", str(images), "data.wiring_test=true")
    says(outcome, 3, "25 of 48 images can't be read", "and 15 more", *victims[:10])
    assert victims[10] not in outcome.err
