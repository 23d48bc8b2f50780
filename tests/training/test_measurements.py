"""What is measured once of a trained network: statistics, responses, gradients. On made-up data, on the CPU."""

import csv

import pytest
import torch

from repro.data.cifar10 import DeviceData
from repro.devices import restore_settings, set_tf32
from repro.errors import ConfigError, Stopped, StorageError
from repro.evaluation.metrics import evaluate_on
from repro.files import file_sha256
from repro.models import build_model
from repro.record import Responses
from repro.runs import read_run, run_folder
from repro.stopping import StopRequest
from repro.training import measurements, train
from repro.training.step import TrainStep
from repro.weights import load_weights
from tests.made import run_config, tiny_config, tiny_data


@pytest.fixture(autouse=True)
def made_up_data(monkeypatch):
    monkeypatch.setattr(train, "load_data", lambda *_: tiny_data())
    monkeypatch.setattr(measurements, "load_arrays", lambda config: None)
    monkeypatch.setattr(measurements, "on_device", lambda arrays, config, device: tiny_data())


def finished(*overrides: str):
    return run_config(tiny_config("evaluation.gradient_iterations=[1,5,40]", *overrides))


def trained(run) -> torch.nn.Module:
    return load_weights(build_model(run.record.config.model), run.folder / "weights.pt")


def test_the_record_has_the_error_with_averaged_statistics(monkeypatch):
    """Recomputed here: two mini-batches that follow the last iteration, each normalized by itself."""
    seen: list[torch.Tensor] = []
    original = TrainStep.coming_batches

    def remember(step: TrainStep, count: int):
        for images in original(step, count):
            seen.append(images.clone())
            yield images

    monkeypatch.setattr(TrainStep, "coming_batches", remember)
    run = finished()
    found = run.record.recomputed_batch_norm
    assert found["images"] == 32 == sum(len(images) for images in seen)
    model = trained(run)
    assert run.record.result["test_top1_error"] == evaluate_on(model, tiny_data(), tiny_config()).top1_error
    sums = {name: 0.0 for name, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    squares = dict(sums)
    model.train()
    for name, module in model.named_modules():
        if name in sums:
            module.momentum = 1.0  # the running statistics are those of the last batch
    for images in seen:
        with torch.no_grad():
            model(images)
        for name in sums:
            module = model.get_submodule(name)
            sums[name] = sums[name] + module.running_mean.double() / len(seen)
            squares[name] = squares[name] + module.running_var.double() / len(seen)
    for name in sums:
        module = model.get_submodule(name)
        module.running_mean.copy_(sums[name])
        module.running_var.copy_(squares[name])
    outcome = evaluate_on(model, tiny_data(), tiny_config())
    assert found["test_top1_error"] == outcome.top1_error
    assert found["test_loss"] == pytest.approx(outcome.loss, rel=1e-5)


def test_the_batches_are_those_that_would_come_next(monkeypatch):
    """The run goes on with them if it is made longer; the order moves on with the last pass."""
    whole = TrainStep.batch
    seen: dict[int, torch.Tensor] = {}

    def remember(step, iteration=None, count=1):
        images, labels = whole(step, iteration, count)
        seen[int(step.iteration if iteration is None else iteration)] = images.clone()
        return images, labels

    monkeypatch.setattr(TrainStep, "batch", remember)
    finished("train.iterations=20")
    coming = {number: seen[number] for number in (20, 21)}
    finished("train.iterations=22", "evaluation.batch_norm_images=0", "seed=0")
    assert all(torch.equal(coming[number], seen[number]) for number in coming)


def test_what_is_measured_changes_no_result(tmp_path):
    plain = finished("evaluation.batch_norm_images=0", "evaluation.responses=false",
                     "evaluation.gradient_iterations=[]", f"results={tmp_path / 'plain'}")
    record = plain.record
    assert (record.responses, record.recomputed_batch_norm, record.gradients_sha256) == (None, None, None)
    assert not (plain.folder / "gradients.csv").exists()
    measured = finished()
    assert measured.identity == plain.identity
    assert (measured.folder / "history.csv").read_bytes() == (plain.folder / "history.csv").read_bytes()
    left, right = trained(measured).state_dict(), trained(plain).state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_responses_are_measured_in_fp32_whatever_the_run_computes_in(monkeypatch, tmp_path):
    """The flags are there without a GPU too."""
    seen = []
    original = measurements.layer_responses

    def watched(*arguments):
        seen.append((torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision))
        return original(*arguments)

    monkeypatch.setattr(measurements, "layer_responses", watched)
    with restore_settings():
        set_tf32(True)
        measurements.measure_responses(build_model(tiny_config().model), tiny_data(), tiny_config(), tmp_path)
        assert torch.backends.cudnn.conv.fp32_precision == "tf32", "as it was"
    assert seen == [("ieee", "ieee")]


def test_responses_lie_beside_the_record():
    run = finished()
    rows = run.responses()
    assert [row["layer"] for row in rows] == [str(number) for number in range(1, 8)]
    assert all(float(row["std"]) > 0 for row in rows)
    assert run.record.responses == Responses(images=30, evaluated_on="test", precision="fp32",
                                             sha256=file_sha256(run.folder / "responses.csv"))


def test_gradients_are_recorded_at_the_chosen_updates():
    run = finished()
    rows = run.gradients()
    assert [int(row["iteration"]) for row in rows] == [1] * 8 + [5] * 8 + [40] * 8
    assert [row["name"] for row in rows[:8]] == [row["name"] for row in rows[8:16]]
    assert all(float(row["norm"]) > 0 for row in rows)
    assert run.record.gradients_sha256 == file_sha256(run.folder / "gradients.csv")


def test_the_first_gradient_is_that_of_the_first_mini_batch(monkeypatch):
    """Recomputed in float64 without the step."""
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    whole = TrainStep.batch

    def keep(step, iteration=None, count=1):
        kept.append(whole(step, iteration, count))
        return kept[-1]

    monkeypatch.setattr(TrainStep, "batch", keep)
    run = finished("train.iterations=1")
    model = build_model(tiny_config().model).double()
    images, labels = kept[0]
    torch.nn.functional.cross_entropy(model(images.double()), labels).backward()
    for row in run.gradients():
        norm = float(torch.linalg.vector_norm(model.get_submodule(row["name"]).weight.grad))
        assert float(row["norm"]) == pytest.approx(norm, rel=1e-3)


def test_lengths_are_scaled_like_all_others():
    run = run_config(tiny_config("scale=0.5", "evaluation.gradient_iterations=[1,40]"))
    assert sorted({int(row["iteration"]) for row in run.gradients()}) == [1, 20]


def test_an_interrupted_run_has_each_gradient_once(monkeypatch, tmp_path):
    expected = (finished(f"results={tmp_path / 'whole'}").folder / "gradients.csv").read_bytes()
    calls = iter(range(10**6))
    reason = property(lambda self: "SIGTERM" if next(calls) >= 17 else None)
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "reason", reason)
        with pytest.raises(Stopped):
            finished()
    with (run_folder(tiny_config()) / "gradients.csv").open("a") as file:  # past the checkpoint
        csv.writer(file, lineterminator="\n").writerow([18, 1, "conv1", 1.0])
    run = finished()
    assert (run.folder / "gradients.csv").read_bytes() == expected


