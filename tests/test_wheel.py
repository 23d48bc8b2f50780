"""The wheel, installed beside this environment's packages: it finds its configurations and tables from any folder."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
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
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        points = archive.read(f"{info}/entry_points.txt").decode()
    ours = {f"repro/{p.relative_to(TREE).as_posix()}" for kind in ("conf", "experiments")
            for p in (TREE / kind).rglob("*.yaml")}
    assert ours
    assert ours <= names
    assert {f"repro/{p.relative_to(TREE / 'repro').as_posix()}" for p in (TREE / "repro").rglob("*.py")} <= names
    assert {name.split("/")[0] for name in names} == {"repro", info}
    assert not [name for name in names if name.endswith((".pt", ".pyc")) or "checkpoint-" in name]
    assert "repro = repro.cli:main" in points
    assert metadata["License-Expression"] == "MIT"
    assert f"{info}/licenses/LICENSE" in names
    assert metadata["Requires-Python"] == ">=3.11"
    assert any(line.startswith("torch>=2.11") for line in metadata.get_all("Requires-Dist"))


def test_it_is_the_wheel_that_runs_and_from_any_folder(installed, tmp_path):
    code = ("import json, repro, repro.paths as p\n"
            "from repro.config import compose, experiments\n"
            "config = compose(['experiment=cifar_resnet110', 'seed=2'])\n"
            "print(json.dumps({'file': repro.__file__, 'in_tree': p.in_tree(), 'conf': str(p.conf_dir()),\n"
            "    'results': str(p.results_dir()), 'data': str(p.data_dir()), 'depth': config.model.depth,\n"
            "    'experiments': experiments()}))\n")
    done = installed.run("python", "-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Path(found["file"]).is_relative_to(installed.root)
    assert Path(found["conf"]).is_relative_to(installed.root)
    assert not found["in_tree"]
    assert found["depth"] == 110
    assert len(found["experiments"]) == 22
    assert (found["results"], found["data"]) == (str(tmp_path / "results"), str(tmp_path / "data"))


@pytest.mark.fault(45)
def test_its_console_script_lists_and_writes_tables_into_the_current_folder(installed, tmp_path):
    listed = installed.run("repro", "list", folder=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "cifar_resnet1202" in listed.stdout
    assert "cifar_very_deep" in listed.stdout
    table = installed.run("repro", "table", "table6", folder=tmp_path)
    assert table.returncode == 0, table.stderr
    assert "8.75" in table.stdout
    assert (tmp_path / "results" / "tables" / "table6.md").read_text() == table.stdout.split("\nwritten: ")[0]
    only = installed.run("repro", "table", "table6", "--reference", folder=tmp_path)
    assert "written: results/tables/table6.md" in only.stdout, "and never into the package"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]


def test_its_tables_are_those_of_the_tree(installed, tmp_path):
    own = installed.run("repro", "table", "table6", "--json", folder=tmp_path)
    ours = subprocess.run([sys.executable, "-m", "repro", "table", "table6", "--json"], cwd=tmp_path,
                          env=os.environ | {"REPRO_RESULTS": str(tmp_path / "none")}, capture_output=True, text=True,
                          check=True)
    assert json.loads(own.stdout) == json.loads(ours.stdout)


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


def test_composing_misspelled_and_missing_data_answer_as_in_the_tree(installed, tmp_path):
    job = installed.run("repro", "run", "experiment=cifar_plain20", "--cfg", "job", folder=tmp_path)
    assert job.returncode == 0, job.stderr
    assert "family: plain" in job.stdout
    wrong = installed.run("repro", "run", "experiment=cifar_plain20", "train.lrr=1", folder=tmp_path)
    assert (wrong.returncode, "did you mean train.lr?" in wrong.stderr) == (2, True)
    missing = installed.run("repro", "data", "verify", folder=tmp_path)
    assert missing.returncode == 3
    assert str(tmp_path / "data") in missing.stderr
    publish = installed.run("repro", "publish", "cifar_plain20/seed0", folder=tmp_path)
    assert publish.returncode == 2
    assert "installed package" in publish.stderr
