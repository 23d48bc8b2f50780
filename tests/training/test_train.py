"""The loop: resume bit for bit, stops, divergence, folders, records. On made-up data, on the CPU."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from repro import runs
from repro.devices import resolve, restore_settings
from repro.errors import ConfigError, DivergedError, Stopped, StorageError
from repro.runs import run_folder
from repro.schema import Precision
from repro.stopping import StopRequest
from repro.training import checkpoint, plan, resume, timing, train
from repro.training.checkpoint import Writer
from repro.training.log import RunLog
from repro.training.step import TrainStep
from tests.made import run_config, tiny_config, tiny_data


@pytest.fixture(autouse=True)
def made_up_data(monkeypatch):
    monkeypatch.setattr(train, "load_data", lambda *_: tiny_data())


@pytest.fixture
def stop_at(monkeypatch):
    """Make the next runs stop after so many steps of theirs, as a signal would."""
    def set_limit(steps):
        calls = iter(range(10**6))
        reason = property(lambda self: "SIGTERM" if next(calls) >= steps else None)
        monkeypatch.setattr(StopRequest, "reason", reason)
    return set_limit


def finished_files(run):
    weights = torch.load(run.folder / "weights.pt", weights_only=True)
    return (run.folder / "history.csv").read_bytes(), weights


def same_weights(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """History and weights of an uninterrupted run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "load_data", lambda *_: tiny_data())
        run = run_config(tiny_config(f"results={tmp_path_factory.mktemp('whole')}", "train.warmup=error80",
                                     "train.warmup_window=6"))
        return finished_files(run)


@pytest.mark.parametrize("stops", [[10], [39], [3, 4, 20]])
def test_an_interrupted_run_ends_bit_for_bit_like_one_left_alone(stops, stop_at, whole_run):
    config = tiny_config("train.warmup=error80", "train.warmup_window=6")
    for steps in stops:
        stop_at(steps)
        with pytest.raises(Stopped) as caught:
            run_config(config)
        assert caught.value.exit_code == 75
    stop_at(10**6)
    run = run_config(config)
    history, weights = finished_files(run)
    assert history == whole_run[0]
    assert same_weights(weights, whole_run[1])
    assert len(run.record.sessions) == len(stops) + 1


@pytest.mark.parametrize("lost", ["momentum", "order", "window"])
def test_a_resume_that_forgets_something_is_noticed(lost, stop_at, whole_run, monkeypatch):
    """Negative control: the comparison above can fail."""
    config = tiny_config("train.warmup=error80", "train.warmup_window=6")
    stop_at(5)
    with pytest.raises(Stopped):
        run_config(config)
    stop_at(10**6)
    original = TrainStep.load_state

    def forgetful(step, state):
        original(step, state)
        if lost == "momentum":
            for buffer in step.optimizer.momentum:
                buffer.zero_()
        elif lost == "order":
            step.input.order.seed += 1
        else:
            step.window.fill_(16)

    monkeypatch.setattr(TrainStep, "load_state", forgetful)
    history, weights = finished_files(run_config(config))
    assert history != whole_run[0]
    assert not same_weights(weights, whole_run[1])


def test_two_seeds_differ_and_one_seed_repeats():
    first = finished_files(run_config(tiny_config("train.iterations=10", "results=a")))
    again = finished_files(run_config(tiny_config("train.iterations=10", "results=b")))
    other = finished_files(run_config(tiny_config("train.iterations=10", "seed=1")))
    assert first[0] == again[0]
    assert same_weights(first[1], again[1])
    assert first[0] != other[0]


