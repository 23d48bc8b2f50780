"""tools/borrowed_gpu rehearsed from packing to unpacking, on the CPU, in copies of this checkout.

In the copies the paper's schedule is 40 updates of 16 made-up images, so that `repro suite pending` itself can be run
to its end. Nothing else differs from what a borrowed machine gets.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from repro.paths import TREE

pytestmark = pytest.mark.skipif(not (TREE / ".git").exists() or sys.platform != "linux",
                                reason="packs a git checkout, with GNU tools")
TINY = {"mini_batch_size": "16", "iterations": "40", "lr_drops": "[20, 30]", "batch_norm_group": "16", "interval": "10",
        "batch_norm_images": "32", "gradient_iterations": "[1, 40]"}
MADE_UP = '''
from tests.made import tiny_data


def load_data(*_):
    return tiny_data()
'''
UNPACK = '''
import sys
from pathlib import Path
here, folder = Path(__file__).parent, Path(sys.argv[1]) / "cifar-10-batches-py"
content = [(here / name).read_bytes() for name in ("one.webp", "two.webp")]
folder.mkdir()
(folder / "data_batch_1").write_bytes(b"".join(content))
'''
RUNS = ("cifar_resnet20", "cifar_plain20", "cifar_resnet32")
WORDS = ("machine.device=cpu", "machine.threads=1", "machine.checkpoint_seconds=0")
LONG = 600  # seconds that a call is given, of which it takes a part


def git(folder, *words):
    return subprocess.run(["git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.invalid", "-C", folder,
                           *words], check=True, capture_output=True, text=True).stdout.strip()


def copy_tracked(source, target):
    for name in git(source, "ls-files", "-z").rstrip("\0").split("\0"):
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, target / name)


def environment(**more):
    return {name: value for name, value in os.environ.items() if not name.startswith("REPRO_")} | {
        "PYTHON": sys.executable, "NO_WHEELS": "1", "PART_MIB": "3", **more}


def prepare(home, *arguments):
    return subprocess.run(["bash", "tools/borrowed_gpu/prepare.sh", *map(str, arguments)], cwd=home,
                          env=environment(), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A checkout with the tiny schedule, committed; .gpu is what `prepare.sh` made, of images in two parts."""
    folder = tmp_path_factory.mktemp("borrowed") / "home"
    copy_tracked(TREE, folder)
    recipe = folder / "conf" / "dataset_recipe" / "cifar10.yaml"
    text = recipe.read_text()
    for key, value in TINY.items():
        text, count = re.subn(rf"(?m)^(  {key}: )(\[.*?\]|\S+)", rf"\g<1>{value}", text)
        assert count == 1, key
    recipe.write_text(text)
    train = folder / "repro" / "training" / "train.py"
    train.write_text(train.read_text() + MADE_UP)
    # the committed runs are of another schedule now, and `repro check` compares the tables
    subprocess.run([sys.executable, "-m", "repro", "table", "all", "--reference"], cwd=folder, env=environment(),
                   check=True, capture_output=True)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "tiny"]):
        git(folder, *words)
    images = folder.parent / "images"
    images.mkdir()
    (images / "unpack.py").write_text(UNPACK)
    for name in ("one.webp", "two.webp"):
        (images / name).write_bytes(os.urandom(2 << 20))
    done = prepare(folder, images)
    assert (done.returncode, "WARNING" in done.stdout) == (0, False), done.stderr
    return folder


class Machine:
    """A borrowed machine: gets the tracked files and the folders that are named, runs one script, gives back `out`."""

    def __init__(self, home, folder):
        self.home, self.folder = home, folder
        self.tree, self.out, self.keep = folder / "tree", folder / "out", folder / "keep"
        copy_tracked(home, self.tree)

    def begin(self, script, carried, words, **more):
        shutil.rmtree(self.tree / ".gpu", ignore_errors=True)
        for name in carried:
            shutil.copytree(self.home / ".gpu" / name, self.tree / ".gpu" / name)
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        variables = environment(OUT=str(self.out), KEEP=str(self.keep), EVERY="1", LEAST="20", OMP_NUM_THREADS="1",
                                PROCESSES="2", RUNS=",".join(RUNS), **more)
        return subprocess.Popen(["bash", f"tools/borrowed_gpu/{script}.sh", str(LONG), *words], cwd=self.tree,
                                env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                start_new_session=True)

    def call(self, *arguments, **more):
        process = self.begin(*arguments, **more)
        said, _ = process.communicate(timeout=2 * LONG)
        return process.returncode, said

    def came_back(self):
        return "".join(subprocess.run(["tar", "tf", file], capture_output=True, text=True, check=True).stdout
                       for file in self.out.glob("runs*.tar"))

    def records(self):
        results = self.folder / "came_back"
        for file in sorted(self.out.glob("runs*.tar")):
            results.mkdir(exist_ok=True)
            subprocess.run(["tar", "xf", file, "-C", results], check=True)
        return results, {path.parent.parent.name: json.loads(path.read_text())
                         for path in results.glob("runs/*/*/run.json")}


