"""One training step: batch, forward, loss, backward, update, counters, warm-up. Only device tensors, no host decision.

Everything that changes from step to step lies in tensors that are updated in place, so that the same function runs
operation by operation on any device or is replayed as a CUDA graph (`Execution`).
"""

import math
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.sgd import sgd
from torch.utils._pytree import tree_map_only

from repro.devices import autocast, memory_format
from repro.errors import ConfigError
from repro.evaluation.metrics import Outcome, evaluate_on
from repro.schema import DecayOn, Engine, MomentumForm, Precision, RunConfig, TrainConfig
from repro.training.distributed import World
from repro.training.inputs import Data, input_of
from repro.training.schedule import Schedule

NEVER = 2**62  # the iteration of a drop that has not come
WARM_UP = 3  # updates before a capture, as torch.cuda.graph asks for; their effect is undone
AHEAD = 8  # Choice: updates that may be queued: few enough to stop soon, so many that the device never waits


class TrainStep:
    """Calling it updates the model and the counters below, () tensors unless noted, the same in all processes."""

    counters = ("iteration", "loss_sum", "error_count", "warming", "warmup_end", "window", "failed_at", "last_loss")

    def __init__(self, model: nn.Module, data: Data, config: RunConfig, world: World | None = None):
        self.device, self.world = data.mean.device, world or World()
        if config.train.batch_norm_group > config.train.mini_batch_size // self.world.size:  # over all processes
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        self.model, self.data, self.config = model, data, config
        self.norms = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        self.batch_counts: list[Any] = [layer.num_batches_tracked for layer in self.norms]
        self.forward = model
        if self.world.size > 1:  # the backward pass averages the gradients; running statistics stay each one's own
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch 2.11 knows no newer name of broadcast_buffers
                self.forward = DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
        self.mini_batch_size = config.train.mini_batch_size
        share = self.world.share(self.mini_batch_size)
        self.places = torch.arange(share.start, share.stop, device=self.device)  # in every mini-batch
        self.input = input_of(data, config, share)
        self.schedule = schedule = Schedule(config)
        self.rates = torch.tensor(schedule.rates, dtype=torch.float32, device=self.device)
        self.drops = torch.full((len(schedule.rates) - 1,), NEVER, device=self.device)
        self.follow([])
        self.warmup_rate = torch.tensor(config.train.warmup_lr, dtype=torch.float32, device=self.device)
        self.optimizer = MomentumSGD(model, config.train, schedule.rate(0, schedule.warms_up))
        self.memory_format = memory_format(config.machine)
        self.loss_scale = config.train.loss_scale if config.machine.precision is Precision.fp16 else 1.0
        self.iteration = torch.zeros((), dtype=torch.int64, device=self.device)  # updates done
        self.loss_sum = torch.zeros((), dtype=torch.float32, device=self.device)  # of mini-batches since `clear`
        self.error_count = torch.zeros_like(self.iteration)  # among their images
        self.warming = torch.full_like(self.iteration, int(schedule.warms_up))  # 0 or 1
        self.warmup_end = torch.full_like(self.iteration, -1)  # iteration at which the warm-up ended, -1 before
        self.window = torch.zeros(schedule.warmup_window, dtype=torch.int64, device=self.device)  # latest error counts
        self.slots = torch.arange(schedule.warmup_window, device=self.device)
        # First iteration whose loss or gradient was not finite, -1 if none; from there on no update is made.
        self.failed_at = torch.full_like(self.iteration, -1)
        self.last_loss = torch.zeros_like(self.loss_sum)  # the last finite one

    def __call__(self) -> None:
        """One update by the mini-batch that is prepared."""
        images, labels = self.batch(self.iteration)
        for layer in self.norms:  # which would each count the batch: it is counted for all of them in one call
            layer.num_batches_tracked = None
        with autocast(self.device, self.config.machine.precision):
            logits = self.forward(images).float()
        for layer, count in zip(self.norms, self.batch_counts, strict=True):
            layer.num_batches_tracked = count
        loss = F.cross_entropy(logits, labels)
        self.model.zero_grad()
        torch.autograd.backward(loss if self.loss_scale == 1.0 else loss * self.loss_scale)
        with torch.no_grad():
            torch._foreach_add_(self.batch_counts, 1)
            self.apply(loss.detach(), (logits.argmax(1) != labels).sum())

    def batch(self, iteration: Tensor) -> tuple[Tensor, Tensor]:
        """This process's part of the mini-batch of an iteration: float32 (B, 3, H, W) and int64 (B,)."""
        images, labels = self.input.batch(iteration * self.mini_batch_size + self.places)
        return images.contiguous(memory_format=self.memory_format), labels

    def coming_batches(self, count: int) -> Iterator[Tensor]:
        """The images of the mini-batches that would be trained on next, augmented as in training."""
        for number in range(count):
            iteration = self.iteration + number
            self.input.prepare(int(iteration) * self.mini_batch_size)
            yield self.batch(iteration)[0]

    def apply(self, loss: Tensor, errors: Tensor) -> None:
        """Update weights and counters from the gradients; only failed_at if anything is not finite."""
        if self.world.size > 1:
            total = self.world.all_reduce_(torch.stack([loss, errors.float()]))  # counts below 2^24 are exact
            loss, errors = total[0] / self.world.size, total[1].long()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if self.loss_scale != 1.0:
            torch._foreach_mul_(gradients, 1.0 / self.loss_scale)
        norm = torch.nn.utils.get_total_norm(gradients)
        unfailed = self.failed_at < 0
        good = unfailed & (loss + norm < math.inf)  # neither is negative, and nothing compares with NaN
        torch.where(unfailed ^ good, self.iteration, self.failed_at, out=self.failed_at)
        self.optimizer.update(self.learning_rate(), good)
        torch.where(good, loss, self.last_loss, out=self.last_loss)
        self.loss_sum.add_(self.last_loss * good)
        self.error_count.add_(errors * good)
        self.iteration.add_(good)
        if self.schedule.warms_up:
            self.update_warmup(errors, good)

    def learning_rate(self) -> Tensor:
        """`Schedule.rate` on the device: () float32."""
        rate = self.rates.index_select(0, (self.iteration >= self.drops).sum().reshape(1)).reshape(())
        return torch.where(self.warming > 0, self.warmup_rate, rate) if self.schedule.warms_up else rate

    def update_warmup(self, errors: Tensor, good: Tensor) -> None:
        """End the warm-up for good once the error of the last mini-batches is below 80 % (Sec. 4.2), or at its cap."""
        size = len(self.window)
        latest = (self.slots == (self.iteration - 1) % size) & good
        torch.where(latest, errors, self.window, out=self.window)
        limit = self.config.train.warmup_error / 100 * size * self.mini_batch_size
        below = (self.iteration >= size) & (self.window.sum() < limit)
        ended = (below | (self.iteration >= self.schedule.warmup_max)) & (self.warming > 0) & good
        torch.where(ended, self.iteration, self.warmup_end, out=self.warmup_end)
        self.warming.mul_(~ended)

    def follow(self, errors: Iterable[tuple[int, float]]) -> None:
        """As of `Schedule`: with lr_policy=plateau the drops become known while the run goes on."""
        self.schedule.follow(errors)
        for slot, iteration in enumerate(self.schedule.drops):
            self.drops[slot] = iteration

    def evaluate(self, model: nn.Module) -> Outcome:
        """Test a network on all images that the run is evaluated on, by all of its processes together."""
        for buffer in running_statistics(model) if self.world.size > 1 else []:  # each saw a part of every mini-batch
            self.world.all_reduce_(buffer).div_(self.world.size)
        outcome = evaluate_on(model, self.data, self.config, self.world.rank, self.world.size)
        if self.world.size == 1:
            return outcome
        sums = [outcome.errors, outcome.images, outcome.top5_errors or 0, outcome.loss * outcome.images]
        total = self.world.all_reduce_(torch.tensor(sums, dtype=torch.float32, device=self.device))
        errors, images, top5_errors = total[:3].int().tolist()  # counts below 2^24 are exact
        return Outcome(errors, images, float(total[3]) / images, None if outcome.top5_errors is None else top5_errors)

    def clear(self) -> None:
        """Start a new interval of the training loss and error."""
        self.loss_sum.zero_()
        self.error_count.zero_()

    def state(self) -> dict[str, Any]:
        """All that an exact resume needs, as tensors on this device."""
        own = {"model": self.model.state_dict(), "momentum": self.optimizer.momentum, "rate": self.optimizer.rate,
               "counters": {name: getattr(self, name) for name in self.counters}}
        if self.world.size > 1:  # (processes, N): each has its own
            flat = torch.cat([buffer.flatten() for buffer in running_statistics(self.model)])
            parts = torch.zeros(self.world.size, len(flat), device=self.device)
            parts[self.world.rank] = flat
            own["statistics"] = self.world.all_reduce_(parts)
        return own

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Copy a saved state into the existing tensors, which a captured graph trains."""
        self.model.load_state_dict(state["model"])
        for own, saved in zip(self.optimizer.momentum, state["momentum"], strict=True):
            own.copy_(saved)
        self.optimizer.rate.copy_(state["rate"])
        for name in self.counters:
            getattr(self, name).copy_(state["counters"][name])
        if "statistics" in state:  # each process takes its own, the mean of all where there are more or fewer now
            parts = state["statistics"]
            flat = parts[self.world.rank] if len(parts) == self.world.size else parts.mean(0)
            buffers = running_statistics(self.model)
            for buffer, part in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
                buffer.copy_(part.reshape(buffer.shape))


class MomentumSGD:
    """torch's fused SGD with a learning rate that is a tensor on the device and a momentum that may be Caffe's.

    Caffe (authors' README): v = m v + lr g, w = w - v. torch: b = m b + g, w = w - lr b, Nesterov w = w - lr (g + m b).
    With v = lr b they are the same while lr stays; when it changes, Caffe's v keeps its size, so b takes old/new rate.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, first_rate: float):
        self.config, parameters = config, list(model.parameters())
        self.rate = torch.tensor(first_rate, dtype=torch.float32, device=parameters[0].device)
        self.skip = torch.zeros_like(self.rate)  # 1: leave weights and momentum as they are
        self.momentum = [torch.zeros_like(p) for p in parameters]
        pairs = list(zip(parameters, self.momentum, strict=True))
        self.groups = [(pairs, config.weight_decay)]
        if config.weight_decay_on is DecayOn.weights:  # of convolutions and the fully-connected layer
            self.groups = [([pair for pair in pairs if pair[0].ndim > 1], config.weight_decay),
                           ([pair for pair in pairs if pair[0].ndim <= 1], 0.0)]

    @torch.no_grad()
    def update(self, rate: Tensor, good: Tensor) -> None:
        """One update at this rate (() float32); none at all where `good` (() bool) is false."""
        if self.config.momentum_form is MomentumForm.caffe:
            torch._foreach_mul_(self.momentum, self.rate / rate)
        self.rate.copy_(rate)
        torch.logical_not(good, out=self.skip)
        for pairs, decay in self.groups:  # as a function: torch.optim.SGD imports the compiler first, which takes 1.6 s
            sgd([p for p, _ in pairs], [p.grad for p, _ in pairs if p.grad is not None], [b for _, b in pairs],
                fused=True, found_inf=self.skip, lr=self.rate, momentum=self.config.momentum, weight_decay=decay,
                dampening=0.0, nesterov=self.config.momentum_form is MomentumForm.nesterov, maximize=False)


class Execution:
    """The updates of a step whose state is loaded, operation by operation or as replays of a captured CUDA graph.

    A graph knows the tensors that were there when it was captured: whatever is loaded must be copied into them.
    """

    def __init__(self, step: TrainStep):
        self.step, self.kind = step, step.config.engine.name
        self.done, self.batch = int(step.iteration), step.mini_batch_size
        self.graph: torch.cuda.CUDAGraph | None = None
        self.queued: deque[torch.cuda.Event] = deque()
        if step.config.engine is Engine.graph:
            saved = tree_map_only(Tensor, torch.clone, step.state())
            self.capture()
            step.load_state(saved)

    def capture(self) -> None:
        """Capture an update in `graph`, after some that are made. ConfigError without a CUDA device."""
        step = self.step
        if step.device.type != "cuda":
            raise ConfigError(f"engine=graph: needs a CUDA device, this is {step.device.type}")
        stream = torch.cuda.Stream(step.device)  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream(step.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for ahead in range(WARM_UP):
                step.input.prepare((self.done + ahead) * self.batch)
                step()
        current.wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
                step()
        finally:
            torch.cuda.set_stream(current)  # a capture that fails may leave its own stream behind

    def advance(self, updates: int) -> None:
        """Do so many updates; on CUDA they are only queued, and the host waits when it is some calls ahead."""
        for _ in range(updates):
            self.step.input.prepare(self.done * self.batch)
            self.step() if self.graph is None else self.graph.replay()
            self.done += 1
        if self.step.device.type == "cuda":
            self.queued.append(torch.cuda.current_stream(self.step.device).record_event())
            if len(self.queued) > AHEAD:
                self.queued.popleft().synchronize()


def running_statistics(model: nn.Module) -> list[Tensor]:
    """The buffers of a model that hold averages."""
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


def batch_norm_group(config: RunConfig, devices: int = 1) -> int:
    """Images of one process that share batch statistics, 0 where these are all that it has."""
    group = config.train.batch_norm_group
    return 0 if group >= config.train.mini_batch_size // devices else group
