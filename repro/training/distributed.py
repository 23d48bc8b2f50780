"""What a run is before it begins (`plan`), and the processes that train one network together, a device each."""

import atexit
import logging
import multiprocessing
import os
import re
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException, start_processes

from repro.config import config_hash, deviations, difference, flat, paper_hashes, to_dict
from repro.data.loader import cores_here
from repro.devices import find_device, resolve
from repro.errors import ConfigError, LostProcessError, PeerError, ReproError, Stopped
from repro.runs import Run, read_run, run_folder, title
from repro.schema import Device, Precision, RunConfig
from repro.stopping import SIGNALS, StopRequest, end_with_parent
from repro.streams import open_streams, show_messages

logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.CRITICAL)  # `failure` says which process and why
T = TypeVar("T")
AGREE_EVERY = 10  # Choice: updates between two agreements on a GPU, where one in each would keep the host waiting
GRACE = 30.0  # Choice: seconds for the others to end, and to save, before they are killed


# ---- before a run

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
    """How many processes train a run together: as many as were started; of one by itself, as `devices` says."""
    asked = config.devices  # -1: one for each device of this machine; 1: one by itself, whoever started it
    if asked != 1 and (started := rank_from_environment()) is not None:
        if asked not in (None, -1, started[1]):
            raise ConfigError(f"devices={asked}: this process was started as one of {started[1]}; leave devices out")
        return started[1]
    cuda = find_device(config.machine.device) is Device.cuda
    found = torch.cuda.device_count() if cuda else 1
    if cuda and asked is not None and asked > found:
        raise ConfigError(f"devices={asked}: {asked} asked, {found} found on this machine")
    return found if asked == -1 else asked or 1


# ---- among the processes

@dataclass(frozen=True)
class World:
    """The processes that train together, as one of them sees it. In a world of size 1 nothing is sent.

    Process 0 (`is_main`) writes, speaks, and decides what has to be decided once.
    """

    rank: int = 0
    size: int = 1
    setup: Any = None  # the connection for what may take long, such as listing files: its timeout is a day

    @property
    def is_main(self) -> bool:
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


def rank_from_environment() -> tuple[int, int, int] | None:
    """(rank, size, rank on this machine) that torchrun, our launcher or srun gave; None for a process by itself."""
    for names in (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")):
        rank, size, local = (int(os.environ.get(name, "0")) for name in names)
        if size > 1 and names[0] in os.environ:
            return rank, size, local
    return None


def join(config: RunConfig) -> World:
    """Meet the other processes of a run; PeerError if they don't come in time, ConfigError if theirs is another run."""
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
    hosts = os.environ.get("SLURM_STEP_NODELIST", "localhost")  # node[01-04,07],other
    os.environ.setdefault("MASTER_ADDR", re.sub(r"(\[\w+).*|,.*", r"\1", hosts).replace("[", ""))
    number = int(os.environ.get("SLURM_JOB_ID", "0")) + 97 * int(os.environ.get("SLURM_STEP_ID", "0"))
    os.environ.setdefault("MASTER_PORT", str(20_000 + number % 10_000))


# ---- their start

def launch(plan: Plan, train: Callable[[Plan, StopRequest], object]) -> Run:
    """Train a run by `devices` processes, which each call `train`; raises what one raises, or LostProcessError."""
    errors, forwarded = multiprocessing.get_context("spawn").SimpleQueue(), False
    with StopRequest() as stop:
        resource_tracker.ensure_running()  # its start unblocks signals
        before = dict(os.environ)
        os.environ["PYTHONSAFEPATH"] = "1"  # processes that start here import nothing of the current folder
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores_here() // plan.devices)))
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the processes can handle them
        try:
            context = start_processes(  # type: ignore[no-untyped-call]
                work, (plan, train, errors, free_port(), os.getpid()), plan.devices, join=False)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            os.environ.clear()
            os.environ.update(before)
        try:
            while not context.join(0.1, GRACE):
                if stop.received is not None and not forwarded:
                    forwarded = True
                    for pid in context.pids():
                        with suppress(ProcessLookupError):
                            os.kill(pid, stop.received)
        except ProcessException as error:
            answers = dict[int, ReproError]()
            while not errors.empty():
                rank, answers[rank] = errors.get()
            raise failure(plan, error, answers) from error
        finally:
            for process in context.processes:
                process.kill()
        if stop.received is not None:
            raise Stopped(f"stopped by {stop.reason}; the run had just finished", stop.exit_code)
    return read_run(plan.folder)


def work(rank: int, plan: Plan, train: Callable[[Plan, StopRequest], object], errors: Any, port: int,
         parent: int) -> None:
    """One of the processes: it sends its error to the launcher; only the first one's output is shown."""
    os.setsid()  # Ctrl-C reaches the launcher alone, which forwards it
    end_with_parent(parent, signal.SIGTERM)
    if rank:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    open_streams()
    size = str(plan.devices)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": size, "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": size,
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")  # all are on this machine
    try:
        with show_messages(), StopRequest(plan.config.max_seconds) as stop:
            train(plan, stop)
    except Exception as error:
        errors.put((rank, error if isinstance(error, ReproError) else LostProcessError(
            f"{plan.title}: process {rank} of {plan.devices} failed: {type(error).__name__}: {error}\n{plan.advice}")))
        raise


def failure(plan: Plan, error: ProcessException, answers: dict[int, ReproError]) -> ReproError:
    """What to raise when a process has failed: what one has told, else which one died or did not answer."""
    for _, answer in sorted(answers.items()):
        if not isinstance(answer, PeerError):
            return answer
    text = str(error)  # torch's: "process 1 terminated with signal SIGKILL"
    if error.error_index in answers:  # it waited in vain
        lost = next((rank for rank in range(plan.devices) if rank not in answers), error.error_index)
        text = f"process {lost} did not answer for {plan.config.machine.timeout_seconds:g} s"
    return LostProcessError(f"{plan.title}: {text}; the others were stopped\n{plan.advice}")


def free_port() -> int:
    """A port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
