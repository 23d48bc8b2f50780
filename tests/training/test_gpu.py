"""Training on a CUDA device, against the CPU and against itself. Skipped where there is none."""

from dataclasses import replace

import pytest
import torch

from repro.config import compose
from repro.data.random import permutation
from repro.devices import place, set_up, synchronize
from repro.models import build_model
from repro.schema import Device, Engine, Precision
from repro.training import train
from repro.training.step import Execution, TrainStep
from tests.made import run_config, tiny_config, tiny_data, with_machine
from tests.made_images import SMOKE, make_folder
from tests.training.conftest import make_step, same_end

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]
PRECISIONS = [Precision.fp32, Precision.tf32, Precision.bf16, Precision.fp16]
LENGTH = ["train.warmup=error80", "train.warmup_window=6", "evaluation.gradient_iterations=[1,17,40]",
          "machine.checkpoint_seconds=1000"]


def data_on_gpu(*_):
    data = tiny_data()
    return replace(data, **{name: value.cuda() for name, value in vars(data).items()
                            if isinstance(value, torch.Tensor)})


@pytest.fixture(autouse=True)
def made_up_data(monkeypatch):
    monkeypatch.setattr(train, "load_data", data_on_gpu)


def on_gpu(*overrides, precision=Precision.fp32, way=Engine.graph, deterministic=True):
    config = replace(tiny_config(*overrides), engine=way)
    return with_machine(config, device=Device.cuda, precision=precision, deterministic=deterministic,
                        channels_last=precision in (Precision.bf16, Precision.fp16))


def execute(config):
    device = set_up(config)
    model = place(build_model(config.model, config.seed), config, device).train()
    return Execution(TrainStep(model, data_on_gpu(), config))


def test_the_first_losses_are_those_of_the_cpu(tmp_path):
    length = ["train.iterations=4", "evaluation.interval=1", "train.lr_drops=[2]"]
    gpu = run_config(on_gpu(*length, f"results={tmp_path / 'gpu'}")).history()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "load_data", lambda *_: tiny_data())
        cpu = run_config(tiny_config(*length, f"results={tmp_path / 'cpu'}")).history()
    assert [row["train_loss"] for row in gpu] == pytest.approx([row["train_loss"] for row in cpu], rel=1e-3)


def test_order_and_mini_batches_are_those_of_the_cpu():
    device = torch.device("cuda")
    for epoch in (0, 1, 77):
        assert torch.equal(permutation(50_000, 3, epoch, device).cpu(), permutation(50_000, 3, epoch))
    gpu, cpu = execute(on_gpu(way=Engine.eager)).step, make_step()
    for step in (gpu, cpu):
        step.input.prepare(32)
        step.iteration.fill_(2)
    for left, right in zip(gpu.batch(gpu.iteration), cpu.batch(cpu.iteration), strict=True):
        assert torch.equal(left.cpu(), right)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_graphs_are_the_eager_step_bit_for_bit_in_deterministic_mode(precision, tmp_path):
    runs = [run_config(on_gpu(*LENGTH, f"results={tmp_path / way.name}", precision=precision, way=way))
            for way in (Engine.eager, Engine.graph)]
    assert [run.record.environment.engine for run in runs] == ["eager", "graph"]
    assert same_end(*runs)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_interrupted_run_ends_bit_for_bit_in_deterministic_mode(precision, tmp_path, stop_after):
    whole = run_config(on_gpu(*LENGTH, f"results={tmp_path / 'whole'}", precision=precision))
    config = on_gpu(*LENGTH, f"results={tmp_path / 'parts'}", precision=precision)
    for count in (6, 19):
        stop_after(config, count)
    assert same_end(run_config(config), whole)


@pytest.fixture
def waiting_is_an_error():
    """A call after which the host may not wait for the device."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore")  # that this mode is a prototype
@pytest.mark.parametrize("way", [Engine.eager, Engine.graph])
def test_the_host_waits_for_nothing_between_updates(way, waiting_is_an_error):
    one = execute(on_gpu(*LENGTH, way=way, deterministic=False))
    one.advance(10)
    synchronize(one.step.device)
    waiting_is_an_error()
    one.advance(25)  # over the end of a pass
    permutation(50_000, 0, 1, one.step.device)
    with pytest.raises(RuntimeError, match="synchroniz"):
        float(one.step.last_loss)


def test_a_checkpoint_is_of_the_moment_though_the_host_runs_ahead(tmp_path):
    words = (*LENGTH, "machine.checkpoint_seconds=0.01")
    whole = run_config(on_gpu(*words, f"results={tmp_path / 'whole'}"))
    config = on_gpu(*words, f"results={tmp_path / 'parts'}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "finish", None)
        with pytest.raises(TypeError):
            run_config(config)
    assert same_end(run_config(config), whole)


def smoke(images, results, *overrides):
    return compose(["experiment=imagenet_optB", *(word for word in SMOKE if word != "machine.device=cpu"),
                    "machine.device=cuda", "machine.precision=fp32", "machine.deterministic=true",
                    "machine.channels_last=false",
                    f"data.root={images}", f"results={results}", "train.iterations=6", "train.lr_drops=[4]",
                    "evaluation.interval=2", *overrides])


def test_images_from_files_train_the_same_captured_and_operation_by_operation(tmp_path):
    images = make_folder(tmp_path / "set")
    runs = [run_config(smoke(images, tmp_path / way, f"engine={way}")) for way in ("graph", "eager")]
    assert [run.record.environment.engine for run in runs] == ["graph", "eager"]
    assert (runs[0].folder / "history.csv").read_bytes() == (runs[1].folder / "history.csv").read_bytes()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices here")
def test_two_gpus_share_the_statistics_of_a_whole_mini_batch(tmp_path):
    images = make_folder(tmp_path / "set")
    words = ("train.batch_norm_group=16", "train.lr=1e-5", "engine=eager")
    one = run_config(smoke(images, tmp_path / "one", *words)).history()
    two = run_config(smoke(images, tmp_path / "two", *words, "devices=2")).history()
    for left, right in zip(two, one, strict=True):
        assert left["train_loss"] == pytest.approx(right["train_loss"], rel=1e-4)
        assert left["val_loss"] == pytest.approx(right["val_loss"], rel=1e-3)
