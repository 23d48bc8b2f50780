"""torch's process-wide settings: consistent, as the run asks for them, and the caller's own again afterwards."""

import warnings

import pytest
import torch

from repro.config import compose
from repro.devices import resolve, restore_settings, set_tf32, set_up
from repro.errors import ConfigError
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


@pytest.mark.fault(57)
def test_a_network_can_be_exported_where_a_run_has_set_tf32():
    set_tf32(True)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own exporter
        assert torch.export.export(model.eval(), (torch.zeros(1, 3, 8, 8),)).graph


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


@pytest.mark.gpu
def test_a_warning_of_another_library_is_no_failure_of_a_gpu_test():
    """Runs without a GPU too: it is about how pytest treats tests of this mark."""
    warnings.warn("cuDNN has something to say", UserWarning, stacklevel=1)


def test_tf32_is_refused_where_auto_is_a_cpu(monkeypatch):
    monkeypatch.delenv("REPRO_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        resolve(compose(["experiment=cifar_resnet20", "machine.precision=tf32"]))
