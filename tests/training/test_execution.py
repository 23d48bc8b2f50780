"""The same step eagerly, compiled, and replayed: on the CPU with a tape in the place of a CUDA graph."""

import gc
import os
import shutil
import signal
import weakref
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from repro.errors import CaptureError, Stopped
from repro.models import build_model
from repro.schema import Engine
from repro.stopping import StopRequest
from repro.training import launch, train
from repro.training.execution import Execution, blocks, error_chain, out_of_memory, updates_per_graph
from repro.training.schedule import Schedule
from repro.training.step import TrainStep, count_batches_once
from tests.made import run_config, tiny_config, tiny_data
from tests.training.tape import use_tapes

LENGTH = ["train.warmup=error80", "train.warmup_window=6", "evaluation.gradient_iterations=[1,17,40]"]

# A rate at which rounding does not grow within 100 updates; with the usual one it grows 1000 times in 20.
GENTLE = ["train.iterations=100", "train.lr_drops=[90]", "train.lr=0.0001"]


def made_step(*overrides):
    config = tiny_config(*overrides)
    model = build_model(config.model, config.seed).train()
    return TrainStep(model, tiny_data(), config, Schedule.of(config)), config


def made(*overrides):
    step, config = made_step(*overrides)
    return Execution(step, config)


def state_of(step):
    """All tensors of a step's state by name."""
    state = step.state()
    momentum = {f"momentum{number}": buffer for number, buffer in enumerate(state["momentum"])}
    return {**state["model"], **momentum, "rate": state["rate"], **state["counters"]}


def assert_same(left, right):
    for name, value in state_of(left).items():
        assert torch.equal(value, state_of(right)[name]), name


def assert_close(left, right):
    for name, value in state_of(left).items():
        assert torch.allclose(value.double(), state_of(right)[name].double(), rtol=1e-3, atol=1e-4), name


@pytest.fixture
def tapes(monkeypatch):
    use_tapes(monkeypatch.setattr)
    monkeypatch.setattr(train, "load_data", lambda *_: tiny_data())


def test_eager_is_the_step_itself():
    ours, (step, _) = made("engine=eager"), made_step()
    ours.advance(13)
    for done in range(13):
        step.input.prepare(done * 16)
        step()
    assert ours.kind == "eager"
    assert ours.done == int(ours.step.iteration) == 13
    assert_same(ours.step, step)


@pytest.mark.parametrize("per_graph", [1, 4, 6])
def test_replayed_updates_are_the_eager_ones_bit_for_bit(tapes, per_graph):
    """Across passes over the images (100, in mini-batches of 16), the drops of the rate and the warm-up's end."""
    eager = made(*LENGTH, "engine=eager")
    replayed = made(*LENGTH, "engine=graph", f"machine.steps_per_graph={per_graph}")
    assert (replayed.kind, replayed.block) == ("graph", per_graph)
    for updates in (1, 5, 9, 25):
        eager.advance(updates)
        replayed.advance(updates)
        assert_same(eager.step, replayed.step)
    assert int(replayed.step.warmup_end) > 0
    assert int(replayed.step.failed_at) == -1


def test_a_value_that_python_computes_in_the_step_would_be_noticed(tapes, monkeypatch):
    """Negative control: a rate taken from the host's schedule is frozen in the graph."""
    original = TrainStep.learning_rate

    def on_the_host(self):
        return torch.full_like(original(self), self.schedule.rate(int(self.iteration)))

    monkeypatch.setattr(TrainStep, "learning_rate", on_the_host)
    eager, replayed = made("engine=eager"), made("engine=graph", "machine.steps_per_graph=1")
    eager.advance(25)  # a drop at 20
    replayed.advance(25)
    with pytest.raises(AssertionError):
        assert_same(eager.step, replayed.step)


def test_the_gradients_that_others_see_are_those_of_the_last_update(tapes):
    eager, replayed = made("engine=eager"), made("engine=graph", "machine.steps_per_graph=4")
    for updates in (4, 1, 5, 4):
        eager.advance(updates)
        replayed.advance(updates)
        for ours, theirs in zip(replayed.step.model.parameters(), eager.step.model.parameters(), strict=True):
            assert torch.equal(ours.grad, theirs.grad)


