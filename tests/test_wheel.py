"""The wheel, installed beside this environment's packages: it finds its configurations and tables from any folder."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

import repro
from repro.paths import TREE
from repro.runs import scan

pytestmark = pytest.mark.slow


class Installed(NamedTuple):
    """A virtual environment with the wheel in it."""

    wheel: Path
    root: Path

    @property
    def python(self) -> Path:
        return self.root / "bin" / "python"

    def run(self, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in a folder, without any REPRO_* or PYTHONPATH of ours."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("REPRO_", "PYTHON"))}
        return subprocess.run([self.root / "bin" / arguments[0], *arguments[1:]], cwd=folder, env=kept,
                              capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    """The wheel built from this tree and installed with --no-deps; torch and the rest come from here by a .pth file."""
    folder = tmp_path_factory.mktemp("wheel")
    quiet = {"check": True, "capture_output": True, "cwd": TREE}
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], **quiet)
    wheel, = folder.glob("*.whl")
    root = folder / "venv"
    venv.create(root, with_pip=False)
    subprocess.run([sys.executable, "-m", "pip", "--python", str(root / "bin" / "python"), "install", "--no-deps",
                    "--no-index", "--disable-pip-version-check", "--no-cache-dir", str(wheel)], **quiet)
    site, = root.glob("lib/python*/site-packages")
    (site / "this_environment.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(wheel, root)


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(installed):
    with zipfile.ZipFile(installed.wheel) as archive:
        names = set(archive.namelist())
    info = f"resnet_repro-{repro.__version__}.dist-info"
    ours = {f"repro/{path.relative_to(TREE).as_posix()}" for kind in ("conf", "experiments")
            for path in (TREE / kind).rglob("*.yaml")}
    ours |= {path.relative_to(TREE).as_posix() for path in (TREE / "repro").rglob("*.py")}
    assert len(ours) > 50
    assert {*ours, f"{info}/licenses/LICENSE"} <= names
    assert {name.split("/")[0] for name in names} == {"repro", info}
    assert not [name for name in names if name.endswith((".pt", ".pyc"))]


def test_from_any_folder_it_composes_tells_faults_and_writes_into_that_folder(installed, tmp_path):
    where = installed.run("python", "-c", "import repro; print(repro.__file__)", folder=tmp_path)
    assert Path(where.stdout.strip()).is_relative_to(installed.root)
    job = installed.run("repro", "run", "experiment=cifar_plain20", "--cfg", "job", folder=tmp_path)
    assert (job.returncode, "family: plain" in job.stdout) == (0, True), job.stderr
    wrong = installed.run("repro", "run", "experiment=cifar_plain20", "train.lrr=1", folder=tmp_path)
    assert (wrong.returncode, "did you mean train.lr?" in wrong.stderr) == (2, True)
    missing = installed.run("repro", "data", "verify", folder=tmp_path)
    assert (missing.returncode, str(tmp_path / "data") in missing.stderr) == (3, True)
    publish = installed.run("repro", "publish", "cifar_plain20/seed0", folder=tmp_path)
    assert (publish.returncode, "installed package" in publish.stderr) == (2, True)
    status = installed.run("repro", "status", folder=tmp_path)
    assert (status.returncode, "cifar_resnet1202" in status.stdout) == (0, True), status.stderr
    own = installed.run("repro", "table", "table6", "--json", folder=tmp_path)
    ours = subprocess.run([sys.executable, "-m", "repro", "table", "table6", "--json"], cwd=tmp_path,
                          env=os.environ | {"REPRO_RESULTS": str(tmp_path / "none")}, capture_output=True, text=True,
                          check=True)
    assert json.loads(own.stdout) == json.loads(ours.stdout)
    assert [path.name for path in tmp_path.iterdir() if path.name != "none"] == ["results"]


@pytest.mark.fault(45)
def test_a_run_from_the_wheel_has_a_record_that_names_no_commit(installed, tmp_path):
    done = installed.run("repro", "run", "experiment=cifar_resnet20", "data.name=synthetic", "model.blocks_per_stage=1",
                         "train.mini_batch_size=16", "train.batch_norm_group=16", "train.iterations=2",
                         "train.lr_drops=[]", "evaluation.batch_norm_images=0", "evaluation.responses=false",
                         "evaluation.gradient_iterations=[]", "machine.tensorboard=false", "machine.device=cpu",
                         "machine.threads=1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    run, = scan(tmp_path / "results" / "runs")
    assert run.finished
    session = run.record.sessions[0]
    assert (session.repro, session.commit, session.dirty) == (repro.__version__, None, None)
