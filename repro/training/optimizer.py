"""SGD with momentum in Caffe's form on top of torch's fused update."""

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from repro.schema import DecayOn, MomentumForm, TrainConfig


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
        self.apply()

    def apply(self) -> None:
        """torch's update with `rate` and `skip` as they are."""
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
