"""torch's process-wide settings: as the run asks, and the caller's own again afterwards; and the code that computes."""

import subprocess

import pytest
import torch

from repro import devices
from repro.config import compose
from repro.devices import resolve, restore_settings, set_tf32, set_up
from repro.errors import ConfigError
from repro.files import file_sha256
from repro.schema import Precision
from tests.made import tiny_config, with_machine


def settings():
    return (torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision,
            torch.backends.cudnn.rnn.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision,
            torch.backends.cudnn.benchmark, torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())


@pytest.fixture(autouse=True)
def nothing_stays():
    before = settings()
    with restore_settings():
        yield
    assert settings() == before


@pytest.mark.parametrize("precision", [Precision.fp32, Precision.tf32, Precision.bf16])
def test_both_of_torchs_interfaces_say_the_same(precision):
    """Each getter of the older one raises where the newer one disagrees."""
    set_up(with_machine(tiny_config(), precision=precision))
    on = precision is Precision.tf32
    assert torch.backends.cuda.matmul.allow_tf32 is on
    assert torch.backends.cudnn.allow_tf32 is on
    assert torch.get_float32_matmul_precision() == ("high" if on else "highest")
    assert settings()[:3] == (("tf32",) * 3 if on else ("ieee",) * 3)


def older_settings():
    """What the older interface says, or that it can't."""
    found = []
    for read in (torch.get_float32_matmul_precision, lambda: torch.backends.cudnn.allow_tf32):
        try:
            found.append(read())
        except RuntimeError:
            found.append("mixed")
    return found


@pytest.mark.parametrize(("operation", "precision"), [
    (None, None), (torch.backends.cuda.matmul, "tf32"), (torch.backends.cudnn.conv, "ieee"),
    (torch.backends.mkldnn.matmul, "bf16")])
def test_settings_come_back_also_where_the_caller_set_the_newer_interface_alone(operation, precision):
    if operation is not None:
        operation.fp32_precision = precision
    before = settings(), older_settings()
    with restore_settings():
        set_tf32(True)
    assert (settings(), older_settings()) == before


@pytest.mark.fault(57)
def test_settings_come_back_after_an_error():
    torch.backends.cudnn.benchmark = True
    before = settings()
    changed = []
    with pytest.raises(ZeroDivisionError), restore_settings():
        changed.append((set_up(with_machine(tiny_config("machine.threads=1"), deterministic=True)), settings(), 1 / 0))
    assert settings() == before


def test_a_run_is_as_deterministic_as_it_asks():
    for on in (True, False):
        set_up(with_machine(tiny_config("machine.threads=1"), deterministic=on))
        assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == (on, not on)


def test_tf32_is_refused_where_auto_is_a_cpu(monkeypatch):
    monkeypatch.delenv("REPRO_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        resolve(compose(["experiment=cifar_resnet20", "machine.precision=tf32"]))


# ---- the code that computes

@pytest.fixture
def traveled(tmp_path, monkeypatch):
    """A tree without its repository, as it is packed: its files, and COMMIT beside them."""
    (tmp_path / "one.py").write_text("one = 1\n")
    (tmp_path / "a file.md").write_text("words\n")
    sums = "".join(f"{file_sha256(tmp_path / name)}  {name}\n" for name in ("one.py", "a file.md"))
    (tmp_path / "COMMIT").write_text(f"{'c0ffee12' * 5}\n{sums}")
    monkeypatch.setattr(devices, "TREE", tmp_path)
    monkeypatch.setattr(devices, "in_tree", lambda: True)
    return tmp_path


def code():
    found = devices.code_version()
    return found["commit"], found["dirty"]


@pytest.mark.parametrize(("change", "dirty"), [
    (lambda tree: (tree / "new.txt").write_text("git does not know it either"), False),
    (lambda tree: (tree / "a file.md").write_text("other\n"), True), (lambda tree: (tree / "one.py").unlink(), True)])
def test_a_tree_that_traveled_names_the_commit_that_was_packed_and_whether_it_was_changed(traveled, change, dirty):
    change(traveled)
    assert code() == ("c0ffee12" * 5, dirty)


def test_what_is_no_list_of_a_commit_says_nothing(traveled):
    for content in (b"", b"c0ffee\n", f"{'c0ffee12' * 5}\n".encode(), f"{'c0ffee12' * 5}\nno sum\n".encode(), b"\xff"):
        (traveled / "COMMIT").write_bytes(content)
        assert code() == (None, None)
    (traveled / "COMMIT").unlink()
    assert code() == (None, None)


@pytest.mark.fault(45)
def test_changes_are_recorded_and_the_commit_of_a_repository_around_the_tree_is_not_ours(traveled, monkeypatch):
    (traveled / "COMMIT").unlink()
    git = ["git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.invalid", "-C", str(traveled)]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    commit, dirty = code()
    assert (len(commit), dirty) == (40, False)
    (traveled / "a file.md").write_text("changed")
    assert code() == (commit, True)
    monkeypatch.setattr(devices, "TREE", traveled / "inner")
    (traveled / "inner").mkdir()
    assert code() == (None, None)
