"""Whose images share batch statistics, where several processes do a mini-batch together."""

from torch import nn

from repro.errors import ConfigError
from repro.schema import Device, RunConfig
from repro.training.distributed import World


def batch_norm_group(config: RunConfig, devices: int = 1) -> int:
    """Images of one process that share batch statistics, 0 where these are all that it has."""
    own = config.train.mini_batch_size // devices
    group = config.train.batch_norm_group
    return 0 if group >= own else group


def check_shares(config: RunConfig, devices: int) -> None:
    """Raise ConfigError unless so many processes can share a resolved configuration's mini-batches and statistics."""
    batch, group = config.train.mini_batch_size, config.train.batch_norm_group
    own = World(size=devices).share(batch).stop
    if group <= own and own % group == 0:
        return
    have = f"train.batch_norm_group={group}: with devices={devices} each has {own} images of a mini-batch; "
    if group != batch:
        raise ConfigError(f"{have}allowed are its divisors, and all {batch}")
    if config.machine.device is not Device.cuda:
        raise ConfigError(f"{have}torch shares statistics between processes on GPUs only; "
                          f"train.batch_norm_group={own} is possible here")


def sync_batch_norm(model: nn.Module, config: RunConfig, devices: int) -> nn.Module:
    """The model, with batch statistics over all processes where those of one have too few images for a group."""
    if config.train.batch_norm_group <= config.train.mini_batch_size // devices:
        return model
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return converted
