"""Shared fixtures: made-up data sets, configurations, and the real CIFAR-10 where it lies on the machine."""

import copy
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from repro import config
from repro.paths import TREE
from tests.outcome import Outcome

SHARED = TREE.parent / "shared"
# Before torch is loaded: networks this small gain nothing by threads, and those of several workers stop each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Read at the first call of cuBLAS, which a test without machine.deterministic may make.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# nohup and `&` start a command that ignores Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    """No REPRO_* variable of the caller reaches a test, and results go to a temporary folder."""
    for name in [name for name in os.environ if name.startswith("REPRO_") and not name.startswith("REPRO_TEST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("REPRO_DEVICE", "cpu")


@pytest.fixture(scope="session", autouse=True)
def composed_once():
    """Hydra composes a configuration of conf/ once in a session: it takes 0.15 s, and many tests ask for the same."""
    composed, compose = {}, config.compose_node

    def cached(overrides=(), environment=True):
        if any("searchpath" in one for one in overrides) or config.conf_dir() != TREE / "conf":
            return compose(overrides, environment)
        key = (*overrides, *(config.environment_overrides() if environment else ["none"]))
        if key not in composed:
            composed[key] = compose(overrides, environment)
        return copy.deepcopy(composed[key])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "compose_node", cached)
        yield


@pytest.fixture
def repro(tmp_path):
    """Run the command line as a process: repro("run", ...) -> CompletedProcess."""
    from tests.warm import complete

    def call(*arguments, timeout=600, **environment):
        variables = {**os.environ, "REPRO_RESULTS": str(tmp_path / "results"), **environment}
        return complete(*arguments, timeout=timeout, env=variables, cwd=tmp_path)
    return call


@pytest.fixture
def direct(monkeypatch, capsys, tmp_path):
    """`direct("run", ...)` is the command line in this process: quick, because torch is there already."""
    import torch

    from repro.cli import main

    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()

    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = main(arguments)
        return Outcome(code, *capsys.readouterr())
    yield call
    torch.set_num_threads(threads)


@pytest.fixture
def here(direct, monkeypatch):
    """`direct` on made-up data."""
    from tests.made_cli import use_made_data

    use_made_data(monkeypatch.setattr)
    return direct


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Act without root's right to read and write everything; nothing changes for an ordinary user."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def as_user() -> Callable[[], object]:
    return ordinary_user


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder whose parents every user may enter, which is not so for tmp_path."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def real_cifar10(tmp_path_factory) -> Path:
    """A folder with the official CIFAR-10 files: $REPRO_TEST_CIFAR10 or unpacked from the shared data; else a skip."""
    if given := os.environ.get("REPRO_TEST_CIFAR10"):
        return Path(given)
    unpack = SHARED / "data" / "cifar10" / "unpack.py"
    if not unpack.is_file():
        pytest.skip("needs the real CIFAR-10: set REPRO_TEST_CIFAR10 to a folder with cifar-10-batches-py/")
    root = tmp_path_factory.getbasetemp().parent / "cifar10"
    with FileLock(root.with_suffix(".lock")):  # one unpacks for all workers
        subprocess.run([sys.executable, str(unpack), str(root)], check=True, capture_output=True)
    return root
