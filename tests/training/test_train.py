"""The loop: resume bit for bit, stops, divergence, folders, records, what is measured at the end. On the CPU."""

import os
import shutil
import signal
from dataclasses import replace

import msgspec
import pytest
import torch

from repro.config import compose
from repro.devices import restore_settings, set_tf32
from repro.errors import ConfigError, DataError, DivergedError, Stopped, StorageError
from repro.evaluation import metrics
from repro.evaluation.metrics import evaluate_on
from repro.files import file_sha256, read_rows, write_json
from repro.models import build_model
from repro.runs import Provenance, read_run, run_folder, scan
from repro.training import checkpoint, distributed, train
from repro.training.log import RunLog
from repro.training.step import Execution, TrainStep
from repro.weights import load_weights
from tests.made import run_config, tiny_config, tiny_data
from tests.training.conftest import WORDS, same_end, weights_of

pytestmark = pytest.mark.usefixtures("made_up")
SHORT = ("train.iterations=6", "train.lr_drops=[4]", "evaluation.interval=3", "machine.checkpoint_seconds=1000",
         "evaluation.responses=false", "evaluation.batch_norm_images=0")


@pytest.mark.parametrize("stops", [[4], [3, 2, 10]])
def test_an_interrupted_run_ends_bit_for_bit_like_one_left_alone(stops, stop_after, alone):
    config = tiny_config(*WORDS)
    for steps in stops:
        stop_after(config, steps)
    run = run_config(config)
    assert same_end(run, alone)
    assert len(run.record.sessions) == len(stops) + 1


def test_a_resume_that_forgets_the_momentum_is_noticed(stop_after, alone, monkeypatch):
    config, original = tiny_config(*WORDS), TrainStep.load_state
    stop_after(config, 2)

    def forgetful(step, state):
        original(step, state | {"momentum": [torch.zeros_like(buffer) for buffer in state["momentum"]]})

    monkeypatch.setattr(TrainStep, "load_state", forgetful)
    assert not same_end(run_config(config), alone)


def test_the_record_of_a_finished_run(alone):
    history, record = alone.history(), alone.record
    assert [row["iteration"] for row in history] == [4, 8, 12, 16]
    assert [row["learning_rate"] for row in history][1:] == [0.05, 0.005, 0.0005]
    assert alone.finished
    assert 3 <= record.warmup_end < 8
    assert record.result["test_top1_error"] == history[-1]["test_top1_error"]
    assert record.best_on_test["test_top1_error"] == min(row["test_top1_error"] for row in history)
    assert "train.iterations: 64000 -> 16" in record.deviations
    assert {path.name for path in alone.folder.iterdir()} == {
        "config.yaml", "run.json", "history.csv", "timing.csv", "gradients.csv", "responses.csv", "weights.pt"}
    assert record.parameters == sum(value.numel() for name, value in weights_of(alone).items()
                                    if "running" not in name and "num_batches" not in name)


def test_a_finished_run_is_not_run_again_until_it_is_put_aside(caplog):
    first = run_config(tiny_config(*SHORT))
    assert len(run_config(tiny_config(*SHORT)).record.sessions) == 1
    assert "is finished" in caplog.messages[-1]
    assert run_config(tiny_config(*SHORT, "resume=never")).folder == first.folder
    assert (first.folder.with_name("seed0.old-1") / "weights.pt").is_file()
    assert len(scan(first.folder.parents[1])) == 1


@pytest.mark.fault(27)
def test_a_checkpoint_or_a_run_of_another_configuration_is_refused(stop_after, monkeypatch):
    ours, other = tiny_config(*SHORT), tiny_config(*SHORT, "train.momentum=0.8")
    stop_after(other, 2)
    run_folder(ours).mkdir(parents=True)
    for path in run_folder(other).glob("checkpoint-*"):
        shutil.copy(path, run_folder(ours))
    with pytest.raises(ConfigError, match=r"train.momentum: 0.8, now 0.9.*resume=never"):
        run_config(ours)
    monkeypatch.setattr(distributed, "run_folder", lambda *_: run_folder(other))
    with pytest.raises(ConfigError, match=r"holds another run \(train.momentum: 0.8, now 0.9\); resume=never"):
        run_config(ours)
    with pytest.raises(ConfigError, match=r"holds another run \(seed: 0, now 1\)"):
        run_config(tiny_config(*SHORT, "train.momentum=0.8", "seed=1"))


