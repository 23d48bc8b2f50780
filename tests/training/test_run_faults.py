"""A run meets a full disk, too little memory, a damaged history, signals, kills."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import torch

from repro.errors import ImageError, OutOfMemoryError, StorageError
from repro.files import write_json
from repro.runs import read_run, run_folder, scan
from repro.training import checkpoint, log, train
from repro.training.step import Execution
from tests.made import run_config, tiny_config
from tests.made_cli import TINY
from tests.outcome import Outcome, says
from tests.training.conftest import WORDS, same_end
from tests.warm import Command


@pytest.fixture
def disk(tmp_path):
    """A folder on a disk of 4 MiB; a skip where the test may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True,
                          text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk can't be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


# ---- the disk


@pytest.mark.fault(18)
def test_a_full_disk_ends_with_5_and_the_checkpoint_before_goes_on_exactly(made_up, disk, stop_after, alone):
    config = tiny_config(*WORDS, f"results={disk}", "machine.checkpoint_seconds=0")
    stop_after(config, 3)
    folder = run_folder(config)
    size = sum(path.stat().st_size for path in folder.glob("checkpoint-*"))
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free - size // 4))
    before = set(checkpoint.list_checkpoints(folder))
    with pytest.raises(StorageError, match=r"No space left on device \(\d+ bytes needed, \d+ free\)") as caught:
        run_config(config)
    assert caught.value.exit_code == 5
    assert "what was saved before stays; go on with: repro run" in str(caught.value)
    assert set(checkpoint.list_checkpoints(folder)) <= before
    assert not list(folder.glob(".*.part")), "nothing half-written takes room"
    assert len(list(folder.glob("checkpoint-*.pt"))) == len(list(folder.glob("checkpoint-*.json")))
    ballast.unlink()
    assert same_end(run_config(config), alone)


