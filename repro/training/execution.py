"""How updates are executed: operation by operation, by compiled blocks, or as replays of CUDA graphs.

The step is the same function in all of them. A captured graph reads and writes the tensors that were there when it was
captured, so whatever is loaded must be copied into them (`TrainStep.load_state` does).
"""

import warnings
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from repro.devices import force_eager, new_stream
from repro.errors import ConfigError
from repro.evaluation.metrics import Outcome, evaluate_on
from repro.models import BasicBlock, Bottleneck
from repro.schema import Engine, RunConfig
from repro.training.step import TrainStep

WARM_UP = 3  # updates before a capture, as torch.cuda.graph asks for; their effect is undone
# Choice: about 20 captured updates of 20 layers, 4 of 110, one of 1202. A replay costs the host some microseconds
# whatever is in it; not measured on a GPU yet.
LAYERS_PER_GRAPH = 440
MOST_PER_GRAPH = 20
AHEAD = 8  # Choice: calls of `advance` that may be queued: few enough to stop soon, so many that the device never waits
KINDS_OF_BLOCKS = 64  # compiled forms of a block's forward pass, over all networks of a process; torch's limit is 8


class Execution:
    """Does the updates and tests of a step whose state is loaded; `block` is the number of updates that pays best."""

    def __init__(self, step: TrainStep, config: RunConfig):
        self.step, self.config = step, config
        self.done = int(step.iteration)
        self.batch = config.train.mini_batch_size
        self.block = 1
        self.graphs: dict[int, tuple[Any, list[Tensor | None]]] = {}  # by their updates, with the last one's gradients
        self.blocks: list[Any] = []  # those that are compiled
        self.queued: deque[torch.cuda.Event] = deque()
        self.prepare()
        if step.world.size > 1 or config.engine is Engine.eager:
            return  # several processes talk in the middle of an update
        saved = tree_map_only(Tensor, torch.clone, step.state())
        if config.engine is Engine.compile:
            self.compile()
        if config.engine is Engine.graph or step.device.type == "cuda":
            self.capture()
        step.load_state(saved)
        self.prepare()
        step.model.zero_grad()

    @property
    def kind(self) -> str:
        """How updates are done: eager, compile, graph, or compile+graph."""
        return "+".join(["compile"] * bool(self.blocks) + ["graph"] * bool(self.graphs)) or "eager"

    def prepare(self, ahead: int = 0) -> None:
        """Prepare the mini-batches of the update that comes so many after the next one."""
        self.step.input.prepare((self.done + ahead) * self.batch)

    def advance(self, updates: int) -> None:
        """Do so many updates; on CUDA they are only queued, and the host waits when it is some calls ahead."""
        while updates > 0:
            count = self.block if updates >= self.block else 1
            self.prepare()
            if self.graphs:
                graph, gradients = self.graphs[count]
                graph.replay()
                for parameter, gradient in zip(self.step.model.parameters(), gradients, strict=True):
                    parameter.grad = gradient  # what others see are those of the graph that ran last
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
        with force_eager(bool(self.blocks)):
            return evaluate_together(self.step.model, self.step)

    def close(self) -> None:
        """Let go of graphs and compiled blocks; the model stays as it is."""
        self.graphs = {}
        for block in self.blocks:
            block._compiled_call_impl = None  # what Module.compile sets
        self.blocks = []

    def compile(self) -> None:
        """Compile the blocks of the network, each kind of block once, by one update."""
        self.blocks = [module for module in self.step.model.modules() if isinstance(module, (BasicBlock, Bottleneck))]
        with warnings.catch_warnings(), torch._dynamo.config.patch(recompile_limit=KINDS_OF_BLOCKS):
            warnings.simplefilter("ignore")  # of torch's own compiler
            for block in self.blocks:
                block.compile(dynamic=False)
            self.step()

    def capture(self) -> None:
        """Capture one update, and several. ConfigError without a CUDA device."""
        step = self.step
        if step.device.type != "cuda":
            raise ConfigError(f"engine={self.config.engine.name}: needs a CUDA device, this is {step.device.type}")
        layers = len(step.norms) or 1
        wanted = self.config.machine.steps_per_graph or min(MOST_PER_GRAPH, max(1, LAYERS_PER_GRAPH // layers))
        self.block = max(1, min(wanted, step.input.prepared_updates))
        stream, current = new_stream(step.device), torch.cuda.current_stream(step.device)
        # One pool for all: they never run at the same time, and the gradients of each are kept alive.
        place = {"stream": stream, "pool": torch.cuda.graph_pool_handle(), "capture_error_mode": "thread_local"}
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for ahead in range(WARM_UP):
                self.prepare(ahead)
                step()
            step.batch(step.iteration, self.block)  # what it loads must be there before the capture
        current.wait_stream(stream)
        for count in sorted({1, self.block}, reverse=True):
            graph = record(partial(step, count), place)
            self.graphs[count] = graph, [parameter.grad for parameter in step.model.parameters()]


def record(work: Callable[[], None], place: dict[str, Any]) -> torch.cuda.CUDAGraph:
    """The CUDA graph of some work."""
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, **place):
            work()
    finally:
        torch.cuda.set_stream(before)  # a capture that fails may leave its own stream behind
    return graph


def evaluate_together(model: torch.nn.Module, step: TrainStep) -> Outcome:
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
