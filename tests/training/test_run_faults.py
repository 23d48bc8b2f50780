"""A run meets a full disk, too little memory, a killed reader, a damaged history, signals, kills."""

import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from repro.config import compose
from repro.data import loader
from repro.errors import LostProcessError, OutOfMemoryError, StorageError
from repro.files import hold_lock
from repro.runs import read_run, run_folder, scan, write_record
from repro.training import checkpoint, log
from repro.training.step import Execution
from tests.made import run_config, tiny_config
from tests.made_cli import TINY
from tests.made_images import SMOKE, make_folder
from tests.outcome import Outcome, says
from tests.training.conftest import WORDS, same_end
from tests.warm import Command

CPU = torch.device("cpu")


@pytest.fixture
def small_disk(tmp_path):
    """`small_disk("2m")` is a folder on a disk of that size; a skip where the test may not mount one."""
    folder = tmp_path / "disk"

    def mount(size):
        folder.mkdir(parents=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a small disk can't be mounted here: {done.stderr.strip()}")
        return folder
    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


# ---- the disk


@pytest.mark.fault(18)
def test_a_full_disk_ends_with_5_and_the_checkpoint_before_goes_on_exactly(made_up, small_disk, stop_after, alone):
    disk = small_disk("4m")
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


@pytest.mark.fault(18, 69)
def test_a_disk_that_is_full_when_the_folder_is_locked_is_5_until_there_is_room(small_disk):
    folder = small_disk("64k") / "a" / "seed0"
    folder.mkdir(parents=True)
    with suppress(OSError), (folder.parent / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(StorageError, match=r"can't write .*run\.lock: No space left on device"), hold_lock(folder):
        pass
    (folder.parent / "ballast").unlink()
    with hold_lock(folder) as note:
        assert note is None


@pytest.mark.fault(19)
def test_a_history_that_can_not_be_written_saves_the_state_with_the_row(made_up, alone, monkeypatch, caplog):
    """The row that did not reach the disk is in the checkpoint, and the history goes on without a hole."""
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
    assert any("restored from the checkpoint" in line for line in caplog.messages)
    assert [row["iteration"] for row in run.history()] == [4, 8, 12, 16]
    assert same_end(run, alone)


@pytest.mark.fault(19)
@pytest.mark.parametrize("obstacle", ["full disk", "file"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboard_that_can_not_be_written_does_not_stop_training(obstacle, made_up, small_disk, caplog):
    config = tiny_config(*WORDS, "machine.tensorboard=true", "evaluation.interval=1")
    folder = run_folder(config)
    folder.mkdir(parents=True)
    if obstacle == "file":
        (folder / "tensorboard").write_text("in the way")
    else:
        disk = small_disk("64k")
        (folder / "tensorboard").symlink_to(disk)
        (disk / "ballast").write_bytes(bytes(64 * 1024))
    assert run_config(config).finished
    assert sum("TensorBoard" in message for message in caplog.messages) == 1


@pytest.mark.fault(40)
@pytest.mark.parametrize("damage", ["torn", "edited"])
def test_a_history_that_was_damaged_is_restored_from_the_checkpoint(made_up, alone, damage, stop_after, caplog):
    config = tiny_config(*WORDS)
    stop_after(config, 9)
    history = run_folder(config) / "history.csv"
    content = history.read_text()
    history.write_text(content[:-9] if damage == "torn" else content.replace("\n8,0.05,", "\n8,0.04,"))
    run = run_config(config)
    assert sum("history.csv was not as this run had written it" in line for line in caplog.messages) == 1
    assert same_end(run, alone)


@pytest.mark.fault(54)
def test_a_tensorboard_that_can_not_be_imported_is_told_and_does_without(made_up, tmp_path, monkeypatch, caplog):
    """As with a protobuf that is too new for it."""
    for name in [name for name in sys.modules if name.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tensorboard.py").write_text("raise TypeError('Descriptors cannot be created.\\nIf ...')")
    monkeypatch.syspath_prepend(str(tmp_path / "broken"))
    assert run_config(tiny_config(*WORDS, "machine.tensorboard=true")).finished
    assert caplog.text.count("no TensorBoard scalars from here on: TypeError: Descriptors cannot be created.\n") == 1


@pytest.mark.slow
@pytest.mark.fault(69)
def test_a_run_whose_folder_is_moved_ends_with_5_and_no_other_folder_appears(tmp_path):
    words = [*TINY, "train.iterations=100000", "train.lr_drops=[]", "evaluation.interval=100000",
             "machine.checkpoint_seconds=0"]
    process = Command("run", *words, cwd=tmp_path, env=os.environ | {"REPRO_RESULTS": str(tmp_path)}, made_data=True)
    while not (found := list(tmp_path.glob("runs/*/seed0/checkpoint-*.json"))) and process.poll() is None:
        time.sleep(0.05)
    folder, moved = found[0].parent, tmp_path / "moved"
    folder.rename(moved)
    _, text = process.communicate()
    says(Outcome(process.returncode, "", text), 5, str(folder.relative_to(tmp_path)), "go on with: repro")
    assert not folder.exists()
    assert checkpoint.load_newest(moved, CPU) is not None


# ---- memory


@pytest.mark.slow
@pytest.mark.fault(32)
def test_too_little_memory_is_8_and_the_record_says_so(tmp_path):
    def little():
        resource.setrlimit(resource.RLIMIT_AS, (5 << 30, 5 << 30))
    words = [*TINY, "train.mini_batch_size=10000", "train.batch_norm_group=10000", "model.blocks_per_stage=9",
             "train.iterations=2", "train.lr_drops=[]", "data=synthetic"]
    done = subprocess.run([sys.executable, "-m", "repro", "run", *words], preexec_fn=little, capture_output=True,
                          text=True, timeout=200, check=False,
                          env=os.environ | {"REPRO_RESULTS": str(tmp_path), "OMP_NUM_THREADS": "1"})
    assert (done.returncode, "Traceback" in done.stderr) == (8, False), done.stderr
    assert "no memory left on cpu for mini-batches of 10000" in done.stderr
    assert "machine.activation_checkpointing=true" in done.stderr
    run, = scan(tmp_path / "runs") or [None]
    assert run is None or not run.finished


@pytest.mark.fault(31)
def test_memory_that_runs_out_in_a_step_is_named_and_recorded(made_up, monkeypatch, stop_after, alone):
    config = tiny_config(*WORDS)
    stop_after(config, 5)

    def no_memory(execution, updates):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    with monkeypatch.context() as patch:
        patch.setattr(Execution, "advance", no_memory)
        with pytest.raises(OutOfMemoryError, match=r"Tried to allocate(.|\n)*machine.activation.*the same numbers"):
            run_config(config)
    run = read_run(run_folder(config))
    assert (run.status, run.finished) == ("out of memory", False)
    assert same_end(run_config(config), alone), "with more memory it goes on"


# ---- readers


@pytest.mark.slow
@pytest.mark.fault(33)
def test_a_reader_that_is_killed_ends_the_run_with_1_and_its_state_saved(tmp_path, monkeypatch):
    images = make_folder(tmp_path / "images")
    config = compose(["experiment=imagenet_optB", *SMOKE, f"data.root={images}", "machine.loader=processes",
                      "machine.workers=2", "train.iterations=6", "train.lr_drops=[]", "evaluation.interval=3",
                      "machine.checkpoint_seconds=1000", f"results={tmp_path / 'results'}"])
    original, calls = loader.together, iter(range(100))

    def together(items):
        if next(calls) == 2:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        return original(items)
    with monkeypatch.context() as patch:
        patch.setattr(loader, "together", together)
        with pytest.raises(LostProcessError, match=r"killed by signal 9(.|\n)*machine.workers=N(.|\n)*saved at iter"):
            run_config(config)
    done = run_config(config)
    assert done.finished
    assert done.record.sessions[1].from_iteration >= 2


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


@pytest.mark.fault(23)
def test_a_second_ctrl_c_stops_at_once_with_the_last_checkpoint_intact(tmp_path):
    words = [*TINY, "train.iterations=1000000", "train.lr_drops=[]", "evaluation.interval=1000000",
             "machine.checkpoint_seconds=0"]
    process = Command("run", *words, cwd=tmp_path, env=os.environ | {"REPRO_RESULTS": str(tmp_path)}, made_data=True)
    while len(list(tmp_path.glob("runs/*/seed0/checkpoint-*.json"))) < 2 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)  # so that both are there before the loop sees the first
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate()
    assert (process.returncode, "Traceback" in text) == (130, False)
    run, = scan(tmp_path / "runs")
    assert checkpoint.load_newest(run.folder, CPU) is not None


@pytest.mark.slow
@pytest.mark.fault(20, 21)
@pytest.mark.parametrize(("extra", "code", "words"), [
    (("--kills", "4"), 0, ("weights and history as of the run left alone", "resnet8: 4 kills", "runs lost: nothing")),
    (("--kills", "2", "--forget"), 1, ("DIFFER", "runs lost: 1"))], ids=["exact", "negative control"])
def test_a_run_that_is_killed_again_and_again_ends_like_one_left_alone(extra, code, words):
    done = subprocess.run([sys.executable, "-m", "tests.torture", "--short", "--seed", "1", *extra],
                          capture_output=True, text=True, timeout=300, check=False,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == code, done.stdout + done.stderr
    assert all(word in done.stdout for word in words), done.stdout


@pytest.mark.fault(76)
def test_a_run_that_goes_on_elsewhere_says_and_records_it(made_up, stop_after, caplog):
    config = tiny_config(*WORDS)
    stop_after(config, 9)
    record = read_run(run_folder(config)).record
    record.sessions[0].torch, record.sessions[0].device = "2.10.9", "another, 2 threads"
    write_record(run_folder(config), record)
    done = run_config(config)
    line, = (text for text in caplog.messages if "from here on" in text)
    assert "torch 2.10.9 until now" in line
    assert "device another, 2 threads until now" in line
    assert "not bit for bit" in line
    assert [session.torch for session in done.record.sessions] == ["2.10.9", record.environment.torch]