def test_a_state_that_is_loaded_later_is_what_the_graph_trains(tapes):
    source = made("engine=eager")
    source.advance(7)
    replayed = made("engine=graph", "machine.steps_per_graph=1")
    replayed.step.load_state(source.step.state())
    replayed.done = 7
    source.advance(5)
    replayed.advance(5)
    assert_same(source.step, replayed.step)


@pytest.mark.parametrize("stops", [[], [1, 3, 4]])
def test_whole_runs_with_graphs_are_the_eager_ones_bit_for_bit(tapes, stops, tmp_path, monkeypatch):
    whole = run_config(tiny_config(*LENGTH, "engine=eager", f"results={tmp_path / 'eager'}"))
    config = tiny_config(*LENGTH, "engine=graph", "machine.steps_per_graph=4", f"results={tmp_path / 'graph'}")
    for count in stops:
        calls = iter(range(10**6))
        with monkeypatch.context() as patch:
            reason = property(lambda self, calls=calls, count=count: "SIGTERM" if next(calls) >= count else None)
            patch.setattr(StopRequest, "reason", reason)
            with pytest.raises(Stopped):
                run_config(config)
    parts = run_config(config)
    for name in ("history.csv", "gradients.csv", "responses.csv"):
        assert (whole.folder / name).read_bytes() == (parts.folder / name).read_bytes(), name
    left, right = (torch.load(run.folder / "weights.pt", weights_only=True) for run in (whole, parts))
    assert all(torch.equal(left[key], right[key]) for key in left)
    assert parts.record.environment.engine == "graph"
    assert [session.updates_per_graph for session in parts.record.sessions] == [4] * (len(stops) + 1)


def test_where_nothing_can_be_captured_one_line_says_so_and_the_run_goes_on(caplog):
    ours, eager = made("engine=graph"), made("engine=eager")
    (line,) = caplog.messages
    assert line.startswith("engine=graph: capture is not possible here (needs a CUDA device, this is cpu)")
    assert ours.kind == "eager"
    ours.advance(5)
    eager.advance(5)
    assert_same(ours.step, eager.step)


def test_an_update_that_fails_while_it_is_tried_is_undone(monkeypatch, caplog):
    def broken(self):
        self.step()
        raise RuntimeError("no driver\nmore text")

    monkeypatch.setattr(Execution, "capture", broken)
    ours, eager = made("engine=graph"), made("engine=eager")
    assert caplog.messages == ["engine=graph: capture is not possible here (no driver); going on without it"]
    ours.advance(5)
    eager.advance(5)
    assert_same(ours.step, eager.step)


def test_no_memory_for_a_capture_is_no_reason_to_go_on(monkeypatch):
    def full(self):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Execution, "capture", full)
    with pytest.raises(torch.OutOfMemoryError):
        made("engine=graph")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_train_within_rounding_and_are_let_go_of(monkeypatch):
    """The first call of a compiled block on a machine takes some seconds."""
    compiled = made("engine=compile", *GENTLE)
    assert compiled.kind == "compile"
    assert compiled.problems == []
    assert all(block._compiled_call_impl is not None for block in blocks(compiled.step.model))
    eager = made("engine=eager", *GENTLE)
    for _ in range(10):
        compiled.advance(10)
        eager.advance(10)
        assert float(compiled.step.last_loss) == pytest.approx(float(eager.step.last_loss), rel=1e-3)
    left, right = compiled.evaluate(), eager.evaluate()
    assert left.loss == pytest.approx(right.loss, rel=1e-3)
    compiled.close()
    assert all(block._compiled_call_impl is None for block in compiled.step.model.modules())
    assert compiled.step.model.training


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_can_be_computed_again():
    compiled, eager = (made(f"engine={way}", *GENTLE, "machine.activation_checkpointing=true")
                       for way in ("compile", "eager"))
    assert compiled.kind == "compile"
    compiled.advance(5)
    eager.advance(5)
    assert float(compiled.step.last_loss) == pytest.approx(float(eager.step.last_loss), rel=1e-3)
    assert int(compiled.step.model.bn1.num_batches_tracked) == 5
    assert int(compiled.step.model.stage1[0].bn1.num_batches_tracked) == 5


def test_lack_of_memory_is_found_behind_what_a_capture_says_of_it():
    error = RuntimeError("operation failed due to a previous error during capture")
    error.__context__ = torch.OutOfMemoryError("CUDA out of memory")
    assert out_of_memory(error) is error.__context__
    assert out_of_memory(RuntimeError("else")) is None


