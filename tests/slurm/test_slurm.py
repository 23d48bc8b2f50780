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

from repro.cli import main
from repro.paths import TREE
from repro.runs import Run, scan
from repro.training.step import Execution
from tests.made_cli import TINY, use_made_data

CLUSTER = TREE / "tests" / "slurm" / "cluster"
TEMPLATE = TREE / "experiments" / "slurm" / "run.sbatch"
RUN = (*TINY, "train.batch_norm_group=8", "train.iterations=40", "train.lr_drops=[20,30]")
MADE = f'exec "{sys.executable}" -m tests.slurm.test_slurm "$@"'
PATIENCE = 120.0  # seconds for what takes some 10 on a machine without other work
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(any(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None
                           for name in ("slurmctld", "slurmd", "sbatch", "munged")) or os.geteuid() != 0,
                       reason="needs SLURM (tests/slurm/cluster install) and root to start it"),
]


@dataclass(frozen=True)
class Job:
    number: str
    folder: Path
    environment: dict[str, str]

    def call(self, *words: str) -> str:
        return subprocess.run(words, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=60,
                              check=True).stdout

    def facts(self) -> dict[str, str]:
        words = self.call("scontrol", "--oneliner", "show", "job", self.number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def output(self) -> str:
        path = self.folder / f"repro-{self.number}.out"
        return path.read_text() if path.is_file() else ""

    def until(self, done: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, f"{what}: not within {PATIENCE:g} s; {self.facts()}\n{self.output()}"
            time.sleep(0.1)

    def trains(self, restarts: int) -> bool:
        for run in (one for one in scan(self.folder / "results" / "runs") if one.record):
            session = run.record.sessions[-1]
            return session.slurm["restarts"] == restarts and any(
                row["iteration"] > session.from_iteration for row in run.history())
        return False

    def end(self) -> tuple[str, str, str]:
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
        self.until(lambda: self.facts()["JobState"] in over, f"job {self.number} ends")
        facts = self.facts()
        return facts["JobState"], facts["ExitCode"], facts["Restarts"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
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
    """Stop a job in the middle of its training by each of these commands in turn; the run that it goes on to finish."""
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
    assert [session.from_iteration for session in sessions] == [0, *(one.to_iteration for one in sessions[:-1])]
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


@pytest.mark.fault(25)
def test_two_nodes_train_one_network_and_come_back_together(submit):
    job = submit(options=("--nodes=2",))
    run = stop_in_turn(job, ("scancel", "--signal=USR2", job.number))
    assert [session.devices for session in run.record.sessions] == [2, 2]


@pytest.mark.parametrize(("options", "program", "overrides", "end", "told"), [
    ((), MADE, ["train.lrr=1"], ("FAILED", "2:0", "0"), "did you mean train.lr?"),  # it does not come back
    # First a signal that comes too early to be handled, then with the state saved: not for ever.
    (("--export=ALL,MAX_RESTARTS=1",), '[ -n "$SLURM_RESTART_COUNT" ] || kill -USR2 $$; exit 75', [],
     ("FAILED", "75:0", "1"), "stopped after 1 restarts"),
    # A task that parts first does not end the one that still saves, as the cluster's KillOnBadExit would have it.
    (("--nodes=2", "--export=ALL,MAX_RESTARTS=0"), '[ "$SLURM_PROCID" = 1 ] && exit 75; sleep 2; echo saved; exit 75',
     [], ("FAILED", "75:0", "0"), "saved")])
def test_how_a_job_ends(options, program, overrides, end, told, submit):
    job = submit(*overrides, options=options, program=program)
    assert job.end() == end
    assert told in job.output()


if __name__ == "__main__":  # `repro` on made-up data; until the job has come back $BRAKED times (else once) it is slow
    use_made_data()
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) < int(os.environ.get("BRAKED", "1")):
        advance = Execution.advance

        def slowly(self: Execution, *updates: int) -> None:
            advance(self, *updates)
            time.sleep(0.2)
        Execution.advance = slowly
    sys.exit(main())
