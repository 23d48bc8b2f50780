"""The processes that train one network together, a device each: who they are, and what they tell each other.

What has to be decided once (a folder, a record, when to stop) is decided by process 0, the main one. One process alone
is a world of size 1, in which nothing is sent.
"""

import atexit
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from repro.config import difference, flat, to_dict
from repro.errors import ConfigError, PeerError, ReproError
from repro.schema import Device, RunConfig

T = TypeVar("T")
AGREE_EVERY = 10  # Choice: updates between two agreements on a GPU, where one in each would keep the host waiting


@dataclass(frozen=True)
class World:
    """The processes that train together, as one of them sees it; process 0 (`is_main`) writes and speaks."""

    rank: int = 0
    size: int = 1
    setup: Any = None  # the connection for what may take long, such as listing files: its timeout is a day

    @property
    def is_main(self) -> bool:
        """Whether this is process 0."""
        return self.rank == 0

    def share(self, mini_batch_size: int) -> slice:
        """This process's part of a mini-batch; ConfigError if it can't be divided equally."""
        if mini_batch_size % self.size:
            raise ConfigError(f"train.mini_batch_size={mini_batch_size}: must be a multiple of devices={self.size}")
        length = mini_batch_size // self.size
        return slice(self.rank * length, (self.rank + 1) * length)

    def all_reduce_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all processes, and return it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def average_buffers(self, model: nn.Module) -> None:
        """Replace running statistics by their mean over all processes, each of which saw a part of every mini-batch."""
        for buffer in running_statistics(model) if self.size > 1 else []:
            self.all_reduce_(buffer).div_(self.size)

    def all_gather_object(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        found: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(found, value, group=self.setup)
        return found

    def from_main(self, work: Callable[[], T]) -> T:
        """What `work` returns in process 0, in every process; an error of ours that it raises is raised in all."""
        if self.size == 1:
            return work()
        answer: list[Any] = [None, None]
        if self.is_main:
            try:
                answer[0] = work()
            except ReproError as error:
                answer[1] = error
        dist.broadcast_object_list(answer, group=self.setup, device=torch.device("cpu"))
        if answer[1] is not None:
            raise answer[1]
        return cast(T, answer[0])

    def agree(self, stop: bool, save: bool, done: int, device: torch.device) -> tuple[bool, bool]:
        """After so many updates: whether any process wants to stop, and whether process 0 wants to save."""
        if self.size == 1:
            return stop, save
        if device.type != "cpu" and done % AGREE_EVERY:
            return False, False
        wishes = self.all_reduce_(torch.tensor([int(stop), int(save and self.is_main)]))
        return bool(wishes[0]), bool(wishes[1])


@contextmanager
def naming_lost_peer() -> Iterator[None]:
    """Around all that is sent and received: PeerError (1) if another process does not answer any more."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        raise PeerError(f"another process is gone or does not answer ({first_line(error)})") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def running_statistics(model: nn.Module) -> list[Tensor]:
    """The buffers of a model that hold averages."""
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


def rank_from_environment() -> tuple[int, int, int] | None:
    """(rank, size, rank on this machine) that torchrun, our launcher or srun gave; None for a process by itself."""
    for names in (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")):
        texts = [os.environ.get(name, default) for name, default in zip(names, "010", strict=True)]
        if names[0] in os.environ and all(text.isdecimal() for text in texts):
            rank, size, local = map(int, texts)
            if size > 1 and rank < size:
                return rank, size, local
    return None


def join(config: RunConfig) -> World:
    """Meet the other processes of a resolved configuration's run; a world of one where there are none.

    PeerError if they don't come within machine.timeout_seconds, ConfigError if they were asked for different runs.
    """
    if config.devices == 1 or (started := rank_from_environment()) is None:
        return World()
    rank, size, local = started
    if rank:
        logging.getLogger("repro").setLevel(logging.CRITICAL)  # process 0 speaks for all
    backend = "gloo"
    if config.machine.device is Device.cuda:
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(local % torch.cuda.device_count())  # srun may show each process its own GPU only
    with naming_lost_peer():
        if not dist.is_initialized():  # else for an earlier run, as in a sweep
            if "RANK" not in os.environ:
                set_meeting_point()
            dist.init_process_group(backend, timeout=timedelta(seconds=config.machine.timeout_seconds), rank=rank,
                                    world_size=size)
            atexit.register(dist.destroy_process_group)
        world = World(rank, size, dist.new_group(backend="gloo", timeout=timedelta(days=1)))
        first, *others = world.all_gather_object(flat(to_dict(config)))
    for other, asked in enumerate(others, 1):
        if differing := difference(first, asked):
            text = "; ".join(f"{key}: {one} and {two}" for key, (one, two) in sorted(differing.items()))
            raise ConfigError(f"processes 0 and {other} were asked for different runs ({text}); devices=1 trains one "
                              "in each")
    return world


def set_meeting_point() -> None:
    """Tell torch where the tasks of srun meet: on the first host of the job, at a port that follows from its number."""
    hosts = os.environ.get("SLURM_STEP_NODELIST", "localhost")
    if "[" in hosts:  # SLURM writes node[01-04,07]
        hosts = subprocess.run(["scontrol", "show", "hostnames", hosts], stdout=subprocess.PIPE, text=True,
                               check=True).stdout.replace("\n", ",")
    number = int(os.environ.get("SLURM_JOB_ID", "0")) + 97 * int(os.environ.get("SLURM_STEP_ID", "0"))
    os.environ.setdefault("MASTER_ADDR", hosts.partition(",")[0])
    os.environ.setdefault("MASTER_PORT", str(20_000 + number % 10_000))