def test_the_whole_chain_of_a_failed_capture_is_told():
    error = ValueError("operation failed due to a previous error during capture")
    error.__context__ = RuntimeError("operation not permitted when stream is capturing\nmore text")
    error.__context__.__cause__ = KeyError("the first")
    assert error_chain(error) == ("  ValueError: operation failed due to a previous error during capture\n"
                            "  caused by RuntimeError: operation not permitted when stream is capturing\n"
                            "  caused by KeyError: 'the first'")


@pytest.mark.slow
def test_where_a_capture_fails_a_fresh_process_does_the_run(monkeypatch, tmp_path, capfd, caplog):
    """On synthetic images, since the process has nothing of what is patched here."""
    def fails(self):
        raise CaptureError("CUDA graphs can't be captured here")

    monkeypatch.setattr(launch, "_failed_captures", [])
    monkeypatch.setattr(Execution, "capture", fails)
    words = ["data=synthetic", "machine.threads=1", "train.iterations=6", "train.lr_drops=[4]", "evaluation.interval=6",
             "evaluation.gradient_iterations=[]", "evaluation.responses=false", "evaluation.batch_norm_images=0"]
    graph, eager = (run_config(tiny_config(*words, f"engine={way}", f"results={tmp_path / way}"))
                    for way in ("graph", "eager"))
    assert "going on in a fresh process, engine=eager" in caplog.messages[0]
    assert "6 iterations from the start" in capfd.readouterr().out, "it says where it is itself"
    assert graph.record.environment.engine == "eager"
    assert (graph.folder / "history.csv").read_bytes() == (eager.folder / "history.csv").read_bytes()
    assert graph.record.weights_sha256 == eager.record.weights_sha256


@pytest.mark.fault(22)
def test_a_signal_while_a_capture_fails_starts_nothing_new(monkeypatch):
    def fails(self):
        os.kill(os.getpid(), signal.SIGTERM)
        raise CaptureError("CUDA graphs can't be captured here")

    monkeypatch.setattr(train, "load_data", lambda *_: tiny_data())
    monkeypatch.setattr(Execution, "capture", fails)
    monkeypatch.setattr(launch, "_failed_captures", [])
    monkeypatch.setattr(launch, "launch", None)
    with pytest.raises(Stopped, match="stopped by SIGTERM before anything was trained") as caught:
        run_config(tiny_config("engine=graph"), ["repro", "run", "x=1", "resume=never"])
    assert caught.value.exit_code == 75
    assert str(caught.value).endswith("go on with: repro run x=1"), "resume=never would begin anew"


@pytest.mark.fault(31)
def test_a_capture_without_memory_keeps_nothing_of_the_network(monkeypatch):
    """Without the garbage collector, which may come late: the next run needs the memory now."""
    def full(self):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(Execution, "capture", full)
    step, config = made_step("engine=graph")
    alive = weakref.ref(step)
    gc.disable()
    try:
        with suppress(torch.OutOfMemoryError):
            Execution(step, config)
        del step
        assert alive() is None
    finally:
        gc.enable()


def test_layers_that_span_processes_count_for_themselves():
    """None of them is a BatchNorm2d, and torch takes no empty list."""
    with count_batches_once([]):
        pass


def test_a_failed_capture_undoes_nothing_where_the_device_may_not_answer(monkeypatch):
    def fails(self):
        monkeypatch.setattr(TrainStep, "load_state", None)
        raise CaptureError("no")

    monkeypatch.setattr(Execution, "capture", fails)
    with pytest.raises(CaptureError):
        made("engine=graph")


def test_a_graph_of_many_updates_launches_little_beside_the_network():
    """Operations of an update beside those of the network; as many of ResNet-20 whatever the size of its mini-batch."""
    step, _ = made_step("model.blocks_per_stage=3")
    step()
    images, labels = step.batch()
    with Operations() as network:
        loss = torch.nn.functional.cross_entropy(step.model(images), labels)
        loss.backward()
    with Operations() as alone:
        step()
    with Operations() as together:
        step(4)
    layers = sum(isinstance(module, torch.nn.BatchNorm2d) for module in step.model.modules())
    counting = network.count - layers  # each layer counts its batches there, the step counts them at once
    assert alone.count - counting <= 79
    assert together.count / 4 - counting <= 43