@pytest.fixture(autouse=True)
def in_tmp(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_the_record_of_a_finished_run():
    run = run_config(tiny_config())
    history = run.history()
    assert [row["iteration"] for row in history] == [10, 20, 30, 40]
    assert [row["learning_rate"] for row in history] == [0.05, 0.05, 0.005, 0.0005]
    assert run.finished
    assert run.record.result["test_top1_error"] == history[-1]["test_top1_error"]
    assert run.record.best_on_test["test_top1_error"] == min(row["test_top1_error"] for row in history)
    assert "train.iterations: 64000 -> 40" in run.record.deviations
    assert not run.is_paper_run
    assert run.folder.parent.name.startswith("cifar_resnet20@")
    assert not list(run.folder.glob("checkpoint*"))
    assert not list(run.folder.glob("run.lock"))
    assert run.record.parameters == sum(v.numel() for k, v in finished_files(run)[1].items()
                                           if "running" not in k and "num_batches" not in k)


def test_a_finished_run_is_not_run_again_and_says_so(caplog):
    run_config(tiny_config("train.iterations=10"))
    run = run_config(tiny_config("train.iterations=10"))
    assert len(run.record.sessions) == 1
    assert "is finished" in caplog.messages[-1]


def test_resume_never_puts_the_earlier_run_aside():
    config = tiny_config("train.iterations=10")
    first = run_config(config)
    again = run_config(tiny_config("train.iterations=10", "resume=never"))
    aside = first.folder.with_name("seed0.old-1")
    assert (aside / "weights.pt").is_file()
    assert again.record.started >= first.record.started
    assert [run.folder for run in runs.scan(first.folder.parents[1])] == [first.folder]


def test_another_configuration_never_writes_into_a_folder(monkeypatch):
    config = tiny_config("train.iterations=10")
    folder = run_config(config).folder
    monkeypatch.setattr(plan, "run_folder", lambda *_: folder)
    with pytest.raises(ConfigError, match=r"train.momentum: 0.9, now 0.8"):
        run_config(tiny_config("train.iterations=10", "train.momentum=0.8"))


@pytest.mark.fault(27)
def test_a_checkpoint_of_another_configuration_is_refused(stop_at):
    stop_at(5)
    with pytest.raises(Stopped):
        run_config(tiny_config())
    with pytest.raises(Stopped):
        run_config(tiny_config("train.momentum=0.8"))
    mine = run_folder(tiny_config())
    other = run_folder(tiny_config("train.momentum=0.8"))
    checkpoint.remove_all(mine)
    for path in other.glob("checkpoint-*"):
        shutil.copy(path, mine)
    with pytest.raises(ConfigError, match=r"train.momentum: 0.8, now 0.9.*resume=never"):
        run_config(tiny_config())


@pytest.mark.fault(30)
def test_divergence_stops_before_the_update_and_is_recorded():
    with pytest.raises(DivergedError, match="not finite") as caught:
        run_config(tiny_config("train.lr=1e30"))
    assert caught.value.exit_code == 6
    run = runs.read_run(run_folder(tiny_config("train.lr=1e30")))
    assert run.status == "diverged"
    assert run.record.diverged.learning_rate == pytest.approx(1e30)
    assert not run.finished


def test_max_seconds_saves_and_stops():
    with pytest.raises(Stopped, match="max_seconds") as caught:
        run_config(tiny_config("max_seconds=0.001"), ["repro", "run", "x y"])
    assert "go on with: repro run 'x y'" in str(caught.value)
    assert caught.value.exit_code == 75
    assert run_config(tiny_config()).finished


def test_an_auto_precision_accepts_a_finished_run_of_the_other_paper_precision(monkeypatch, tmp_path):
    run = run_config(tiny_config("train.iterations=10"))
    record = json.loads((run.folder / "run.json").read_text())
    (run.folder / "run.json").write_text(json.dumps(record | {"identity": "0123456789ab"}))
    monkeypatch.setattr(resume, "paper_hashes", lambda name: {"0123456789ab"})
    asked = replace(plan.plan(tiny_config("train.iterations=10")), is_paper_run=True, asked_precision=Precision.auto)
    resume.check_same(runs.read_run(run.folder), asked)
    with pytest.raises(ConfigError):
        resume.check_same(runs.read_run(run.folder), replace(asked, asked_precision=Precision.fp32))


@pytest.mark.fault(26, 63)
@pytest.mark.parametrize("damage", ["flipped", "iteration", "schema", "deep"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(damage, stop_at, whole_run, caplog):
    config = tiny_config("train.warmup=error80", "train.warmup_window=6")
    stop_at(25)
    with pytest.raises(Stopped):
        run_config(config)
    folder = run_folder(config)
    newest, before = checkpoint.list_checkpoints(folder)
    damage_file(newest, damage)
    stop_at(10**6)
    history, weights = finished_files(run_config(config))
    assert any(newest.name in line and "not used" in line for line in caplog.messages)
    assert before.name < newest.name
    assert history == whole_run[0]
    assert same_weights(weights, whole_run[1])


def damage_file(path, damage):
    if damage == "deep":
        path.with_suffix(".json").write_text("[" * 100_000)
        return
    if damage in ("iteration", "schema"):
        facts = json.loads(path.with_suffix(".json").read_text())
        facts[damage] += 4 if damage != "schema" else -1
        path.with_suffix(".json").write_text(json.dumps(facts))
        return
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


@pytest.mark.fault(26)
def test_no_usable_checkpoint_is_an_error_and_never_a_start_from_scratch(stop_at):
    stop_at(25)
    with pytest.raises(Stopped):
        run_config(tiny_config())
    for path in checkpoint.list_checkpoints(run_folder(tiny_config())):
        damage_file(path, "flipped")
    with pytest.raises(StorageError, match="no usable checkpoint"):
        run_config(tiny_config())


@pytest.mark.fault(28)
def test_a_malicious_checkpoint_is_refused_and_not_executed(tmp_path):
    import hashlib
    import os
    import pickle

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/executed",)

    path = tmp_path / "checkpoint-00000001.pt"
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    path.with_suffix(".json").write_text(json.dumps(
        {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": 1, "iteration": 1}))
    with pytest.raises(StorageError):
        checkpoint.load_newest(tmp_path, torch.device("cpu"))
    assert not (tmp_path / "executed").exists()


def test_tensorboard_has_every_scalar_once_after_a_resume(stop_at):
    config = tiny_config("machine.tensorboard=true")
    stop_at(25)
    with pytest.raises(Stopped):
        run_config(config)
    stop_at(10**6)
    run = run_config(config)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    points = events.Scalars("test_top1_error")
    assert [point.step for point in points] == [10, 20, 30, 40]
    assert [point.value for point in points] == pytest.approx([row["test_top1_error"] for row in run.history()])


def test_the_plateau_rule_drops_the_rate_and_a_resume_knows_of_it(monkeypatch, stop_at, tmp_path):
    from dataclasses import replace
    words = ("data.split=45k", "train.lr_policy=plateau", "train.plateau_patience=1", "train.plateau_threshold=100",
             f"results={tmp_path / 'whole'}")
    monkeypatch.setattr(train, "load_data",
                        lambda *_: replace(tiny_data(), split="45k", evaluated_on="val"))
    whole = run_config(tiny_config(*words))
    assert [row["learning_rate"] for row in whole.history()] == [0.05, 0.05, 0.005, 0.0005]
    config = tiny_config(*words[:-1])
    stop_at(25)
    with pytest.raises(Stopped):
        run_config(config)
    stop_at(10**6)
    resumed = run_config(config)
    assert finished_files(resumed)[0] == finished_files(whole)[0]
    assert same_weights(finished_files(resumed)[1], finished_files(whole)[1])


def test_the_split_45k_writes_validation_columns(monkeypatch):
    from dataclasses import replace
    data = replace(tiny_data(), split="45k", evaluated_on="val")
    monkeypatch.setattr(train, "load_data", lambda *_: data)
    run = run_config(tiny_config("train.iterations=10", "data.split=45k"))
    assert "val_top1_error" in run.record.result
    assert run.record.best_on_test is None
    assert run.record.evaluated_on == "val"


def stopped_run(stop_at, steps, *overrides):
    """The folder of a run that was stopped after so many steps."""
    stop_at(steps)
    with pytest.raises(Stopped):
        run_config(tiny_config(*overrides))
    stop_at(10**6)
    return run_folder(tiny_config(*overrides))


def test_a_run_whose_checkpoints_are_gone_never_starts_over_silently(stop_at):
    checkpoint.remove_all(stopped_run(stop_at, 25))
    with pytest.raises(StorageError, match="checkpoints are gone; resume=never"):
        run_config(tiny_config())
    assert run_config(tiny_config("resume=never")).finished


def test_a_finished_run_with_a_torn_history_is_not_trained_again():
    run = run_config(tiny_config())
    history = run.folder / "history.csv"
    history.write_bytes(history.read_bytes()[:-8])
    with pytest.raises(StorageError, match=r"history.csv does not reach.*resume=never"):
        run_config(tiny_config())


@pytest.mark.parametrize("steps", [25, 10**6])
def test_a_copy_of_another_seeds_folder_is_refused(steps, stop_at):
    stop_at(steps)
    try:
        run_config(tiny_config())
    except Stopped:
        stop_at(10**6)
    folder = run_folder(tiny_config())
    shutil.copytree(folder, folder.with_name("seed1"))
    with pytest.raises(ConfigError, match="seed 0, not 1"):
        run_config(tiny_config("seed=1"))
    (folder.with_name("seed1") / "run.json").unlink()
    if steps == 25:
        with pytest.raises(ConfigError, match="seed: 0, now 1"):
            run_config(tiny_config("seed=1"))


def test_an_edited_history_does_not_count():
    run = run_config(tiny_config())
    history = run.folder / "history.csv"
    rows = history.read_text().splitlines(keepends=True)
    history.write_text("".join([*rows[:2], rows[2].replace("20,0.05,", "20,0.04,", 1), *rows[3:]]))
    assert runs.read_run(run.folder).problem == "history.csv was changed after the run"
    history.write_text("".join([*rows[:2], *rows[3:]]))
    assert runs.read_run(run.folder).problem == "history.csv has not every evaluation once"


def test_a_signal_during_the_last_evaluation_is_not_swallowed(monkeypatch):
    import os
    import signal
    original = train.evaluate

    def evaluate(execution, schedule, done, images):
        if done == schedule.iterations:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(execution, schedule, done, images)

    monkeypatch.setattr(train, "evaluate", evaluate)
    with pytest.raises(Stopped, match="had just finished") as caught:
        run_config(tiny_config())
    assert caught.value.exit_code == 75
    assert runs.read_run(run_folder(tiny_config())).finished


def test_a_run_leaves_torch_as_it_was():
    torch.set_num_threads(1)
    before = torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.fp32_precision, torch.get_num_threads()
    with restore_settings():
        torch.set_num_threads(2)
        run_config(tiny_config("machine.threads=1", "machine.deterministic=true"))
        assert torch.get_num_threads() == 2
        assert not torch.are_deterministic_algorithms_enabled()
    assert before == (torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.fp32_precision,
                      torch.get_num_threads())


def on_a_gpu(monkeypatch, times):
    """machine.channels_last is left open, as on CUDA, and takes these milliseconds; returns what was measured."""
    measured = []

    def update_seconds(channels_last):
        measured.append(channels_last)
        return times[channels_last] / 1000

    monkeypatch.setattr(plan, "resolve", lambda config: timing.with_channels_last(resolve(config), None))
    monkeypatch.setattr(timing, "_formats", {})
    monkeypatch.setattr(timing, "prepare", lambda config: config.machine.channels_last)
    monkeypatch.setattr(timing, "update_seconds", update_seconds)
    return measured


@pytest.mark.parametrize(("times", "faster"), [({False: 2.0, True: 1.5}, True), ({False: 1.0, True: 1.5}, False)])
def test_the_memory_format_is_measured_recorded_and_kept(times, faster, monkeypatch):
    measured = on_a_gpu(monkeypatch, times)
    config = timing.with_channels_last(tiny_config("machine.checkpoint_seconds=1000"), None)
    with pytest.raises(Stopped):
        run_config(replace(config, max_seconds=1e-3))
    assert measured == [False, True]
    record = runs.read_run(runs.run_folder(config)).record
    assert record.config.machine.channels_last is faster
    told = {"contiguous": times[False], "channels_last": times[True]}
    assert record.environment.memory_format_ms == record.sessions[0].memory_format_ms == pytest.approx(told)

    record.iteration = 1  # as after a first update
    runs.write_record(run_folder(config), record)
    on_a_gpu(monkeypatch, {True: times[False], False: times[True]})
    again = run_config(config)
    assert again.record.config.machine.channels_last is faster, "or it would not end bit for bit"
    assert again.record.environment.memory_format_ms == pytest.approx(told)


def test_a_memory_format_that_is_asked_for_is_not_measured(monkeypatch):
    measured = on_a_gpu(monkeypatch, {})
    monkeypatch.setattr(plan, "resolve", resolve)
    run = run_config(tiny_config("machine.channels_last=false"))
    assert run.record.config.machine.channels_last is False
    assert measured == []
    assert run.record.environment.memory_format_ms is None


@pytest.mark.fault(22)
def test_a_signal_while_the_data_are_loaded_stops_before_the_first_step(monkeypatch):
    import os
    import signal

    def load(*_):
        os.kill(os.getpid(), signal.SIGINT)
        return tiny_data()

    with monkeypatch.context() as patch:
        patch.setattr(train, "load_data", load)
        with pytest.raises(Stopped, match="at iteration 0 of 40") as caught:
            run_config(tiny_config())
    assert caught.value.exit_code == 130
    assert run_config(tiny_config()).finished


@pytest.mark.fault(24)
def test_an_ignored_hangup_stays_ignored():
    import signal

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.reason is None
            signal.raise_signal(signal.SIGTERM)
            assert stop.reason == "SIGTERM"
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_command_that_goes_on_does_not_start_over(stop_at):
    stop_at(5)
    with pytest.raises(Stopped) as caught:
        run_config(tiny_config("resume=never"), ["repro", "run", "resume=never", "seed=0"])
    assert str(caught.value).endswith("go on with: repro run seed=0")


def test_checkpoints_are_saved_between_evaluations(monkeypatch):
    saved = []
    original = RunLog.save
    monkeypatch.setattr(RunLog, "save", lambda log, done: (saved.append(done), original(log, done))[1])
    monkeypatch.setattr(Writer, "busy", lambda self: False)  # then the next one waits, and none is left out
    run_config(tiny_config("train.iterations=12", "evaluation.interval=100"))
    assert saved == list(range(1, 13)), "the last one before what is measured of the trained network"


@pytest.mark.fault(19)
def test_tensorboard_that_cannot_be_written_does_not_stop_training(caplog):
    config = tiny_config("machine.tensorboard=true", "train.iterations=10")
    folder = run_folder(config)
    folder.mkdir(parents=True)
    (folder / "tensorboard").write_text("in the way")
    assert run_config(config).finished
    assert "no TensorBoard scalars from here on" in caplog.text
