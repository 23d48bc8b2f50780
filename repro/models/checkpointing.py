"""Activation checkpointing: a stage keeps few activations and computes the others again in the backward pass."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from math import ceil, sqrt

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Stage(nn.Sequential):
    """Blocks one after the other, `(N, in, H, W) -> (N, out, H', W')`.

    With `checkpointing`, n blocks are cut into about sqrt(n) segments (Chen et al., arXiv 1604.06174): a forward pass
    that needs gradients keeps only each segment's input, and the backward pass computes one segment again at a time.
    Outputs, gradients and batch-normalization statistics are the same.
    """

    checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        if not self.checkpointing or not torch.is_grad_enabled():
            for block in self:
                x = block(x)
            return x
        for segment in self.segments():
            # No layer draws random numbers; their state could not be read while a CUDA graph is captured.
            x = checkpoint(segment, x, use_reentrant=False, preserve_rng_state=False,
                           context_fn=partial(contexts, segment))
        return x

    def segments(self) -> Iterator[nn.Sequential]:
        """The blocks in segments of equal length, the last one shorter where they don't divide."""
        length = ceil(sqrt(len(self)))
        for begin in range(0, len(self), length):
            yield nn.Sequential(*list(self)[begin : begin + length])


def contexts(segment: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What surrounds a segment's first forward pass, and what its second one."""
    return nullcontext(), statistics_untouched(segment)


@contextmanager
def statistics_untouched(module: nn.Module) -> Iterator[None]:
    """Batch normalization over the batch at hand that leaves its running statistics as they are."""
    found = [(layer, layer.momentum, layer.num_batches_tracked) for layer in module.modules()
             if isinstance(layer, nn.BatchNorm2d)]
    shared = [layer for layer in module.modules() if isinstance(layer, nn.SyncBatchNorm)]
    for layer, _, _ in found:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    for other in shared:
        other.track_running_stats = False
    try:
        yield
    finally:
        for layer, momentum, count in found:
            layer.momentum, layer.num_batches_tracked = momentum, count
        for other in shared:
            other.track_running_stats = True


def set_checkpointing(model: nn.Module, on: bool) -> None:
    """Turn activation checkpointing on or off in all stages of a network."""
    for module in model.modules():
        if isinstance(module, Stage):
            module.checkpointing = on
