"""The same step operation by operation and replayed: on the CPU with a tape in the place of a CUDA graph."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from repro.config import compose
from repro.devices import resolve
from repro.errors import ConfigError, OutOfMemoryError
from repro.schema import Engine
from repro.training.step import Execution
from tests.made import run_config, tiny_config
from tests.training.conftest import WORDS, make_step, same_end


def make(*overrides):
    return Execution(make_step(*overrides))


def state_of(step):
    state = step.state()
    momentum = {f"momentum{number}": buffer for number, buffer in enumerate(state["momentum"])}
    return {**state["model"], **momentum, "rate": state["rate"], **state["counters"]}


def assert_same(left, right):
    for name, value in state_of(left).items():
        assert torch.equal(value, state_of(right)[name]), name


class Tape(TorchDispatchMode):
    """A stand-in for a CUDA graph on the CPU: records every operation once and replays them on the same tensors.

    As with a graph, no Python of the recorded code runs again, and what it reads and writes stays where it was.
    """

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, out))
        return out

    def replay(self):
        """Results go into the tensors that held them when they were recorded."""
        with torch.no_grad():
            for function, args, kwargs, recorded in self.operations:
                again = function(*args, **kwargs)
                for old, new in zip(tree_leaves(recorded), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.detach().copy_(new)


@pytest.fixture
def tapes(monkeypatch):
    """engine=graph works on the CPU, with tapes; `Execution` undoes the recorded update."""
    def capture(self):
        self.step.input.prepare(self.done * self.batch)
        self.graph = Tape()
        with self.graph:
            self.step()

    monkeypatch.setattr(Execution, "capture", capture)


def test_replayed_updates_are_the_eager_ones_bit_for_bit(tapes):
    """Across passes over the images (100, in mini-batches of 16), the drops of the rate and the warm-up's end."""
    eager, replayed = make(*WORDS, "engine=eager"), make(*WORDS, "engine=graph")
    assert (eager.kind, replayed.kind) == ("eager", "graph")
    for updates in (1, 5, 10):
        eager.advance(updates)
        replayed.advance(updates)
        assert_same(eager.step, replayed.step)
        for ours, theirs in zip(replayed.step.model.parameters(), eager.step.model.parameters(), strict=True):
            assert torch.equal(ours.grad, theirs.grad)
    assert int(replayed.step.warmup_end) > 0
    assert int(replayed.step.failed_at) == -1


def test_a_run_with_graphs_that_stops_in_between_is_the_eager_one_bit_for_bit(tapes, made_up, stop_after, alone):
    config = tiny_config(*WORDS, "engine=graph")
    for count in (5, 6):
        stop_after(config, count)
    run = run_config(config)
    assert same_end(run, alone)
    assert run.record.environment.engine == "graph"
    assert len(run.record.sessions) == 3


@pytest.mark.fault(31)
def test_a_capture_without_memory_is_told_as_such(made_up, monkeypatch):
    def full(self):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(Execution, "capture", full)
    with pytest.raises(OutOfMemoryError, match="CUDA out of memory"):
        run_config(tiny_config("engine=graph"))


def test_auto_is_graphs_on_cuda_and_eager_elsewhere(monkeypatch):
    with pytest.raises(ConfigError, match=r"engine=graph.*needs a CUDA device, this is cpu"):
        make("engine=graph")
    assert resolve(compose(["experiment=cifar_resnet20"])).engine is Engine.eager
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cuda = ["experiment=cifar_resnet20", "machine.device=cuda"]
    assert resolve(compose(cuda)).engine is Engine.graph
    formats = [resolve(compose([*cuda, f"machine.precision={name}"])).machine.channels_last
               for name in ("fp32", "tf32", "bf16")]
    assert formats == [False, True, True]


# ---- the structure of the step that a graph needs


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


def watch(step):
    """What a captured graph of this step reads and writes and does not make itself."""
    return lambda: {**state_of(step), **dict(step.model.named_parameters()), "places": step.places,
                    "order": step.input.order.order, "start": step.input.order.start, "images": step.data.train_images,
                    "labels": step.data.train_labels, "mean": step.data.mean, "skip": step.optimizer.skip}


@pytest.mark.parametrize("overrides", [["train.warmup=error80", "train.batch_norm_group=8"], ["machine.precision=fp16"],
                                       ["recipe=akamaster", "train.mini_batch_size=16", "train.batch_norm_group=16"]],
                         ids=" ".join)
def test_a_step_reads_nothing_on_the_host_and_moves_nothing(overrides):
    step = make_step(*overrides)
    step()
    mode = Structure(watch(step))
    with mode:
        step()
        step.input.prepare(200)  # a new pass: made beside the old one, then copied
        step()
    mode.check()


@pytest.mark.parametrize(("name", "spoil"), [
    ("value was read on the host", lambda step: float(step.last_loss)),
    ("moved: window", lambda step: setattr(step, "window", step.window + 1))])
def test_reading_a_value_or_moving_a_tensor_is_noticed(name, spoil):
    """Negative control."""
    def spoiled():
        spoil(step)
        step()

    step = make_step("train.warmup=error80")
    with pytest.raises(AssertionError, match=name), Structure(watch(step)):
        spoiled()
