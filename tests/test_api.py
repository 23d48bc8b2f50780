"""The functions for notebooks: real calls on made-up data, nothing global left behind, no torch before it is needed."""

import ast
import inspect
import logging
import os
import re
import signal
import subprocess
import sys
import warnings

import pytest
import torch
import torch._inductor.utils  # sets filters of warnings when it is imported, by a first forward pass as well
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import repro
from repro.errors import ConfigError, StorageError
from repro.paths import TREE, conf_dir
from tests.evaluation.made import make_images, make_run
from tests.made_weights import akamaster_net, checkpoint, train_tiny

BLOCK = re.search(r"## From Python\n\n```python\n(.*?)```", (TREE / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def state():
    """What is global in a process."""
    backends = torch.backends
    return (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
            backends.cudnn.benchmark, backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32,
            [signal.getsignal(number) for number in range(1, signal.NSIG) if number not in (9, 19, 32, 33)],
            logging.root.handlers[:], logging.getLogger("repro").handlers[:], logging.getLogger("repro").level,
            list(warnings.filters), os.getcwd(), GlobalHydra.instance().is_initialized(), sys.stdout, sys.stderr)


@pytest.fixture
def nothing_changes():
    """A user's own Hydra, and a check at the end that all that is global is as it was."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        before = state()
        yield
        assert state() == before


def test_a_network_is_built_trained_weights_loaded_and_evaluated(monkeypatch, tmp_path, nothing_changes):
    run = train_tiny(monkeypatch)
    fresh = repro.build_model("cifar_resnet20", "model.depth=8")
    network = repro.load_model(run.name)
    assert not network.training
    assert not torch.equal(network.fc.weight, fresh.fc.weight)
    state_of_file = torch.load(run.folder / "weights.pt", weights_only=True)
    assert all(torch.equal(value, state_of_file[key]) for key, value in network.state_dict().items())
    wanted = run.record.result["test_top1_error"]
    for weights, *words in ((run.name,), (run.folder,), (network, "experiment=cifar_resnet20", "model.depth=8")):
        assert repro.evaluate(weights, *words)["test_top1_error"] == wanted
    assert [(row["iteration"], row["test_top1_error"]) for row in repro.read_run(run.name).history()] == [(4, wanted)]
    assert [one.name for one in repro.list_runs()] == [run.name]
    file = repro.import_weights(checkpoint(tmp_path / "net.th", akamaster_net(1).state_dict()), "akamaster")
    assert repro.load_model(file).stage1[0].conv1.weight.shape == (16, 16, 3, 3)
    assert repro.evaluate(file)["source"]["layout"] == "akamaster"


def test_imagenet_is_evaluated_by_each_protocol(tmp_path, nothing_changes):
    folder = make_run()
    root = f"data.root={make_images(tmp_path, 5)}"
    for protocol in ("center", "multi_scale"):
        assert repro.evaluate(folder, root, "machine.workers=2", protocol=protocol)["images"] == 5
    assert {path.suffix for path in (folder / "evaluations").iterdir()} >= {".json", ".npy"}


def test_errors_are_exceptions_and_tables_plain_data(tmp_path, nothing_changes):
    for call, error in ((lambda: repro.build_model("cifar_resnet2"), ConfigError),
                        (lambda: repro.load_model("cifar_resnet20/seed7"), ConfigError),
                        (lambda: repro.import_weights(tmp_path / "x.pt", "akamaster"), StorageError),
                        (lambda: repro.nothing, AttributeError)):
        with pytest.raises(error):
            call()
    rows = repro.table("table6")["rows"]
    assert next(row for row in rows if row["key"] == "resnet-20")["cells"]["test_top1_error"] == "8.75"


def test_torch_is_loaded_when_it_is_needed():
    code = ("import sys, repro; assert 'torch' not in sys.modules and 'hydra' not in sys.modules\n"
            "repro.list_runs(); repro.table('table6'); assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_readmes_calls_can_be_made():
    calls = [node for node in ast.walk(ast.parse(BLOCK[1])) if isinstance(node, ast.Call)
             and ast.unparse(node.func).startswith("repro.")]
    assert {ast.unparse(call.func).removeprefix("repro.") for call in calls} == set(repro.__all__) - {"list_runs"}
    for call in calls:
        function = getattr(repro, call.func.attr)
        inspect.signature(function).bind(*call.args, **{one.arg: one.value for one in call.keywords})
