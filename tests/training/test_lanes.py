"""Several runs that take turns: each like the same run alone, and none harmed by another. On made-up data."""

import gc
import weakref

import pytest
import torch

from repro.errors import CaptureError, DivergedError, InUseError, OutOfMemoryError, Stopped, StorageError
from repro.runs import hold_lock, read_run, run_folder
from repro.stopping import StopRequest
from repro.training import engine, lanes
from repro.training.execution import Execution
from tests.made import tiny_config, tiny_data
from tests.training.tape import use_tapes

COMMAND = ["repro", "suite", "x"]
FEW_FILES = ["machine.checkpoint_seconds=60", "train.iterations=20", "train.lr_drops=[8,16]", "evaluation.interval=5",
             "evaluation.gradient_iterations=[3]", "evaluation.responses=false"]


@pytest.fixture(autouse=True)
def made_up_data(monkeypatch, tmp_path):
    monkeypatch.setattr(engine, "load_data", lambda config, device: tiny_data())
    monkeypatch.chdir(tmp_path)


def configs(*each, results="results"):
    """A tiny run for each text of overrides, seeds 0, 1, ..."""
    return [tiny_config(f"seed={seed}", f"results={results}", *FEW_FILES, *text.split())
            for seed, text in enumerate(each)]


def run_together(runs, jobs, stop=None):
    if stop is not None:
        return lanes.run_all(runs, stop, COMMAND, jobs)
    with StopRequest() as request:
        return lanes.run_all(runs, request, COMMAND, jobs)


def content(config):
    """History, gradients and weights of a finished run."""
    run = read_run(run_folder(config))
    assert run.finished, run.problem
    weights = torch.load(run.folder / "weights.pt", weights_only=True)
    return (run.folder / "history.csv").read_bytes(), (run.folder / "gradients.csv").read_bytes(), weights


def assert_like_alone(runs):
    for config in runs:
        alone = tiny_config(f"seed={config.seed}", "results=alone", *FEW_FILES, f"train.lr={config.train.lr}",
                            f"train.warmup={config.train.warmup.name}")
        engine.run(alone)
        left, right = content(config), content(alone)
        assert left[:2] == right[:2]
        assert all(torch.equal(left[2][key], right[2][key]) for key in right[2])


def test_runs_that_take_turns_are_bit_for_bit_those_left_alone(monkeypatch):
    use_tapes(monkeypatch.setattr)
    runs = configs(*(f"engine=graph machine.steps_per_graph=4 {more}" for more in
                     ("", "train.warmup=error80", "train.lr=0.02")))
    turns = []
    original = lanes.Lane.advance
    monkeypatch.setattr(lanes.Lane, "advance", lambda self: (turns.append(self.config.seed), original(self))[1])
    assert run_together(runs, 2) == []
    assert turns[:4] == [0, 1, 0, 1], "two at a time"
    assert 2 in turns
    assert_like_alone(runs)
    assert read_run(run_folder(runs[0])).record["environment"]["jobs_per_device"] == 2


@pytest.mark.slow
def test_a_run_that_diverges_leaves_the_others_alone_and_keeps_no_memory(monkeypatch, caplog):
    steps, alive = weakref.WeakValueDictionary(), []
    original, init = lanes.Lane.advance, engine.TrainStep.__init__

    def remember(self, model, data, config, schedule, world):
        init(self, model, data, config, schedule, world)
        steps[config.seed] = self

    def advance(self):
        gc.collect()
        alive.append(0 in steps)
        return original(self)

    monkeypatch.setattr(engine.TrainStep, "__init__", remember)
    monkeypatch.setattr(lanes.Lane, "advance", advance)
    runs = configs("train.lr=1e30", "")
    (failure,) = run_together(runs, 2)
    assert isinstance(failure, DivergedError)
    assert read_run(run_folder(runs[0])).status == "diverged"
    assert any("going on with the rest" in line for line in caplog.messages)
    assert True in alive
    assert alive[-1] is False
    assert_like_alone(runs[1:])


@pytest.mark.fault(31)
def test_a_run_without_memory_and_one_that_somebody_else_does_leave_the_others_alone(monkeypatch):
    runs = configs("", "", "")
    original = engine.TrainStep.__call__

    def full(self):
        if self.config.seed == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        original(self)

    monkeypatch.setattr(engine.TrainStep, "__call__", full)
    with hold_lock(run_folder(runs[2])):
        failures = run_together(runs, 3)
    assert {type(failure) for failure in failures} == {OutOfMemoryError, InUseError}
    assert read_run(run_folder(runs[0])).finished
    assert read_run(run_folder(runs[2])).record is None


def test_after_a_disk_error_the_others_end_and_nothing_new_begins(monkeypatch):
    runs = configs("", "", "")
    original = engine.Recorder.row

    def full(self, values, timing):
        if self.config.seed == 0:
            raise StorageError("can't write history.csv: No space left on device")
        original(self, values, timing)

    monkeypatch.setattr(engine.Recorder, "row", full)
    with pytest.raises(StorageError, match="No space"):
        run_together(runs, 2)
    assert read_run(run_folder(runs[1])).finished
    assert read_run(run_folder(runs[2])).record is None


