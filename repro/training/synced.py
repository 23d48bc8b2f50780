"""Whose images share batch statistics, where several processes do a mini-batch together."""

import torch.distributed as dist
from torch import nn

from repro.errors import ConfigError
from repro.schema import Device, RunConfig
from repro.training.distributed import World


def batch_norm_group(config: RunConfig, world: World | None = None) -> int:
    """Images of one process that share batch statistics, 0 where these are all that it has."""
    own = config.train.mini_batch_size // (world or World()).size
    group = config.train.batch_norm_group
    return 0 if group >= own else group


def synced(model: nn.Module, config: RunConfig, world: World) -> nn.Module:
    """The model with batch statistics over several processes, where `train.batch_norm_group` is more than one has.

    ConfigError where the groups and the processes' parts of a mini-batch do not fit, and on a CPU, where torch can't.
    """
    group, own = config.train.batch_norm_group, config.train.mini_batch_size // world.size
    world.share(config.train.mini_batch_size)
    if max(group, own) % min(group, own):
        raise ConfigError(f"train.batch_norm_group={group}: with devices={world.size} each has {own} images of a "
                          "mini-batch; one of the two must divide the other")
    if group <= own:
        return model
    if config.machine.device is not Device.cuda:
        raise ConfigError(f"train.batch_norm_group={group}: with devices={world.size} each has {own} images of a "
                          f"mini-batch, and torch shares statistics between processes on GPUs only; "
                          f"train.batch_norm_group={own} is possible here")
    members = group // own
    sets = [dist.new_group(list(range(first, first + members))) for first in range(0, world.size, members)]
    own_set = sets[world.rank // members]
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model, own_set)  # type: ignore[no-untyped-call]
    return converted
