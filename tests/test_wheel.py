"""The wheel, installed beside this environment's packages: it finds its configurations and tables from any folder."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import repro
from repro.paths import TREE
from repro.runs import scan

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], check=True,
                   capture_output=True, cwd=TREE)
    path, = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel):
    """`installed("repro", "status", folder=...)`: a program of an environment that has the wheel, without settings.

    It is installed with --no-deps; torch and the rest come from here by a .pth file.
    """
    root = wheel.parent / "venv"
    venv.create(root, with_pip=False)
    subprocess.run([sys.executable, "-m", "pip", "--python", str(root / "bin" / "python"), "install", "--no-deps",
                    "--no-index", "--disable-pip-version-check", "--no-cache-dir", str(wheel)], check=True,
                   capture_output=True)
    site, = root.glob("lib/python*/site-packages")
    (site / "this_environment.pth").write_text(sysconfig.get_path("purelib") + "\n")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("REPRO_", "PYTHON"))}

    def run(program: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([root / "bin" / program, *arguments], cwd=folder, env=kept, capture_output=True,
                              text=True, timeout=600, check=False)
    return run


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"resnet_repro-{repro.__version__}.dist-info"
    ours = {f"repro/{path.relative_to(TREE).as_posix()}" for kind in ("conf", "experiments")
            for path in (TREE / kind).rglob("*.yaml")}
    ours |= {path.relative_to(TREE).as_posix() for path in (TREE / "repro").rglob("*.py")}
    assert len(ours) > 50
    assert {*ours, f"{info}/licenses/LICENSE"} <= names
    assert {name.split("/")[0] for name in names} == {"repro", info}
    assert not [name for name in names if name.endswith((".pt", ".pyc"))]


def test_from_any_folder_it_composes_tells_faults_and_writes_into_that_folder(installed, wheel, tmp_path):
    where = installed("python", "-c", "import repro; print(repro.__file__)", folder=tmp_path)
    assert Path(where.stdout.strip()).is_relative_to(wheel.parent)
    for line, code, words in (("run experiment=cifar_plain20 --cfg job", 0, "family: plain"),
                              ("run experiment=cifar_plain20 train.lrr=1", 2, "did you mean train.lr?"),
                              ("data verify", 3, str(tmp_path / "data")),
                              ("publish cifar_plain20/seed0", 2, "installed package"),
                              ("status", 0, "cifar_resnet1202")):
        done = installed("repro", *line.split(), folder=tmp_path)
        assert (done.returncode, words in done.stdout + done.stderr) == (code, True), done.stderr
    own = installed("repro", "table", "table6", "--json", folder=tmp_path)
    ours = subprocess.run([sys.executable, "-m", "repro", "table", "table6", "--json"], cwd=tmp_path,
                          env=os.environ | {"REPRO_RESULTS": str(tmp_path / "none")}, capture_output=True, text=True,
                          check=True)
    assert json.loads(own.stdout) == json.loads(ours.stdout)
    assert [path.name for path in tmp_path.iterdir() if path.name != "none"] == ["results"]


@pytest.mark.fault(45)
def test_a_run_from_the_wheel_has_a_record_that_names_no_commit(installed, tmp_path):
    words = ["data.name=synthetic", "model.blocks_per_stage=1", "train.mini_batch_size=16", "train.batch_norm_group=16",
             "train.iterations=2", "train.lr_drops=[]", "evaluation.batch_norm_images=0", "evaluation.responses=false",
             "evaluation.gradient_iterations=[]", "machine.device=cpu", "machine.threads=1"]
    done = installed("repro", "run", "experiment=cifar_resnet20", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    run, = scan(tmp_path / "results" / "runs")
    assert run.finished
    session = run.record.sessions[0]
    assert (session.repro, session.commit, session.dirty) == (repro.__version__, None, None)
