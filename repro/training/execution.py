"""How updates and tests are executed: operation by operation, by compiled blocks, or as replays of CUDA graphs.

The step is the same function in all of them. A captured graph reads and writes the tensors that were there when it was
captured, so whatever is loaded must be copied into them (`TrainStep.load_state` does).
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from repro.devices import forced_eager, new_stream, synchronise
from repro.evaluation.protocols import Outcome, count_errors, evaluate_on
from repro.models.blocks import BasicBlock, Bottleneck
from repro.models.layers import weighted_layers
from repro.models.recompute import recompute
from repro.schema import Engine, RunConfig
from repro.training.background import mapped
from repro.training.step import TrainStep

WARM_UP = 3  # updates before a capture, as torch.cuda.graph asks for; their effect is undone
# Choice: about 20 captured updates of 20 layers, 4 of 110, one of 1202. A replay costs the host some microseconds
# whatever is in it; not measured on a GPU yet.
LAYERS_PER_GRAPH = 440
MOST_PER_GRAPH = 20


class Execution:
    """Does the updates and tests of a step whose state is loaded; `kind` says how: eager, compile, graph, or
    compile+graph.

    What can't be done here is said in one line, and the run goes on eagerly.
    """

    def __init__(self, step: TrainStep, config: RunConfig, say: Callable[[str], None] = print):
        self.step, self.config, self.say = step, config, say
        self.done = int(step.iteration)
        self.batch = config.train.mini_batch_size
        self.graphs: dict[int, CapturedUpdates] = {}  # by the number of updates in them
        self.latest: CapturedUpdates | None = None
        self.test: CapturedTest | None = None
        self.compiled = self.captured = False
        recompute(step.model, config.machine.activation_checkpointing)
        step.order.cover(self.done * self.batch)
        if config.engine is Engine.compile:
            self.compiled = self.attempt("compile", self.compile)
        if config.engine in (Engine.compile, Engine.graph):
            self.captured = self.attempt("capture", self.capture)

    @property
    def kind(self) -> str:
        """How updates are really done."""
        parts = [name for name, used in (("compile", self.compiled), ("graph", self.captured)) if used]
        return "+".join(parts) or "eager"

    @property
    def block(self) -> int:
        """The updates that pay best in one go."""
        return max(self.graphs, default=1)

    def advance(self, updates: int) -> None:
        """Do so many updates; on CUDA they are only queued."""
        while updates > 0:
            count = self.block if updates >= self.block else 1
            self.step.order.cover(self.done * self.batch)
            if self.graphs:
                self.replay(self.graphs[count])
            else:
                self.step()
            self.done += count
            updates -= count

    def evaluate(self) -> Outcome:
        """Test the network as it is now; waits for the result."""
        if self.test is not None:
            return self.test.outcome()
        with forced_eager(self.compiled):
            return evaluate_on(self.step.model, self.step.data, self.config)

    def close(self) -> None:
        """Let go of graphs and compiled blocks; the model stays as it is."""
        self.graphs, self.latest, self.test = {}, None, None
        for block in blocks(self.step.model):
            block._compiled_call_impl = None  # what Module.compile sets

    def attempt(self, name: str, work: Callable[[], None]) -> bool:
        """Do this and undo its updates; False with one line if it can't be done here."""
        saved = mapped(torch.clone, self.step.state())
        try:
            work()
            return True
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the compiler or the driver raises: the run goes on without it
            self.close()
            synchronise(self.step.device, all_streams=True)
            reason = str(error).strip().splitlines() or [type(error).__name__]
            self.say(f"engine={self.config.engine.name}: {name} is not possible here ({reason[0]}); "
                     "going on without it")
            return False
        finally:
            self.step.load_state(saved)
            self.step.order.cover(self.done * self.batch)
            self.step.optimizer.zero_grad()

    def compile(self) -> None:
        """Compile the blocks of the network, each kind of block once, by one update."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own compiler
            for block in blocks(self.step.model):
                block.compile(dynamic=False)
            self.step()

    def capture(self) -> None:
        """Capture one update, several, and the test. RuntimeError without a CUDA device."""
        if self.step.device.type != "cuda":
            raise RuntimeError(f"needs a CUDA device, this is {self.step.device.type}")
        stream = new_stream(self.step.device)
        stream.wait_stream(torch.cuda.current_stream(self.step.device))
        with torch.cuda.stream(stream):
            for ahead in range(WARM_UP):
                self.step.order.cover((self.done + ahead) * self.batch)
                self.step()
        self.graphs = {count: CapturedUpdates(self.step, count, stream) for count in {1, updates_per_graph(self)}}
        with forced_eager(self.compiled):
            self.test = CapturedTest(self.step, self.config, stream)
        torch.cuda.current_stream(self.step.device).wait_stream(stream)

    def replay(self, graph: "CapturedUpdates") -> None:
        """Queue a graph; the gradients that others see are those of the graph that ran last."""
        if graph is not self.latest:
            for parameter, gradient in zip(self.step.model.parameters(), graph.gradients, strict=True):
                parameter.grad = gradient
            self.latest = graph
        graph.graph.replay()


class CapturedUpdates:
    """Some updates in one CUDA graph, and the gradients of the last of them."""

    def __init__(self, step: TrainStep, count: int, stream: torch.cuda.Stream):
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
            for _ in range(count):
                step()
        self.gradients: list[Tensor | None] = [parameter.grad for parameter in step.model.parameters()]


class CapturedTest:
    """The whole test in one CUDA graph."""

    def __init__(self, step: TrainStep, config: RunConfig, stream: torch.cuda.Stream):
        data, machine = step.data, config.machine
        self.images = len(data.eval_images)
        self.errors = torch.zeros((), dtype=torch.int64, device=step.device)
        self.loss = torch.zeros((), dtype=torch.float32, device=step.device)

        def count() -> None:
            self.errors.zero_()
            self.loss.zero_()
            count_errors(step.model, data.eval_images, data.eval_labels, data.mean, machine.evaluation_batch_size,
                         machine.precision, bool(machine.channels_last), data.std, self.errors, self.loss)

        with torch.cuda.stream(stream):
            count()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
            count()

    def outcome(self) -> Outcome:
        """Test now and wait for the result."""
        self.graph.replay()
        return Outcome(int(self.errors), self.images, float(self.loss) / self.images)


def updates_per_graph(execution: Execution) -> int:
    """How many updates one graph holds: as configured, else by depth; never more than a pass over the images."""
    step, asked = execution.step, execution.config.machine.steps_per_graph
    layers = sum(1 for _ in weighted_layers(step.model))
    wanted = asked or min(MOST_PER_GRAPH, max(1, LAYERS_PER_GRAPH // layers))
    return max(1, min(wanted, step.order.images // execution.batch))


def blocks(model: nn.Module) -> list[Any]:
    """The building blocks of a network."""
    return [module for module in model.modules() if isinstance(module, (BasicBlock, Bottleneck))]
