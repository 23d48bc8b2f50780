"""What is measured once of a trained network: statistics, responses, gradients. On made-up data, on the CPU."""

import shutil

import pytest
import torch

from repro.devices import restore_settings, set_tf32
from repro.errors import ConfigError, StorageError
from repro.evaluation.metrics import evaluate_on
from repro.files import file_sha256, read_rows
from repro.models import build_model
from repro.runs import Provenance, read_run
from repro.training import measurements, train
from repro.training.step import TrainStep
from repro.weights import load_weights
from tests.made import run_config, tiny_config, tiny_data
from tests.training.conftest import WORDS, same_end

pytestmark = pytest.mark.usefixtures("made_up")
ONE = (*WORDS, "train.iterations=1", "evaluation.responses=false")


def trained(run) -> torch.nn.Module:
    return load_weights(build_model(run.record.config.model), run.folder / "weights.pt")


def test_the_record_has_the_error_with_averaged_statistics(alone):
    """Recomputed here: two mini-batches that follow the last iteration, each normalized by itself."""
    config, found = tiny_config(*WORDS), alone.record.recomputed_batch_norm
    step = TrainStep(trained(alone), tiny_data(), config)
    step.iteration.fill_(16)
    batches = list(step.coming_batches(2))
    assert found["images"] == 32 == sum(map(len, batches))
    model = trained(alone)
    assert alone.record.result["test_top1_error"] == evaluate_on(model, tiny_data(), config).top1_error
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    averages = [[0.0, 0.0] for _ in norms]
    model.train()
    for images in batches:
        with torch.no_grad():
            model(images)
        for average, norm in zip(averages, norms, strict=True):
            average[0] = average[0] + norm.running_mean.double() / 2
            average[1] = average[1] + norm.running_var.double() / 2
    for average, norm in zip(averages, norms, strict=True):
        norm.running_mean.copy_(average[0])
        norm.running_var.copy_(average[1])
    outcome = evaluate_on(model, tiny_data(), config)
    assert found["test_top1_error"] == outcome.top1_error
    assert found["test_loss"] == pytest.approx(outcome.loss, rel=1e-5)


def test_what_is_measured_changes_no_result(alone):
    plain = run_config(tiny_config(*WORDS, "evaluation.batch_norm_images=0", "evaluation.responses=false",
                                   "evaluation.gradient_iterations=[]"))
    record = plain.record
    assert (record.responses, record.recomputed_batch_norm, record.gradients_sha256) == (None, None, None)
    assert not (plain.folder / "gradients.csv").exists()
    assert plain.identity == alone.identity
    assert same_end(alone, plain)


def test_responses_are_measured_in_fp32_whatever_the_run_computes_in(monkeypatch, tmp_path):
    """The flags are there without a GPU too."""
    seen, original = [], measurements.layer_responses

    def watched(*arguments):
        seen.append((torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision))
        return original(*arguments)

    monkeypatch.setattr(measurements, "layer_responses", watched)
    with restore_settings():
        set_tf32(True)
        measurements.measure_responses(build_model(tiny_config().model), tiny_data(), tiny_config(), tmp_path)
        assert torch.backends.cudnn.conv.fp32_precision == "tf32", "as it was"
    assert seen == [("ieee", "ieee")]


def test_responses_and_gradients_lie_beside_the_record(alone):
    responses, gradients = (read_rows(alone.folder / f"{name}.csv") for name in ("responses", "gradients"))
    assert [row["layer"] for row in responses] == [str(number) for number in range(1, 8)]
    assert all(float(row["std"]) > 0 for row in responses)
    assert alone.record.responses == Provenance(images=30, evaluated_on="test", precision="fp32",
                                               sha256=file_sha256(alone.folder / "responses.csv"))
    assert [int(row["iteration"]) for row in gradients] == [1] * 8 + [7] * 8 + [16] * 8
    assert all(float(row["norm"]) > 0 for row in gradients)
    assert alone.record.gradients_sha256 == file_sha256(alone.folder / "gradients.csv")


def test_the_first_gradient_is_that_of_the_first_mini_batch():
    """Recomputed in float64 without the step."""
    run, config = run_config(tiny_config(*ONE)), tiny_config(*ONE)
    model = build_model(config.model)
    step = TrainStep(model, tiny_data(), config)
    step.input.prepare(0)
    images, labels = step.batch(step.iteration)
    model.double()
    torch.nn.functional.cross_entropy(model(images.double()), labels).backward()
    for row in read_rows(run.folder / "gradients.csv"):
        norm = float(torch.linalg.vector_norm(model.get_submodule(row["name"]).weight.grad))
        assert float(row["norm"]) == pytest.approx(norm, rel=1e-3)


def test_a_run_that_is_killed_while_it_is_measured_trains_no_step_again(monkeypatch, alone):
    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "final_measurements", killed)
        with pytest.raises(KeyboardInterrupt):
            run_config(tiny_config(*WORDS))
    monkeypatch.setattr(TrainStep, "__call__", None)
    run = run_config(tiny_config(*WORDS))
    assert same_end(run, alone)
    assert run.record.responses == alone.record.responses


def test_responses_can_be_measured_later_from_the_weights(tmp_path, alone):
    run = run_config(tiny_config(*WORDS, "evaluation.responses=false"))
    assert read_rows(run.folder / "responses.csv") == []
    measurements.add_responses(run, ["machine.device=cpu"])
    again = read_run(run.folder)
    assert (run.folder / "responses.csv").read_bytes() == (alone.folder / "responses.csv").read_bytes()
    assert again.record.responses.sha256 == file_sha256(run.folder / "responses.csv")
    assert again.finished


def test_responses_need_a_finished_run_and_its_weights(alone, tmp_path):
    shutil.copytree(alone.folder, tmp_path / "seed0")
    (tmp_path / "seed0" / "weights.pt").unlink()
    with pytest.raises(StorageError, match=r"can't read .*weights.pt"):
        measurements.add_responses(read_run(tmp_path / "seed0"), [])
    (tmp_path / "seed0" / "history.csv").write_text("iteration\n")
    with pytest.raises(ConfigError, match="of finished runs"):
        measurements.add_responses(read_run(tmp_path / "seed0"), [])
