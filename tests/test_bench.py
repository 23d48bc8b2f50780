"""The bench: who trains and reads, what counts, the floors, and the record and table on made-up measurements."""

import json
import os
import time
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch

from repro import bench
from repro.config import compose
from repro.devices import resolve
from repro.errors import ReproError
from repro.paper import golden_counts
from repro.paths import TREE
from tests.made_images import make_folder
from tests.outcome import says

TINY = ["experiment=cifar_resnet20", "train.lr=0.01", "model.depth=8", "train.mini_batch_size=16",
        "train.batch_norm_group=16", "machine.device=cpu", "machine.threads=1"]
forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12 and 3.13, of the workers


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(bench, "IMAGES", 160)
    monkeypatch.setattr(bench, "cores_here", lambda: 1)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def expected_loss():
    """The loss on the first 16 images, computed here alone: float64, mean subtracted."""
    config, data = compose(TINY), bench.made_data(torch.device("cpu"))
    model = bench.build_model(config.model, config.seed).double()
    images, labels = data.train_images.double(), data.train_labels
    return float(torch.nn.functional.cross_entropy(model((images - images.mean(0))[:16]), labels[:16]).detach())


@forks
@pytest.mark.parametrize("contender", bench.TRAINERS)
def test_each_trains_the_same_network_from_the_same_loss(contender):
    result = bench.train(contender, resolve(compose(TINY)), 6)
    assert result["shared_loss"] == pytest.approx(expected_loss(), rel=1e-5)
    assert result["last_loss"] < 0.95 * result["shared_loss"]
    assert result["images_per_second"] == pytest.approx(16_000 / result["ms"])
    assert (result["kind"], result["steps"]) == ("eager", 6)


def other_weights(model, *_):
    for parameter in model.parameters():
        parameter.data *= 1.02
    return model


@pytest.mark.parametrize(("contender", "name", "replacement", "said"), [
    ("repro", "repro.devices.place", other_weights, "another network: its loss is"),
    ("eager_loop", "repro.bench.device_batches", lambda data, config: iter(()), "it did not train")])
def test_another_loss_or_no_training_is_no_result(contender, name, replacement, said, monkeypatch):
    monkeypatch.setattr(name, replacement)
    with pytest.raises(RuntimeError, match=said):
        bench.train(contender, resolve(compose(TINY)), 6)


@pytest.fixture
def images(tmp_path):
    """Four small photographs of two classes, as JPEGs."""
    make_folder(tmp_path / "images" / "val", classes=2, images=2)
    return tmp_path / "images"


@pytest.mark.parametrize("contender", bench.READERS)
def test_each_way_reads_images_and_is_timed(images, contender, monkeypatch):
    sizes, crop, tensor = [], bench.crops.random_crop, bench.transforms.ToTensor.__call__
    monkeypatch.setattr(bench.crops, "random_crop", lambda *words: sizes.append(crop(*words).shape))
    monkeypatch.setattr(bench.transforms.ToTensor, "__call__",
                        lambda self, image: sizes.append((*image.size, 3)) or tensor(self, image))
    result = bench.read(contender, images / "val", 6)
    assert sizes == [(224, 224, 3)] * 12
    assert min(result.values()) > 0


def test_rates_and_floors_are_those_counted_by_hand(monkeypatch):
    """Elements (X, Y) of each convolution, 3 X + 11 Y each, and 2 Y for each addition."""
    monkeypatch.setattr(bench, "best_seconds", lambda work, device, repeats: repeats / 20)
    found = bench.measure_device(resolve(compose([*TINY, "machine.precision=bf16"])))
    assert found == {"bytes_per_second": 2 * 4 * (4 * 2048)**2, "operations_per_second": 2 * 2048**3}
    large, middle, small = 16 * 32 * 32, 32 * 16 * 16, 64 * 8 * 8
    convolutions = [(3 * 32 * 32, large), (large, large), (large, large), (large, middle), (middle, middle),
                    (middle, small), (small, small)]
    elements = sum(3 * x + 11 * y for x, y in convolutions) - convolutions[0][0]  # images need no gradient
    for words, additions in (([], 2 * (large + middle + small)), (["model=plain"], 0)):
        found = bench.least_work(resolve(compose([*TINY, *words])))
        assert found["bytes"] == 4 * (16 * (elements + additions) + 8 * 75_290)
    adds = golden_counts("cifar10")[20].multiply_adds["A"]
    found = bench.least_work(resolve(compose(["experiment=cifar_resnet20"])))
    assert found["operations"] == pytest.approx(6 * 128 * adds, rel=1e-3)


# ---- rounds, processes, the command

MILLISECONDS = {"repro": (4.0, 5.0, 3.0, 4.5, 3.5), "eager_loop": (8.0,) * 5, "plain": (0.2,) * 5,
                "dataloader": (40.0, 41.0, 39.0, 40.0, 40.0), "pillow": (0.1,) * 5}