def test_a_paper_run_in_fp32_answers_a_request_that_left_the_precision_open(monkeypatch):
    run = run_config(tiny_config(*SHORT))
    run.record.identity = "0123456789ab"
    write_json(run.folder / "run.json", msgspec.to_builtins(run.record))
    monkeypatch.setattr(checkpoint, "paper_hashes", lambda name: {"0123456789ab"})
    asked = replace(distributed.plan(tiny_config(*SHORT)), any_paper_precision=True)
    assert checkpoint.previous_run(asked).finished
    with pytest.raises(ConfigError, match="holds another run"):
        checkpoint.previous_run(replace(asked, any_paper_precision=False))
    paper = ["experiment=cifar_resnet20", "machine.device=cpu"]
    for words, answer in (([], True), (["machine.precision=fp32"], False), (["train.lr=0.2"], False)):
        assert distributed.plan(compose([*paper, *words])).any_paper_precision is answer


def test_a_run_in_progress_of_an_earlier_version_goes_on(stop_after, alone, monkeypatch):
    config, state = tiny_config(*WORDS), TrainStep.state
    with monkeypatch.context() as patch:  # its checkpoints had one counter more
        patch.setattr(TrainStep, "state", lambda step: (kept := state(step)) | {
            "counters": kept["counters"] | {"bad_loss": torch.zeros(())}})
        stop_after(config, 5)
    assert same_end(run_config(config), alone)


@pytest.mark.fault(30)
def test_divergence_stops_before_the_update_and_is_recorded():
    config = tiny_config(*SHORT, "train.lr=1e30")
    for _ in range(2):  # the same command says so again: without a checkpoint it begins anew
        with pytest.raises(DivergedError, match=r"not finite at iteration \d+ \(lr 1e\+30, last finite"):
            run_config(config)
    run = read_run(run_folder(config))
    assert (run.status, run.finished) == ("diverged", False)
    assert run.record.diverged["learning_rate"] == pytest.approx(1e30)


def test_a_state_that_diverged_is_never_saved(monkeypatch):
    config = tiny_config(*SHORT, "train.lr=1e30", "machine.checkpoint_seconds=0")
    monkeypatch.setattr(RunLog, "advanced", lambda log: None)  # on a GPU the host looks at the losses now and then
    with pytest.raises(DivergedError):
        run_config(config)
    assert [path.name for path in checkpoint.list_checkpoints(run_folder(config))] == ["checkpoint-00000001.pt"]


def test_training_loss_and_error_are_those_since_the_row_before_also_at_the_end():
    config = tiny_config("train.iterations=6", "train.lr_drops=[4]", "evaluation.interval=4")
    execution = Execution(TrainStep(build_model(config.model), tiny_data(), config))
    execution.step.loss_sum.fill_(3)
    execution.step.error_count.fill_(8)
    for done, loss, error in ((4, 0.75, 12.5), (6, 1.5, 25.0)):  # of 4 mini-batches of 16, and of 2
        execution.done = done
        row = train.evaluate(execution)
        assert (row["train_loss"], row["train_top1_error"]) == (loss, error)


def test_max_seconds_saves_and_stops():
    with pytest.raises(Stopped, match="max_seconds") as caught:
        run_config(tiny_config(*SHORT, "max_seconds=0.001"), ["repro", "run", "x y", "resume=never"])
    assert str(caught.value).endswith("go on with: repro run 'x y'"), "resume=never would begin anew"
    assert read_run(run_folder(tiny_config(*SHORT))).status == "interrupted"
    assert run_config(tiny_config(*SHORT)).finished


@pytest.mark.fault(26, 63)
def test_a_checkpoint_with_a_changed_number_falls_back_to_the_one_before(stop_after, alone, caplog):
    config = tiny_config(*WORDS, "machine.checkpoint_seconds=0")
    stop_after(config, 10)
    newest, _ = checkpoint.list_checkpoints(run_folder(config))
    facts = newest.with_suffix(".json")
    facts.write_text(facts.read_text().replace('"iteration": 10', '"iteration": 11'))
    assert same_end(run_config(config), alone)
    assert any(newest.name in line and "not used" in line for line in caplog.messages)