def test_a_run_that_is_killed_while_it_is_measured_trains_no_step_again(monkeypatch, tmp_path):
    expected = finished(f"results={tmp_path / 'whole'}")

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "final_measurements", killed)
    with pytest.raises(KeyboardInterrupt):
        finished()
    monkeypatch.setattr(train, "final_measurements", measurements.final_measurements)
    steps: list[int] = []
    original = TrainStep.__call__
    monkeypatch.setattr(TrainStep, "__call__", lambda step: steps.append(1) or original(step))
    run = finished()
    assert not steps
    assert run.record.result == expected.record.result
    assert run.record.responses == expected.record.responses
    assert (run.folder / "history.csv").read_bytes() == (expected.folder / "history.csv").read_bytes()


def test_responses_can_be_measured_later_from_the_weights(tmp_path, caplog):
    expected = (finished(f"results={tmp_path / 'whole'}").folder / "responses.csv").read_bytes()
    run = finished("evaluation.responses=false")
    assert run.responses() == []
    measurements.add_responses(run, ["machine.device=cpu"])
    again = read_run(run.folder)
    assert (run.folder / "responses.csv").read_bytes() == expected
    assert again.record.responses.sha256 == file_sha256(run.folder / "responses.csv")
    assert again.finished
    assert "responses.csv" in caplog.messages[-1]


def test_responses_need_a_finished_run_and_its_weights():
    run = finished("evaluation.responses=false")
    (run.folder / "weights.pt").unlink()
    with pytest.raises(StorageError, match=r"no file .*weights.pt"):
        measurements.add_responses(run, [])
    (run.folder / "history.csv").write_text("iteration\n")
    with pytest.raises(ConfigError, match="is not finished"):
        measurements.add_responses(read_run(run.folder), [])


def test_the_record_of_another_option_gives_its_own_network():
    run = finished("model.shortcut_option=B", "evaluation.responses=false")
    measurements.add_responses(run, [])
    assert len(read_run(run.folder).responses()) == 7


def test_validation_images_are_named(monkeypatch):
    held_out = tiny_data()
    data = DeviceData(**{**held_out.__dict__, "evaluated_on": "val"})
    monkeypatch.setattr(train, "load_data", lambda *_: data)
    run = finished()
    assert {"val_top1_error", "val_loss", "images"} == run.record.recomputed_batch_norm.keys()
    assert run.record.responses.evaluated_on == "val"