@pytest.fixture
def made(monkeypatch):
    """In the place of processes; the jobs asked for, in order. A contender in `failing` fails in round 2."""
    class Made(list):
        failing: tuple[str, ...] = ()

        def __call__(self, seconds, function, name, *rest):
            name = name if isinstance(name, str) else "device"
            self.append(name)
            number = self.count(name)
            if name in self.failing and number == 2:
                raise RuntimeError("no compiler")
            if name == "device":
                return {"bytes_per_second": 1e9 * (9 + number), "operations_per_second": 2e12}
            ms = MILLISECONDS[name][number - 1]
            return {"kind": "eager", "ms": ms, "images_per_second": 128_000 / ms, "per_core": 100 / ms}
    one = Made()
    monkeypatch.setattr(bench, "fresh_process", one)
    monkeypatch.setattr(bench.devices, "describe", lambda device: "Made (R) GPU, 2 threads")
    return one


def rows(text):
    return {cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
            for cells in (line.split("|") for line in text.splitlines()) if len(cells) > 2}


def test_rounds_are_interleaved_and_medians_compared_and_one_that_fails_is_not_tried_again(made):
    made.failing = ("eager_loop",)
    record = bench.bench(["machine.device=cpu"], [20])
    assert made == [*["device", *bench.TRAINERS] * 2, *["device", "repro", "dataloader"] * 3]
    text = bench.render(record)
    table = rows(text)
    assert table["ResNet-20 repro"] == ["eager", "4", "3 to 5 (5 rounds)", "32,000", "1.00"]
    assert [table[f"ResNet-20 {name}"][-1] for name in bench.TRAINERS] == ["1.00", "2.00", "10.00"]
    assert table["ResNet-20 byte floor"][:2] == ["computed", f"{4000 * (128 * 2_803_712 + 8 * 269_722) / 1.2e10:.4g}"]
    assert table["ResNet-20 compute floor"][1] == f"{6000 * 40_550_400 * 128 / 2e12:.4g}"
    assert json.loads(json.dumps(record)) == record
    assert "- ResNet-20 eager_loop failed: RuntimeError: no compiler" in text
    assert table["ResNet-20 eager_loop"][2] == "8 to 8 (1 rounds)"


def test_the_committed_record_renders():
    path, = (TREE / "results" / "reference" / "bench").glob("bench_*_fp32.json")
    assert rows(bench.render(json.loads(path.read_text()))) == rows(path.with_suffix(".md").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "function", "value", "error"), [
    (600, os._exit, 3, BrokenProcessPool), (1, time.sleep, 600, TimeoutError),
    (600, bench.measure_device, None, AttributeError)])
def test_a_process_without_a_result_is_a_failure(seconds, function, value, error):
    with pytest.raises(error):
        bench.fresh_process(seconds, function, value)


@pytest.mark.slow
def test_a_real_process_measures(images):
    assert bench.fresh_process(600, bench.read, "pillow", images / "val", 2)["per_core"] > 0


def test_a_quick_bench_is_labeled_everywhere(made, direct, tmp_path):
    outcome = direct("bench", "--quick")
    assert (outcome.code, outcome.err) == (0, "")
    assert made == ["device", "repro", "dataloader"] * 2
    record = tmp_path / "results" / "bench" / "bench_made-r-gpu-2-threads_fp32_quick.json"
    assert "# Quick, no evidence: Training speed, fp32, mini-batches of 128, on Made (R) GPU, 2 threads" in outcome.out
    assert record.with_suffix(".md").read_text() in outcome.out
    assert "ResNet-20 repro" in json.loads(record.read_text())["results"]


def test_the_input_is_measured_below_val(made, direct, images, tmp_path):
    record = json.loads(direct("bench", "input", f"data.root={images}", "--json").out)
    assert made == [*bench.READERS] * 5
    assert rows(bench.render(record))["pillow"][-1] == "2.00"
    assert (tmp_path / "results" / "bench" / "bench_input_made-r-gpu.json").is_file()


@pytest.mark.parametrize(("words", "said"), [
    (["--quick", "--reference"], "--quick"), (["--max-seconds", "9", "--reference"], "--max-seconds"),
    (["--nets", "21"], "6n+2"), (["machine.precision=tf32"], "tf32"), (["input", "data.rot=/tmp"], "data.root")])
def test_what_is_wrong_is_said_before_anything_runs(made, direct, words, said):
    says(direct("bench", *words), 2, said)
    assert made == []


def test_time_that_is_up_cuts_all_of_it(monkeypatch):
    given = []
    monkeypatch.setattr(bench, "fresh_process", lambda *job: given.append(job[0]) or {"ms": 1.0})
    bench.run_rounds({"a": (), "b": ()}, True, 100.0)
    assert given == sorted(given, reverse=True)
    assert (len(given), given[0] <= 100.0) == (4, True)
    with pytest.raises(ReproError, match="no time"):
        bench.run_rounds({"a": ()}, True, 0.0)
