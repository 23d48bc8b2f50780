"""Bad images under data.on_bad=fail and skip, by the real command: what is named, left out, recorded and refused."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from repro.config import compose, identity, paper_identities, with_precision
from repro.data import imagenet_usable
from repro.runs import read_run
from repro.schema import Precision
from repro.training import engine
from tests.made_images import SMOKE, make_folder, wnid
from tests.outcome import says

PER_CHANNEL = ("data.normalization=per_channel", "data.channel_mean=[0.5,0.4,0.3]", "data.channel_std=[0.2,0.2,0.2]",
               "data.color_noise_std=0")
WORDS = ("experiment=imagenet_optB", *SMOKE, "train.batch_norm_group=16", "evaluation.batch_norm_images=0",
         "train.iterations=4", "train.lr_drops=[]", "evaluation.interval=1")
SKIP = "data.on_bad=skip"


def same_weights(left, right) -> bool:
    """Whether two runs, of which each file says how it was trained, ended with the same tensors."""
    one, other = (torch.load(run.folder / "weights.pt", weights_only=True) for run in (left, right))
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


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


def folder(results: Path) -> Path:
    found, = {path.parent for path in results.glob("runs/**/run.json")}
    return found


def named(images: Path, victims: list[Path]) -> list[str]:
    return [str(path.relative_to(images)) for path in victims]


# ---- fail

@pytest.mark.fault(16)
@pytest.mark.parametrize("kind", ["empty", "link"])
def test_bad_files_are_counted_and_the_first_named_before_the_start(direct, images, kind):
    victims = named(images, spoil(images, kind))
    outcome = train(direct, images)
    says(outcome, 3, "25 bad: ", "and 15 more", SKIP, *victims[:10])
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


# ---- skip

@pytest.mark.fault(16)
def test_skip_trains_as_if_the_bad_files_were_not_there_and_says_what_it_left_out(direct, images, tmp_path):
    victims = named(images, spoil(images))
    outcome = train(direct, images, SKIP, f"results={tmp_path / 'skip'}")
    assert outcome.code == 0, outcome.err
    assert "25 beside 23 images" in outcome.out
    assert "and 15 more" in outcome.out
    run = read_run(folder(tmp_path / "skip"))
    note = run.record["data"]["left_out"]
    assert (note["train"], note["val"]) == (25, 25), "one folder serves as both sets"
    assert [text.partition(" (")[0] for text in note["first"]] == victims[:10]
    assert note["first"][0] == f"{victims[0]} (empty file)"
    assert note["first"][2] == f"{victims[2]} (this is no image)"
    assert str(tmp_path) not in json.dumps(note)
    assert note["sha256"] == hashlib.sha256("".join(f"{name}\n" for name in victims).encode()).hexdigest()
    assert any(line.startswith("data.on_bad: ") for line in run.record["deviations"])
    assert not run.is_paper_run

    for name in victims:
        (images / name).unlink()
    assert train(direct, images, f"results={tmp_path / 'fail'}").code == 0
    clean = read_run(folder(tmp_path / "fail"))
    assert "left_out" not in clean.record["data"]
    assert same_weights(clean, run)
    assert clean.record["data"]["sha256"] != run.record["data"]["sha256"]
    errors = [[row["train_loss"] for row in one.history()] for one in (run, clean)]
    assert errors[0] == errors[1]


@pytest.mark.fault(16)
def test_with_nothing_bad_the_numbers_are_those_of_fail(direct, images, tmp_path):
    for value in ("fail", "skip"):
        assert train(direct, images, f"data.on_bad={value}", f"results={tmp_path / value}").code == 0
    fail, skip = (read_run(folder(tmp_path / value)) for value in ("fail", "skip"))
    assert same_weights(skip, fail)
    assert skip.record["history_sha256"] == fail.record["history_sha256"]
    assert skip.record["data"]["sha256"] == fail.record["data"]["sha256"]
    assert skip.identity != fail.identity
    none = {"train": 0, "val": 0, "first": [], "sha256": hashlib.sha256().hexdigest()}
    assert skip.record["data"]["left_out"] == none


@pytest.mark.fault(16)
def test_a_run_goes_on_bit_for_bit_but_not_with_others_left_out(direct, images, tmp_path, monkeypatch):
    spoil(images)
    assert train(direct, images, SKIP, *PER_CHANNEL, f"results={tmp_path / 'whole'}").code == 0
    looks = iter(range(10**6))
    with monkeypatch.context() as patch:  # 2 looks of the loop, after those of the one part that is opened
        patch.setattr(engine.StopRequest, "reason", property(lambda self: "SIGTERM" if next(looks) >= 3 else None))
        says(train(direct, images, SKIP, *PER_CHANNEL), 75, "saved in", f"{SKIP} ")
    good = min(images.glob("*/*"))
    content = good.read_bytes()
    good.write_bytes(b"")
    says(train(direct, images, SKIP, *PER_CHANNEL), 3, "another set of images until iteration")
    good.write_bytes(content)
    assert train(direct, images, SKIP, *PER_CHANNEL).code == 0
    whole, resumed = (read_run(folder(tmp_path / name)) for name in ("whole", "results"))
    assert len(resumed.record["sessions"]) == 2
    assert resumed.record["history_sha256"] == whole.record["history_sha256"]
    assert resumed.record["weights_sha256"] == whole.record["weights_sha256"]
    assert resumed.record["data"] == whole.record["data"]


@pytest.mark.fault(16)
@pytest.mark.parametrize("content", [b"", b"no image"], ids=["empty", "no image"])
def test_a_class_without_an_image_left_is_named(direct, images, content):
    for path in (images / wnid(2)).glob("*"):
        path.write_bytes(content)
    says(train(direct, images, SKIP), 3, f"no image that can be read of class {wnid(2)}", f"{wnid(2)}/0.JPEG")


@pytest.mark.fault(16)
def test_a_folder_in_the_place_of_an_image_and_one_without_images_are_not_left_out(direct, images):
    (images / wnid(1) / "deeper").mkdir()
    says(train(direct, images, SKIP), 3, "1 bad: ", "deeper (a folder in a class's folder)")
    (images / wnid(1) / "deeper").rename(images / wnid(3))
    says(train(direct, images, SKIP), 3, f"{wnid(3)} (a class's folder without images)")


@pytest.mark.fault(16)
def test_a_file_that_turns_bad_after_it_was_opened_ends_the_run(direct, images, tmp_path):
    spoil(images)
    words = (SKIP, *PER_CHANNEL, "evaluation.interval=4", "train.mini_batch_size=8", "train.batch_norm_group=8")
    assert train(direct, images, *words, f"results={tmp_path / 'whole'}").code == 0
    shutil.copytree(tmp_path / "whole" / "data", tmp_path / "results" / "data")
    victim = min(images.glob("*/*"))
    content, status = victim.read_bytes(), victim.stat()
    victim.write_bytes(bytes(len(content)))
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    says(train(direct, images, *words), 3, f"{victim.name}: ", "saved at iteration")
    victim.write_bytes(content)
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert train(direct, images, *words).code == 0
    whole, resumed = (read_run(folder(tmp_path / name)) for name in ("whole", "results"))
    assert resumed.finished
    assert resumed.record["weights_sha256"] == whole.record["weights_sha256"]


@pytest.mark.fault(16)
def test_a_test_leaves_out_what_its_run_left_out(direct, images, tmp_path):
    spoil(images)
    words = ("experiment=imagenet_optB", *SMOKE, "protocol=center", f"data.root={images}")
    given = tuple(word for word in WORDS if word not in words)
    assert train(direct, images, SKIP).code == 0
    outcome = direct("eval", *words, *given, SKIP)
    assert outcome.code == 0, outcome.err
    assert "(25 validation files left out)" in outcome.out
    run = read_run(folder(tmp_path / "results"))
    content = json.loads((run.folder / "evaluations" / "center.json").read_text())
    assert content["left_out"] == run.record["data"]["left_out"]
    assert (content["images"], content["data_fingerprint"]) == (23, run.record["data"]["sha256"])
    says(direct("eval", *words, *given, f"weights={run.folder / 'weights.pt'}"), 2,
         "data.on_bad=fail here, skip there")


def test_it_is_never_the_papers_run():
    for name in ("imagenet_optB", "imagenet_resnet50"):
        skip, paper = (with_precision(compose([f"experiment={name}", f"data.on_bad={value}"]), Precision.fp32)
                       for value in ("skip", "fail"))
        assert identity(paper) in paper_identities(name), "the control"
        assert identity(skip) not in paper_identities(name)


# ---- the kept outcome

def test_images_are_opened_once_and_again_when_the_set_or_the_kept_outcome_is_another(direct, images, tmp_path,
                                                                                     monkeypatch):
    spoil(images)
    opened = []
    look = imagenet_usable.look_at_all
    monkeypatch.setattr(imagenet_usable, "look_at_all", lambda *given: opened.append(1) or look(*given))

    def count(seed: int) -> int:
        outcome = train(direct, images, SKIP, *PER_CHANNEL, "train.iterations=1", f"seed={seed}")
        assert outcome.code == 0, outcome.err
        assert ("is damaged" in outcome.err) == (seed in damaged)
        return len(opened)
    damaged = (2, 3, 4)
    assert (count(0), count(1)) == (1, 1)
    path, = (tmp_path / "results" / "data").glob("bad-*.json")
    content = json.loads(path.read_text())
    for seed, text in zip(damaged, ("", json.dumps({**content, "key": "other"}),
                                    json.dumps({**content, "bad": [[[48, "x"]]]})), strict=True):
        path.write_text(text)
        assert count(seed) == seed
    good = min(images.glob("*/*"))
    os.utime(good, (1, 1))
    assert count(5) == 5


def test_opening_the_images_can_be_stopped(direct, images, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(engine.StopRequest, "reason", property(lambda self: "SIGTERM"))
        says(train(direct, images, SKIP), 75, "stopped by SIGTERM while the images were opened")
    assert not list((tmp_path / "results").rglob("bad-*.json"))
    shutil.rmtree(tmp_path / "results")
    assert train(direct, images, SKIP, "train.iterations=1").code == 0
