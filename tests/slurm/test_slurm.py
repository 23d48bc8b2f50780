"""The job script under a real SLURM of two nodes on this machine: stopped jobs go on in the same folder."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from repro.paths import TREE
from repro.runs import Run, scan
from tests.made_cli import TINY

CLUSTER = TREE / "tests" / "slurm" / "cluster"
TEMPLATE = TREE / "experiments" / "slurm" / "run.sbatch"
RUN = (*TINY, "train.batch_norm_group=8", "train.iterations=40", "train.lr_drops=[20,30]")
MADE = f'exec "{sys.executable}" -m tests.slurm.braked_cli "$@"'  # `repro` on made-up data
PATIENCE = 120.0  # seconds for what takes some 10 on a machine without other work
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(any(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None
                           for name in ("slurmctld", "slurmd", "sbatch", "munged")),
                       reason="needs SLURM: tests/slurm/cluster install"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to start SLURM"),
]


@dataclass(frozen=True)
class Job:
    """A job of the cluster, submitted in a folder of its own."""

    number: str
    folder: Path
    environment: dict[str, str]

    def call(self, *words: str) -> str:
        """What a program of SLURM writes."""
        return subprocess.run(words, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=60,
                              check=True).stdout

    def facts(self) -> dict[str, str]:
        """What SLURM knows of it."""
        words = self.call("scontrol", "--oneliner", "show", "job", self.number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def output(self) -> str:
        """What it wrote in all of its sessions."""
        path = self.folder / f"repro-{self.number}.out"
        return path.read_text() if path.is_file() else ""

    def until(self, done: Callable[[], bool], what: str) -> None:
        """Wait until something has happened."""
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, f"{what}: not within {PATIENCE:g} s; {self.facts()}\n{self.output()}"
            time.sleep(0.1)

    def trains(self, restarts: int) -> bool:
        """Whether the session after so many restarts has come to its first test."""
        for run in (one for one in scan(self.folder / "results" / "runs") if one.record):
            session = run.record.sessions[-1]
            return session.slurm["restarts"] == restarts and any(
                row["iteration"] > session.from_iteration for row in run.history())
        return False

    def end(self) -> tuple[str, str, str]:
        """State, exit code and restarts, once it has ended."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
        self.until(lambda: self.facts()["JobState"] in over, f"job {self.number} ends")
        facts = self.facts()
        return facts["JobState"], facts["ExitCode"], facts["Restarts"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The path of a running cluster's slurm.conf."""
    started = subprocess.run([CLUSTER, "start"], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert started.returncode == 0, started.stderr
    conf = started.stdout.strip()
    yield conf
    subprocess.run([CLUSTER, "stop"], env=os.environ | {"SLURM_CONF": conf}, timeout=PATIENCE, check=True)
    assert not Path(conf).parent.exists()


@pytest.fixture
def submit(cluster, tmp_path) -> Callable[..., Job]:
    """submit(overrides, options, program) submits the job script, with that program in PATH as `repro`."""
    path = tmp_path / "bin" / "repro"
    path.parent.mkdir()
    path.touch(0o755)
    environment = os.environ | {"SLURM_CONF": cluster, "PATH": f"{path.parent}:{os.environ['PATH']}",
                                "PYTHONPATH": str(TREE), "OMP_NUM_THREADS": "1"}

    def call(*overrides: str, options: tuple[str, ...] = (), program: str = MADE) -> Job:
        path.write_text(f"#!/bin/sh\n{program}\n")
        done = subprocess.run(["sbatch", "--parsable", *options, TEMPLATE, *RUN, *overrides], env=environment,
                              cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return Job(done.stdout.strip(), tmp_path, environment)
    return call


def stop_in_turn(job: Job, *stops: tuple[str, ...]) -> Run:
    """Stop a job in the middle of its training by each of these commands in turn; the run that it goes on to finish.

    Asserts that it is one run with each iteration once, and that its sessions note how often the job was put back.
    """
    for restarts, words in enumerate(stops):
        job.until(lambda restarts=restarts: job.trains(restarts), f"training after {restarts} restarts")
        job.call(*words)
    assert job.end() == ("COMPLETED", "0:0", str(len(stops))), job.output()
    run, = scan(job.folder / "results" / "runs")
    assert run.finished
    assert [row["iteration"] for row in run.history()] == list(range(5, 41, 5))
    sessions = run.record.sessions
    assert [(session.slurm["job_id"], session.slurm["restarts"]) for session in sessions] == [
        (job.number, restarts) for restarts in range(len(stops) + 1)]
    ends = [0, *(session.to_iteration for session in sessions)]
    assert ends[:-1] == [session.from_iteration for session in sessions]
    assert sorted(set(ends)) == ends
    return run


@pytest.mark.fault(25)
def test_a_job_that_is_requeued_signalled_and_preempted_goes_on_as_if_left_alone(submit, here, tmp_path):
    """SIGUSR2 comes to the tasks by hand, as it does by --signal: the shortest time limit is a minute."""
    assert "--signal=USR2@120\n" in TEMPLATE.read_text()
    job = submit(options=("--nodelist=127.0.0.2", "--export=ALL,BRAKED=3"))
    run = stop_in_turn(job, ("scontrol", "requeue", job.number), ("scancel", "--signal=USR2", job.number),
                       ("sbatch", "--partition=urgent", "--exclusive", "--nodelist=127.0.0.2", "--output=urgent",
                        "--wrap=hostname"))
    assert here("run", *RUN, f"results={tmp_path / 'alone'}").code == 0
    alone, = scan(tmp_path / "alone" / "runs")
    assert run.history() == alone.history()
    assert all(f"stopped by {signal} at iteration" in job.output() for signal in ("SIGUSR2", "SIGTERM"))
    assert (job.folder / "urgent").read_text().strip(), "the job that needed the node has had it"


@pytest.mark.fault(25)
def test_two_nodes_train_one_network_and_come_back_together(submit):
    job = submit(options=("--nodes=2",))
    run = stop_in_turn(job, ("scancel", "--signal=USR2", job.number))
    assert [session.devices for session in run.record.sessions] == [2, 2]


def test_a_job_with_a_wrong_configuration_ends_and_does_not_come_back(submit):
    job = submit("train.lrr=1")
    assert job.end() == ("FAILED", "2:0", "0")
    assert "did you mean train.lr?" in job.output()


def test_a_run_that_is_stopped_again_and_again_does_not_come_back_for_ever(submit):
    """First by a signal that comes too early to be handled, then with the state saved."""
    job = submit(options=("--export=ALL,MAX_RESTARTS=1",),
                 program='[ -n "$SLURM_RESTART_COUNT" ] || kill -USR2 $$; exit 75')
    assert job.end() == ("FAILED", "75:0", "1")
    assert "stopped after 1 restarts" in job.output()


def test_a_task_that_parts_first_does_not_end_the_one_that_still_saves(submit):
    """The cluster's KillOnBadExit would have it so."""
    job = submit(options=("--nodes=2", "--export=ALL,MAX_RESTARTS=0"),
                 program='[ "$SLURM_PROCID" = 1 ] && exit 75; sleep 2; echo saved; exit 75')
    assert job.end() == ("FAILED", "75:0", "0")
    assert "saved" in job.output()
