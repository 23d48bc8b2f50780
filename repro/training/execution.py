"""How updates and tests are executed: operation by operation, by compiled blocks, or as replays of CUDA graphs.

The step is the same function in all of them. A captured graph reads and writes the tensors that were there when it was
captured, so whatever is loaded must be copied into them (`TrainStep.load_state` does).
"""

import logging
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from repro.data.cifar10 import DeviceData
from repro.devices import force_eager, new_stream
from repro.errors import CaptureError
from repro.evaluation.metrics import ErrorSums, Outcome, add_errors, evaluate_on
from repro.models.blocks import BasicBlock, Bottleneck, set_checkpointing, weighted_layers
from repro.runs import title
from repro.schema import Engine, RunConfig
from repro.training.distributed import first_line
from repro.training.step import TrainStep

logger = logging.getLogger(__name__)
WARM_UP = 3  # updates before a capture, as torch.cuda.graph asks for; their effect is undone
# Choice: about 20 captured updates of 20 layers, 4 of 110, one of 1202. A replay costs the host some microseconds
# whatever is in it; not measured on a GPU yet.
LAYERS_PER_GRAPH = 440
MOST_PER_GRAPH = 20
AHEAD = 8  # Choice: calls of `advance` that may be queued: few enough to stop soon, so many that the device never waits
KINDS_OF_BLOCKS = 64  # compiled forms of a block's forward pass, over all networks of a process; torch's limit is 8


class Execution:
    """Does the updates and tests of a step whose state is loaded; `kind` says how: eager, compile, graph, or
    compile+graph.

    What can't be done here is said in one line, and the run goes on eagerly. A capture that fails on a GPU raises
    CaptureError: it leaves torch's memory in capture mode (2.11: nothing is freed, and no second try where it is full).
    `repro.training.launch.run` starts a fresh process.
    """

    def __init__(self, step: TrainStep, config: RunConfig):
        self.step, self.config = step, config
        self.problems: list[str] = []  # what can't be done here
        self.done = int(step.iteration)
        self.batch = config.train.mini_batch_size
        self.graphs: dict[int, CapturedUpdates] = {}  # by the number of updates in them
        self.latest: CapturedUpdates | None = None
        self.test: CapturedEvaluation | None = None
        self.compiled = False
        self.queued: deque[torch.cuda.Event] = deque()
        self.stream = new_stream(step.device) if step.device.type == "cuda" else None
        set_checkpointing(step.model, config.machine.activation_checkpointing)
        step.input.prepare(self.done * self.batch)
        if step.world.size > 1:
            return  # several processes talk in the middle of an update
        if config.engine is Engine.compile:
            self.compiled = self.attempt("compile", self.compile)
        if config.engine is Engine.graph or (config.engine is Engine.compile and step.device.type == "cuda"):
            self.attempt("capture", self.capture)

    @property
    def kind(self) -> str:
        """How updates are really done."""
        return "+".join(["compile"] * self.compiled + ["graph"] * bool(self.graphs)) or "eager"

    @property
    def block(self) -> int:
        """The updates that pay best in one go."""
        return max(self.graphs, default=1)

    def advance(self, updates: int) -> None:
        """Do so many updates; on CUDA they are only queued, and the host waits when it is some calls ahead."""
        while updates > 0:
            count = self.block if updates >= self.block else 1
            self.step.input.prepare(self.done * self.batch)
            if self.graphs:
                self.replay(self.graphs[count])
            else:
                self.step()
            self.done += count
            updates -= count
        if self.step.device.type == "cuda":
            self.queued.append(torch.cuda.current_stream(self.step.device).record_event())
            if len(self.queued) > AHEAD:
                self.queued.popleft().synchronize()

    def evaluate(self) -> Outcome:
        """Test the network as it is now; waits for the result."""
        if self.test is not None:
            return self.test.outcome()
        with force_eager(self.compiled):
            return evaluate_together(self.step.model, self.step)

    def close(self) -> None:
        """Let go of graphs and compiled blocks; the model stays as it is."""
        self.graphs, self.latest, self.test = {}, None, None
        for block in blocks(self.step.model):
            block._compiled_call_impl = None  # what Module.compile sets

    def attempt(self, name: str, work: Callable[[], None]) -> bool:
        """Do this and undo its updates; False with one line if it can't be done here."""
        saved, problem, lack = tree_map_only(Tensor, torch.clone, self.step.state()), "", None
        try:
            work()
        except CaptureError:
            raise  # the device may not answer any more
        except Exception as error:  # whatever the compiler or the driver raises: the run goes on without it
            self.close()
            problem, lack = first_line(error), out_of_memory(error) and str(out_of_memory(error))
        self.step.load_state(saved)
        self.step.input.prepare(self.done * self.batch)
        self.step.optimizer.zero_grad()
        if lack is not None:  # a new error: the frames of the other one keep the network alive
            raise torch.OutOfMemoryError(lack)
        if problem:
            self.problems.append(f"engine={self.config.engine.name}: {name} is not possible here ({problem}); going on "
                                 "without it")
            logger.warning(self.problems[-1])
        return not problem

    def compile(self) -> None:
        """Compile the blocks of the network, each kind of block once, by one update."""
        with warnings.catch_warnings(), torch._dynamo.config.patch(recompile_limit=KINDS_OF_BLOCKS):
            warnings.simplefilter("ignore")  # of torch's own compiler
            for block in blocks(self.step.model):
                block.compile(dynamic=False)
            with self.aside():
                self.step()

    def capture(self) -> None:
        """Capture one update, several, and the test. RuntimeError without a CUDA device, CaptureError if it fails."""
        if self.stream is None:
            raise RuntimeError(f"needs a CUDA device, this is {self.step.device.type}")
        before = torch.cuda.current_stream(self.step.device)
        # One pool for all: they never run at the same time, and the gradients of each are kept alive.
        place = {"stream": self.stream, "pool": torch.cuda.graph_pool_handle(), "capture_error_mode": "thread_local"}
        try:
            with self.aside():
                for ahead in range(WARM_UP):
                    self.step.input.prepare((self.done + ahead) * self.batch)
                    self.step()
                self.step.batch(count=updates_per_graph(self))  # what it loads must be there before the capture
            for count in sorted({1, updates_per_graph(self)}, reverse=True):
                self.graphs[count] = CapturedUpdates(self.step, count, place)
            if isinstance(self.step.data, DeviceData):
                with force_eager(self.compiled), self.aside():
                    self.test = CapturedEvaluation(self.step, self.step.data, self.config, place)
        except Exception as error:
            self.graphs, self.latest, self.test = {}, None, None
            torch.cuda.set_stream(before)  # a capture that fails may leave its own stream behind
            if out_of_memory(error) is not None:
                raise
            raise CaptureError(f"{title(self.config)}: CUDA graphs can't be captured here:\n"
                               f"{error_chain(error)}") from error

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Work in the run's own stream, after what was queued and before what follows; on a CPU just here."""
        if self.stream is None:
            yield
            return
        current = torch.cuda.current_stream(self.step.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            yield
        current.wait_stream(self.stream)

    def replay(self, graph: "CapturedUpdates") -> None:
        """Queue a graph; the gradients that others see are those of the graph that ran last."""
        if graph is not self.latest:
            for parameter, gradient in zip(self.step.model.parameters(), graph.gradients, strict=True):
                parameter.grad = gradient
            self.latest = graph
        graph.graph.replay()


class CapturedUpdates:
    """Some updates in one CUDA graph, and the gradients of the last of them."""

    def __init__(self, step: TrainStep, count: int, place: dict[str, Any]):
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, **place):
            step(count)
        self.gradients: list[Tensor | None] = [parameter.grad for parameter in step.model.parameters()]


