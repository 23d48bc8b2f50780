"""The processes that train one network together, a device each: who they are, and what they tell each other.

Every process runs the same code on its share of each mini-batch. What has to be decided once (a folder, a record, when
to stop) is decided by process 0, the main one. One process alone is a world of size 1, in which nothing is sent.
"""

import atexit
import functools
import json
import logging
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from repro.config import difference, flat, to_dict
from repro.errors import ConfigError, LostProcessError, PeerError, ReproError
from repro.schema import Device, RunConfig

T = TypeVar("T")
AGREE_EVERY = 10  # Choice: updates between two agreements on a GPU, where one in each would keep the host waiting
LONG = timedelta(days=1)
LATE_SECONDS = 30.0  # Choice: how much later another process may start than one that fails at once
SLURM_PORTS = 20_000  # from here on: the port follows from the number of the job
CPU = torch.device("cpu")

_joined: list[str] = []  # the runs that this process has met the others for, or begun alone


@dataclass(frozen=True)
class World:
    """The processes that train together, as one of them sees it."""

    rank: int = 0
    size: int = 1
    names: tuple[str, ...] = ()  # of all processes, by rank: host and pid
    setup: Any = None  # the connection for what may take long, such as listing files: its timeout is a day

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and speaks."""
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
        if self.size > 1 and running_statistics(model):
            put_statistics(model, self.all_reduce_(flat_statistics(model)) / self.size)

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
        dist.broadcast_object_list(answer, group=self.setup, device=CPU)
        if answer[1] is not None:
            raise answer[1]
        return cast(T, answer[0])

    def agree(self, stop: bool, save: bool, done: int = 0, device: torch.device = CPU) -> tuple[bool, bool]:
        """After so many updates: whether any process wants to stop, and whether process 0 wants to save.

        Two times no where the processes do not ask each other after this update.
        """
        if self.size == 1:
            return stop, save
        if device.type != "cpu" and done % AGREE_EVERY:
            return False, False
        wishes = self.all_reduce_(torch.tensor([int(stop), int(save and self.is_main)]))
        return bool(wishes[0]), bool(wishes[1])

    @contextmanager
    def naming_lost_peer(self) -> Iterator[None]:
        """Around all that is sent and received: PeerError (1) if another process does not answer any more."""
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
                raise
            others = ", ".join(f"{rank} ({name})" for rank, name in enumerate(self.names) if rank != self.rank)
            raise PeerError(f"process {self.rank} of {self.size}: another process is gone or does not answer "
                            f"({first_line(error)})\nthe others are: {others}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def running_statistics(model: nn.Module) -> list[Tensor]:
    """The buffers of a model that hold averages."""
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


def flat_statistics(model: nn.Module) -> Tensor:
    """A copy of the running statistics of a model, which has some, as one tensor (N,)."""
    return torch.cat([buffer.flatten() for buffer in running_statistics(model)])


def put_statistics(model: nn.Module, flat: Tensor) -> None:
    """Replace the running statistics of a model by those that `flat_statistics` gave."""
    found = running_statistics(model)
    for buffer, part in zip(found, torch.split(flat, [b.numel() for b in found]), strict=True):
        buffer.copy_(part.reshape(buffer.shape))


def rank_from_environment() -> tuple[int, int, int] | None:
    """(rank, size, rank on this machine) that torchrun, our launcher or srun gave; None for a process by itself."""
    for names in (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")):
        texts = [os.environ.get(name, default) for name, default in zip(names, "010", strict=True)]
        said = ", ".join(f"{name}={text}" for name, text in zip(names, texts, strict=True))
        try:
            rank, size, local = map(int, texts)
        except ValueError as error:
            raise ConfigError(f"{said}: torchrun and srun set whole numbers here; unset them") from error
        if size > 1 and names[0] in os.environ:
            if rank in range(size) and local >= 0:
                return rank, size, local
            raise ConfigError(f"{said}: no such process")
    return None


def join(config: RunConfig) -> World:
    """Meet the other processes of a resolved configuration's run; a world of one where there are none.

    LostProcessError if they don't come within machine.timeout_seconds, ConfigError without a GPU for this process, or
    if the processes were not all asked for the same run.
    """
    _joined.append(config.name)
    if config.devices == 1 or (started := rank_from_environment()) is None:
        return World()
    rank, size, local = started
    if rank:
        logging.getLogger("repro").setLevel(logging.CRITICAL)  # process 0 speaks for all
    cuda = config.machine.device is Device.cuda
    if cuda:
        torch.cuda.set_device(own_gpu(local))
    asked, met = flat(to_dict(config)), dist.is_initialized()  # for an earlier run, as in a sweep
    if not met:
        timeout = timedelta(seconds=config.machine.timeout_seconds)
        try:
            store = meet(rank, size, timeout)
            check_same_request(exchange(store, rank, size, asked, timeout))
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timeout, rank=rank,
                                    world_size=size, store=store)
        except (RuntimeError, ValueError) as error:
            raise LostProcessError(f"process {rank} of {size}: no connection to the others within "
                                   f"{config.machine.timeout_seconds:g} s ({first_line(error)})") from error
        atexit.register(dist.destroy_process_group)
    world = World(rank, size, setup=dist.new_group(backend="gloo", timeout=LONG))
    with world.naming_lost_peer():
        if met:
            check_same_request(world.all_gather_object(asked))
        return replace(world, names=tuple(world.all_gather_object(f"{socket.gethostname()} pid {os.getpid()}")))


@functools.cache
def meet(rank: int, size: int, timeout: timedelta) -> Any:
    """The store of torch.distributed through which the processes of a run find each other."""
    if "RANK" not in os.environ:  # srun started us: all meet on the first host of the job
        hosts = os.environ.get("SLURM_STEP_NODELIST", os.environ.get("SLURM_JOB_NODELIST", "localhost"))
        number = int(os.environ.get("SLURM_JOB_ID", "0")) + 97 * int(os.environ.get("SLURM_STEP_ID", "0"))
        os.environ |= {"MASTER_ADDR": os.environ.get("MASTER_ADDR") or first_host(hosts),
                       "MASTER_PORT": os.environ.get("MASTER_PORT", str(SLURM_PORTS + number % 10_000)),
                       "RANK": str(rank), "WORLD_SIZE": str(size)}
    return next(rendezvous("env://", rank, size, timeout=timeout))[0]


def exchange(store: Any, rank: int, size: int, own: dict[str, Any], timeout: timedelta) -> list[dict[str, Any]]:
    """What each process says, by rank. TimeoutError if one of them says nothing.

    Nobody leaves before all have read it: the store may be one of them.
    """
    everyone = [f"asked/{other}" for other in range(size)]
    store.set(everyone[rank], json.dumps(own))
    store.wait(everyone, timeout)
    answers = [json.loads(store.get(key)) for key in everyone]
    store.set(f"read/{rank}", "")
    with suppress(RuntimeError):  # whose process has the store may have gone by now, since all have read it
        store.wait([f"read/{other}" for other in range(size)], timeout)
    return answers


def check_same_request(answers: list[dict[str, Any]]) -> None:
    """Raise the error that a process came with, or ConfigError with both values where two were asked for other runs."""
    for rank, answer in enumerate(answers):
        if "error" in answer:
            error = ReproError(f"process {rank} of {len(answers)}: {answer['error']}")
            error.exit_code = answer["exit_code"]
            raise error
    for rank, answer in enumerate(answers):
        if differing := difference(answers[0], answer):
            raise ConfigError("processes that train one network together were asked for different runs\n  "
                              + "\n  ".join(f"{key}: {first} in process 0, {own} in process {rank}"
                                            for key, (first, own) in sorted(differing.items()))
                              + "\ngive them the same, or devices=1 for a run each")


def tell_others(error: ReproError) -> None:
    """Tell those who wait for this process that it ends before it has met them; a while is waited for late ones."""
    started = rank_from_environment()
    if started is None or _joined or not isinstance(error, ConfigError):
        return
    (rank, size, _), timeout = started, timedelta(seconds=LATE_SECONDS)
    with suppress(RuntimeError, ValueError):  # they may have ended too, each for its own reason
        exchange(meet(rank, size, timeout), rank, size, {"error": str(error), "exit_code": error.exit_code}, timeout)


def own_gpu(local: int) -> int:
    """Which of the GPUs that this process sees is its own: srun may show each process its own one only."""
    found = torch.cuda.device_count()
    if local >= found and found != 1:
        raise ConfigError(f"{local + 1} processes on this machine, {found} GPUs found")
    return 0 if found == 1 and "SLURM_PROCID" in os.environ else local


def first_host(hosts: str) -> str:
    """The first of SLURM's hosts, which it writes as node[01-04,07]; ConfigError where nothing can tell."""
    if "[" not in hosts:
        return hosts.partition(",")[0]
    try:
        return subprocess.run(["scontrol", "show", "hostnames", hosts], capture_output=True, text=True,
                              check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise ConfigError(f"SLURM's hosts {hosts}: scontrol can't name the first one; set MASTER_ADDR") from error