class Operations(TorchDispatchMode):
    """Counts what would be a kernel on a GPU: all but views and empty tensors."""

    free = ("view", "detach", "select", "slice", "expand", "unsqueeze", "t", "as_strided", "permute", "_unsafe_view",
            "alias", "transpose", "empty", "empty_like", "empty_strided", "split", "_reshape_alias", "squeeze")
    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function._schema.name.partition("::")[2] not in self.free
        return function(*args, **(kwargs or {}))


def test_without_a_compiler_the_run_goes_on_eagerly(monkeypatch):
    def no_compiler(self, *args, **kwargs):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")

    monkeypatch.setattr(torch.nn.Module, "compile", no_compiler)
    ours = made("engine=compile")
    assert ours.kind == "eager"
    assert "compile is not possible here (InvalidCxxCompiler" in ours.problems[0]


@pytest.mark.parametrize(("depth", "expected"), [(8, 6), (20, 6), (110, 4), (1202, 1)])
def test_the_number_of_updates_in_a_graph_falls_with_depth_and_fits_into_a_pass(depth, expected):
    """100 images in mini-batches of 16: no more than 6, whatever the depth."""
    ours = made("engine=eager")
    with torch.device("meta"):
        ours.step.model = build_model(replace(ours.config.model, blocks_per_stage=(depth - 2) // 6))
    assert updates_per_graph(ours) == expected


def test_auto_is_graphs_on_cuda_and_eager_elsewhere(monkeypatch):
    from repro.config import compose
    from repro.devices import resolve

    assert resolve(compose(["experiment=cifar_resnet20"])).engine is Engine.eager
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve(compose(["experiment=cifar_resnet20", "machine.device=cuda"])).engine is Engine.graph
    asked = resolve(compose(["experiment=cifar_resnet20", "machine.device=cuda", "engine=eager"]))
    assert asked.engine is Engine.eager


class Structure(TorchDispatchMode):
    """Raises where a value is read on the host, and where a tensor that a graph would know has moved."""

    def __init__(self, find):
        super().__init__()
        self.find = find
        self.known = {name: tensor.data_ptr() for name, tensor in find().items()}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            raise AssertionError("a value was read on the host")
        out = function(*args, **(kwargs or {}))
        self.check()
        return out

    def check(self):
        moved = [name for name, tensor in self.find().items() if tensor.data_ptr() != self.known[name]]
        assert not moved, f"moved: {', '.join(moved)}"


def watched(step):
    """What a captured graph of this step reads and writes and does not make itself."""
    return lambda: {**state_of(step), **dict(step.model.named_parameters()),
                    "order": step.input.order.order, "start": step.input.order.start, "images": step.data.train_images,
                    "labels": step.data.train_labels, "mean": step.data.mean, "skip": step.optimizer.skip,
                    "lr": step.optimizer.rate}


@pytest.mark.parametrize("overrides", [[], ["train.warmup=error80"], ["machine.precision=fp16"],
                                       ["train.batch_norm_group=8"], ["machine.activation_checkpointing=true"],
                                       ["train.momentum_form=nesterov", "train.weight_decay_on=weights"],
                                       ["recipe=akamaster", "train.mini_batch_size=16", "train.batch_norm_group=16"]],
                         ids=" ".join)
def test_a_step_reads_nothing_on_the_host_and_moves_nothing(overrides):
    ours = made("engine=eager", *overrides)
    ours.advance(2)
    mode = Structure(watched(ours.step))
    with mode:
        ours.step()
        ours.step.input.prepare(2 * ours.step.input.images)  # a new pass: made beside the old one, then copied
        ours.step()
    mode.check()


def test_reading_a_value_is_noticed():
    ours = made("engine=eager")
    with pytest.raises(AssertionError, match="on the host"), Structure(watched(ours.step)):
        float(ours.step.last_loss)


def new_window(step):
    step.window = step.window + 1


def new_momentum(step):
    step.optimizer.momentum[0] = step.optimizer.momentum[0] * 2


def new_weight(step):
    step.model.conv1.weight.data = step.model.conv1.weight.data.clone()


@pytest.mark.parametrize(("name", "move"), [("window", new_window), ("momentum0", new_momentum),
                                            ("conv1.weight", new_weight)])
def test_a_tensor_that_moves_is_noticed(name, move):
    def moving():
        move(ours.step)
        ours.step()

    ours = made("engine=eager", "train.warmup=error80")
    with pytest.raises(AssertionError, match=f"moved: {name}"), Structure(watched(ours.step)):
        moving()