def wait_for(condition, process):
    while not condition():  # the call ends in the time that it was given
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def crashed(home, tmp_path_factory):
    """A machine after a whole loan: the check, a call whose images lack, one whose training process is killed."""
    machine = Machine(home, tmp_path_factory.mktemp("crashed"))
    machine.check = machine.call("check", ["code", "images1"],
                                 ["--nets", "8", "--quick", "machine.device=cpu", "train.mini_batch_size=16",
                                  "train.batch_norm_group=16"], WORKERS="1")
    machine.measured = sorted(path.name for path in machine.out.iterdir())
    machine.lacking = machine.call("train", ["code"], WORDS)
    process = machine.begin("train", ["code", "images2"], WORDS)
    run = machine.keep / "results" / "runs" / RUNS[1] / "seed0"
    wait_for(lambda: any(run.glob("checkpoint-*.json")), process)
    os.kill(json.loads((run / "run.lock").read_text())["pid"], signal.SIGKILL)
    said, _ = process.communicate(timeout=2 * LONG)
    machine.train = process.returncode, said
    return machine


@pytest.mark.slow
def test_a_loan_checks_measures_and_after_a_crash_trains_to_the_end(crashed, home):
    code, said = crashed.check
    assert code == 0, said
    commit = git(home, "rev-parse", "HEAD")
    assert f"commit {commit[:12]}, python " in said, "of a tree without .git, nothing changed"
    assert all(f"END {stage}: exit 0" in said for stage in ("check", "tests", "bench")), said
    assert re.search(r"\d+ skipped", said), "there is no GPU here"
    assert [name.partition(".")[2] for name in crashed.measured if name.startswith("bench_")] == ["json", "md"]
    assert "check.log" in crashed.measured
    code, said = crashed.lacking
    assert (code, "IMAGES MISSING" in said, "BEGIN training" in said) == (9, True, False), said
    code, said = crashed.train
    assert code == 0, said
    assert "ended early (137): what is left goes on" in said
    _, records = crashed.records()
    assert sorted(records) == sorted(RUNS), said
    for record in records.values():
        assert (record["status"], record["deviations"]) == ("finished", [])
        assert {(one["commit"], one["dirty"]) for one in record["sessions"]} == {(commit, False)}
    assert len(records[RUNS[1]]["sessions"]) == 2
    assert max(path.stat().st_size for path in crashed.out.iterdir()) < 16 << 20
    assert len(list(crashed.out.iterdir())) <= 8


@pytest.mark.slow
def test_what_is_cut_goes_on_on_the_next_machine_and_ends_bit_for_bit(crashed, home, tmp_path_factory):
    first = Machine(home, tmp_path_factory.mktemp("cut"))
    process = first.begin("train", ["code", "images1", "images2"], WORDS)
    wait_for(lambda: f"runs/{RUNS[1]}/seed0/checkpoint-" in first.came_back(), process)
    subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=True)  # all that the call has started
    process.communicate()
    results, records = first.records()
    assert records[RUNS[1]]["status"] != "finished"

    assert prepare(home, home.parent / "images", results).returncode == 0
    second = Machine(home, tmp_path_factory.mktemp("next"))
    code, said = second.call("train", ["code", "images1", "images2", "runs"], WORDS)
    assert code == 0, said
    again, records = second.records()
    for name in RUNS:
        left, right = (folder / "runs" / name / "seed0"
                       for folder in (crashed.records()[0], again if name in records else results))
        assert (left / "history.csv").read_bytes() == (right / "history.csv").read_bytes()
        left, right = (torch.load(folder / "weights.pt", weights_only=True) for folder in (left, right))
        assert all(torch.equal(left[key], right[key]) for key in left), name


def test_of_a_folder_of_data_sets_only_cifar10_travels(home, tmp_path):
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet" / "one.JPEG").write_bytes(b"large")
    nothing = prepare(home, tmp_path)
    assert (nothing.returncode, nothing.stderr) == (3, f"no CIFAR-10 in {tmp_path}: no cifar-10-batches-py/ "
                                                       "or unpack.py\n")
    assert (home / ".gpu" / "code").is_dir(), "what was packed before is still there"
    (tmp_path / "cifar-10-batches-py" / "deeper").mkdir(parents=True)
    (tmp_path / "cifar-10-batches-py" / "deeper" / "file").write_bytes(b"images")
    assert prepare(home, tmp_path).returncode == 0
    assert [str(path.relative_to(home / ".gpu")) for path in home.glob(".gpu/images*/**/*") if path.is_file()] == [
        "images1/cifar-10-batches-py/deeper/file"]