@pytest.mark.fault(26)
def test_never_silently_from_scratch(stop_after):
    config = tiny_config(*SHORT)
    stop_after(config, 2)
    for path in checkpoint.list_checkpoints(run_folder(config)):
        path.write_bytes(b"")
    with pytest.raises(StorageError, match="no usable checkpoint is left; resume=never"):
        run_config(config)
    checkpoint.remove_all(run_folder(config))
    with pytest.raises(StorageError, match="checkpoints are gone; resume=never"):
        run_config(config)
    run = run_config(tiny_config(*SHORT, "resume=never"))
    (run.folder / "history.csv").write_bytes((run.folder / "history.csv").read_bytes()[:-8])
    with pytest.raises(StorageError, match=r"history.csv has not every evaluation.*resume=never"):
        run_config(config)


def test_tensorboard_has_every_scalar_once_after_a_resume(stop_after):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    config = tiny_config(*WORDS, "machine.tensorboard=true", "machine.checkpoint_seconds=0")
    stop_after(config, 8)
    checkpoint.list_checkpoints(run_folder(config))[0].with_suffix(".json").unlink()  # the test at 8 comes again
    events, = (run_folder(config) / "tensorboard").iterdir()
    events.rename(events.with_name("events.out.tfevents.0"))  # reads first, also if both sessions begin in one second
    run = run_config(config)
    points = EventAccumulator(str(run.folder / "tensorboard")).Reload().Scalars("test_top1_error")
    assert [point.step for point in points] == [4, 8, 12, 16]
    assert [point.value for point in points] == pytest.approx([row["test_top1_error"] for row in run.history()])


def test_the_plateau_rule_drops_the_rate_and_a_resume_knows_of_it(monkeypatch, stop_after, tmp_path):
    words = ("data.split=45k", "train.lr_policy=plateau", "train.plateau_patience=1", "train.plateau_threshold=100",
             *WORDS[:1], *WORDS[2:3])
    monkeypatch.setattr(train, "load_data", lambda *_: replace(tiny_data(), split="45k", evaluated_on="val"))
    whole = run_config(tiny_config(*words, f"results={tmp_path / 'whole'}"))
    assert [row["learning_rate"] for row in whole.history()] == [0.05, 0.05, 0.005, 0.0005]
    assert (whole.record.evaluated_on, whole.record.best_on_test) == ("val", None)
    assert {"val_top1_error", "val_loss"} < whole.record.result.keys()
    stop_after(tiny_config(*words), 9)
    assert same_end(run_config(tiny_config(*words)), whole)


def test_a_run_does_not_go_on_with_other_images(stop_after, monkeypatch):
    config = tiny_config(*SHORT)
    stop_after(config, 3)
    monkeypatch.setattr(train, "load_data", lambda *_: replace(tiny_data(), sha256="another"))
    with pytest.raises(DataError, match="another set of images until iteration 3"):
        run_config(config)


@pytest.mark.fault(22)
def test_a_signal_is_heeded_before_the_first_step_and_after_the_last(monkeypatch):
    evaluate = train.evaluate

    def load(*_):
        os.kill(os.getpid(), signal.SIGINT)
        return tiny_data()

    def last(execution):
        if execution.done == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(execution)

    with monkeypatch.context() as patch:
        patch.setattr(train, "load_data", load)
        with pytest.raises(Stopped, match="SIGINT at iteration 0 of 6") as caught:
            run_config(tiny_config(*SHORT))
    assert caught.value.exit_code == 130
    monkeypatch.setattr(train, "evaluate", last)
    with pytest.raises(Stopped, match="had just finished") as caught:
        run_config(tiny_config(*SHORT))
    assert caught.value.exit_code == 75
    assert read_run(run_folder(tiny_config(*SHORT))).finished


def test_a_run_leaves_torch_as_it_was():
    with restore_settings():
        torch.set_num_threads(2)
        run_config(tiny_config(*SHORT, "machine.threads=1", "machine.deterministic=true"))
        assert torch.get_num_threads() == 2
        assert not torch.are_deterministic_algorithms_enabled()


def test_checkpoints_are_saved_between_evaluations(monkeypatch):
    saved, save = [], RunLog.save
    monkeypatch.setattr(RunLog, "save", lambda log: (saved.append(log.execution.done), save(log))[1])
    run_config(tiny_config(*SHORT, "evaluation.interval=100", "machine.checkpoint_seconds=0"))
    assert saved == [1, 2, 3, 4, 5], "the last state is in weights.pt"


