"""One training step: batch, forward, loss, backward, update, counters, warm-up. Only device tensors, no host decision.

Everything that changes from step to step lies in tensors that are updated in place, so the same function runs eagerly
on any device, compiled, or captured in a CUDA graph (`repro.training.execution`).
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.sgd import sgd

from repro.devices import autocast, memory_format
from repro.schema import DecayOn, MomentumForm, Precision, RunConfig, TrainConfig, WarmUp
from repro.training.distributed import World, flat_statistics, put_statistics, running_statistics
from repro.training.inputs import Data, input_of
from repro.training.schedule import NEVER, Schedule


class TrainStep:
    """Calling it updates the model and the counters below (all () tensors unless noted).

    iteration: updates done, int64. loss_sum (float32) and error_count (int64): over the mini-batches since they were
    last cleared. warming: int64 0/1. warmup_end: iteration at which the warm-up ended, -1 before, int64. window:
    (warmup_window,) int64 error counts of the last mini-batches. failed_at: first iteration whose loss or gradient was
    not finite, -1 if none, int64; from there on no update is made. bad_loss: that loss, float32. Where several
    processes share the mini-batches, loss and errors are those of all of them, and so the same in each.
    """

    counters = ("iteration", "loss_sum", "error_count", "warming", "warmup_end", "window", "failed_at", "bad_loss",
                "last_loss")

    def __init__(self, model: nn.Module, data: Data, config: RunConfig, schedule: Schedule, world: World | None = None):
        device = data.mean.device
        self.model, self.data, self.config, self.schedule = model, data, config, schedule
        self.norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
        self.device, self.world = device, world or World()
        self.forward = model if self.world.size == 1 else average_gradients(model)
        self.mini_batch_size = config.train.mini_batch_size
        share = self.world.share(self.mini_batch_size)
        self.input = input_of(data, config, share)
        self.offsets = torch.arange(self.mini_batch_size, device=device)[share]
        self.drops = torch.full((len(schedule.rates) - 1,), NEVER, dtype=torch.int64, device=device)
        self.follow(schedule)
        self.rates = torch.tensor(schedule.rates, dtype=torch.float32, device=device)
        self.warmup_rate = torch.tensor(schedule.warmup_lr, dtype=torch.float32, device=device)
        self.warms_up = schedule.warmup is not WarmUp.none
        self.optimizer = MomentumSGD(model, config.train, schedule.rate(0, self.warms_up))
        self.memory_format = memory_format(config.machine)
        self.loss_scale = config.train.loss_scale if config.machine.precision is Precision.fp16 else 1.0
        self.iteration = torch.zeros((), dtype=torch.int64, device=device)
        self.loss_sum = torch.zeros((), dtype=torch.float32, device=device)
        self.error_count = torch.zeros_like(self.iteration)
        self.warming = torch.full_like(self.iteration, int(self.warms_up))
        self.warmup_end = torch.full_like(self.iteration, -1)
        self.window = torch.zeros(schedule.warmup_window, dtype=torch.int64, device=device)
        self.slots = torch.arange(schedule.warmup_window, device=device)
        self.failed_at = torch.full_like(self.iteration, -1)
        self.bad_loss = torch.zeros_like(self.loss_sum)
        self.last_loss = torch.zeros_like(self.loss_sum)

    def __call__(self, count: int = 1) -> None:
        """`count` updates, whose mini-batches are made at once: a captured graph then has less to launch.

        `input.prepare(position)` must have been called for this iteration's position.
        """
        images, labels = self.batch(count=count)
        for part in zip(images.chunk(count), labels.chunk(count), strict=True):
            self.update(*part)

    def update(self, images: Tensor, labels: Tensor) -> None:
        """One update by these images, float32 (B, 3, H, W), and labels, int64 (B,)."""
        with autocast(self.device, self.config.machine.precision), count_batches_once(self.norms):
            logits = self.forward(images)
        logits = logits.float()
        loss = F.cross_entropy(logits, labels)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss if self.loss_scale == 1.0 else loss * self.loss_scale)
        with torch.no_grad():
            self.apply(loss.detach(), (logits.argmax(1) != labels).sum())

    def batch(self, iteration: Tensor | None = None, count: int = 1) -> tuple[Tensor, Tensor]:
        """This process's part of `count` mini-batches from this iteration, or another, on.

        float32 (count B, 3, H, W), int64 (count B,). After a failure `iteration` stands still while the order moves
        on; the batches are then any, and not used.
        """
        first = (self.iteration if iteration is None else iteration) * self.mini_batch_size
        position = first + (self.offsets if count == 1 else torch.cat(
            [self.offsets + number * self.mini_batch_size for number in range(count)]))
        images, labels = self.input.batch(position)
        return images.contiguous(memory_format=self.memory_format), labels

    def apply(self, loss: Tensor, errors: Tensor) -> None:
        """Update weights and counters from the gradients; only failed_at and bad_loss if anything is not finite.

        The running statistics of batch normalization have moved in the forward pass in either case.
        """
        if self.world.size > 1:
            total = self.world.all_reduce_(torch.stack([loss, errors.float()]))  # counts below 2^24 are exact
            loss, errors = total[0] / self.world.size, total[1].long()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if self.loss_scale != 1.0:
            torch._foreach_mul_(gradients, 1.0 / self.loss_scale)
        norm = torch.nn.utils.get_total_norm(gradients)
        unfailed = self.failed_at < 0
        good = unfailed & (loss + norm < math.inf)  # neither is negative, and nothing compares with NaN
        first = unfailed ^ good
        torch.where(first, loss, self.bad_loss, out=self.bad_loss)
        torch.where(first, self.iteration, self.failed_at, out=self.failed_at)
        self.optimizer.update(self.learning_rate(), good)
        torch.where(good, loss, self.last_loss, out=self.last_loss)
        self.loss_sum.add_(self.last_loss * good)
        self.error_count.add_(errors * good)
        self.iteration.add_(good)
        if self.warms_up:
            self.update_warmup(errors, good)

    def coming_batches(self, count: int) -> Iterator[Tensor]:
        """The images of the mini-batches that would be trained on next, augmented as in training."""
        for number in range(count):
            iteration = self.iteration + number
            self.input.prepare(int(iteration) * self.mini_batch_size)
            yield self.batch(iteration)[0]

    def learning_rate(self) -> Tensor:
        """`Schedule.rate` on the device: () float32."""
        rate = self.rates.index_select(0, (self.iteration >= self.drops).sum().reshape(1)).reshape(())
        return torch.where(self.warming > 0, self.warmup_rate, rate) if self.warms_up else rate

    def update_warmup(self, errors: Tensor, good: Tensor) -> None:
        """`Schedule.warmup_ends` on the device; once over, the warm-up never comes back."""
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

    def state(self) -> dict[str, object]:
        """All that an exact resume needs, as tensors on this device.

        `statistics` (processes, N) has the running statistics of each process, where there are several.
        """
        own: dict[str, object] = {
            "model": self.model.state_dict(), "momentum": self.optimizer.momentum, "rate": self.optimizer.rate,
            "counters": {name: getattr(self, name) for name in self.counters}}
        if self.world.size > 1 and running_statistics(self.model):
            flat = flat_statistics(self.model)
            parts = torch.zeros(self.world.size, len(flat), device=self.device)
            parts[self.world.rank] = flat
            own["statistics"] = self.world.all_reduce_(parts)
        return own

    @torch.no_grad()
    def load_state(self, state: dict[str, object]) -> None:
        """Copy a saved state into the existing tensors. ValueError if it is of another network."""
        model, momentum, counters = state["model"], state["momentum"], state["counters"]
        assert isinstance(model, dict)
        assert isinstance(momentum, list)
        assert isinstance(counters, dict)
        try:
            self.model.load_state_dict(model)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        for own, saved in zip(self.optimizer.momentum, momentum, strict=True):
            own.copy_(saved)
        self.optimizer.rate.copy_(state["rate"])  # type: ignore[arg-type]
        for name in self.counters:
            getattr(self, name).copy_(counters[name])
        if "statistics" in state:  # each process takes its own, the mean of all where there are more or fewer now
            parts = torch.stack([*state["statistics"]])  # type: ignore[misc]
            put_statistics(self.model, parts[self.world.rank] if len(parts) == self.world.size else parts.mean(0))


class MomentumSGD:
    """torch's fused SGD with a learning rate that is a tensor on the device and a momentum that may be Caffe's.

    Caffe (authors' README): v = m v + lr g, w = w - v. torch: b = m b + g, w = w - lr b. With v = lr b they are the
    same while lr stays; when lr changes, Caffe's v keeps its size, so b must be multiplied by old/new rate.
    Nesterov, as torch has it: w = w - lr (g + m b) with torch's b.
    All state lies in tensors that are updated in place. The update is called as a function: the class
    torch.optim.SGD would do the same, but imports torch's compiler first, 1.6 s of every start.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, first_rate: float):
        parameters = list(model.parameters())
        device = parameters[0].device
        self.caffe = config.momentum_form is MomentumForm.caffe
        self.rate = torch.tensor(first_rate, dtype=torch.float32, device=device)
        self.skip = torch.zeros((), dtype=torch.float32, device=device)  # 1: leave weights and momentum as they are
        self.parameters = parameters
        self.coefficient = config.momentum
        self.nesterov = config.momentum_form is MomentumForm.nesterov
        self.momentum = [torch.zeros_like(p) for p in parameters]
        buffers = dict(zip(parameters, self.momentum, strict=True))
        self.groups = [([(p, buffers[p]) for p in group], decay) for group, decay in decay_groups(model, config)]

    @torch.no_grad()
    def update(self, rate: Tensor, good: Tensor) -> None:
        """One update at this rate (() float32); none at all where `good` (() bool) is false."""
        if self.caffe:
            torch._foreach_mul_(self.momentum, self.rate / rate)
        self.rate.copy_(rate)
        torch.logical_not(good, out=self.skip)
        for pairs, decay in self.groups:
            trained = [(p, p.grad, buffer) for p, buffer in pairs if p.grad is not None]
            sgd([p for p, _, _ in trained], [gradient for _, gradient, _ in trained],
                [buffer for _, _, buffer in trained], fused=True, found_inf=self.skip, lr=self.rate,
                momentum=self.coefficient, weight_decay=decay, dampening=0.0, nesterov=self.nesterov, maximize=False)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters:
            parameter.grad = None


def decay_groups(model: nn.Module, config: TrainConfig) -> list[tuple[list[nn.Parameter], float]]:
    """Parameters with and without weight decay: all decay, or only convolution and fully-connected weights."""
    parameters = list(model.parameters())
    if config.weight_decay_on is DecayOn.all:
        return [(parameters, config.weight_decay)]
    return [([p for p in parameters if p.ndim > 1], config.weight_decay), ([p for p in parameters if p.ndim <= 1], 0.0)]


@contextmanager
def count_batches_once(layers: Sequence[nn.BatchNorm2d]) -> Iterator[None]:
    """A forward pass whose batch normalizations do not each count it: it is counted for all of them in one call.

    Those that span processes (SyncBatchNorm) are no BatchNorm2d and count for themselves.
    """
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


def average_gradients(model: nn.Module) -> nn.Module:
    """The model's forward pass, whose backward pass leaves the mean of the gradients over all processes.

    The running statistics stay each process's own (`World.average_buffers`).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer torch names the argument otherwise; 2.11 knows this name
        return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
