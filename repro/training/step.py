"""One training step: batch, forward, loss, backward, update, counters, warm-up. Only device tensors, no host decision.

Everything that changes from step to step lies in tensors that are updated in place, so the same function runs eagerly
on any device, compiled, or captured in a CUDA graph (`repro.training.execution`).
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.sgd import sgd

from repro.devices import autocast, memory_format
from repro.schema import DecayOn, MomentumForm, Precision, RunConfig, TrainConfig, WarmUp
from repro.training.distributed import World, running_statistics
from repro.training.inputs import Data, input_of
from repro.training.schedule import Schedule

NEVER = 2**62  # the iteration of a drop that has not come


class TrainStep:
    """Calling it updates the model and the counters below, () tensors unless noted.

    Where several processes share the mini-batches, loss and errors are those of all of them, the same in each.
    """

    counters = ("iteration", "loss_sum", "error_count", "warming", "warmup_end", "window", "failed_at", "last_loss")

    def __init__(self, model: nn.Module, data: Data, config: RunConfig, schedule: Schedule, world: World | None = None):
        self.model, self.data, self.config, self.schedule = model, data, config, schedule
        self.norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
        self.device, self.world = data.mean.device, world or World()
        self.forward = model
        if self.world.size > 1:  # the backward pass averages the gradients; running statistics stay each one's own
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch 2.11 knows no newer name of broadcast_buffers
                self.forward = DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
        self.mini_batch_size = config.train.mini_batch_size
        self.share = self.world.share(self.mini_batch_size)
        self.input = input_of(data, config, self.share)
        self.rates = torch.tensor(schedule.rates, dtype=torch.float32, device=self.device)
        self.drops = torch.full((len(schedule.rates) - 1,), NEVER, device=self.device)
        self.follow(schedule)
        self.warmup_rate = torch.tensor(schedule.warmup_lr, dtype=torch.float32, device=self.device)
        self.warms_up = schedule.warmup is not WarmUp.none
        self.optimizer = MomentumSGD(model, config.train, schedule.rate(0, self.warms_up))
        self.memory_format = memory_format(config.machine)
        self.loss_scale = config.train.loss_scale if config.machine.precision is Precision.fp16 else 1.0
        self.iteration = torch.zeros((), dtype=torch.int64, device=self.device)  # updates done
        self.loss_sum = torch.zeros((), dtype=torch.float32, device=self.device)  # of mini-batches since `clear`
        self.error_count = torch.zeros_like(self.iteration)  # among their images
        self.warming = torch.full_like(self.iteration, int(self.warms_up))  # 0 or 1
        self.warmup_end = torch.full_like(self.iteration, -1)  # iteration at which the warm-up ended, -1 before
        self.window = torch.zeros(schedule.warmup_window, dtype=torch.int64, device=self.device)  # latest error counts
        self.slots = torch.arange(schedule.warmup_window, device=self.device)
        # First iteration whose loss or gradient was not finite, -1 if none; from there on no update is made.
        self.failed_at = torch.full_like(self.iteration, -1)
        self.last_loss = torch.zeros_like(self.loss_sum)  # the last finite one

    def __call__(self, count: int = 1) -> None:
        """`count` updates of prepared mini-batches, made at once: a captured graph then has less to launch."""
        images, labels = self.batch(self.iteration, count)
        for part in zip(images.chunk(count), labels.chunk(count), strict=True):
            self.update(*part)

    def batch(self, iteration: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
        """This process's part of `count` mini-batches from an iteration on: float32 (B, 3, H, W), int64 (B,)."""
        last = self.share.stop + (count - 1) * self.mini_batch_size
        places = torch.arange(self.share.start, last, device=self.device)
        images, labels = self.input.batch(iteration * self.mini_batch_size + places)
        return images.contiguous(memory_format=self.memory_format), labels

    def coming_batches(self, count: int) -> Iterator[Tensor]:
        """The images of the mini-batches that would be trained on next, augmented as in training."""
        for number in range(count):
            iteration = self.iteration + number
            self.input.prepare(int(iteration) * self.mini_batch_size)
            yield self.batch(iteration)[0]

    def update(self, images: Tensor, labels: Tensor) -> None:
        """One update by these images, float32 (B, 3, H, W), and labels, int64 (B,)."""
        with autocast(self.device, self.config.machine.precision), count_batches_once(self.norms):
            logits = self.forward(images)
        logits = logits.float()
        loss = F.cross_entropy(logits, labels)
        self.model.zero_grad()
        torch.autograd.backward(loss if self.loss_scale == 1.0 else loss * self.loss_scale)
        with torch.no_grad():
            self.apply(loss.detach(), (logits.argmax(1) != labels).sum())

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
        if self.warms_up:
            self.update_warmup(errors, good)

    def learning_rate(self) -> Tensor:
        """`Schedule.rate` on the device: () float32."""
        rate = self.rates.index_select(0, (self.iteration >= self.drops).sum().reshape(1)).reshape(())
        return torch.where(self.warming > 0, self.warmup_rate, rate) if self.warms_up else rate

    def update_warmup(self, errors: Tensor, good: Tensor) -> None:
        """End the warm-up for good once the error of the last mini-batches is below 80 % (Sec. 4.2), or at its cap."""
        schedule, size = self.schedule, len(self.window)
        latest = (self.slots == (self.iteration - 1) % size) & good
        torch.where(latest, errors, self.window, out=self.window)
        over = self.iteration >= schedule.warmup_max
        if schedule.warmup is WarmUp.error80:
            limit = schedule.warmup_error / 100 * size * self.mini_batch_size
            over = over | ((self.iteration >= size) & (self.window.sum() < limit))
        ended = over & (self.warming > 0) & good
        torch.where(ended, self.iteration, self.warmup_end, out=self.warmup_end)
        self.warming.mul_(~ended)

    def follow(self, schedule: Schedule) -> None:
        """Take over the drops of a schedule, which with lr_policy=plateau become known while the run goes on."""
        self.schedule = schedule
        for slot, iteration in enumerate(schedule.drops):
            self.drops[slot] = iteration

    def clear(self) -> None:
        """Start a new interval of the training loss and error."""
        self.loss_sum.zero_()
        self.error_count.zero_()

    def state(self) -> dict[str, Any]:
        """All that an exact resume needs, as tensors on this device."""
        own = {"model": self.model.state_dict(), "momentum": self.optimizer.momentum, "rate": self.optimizer.rate,
               "counters": {name: getattr(self, name) for name in self.counters}}
        statistics = running_statistics(self.model)
        if self.world.size > 1 and statistics:  # (processes, N): each has its own
            flat = torch.cat([buffer.flatten() for buffer in statistics])
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

    Caffe (authors' README): v = m v + lr g, w = w - v. torch: b = m b + g, w = w - lr b. With v = lr b they are the
    same while lr stays; when lr changes, Caffe's v keeps its size, so b must be multiplied by old/new rate.
    Nesterov, as torch has it: w = w - lr (g + m b) with torch's b.
    The update is called as a function: torch.optim.SGD imports torch's compiler first, 1.6 s of every start.
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
        for pairs, decay in self.groups:
            sgd([p for p, _ in pairs], [p.grad for p, _ in pairs if p.grad is not None], [b for _, b in pairs],
                fused=True, found_inf=self.skip, lr=self.rate, momentum=self.config.momentum, weight_decay=decay,
                dampening=0.0, nesterov=self.config.momentum_form is MomentumForm.nesterov, maximize=False)


@contextmanager
def count_batches_once(layers: Sequence[nn.BatchNorm2d]) -> Iterator[None]:
    """A forward pass whose batch normalizations do not each count it: it is counted for all of them in one call."""
    counts = [layer.num_batches_tracked for layer in layers]
    for layer in layers:
        layer.num_batches_tracked = None
    try:
        yield
    finally:
        for layer, count in zip(layers, counts, strict=True):
            layer.num_batches_tracked = count
    if counted := [count for count in counts if count is not None]:
        torch._foreach_add_(counted, 1)


def batch_norm_group(config: RunConfig, devices: int = 1) -> int:
    """Images of one process that share batch statistics, 0 where these are all that it has."""
    group = config.train.batch_norm_group
    return 0 if group >= config.train.mini_batch_size // devices else group


def sync_batch_norm(model: nn.Module, config: RunConfig, devices: int) -> nn.Module:
    """The model, with batch statistics over all processes where those of one have too few images for a group."""
    if config.train.batch_norm_group <= config.train.mini_batch_size // devices:
        return model
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return converted
