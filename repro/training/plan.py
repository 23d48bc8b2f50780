"""A run before it begins: `plan` decides once what it is, and hands down its `Plan`; nobody asks again."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from repro.config import config_hash, deviations, paper_hashes
from repro.devices import find_device, resolve
from repro.errors import ConfigError
from repro.runs import run_folder, title
from repro.schema import Device, Precision, RunConfig
from repro.training.distributed import World, rank_from_environment


@dataclass(frozen=True)
class Plan:
    """All that is decided of a run before its processes start; they get it as it is."""

    config: RunConfig  # no `auto` left; `devices` is the number of processes
    config_hash: str
    folder: Path
    title: str
    devices: int
    deviations: tuple[str, ...]  # 'key: paper's value -> this value'
    any_paper_precision: bool  # a paper run whose precision was left open: fp32 or TF32
    advice: str  # the command that goes on, in words


def plan(config: RunConfig, command: Sequence[str] = ()) -> Plan:
    """What a configuration asks for on this machine; `command` is what a person typed, if anybody did."""
    devices = count_processes(config)
    resolved = resolve(replace(config, devices=devices))
    check_shares(resolved, devices)
    own = config_hash(resolved)
    # without resume=never, which would begin anew
    words = [word for word in [*command] or ["repro", "run", f"experiment={config.name}"]
             if not word.lstrip("+").startswith("resume=")]
    return Plan(resolved, own, run_folder(resolved, own), title(resolved), devices, tuple(deviations(resolved)),
                config.machine.precision is Precision.auto and own in paper_hashes(config.name),
                f"go on with: {shlex.join(words)}")


def check_shares(config: RunConfig, devices: int) -> None:
    """Raise ConfigError unless so many processes can share a resolved configuration's mini-batches and statistics."""
    batch, group = config.train.mini_batch_size, config.train.batch_norm_group
    own, cuda = World(size=devices).share(batch).stop, config.machine.device is Device.cuda
    if own % group and not (cuda and group == batch):  # torch shares statistics between processes on GPUs only
        raise ConfigError(f"train.batch_norm_group={group}: with devices={devices} each has {own} images of a "
                          f"mini-batch; allowed are its divisors{f', and all {batch}' if cuda else ''}")


def count_processes(config: RunConfig) -> int:
    """How many processes train a run together.

    devices=1 is one process by itself, whoever started it; None as many as were started, else one; -1 as many as were
    started, else one for each device of this machine.
    """
    asked = config.devices
    if asked != 1 and (started := rank_from_environment()) is not None:
        if asked not in (None, -1, started[1]):
            raise ConfigError(f"devices={asked}: this process was started as one of {started[1]}; leave devices out, "
                              "or devices=1 for a run of its own")
        return started[1]
    cuda = find_device(config.machine.device) is Device.cuda
    found = torch.cuda.device_count() if cuda else 1
    if cuda and asked is not None and asked > found:
        raise ConfigError(f"devices={asked}: {asked} asked, {found} found on this machine")
    return found if asked == -1 else asked or 1
