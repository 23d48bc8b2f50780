"""`repro doctor` as a command: its lines, its exit code, and what it keeps out of them."""

import json
from pathlib import Path

import pytest

from repro import doctor
from repro.doctor import check, hardware, software
from repro.doctor.check import OK, Check
from tests.doctor.made import SAID


@pytest.fixture
def quick(monkeypatch):
    """No process for torch: it says what a list tells it."""
    said = dict(SAID)
    monkeypatch.setattr(software, "probe", lambda: (said, "the reason"))
    monkeypatch.setattr(hardware, "nvidia_smi", list)
    return said


def test_a_real_process_on_this_machine(repro, tmp_path):
    done = repro("doctor", "--json", OMP_NUM_THREADS="1", REPRO_DATA=str(tmp_path / "data"))
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(done.stdout)
    assert content["problems"] == 0
    assert content["notes"] == sum(one["status"] == "note" for one in content["checks"])
    checks = {one["check"]: one for one in content["checks"]}
    assert {"python", "packages", "repro", "torch", "torchvision", "device", "cpu", "memory", "results", "disk", "data",
            "environment"} == set(checks)
    assert "imports" in checks["torch"]["text"]
    assert "1 threads" in checks["cpu"]["text"]
    assert checks["data"]["next"].startswith("`repro data fetch cifar10`")
    assert [one["text"] for one in content["checks"] if one["check"] == "environment"] == [
        "REPRO_DATA=data", "REPRO_DEVICE=cpu", "REPRO_RESULTS=results", "OMP_NUM_THREADS=1",
        "CUBLAS_WORKSPACE_CONFIG=:4096:8"]
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"


def test_the_lines_and_the_exit_codes(direct, quick, monkeypatch, tmp_path):
    outcome = direct("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    *lines, last = outcome.out.splitlines()
    assert {line.split()[0] for line in lines} == {"ok", "note"}
    assert last == f"problems: 0, notes: {sum(line.startswith('note') for line in lines)}; runs can start"
    del quick["torchvision"], quick["devices"]
    outcome = direct("doctor")
    assert outcome.code == 2
    line, = (line for line in outcome.out.splitlines() if line.startswith("PROBLEM"))
    assert "torchvision  does not import: the reason; next: reinstall both from one place" in line
    assert outcome.out.splitlines()[-1].startswith("problems: 1, notes: ")
    assert "runs can start" not in outcome.out


# ---- names of persons and machines

def test_names_are_kept_out(monkeypatch):
    monkeypatch.setattr(check.Path, "home", lambda: Path("/home/alice"))
    monkeypatch.setattr(check.getpass, "getuser", lambda: "alice")
    monkeypatch.setattr(check.socket, "gethostname", lambda: "node17")
    said = Check("data", OK, "in /home/alice/data, /scratch/alice/x, /home/alice2, data.alice", "ssh node17 or node17b")
    assert said.anonymous() == Check("data", OK, "in ~/data, /scratch/USER/x, /home/alice2, data.alice",
                                     "ssh HOST or node17b")


def test_a_user_without_a_name_and_root_of_all(monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 4242")
    monkeypatch.setattr(check.getpass, "getuser", nobody)
    monkeypatch.setattr(check.Path, "home", lambda: Path("/"))
    monkeypatch.setattr(check.socket, "gethostname", lambda: "box")
    assert check.anonymous("/data/box is here") == "/data/box is here"


def test_everything_is_made_anonymous(quick, monkeypatch, tmp_path):
    monkeypatch.setattr(check.Path, "home", lambda: tmp_path)
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "data"))
    lines = "\n".join(one.line() for one in doctor.examine())
    assert "~/data" in lines
    assert str(tmp_path) not in lines
