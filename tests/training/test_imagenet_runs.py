"""Runs on a small folder of made images through the one engine: everything from the file to the record."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from repro.config import compose
from repro.data import crops
from repro.data.imagenet import Sums, find, on_device
from repro.data.random import normals, permutation, training_draws
from repro.devices import resolve
from repro.errors import ConfigError, DataError, Stopped
from repro.stopping import StopRequest
from repro.training.distributed import World
from repro.training.inputs import StreamInput, statistics_of
from tests.made import run_config
from tests.made_images import SMOKE, make_folder
from tests.outcome import says
from tests.training.conftest import same_end

CPU = torch.device("cpu")
PER_CHANNEL = ("data.normalization=per_channel", "data.channel_mean=[0.5,0.4,0.3]", "data.channel_std=[0.2,0.2,0.2]",
               "data.color_noise_std=0")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images") / "set")


@pytest.fixture
def config(images):
    def make(*overrides: str):
        return compose(["experiment=imagenet_optB", *SMOKE, f"data.root={images}", "train.batch_norm_group=16",
                        "evaluation.batch_norm_images=0", *overrides])
    return make


@pytest.mark.slow
def test_the_network_learns_the_images_by_heart_and_the_run_is_labeled(config, caplog):
    run = run_config(config("train.iterations=28", "train.lr_drops=[20]", "train.lr=0.02", "evaluation.interval=4",
                            "evaluation.batch_norm_images=32"))
    first, *_, last = run.history()
    assert first["train_top1_error"] > 30 > 10 > last["train_top1_error"]
    assert "(wiring test)" in caplog.messages[1]
    assert (run.record.data.one_folder, run.record.evaluated_on, run.is_paper_run) == (True, "val", False)
    assert run.record.recomputed_batch_norm["val_top1_error"] < 10
    assert str(Path(config().data.root)) not in (run.folder / "run.json").read_text()
    with np.load(run.folder / "mean.npz") as arrays:
        assert arrays["mean"].shape == (3, 1, 1), "crops of 32 pixels subtract the mean of each channel"


@pytest.mark.slow
def test_a_run_that_stopped_in_the_middle_of_a_pass_goes_on_bit_for_bit(config, stop_after, tmp_path):
    words = ("train.iterations=9", "train.lr_drops=[7]", "evaluation.interval=3", "train.mini_batch_size=12",
             "train.batch_norm_group=12")  # 32 images: a pass ends within a mini-batch
    whole = run_config(config(*words, f"results={tmp_path / 'whole'}"))
    for steps in (5, 2):  # the first looks are those of the mean image
        stop_after(config(*words), steps)
    resumed = run_config(config(*words))
    assert same_end(resumed, whole)
    assert len(resumed.record.sessions) == 3


def test_what_can_not_be_trained_is_refused(config, images, tmp_path):
    with pytest.raises(ConfigError, match="there are 32 training images"):
        run_config(config("train.mini_batch_size=64", "train.batch_norm_group=64"))
    with pytest.raises(ConfigError, match=r"model\.num_classes=3: .* has 4 classes"):
        run_config(config("model.num_classes=3"))
    with pytest.raises(DataError):
        run_config(compose(["experiment=imagenet_optB", f"data.root={images}"]))  # the protocol wants 1000
    assert not list((tmp_path / "results" / "runs").glob("*/seed0/run.json"))


def test_a_training_image_that_can_not_be_read_is_met_after_the_state_is_saved(config, images, tmp_path):
    copy = tmp_path / "copy"
    for part in ("train", "val"):
        shutil.copytree(images, copy / part)
    words = (f"data.root={copy}", "train.iterations=4", "train.lr_drops=[]", "evaluation.interval=2", *PER_CHANNEL)
    victim = sorted(copy.glob("train/*/*"))[5]
    content = victim.read_bytes()
    victim.write_bytes(bytes(len(content)))
    with pytest.raises(DataError, match=rf"{victim.name}[^$]*saved at iteration \d; go on with: "):
        run_config(config(*words))
    victim.write_bytes(content)
    run = run_config(config(*words))
    assert len(run.record.sessions) == 2
    assert same_end(run, run_config(config(*words, f"results={tmp_path / 'alone'}")))


# ---- the input against its definition

@pytest.fixture(scope="module")
def files(images):
    return find(images, wiring_test=True)


@pytest.fixture(scope="module")
def statistics(files):
    sums = Sums(224)
    for index in range(len(files.train)):
        sums.add(crops.center_crop(crops.open_rgb(files.train.path(index)), 256, 224)[None])
    return sums.finish()


def stream(config, files, statistics, share=slice(0, 12)):
    return StreamInput(on_device(resolve(config), files, statistics, CPU), resolve(config), share)


def test_a_mini_batch_is_what_the_draws_of_its_positions_say(config, files, statistics):
    settings = config("train.mini_batch_size=12", "train.batch_norm_group=12", "seed=3")
    source = stream(settings, files, statistics)
    order = torch.cat([permutation(32, 3, epoch) for epoch in range(2)])
    mean = torch.from_numpy(statistics.mean).mean((1, 2), dtype=torch.float64).float()
    values, vectors = statistics.principal()
    for begin in (0, 24, 12):  # over the end of a pass, and back, as after a capture
        source.prepare(begin)
        positions = begin + torch.arange(12)
        batch, labels = source.batch(positions)
        drawn = training_draws(positions, 3, 36, 48)
        alphas = normals(positions, 3).double().numpy()
        for row, index in enumerate(order[positions].tolist()):
            crop = crops.random_crop(crops.open_rgb(files.train.path(index)), *(int(draw[row]) for draw in drawn), 32)
            noise = 0.1 * vectors @ (alphas[row] * values)
            expected = crop.transpose(2, 0, 1) - mean.numpy()[:, None, None] + noise[:, None, None]
            assert np.allclose(batch[row].numpy(), expected, atol=1e-3)
            assert int(labels[row]) == int(files.train.labels[index])
    source.close()
    unflipped = on_device(resolve(config("data.flip=false")), files, statistics, CPU)
    assert {flip for *_, flip in unflipped.training_requests(order, torch.arange(64), 3)} == {False}


def test_two_processes_read_together_what_one_reads(config, files, statistics):
    settings = config("train.mini_batch_size=12", "train.batch_norm_group=12")
    shares = slice(0, 12), slice(0, 6), slice(6, 12)
    sources = [stream(settings, files, statistics, share) for share in shares]
    for begin in (24, 36, 0):  # from anywhere, and back
        for source in sources:
            source.prepare(begin)
        positions = begin + torch.arange(12)
        whole, *parts = [source.batch(positions[share]) for source, share in zip(sources, shares, strict=True)]
        for number in (0, 1):
            assert torch.equal(torch.cat([part[number] for part in parts]), whole[number])
    for source in sources:
        source.close()


def test_the_mean_image_is_that_of_what_all_processes_read_and_none_if_one_is_stopped(config, files, statistics):
    settings, gathered = config(), []

    def world(rank):
        def gather(value):
            if isinstance(value, bool):
                return [value]
            gathered.insert(0, value)
            return [*gathered]
        return SimpleNamespace(rank=rank, size=2, is_main=not rank, from_main=lambda work: work(),
                               all_gather_object=gather)
    stopped = SimpleNamespace(reason="SIGINT", exit_code=130)
    with pytest.raises(Stopped, match="stopped by SIGINT while the mean image was made"):
        statistics_of(settings, files, world(0), stopped)
    for rank in (1, 0):  # the first one gathers what both have
        found = statistics_of(settings, files, world(rank), StopRequest())
    assert np.allclose(found.mean, statistics.mean, atol=1e-4)
    assert np.array_equal(statistics_of(settings, files, World(), StopRequest()).mean, found.mean), "from the cache"


def test_crops_of_224_subtract_the_mean_image_and_per_channel_what_is_configured(config, files, statistics):
    size = ("data.crop_size=224", "data.shorter_side=[224,230]", "data.test_shorter_side=224")
    data = on_device(resolve(config(*size)), files, statistics, CPU)
    assert torch.equal(data.mean, torch.from_numpy(statistics.mean))
    plain = on_device(resolve(config(*PER_CHANNEL)), files, None, CPU)
    assert plain.components is None
    assert plain.mean.flatten().tolist() == pytest.approx([127.5, 102.0, 76.5])
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    expected = (pixels.permute(0, 3, 1, 2) / 255 - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / 0.2
    assert torch.allclose(plain.training_images(pixels, torch.arange(2), 0), expected, atol=1e-5)


def test_the_color_noise_has_the_covariance_that_alexnet_describes(statistics):
    values, vectors = statistics.principal()
    noise = normals(torch.arange(200_000), 0) @ torch.from_numpy(statistics.color_components(0.1))
    expected = vectors @ np.diag((0.1 * values) ** 2) @ vectors.T
    assert np.allclose(np.cov(noise.numpy().T), expected, rtol=0.02, atol=0.01 * expected.max())


def test_the_validation_images_are_each_given_once_to_one_of_the_processes(config, files, statistics):
    data, whole = on_device(resolve(config()), files, statistics, CPU), torch.from_numpy(files.val.labels)
    for rank, size in ((0, 1), (0, 3), (1, 3), (2, 3)):
        found = [labels for _, labels in data.evaluation_batches(5, rank, size)]
        assert torch.equal(torch.cat(found), whole[rank::size])


@pytest.mark.fault(16)
def test_bad_images_are_counted_and_the_first_named(direct, tmp_path):
    images = make_folder(tmp_path / "set", classes=2, images=24)
    victims = sorted(images.glob("*/*"))[5:30]
    for path in victims:
        path.unlink()
        path.symlink_to("nothing")
    outcome = direct("run", "experiment=imagenet_optB", *SMOKE, f"data.root={images}", "train.iterations=4",
                     "train.lr_drops=[]", "evaluation.interval=1", "evaluation.batch_norm_images=0")
    says(outcome, 3, "25 bad ", *(str(path.relative_to(images)) for path in victims[:10]))
    assert str(victims[10].relative_to(images)) not in outcome.err
    assert not list(tmp_path.glob("results/runs/**/run.json"))