# ---- what is measured once of a trained network


def trained(run) -> torch.nn.Module:
    return load_weights(build_model(run.record.config.model), run.folder / "weights.pt")


def test_the_record_has_the_error_with_statistics_averaged_over_the_mini_batches_that_would_follow(alone):
    config = tiny_config(*WORDS)
    step = TrainStep(trained(alone), tiny_data(), config)
    assert alone.record.result["test_top1_error"] == evaluate_on(step.model, tiny_data(), config).top1_error
    step.iteration.fill_(16)
    outcome = evaluate_on(metrics.with_averaged_statistics(step.model, step.coming_batches(2)), tiny_data(), config)
    assert alone.record.recomputed_batch_norm == {
        "images": 32, "test_top1_error": outcome.top1_error, "test_loss": pytest.approx(outcome.loss)}


def test_what_is_measured_changes_no_result_and_responses_can_be_measured_later(alone):
    plain = run_config(tiny_config(*WORDS, "evaluation.batch_norm_images=0", "evaluation.responses=false",
                                   "evaluation.gradient_iterations=[]"))
    record = plain.record
    assert (record.responses, record.recomputed_batch_norm, record.gradients_sha256) == (None, None, None)
    assert not (plain.folder / "gradients.csv").exists()
    assert plain.identity == alone.identity
    assert same_end(alone, plain)
    train.add_responses(plain, ["machine.device=cpu"])
    again = read_run(plain.folder)
    assert (plain.folder / "responses.csv").read_bytes() == (alone.folder / "responses.csv").read_bytes()
    assert again.finished
    assert again.record.responses.sha256 == alone.record.responses.sha256
    (plain.folder / "weights.pt").unlink()
    with pytest.raises(StorageError, match=r"can't read .*weights.pt"):
        train.add_responses(again, [])
    (plain.folder / "history.csv").write_text("iteration\n")
    with pytest.raises(ConfigError, match="of finished runs"):
        train.add_responses(read_run(plain.folder), [])


def test_responses_are_measured_in_fp32_whatever_the_run_computes_in(monkeypatch, tmp_path):
    def responses(*_):
        assert torch.backends.cuda.matmul.fp32_precision == torch.backends.cudnn.conv.fp32_precision == "ieee"
        return [(1, "conv1", 16, 0.0, 1.0)]

    monkeypatch.setattr(metrics, "layer_responses", responses)
    with restore_settings():
        set_tf32(True)
        train.measure_responses(torch.nn.Identity(), tiny_data(), tiny_config(), tmp_path)
        assert torch.backends.cudnn.conv.fp32_precision == "tf32", "as it was"
    assert (tmp_path / "responses.csv").is_file()


def test_responses_and_gradients_lie_beside_the_record(alone):
    responses, gradients = (read_rows(alone.folder / f"{name}.csv") for name in ("responses", "gradients"))
    assert [row["layer"] for row in responses] == [str(number) for number in range(1, 8)]
    assert all(float(row["std"]) > 0 for row in responses)
    assert alone.record.responses == Provenance(images=30, evaluated_on="test", precision="fp32",
                                                sha256=file_sha256(alone.folder / "responses.csv"))
    assert [int(row["iteration"]) for row in gradients] == [1] * 8 + [7] * 8 + [16] * 8
    assert alone.record.gradients_sha256 == file_sha256(alone.folder / "gradients.csv")
    config = tiny_config(*WORDS)  # the first is that of the first mini-batch: recomputed in float64 without the step
    model = build_model(config.model)
    step = TrainStep(model, tiny_data(), config)
    step.input.prepare(0)
    images, labels = step.batch(step.iteration)
    model.double()
    torch.nn.functional.cross_entropy(model(images.double()), labels).backward()
    for row in gradients[:8]:
        norm = float(torch.linalg.vector_norm(model.get_submodule(row["name"]).weight.grad))
        assert float(row["norm"]) == pytest.approx(norm, rel=1e-3)


def test_a_run_that_is_killed_while_it_is_measured_trains_no_step_again(monkeypatch, alone):
    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "measure_responses", killed)
        with pytest.raises(KeyboardInterrupt):
            run_config(tiny_config(*WORDS))
    monkeypatch.setattr(TrainStep, "__call__", None)
    run = run_config(tiny_config(*WORDS))
    assert same_end(run, alone)
    assert run.record.responses == alone.record.responses