class CapturedEvaluation:
    """The whole test in one CUDA graph."""

    def __init__(self, step: TrainStep, data: DeviceData, config: RunConfig, place: dict[str, Any]):
        self.sums = ErrorSums(step.device, imagenet=False)

        def count() -> None:
            self.sums.reset()
            add_errors(self.sums, step.model, data.evaluation_batches(config.machine.evaluation_batch_size),
                       config.machine)

        count()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, **place):
            count()

    def outcome(self) -> Outcome:
        """Test now and wait for the result."""
        self.graph.replay()
        return self.sums.outcome()


def evaluate_together(model: nn.Module, step: TrainStep) -> Outcome:
    """Test a network on all images that the step's run is evaluated on, by all of its processes together."""
    world = step.world
    outcome = evaluate_on(model, step.data, step.config, world.rank, world.size)
    if world.size == 1:
        return outcome
    counts = torch.tensor([outcome.errors, outcome.images, outcome.top5_errors or 0], device=step.device)
    loss = torch.tensor(outcome.loss * outcome.images, dtype=torch.float64).to(step.device, torch.float32)
    errors, images, top5_errors = world.all_reduce_(counts).tolist()
    return Outcome(errors, images, float(world.all_reduce_(loss)) / images,
                   None if outcome.top5_errors is None else top5_errors)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def out_of_memory(error: BaseException) -> torch.OutOfMemoryError | None:
    """The lack of memory that an error is, or that it came from."""
    return next((cause for cause in causes(error) if isinstance(cause, torch.OutOfMemoryError)), None)


def error_chain(error: BaseException) -> str:
    """An error and its causes, a line each: torch says of a failed capture only that an error came before."""
    return "  " + "\n  caused by ".join(f"{type(cause).__name__}: {first_line(cause)}" for cause in causes(error))


def updates_per_graph(execution: Execution) -> int:
    """How many updates one graph holds: as configured, else by depth; never more than a pass over the images."""
    step, asked = execution.step, execution.config.machine.steps_per_graph
    layers = sum(1 for _ in weighted_layers(step.model))
    wanted = asked or min(MOST_PER_GRAPH, max(1, LAYERS_PER_GRAPH // layers))
    return max(1, min(wanted, step.input.prepared_updates, step.input.images // execution.batch))


def blocks(model: nn.Module) -> list[Any]:
    """The building blocks of a network."""
    return [module for module in model.modules() if isinstance(module, (BasicBlock, Bottleneck))]
