"""Batch-normalization statistics as the authors test with: plain averages over many training images."""

import copy
from collections.abc import Iterable

from torch import Tensor, nn
from torch.optim.swa_utils import update_bn


def with_averaged_statistics(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """A copy of the model whose running statistics are plain averages over these batches (authors' README).

    Each batch (N, 3, H, W) is normalized by its own statistics, as in training; means and unbiased variances are
    averaged with equal weights. The model itself is left as it is.
    """
    averaged = copy.deepcopy(model)
    averaged.zero_grad(set_to_none=True)
    update_bn(batches, averaged)
    return averaged
