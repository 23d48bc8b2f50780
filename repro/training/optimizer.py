"""SGD with momentum in Caffe's form on top of torch's fused optimizer."""

import torch
from torch import Tensor, nn

from repro.schema import DecayOn, MomentumForm, TrainConfig


class MomentumSGD:
    """torch.optim.SGD(fused) whose learning rate is a tensor on the device and whose momentum may be Caffe's.

    Caffe (authors' README): v = m v + lr g, w = w - v. torch: b = m b + g, w = w - lr b. With v = lr b they are the
    same while lr stays; when lr changes, Caffe's v keeps its size, so b must be multiplied by old/new rate.
    Nesterov, as torch has it: w = w - lr (g + m b) with torch's b.
    All state lies in tensors that are updated in place.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, first_rate: float):
        parameters = list(model.parameters())
        device = parameters[0].device
        self.caffe = config.momentum_form is MomentumForm.caffe
        self.rate = torch.tensor(first_rate, dtype=torch.float32, device=device)
        self.skip = torch.zeros((), dtype=torch.float32, device=device)  # 1: leave weights and momentum as they are
        groups = [{"params": ps, "weight_decay": decay} for ps, decay in decay_groups(model, config) if ps]
        self.sgd = torch.optim.SGD(groups, lr=self.rate, momentum=config.momentum, fused=True,
                                   nesterov=config.momentum_form is MomentumForm.nesterov)
        for group in self.sgd.param_groups:
            group["lr"] = self.rate
        self.sgd.found_inf = self.skip  # type: ignore[attr-defined]  # read by the fused kernel
        self.momentum = [torch.zeros_like(p) for p in parameters]
        for parameter, buffer in zip(parameters, self.momentum, strict=True):
            self.sgd.state[parameter]["momentum_buffer"] = buffer

    @torch.no_grad()
    def update(self, rate: Tensor, skip: Tensor) -> None:
        """One update at this rate (() float32); none at all where `skip` (() bool) is true."""
        if self.caffe:
            torch._foreach_mul_(self.momentum, self.rate / rate)
        self.rate.copy_(rate)
        self.skip.copy_(skip)
        self.sgd.step()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self.sgd.zero_grad(set_to_none=True)


def decay_groups(model: nn.Module, config: TrainConfig) -> list[tuple[list[nn.Parameter], float]]:
    """Parameters with and without weight decay: all decay, or only convolution and fully-connected weights."""
    parameters = list(model.parameters())
    if config.weight_decay_on is DecayOn.all:
        return [(parameters, config.weight_decay)]
    return [([p for p in parameters if p.ndim > 1], config.weight_decay), ([p for p in parameters if p.ndim <= 1], 0.0)]