@pytest.mark.fault(19)
def test_a_history_that_can_not_be_written_saves_the_state_with_the_row(made_up, alone, monkeypatch, caplog):
    config, original = tiny_config(*WORDS), log.append_text

    def full(path, text):
        if text.startswith("8,"):
            with path.open("a") as file:
                file.write(text[: len(text) // 2])
            raise StorageError(f"can't write {path}: No space left on device")
        original(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(log, "append_text", full)
        with pytest.raises(StorageError, match="saved at iteration 8; go on with"):
            run_config(config)
    assert read_run(run_folder(config)).status == "interrupted"
    run = run_config(config)
    assert any("restored" in line for line in caplog.messages)
    assert [row["iteration"] for row in run.history()] == [4, 8, 12, 16]
    assert same_end(run, alone)


@pytest.mark.fault(19, 54)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("problem", ["full disk", "import"])
def test_a_tensorboard_that_can_not_be_written_or_imported_is_told_once(problem, made_up, request, tmp_path, caplog,
                                                                        monkeypatch):
    config = tiny_config(*WORDS, "machine.tensorboard=true", "evaluation.interval=1")
    if problem == "full disk":
        disk = request.getfixturevalue("disk")
        run_folder(config).mkdir(parents=True)
        (run_folder(config) / "tensorboard").symlink_to(disk)
        (disk / "ballast").write_bytes(bytes(4 << 20))
    else:  # as with a protobuf that is too new for it
        for name in [name for name in sys.modules if name.startswith(("tensorboard", "torch.utils.tensorboard"))]:
            monkeypatch.delitem(sys.modules, name)
        (tmp_path / "tensorboard.py").write_text("raise TypeError('Descriptors cannot be created.\\nIf ...')")
        monkeypatch.syspath_prepend(str(tmp_path))
    assert run_config(config).finished
    line, = (message for message in caplog.messages if "TensorBoard" in message)
    assert problem == "full disk" or line.endswith("from here on: TypeError: Descriptors cannot be created.")


@pytest.mark.fault(40)
def test_a_history_that_was_damaged_is_restored_from_the_checkpoint(made_up, alone, stop_after, caplog):
    config = tiny_config(*WORDS)
    stop_after(config, 9)
    history = run_folder(config) / "history.csv"
    history.write_text(history.read_text().replace("\n4,0.01,", "\n4,0.04,")[:-9])
    run = run_config(config)
    assert sum("history.csv was not as this run had written it" in line for line in caplog.messages) == 1
    assert same_end(run, alone)


@pytest.fixture
def long_run(tmp_path):
    """A process that trains for long; its folder has two checkpoints."""
    words = [*TINY, "train.iterations=1000000", "train.lr_drops=[]", "evaluation.interval=1000000",
             "machine.checkpoint_seconds=0"]
    process = Command("run", *words, cwd=tmp_path, env=os.environ | {"REPRO_RESULTS": str(tmp_path)}, made_data=True)
    while len(list(tmp_path.glob("runs/*/seed0/checkpoint-*.json"))) < 2 and process.poll() is None:
        time.sleep(0.05)
    return process, scan(tmp_path / "runs")[0].folder


@pytest.mark.slow
@pytest.mark.fault(69)
def test_a_run_whose_folder_is_moved_ends_with_5_and_no_other_folder_appears(long_run, tmp_path):
    (process, folder), moved = long_run, tmp_path / "moved"
    folder.rename(moved)
    _, text = process.communicate()
    says(Outcome(process.returncode, "", text), 5, str(folder.relative_to(tmp_path)), "go on with: repro")
    assert not folder.exists()
    assert checkpoint.load_newest(moved) is not None


@pytest.mark.fault(31, 32)
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_memory_that_runs_out_in_a_step_is_named_and_recorded(device, made_up, monkeypatch, stop_after, alone):
    config = tiny_config(*WORDS)
    stop_after(config, 5)

    def no_memory(*_):
        if device == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        torch.empty(1 << 50)
    with monkeypatch.context() as patch:
        patch.setattr(Execution, "advance", no_memory)
        with pytest.raises(OutOfMemoryError, match=r"mini-batches of 16: .*allocate(.|\n)*the same numbers") as caught:
            run_config(config)
    assert caught.value.exit_code == 8
    run = read_run(run_folder(config))
    assert (run.status, run.finished) == ("out of memory", False)
    assert same_end(run_config(config), alone), "with more memory it goes on"


# ---- signals and kills

@pytest.mark.fault(22, 23, 67)
def test_a_signal_while_torch_is_imported_is_one_message_and_the_code_that_goes_on(tmp_path):
    process = subprocess.Popen([sys.executable, "-m", "repro", "run", *TINY], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, env=os.environ | {"REPRO_RESULTS": str(tmp_path)})
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, text = process.communicate(timeout=240)
    assert (process.returncode, "Traceback" in text) == (75, False), text
    assert text.startswith("repro: stopped by SIGTERM")
    assert "go on with: repro run experiment=cifar_resnet20" in text


@pytest.mark.slow
@pytest.mark.fault(20, 21)
def test_a_run_that_is_killed_again_and_again_ends_like_one_left_alone():
    done = subprocess.run([sys.executable, "-m", "tests.torture", "--short", "--seed", "1", "--kills", "4"],
                          capture_output=True, text=True, timeout=1200, check=False,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resnet8: 4 kills" in done.stdout
    assert "as of the run left alone\n4 kills asked for; runs lost: nothing" in done.stdout


@pytest.mark.fault(76)
def test_a_run_that_goes_on_elsewhere_says_and_records_it(made_up, stop_after, caplog):
    config = tiny_config(*WORDS)
    stop_after(config, 9)
    record = read_run(run_folder(config)).record
    record.sessions[0].torch, record.sessions[0].device = "2.10.9", "another, 2 threads"
    write_json(run_folder(config) / "run.json", msgspec.to_builtins(record))
    done = run_config(config)
    line, = (text for text in caplog.messages if "from here on" in text)
    assert "torch 2.10.9 until now" in line
    assert "device another, 2 threads until now" in line
    assert "not bit for bit" in line
    assert [session.torch for session in done.record.sessions] == ["2.10.9", record.environment.torch]


def test_a_test_that_breaks_off_saves_no_state_without_its_row(made_up, alone, monkeypatch):
    config, original = tiny_config(*WORDS), train.evaluate

    def unreadable(execution):
        if execution.done == 8:
            raise ImageError("can't read n01440764/a.JPEG")
        return original(execution)

    with monkeypatch.context() as patch:
        patch.setattr(train, "evaluate", unreadable)
        with pytest.raises(ImageError, match="what was saved before stays; go on with"):
            run_config(config)
    assert same_end(run_config(config), alone)