def stop_after(turns):
    """A StopRequest that asks for a stop after so many looks at it."""
    looks = iter(range(10**6))

    class Request(StopRequest):
        @property
        def reason(self):
            return "SIGTERM" if next(looks) >= turns else None
    return Request()


def test_a_stop_saves_all_of_them_and_the_same_call_goes_on(caplog):
    runs = configs("", "", "")
    with pytest.raises(Stopped) as caught:
        run_together(runs, 2, stop_after(18))
    assert caught.value.exit_code == 75
    assert "go on with: repro suite x" in str(caught.value)
    iterations = [read_run(run_folder(config)).record["iteration"] for config in runs[:2]]
    assert all(0 < done < 20 for done in iterations)
    assert read_run(run_folder(runs[2])).record is None
    assert any("saved in" in line for line in caplog.messages), "every run says where it is"
    assert run_together(runs, 2) == []
    assert_like_alone(runs)


def test_a_stop_before_the_first_run_is_said():
    with pytest.raises(Stopped, match="stopped by SIGTERM before cifar_resnet20 seed 0"):
        run_together(configs(""), 1, stop=stop_after(0))


def test_runs_of_other_machine_settings_wait():
    """torch's settings for precision and determinism are one for the whole process."""
    short = "train.iterations=4 train.lr_drops=[]"
    runs = configs(short, f"machine.deterministic=true {short}", short)
    alive = []
    original = lanes.Lane.advance

    class Watched(lanes.Lane):
        def advance(self):
            alive.append(self.config.machine.deterministic)
            return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "Lane", Watched)
        run_together(runs, 3)
    changes = [name for name, before in zip(alive, [None, *alive], strict=False) if name is not before]
    assert changes == [False, True, False]


def gpu_of_rates(monkeypatch, rates, spends=lambda: None):
    """A GPU on which so many runs at once reach these rates; None: no memory. Returns a configuration for it."""
    class Rated:
        def __init__(self, config):
            assert config.machine.channels_last is False

        def updates_per_second(self, jobs):
            spends()
            if rates[jobs] is None:
                raise torch.OutOfMemoryError("full")
            return rates[jobs]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(lanes, "RandomRuns", Rated)
    return tiny_config("machine.device=cuda", "machine.precision=tf32", "machine.channels_last=false")


@pytest.mark.parametrize(("rates", "expected"), [
    ({1: 100, 2: 103, 4: 104, 8: 90}, 1), ({1: 100, 2: 130, 4: 128, 8: 120}, 2), ({1: 100, 2: 98, 4: 150, 8: 151}, 4),
    ({1: 100, 2: 110, 4: 120, 8: 140}, 8), ({1: 100, 2: None}, 1)])
def test_the_best_total_rate_counts_and_of_equal_ones_the_fewest_runs(rates, expected, monkeypatch, caplog):
    config = gpu_of_rates(monkeypatch, rates)
    assert lanes.best_jobs(config, 9) == expected
    assert f"runs at once: {expected}" in caplog.messages[0]
    assert lanes.best_jobs(config, 1) == 1


def test_the_measurement_takes_little_of_the_time_that_is_left(monkeypatch, caplog):
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(lanes.time, "monotonic", lambda: next(clock))
    config = gpu_of_rates(monkeypatch, {1: 100, 2: 200, 4: 300, 8: 400})
    assert lanes.best_jobs(config, 8, seconds_left=70) == 2
    assert "4:" not in caplog.messages[0]


def test_on_a_cpu_one_at_a_time_without_measuring(monkeypatch):
    monkeypatch.setattr(lanes, "RandomRuns", None)
    assert lanes.best_jobs(tiny_config(), 8) == 1


def test_the_measurement_really_trains():
    together = lanes.RandomRuns(tiny_config("train.mini_batch_size=16"))
    assert 0 < together.updates_per_second(2, seconds=0.05) < 10**5
    assert len({id(execution.step.data) for _, execution in together.lanes}) == 1, "the same images"
    assert [int(execution.step.iteration) > 1 for _, execution in together.lanes] == [True, True]


def test_a_capture_that_fails_is_said_at_once_and_no_run_begins_after_it(monkeypatch, caplog):
    """What was captured before goes on to its end."""
    use_tapes(monkeypatch.setattr)
    capture = Execution.capture

    def fails(self):
        if self.config.seed == 1:
            raise CaptureError("CUDA graphs can't be captured here:\n  RuntimeError: the first cause")
        capture(self)

    monkeypatch.setattr(Execution, "capture", fails)
    runs = configs(*["engine=graph"] * 4)
    with pytest.raises(CaptureError, match="the first cause"):
        run_together(runs, 3)
    assert "cifar_resnet20 seed 1 is left as it was" in caplog.text
    assert read_run(run_folder(runs[0])).finished
    assert [read_run(run_folder(run)).record for run in runs[1:]] == [None, None, None]
