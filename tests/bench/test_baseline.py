"""Each contender on the smallest network: the same one, the same loss before, a lower one afterwards."""

import json

import pytest
import torch

from repro.bench import baseline
from repro.bench.baseline import BUILD, main, measure, shared_loss
from repro.bench.baselines import PilImages
from repro.bench.plan import Job, config_of
from repro.bench.synthetic import random_images
from repro.devices import resolve, set_up
from tests.bench.synthetic import PARAMETERS, TINY

EAGER = ["repro", "eager_loop", "dataloader"]
forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12 and 3.13, of the workers


@pytest.fixture(autouse=True)
def few_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def job(name, *overrides, steps=6):
    return Job(name, 8, (*TINY, *overrides), 2, steps, 160)


@forks
@pytest.mark.parametrize("name", EAGER)
def test_it_is_the_same_network_and_it_trains(name, monkeypatch):
    monkeypatch.setattr("repro.bench.baselines.cores_here", lambda: 1)
    result = measure(job(name))
    assert result["parameters"] == PARAMETERS[8]
    assert result["shared_loss"] == pytest.approx(expected_loss(), rel=1e-5)
    assert result["last_loss"] < 0.95 * result["shared_loss"]
    assert result["images_per_second"] == pytest.approx(16_000 / result["ms_per_step"])
    assert (result["kind"], result["steps"], result["warmup"] >= 2) == ("eager", 6, True)
    assert result["setup_seconds"] > 0


def expected_loss():
    """The loss on the first 16 images, computed here alone: float64, mean subtracted."""
    config = config_of(8, TINY)
    images, labels = random_images(160)
    model = baseline.build_model(config.model, config.seed).double()
    batch = images.double() - images.double().mean(0)
    return float(torch.nn.functional.cross_entropy(model(batch[:16]), labels[:16]).detach())


def test_the_compiled_loop_asks_for_reduce_overhead(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **settings: asked.append(settings))
    result = measure(job("reduce_overhead"))
    assert asked == [{"mode": "reduce-overhead"}]
    assert "reduce-overhead" in result["kind"]


@pytest.mark.slow
def test_16_bits_are_used_by_the_loops_too():
    config = resolve(config_of(8, (*TINY, "machine.precision=bf16")))
    device, exact = set_up(config), expected_loss()
    for name in ("repro", "eager_loop"):
        loss = shared_loss(BUILD[name](config, device, 160), config, device)
        assert 1e-5 * exact < abs(loss - exact) < 0.03 * exact, name


def test_the_check_on_the_shared_batch_changes_nothing():
    config = resolve(config_of(8, TINY))
    one = BUILD["eager_loop"](config, set_up(config), 160)
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    shared_loss(one, config, torch.device("cpu"))
    assert all(torch.equal(value, before[name]) for name, value in one.model.state_dict().items())
    assert all(parameter.grad is None for parameter in one.model.parameters())
    one.advance(1)
    assert not torch.equal(one.model.state_dict()["bn1.running_mean"], before["bn1.running_mean"])


def test_a_pass_of_the_device_loop_holds_every_image_once():
    config = resolve(config_of(8, (*TINY, "data.padding=0", "data.flip=false")))
    one = BUILD["eager_loop"](config, set_up(config), 160)
    seen = torch.cat([next(one.batches)[0] for _ in range(10)])
    order = lambda images: sorted(image.double().sum().item() for image in images)  # noqa: E731
    assert order(seen) == pytest.approx(order(one.images))


def test_pil_images_are_the_made_ones_in_pixels():
    images, labels = random_images(12)
    data = PilImages(12, padding=4, flip=True)
    plain = torch.stack([data.plain(data.image(index)) for index in range(12)])
    expected = images.float() - images.float().mean(0)
    assert torch.allclose(plain, expected, atol=1e-3)
    assert [data[index][1] for index in range(len(data))] == labels.tolist()
    torch.manual_seed(0)
    assert not all(torch.allclose(data[index][0], expected[index], atol=1e-3) for index in range(12))


def test_made_images_tell_their_labels_and_are_random():
    images, labels = random_images(200)
    brightness = images.float().mean((1, 2, 3))
    assert torch.equal(((brightness - 29.5) / 18).round().long(), labels)
    assert images.float().std((1, 2, 3)).min() > 10


def test_one_line_is_printed_whatever_happens(capsys, monkeypatch):
    main(job("repro", "machine.precision=tf32").text())
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(last) == ["failed"]
    assert last["failed"].startswith("ConfigError: machine.precision=tf32")

    def broken(job):
        raise RuntimeError("no C++ compiler\nfound here")
    monkeypatch.setattr(baseline, "measure", broken)
    main(job("repro").text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"failed": "RuntimeError: no C++ compiler"}


def test_an_engine_that_is_asked_for_by_name_must_be_used():
    with pytest.raises(RuntimeError, match=r"engine=graph: .*needs a CUDA device"):
        measure(job("repro:graph"))
    result = measure(job("repro", "engine=graph", steps=1))
    assert (result["kind"], len(result["said"])) == ("eager", 1)
    assert measure(job("repro:eager", steps=1))["said"] == []


def test_updates_that_were_left_out_are_no_result():
    with pytest.raises(RuntimeError, match="not finite at iteration"):
        measure(job("repro", "train.lr=1e30"))


def test_the_device_is_a_job_too(monkeypatch):
    monkeypatch.setattr(baseline, "device_rates", lambda config, device: {"copy_bytes_per_second": 1.0})
    result = measure(job("rates"))
    assert result["threads"] == 1
    assert result["copy_bytes_per_second"] == 1.0
